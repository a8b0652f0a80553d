package gmqlink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

const (
	// fetchMost is how many messages are asked for at once, at most.
	fetchMost = 128

	// waitMost is how long the server may wait for a message before it answers that
	// there is none: less than a heart-beat, so that its answer is a sign of life.
	waitMost = 30 * time.Second

	// A server that does not wait is asked again after a pause, which doubles.
	pauseLeast = 5 * time.Millisecond
	pauseMost  = 250 * time.Millisecond
)

// A receiver takes the messages of one queue on a session of its own. It asks for as
// many as may be unsettled, at first for one: twice as many for each that comes, and
// one again when there is none.
type receiver struct {
	session *session
	queue   string
	cfg     link.ReceiverConfig
	sink    link.Sink
	gate    *transport.Gate
	fetch   []byte // the request
	wait    time.Duration
	ledger  ledger

	batch []*link.Delivery // the reader's: of this read
	ids   []string         // and their ids

	// Guarded by session.Mu.
	burst    int           // how many may be asked for now
	asked    int           // that have no answer, or one that was not delivered yet
	since    time.Time     // when it was last asked
	pause    time.Duration // the last
	resting  *time.Timer   // nil: it does not rest
	stopped  bool          // nothing more is asked for
	finished bool          // resting is not to be set
}

// OpenReceiver implements link.Conn. The server makes a queue that there is not.
func (c *conn) OpenReceiver(ctx context.Context, cfg link.ReceiverConfig, sink link.Sink) (link.Receiver, error) {
	switch {
	case cfg.Queue == "":
		return nil, notAllowed("GMQ has no queues of a consumer's own")
	case cfg.Exclusive:
		return nil, notAllowed("GMQ has no exclusive consumers")
	case len(cfg.Arguments) > 0:
		return nil, notAllowed("GMQ has no arguments of a consumer")
	}
	length, err := appendLength(nil, cfg.Queue, false)
	if err != nil {
		return nil, err
	}
	r := &receiver{queue: cfg.Queue, cfg: cfg, sink: sink, gate: transport.NewGate(sink.Closed), burst: 1, wait: waitMost}
	if h := c.Options.Heartbeat; h > 0 {
		r.wait = min(r.wait, max(h*3/8, time.Millisecond))
	}
	r.ledger.ids = make(map[uint64]string)
	ack := gmqwire.AckManual
	if cfg.NoAck {
		ack = gmqwire.AckAuto
	}
	r.fetch = append(gmqwire.AppendRequest(nil, &gmqwire.Request{
		Operation: gmqwire.Subscribe, Queue: cfg.Queue, Ack: ack, WaitMsec: r.wait.Milliseconds(),
	}), '\n')
	session, err := c.another(ctx, func(on *session) {
		r.session, on.receiver = on, r
		on.Gates = []*transport.Gate{r.gate}
	})
	if err != nil {
		return nil, err
	}
	// It tells whether the queue may be used, and makes it.
	if _, err = session.ask(ctx, gmqwire.Length, length); err == nil {
		err = session.OpenGates()
	}
	if err != nil {
		session.End(transport.Closed(), false)
		return nil, err
	}
	session.Signal()
	return r, nil
}

// Queue implements link.Receiver.
func (r *receiver) Queue() string { return r.cfg.Queue }

// Ack implements link.Receiver.
func (r *receiver) Ack(tag uint64) error { return r.settle(tag, acked) }

// Nack implements link.Receiver.
func (r *receiver) Nack(tag uint64, requeue bool) error {
	if requeue {
		return r.settle(tag, requeued)
	}
	return r.settle(tag, dropped)
}

// Reject implements link.Receiver. GMQ has one word for it and Nack.
func (r *receiver) Reject(tag uint64, requeue bool) error { return r.Nack(tag, requeue) }

func (r *receiver) settle(tag uint64, how standing) error {
	first, err := r.ledger.settle(tag, how)
	if first {
		r.session.Signal()
	}
	return err
}

// appendSettledLocked is for the writer: what was settled since the last time.
func (r *receiver) appendSettledLocked(dst []byte) []byte {
	dst, n := r.ledger.appendSettled(dst)
	if n > 0 {
		r.session.waiting.push(ofSettle, n, nil)
	}
	return dst
}

// appendFetchesLocked is for the writer: it asks for as many messages as may come.
func (r *receiver) appendFetchesLocked(dst []byte) []byte {
	s := r.session
	if !s.Opened || r.stopped || r.resting != nil {
		return dst
	}
	n := r.burst - r.asked
	if r.asked > 0 && s.waiting.last() != ofFetch {
		n++ // what waits for a message ends with what was written behind it
	}
	if !r.cfg.NoAck && r.cfg.Prefetch > 0 {
		n = min(n, r.cfg.Prefetch-r.ledger.open()-r.asked)
	}
	if n <= 0 {
		return dst
	}
	for range n {
		dst = append(dst, r.fetch...)
	}
	r.asked += n
	r.since = time.Now()
	s.waiting.push(ofFetch, n, nil)
	return dst
}

// fetched handles the reply to S.
func (s *session) fetched(line []byte) *link.Error {
	r := s.receiver
	if err := s.parse(line, gmqwire.Subscribe); err != nil {
		return err
	}
	if s.reply.ErrorText != "" {
		s.deliverAll()
		s.dismissed(refusal(s.reply.ErrorText))
		return nil
	}
	if s.reply.ID == "" {
		r.empty()
		return nil
	}
	d, err := delivery(&s.reply, r.queue)
	if err != nil {
		return malformed("reading a message", err)
	}
	r.batch = append(r.batch, d)
	r.ids = append(r.ids, s.reply.ID)
	s.Mu.Lock()
	r.pause = 0
	r.burst = min(2*r.burst, fetchMost)
	s.Mu.Unlock()
	return nil
}

// empty notes that there is no message now. One that waited as long as it may, or
// was interrupted by what was written behind it, is asked for again at once; a server
// that does not wait, after a pause.
func (r *receiver) empty() {
	s := r.session
	s.Mu.Lock()
	defer s.Mu.Unlock()
	r.asked--
	r.burst = 1
	if !s.waiting.isEmpty() || r.stopped || r.finished {
		return
	}
	const early = 2 // the server's clock is not ours
	if time.Since(r.since) >= r.wait/early {
		r.pause = 0
		return
	}
	r.pause = min(max(2*r.pause, pauseLeast), pauseMost)
	r.resting = time.AfterFunc(r.pause, r.rested)
}

func (r *receiver) rested() {
	r.session.Mu.Lock()
	r.resting = nil
	r.session.Mu.Unlock()
	r.session.Signal()
}

// deliverAll gives the sink what one read brought, and has the writer ask for more.
func (s *session) deliverAll() {
	r := s.receiver
	if r == nil {
		return
	}
	if batch := r.batch; len(batch) > 0 {
		r.batch = nil
		r.give(batch)
		r.ids = r.ids[:0]
		s.Mu.Lock()
		r.asked -= len(batch) // now that the ledger has them
		s.Mu.Unlock()
	}
	s.Signal()
}

// give gives the sink deliveries.
func (r *receiver) give(batch []*link.Delivery) {
	s := r.session
	if r.cfg.NoAck {
		// The server counts these as done: they are given to the sink also while
		// the receiver closes, and the sink may hold the reader up.
		if r.gate.Passable() {
			s.Pulse.Held.Store(true)
			r.sink.Deliver(batch)
			s.Pulse.Held.Store(false)
		}
		return
	}
	// What is not taken in goes back to the queue with the session.
	if r.ledger.add(batch, r.ids) && r.gate.Enter() {
		r.sink.Deliver(batch)
		r.gate.Leave()
	}
}

// Cancel implements link.Receiver. What the server had sent before its answer is
// delivered.
func (r *receiver) Cancel(ctx context.Context) error {
	r.session.Mu.Lock()
	r.stopped = true
	r.session.Mu.Unlock()
	_, err := r.session.ask(ctx, gmqwire.Sync, syncLine)
	var e *link.Error
	if errors.As(err, &e) && e.Kind == link.Closed {
		return nil
	}
	return err
}

// Close implements link.Receiver. The order of the wire does what it promises:
// what was settled is written before the last request.
func (r *receiver) Close(ctx context.Context) error {
	r.close()
	if err := r.session.Close(ctx); err != nil {
		return fmt.Errorf("closing a receiver: %w", err)
	}
	return nil
}

// close has nothing settled or asked for any more. What was settled can still be
// written.
func (r *receiver) close() {
	r.ledger.close()
	r.session.Mu.Lock()
	r.stopped, r.finished = true, true
	resting := r.resting
	r.session.Mu.Unlock()
	if resting != nil {
		resting.Stop()
	}
}

// How a delivery was settled.
type standing uint8

const (
	acked standing = iota
	requeued
	dropped
)

type settlement struct {
	id  string
	how standing
}

// A ledger knows what deliveries of one receiver are unsettled, and writes what was
// settled: each once, several in one write. Tags are counted here.
type ledger struct {
	mu      sync.Mutex // guards all
	closed  bool
	queued  bool              // the writer knows that there is something
	last    uint64            // tag
	ids     map[uint64]string // of what is unsettled, as the server names it
	pending []settlement      // not written yet, in order
}

// add takes deliveries in and gives them their tags. It says false when nothing is
// taken in: then they stay unsettled.
func (l *ledger) add(batch []*link.Delivery, ids []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	for i, d := range batch {
		l.last++
		d.Tag = l.last
		l.ids[d.Tag] = ids[i]
	}
	return true
}

// settle notes how a delivery was settled. first is true when the writer is to be
// told.
func (l *ledger) settle(tag uint64, how standing) (first bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, link.ErrClosed
	}
	id, ok := l.ids[tag]
	if !ok {
		return false, link.ErrSettled
	}
	delete(l.ids, tag)
	l.pending = append(l.pending, settlement{id, how})
	first = !l.queued
	l.queued = true
	return first, nil
}

// open is how many the server counts as unsettled, but for what is about to come.
func (l *ledger) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ids) + len(l.pending)
}

// close makes settling fail.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// appendSettled appends what was settled since the last time, n of them.
func (l *ledger) appendSettled(dst []byte) (out []byte, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queued = false
	n = len(l.pending)
	for _, s := range l.pending {
		r := gmqwire.Request{Operation: gmqwire.Ack, ID: s.id}
		if s.how != acked {
			r.Operation, r.NoRequeue = gmqwire.Return, s.how == dropped
		}
		dst = append(gmqwire.AppendRequest(dst, &r), '\n')
	}
	l.pending = l.pending[:0]
	return dst, n
}
