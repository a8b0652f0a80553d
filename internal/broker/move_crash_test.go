package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ferrymq/ferry/internal/vfs"
)

// A passage is a message that is published to the queue "q", and may go from there to
// "dead" and "copy", both at once. Times are as in a note.
type passage struct {
	text                  string
	begun, sure           int // when it was published, and confirmed
	acking, acked         int // when it was about to be settled in q, and when that was durable
	moved                 int // when it was known to be in the other queues
	ackingDead, ackedDead int // when it was about to be settled in dead, and so on
}

// A crossing is a story of messages that are moved.
type crossing struct {
	story
	passages []*passage
}

// moveTiny makes transactions span batches, and segments be cleaned.
func moveTiny(c *Config) {
	tiny(c)
	c.batchBytes = 300
}

// tellMoves publishes, refuses and settles, in rounds.
func (s *crossing) tellMoves(rounds int) {
	c := s.confirming()
	for _, q := range []string{"dead", "copy", "sure"} {
		s.declare(c, q)
	}
	c.queueWith("q", true, deadLetters("amq.fanout"))
	for _, q := range []string{"dead", "copy"} {
		if err := c.BindQueue(q, "amq.fanout", "", nil); err != nil {
			s.t.Fatal(err)
		}
	}
	number := 0
	for round := range rounds {
		var fresh []*passage
		for i := range 4 {
			number++
			size := 40
			if i == 2 && round%3 == 1 {
				size = 1500 // in parts
			}
			p := &passage{
				text: noteText(number, size), begun: s.now(), sure: never,
				acking: never, acked: never, moved: never, ackingDead: never, ackedDead: never,
			}
			s.passages = append(s.passages, p)
			fresh = append(fresh, p)
			c.publish("", "q", p.text, true)
		}
		if round%2 == 0 { // otherwise some are refused before they are written
			s.confirm(c)
			for _, p := range fresh {
				p.sure = s.now()
			}
		}
		tx := s.client()
		if round%4 == 3 {
			if err := tx.ch.TxSelect(); err != nil {
				s.t.Fatal(err)
			}
		}
		var tags []uint64
		for _, p := range fresh {
			e := tx.fetch("q")
			if body(e) != p.text {
				s.t.Fatalf("got %.20q, want %.20q", body(e), p.text)
			}
			tags = append(tags, e.Tag)
		}
		fresh[0].acking = s.now()
		err := errors.Join(tx.ch.Ack(tags[0], false), tx.ch.Nack(tags[2], true, false))
		if round%4 == 3 {
			err = errors.Join(err, tx.ch.TxCommit())
		} else {
			s.settled("q")
			err = errors.Join(err, s.b.flushLog())
		}
		if err != nil {
			s.t.Fatal(err)
		}
		fresh[0].acked, fresh[1].moved, fresh[2].moved = s.now(), s.now(), s.now()
		s.confirm(c)
		for _, p := range fresh {
			p.sure = min(p.sure, s.now())
		}
		tx.Close() // the last one goes back
		e := c.fetch("q")
		fresh[3].acking = s.now()
		if err := c.ch.Ack(e.Tag, false); err != nil {
			s.t.Fatal(err)
		}
		// One of two dead letters is settled, the other ones stay.
		e = c.fetch("dead")
		for _, p := range s.passages {
			if p.text == body(e) {
				p.ackingDead = s.now()
				if err := errors.Join(c.ch.Ack(e.Tag, false), s.b.flushLog()); err != nil {
					s.t.Fatal(err)
				}
				p.ackedDead = s.now()
			}
		}
		fresh[3].acked = s.now()
	}
	c.Close()
	s.stop()
}

// checkMoves looks where the messages are after a crash.
func (s *crossing) checkMoves(w *world, at int) error {
	c := w.client()
	defer c.Close()
	all, err := w.found(c)
	if err != nil {
		return err
	}
	for _, q := range []string{"q", "dead", "copy"} {
		seen := map[string]bool{}
		for _, text := range all[q] {
			if seen[text] {
				return fmt.Errorf("%.20q is twice in %s", text, q)
			}
			seen[text] = true
		}
	}
	has := func(q string, p *passage) int {
		for _, text := range all[q] {
			if text == p.text {
				return 1
			}
		}
		return 0
	}
	for _, p := range s.passages {
		here, dead, copied := has("q", p), has("dead", p), has("copy", p)
		switch {
		case here+copied > 1 || here+dead > 1:
			err = fmt.Errorf("it is in q %d, dead %d, copy %d", here, dead, copied)
		case here+copied > 0 && p.begun > at:
			err = errors.New("it is not published yet")
		case dead > copied:
			err = errors.New("it is in dead, and not in copy")
		case copied > dead && p.ackingDead > at:
			err = errors.New("it is in copy, and not in dead")
		case dead > 0 && p.ackedDead <= at:
			err = errors.New("it is back in dead")
		case here+copied > 0 && p.acked <= at:
			err = errors.New("it is back")
		case here > 0 && p.moved <= at:
			err = errors.New("it is back in q, it was moved")
		case here+copied == 0 && p.sure <= at && p.acking > at:
			err = errors.New("it is lost")
		}
		if err != nil {
			return fmt.Errorf("%.20q: %w", p.text, err)
		}
	}
	return nil
}

// TestCrashWhileMessagesMove cuts the power at every change that a broker makes of
// its files while messages are refused: each is in its queue or in those that it
// goes to, in both of them, and nowhere else.
func TestCrashWhileMessagesMove(t *testing.T) {
	m := vfs.NewMem()
	m.Record()
	s := &crossing{story: story{
		world: &world{t: t, fs: m, wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}, ids: map[string]int{},
	}}
	s.start(moveTiny)
	rounds := 6
	if long {
		rounds = 60
	}
	s.tellMoves(rounds)
	history := s.fs.History()
	t.Logf("%d changes", len(history))
	for at := 0; at <= len(history); at++ {
		places := []int{0}
		if at < len(history) && history[at].Op == vfs.OpWrite {
			if n := lively(history[at]); n > 1 && (long || at%3 == 0) {
				places = append(places, n/2)
			}
		}
		for _, n := range places {
			percent := []int{0, 50, 100}[(at+n)%3]
			left := s.fs.Cut(at, n, percent, rand.New(rand.NewPCG(uint64(at), uint64(n))))
			w := &world{t: t, fs: left, wrap: s.wrap}
			if err := w.tryStart(moveTiny); err != nil {
				t.Fatalf("start after change %d: %v", at, err)
			}
			err := s.checkMoves(w, at)
			if err = errors.Join(err, w.tryStop()); err != nil {
				t.Fatalf("crash during change %d of %d, after %d bytes of it, %d %% of what is unsynced kept: %v", at, len(history), n, percent, err)
			}
		}
	}
}

// TestCrashBetweenBatchesWhileMessagesMove is the same over every journal, for
// crashes between its batches.
func TestCrashBetweenBatchesWhileMessagesMove(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.empty(t)
		s := &crossing{story: story{world: w, tape: &tape{}, ids: map[string]int{}}}
		plain := *w
		w.open = tapedBy(s.tape, plain.openJournal)
		s.start(moveTiny)
		s.tellMoves(on.some(8, 4))
		history := s.tape.history()
		step := max(1, len(history)/on.some(60, 4))
		if long {
			step = 1
		}
		t.Logf("%d batches and drops", len(history))
		for at := len(history) % step; at <= len(history); at += step {
			w := on.empty(t)
			j, err := w.openJournal()
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.tape.play(j, at), j.Close(), w.tryStart(moveTiny)); err != nil {
				t.Fatal(err)
			}
			err = s.checkMoves(w, at)
			if err = errors.Join(err, w.tryStop()); err != nil {
				t.Fatalf("crash after %d of %d batches and drops: %v", at, len(history), err)
			}
		}
	})
}

// TestSyncFailsWhileMessagesMove breaks the disk when messages have been refused:
// what a restart finds has each once, and no commit was answered that is not there.
func TestSyncFailsWhileMessagesMove(t *testing.T) {
	broken := errors.New("the disk is broken")
	for n := 1; n <= 4; n++ {
		for _, percent := range []int{0, 100} {
			m := vfs.NewMem()
			faulty := vfs.NewFaulty(noBallast{m})
			s := &crossing{story: story{world: &world{t: t, fs: m, wrap: func(*vfs.Mem) vfs.FS { return faulty }}, ids: map[string]int{}}}
			s.start(moveTiny)
			c := s.confirming()
			for _, q := range []string{"dead", "copy"} {
				c.queue(q, true)
				if err := c.BindQueue(q, "amq.fanout", "", nil); err != nil {
					t.Fatal(err)
				}
			}
			c.queueWith("q", true, deadLetters("amq.fanout"))
			for i := range 20 {
				p := &passage{text: noteText(i, 50), acking: never, acked: never, moved: never, ackingDead: never, ackedDead: never}
				c.publish("", "q", p.text, true)
				s.passages = append(s.passages, p)
			}
			s.confirm(c)
			tx := s.client()
			if err := tx.ch.TxSelect(); err != nil {
				t.Fatal(err)
			}
			faulty.SetHook(vfs.FailNth(n, true, broken, func(c vfs.Call) bool { return c.Op == vfs.OpSync }))
			failed := false
			for i := 0; i < 20 && !failed; i++ {
				tag := tx.fetch("q").Tag
				if err := tx.ch.Nack(tag, false, false); err != nil {
					t.Fatal(err)
				}
				if err := tx.ch.TxCommit(); err != nil {
					failed = true
				} else {
					s.passages[i].moved = 0
				}
			}
			if !failed {
				t.Fatalf("%d: no commit failed", n)
			}
			c.Close()
			tx.Close()
			if err := s.tryStop(); err == nil {
				t.Fatal("a broker whose disk broke closes well")
			}
			w := &world{t: t, fs: m.CrashClone(percent, rand.New(rand.NewPCG(uint64(n), 0))), wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
			if err := w.tryStart(moveTiny); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.checkMoves(w, 1), w.tryStop()); err != nil {
				t.Fatalf("after %d syncs, %d %% of what is unsynced kept: %v", n, percent, err)
			}
		}
	}
}

// TestCrashWhileMessagesAreParked cuts the power at every change that a broker makes of
// its files while messages are given back that have been delivered too often: each is
// in its queue or parked, and in its queue none says that it was delivered too often.
func TestCrashWhileMessagesAreParked(t *testing.T) {
	m := vfs.NewMem()
	m.Record()
	s := &crossing{story: story{
		world: &world{t: t, fs: m, wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}, ids: map[string]int{},
	}}
	s.start(moveTiny)
	c := s.confirming()
	c.queueWith("q", true, numberArg(nil, "x-delivery-limit", 1))
	for i := range 6 {
		p := &passage{text: noteText(i, 50), begun: s.now()}
		c.publish("", "q", p.text, true)
		s.confirm(c)
		p.sure = s.now()
		s.passages = append(s.passages, p)
		for range 2 - i%2 {
			if err := c.ch.Reject(c.fetch("q").Tag, true); err != nil {
				t.Fatal(err)
			}
			s.settled("q")
		}
		if err := s.b.flushLog(); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			p.moved = s.now()
			continue
		}
		if e := c.fetch("q"); body(e) != p.text {
			t.Fatalf("got %.20q", body(e))
		}
		p.moved = never
	}
	c.Close()
	s.stop()
	history := s.fs.History()
	t.Logf("%d changes", len(history))
	for at := 0; at <= len(history); at++ {
		left := s.fs.Cut(at, 0, []int{0, 50, 100}[at%3], rand.New(rand.NewPCG(uint64(at), 0)))
		w := &world{t: t, fs: left, wrap: s.wrap}
		if err := w.tryStart(moveTiny); err != nil {
			t.Fatalf("start after change %d: %v", at, err)
		}
		c := w.client()
		if w.b.vhost("/").queues["q"] != nil {
			c.eachFailed("q", func(failures int64) {
				if failures > 1 {
					t.Errorf("crash during change %d: a message is delivered after %d failures", at, failures)
				}
			})
		}
		all, err := w.found(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.passages {
			n, parked := 0, 0
			for queue, texts := range all {
				for _, text := range texts {
					if text == p.text {
						if n++; queue == "q"+parkedSuffix {
							parked++
						}
					}
				}
			}
			if n > 1 || n == 0 && p.sure <= at || n == 1 && p.begun > at || parked == 0 && p.moved <= at {
				t.Errorf("crash during change %d: %.20q is there %d times, %d of them parked", at, p.text, n, parked)
			}
		}
		c.Close()
		if err := w.tryStop(); err != nil {
			t.Fatal(err)
		}
	}
}

// eachFailed gets what is in a queue, and gives it back: of each message it tells in
// how many deliveries it has failed.
func (c *client) eachFailed(queue string, visit func(failures int64)) {
	c.t.Helper()
	tag := uint64(0)
	for {
		ok, err := c.ch.Get(queue, false)
		if err != nil {
			c.t.Fatal(err)
		}
		if !ok {
			break
		}
		e := c.next(EventGot)
		failures, _ := letterOf(c.t, e).headers[deliveryCountHeader].(int64)
		visit(failures)
		tag = e.Tag
	}
	if tag == 0 {
		return
	}
	if err := c.ch.Nack(tag, true, true); err != nil {
		c.t.Fatal(err)
	}
}
