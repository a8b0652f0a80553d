package ferry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/amqplink"
	"github.com/ferrymq/ferry/internal/link/gmqlink"
	"github.com/ferrymq/ferry/internal/link/stomplink"
	"github.com/ferrymq/ferry/internal/outbox"
)

// Client keeps connections to the first broker of a list that answers. Publishers
// and consumers are made from it and outlive every single connection.
type Client struct {
	options   options
	endpoints []endpoint.Endpoint
	events    *eventQueue
	topology  topology
	publish   *supervisor
	consume   *supervisor

	outbox    *outbox.Outbox // nil without one
	drain     *Publisher     // sends what is in it
	stopDrain context.CancelCauseFunc
	drained   chan struct{} // closed when nothing is taken from it any more
	emptied   chan struct{} // one slot: it may be empty

	ctx         context.Context // ends when the client is closed or has failed, with the reason
	cancel      context.CancelCauseFunc
	established atomic.Bool // a connection was made once

	mu         sync.Mutex
	started    map[*supervisor]bool
	publishers map[*Publisher]struct{}
	consumers  map[*Consumer]struct{}
	common     *Publisher // of Client.Publish
	requests   *requester
	leaving    bool            // Close was called: no more consumers
	closing    bool            // no more publishers and connections
	goodbye    context.Context // of Close, once it was called
	closed     chan struct{}   // closed when Close is done
}

// Dial connects to the first broker that answers. url is one, a list with commas,
// or ActiveMQ's failover:(a,b)?options:
//
//	amqp://user:password@host:5672/vhost
//	amqps://a/?cacertfile=ca.pem&certfile=me.pem&keyfile=me.key,amqps://b/?…
//	stomp://user:password@host:61613/vhost, stomps://a/?cacertfile=ca.pem
//	failover:(amqp://a,stomp://b)?randomize=false&priorityBackup=true
//
// The parameters of a URL are those of RabbitMQ's clients: cacertfile, certfile,
// keyfile, password, verify, server_name_indication, auth_mechanism, heartbeat (s),
// connection_timeout (ms), channel_max. Certificates are read at each connect.
// Those of STOMP's alone are heart-beat=SEND,RECEIVE (ms, before heartbeat), dialect
// (rabbitmq, artemis, activemq or ferry, where the broker does not say what it is),
// host (for the CONNECT header, which otherwise is the virtual host), version (1.0,
// 1.1 or 1.2, where only that is to be offered) and client-id.
//
// Over STOMP queues can be published to, consumed from and declared, and topics by
// the exchange amq.topic; with RabbitMQ and Ferry, other exchanges, too. What the
// protocol has no way to ask for is ErrNotAllowed: exchanges, bindings, exclusive
// consumers, inspecting, purging and deleting. RabbitMQ confirms what no queue
// takes. Each publisher and consumer has a connection of its own then, besides the
// client's two.
//
// gmq:// and gmqs:// URLs lead to a server of Ferry's that speaks GMQ (the original
// one knows no acknowledgements), by default at port 4567, with TLS 4568, as
// gmq://user:password@host:port. They take heartbeat, connection_timeout and, with
// gmqs, the parameters of certificates. Over GMQ there are queues alone: durable ones,
// which the broker makes when they are named first. The rest is as with STOMP; what a
// message has that GMQ cannot carry (an exchange, a header that is neither text,
// integer nor truth value) is refused before it is sent.
//
// All endpoints are tried in order, each for at most the connect timeout. If none
// is reachable Dial fails with ErrNoBroker and what each of them said, or, with
// WithInitialRetry or WithOutbox, tries again: the former until ctx ends; with an
// outbox it returns at once, and connects when a broker is up.
//
// ctx bounds Dial only: the client lives until Close.
func Dial(ctx context.Context, url string, opts ...Option) (*Client, error) {
	list, err := endpoint.Parse(url)
	if err != nil {
		return nil, fmt.Errorf("ferry: %w", err)
	}
	c := &Client{
		endpoints:  list.Endpoints,
		started:    make(map[*supervisor]bool),
		publishers: make(map[*Publisher]struct{}),
		consumers:  make(map[*Consumer]struct{}),
		closed:     make(chan struct{}),
		options:    fromList(list),
	}
	for _, opt := range opts {
		opt(&c.options)
	}
	c.options.complete()
	if list.Randomize {
		rand.Shuffle(len(c.endpoints), func(i, j int) {
			c.endpoints[i], c.endpoints[j] = c.endpoints[j], c.endpoints[i]
		})
	}
	if err := c.options.topology.check(); err != nil {
		return nil, err
	}
	c.topology.add(c.options.topology)
	c.publish, c.consume = newSupervisor(c, publishing), newSupervisor(c, consuming)
	if err := c.openOutbox(); err != nil {
		return nil, err
	}
	c.events = newEventQueue(c.options.events)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())

	c.start(c.publish)
	if c.outbox != nil {
		if err := c.drainOutbox(); err != nil {
			return nil, errors.Join(err, c.shutdown(ctx))
		}
		return c, nil
	}
	current, err := c.publish.acquire(ctx)
	if err != nil {
		err = withReason(err, c.publish.why())
		return nil, errors.Join(err, c.shutdown(ctx))
	}
	current.users.Done()
	return c, nil
}

func fromList(l endpoint.List) options {
	o := options{heartbeat: DefaultHeartbeat, initialDelay: l.InitialDelay, maxDelay: l.MaxDelay}
	if l.Failback {
		o.failback = DefaultFailbackAfter
	}
	if l.MaxAttempts > 0 {
		o.maxAttempts = l.MaxAttempts
	}
	o.once = l.MaxAttempts == 0
	o.sendTimeout = l.Timeout
	if l.StartupMaxAttempts > 1 {
		o.initialRetry, o.startAttempts = true, l.StartupMaxAttempts
	}
	return o
}

func (o *options) complete() {
	if o.name == "" {
		o.name = filepath.Base(os.Args[0])
	}
	if o.initialDelay <= 0 {
		o.initialDelay = DefaultInitialDelay
	}
	if o.maxDelay <= 0 {
		o.maxDelay = DefaultMaxDelay
	}
	if o.outboxBytes <= 0 {
		o.outboxBytes = DefaultOutboxBytes
	}
	if o.outboxDir != "" {
		o.initialRetry = true
	}
}

// openLink opens a connection of the endpoint's protocol.
func openLink(ctx context.Context, o link.Options) (link.Conn, error) {
	switch o.Endpoint.Scheme {
	case "stomp", "stomps":
		return stomplink.Open(ctx, o)
	case "gmq", "gmqs":
		return gmqlink.Open(ctx, o)
	}
	return amqplink.Open(ctx, o)
}

// start has a supervisor run, once.
func (c *Client) start(s *supervisor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started[s] || c.closing {
		return
	}
	c.started[s] = true
	go s.run(c.ctx)
}

// other is the supervisor of the client's other connection.
func (c *Client) other(s *supervisor) *supervisor {
	if s == c.publish {
		return c.consume
	}
	return c.publish
}

// order is the endpoints as they are to be tried.
func (c *Client) order() []endpoint.Endpoint { return c.endpoints }

// until is ctx that ends with the client, too.
func (c *Client) until(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// withReason adds what is known of the state of things to why a call gave up.
func withReason(gaveUp, state error) error {
	if state == nil || errors.Is(gaveUp, ErrClosed) || errors.Is(gaveUp, state) {
		return gaveUp
	}
	return fmt.Errorf("%w (%w)", gaveUp, state)
}

// fail ends the client for good: all that waits gets err.
func (c *Client) fail(err error) { c.cancel(err) }

// ConnectionState is what a connection is doing.
type ConnectionState uint8

// States of a connection.
const (
	Connecting ConnectionState = iota // or waiting to
	Up
	Ended
)

// String is the state in a word.
func (s ConnectionState) String() string {
	return [...]string{"connecting", "up", "ended"}[s]
}

// ConnectionStatus is how one connection does.
type ConnectionStatus struct {
	State    ConnectionState
	Endpoint string    // that it is or was connected to, without the password
	Since    time.Time // when State or Endpoint changed
	Connects int       // how many connections there were
	Blocked  string    // why the broker takes no messages, "" if it does
	Err      error     // why there is no connection
}

// Status is how a client does.
type Status struct {
	Publish, Consume ConnectionStatus
	Outbox           OutboxStatus // zero without one
}

// Status tells how the client does now. The connection for consuming is made
// with the first consumer.
func (c *Client) Status() Status {
	s := Status{Publish: c.publish.snapshot(), Consume: c.consume.snapshot()}
	if c.outbox != nil {
		s.Outbox = c.outboxStatus()
	}
	return s
}

// Close ends the client in order: consumers take no more, handlers finish and
// what they acknowledged is sent; what was published is confirmed; connections
// are closed. When ctx ends first the rest is cut short. If messages are left
// whose outcome is not known, or that were not sent, the error is an
// *UnconfirmedError that holds them; with an outbox they stay in that, and are no
// error. Closing again waits for the first Close.
//
// It waits for handlers, so that one that calls it waits for itself: until ctx
// ends, or its Grace.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	first := !c.leaving
	c.leaving = true
	if first {
		c.goodbye = ctx
	}
	consumers := keys(c.consumers)
	c.mu.Unlock()
	if !first {
		select {
		case <-c.closed:
			return nil
		case <-ctx.Done():
			return ended(ctx)
		}
	}

	if c.stopDrain != nil {
		c.stopDrain(ErrClosed) // what is taken is sent, the rest stays
	}
	var wg sync.WaitGroup
	for _, co := range consumers {
		wg.Go(func() { _ = co.Close(ctx) })
	}
	wg.Wait()

	c.mu.Lock()
	c.closing = true // handlers are done
	publishers := keys(c.publishers)
	c.mu.Unlock()
	left := make([][]Message, len(publishers))
	for i, p := range publishers {
		wg.Go(func() {
			if p == c.drain {
				c.settleDrain(ctx)
				now, cancel := context.WithCancel(ctx)
				cancel()
				_ = p.Close(now)
				return
			}
			if e := (*UnconfirmedError)(nil); errors.As(p.Close(ctx), &e) {
				left[i] = e.Messages
			}
		})
	}
	wg.Wait()
	cause := context.Cause(ctx)
	if failure := context.Cause(c.ctx); failure != nil {
		cause = failure
	}
	err := c.shutdown(ctx)
	if all := slices.Concat(left...); len(all) > 0 {
		return errors.Join(&UnconfirmedError{Messages: all, Cause: cause}, err)
	}
	return err
}

// shutdown ends everything, and waits until it has.
func (c *Client) shutdown(ctx context.Context) error {
	c.mu.Lock()
	c.leaving, c.closing, c.goodbye = true, true, ctx
	started := maps.Clone(c.started)
	c.mu.Unlock()
	c.cancel(ErrClosed)
	for _, s := range []*supervisor{c.publish, c.consume} {
		if started[s] {
			<-s.stopped
		} else {
			s.set(nil, ErrClosed, func(st *ConnectionStatus) { st.State, st.Err = Ended, ErrClosed })
		}
	}
	err := c.closeOutbox()
	c.events.close()
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	select {
	case <-c.events.done:
	case <-ctx.Done(): // a listener that does not return is its owner's
	}
	close(c.closed)
	return err
}

// farewell bounds the time for closing connections in order.
func (c *Client) farewell() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goodbye != nil {
		return c.goodbye
	}
	return context.Background()
}

func keys[K comparable, V any](m map[K]V) []K {
	list := make([]K, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	return list
}
