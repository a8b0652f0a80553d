package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ferrymq/ferry/internal/vfs"
)

// The queues of a crowd: short drops its first messages, leaving dead-letters them,
// and full and handing refuse new ones, handing with a dead letter. roomy has what full
// has been sent.
const crowdLength = 3

// A guest is a message that was published to one of them. Times are as in a note.
type guest struct {
	text, queue   string
	begun, sure   int  // when it was published, and known to be taken
	refused       bool // instead
	partly        bool // or another one of its transaction
	acking, acked int  // when it was about to be settled, and when that was durable
}

// A crowd is a story of queues that are full.
type crowd struct {
	story
	guests []*guest
}

// crowdQueues are the queues, each with where its messages may be too.
var crowdQueues = map[string]string{"short": "", "leaving": "left", "full": "", "handing": "handed", "roomy": ""}

func (s *crowd) tellCrowd(rounds int) {
	c := s.confirming()
	for _, q := range []string{"left", "handed", "roomy"} {
		s.declare(c, q)
	}
	limit := func(queue string, a args) {
		a["x-max-length"] = crowdLength
		c.declare(queue, a)
	}
	limit("short", args{})
	limit("leaving", args{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "left"})
	limit("full", args{"x-overflow": "reject-publish"})
	limit("handing", args{"x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "handed"})
	for _, q := range []string{"full", "roomy"} {
		c.must(c.BindQueue(q, "amq.fanout", "", nil))
	}
	number := 0
	send := func(ch *Channel, queue string) *guest {
		number++
		size := 40
		if number%11 == 5 {
			size = 1500 // in parts
		}
		g := &guest{text: noteText(number, size), queue: queue, begun: s.now(), sure: never, acking: never, acked: never}
		p := &Publish{Key: []byte(queue), Persistent: true, Body: []byte(g.text)}
		s.guests = append(s.guests, g)
		if queue == "full" {
			p.Exchange, p.Key = []byte("amq.fanout"), nil
			s.guests = append(s.guests, &guest{text: g.text, queue: "roomy", begun: g.begun, sure: never, acking: never, acked: never})
		}
		c.must(ch.Publish(p))
		return g
	}
	for round := range rounds {
		for _, q := range []string{"short", "leaving", "full", "handing"} {
			if round%4 == 3 { // in a transaction
				tx := s.client()
				c.must(tx.ch.TxSelect())
				sent := []*guest{send(tx.ch, q), send(tx.ch, q)}
				err := tx.ch.TxCommit()
				if err != nil && kind(err) != PreconditionFailed {
					s.t.Fatal(err)
				}
				for _, g := range sent {
					g.partly = err != nil
					if err == nil {
						g.sure = s.now()
					}
				}
				tx.Close()
				continue
			}
			first := c.ch.published
			sent := []*guest{send(c.ch, q), send(c.ch, q)}
			c.Flush()
			refused := c.refusals(first, len(sent))
			for i, g := range sent {
				if g.refused = slices.Contains(refused, uint64(i+1)); !g.refused {
					g.sure = s.now()
				}
			}
			if round%3 == 0 {
				continue
			}
			e := c.fetch(q)
			for _, g := range s.guests {
				if g.text == body(e) && g.queue == q {
					g.acking = s.now()
					c.must(c.ch.Ack(e.Tag, false))
					c.must(s.b.flushLog())
					g.acked = s.now()
				}
			}
		}
	}
	c.Close()
	s.stop()
}

// checkCrowd looks where the messages are after a crash.
func (s *crowd) checkCrowd(w *world, at int) error {
	c := w.client()
	defer c.Close()
	for q := range crowdQueues {
		if q := w.b.vhost("/").queues[q]; q != nil {
			if _, err := w.b.awaitMoves(q); err != nil {
				return err
			}
		}
	}
	all := map[string][]string{}
	for q := range w.b.vhost("/").queues {
		for {
			ok, err := c.ch.Get(q, false)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			all[q] = append(all[q], body(c.next(EventGot)))
		}
	}
	var err error
	later := map[string]int{} // of those that may have pushed one out of its queue
	for _, g := range slices.Backward(s.guests) {
		here, there := 0, 0
		for _, text := range all[g.queue] {
			if text == g.text {
				here++
			}
		}
		for _, text := range all[crowdQueues[g.queue]] {
			if text == g.text {
				there++
			}
		}
		stays := g.queue == "leaving" || g.queue == "full" || g.queue == "handing" || later[g.queue] < crowdLength
		switch {
		case here+there > 1:
			err = fmt.Errorf("it is there %d times, and %d times as a dead letter", here, there)
		case here+there > 0 && g.begun > at:
			err = errors.New("it is not published yet")
		case here > 0 && g.refused:
			err = errors.New("it was refused")
		case here+there > 0 && g.acked <= at && g.sure != never:
			err = errors.New("it is back")
		case here+there == 0 && g.sure <= at && g.acking > at && stays:
			err = errors.New("it is lost")
		}
		if err != nil {
			return fmt.Errorf("%.20q in %s: %w", g.text, g.queue, err)
		}
		if g.begun <= at {
			later[g.queue]++
		}
	}
	for _, q := range []string{"short", "leaving", "full", "handing"} {
		if n := len(all[q]); n > crowdLength {
			return fmt.Errorf("%d messages are in %s", n, q)
		}
	}
	return nil
}

// TestCrashWhileQueuesAreFull cuts the power at every change that a broker makes of
// its files: what was taken is there, once, until it is settled or dropped; what was
// refused is not, and no queue is longer than it may be.
func TestCrashWhileQueuesAreFull(t *testing.T) {
	m := vfs.NewMem()
	m.Record()
	s := &crowd{story: story{
		world: &world{t: t, fs: m, wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}, ids: map[string]int{},
	}}
	s.start(moveTiny)
	rounds := 5
	if long {
		rounds = 40
	}
	s.tellCrowd(rounds)
	history := s.fs.History()
	t.Logf("%d changes", len(history))
	for at := 0; at <= len(history); at++ {
		n := 0
		if at < len(history) && history[at].Op == vfs.OpWrite && at%2 == 0 {
			n = lively(history[at]) / 2
		}
		percent := []int{0, 50, 100}[at%3]
		left := s.fs.Cut(at, n, percent, rand.New(rand.NewPCG(uint64(at), uint64(n))))
		w := &world{t: t, fs: left, wrap: s.wrap}
		if err := w.tryStart(moveTiny); err != nil {
			t.Fatalf("start after change %d: %v", at, err)
		}
		err := s.checkCrowd(w, at)
		if err = errors.Join(err, w.tryStop()); err != nil {
			t.Fatalf("crash during change %d of %d, after %d bytes of it, %d %% of what is unsynced kept: %v", at, len(history), n, percent, err)
		}
	}
}
