package ferry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// Defaults of ConsumerOptions.
const (
	DefaultPrefetch = 100
	DefaultGrace    = 10 * time.Second
)

// ConsumerOptions say what is consumed, and how.
type ConsumerOptions struct {
	// Queue is consumed from. Without a name the consumer gets a queue of its
	// own, which the broker names and deletes with it, bound as Bindings say
	// (their Queue stays empty); after a reconnect it is a new one.
	Queue    string
	Bindings []Binding

	// Prefetch is how many deliveries may be unsettled at once; 0 is
	// DefaultPrefetch, less than 0 no limit. What is unsettled when a connection
	// is lost comes again, and some brokers count that against a message: a small
	// number is kind to slow handlers.
	Prefetch int

	// Concurrency is how many handlers of Consume run at once; 0 is 1. With more
	// than one, messages are not handled in order.
	Concurrency int

	// NoAck has the broker forget messages when it sends them: what was not
	// handled when the program breaks or the consumer is closed is lost. The
	// connection is of no interest to what was received.
	NoAck bool

	Exclusive bool           // no other consumer on the queue
	Tag       string         // shown to the broker's operators; "" has one made up
	Arguments map[string]any // of the broker's, as x-priority

	// Dedup drops messages whose ID is among the last so many that were
	// acknowledged through this consumer; 0 is off. A repeat of a message that is
	// being handled waits for that, so every delivery must be settled, also one
	// whose connection is gone. The IDs are in memory: 60 bytes or so each.
	Dedup int

	// Grace is how long handlers of Consume may go on when its context has ended,
	// or the client is closed; 0 is DefaultGrace.
	Grace time.Duration
}

// Consumer receives messages of a queue, over whichever connection there is.
type Consumer struct {
	client  *Client
	options ConsumerOptions
	handles bool     // the deliveries go to Consume's handler, which settles each
	repeats *repeats // nil without Dedup

	ctx     context.Context // ends when the consumer is to stop, with the reason
	cancel  context.CancelCauseFunc
	orderly context.Context // ends when it is to stop at once, and when it has
	cut     context.CancelCauseFunc
	ready   chan struct{} // closed at the first subscription, or with err
	arrived chan struct{} // one slot: there may be a delivery, or err
	space   chan struct{} // one slot: a delivery of a NoAck consumer was taken
	stopped chan struct{} // closed when run has returned

	retiring sync.WaitGroup // of run

	mu      sync.Mutex
	backlog backlog
	err     error // for good
	stats   ConsumerStats
}

// ConsumerStats counts what a consumer has seen.
type ConsumerStats struct {
	Received      uint64 // handed out
	Redelivered   uint64 // of these, with that mark
	Duplicates    uint64 // dropped by Dedup
	Subscriptions int    // one more than it was lost or cancelled
	Waiting       int    // received and not handed out
}

// Consumer begins to consume. It waits for the first subscription: an error is the
// broker's (ErrNotFound, ErrAccessRefused, ErrLocked is waited for), or ctx's,
// which bounds this wait only.
func (c *Client) Consumer(ctx context.Context, o ConsumerOptions) (*Consumer, error) {
	return c.newConsumer(ctx, o, false)
}

func (c *Client) newConsumer(ctx context.Context, o ConsumerOptions, handles bool) (*Consumer, error) {
	switch {
	case o.Prefetch == 0:
		o.Prefetch = DefaultPrefetch
	case o.Prefetch < 0:
		o.Prefetch = 0
	}
	if o.Prefetch > 1<<16-1 {
		return nil, fmt.Errorf("ferry: Prefetch is %d; at most %d is possible", o.Prefetch, 1<<16-1)
	}
	if o.Queue != "" && len(o.Bindings) > 0 {
		return nil, errors.New("ferry: Bindings are for a consumer without a Queue; a named queue is bound with Client.Declare")
	}
	for _, b := range o.Bindings {
		if b.Queue != "" || b.Destination != "" || b.Exchange == "" {
			return nil, errors.New("ferry: Bindings of a consumer have an Exchange, and no Queue or Destination: they are of its own queue")
		}
	}
	if o.Grace <= 0 {
		o.Grace = DefaultGrace
	}
	co := &Consumer{
		client:  c,
		options: o,
		handles: handles,
		ready:   make(chan struct{}),
		arrived: make(chan struct{}, 1),
		space:   make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	if o.Dedup > 0 {
		co.repeats = newRepeats(o.Dedup)
	}
	co.ctx, co.cancel = context.WithCancelCause(c.ctx)
	co.orderly, co.cut = context.WithCancelCause(context.Background())
	c.mu.Lock()
	if c.leaving {
		c.mu.Unlock()
		co.cancel(ErrClosed)
		co.cut(ErrClosed)
		return nil, ErrClosed
	}
	c.consumers[co] = struct{}{}
	c.mu.Unlock()
	c.start(c.consume)
	go co.run()

	var gaveUp error
	select {
	case <-co.ready:
		co.mu.Lock()
		err := co.err
		co.mu.Unlock()
		if err == nil {
			return co, nil
		}
		gaveUp = err
	case <-ctx.Done():
		gaveUp = withReason(ended(ctx), c.consume.why())
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = co.Close(now)
	return nil, fmt.Errorf("ferry: consuming from %s: %w", co.name(), gaveUp)
}

func (co *Consumer) name() string {
	if co.options.Queue == "" {
		return "a queue of its own"
	}
	return fmt.Sprintf("queue %q", co.options.Queue)
}

// run subscribes on one connection after the other.
func (co *Consumer) run() {
	defer close(co.stopped)
	err := co.keep()
	co.cancel(err)
	co.mu.Lock()
	co.err = err
	if co.stats.Subscriptions == 0 {
		close(co.ready)
	}
	co.mu.Unlock()
	raise(co.arrived)
	co.retiring.Wait()
	co.cut(err)
	co.client.mu.Lock()
	delete(co.client.consumers, co)
	co.client.mu.Unlock()
}

func (co *Consumer) keep() error {
	for {
		current, err := co.client.consume.acquire(co.ctx)
		if err != nil {
			return err
		}
		err = co.use(current)
		current.users.Done()
		if err != nil {
			return err
		}
	}
}

// Waits before a consumer subscribes again on a connection that goes on.
const (
	resubscribeWait    = 50 * time.Millisecond
	resubscribeMaxWait = 5 * time.Second
)

// redeclares is how often a queue that is gone is declared anew before that is
// taken to be of no use. With one, a queue that the broker deletes twice, late
// and because somebody wants it, would end its consumer.
const redeclares = 5

// use consumes over one connection until it ends (nil), or the consumer does.
func (co *Consumer) use(current *session) error {
	wait := backoff{initial: resubscribeWait, max: resubscribeMaxWait}
	redeclared := 0
	for {
		s := newSubscription(co)
		opening, cancel := current.opening(co.ctx)
		receiver, err := current.conn.OpenReceiver(opening, co.config(), s)
		cancel()
		if err != nil {
			s.cancel(ErrClosed)
			current.unanswered(co.ctx, err)
			switch {
			case co.ctx.Err() != nil:
				return ended(co.ctx)
			case !alive(current.conn), moved(current):
				return nil
			case judge(err, true) == giveUp:
				// The broker may have deleted, with the old connection, what was
				// declared on this one before.
				if !errors.Is(public(err), ErrNotFound) || redeclared == redeclares || !co.redeclare(current) {
					if alive(current.conn) && co.ctx.Err() == nil {
						return public(err)
					}
					continue // which finds out why it could not be
				}
				if redeclared++; redeclared == 1 {
					continue
				}
			}
			if err := co.rest(current, wait.next()); err != nil {
				return err
			}
			continue
		}
		co.subscribed(current)
		s.attach(receiver)
		began := time.Now()

		select {
		case <-s.closed:
			co.takeBack(s) // the broker has
			if !alive(current.conn) {
				return nil
			}
			co.lost(current, s)
		case <-s.cancelled:
			co.lost(current, s)
			co.retiring.Go(func() { co.retire(s) })
		case <-current.moved:
			ctx, cancel := context.WithTimeout(co.orderly, moveTimeout)
			s.finish(ctx, moveTimeout, errMoved)
			cancel()
			return nil
		case <-co.ctx.Done():
			if !errors.Is(ended(co.ctx), ErrClosed) { // the client has failed
				co.cut(ended(co.ctx))
			}
			s.finish(co.orderly, co.grace(), ErrClosed)
			return ended(co.ctx)
		}
		if time.Since(began) >= lasting {
			wait.reset()
			redeclared = 0
		}
		if err := co.rest(current, wait.next()); err != nil {
			return err
		}
	}
}

var errMoved = fmt.Errorf("%w: a preferred broker is back", ErrConnectionLost)

// rest waits for d, and for no longer than the connection is of use.
func (co *Consumer) rest(current *session, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-current.conn.Done():
	case <-current.moved:
	case <-co.ctx.Done():
		return ended(co.ctx)
	}
	return nil
}

// grace is how long what was handed out may take to be settled when the consumer
// is closed. What Receive gave is settled whenever the program likes: it is not
// waited for.
func (co *Consumer) grace() time.Duration {
	if co.handles {
		return co.options.Grace
	}
	return 0
}

func (co *Consumer) config() link.ReceiverConfig {
	o := &co.options
	cfg := link.ReceiverConfig{
		Queue: o.Queue, Prefetch: o.Prefetch, NoAck: o.NoAck, Exclusive: o.Exclusive,
		Tag: o.Tag, Arguments: o.Arguments,
	}
	for _, b := range o.Bindings {
		cfg.Bindings = append(cfg.Bindings, link.Binding(b))
	}
	return cfg
}

func (co *Consumer) subscribed(current *session) {
	co.mu.Lock()
	co.stats.Subscriptions++
	first := co.stats.Subscriptions == 1
	co.mu.Unlock()
	if first {
		close(co.ready)
		return
	}
	co.client.consume.emit(Resubscribed, &current.endpoint, nil)
}

func (co *Consumer) lost(current *session, s *subscription) {
	err := s.why()
	if err == nil {
		err = errors.New("the broker gave no reason")
	}
	co.client.consume.emit(ConsumerCancelled, &current.endpoint, fmt.Errorf("consuming from %s: %w", co.name(), err))
}

// redeclare declares the consumer's queue anew, if it is one of the topology.
func (co *Consumer) redeclare(current *session) bool {
	t := &co.client.topology
	if _, ok := t.queue(co.options.Queue); !ok {
		return false
	}
	for _, err := range t.declare(co.ctx, current.conn, t.items(consuming, co.options.Queue), 0) {
		if err != nil && (co.ctx.Err() != nil || !alive(current.conn)) {
			return false
		}
		if err != nil {
			co.client.consume.emit(TopologyRefused, &current.endpoint, err)
			return false
		}
	}
	return true
}

// retire closes a subscription that the broker has cancelled, once what it
// delivered is settled.
func (co *Consumer) retire(s *subscription) {
	s.giveBack()
	s.settle(co.ctx)
	if co.ctx.Err() != nil {
		ctx, cancel := context.WithTimeout(co.orderly, co.grace())
		s.settle(ctx)
		cancel()
		s.cancel(ended(co.ctx))
	}
	ctx, cancel := context.WithTimeout(co.orderly, closeTimeout)
	defer cancel()
	_ = s.receiver.Close(ctx) // what was not written is delivered again
}

// A NoAck consumer that does not keep up has its connection not read beyond these.
const (
	maxWaiting      = 10_000
	maxWaitingBytes = 16 << 20
)

// put takes deliveries from a subscription. For a NoAck consumer it waits for
// room.
func (co *Consumer) put(s *subscription, ds []*Delivery) {
	co.mu.Lock()
	for co.options.NoAck && co.full() && co.ctx.Err() == nil && s.ctx.Err() == nil {
		co.mu.Unlock()
		select {
		case <-co.space:
		case <-s.ctx.Done():
		case <-co.ctx.Done():
		}
		co.mu.Lock()
	}
	co.backlog.push(ds)
	co.mu.Unlock()
	raise(co.arrived)
}

func (co *Consumer) full() bool {
	return co.backlog.len() >= maxWaiting || co.backlog.bytes >= maxWaitingBytes
}

// take gives the oldest delivery that can still be settled, nil if there is none.
func (co *Consumer) take() (*Delivery, error) {
	co.mu.Lock()
	defer co.mu.Unlock()
	if co.handles && co.ctx.Err() != nil {
		return nil, ended(co.ctx) // what is handed out now would not be waited for
	}
	for {
		d := co.backlog.pop()
		if d == nil {
			return nil, co.err
		}
		if co.options.NoAck {
			raise(co.space)
		} else if d.from.ctx.Err() != nil {
			continue
		}
		if co.repeats != nil && d.ID != "" {
			switch co.repeats.begin(d) {
			case repeated:
				co.stats.Duplicates++
				if !co.options.NoAck {
					_ = d.from.receiver.Ack(d.tag) // stale ones come again, and are dropped again
				}
				continue
			case held:
				continue
			}
		}
		co.stats.Received++
		if d.Redelivered {
			co.stats.Redelivered++
		}
		if !co.options.NoAck || co.handles {
			d.from.handedOut()
		}
		if co.backlog.len() > 0 {
			raise(co.arrived)
		}
		return d, nil
	}
}

// takeBack removes what came by a subscription and was not handed out. What the
// broker does not know any more stays.
func (co *Consumer) takeBack(s *subscription) []*Delivery {
	if co.options.NoAck {
		return nil
	}
	co.mu.Lock()
	defer co.mu.Unlock()
	return co.backlog.remove(s)
}

// again puts deliveries that had to wait for an earlier copy in front.
func (co *Consumer) again(ds []*Delivery) {
	if len(ds) == 0 {
		return
	}
	co.mu.Lock()
	co.backlog.unpop(ds)
	co.mu.Unlock()
	raise(co.arrived)
}

// Receive gives the next delivery. It fails when ctx ends, with ErrClosed when
// the consumer was closed, and with the broker's error when it will not let this
// queue be consumed from any more.
func (co *Consumer) Receive(ctx context.Context) (*Delivery, error) {
	for {
		if ctx.Err() != nil {
			raise(co.arrived) // it may have been this call that was told
			return nil, ended(ctx)
		}
		d, err := co.take()
		switch {
		case d != nil:
			return d, nil
		case err != nil:
			raise(co.arrived) // for others who wait
			return nil, err
		}
		select {
		case <-co.arrived:
		case <-ctx.Done():
		}
	}
}

// All gives deliveries as they come. It ends when ctx does, or the consumer is
// closed; another error is given once, at the end.
func (co *Consumer) All(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		for {
			d, err := co.Receive(ctx)
			switch {
			case err == nil:
				if !yield(d, nil) {
					return
				}
			case ctx.Err() != nil, errors.Is(err, ErrClosed):
				return
			default:
				yield(nil, err)
				return
			}
		}
	}
}

// Stats counts what the consumer has seen.
func (co *Consumer) Stats() ConsumerStats {
	co.mu.Lock()
	defer co.mu.Unlock()
	s := co.stats
	s.Waiting = co.backlog.len()
	return s
}

// Close ends the consumer in order: the broker sends no more, what was not handed
// out goes back to the queue, handlers of Consume finish, and what was settled is
// with the broker. Deliveries of Receive and All that are not settled by now go
// back to the queue; those that a NoAck consumer has received can be had from
// Receive yet. When ctx ends first the rest is cut short, also that of other
// calls of Close.
func (co *Consumer) Close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { co.cut(ended(ctx)) })
	defer stop()
	co.cancel(ErrClosed)
	<-co.stopped
	if ctx.Err() != nil {
		return fmt.Errorf("ferry: closing the consumer of %s: %w", co.name(), ended(ctx))
	}
	return nil
}
