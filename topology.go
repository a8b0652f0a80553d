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

// Topology is what exchanges, queues and bindings a program needs. They are
// declared in this order, and again on each new connection.
type Topology struct {
	Exchanges []Exchange
	Queues    []Queue
	Bindings  []Binding
}

// Exchange is an exchange, durable unless Transient.
type Exchange struct {
	Name       string
	Kind       string // "direct", "fanout", "topic", "headers", or another that the broker knows
	Transient  bool   // gone when the broker restarts
	AutoDelete bool   // gone with its last binding
	Internal   bool   // takes messages from exchanges only
	Arguments  map[string]any
}

// Queue is a queue, durable unless Transient.
type Queue struct {
	Name       string
	Transient  bool // gone when the broker restarts
	AutoDelete bool // gone with its last consumer
	Exclusive  bool // for this client's consumers only, and gone with their connection
	Arguments  map[string]any

	// IfAbsent takes a queue of this name that is there as it is. Without it one
	// that is different is ErrPrecondition.
	IfAbsent bool
}

// Binding has an exchange pass messages to a queue, or to the exchange
// Destination.
type Binding struct {
	Exchange    string
	Key         string
	Queue       string
	Destination string
	Arguments   map[string]any
}

func (e Exchange) wire() link.Exchange {
	return link.Exchange{
		Name: e.Name, Kind: e.Kind, Transient: e.Transient, AutoDelete: e.AutoDelete,
		Internal: e.Internal, Arguments: maps.Clone(e.Arguments),
	}
}

func (q Queue) wire() link.Queue {
	return link.Queue{
		Name: q.Name, Transient: q.Transient, AutoDelete: q.AutoDelete,
		Exclusive: q.Exclusive, Arguments: maps.Clone(q.Arguments), IfAbsent: q.IfAbsent,
	}
}

func (b Binding) wire() link.Binding {
	b.Arguments = maps.Clone(b.Arguments)
	return link.Binding(b)
}

// check tells what of t cannot be declared by any broker, or would mean something
// else: an empty name of a queue is the last one that was declared.
func (t Topology) check() error {
	var errs []error
	for _, e := range t.Exchanges {
		if e.Name == "" || e.Kind == "" {
			errs = append(errs, fmt.Errorf("ferry: exchange %q of kind %q: it needs a name and a kind", e.Name, e.Kind))
		}
	}
	for _, q := range t.Queues {
		if q.Name == "" {
			errs = append(errs, errors.New("ferry: a queue without a name cannot be declared for later; a consumer without a queue gets one of its own (ConsumerOptions.Bindings)"))
		}
	}
	for _, b := range t.Bindings {
		if b.Exchange == "" || (b.Queue == "") == (b.Destination == "") {
			errs = append(errs, fmt.Errorf("ferry: %s: it needs an Exchange, and either a Queue or a Destination", describe(link.Binding(b))))
		}
	}
	return errors.Join(errs...)
}

// topology is what was declared, and is to be again.
type topology struct {
	mu        sync.Mutex
	version   int // grows with what is added
	exchanges []link.Exchange
	queues    []link.Queue
	bindings  []link.Binding
}

// add keeps what t has; what has the name of something older replaces it.
func (t *topology) add(of Topology) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version++
	for _, e := range of.Exchanges {
		t.exchanges = replace(t.exchanges, e.wire(), func(a link.Exchange) bool { return a.Name == e.Name })
	}
	for _, q := range of.Queues {
		t.queues = replace(t.queues, q.wire(), func(a link.Queue) bool { return a.Name == q.Name })
	}
	for _, b := range of.Bindings {
		t.bindings = replace(t.bindings, b.wire(), func(a link.Binding) bool {
			return a.Exchange == b.Exchange && a.Key == b.Key && a.Queue == b.Queue && a.Destination == b.Destination &&
				fmt.Sprint(a.Arguments) == fmt.Sprint(b.Arguments)
		})
	}
}

// current is the version that there is now.
func (t *topology) current() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.version
}

func replace[T any](list []T, with T, same func(T) bool) []T {
	if i := slices.IndexFunc(list, same); i >= 0 {
		list[i] = with
		return list
	}
	return append(list, with)
}

// forgetQueue and forgetExchange are for what the program deletes: it is not to
// come back.
func (t *topology) forgetQueue(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queues = slices.DeleteFunc(t.queues, func(q link.Queue) bool { return q.Name == name })
	t.bindings = slices.DeleteFunc(t.bindings, func(b link.Binding) bool { return b.Queue == name && b.Destination == "" })
}

func (t *topology) forgetExchange(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exchanges = slices.DeleteFunc(t.exchanges, func(e link.Exchange) bool { return e.Name == name })
	t.bindings = slices.DeleteFunc(t.bindings, func(b link.Binding) bool { return b.Exchange == name || b.Destination == name })
}

// queue gives what this client declares under a name.
func (t *topology) queue(name string) (q link.Queue, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.queues, func(q link.Queue) bool { return q.Name == name })
	if i < 0 {
		return link.Queue{}, false
	}
	return t.queues[i], true
}

// items is what to declare on a connection with the given role. Exclusive queues
// belong to the connection that declares them, which is the one that consumes.
// With only set it is that queue and what its messages come through: all of that
// may be gone with it.
func (t *topology) items(role, only string) []link.Item {
	t.mu.Lock()
	defer t.mu.Unlock()
	through := t.leadingToLocked(only)
	var items []link.Item
	exclusive := make(map[string]bool)
	for _, e := range t.exchanges {
		if only == "" || through[e.Name] {
			items = append(items, e)
		}
	}
	for _, q := range t.queues {
		exclusive[q.Name] = q.Exclusive
		if (only == "" || q.Name == only) && (!q.Exclusive || role == consuming) {
			items = append(items, q)
		}
	}
	for _, b := range t.bindings {
		if (only == "" || b.Queue == only || through[b.Destination]) && (!exclusive[b.Queue] || role == consuming) {
			items = append(items, b)
		}
	}
	return items
}

// leadingToLocked are the exchanges from which messages come to a queue.
func (t *topology) leadingToLocked(queue string) map[string]bool {
	found := make(map[string]bool)
	for before := -1; before < len(found); {
		before = len(found)
		for _, b := range t.bindings {
			if b.Queue == queue && queue != "" || found[b.Destination] {
				found[b.Exchange] = true
			}
		}
	}
	return found
}

const (
	// lockedWait and lockedTries bound how long what cannot be had now is waited
	// for, as an exclusive queue of a connection that the broker is about to close:
	// about two seconds, for which a new connection is not used. A consumer waits
	// for longer.
	lockedWait  = 100 * time.Millisecond
	lockedTries = 5

	// A broker that does not answer so many declarations within restoreTimeout is
	// taken for dead, although it may send heartbeats.
	restoreAtOnce  = 64
	restoreTimeout = 30 * time.Second
)

// restore declares everything on a connection that is new. What the broker
// refuses is told as an event, and the rest goes on: who needs it gets the error.
// It fails with ctx, with the connection, and when the broker does not answer.
func (t *topology) restore(ctx context.Context, s *supervisor, current *session) error {
	current.declared = t.current()
	for _, err := range t.declare(ctx, current.conn, t.items(s.role, ""), restoreTimeout) {
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ended(ctx)
		case !alive(current.conn), errors.Is(err, errNoAnswer):
			return err
		default:
			s.emit(TopologyRefused, &current.endpoint, err)
		}
	}
	return nil
}

var errNoAnswer = errors.New("the broker does not answer")

// declare declares items, and those that cannot be now a few times more. It gives
// an error for each. Without an answer within patience, unless that is 0, the
// errors of the rest are errNoAnswer.
func (t *topology) declare(ctx context.Context, conn link.Conn, items []link.Item, patience time.Duration) []error {
	errs := make([]error, len(items))
	todo := make([]int, len(items))
	for i := range items {
		todo[i] = i
	}
	wait := backoff{initial: lockedWait, max: time.Second}
	for {
		batch := make([]link.Item, len(todo))
		for i, n := range todo {
			batch[i] = items[n]
		}
		var again []int
		for i, r := range declareWithin(ctx, conn, batch, patience) {
			errs[todo[i]] = nil
			if r.Err == nil {
				continue
			}
			errs[todo[i]] = fmt.Errorf("declaring %s: %w", describe(batch[i]), public(r.Err))
			if alive(conn) && judge(r.Err, true) == tryAgain {
				again = append(again, todo[i])
			}
		}
		if len(again) == 0 || wait.failures == lockedTries || pause(ctx, wait.next()) != nil {
			return errs
		}
		todo = again
	}
}

// declareWithin declares some at a time, each time within patience.
func declareWithin(ctx context.Context, conn link.Conn, items []link.Item, patience time.Duration) []link.Result {
	if patience == 0 {
		return conn.Declare(ctx, items)
	}
	var results []link.Result
	for some := range slices.Chunk(items, restoreAtOnce) {
		ctx, cancel := context.WithTimeoutCause(ctx, patience, errNoAnswer)
		results = append(results, conn.Declare(ctx, some)...)
		late := ctx.Err() != nil
		cancel()
		if late {
			break // what was not asked for has the same answer
		}
	}
	for len(results) < len(items) {
		results = append(results, link.Result{Err: errNoAnswer})
	}
	return results
}

// alive tells whether a connection has not ended, and is not about to: Err says
// so before all of it has.
func alive(conn link.Conn) bool {
	select {
	case <-conn.Done():
		return false
	default:
		return conn.Err() == nil
	}
}

func describe(item link.Item) string {
	switch it := item.(type) {
	case link.Exchange:
		return fmt.Sprintf("exchange %q", it.Name)
	case link.Queue:
		return fmt.Sprintf("queue %q", it.Name)
	case link.Binding:
		to := fmt.Sprintf("queue %q", it.Queue)
		if it.Destination != "" {
			to = fmt.Sprintf("exchange %q", it.Destination)
		}
		return fmt.Sprintf("binding of %s to exchange %q with key %q", to, it.Exchange, it.Key)
	default:
		return fmt.Sprintf("%T", item)
	}
}

// Declare declares t, and again on each later connection. Queues, exchanges and
// bindings that are there and the same are left as they are. When the connection
// is lost meanwhile it goes on with the next, until ctx ends. What the broker
// refuses (ErrPrecondition where something of that name is different,
// ErrAccessRefused, ErrNotFound, ErrLocked where another connection has it after
// two seconds still, ErrNotAllowed what the broker or its protocol cannot do) is
// returned, all of it joined, and nothing of t is kept then; what else it has is
// declared all the same.
//
// Over STOMP queues can be declared, but not exclusive ones, and with RabbitMQ and
// Ferry those arguments that their STOMP knows: of dead letters, expiry, length,
// priority and kind. Artemis makes queues by itself, as its address settings say.
func (c *Client) Declare(ctx context.Context, t Topology) error {
	if err := t.check(); err != nil {
		return err
	}
	one := new(topology)
	one.add(t)
	mine, common := one.items(consuming, ""), one.items(publishing, "")
	for {
		on, err := c.declareOn(ctx, c.publish, one, common)
		if err != nil {
			return err
		}
		left := on.left()
		if len(mine) > len(common) || c.apart() {
			if on, err = c.declareOn(ctx, c.consume, one, mine); err != nil {
				return err
			}
			left = left || on.left()
		}
		c.topology.add(t)
		if !left {
			return nil
		}
		// The connection that replaces it may be one that did not know t.
	}
}

// apart tells whether the two connections are to different brokers, as they may
// be while one has moved and the other has not yet.
func (c *Client) apart() bool {
	p, q := c.publish.snapshot(), c.consume.snapshot()
	return p.State == Up && q.State == Up && p.Endpoint != q.Endpoint
}

// declareOn declares items of t, and gives the session that has them.
func (c *Client) declareOn(ctx context.Context, s *supervisor, t *topology, items []link.Item) (on *session, err error) {
	err = c.onConnection(ctx, s, func(current *session) error {
		on = current
		return errors.Join(t.declare(ctx, current.conn, items, 0)...)
	})
	return on, err
}

// left tells whether a session is no longer the one in use.
func (s *session) left() bool { return !alive(s.conn) || moved(s) }

// onConnection has f do something on a connection, and again on the next when
// the connection was lost meanwhile. What the broker refuses by ending the
// connection it would refuse again: RabbitMQ does so with an exchange of a kind
// that it does not know.
func (c *Client) onConnection(ctx context.Context, s *supervisor, f func(*session) error) error {
	ctx, cancel := c.until(ctx)
	defer cancel()
	c.start(s)
	wait := backoff{initial: 10 * time.Millisecond, max: time.Second}
	for {
		current, err := s.acquire(ctx)
		if err != nil {
			return withReason(err, s.why())
		}
		err = f(current)
		lost := !alive(current.conn)
		current.users.Done()
		if err == nil || !lost || refusedByBroker(err) {
			return err
		}
		if e := pause(ctx, wait.next()); e != nil {
			return withReason(e, err)
		}
	}
}

// refusedByBroker tells whether an error is of a kind that trying again on
// another connection does not help against.
func refusedByBroker(err error) bool {
	var said *BrokerError
	return errors.As(err, &said) && !isLost(err) && judge(&link.Error{Kind: said.kind}, false) == giveUp
}

// ownerOf is who keeps the connection on which a queue can be used: an exclusive
// one is locked for the other.
func (c *Client) ownerOf(queue string) *supervisor {
	if q, _ := c.topology.queue(queue); q.Exclusive {
		return c.consume
	}
	return c.publish
}

// one does a single item.
func (c *Client) one(ctx context.Context, s *supervisor, item link.Item) (link.Result, error) {
	var result link.Result
	err := c.onConnection(ctx, s, func(current *session) error {
		result = current.conn.Declare(ctx, []link.Item{item})[0]
		if result.Err != nil {
			return public(result.Err)
		}
		return nil
	})
	return result, err
}

// QueueInfo is what a broker tells of a queue.
type QueueInfo struct {
	Name      string
	Messages  int // ready to be delivered
	Consumers int
}

// Inspect asks how a queue does. ErrNotFound if there is none of that name.
func (c *Client) Inspect(ctx context.Context, queue string) (QueueInfo, error) {
	r, err := c.one(ctx, c.ownerOf(queue), link.Queue{Name: queue, Passive: true})
	if err != nil {
		return QueueInfo{}, fmt.Errorf("inspecting queue %q: %w", queue, err)
	}
	return QueueInfo{Name: queue, Messages: r.Messages, Consumers: r.Consumers}, nil
}

// PurgeQueue removes the messages of a queue that wait to be delivered, and tells
// how many they were.
func (c *Client) PurgeQueue(ctx context.Context, queue string) (messages int, err error) {
	r, err := c.one(ctx, c.ownerOf(queue), link.QueuePurge{Name: queue})
	if err != nil {
		return 0, fmt.Errorf("purging queue %q: %w", queue, err)
	}
	return r.Messages, nil
}

// DeleteQueue deletes a queue, and tells how many messages it had. It is not
// declared again.
func (c *Client) DeleteQueue(ctx context.Context, queue string) (messages int, err error) {
	s := c.ownerOf(queue)
	c.topology.forgetQueue(queue)
	r, err := c.one(ctx, s, link.QueueDelete{Name: queue})
	if err != nil {
		return 0, fmt.Errorf("deleting queue %q: %w", queue, err)
	}
	return r.Messages, nil
}

// DeleteExchange deletes an exchange. It is not declared again.
func (c *Client) DeleteExchange(ctx context.Context, exchange string) error {
	c.topology.forgetExchange(exchange)
	if _, err := c.one(ctx, c.publish, link.ExchangeDelete{Name: exchange}); err != nil {
		return fmt.Errorf("deleting exchange %q: %w", exchange, err)
	}
	return nil
}
