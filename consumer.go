package ferry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
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
	// handled when the connection or the program breaks is lost.
	NoAck bool

	Exclusive bool           // no other consumer on the queue
	Tag       string         // shown to the broker's operators; "" has one made up
	Arguments map[string]any // of the broker's, as x-priority

	// Dedup drops messages whose ID is among the last so many that were
	// acknowledged through this consumer; 0 is off. A repeat of a message that is
	// being handled waits for that, so every delivery must be settled, also one
	// whose connection is gone. The IDs are in memory: 60 bytes or so each.
	Dedup int

	// Grace is how long handlers of Consume may go on when its context has
	// ended; 0 is DefaultGrace.
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
	ready   chan struct{} // closed at the first subscription, or with err
	arrived chan struct{} // one slot: there may be a delivery, or err
	space   chan struct{} // one slot: a delivery of a NoAck consumer was taken
	stopped chan struct{} // closed when run has returned

	mu      sync.Mutex
	queue   []*Delivery // from head on: not handed out
	head    int
	bytes   int   // of the bodies in it
	err     error // for good
	goodbye context.Context
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
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
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
	co.mu.Lock()
	co.err = err
	if co.stats.Subscriptions == 0 {
		close(co.ready)
	}
	co.mu.Unlock()
	raise(co.arrived)
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

// use consumes over one connection until it ends (nil), or the consumer does.
func (co *Consumer) use(current *session) error {
	wait := backoff{initial: resubscribeWait, max: resubscribeMaxWait}
	redeclared := false
	for {
		s := newSubscription(co)
		receiver, err := current.conn.OpenReceiver(co.ctx, co.config(), s)
		if err != nil {
			s.cancel(ErrClosed)
			switch {
			case co.ctx.Err() != nil:
				return ended(co.ctx)
			case !alive(current.conn), moved(current):
				return nil
			case judge(err, true) == giveUp:
				// The broker may have deleted, with the old connection, what was
				// declared on this one before.
				if errors.Is(public(err), ErrNotFound) && !redeclared && co.redeclare(current) {
					redeclared = true
					continue
				}
				return public(err)
			}
			if err := pause(co.ctx, wait.next()); err != nil {
				return err
			}
			continue
		}
		co.subscribed(current)
		s.attach(receiver)
		began := time.Now()

		select {
		case <-s.closed:
			if !alive(current.conn) {
				return nil
			}
			co.lost(current, s)
		case <-s.cancelled:
			co.lost(current, s)
			go co.retire(s)
		case <-current.moved:
			ctx, cancel := context.WithTimeout(co.client.farewell(), moveTimeout)
			s.finish(ctx, true)
			cancel()
			return nil
		case <-co.ctx.Done():
			co.mu.Lock()
			goodbye := co.goodbye
			co.mu.Unlock()
			if goodbye == nil { // the client has failed
				goodbye = co.ctx
			}
			s.finish(goodbye, co.handles)
			return ended(co.ctx)
		}
		if time.Since(began) >= lasting {
			wait.reset()
			redeclared = false
		}
		if err := pause(co.ctx, wait.next()); err != nil {
			return err
		}
	}
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
	if !t.hasQueue(co.options.Queue) {
		return false
	}
	for _, err := range t.declare(co.ctx, current.conn, t.items(consuming, co.options.Queue)) {
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
	s.settle(co.ctx)
	ctx, cancel := context.WithTimeout(co.client.farewell(), closeTimeout)
	defer cancel()
	_ = s.receiver.Close(ctx)
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
	for co.options.NoAck && (len(co.queue)-co.head >= maxWaiting || co.bytes >= maxWaitingBytes) && co.err == nil {
		co.mu.Unlock()
		select {
		case <-co.space:
		case <-s.ctx.Done():
		case <-co.ctx.Done():
		}
		co.mu.Lock()
		if co.ctx.Err() != nil || s.ctx.Err() != nil {
			break
		}
	}
	if co.head > 0 && co.head == len(co.queue) {
		co.queue, co.head = co.queue[:0], 0
	}
	co.queue = append(co.queue, ds...)
	for _, d := range ds {
		co.bytes += len(d.Body)
	}
	co.mu.Unlock()
	raise(co.arrived)
}

// take gives the oldest delivery that can still be settled, nil if there is none.
func (co *Consumer) take() (*Delivery, error) {
	co.mu.Lock()
	defer co.mu.Unlock()
	for co.head < len(co.queue) {
		d := co.queue[co.head]
		co.queue[co.head] = nil
		co.head++
		co.bytes -= len(d.Body)
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
		d.from.handedOut()
		if co.head < len(co.queue) {
			raise(co.arrived)
		}
		return d, nil
	}
	co.queue, co.head = co.queue[:0], 0
	return nil, co.err
}

// takeBack removes what came by a subscription and was not handed out.
func (co *Consumer) takeBack(s *subscription) []*Delivery {
	if co.options.NoAck {
		return nil
	}
	co.mu.Lock()
	defer co.mu.Unlock()
	var back []*Delivery
	rest := slices.DeleteFunc(co.queue[co.head:], func(d *Delivery) bool {
		if d.from != s {
			return false
		}
		back = append(back, d)
		co.bytes -= len(d.Body)
		return true
	})
	co.queue = co.queue[:co.head+len(rest)]
	return back
}

// again puts deliveries that had to wait for an earlier copy in front.
func (co *Consumer) again(ds []*Delivery) {
	if len(ds) == 0 {
		return
	}
	co.mu.Lock()
	co.queue = slices.Insert(co.queue, co.head, ds...)
	for _, d := range ds {
		co.bytes += len(d.Body)
	}
	co.mu.Unlock()
	raise(co.arrived)
}

// Receive gives the next delivery. It fails when ctx ends, with ErrClosed when
// the consumer was closed, and with the broker's error when it will not let this
// queue be consumed from any more.
func (co *Consumer) Receive(ctx context.Context) (*Delivery, error) {
	for {
		if ctx.Err() != nil {
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
	s.Waiting = len(co.queue) - co.head
	return s
}

// Close ends the consumer in order: the broker sends no more, what was not handed
// out goes back to the queue, handlers of Consume finish, and what was settled is
// with the broker. Deliveries of Receive and All that are not settled by now go
// back to the queue. When ctx ends first the rest is cut short.
func (co *Consumer) Close(ctx context.Context) error {
	co.mu.Lock()
	if co.goodbye == nil {
		co.goodbye = ctx
	}
	co.mu.Unlock()
	co.cancel(ErrClosed)
	<-co.stopped
	co.client.mu.Lock()
	delete(co.client.consumers, co)
	co.client.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("ferry: closing the consumer of %s: %w", co.name(), ended(ctx))
	}
	return nil
}

// Waits after a handler has failed, so that a message that always fails does not
// spin between broker and handler.
const (
	failedWait    = 10 * time.Millisecond
	failedMaxWait = time.Second
)

// Consume calls handle with each delivery, on Concurrency goroutines, until ctx
// ends (nil), the client is closed (ErrClosed) or the broker refuses. A delivery
// whose handler returns nil is acknowledged; one whose handler returns an error
// that wraps ErrReject is rejected; with any other error it is requeued, after a
// short wait that grows while handlers keep failing.
//
// The context that handle gets has the values of ctx and the message's trace
// context. It ends when the delivery's connection is lost (context.Cause is
// ErrConnectionLost): the message is delivered again then, and what handle
// returns changes nothing. It does not end with ctx: handlers that are at work
// then have Grace to finish.
func (c *Client) Consume(ctx context.Context, o ConsumerOptions, handle func(context.Context, *Delivery) error) error {
	co, err := c.newConsumer(ctx, o, true)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var workers sync.WaitGroup
	failures := make(chan error, 1)
	for range max(o.Concurrency, 1) {
		workers.Go(func() {
			if err := co.work(ctx, handle); err != nil {
				select {
				case failures <- err:
				default:
				}
			}
		})
	}
	stopped := make(chan struct{})
	go func() {
		workers.Wait()
		close(stopped)
	}()
	select {
	case <-ctx.Done():
	case <-co.stopped:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), co.options.Grace)
	defer cancel()
	_ = co.Close(grace) // what was cut short comes again
	<-stopped
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

// work handles deliveries one after the other.
func (co *Consumer) work(ctx context.Context, handle func(context.Context, *Delivery) error) error {
	wait := backoff{initial: failedWait, max: failedMaxWait}
	for {
		d, err := co.Receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		err = co.call(ctx, d, handle)
		switch {
		case err == nil:
			wait.reset()
			_ = d.Ack() // a stale one comes again
		case errors.Is(err, ErrReject):
			_ = d.Reject()
		default:
			_ = pause(d.from.ctx, wait.next())
			_ = d.Requeue()
		}
	}
}

// call calls a handler with the context it is to have.
func (co *Consumer) call(values context.Context, d *Delivery, handle func(context.Context, *Delivery) error) (err error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(values))
	defer cancel(nil)
	stop := context.AfterFunc(d.from.ctx, func() { cancel(context.Cause(d.from.ctx)) })
	defer stop()
	ctx = extract(ctx, &d.Message)
	if t := co.client.options.tracer; t != nil {
		var end func(error)
		ctx, end = t.Start(ctx, Handling, &d.Message)
		if end != nil {
			defer func() { end(err) }()
		}
	}
	return handle(ctx, d)
}

func isLost(err error) bool { return errors.Is(err, ErrConnectionLost) }
