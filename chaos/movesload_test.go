package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A stage has clients that go on with their scenes through every restart and takeover
// of the brokers at some addresses.
type stage struct {
	t      *testing.T
	addrs  []string
	pause  time.Duration // of each publisher, between two messages
	scenes []*scene
	// Its load ends publishers first, then consumers.
	*load
}

// A scene is a use of queues that move or remove messages.
type scene struct {
	*book
	name    string
	declare func(ch *amqp.Channel) error
	send    []giver
	take    []taker
	queues  []string       // that are empty in the end
	limits  map[string]int // of queues: ready messages at most
	// finale is called when all have ended, and there are no publishers any more. It
	// drains what has no consumers.
	finale func(t *testing.T, s *scene, ch *amqp.Channel)
}

// A giver publishes persistent messages with confirms, and again those of which it
// does not know what became.
type giver struct {
	exchange, key string
	window        int
	once          bool                                 // the broker drops what it has had
	dress         func(seq uint64, m *amqp.Publishing) // the same for each sending

	s       *scene
	n       int
	unknown []*fate
}

// A taker consumes, and settles some messages at a time.
type taker struct {
	queue    string
	prefetch int
	tx       bool // in transactions: then the book knows what is settled
	slow     time.Duration
	moves    bool // of the broker's own doing: what came before it was on disk comes anew after a crash
	cycles   bool // it may do so more than once with one message
	refused  bool // what was refused may come
	check    func(f *fate, d *amqp.Delivery) []flaw
	decide   func(f *fate, d *amqp.Delivery) verdict // nil: it acks
	counted  func(d *amqp.Delivery) int              // how often it was rejected before

	s    *scene
	life int // of the broker that the session is with
}

func newStage(t *testing.T, pause time.Duration, scenes []*scene, addrs ...string) *stage {
	st := &stage{t: t, addrs: addrs, pause: pause, scenes: scenes, load: newLoad(t, addrs[0])}
	c := st.reach(t.Context())
	defer c.cut()
	for _, s := range scenes {
		if err := s.declare(mustChannel(t, c)); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	for _, s := range scenes {
		for _, x := range s.take {
			x.s = s
			st.work.subs.Go(func() { st.taking(x) })
		}
		for _, x := range s.send {
			x.s, x.n = s, s.publisher()
			st.work.pubs.Go(func() { st.sending(x) })
		}
		for q, most := range s.limits {
			st.work.subs.Go(func() { st.watch(s, q, most) })
		}
	}
	return st
}

// reach connects to whichever broker serves, as often as it takes, until ctx ends.
func (st *stage) reach(ctx context.Context) *client {
	for ctx.Err() == nil {
		for _, addr := range st.addrs {
			if c, err := connect(addr, 10*time.Second); err == nil {
				return c
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(redialPause):
		}
	}
	return nil
}

func (st *stage) sending(x giver) {
	for st.hard.Err() == nil {
		c := st.reach(st.hard)
		if c == nil {
			return
		}
		stop := context.AfterFunc(st.hard, func() { _ = c.nc.Close() })
		done, err := x.session(st, c)
		stop()
		st.over(c, !done)
		if done {
			return
		}
		if err != nil && !lost(err) {
			x.s.fault("publisher %d: %v", x.n, err)
		}
	}
}

// session publishes over one connection; done is whether all is answered and nothing
// more is to be sent.
func (x *giver) session(st *stage, c *client) (done bool, err error) {
	ch, err := c.Channel()
	if err != nil {
		return false, err
	}
	if err := ch.Confirm(false); err != nil {
		return false, err
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, x.window+1))
	sent, resend := []*fate{}, x.unknown
	defer func() { x.unknown = append(sent, resend...) }()
	quit := func() bool { return st.pubs.Err() != nil }
	due := time.Now() // for the next new message
	for {
		for len(sent) < x.window && (len(resend) > 0 || !quit() && !time.Now().Before(due)) {
			f := x.choose(&resend)
			sent = append(sent, f)
			x.s.sending(f)
			m := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body(f.publisher, f.seq, 100+int(f.seq*31)%400)}
			if x.dress != nil {
				x.dress(f.seq, &m)
			}
			if err := ch.PublishWithContext(context.Background(), x.exchange, x.key, false, false, m); err != nil {
				return false, err
			}
			if len(resend) == 0 {
				due = time.Now().Add(st.pause)
			}
		}
		if len(sent) == 0 && quit() {
			return true, nil
		}
		patience := time.Until(due)
		if len(sent) == x.window || quit() {
			patience = confirmLimit
		}
		select {
		case confirm, ok := <-confirms:
			if !ok {
				return false, nil
			}
			x.s.answered(sent[0], confirm.Ack)
			sent = sent[1:]
		case <-time.After(patience):
			if patience == confirmLimit && st.blocked.Load() == 0 {
				return false, fmt.Errorf("%d messages were not answered within %s", len(sent), confirmLimit)
			}
		}
	}
}

// choose gives what is to be sent next.
func (x *giver) choose(resend *[]*fate) *fate {
	if len(*resend) > 0 {
		f := (*resend)[0]
		*resend = (*resend)[1:]
		return f
	}
	if x.once && rand.IntN(8) == 0 { // once more, whatever became of it
		if f := x.s.recent(x.n, 500); f != nil {
			return f
		}
	}
	return x.s.next(x.n, x.once)
}

func (st *stage) taking(x taker) {
	for {
		x.life = x.s.life()
		c := st.reach(st.subs)
		if c == nil {
			return
		}
		if x.s.life() != x.life {
			c.cut() // it may be with either
			continue
		}
		err := x.session(st, c)
		st.over(c, err != nil || c.IsClosed())
		if e, ok := errors.AsType[*amqp.Error](err); ok && e.Code == amqp.NotFound {
			select { // a queue that the broker makes when it needs it
			case <-time.After(redialPause):
			case <-st.subs.Done():
			}
			continue
		}
		if err != nil && !lost(err) {
			x.s.fault("consumer of %s: %v", x.queue, err)
		}
	}
}

func (x *taker) session(st *stage, c *client) error {
	ch, err := c.Channel()
	if err != nil {
		return err
	}
	if err := ch.Qos(x.prefetch, 0, false); err != nil {
		return err
	}
	if x.tx {
		if err := ch.Tx(); err != nil {
			return err
		}
	}
	deliveries, err := ch.Consume(x.queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	type settlement struct {
		f   *fate
		how verdict
	}
	var open []settlement // sent and not committed
	commit := func() error {
		if len(open) == 0 || !x.tx {
			return nil
		}
		err := ch.TxCommit()
		if err == nil {
			for _, o := range open {
				x.s.committed(o.f, o.how)
			}
		}
		open = open[:0]
		return err
	}
	idle := time.NewTicker(10 * time.Millisecond)
	defer idle.Stop()
	for {
		select {
		case <-st.subs.Done():
			if err := commit(); err != nil {
				return err
			}
			return ch.Close()
		case <-idle.C:
			if err := commit(); err != nil {
				return err
			}
		case d, ok := <-deliveries:
			if !ok {
				return nil
			}
			f := x.s.delivered(x, &d)
			if f == nil {
				continue
			}
			how, count := ack, 0
			if x.decide != nil {
				how = x.decide(f, &d)
			}
			if x.counted != nil {
				count = x.counted(&d)
			}
			x.s.settling(f, how, count)
			switch how {
			case ack:
				err = d.Ack(false)
			case bury:
				err = d.Nack(false, false)
			case refuse:
				err = d.Reject(true)
			}
			if open = append(open, settlement{f, how}); err == nil && len(open) >= max(x.prefetch/2, 1) {
				err = commit()
			}
			if err != nil {
				return err
			}
			time.Sleep(x.slow)
		}
	}
}

// watch looks now and then whether a queue has more messages than it may.
func (st *stage) watch(s *scene, queue string, most int) {
	for {
		c := st.reach(st.subs)
		if c == nil {
			return
		}
		ch, err := c.Channel()
		for err == nil && st.subs.Err() == nil {
			var q amqp.Queue
			if q, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil); err == nil && q.Messages > most {
				s.fault("%s holds %d messages, and may hold %d", queue, q.Messages, most)
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-st.subs.Done():
			}
		}
		st.over(c, err != nil)
	}
}

// confirmed is how many messages were in all scenes.
func (st *stage) confirmed() (n int) {
	for _, s := range st.scenes {
		n += s.totals().confirmed
	}
	return n
}

// crash is called when a broker has failed, before there is another.
func (st *stage) crash() {
	for _, s := range st.scenes {
		s.crash()
	}
}

// conclude ends publishers when all they sent was answered, and consumers when all of
// it has ended somewhere. Then it says what was wrong.
func (st *stage) conclude() {
	t := st.t
	t.Helper()
	st.stopPub()
	done := make(chan struct{})
	go func() {
		st.work.pubs.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(finishLimit):
		t.Fatalf("publishers were not answered everything within %s", finishLimit)
	}
	c := st.reach(t.Context())
	defer c.cut()
	ch := mustChannel(t, c)
	st.settle()
	for _, s := range st.scenes {
		if s.finale != nil {
			s.finale(t, s, ch)
		}
	}
	st.stopSub()
	st.work.subs.Wait()
	if !until(5*time.Second, func() bool { return st.left(ch) == 0 }) {
		t.Errorf("queues hold %d messages, though all have ended", st.left(ch))
	}
	st.report()
}

// settle waits until all has ended, and nothing comes for longer than any message
// waits.
func (st *stage) settle() {
	came, since := 0, time.Now()
	for {
		n, now := 0, 0
		for _, s := range st.scenes {
			now += s.totals().delivered
			if s.take != nil {
				waiting, _ := s.open()
				n += waiting
			}
		}
		if now != came {
			came, since = now, time.Now()
		}
		quiet := time.Since(since)
		if quiet > drainLimit || n == 0 && quiet > longestWait+settleTime {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// left is how many messages there are in queues that should be empty.
func (st *stage) left(ch *amqp.Channel) (n int) {
	st.t.Helper()
	for _, s := range st.scenes {
		for _, q := range s.queues {
			state, err := ch.QueueDeclarePassive(q, true, false, false, false, nil)
			if err != nil {
				st.t.Fatal(err)
			}
			n += state.Messages
		}
	}
	return n
}

// report counts what was lost, and reports what each book has against the broker.
func (st *stage) report() {
	t := st.t
	t.Helper()
	for _, s := range st.scenes {
		if s.take != nil {
			n, some := s.open()
			for _, x := range some {
				t.Errorf("%s: lost: %s was confirmed, and nobody could settle it", s.name, x)
			}
			s.lost = n
		}
		for _, f := range s.faults {
			t.Errorf("%s: %s", s.name, f)
		}
		if s.totals().confirmed == 0 {
			t.Errorf("%s: nothing was confirmed: nothing was tested", s.name)
		}
	}
}

// drain takes all messages out of a queue.
func (s *scene) drain(t *testing.T, ch *amqp.Channel, queue string) (list []amqp.Delivery) {
	t.Helper()
	x := &taker{queue: queue}
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return list
		}
		if f := s.delivered(x, &d); f != nil {
			list = append(list, d)
		}
	}
}
