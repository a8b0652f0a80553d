package ferry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// Defaults of PublisherOptions.
const (
	DefaultWindow      = 1000
	DefaultWindowBytes = 64 << 20
)

// callbackGrace is how long callbacks may take to return once the context of
// Close has ended: those that do nothing long have returned then.
const callbackGrace = 50 * time.Millisecond

// PublisherOptions are the settings of a publisher; the zero value is the safe
// one.
type PublisherOptions struct {
	// Exchange and Key are for messages that have neither.
	Exchange, Key string

	// Window is how many messages may be without an outcome at once, and
	// WindowBytes how many bytes their bodies may have; Submit waits for room. 0
	// is DefaultWindow and DefaultWindowBytes. One message is always let in.
	Window, WindowBytes int

	// NoConfirm does not ask the broker to confirm: a message counts as confirmed
	// when it was handed to the operating system, and is lost when the
	// connection breaks behind it. It has no ID but one that it came with, and is
	// not sent again: what was on its way to the operating system when the
	// connection broke is ErrUnknown.
	NoConfirm bool

	// DropUnroutable has the broker confirm and drop messages that no queue
	// takes. Without it they are refused with ErrUnroutable. STOMP has no way to
	// ask for that: Ferry refuses messages for a queue that is not there all the
	// same, Artemis makes the queue, RabbitMQ confirms and drops them.
	DropUnroutable bool
}

// Publisher sends messages, over whichever connection there is, on a channel of
// its own, or, over STOMP, a connection of its own: what the broker says against one of its messages concerns no other
// publisher. Messages of one publisher arrive in the order of their Submit calls,
// but for what is sent again after an unknown outcome.
type Publisher struct {
	client    *Client
	options   PublisherOptions
	producer  string
	mandatory bool
	replies   link.Sink // of a requester

	ctx        context.Context // ends when the publisher is to stop, with the reason
	cancel     context.CancelCauseFunc
	drained    chan struct{} // one slot: nothing is in flight
	results    chan struct{} // one slot: finished has some
	ended      chan struct{} // closed when nothing is sent any more, and all have an outcome
	calledBack chan struct{} // closed when all callbacks have returned

	// Spare ones. They are of one publisher, so that nothing is shared between
	// publishers in different testing/synctest bubbles.
	waiters     sync.Pool
	submissions sync.Pool

	mu       sync.Mutex
	window   window
	queue    []*submission // wait for room, in order
	feed     *feed         // of the present sender
	careful  uint64        // before this place one message at a time is sent
	trouble  error         // why the last sender ended, if nothing was settled since
	closing  error         // why no more is accepted
	goodbye  context.Context
	finished []finished
	suspect  uint64 // the place of the message that was alone in flight when the broker ended a connection
	fatal    int    // how many it ended so in a row
	flushes  []flush
	stores   struct{ begun, ended uint64 } // messages given to the outbox, instead of the window
	done     bool                          // no results will follow
	left     []Message                     // without an outcome when it ended
	stats    PublisherStats
}

// A submission waits for room in the window.
type submission struct {
	entry    entry
	admitted chan struct{} // one slot; then the rest is valid
	place    uint64
	err      error
}

// finished is a result on its way to a callback.
type finished struct {
	done   func(Result)
	result Result
}

// flush waits for everything before a place.
type flush struct {
	place uint64
	done  chan struct{}
}

// PublisherStats counts what became of a publisher's messages.
type PublisherStats struct {
	Confirmed, Refused, Unknown, NotSent uint64 // outcomes
	Resent                               uint64 // times a message was sent again
	InFlight                             int    // sent and without an outcome
	Waiting                              int    // not sent
}

// Publisher makes a publisher. It does not wait for a connection.
func (c *Client) Publisher(o PublisherOptions) (*Publisher, error) {
	return c.newPublisher(o, nil)
}

func (c *Client) newPublisher(o PublisherOptions, replies link.Sink) (*Publisher, error) {
	if o.Window <= 0 {
		o.Window = DefaultWindow
	}
	if o.WindowBytes <= 0 {
		o.WindowBytes = DefaultWindowBytes
	}
	p := &Publisher{
		client:     c,
		options:    o,
		mandatory:  !o.DropUnroutable && !o.NoConfirm,
		replies:    replies,
		drained:    make(chan struct{}, 1),
		results:    make(chan struct{}, 1),
		ended:      make(chan struct{}),
		calledBack: make(chan struct{}),
		window:     newWindow(),
	}
	p.waiters.New = func() any { return make(chan Result, 1) }
	p.submissions.New = func() any { return &submission{admitted: make(chan struct{}, 1)} }
	if !o.NoConfirm {
		p.producer = link.NewProducer()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, ErrClosed
	}
	if err := context.Cause(c.ctx); err != nil {
		return nil, err
	}
	p.ctx, p.cancel = context.WithCancelCause(c.ctx)
	c.publishers[p] = struct{}{}
	go p.run()
	go p.callBack()
	return p, nil
}

// Publish sends a message and waits for its outcome: nil when the broker has
// confirmed it; ErrRefused; or, when ctx or the client ends first, ErrNotSent or
// ErrUnknown: then it is not sent any more, or not again. With an outbox it waits
// until the message is on disk. While there is no connection it waits, too. An
// error that is none of these says what is wrong with m.
func (p *Publisher) Publish(ctx context.Context, m Message) error {
	if limit := p.client.options.sendTimeout; limit > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within the timeout of the URL, %v", limit))
		defer cancel()
	}
	if p.client.outbox != nil && p.replies == nil {
		return p.client.putOutbox(ctx, p, m)
	}
	return p.publish(ctx, m)
}

func (p *Publisher) publish(ctx context.Context, m Message) (err error) {
	end, err := p.prepare(ctx, &m)
	if err != nil {
		return err
	}
	if end != nil {
		defer func() { end(err) }()
	}
	waiter := p.waiters.Get().(chan Result)
	place, err := p.submit(ctx, &entry{message: m, waiter: waiter})
	if err != nil {
		p.waiters.Put(waiter)
		return err
	}
	select {
	case r := <-waiter:
		p.waiters.Put(waiter)
		return r.Err
	case <-ctx.Done():
		if err := p.abandon(ctx, place); err != nil {
			return err
		}
		return (<-waiter).Err
	}
}

// Submit sends a message without waiting for its outcome, which done is called
// with, once, on a goroutine that calls all of this publisher's callbacks one
// after the other, in the order of the outcomes. ctx bounds the wait for room in
// the window, which is given in the order of the calls: when ctx ends first the
// error is ErrNotSent. After an error done is not called. done may be nil: Stats
// and Close tell then. With an outbox the outcome is that the message is on disk.
//
// done may take its time: that delays the callbacks that follow, whose results
// wait in memory, and nothing else. It may call Submit and Publish; Flush and
// Close of the same publisher would wait for itself.
func (p *Publisher) Submit(ctx context.Context, m Message, done func(Result)) error {
	end, err := p.prepare(ctx, &m)
	if err != nil {
		return err
	}
	if end != nil {
		after := done
		done = func(r Result) {
			end(r.Err)
			if after != nil {
				after(r)
			}
		}
	}
	if p.client.outbox != nil && p.replies == nil {
		err = p.client.submitOutbox(ctx, p, m, done)
	} else {
		_, err = p.submit(ctx, &entry{message: m, done: done})
	}
	if err != nil && end != nil {
		end(err)
	}
	return err
}

// prepare completes and checks a message. end is to be called with the outcome,
// unless it is nil.
func (p *Publisher) prepare(ctx context.Context, m *Message) (end func(error), err error) {
	if m.Exchange == "" && m.Key == "" {
		m.Exchange, m.Key = p.options.Exchange, p.options.Key
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	if p.client.options.tracer != nil {
		return p.trace(ctx, m)
	}
	inject(ctx, m)
	return nil, nil
}

// trace shows a message to the tracer, which may set headers of it.
func (p *Publisher) trace(ctx context.Context, m *Message) (end func(error), err error) {
	shown := *m // so that the others stay off the heap
	if shown.Headers = maps.Clone(m.Headers); shown.Headers == nil {
		shown.Headers = make(map[string]any, 2)
	}
	_, end = p.client.options.tracer.Start(ctx, Sending, &shown)
	*m = shown
	if err := m.check(); err != nil {
		if end != nil {
			end(err)
		}
		return nil, err
	}
	return end, nil
}

// submit puts an entry into the window when there is room and its turn.
func (p *Publisher) submit(ctx context.Context, e *entry) (place uint64, err error) {
	if ctx.Err() != nil {
		return 0, notSent(withReason(ended(ctx), p.why()))
	}
	e.foreign = e.message.ID != ""
	p.mu.Lock()
	if err := p.closing; err != nil {
		p.mu.Unlock()
		return 0, notSent(err)
	}
	if !p.hasRoomLocked(len(e.message.Body)) {
		p.forgoLocked()
	}
	if len(p.queue) > 0 || !p.hasRoomLocked(len(e.message.Body)) {
		s := p.submissions.Get().(*submission)
		s.entry = *e
		p.queue = append(p.queue, s)
		p.mu.Unlock()
		return p.wait(ctx, s)
	}
	place = p.window.push(e)
	sender := p.senderLocked()
	p.mu.Unlock()
	wake(sender)
	return place, nil
}

// wait waits until there is room for a submission.
func (p *Publisher) wait(ctx context.Context, s *submission) (place uint64, err error) {
	defer func() {
		s.entry, s.place, s.err = entry{}, 0, nil
		p.submissions.Put(s)
	}()
	select {
	case <-s.admitted:
		return s.place, s.err
	case <-ctx.Done():
	}
	why := withReason(ended(ctx), p.why())
	p.mu.Lock()
	i := slices.Index(p.queue, s)
	if i < 0 {
		p.mu.Unlock()
		<-s.admitted
		return s.place, s.err
	}
	p.queue = slices.Delete(p.queue, i, i+1)
	p.admitLocked() // what waited behind it may be smaller
	sender := p.senderLocked()
	p.mu.Unlock()
	wake(sender)
	return 0, notSent(why)
}

// admitLocked lets in what waits and finds room, in its order. It tells whether
// there was any: then the sender is to be woken.
func (p *Publisher) admitLocked() bool {
	n := 0
	for ; n < len(p.queue); n++ {
		s := p.queue[n]
		if !p.hasRoomLocked(len(s.entry.message.Body)) {
			break
		}
		s.place = p.window.push(&s.entry)
		p.queue[n] = nil
		raise(s.admitted)
	}
	p.queue = p.queue[n:]
	return n > 0
}

// forgoLocked makes room where what is oldest was given up by who published it, and
// has no answer yet. It tells whether something was let in.
func (p *Publisher) forgoLocked() (admitted bool) {
	p.window.forgo()
	return p.trimLocked()
}

// refuseLocked accepts no more.
func (p *Publisher) refuseLocked(why error) {
	if p.closing == nil {
		p.closing = why
	}
	for _, s := range p.queue {
		s.err = notSent(p.closing)
		raise(s.admitted)
	}
	p.queue = nil
}

func (p *Publisher) hasRoomLocked(size int) bool {
	n := p.window.len()
	return n == 0 || n < p.options.Window && p.window.bytes+size <= p.options.WindowBytes
}

func notSent(why error) error { return fmt.Errorf("%w: %w", ErrNotSent, why) }
func unknown(why error) error { return fmt.Errorf("%w: %w", ErrUnknown, why) }

// why is what is known of messages not getting on.
func (p *Publisher) why() error {
	if err := p.client.publish.why(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble
}

// abandon gives up waiting for a message: nobody is told its outcome any more.
// One that never left is taken back; one that did is not sent again. If the
// message has an outcome already abandon does nothing, and returns nil.
func (p *Publisher) abandon(ctx context.Context, place uint64) error {
	why := withReason(ended(ctx), p.why())
	p.mu.Lock()
	if place < p.window.first || p.window.at(place).state >= abandoned {
		p.mu.Unlock()
		return nil
	}
	e := p.window.at(place)
	e.waiter, e.done = nil, nil
	err := unknown(why)
	if e.attempts > 0 {
		p.stats.Unknown++
	} else {
		err = notSent(why)
		p.stats.NotSent++
	}
	var sender link.Sender
	if e.state == taken {
		e.state = abandoned
		if len(p.queue) > 0 && p.forgoLocked() {
			sender = p.senderLocked()
		}
	} else {
		p.window.settle(e)
		if p.trimLocked() {
			sender = p.senderLocked()
		}
	}
	p.mu.Unlock()
	wake(sender)
	return err
}

// settleLocked gives an entry its outcome. trimLocked is to be called after it.
func (p *Publisher) settleLocked(e *entry, err error) {
	r := Result{Err: err, Attempts: e.attempts, producer: p.producer, seq: e.seq, id: e.message.ID}
	given := e.state == abandoned
	p.window.settle(e)
	if given {
		return
	}
	switch {
	case err == nil:
		p.stats.Confirmed++
	case errors.Is(err, ErrRefused):
		p.stats.Refused++
	case errors.Is(err, ErrNotSent):
		p.stats.NotSent++
	default:
		p.stats.Unknown++
	}
	switch {
	case e.waiter != nil:
		e.waiter <- r
		e.waiter = nil
	case e.done != nil:
		p.finished = append(p.finished, finished{e.done, r})
	}
}

// flushedLocked tells those who wait for what is before a place that it has its
// outcome, behind the callbacks of that.
func (p *Publisher) flushedLocked(first uint64) {
	n := 0
	for _, f := range p.flushes {
		if f.place <= first {
			p.finished = append(p.finished, f.finished())
		} else {
			p.flushes[n] = f
			n++
		}
	}
	clear(p.flushes[n:])
	p.flushes = p.flushes[:n]
}

// trimLocked lets go of what has its outcome, and tells those who wait for it. It
// says whether something was let in: then the sender is to be woken.
func (p *Publisher) trimLocked() (admitted bool) {
	if p.window.trim() {
		p.flushedLocked(p.window.first)
		admitted = p.admitLocked()
	}
	if p.feed != nil && p.feed.held && p.window.flying == 0 {
		raise(p.drained)
	}
	if len(p.finished) > 0 {
		raise(p.results)
	}
	return admitted
}

func (f flush) finished() finished { return finished{done: func(Result) { close(f.done) }} }

// Flush waits until all that was submitted before has its outcome and its
// callbacks have returned. With an outbox it waits until that is empty.
func (p *Publisher) Flush(ctx context.Context) error {
	if err := p.flush(ctx); err != nil {
		return err
	}
	if p.client.outbox != nil && p.replies == nil {
		return p.client.flushOutbox(ctx)
	}
	return nil
}

func (p *Publisher) flush(ctx context.Context) error {
	p.mu.Lock()
	first, end := p.window.first, p.window.end
	if p.stores.begun > 0 {
		first, end = p.stores.ended, p.stores.begun
	}
	f := flush{end, make(chan struct{})}
	wait := f.done
	switch {
	case p.done:
		wait = p.calledBack
	case first == end:
		p.finished = append(p.finished, f.finished())
		raise(p.results)
	default:
		p.flushes = append(p.flushes, f)
	}
	p.mu.Unlock()
	select {
	case <-wait:
		return nil
	case <-ctx.Done():
	}
	why := withReason(ended(ctx), p.why())
	p.mu.Lock()
	p.flushes = slices.DeleteFunc(p.flushes, func(other flush) bool { return other == f })
	p.mu.Unlock()
	return fmt.Errorf("ferry: flushing: %w", why)
}

// Stats counts what became of the messages so far.
func (p *Publisher) Stats() PublisherStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.InFlight = p.window.flying
	s.Waiting = int(p.window.end - p.window.next)
	return s
}

// Close accepts no more, waits until everything has its outcome and the callbacks
// have returned, and ends the publisher. When ctx ends first what is left gets
// ErrUnknown or ErrNotSent, and Close returns it as an *UnconfirmedError; it then
// does not wait long for callbacks. So it does when the client ended before.
// Closing again returns the same.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.refuseLocked(ErrClosed)
	p.mu.Unlock()
	flushed := p.flush(ctx)
	p.mu.Lock()
	p.goodbye = ctx
	p.mu.Unlock()
	p.cancel(ErrClosed)
	<-p.ended // takes no longer than ctx
	if flushed == nil {
		<-p.calledBack
	} else {
		grace := time.NewTimer(callbackGrace)
		defer grace.Stop()
		select {
		case <-p.calledBack:
		case <-grace.C: // a callback that does not return is its owner's
		}
	}
	p.client.mu.Lock()
	delete(p.client.publishers, p)
	p.client.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.left) == 0:
		return nil
	case flushed == nil:
		return &UnconfirmedError{Messages: p.left, Cause: p.closing}
	default:
		return &UnconfirmedError{Messages: p.left, Cause: flushed}
	}
}

// callBack calls what waits for results, until there will be no more.
func (p *Publisher) callBack() {
	defer close(p.calledBack)
	var batch []finished
	for {
		p.mu.Lock()
		clear(batch)
		batch, p.finished = p.finished, batch[:0]
		done := p.done && p.stores.begun == p.stores.ended
		p.mu.Unlock()
		for _, f := range batch {
			f.done(f.result)
		}
		if len(batch) > 0 {
			continue
		}
		if done {
			return
		}
		<-p.results
	}
}

// Publish publishes through a publisher of the client's own, as Publisher.Publish
// does.
func (c *Client) Publish(ctx context.Context, m Message) error {
	p, err := c.commonPublisher()
	if err != nil {
		return notSent(err)
	}
	return p.Publish(ctx, m)
}

// commonPublisher is made when it is first needed.
func (c *Client) commonPublisher() (*Publisher, error) {
	c.mu.Lock()
	p := c.common
	c.mu.Unlock()
	if p != nil {
		return p, nil
	}
	made, err := c.Publisher(PublisherOptions{})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.common == nil {
		c.common, made = made, nil
	}
	p = c.common
	c.mu.Unlock()
	if made != nil {
		_ = made.Close(context.Background()) // another call was first; it never had a message
	}
	return p, nil
}
