package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	redialPause  = 10 * time.Millisecond
	confirmLimit = 30 * time.Second       // without any confirm while the broker serves
	finishLimit  = 30 * time.Second       // for what publishers have sent to be confirmed
	settleTime   = 150 * time.Millisecond // for the last deliveries to be settled
	drainLimit   = 30 * time.Second       // without any delivery while something is missing
)

// A load is clients that publish and consume numbered messages, through every
// restart of the broker at an address.
type load struct {
	t    *testing.T
	addr string
	*ledger

	stopPub context.CancelFunc // publishers finish what is unknown and end
	pubs    context.Context
	stopSub context.CancelFunc // consumers end
	subs    context.Context
	work    struct{ pubs, subs sync.WaitGroup }
	blocked atomic.Int32    // connections that were told so, now
	stalls  atomic.Int32    // times one was told so
	hard    context.Context // ends everything at once

	mu     sync.Mutex
	closes map[int]int // connection.close by reply code
}

func newLoad(t *testing.T, addr string) *load {
	l := &load{t: t, addr: addr, ledger: newLedger(), closes: map[int]int{}}
	l.pubs, l.stopPub = context.WithCancel(t.Context())
	l.subs, l.stopSub = context.WithCancel(t.Context())
	var stop context.CancelFunc
	l.hard, stop = context.WithCancel(t.Context())
	t.Cleanup(func() {
		l.stopPub()
		l.stopSub()
		stop()
		l.work.pubs.Wait()
		l.work.subs.Wait()
	})
	return l
}

// A client is a connection and the socket below it.
type client struct {
	*amqp.Connection
	nc     net.Conn
	closed chan *amqp.Error // what the broker said
}

func connect(addr string, heartbeat time.Duration) (*client, error) {
	c := &client{}
	var err error
	c.Connection, err = amqp.DialConfig("amqp://guest:guest@"+addr+"/", amqp.Config{
		Heartbeat: heartbeat,
		Dial: func(network, addr string) (net.Conn, error) {
			nc, err := net.DialTimeout(network, addr, 5*time.Second)
			if err == nil {
				c.nc = nc
				err = nc.SetDeadline(time.Now().Add(30 * time.Second)) // the library ends it when the connection is open
			}
			return nc, err
		},
	})
	if err != nil {
		return nil, err
	}
	c.closed = c.NotifyClose(make(chan *amqp.Error, 1))
	return c, nil
}

// cut ends a connection without a word: one that the broker does not read could
// not say goodbye.
func (c *client) cut() {
	_ = c.nc.Close()
	_ = c.Connection.Close() // waits for its goroutines
}

func mustConnect(t *testing.T, addr string) *client {
	t.Helper()
	c, err := connect(addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.cut)
	return c
}

func mustChannel(t *testing.T, c *client) *amqp.Channel {
	t.Helper()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// mustDeclare declares durable queues and returns a channel.
func mustDeclare(t *testing.T, c *client, queues ...string) *amqp.Channel {
	t.Helper()
	ch := mustChannel(t, c)
	for _, q := range queues {
		if _, err := ch.QueueDeclare(q, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	return ch
}

// dial connects, as often as it takes, until ctx ends.
func (l *load) dial(ctx context.Context) *client {
	for ctx.Err() == nil {
		if c, err := connect(l.addr, 10*time.Second); err == nil {
			return c
		}
		select {
		case <-ctx.Done():
		case <-time.After(redialPause):
		}
	}
	return nil
}

// over notes why a connection ended, and ends it. A call may learn of the end just
// before the library tells why: lost says that it did, and that is waited for.
func (l *load) over(c *client, lost bool) {
	patience := time.Duration(0)
	if lost {
		patience = time.Second
	}
	select {
	case e := <-c.closed:
		if e != nil && e.Server {
			l.mu.Lock()
			l.closes[e.Code]++
			l.mu.Unlock()
		}
	case <-time.After(patience):
	}
	c.cut()
}

// closedWith is how often the broker closed a connection with each code.
func (l *load) closedWith() map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := map[int]int{}
	for code, n := range l.closes {
		m[code] = n
	}
	return m
}

// A publisher sends persistent messages, and again those of which it does not
// know whether they are there, in their order, before anything new.
type publisher struct {
	exchange, key string
	queues        []string // where a message must arrive
	window        int      // messages that are not confirmed
	size          int      // bytes of a body at most; they vary from a tenth of it
	fixed         bool     // all bodies are of that size
	tx            bool     // transactions of up to window messages
	heedless      bool     // it goes on publishing when it is blocked
	pause         time.Duration

	n       int
	unknown []uint64
}

func (l *load) publish(p publisher) {
	p.n = l.publisher(p.queues...)
	l.work.pubs.Go(func() {
		for l.hard.Err() == nil {
			// What is unknown is settled even when it is told to stop.
			c := l.dial(l.hard)
			if c == nil {
				return
			}
			stop := context.AfterFunc(l.hard, func() { _ = c.nc.Close() })
			done, err := p.session(l, c)
			stop()
			l.over(c, !done)
			if done {
				return
			}
			if err != nil && !lost(err) {
				l.fault("publisher %d: %v", p.n, err)
			}
		}
	})
}

// lost tells whether an error is one that the end of a connection explains.
func lost(err error) bool {
	if e, ok := errors.AsType[*amqp.Error](err); ok {
		return e.Code == amqp.ChannelError || e.Code == amqp.ConnectionForced || e.Code == amqp.FrameError || e.Code == amqp.InternalError
	}
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "EOF")
}

func (p *publisher) stopping(l *load) bool { return l.pubs.Err() != nil }

// session publishes over one connection; done is whether all is confirmed and
// nothing more is to be sent.
func (p *publisher) session(l *load, c *client) (done bool, err error) {
	ch, err := c.Channel()
	if err != nil {
		return false, err
	}
	if p.tx {
		return p.transactions(l, ch)
	}
	free := p.watchBlocked(l, c)
	if err := ch.Confirm(false); err != nil {
		return false, err
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, p.window+1))
	var sent []uint64 // by delivery tag
	acked := 0
	resend := p.unknown
	defer func() {
		p.unknown = append(slices.Clone(sent[acked:]), resend...)
	}()
	for {
		for len(sent)-acked < p.window && (len(resend) > 0 || !p.stopping(l)) && (p.heedless || free()) {
			seq, again := uint64(0), len(resend) > 0
			if again {
				seq, resend = resend[0], resend[1:]
			} else {
				seq = l.next(p.n)
			}
			sent = append(sent, seq)
			if err := p.send(l, ch, seq); err != nil {
				return false, err
			}
			time.Sleep(p.pause)
		}
		if len(sent) == acked {
			if p.stopping(l) && len(resend) == 0 {
				return true, nil
			}
			if c.IsClosed() {
				return false, nil
			}
			time.Sleep(redialPause) // blocked
			continue
		}
		timer := time.NewTimer(confirmLimit)
		select {
		case confirm, ok := <-confirms:
			timer.Stop()
			if !ok {
				return false, nil
			}
			if !confirm.Ack {
				return false, fmt.Errorf("message %d was refused", sent[confirm.DeliveryTag-1])
			}
			if int(confirm.DeliveryTag) != acked+1 {
				return false, fmt.Errorf("confirm %d came after %d", confirm.DeliveryTag, acked)
			}
			l.confirm(p.n, sent[acked])
			acked++
		case <-timer.C:
			if l.blocked.Load() == 0 {
				return false, fmt.Errorf("%d messages were not confirmed within %s", len(sent)-acked, confirmLimit)
			}
		}
	}
}

func (p *publisher) send(l *load, ch *amqp.Channel, seq uint64) error {
	size := p.size
	if !p.fixed {
		size = p.size/10 + int(seq*31)%(p.size-p.size/10)
	}
	l.sending(p.n, seq)
	return ch.PublishWithContext(context.Background(), p.exchange, p.key, false, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent,
		Body:         body(p.n, seq, size),
	})
}

// transactions publishes in transactions; a commit that is not answered makes
// all of it unknown.
func (p *publisher) transactions(l *load, ch *amqp.Channel) (done bool, err error) {
	if err := ch.Tx(); err != nil {
		return false, err
	}
	for {
		if len(p.unknown) == 0 {
			if p.stopping(l) {
				return true, nil
			}
			for range 1 + rand.IntN(p.window) {
				p.unknown = append(p.unknown, l.next(p.n))
			}
		}
		for _, seq := range p.unknown {
			if err := p.send(l, ch, seq); err != nil {
				return false, err
			}
		}
		if err := ch.TxCommit(); err != nil {
			return false, err
		}
		for _, seq := range p.unknown {
			l.confirm(p.n, seq)
		}
		p.unknown = p.unknown[:0]
	}
}

// watchBlocked returns what tells whether the connection may publish.
func (p *publisher) watchBlocked(l *load, c *client) (free func() bool) {
	var blocked atomic.Bool
	events := c.NotifyBlocked(make(chan amqp.Blocking, 16))
	go func() { // until the connection ends
		for e := range events {
			if was := blocked.Swap(e.Active); was == e.Active {
				continue
			}
			if e.Active {
				l.stalls.Add(1)
				l.blocked.Add(1)
			} else {
				l.blocked.Add(-1)
			}
		}
		if blocked.Load() {
			l.blocked.Add(-1)
		}
	}()
	return func() bool { return !blocked.Load() }
}

// How a consumer settles.
type settling int

const (
	ackEach     settling = iota
	ackMultiple          // half a prefetch at a time
	nackSome             // as ackMultiple, and some are requeued, one or several
	ackInTx              // in transactions; what was committed must not return
)

type consumer struct {
	queue    string
	prefetch int
	settle   settling
}

func (l *load) consume(c consumer) {
	l.work.subs.Go(func() {
		for {
			conn := l.dial(l.subs)
			if conn == nil {
				return
			}
			err := c.session(l, conn)
			l.over(conn, err != nil || conn.IsClosed())
			if err != nil && !lost(err) {
				l.fault("consumer of %s: %v", c.queue, err)
			}
		}
	})
}

func (c *consumer) session(l *load, conn *client) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Qos(c.prefetch, 0, false); err != nil {
		return err
	}
	if c.settle == ackInTx {
		if err := ch.Tx(); err != nil {
			return err
		}
	}
	deliveries, err := ch.Consume(c.queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	type id struct {
		publisher int
		seq       uint64
	}
	var open []id // received and not settled
	last := map[int]uint64{}
	var tag uint64
	flush := func() error {
		if len(open) == 0 {
			return nil
		}
		err := ch.Ack(tag, true)
		if err == nil && c.settle == ackInTx {
			if err = ch.TxCommit(); err == nil {
				for _, i := range open {
					l.settled(c.queue, i.publisher, i.seq)
				}
			}
		}
		open = open[:0]
		return err
	}
	idle := time.NewTicker(20 * time.Millisecond)
	defer idle.Stop()
	for {
		select {
		case <-l.subs.Done():
			if err := flush(); err != nil {
				return err
			}
			return ch.Close() // answered when what was settled is
		case <-idle.C: // what the queue's end leaves of a batch
			if err := flush(); err != nil {
				return err
			}
		case d, ok := <-deliveries:
			if !ok {
				return nil
			}
			tag = d.DeliveryTag
			publisher, seq := l.received(c.queue, d.Body, d.Redelivered, last)
			switch {
			case c.settle == ackEach:
				err = d.Ack(false)
			case c.settle == nackSome && rand.IntN(100) == 0:
				err = d.Nack(true, true) // and all that are open
				open = open[:0]
			case c.settle == nackSome && rand.IntN(100) == 0:
				err = d.Nack(false, true)
			default:
				if publisher >= 0 {
					open = append(open, id{publisher, seq})
				}
				if len(open) >= max(c.prefetch/2, 1) {
					err = flush()
				}
			}
			if err != nil {
				return err
			}
		}
	}
}

// finish lets publishers end with everything confirmed, waits until all of it
// has come, and ends the consumers. Then it counts.
func (l *load) finish() counts {
	l.t.Helper()
	l.stopPub()
	done := make(chan struct{})
	go func() {
		l.work.pubs.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(finishLimit):
		l.t.Fatalf("publishers were not confirmed everything within %s", finishLimit)
	}
	l.awaitAll()
	return l.verdict()
}

// awaitAll waits until every confirmed message has come, and all that was sent
// twice.
func (l *load) awaitAll() {
	l.t.Helper()
	c := mustConnect(l.t, l.addr)
	defer c.cut()
	ch := mustChannel(l.t, c)
	came, since := counts{}, time.Now()
	for {
		now := l.totals()
		if now != came {
			came, since = now, time.Now()
		}
		quiet := time.Since(since)
		if n, _ := l.missing(); quiet > drainLimit || n == 0 && quiet > settleTime && l.waiting(ch) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// waiting is how many messages all queues hold that are not with a consumer.
func (l *load) waiting(ch *amqp.Channel) (n int) {
	l.t.Helper()
	for q := range l.queues {
		state, err := ch.QueueDeclarePassive(q, true, false, false, false, nil)
		if err != nil {
			l.t.Fatal(err)
		}
		n += state.Messages
	}
	return n
}

// verdict ends the consumers and reports what the ledger holds against the
// broker.
func (l *load) verdict() counts {
	l.t.Helper()
	l.stopSub()
	l.work.subs.Wait()
	n, some := l.missing()
	for _, s := range some {
		l.t.Errorf("lost: %s was confirmed and did not come", s)
	}
	l.ledger.mu.Lock()
	defer l.ledger.mu.Unlock()
	l.lost = n
	for _, f := range l.faults {
		l.t.Error(f)
	}
	if l.counts.confirmed == 0 {
		l.t.Error("nothing was confirmed: nothing was tested")
	}
	return l.counts
}

// empty checks that no queue holds anything, now that all was settled and the
// consumers are gone.
func (l *load) empty() {
	l.t.Helper()
	c := mustConnect(l.t, l.addr)
	defer c.cut()
	ch := mustChannel(l.t, c)
	if !until(5*time.Second, func() bool { return l.waiting(ch) == 0 }) {
		l.t.Errorf("queues hold %d messages, though all were settled", l.waiting(ch))
	}
}

// until waits for a condition, and says whether it came.
func until(limit time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
