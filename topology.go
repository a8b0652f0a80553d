package ferry

import (
	"context"
	"errors"
	"fmt"
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
		Internal: e.Internal, Arguments: e.Arguments,
	}
}

func (q Queue) wire() link.Queue {
	return link.Queue{
		Name: q.Name, Transient: q.Transient, AutoDelete: q.AutoDelete,
		Exclusive: q.Exclusive, Arguments: q.Arguments,
	}
}

// topology is what was declared, and is to be again.
type topology struct {
	mu        sync.Mutex
	exchanges []link.Exchange
	queues    []link.Queue
	bindings  []link.Binding
}

// add keeps what t has; what has the name of something older replaces it.
func (t *topology) add(of Topology) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range of.Exchanges {
		t.exchanges = replace(t.exchanges, e.wire(), func(a link.Exchange) bool { return a.Name == e.Name })
	}
	for _, q := range of.Queues {
		t.queues = replace(t.queues, q.wire(), func(a link.Queue) bool { return a.Name == q.Name })
	}
	for _, b := range of.Bindings {
		t.bindings = replace(t.bindings, link.Binding(b), func(a link.Binding) bool {
			return a.Exchange == b.Exchange && a.Key == b.Key && a.Queue == b.Queue && a.Destination == b.Destination &&
				fmt.Sprint(a.Arguments) == fmt.Sprint(b.Arguments)
		})
	}
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

// hasQueue tells whether a queue is one that this client declares.
func (t *topology) hasQueue(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.queues, func(q link.Queue) bool { return q.Name == name })
}

// items is what to declare on a connection with the given role. Exclusive queues
// belong to the connection that declares them, which is the one that consumes.
// With only set it is that queue and its bindings alone.
func (t *topology) items(role, only string) []link.Item {
	t.mu.Lock()
	defer t.mu.Unlock()
	var items []link.Item
	exclusive := make(map[string]bool)
	if only == "" {
		for _, e := range t.exchanges {
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
		if (only == "" || b.Queue == only) && (!exclusive[b.Queue] || role == consuming) {
			items = append(items, b)
		}
	}
	return items
}

// lockedWait is how long what another connection has exclusively is waited for:
// a broker may need a heartbeat's time to notice that the old one is dead.
const lockedWait = 100 * time.Millisecond

// restore declares everything on a connection that is new. What the broker
// refuses is told as an event, and the rest goes on: who needs it gets the error.
func (t *topology) restore(ctx context.Context, s *supervisor, current *session) {
	items := t.items(s.role, "")
	if len(items) == 0 {
		return
	}
	for _, err := range t.declare(ctx, current.conn, items) {
		if err != nil && ctx.Err() == nil {
			s.emit(TopologyRefused, &current.endpoint, err)
		}
	}
}

// declare declares items, and those that cannot be now once more. It gives an
// error for each.
func (t *topology) declare(ctx context.Context, conn link.Conn, items []link.Item) []error {
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
		for i, r := range conn.Declare(ctx, batch) {
			errs[todo[i]] = nil
			if r.Err == nil {
				continue
			}
			errs[todo[i]] = fmt.Errorf("declaring %s: %w", describe(batch[i]), public(r.Err))
			if alive(conn) && judge(r.Err, true) == tryAgain {
				again = append(again, todo[i])
			}
		}
		if len(again) == 0 || wait.failures == 5 || pause(ctx, wait.next()) != nil {
			return errs
		}
		todo = again
	}
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
// ErrAccessRefused, ErrNotFound) is returned, all of it joined, and nothing of t
// is kept then; what else it has is declared all the same.
func (c *Client) Declare(ctx context.Context, t Topology) error {
	for _, q := range t.Queues {
		if q.Name == "" {
			return errors.New("ferry: a queue without a name cannot be declared for later; a consumer without a queue gets one of its own (ConsumerOptions.Bindings)")
		}
	}
	one := new(topology)
	one.add(t)
	mine, common := one.items(consuming, ""), one.items(publishing, "")
	if len(mine) > len(common) { // it has exclusive queues
		if err := c.declareOn(ctx, c.consume, one, mine); err != nil {
			return err
		}
	} else if err := c.declareOn(ctx, c.publish, one, common); err != nil {
		return err
	}
	c.topology.add(t)
	return nil
}

func (c *Client) declareOn(ctx context.Context, s *supervisor, t *topology, items []link.Item) error {
	return c.onConnection(ctx, s, func(conn link.Conn) error {
		return errors.Join(t.declare(ctx, conn, items)...)
	})
}

// onConnection has f do something on a connection, and again on the next when
// the connection was lost meanwhile.
func (c *Client) onConnection(ctx context.Context, s *supervisor, f func(link.Conn) error) error {
	ctx, cancel := c.until(ctx)
	defer cancel()
	c.start(s)
	var wait backoff
	for {
		current, err := s.acquire(ctx)
		if err != nil {
			return withReason(err, s.why())
		}
		err = f(current.conn)
		lost := !alive(current.conn)
		current.users.Done()
		if err == nil || !lost {
			return err
		}
		wait = backoff{initial: 10 * time.Millisecond, max: time.Second, failures: wait.failures}
		if e := pause(ctx, wait.next()); e != nil {
			return withReason(e, err)
		}
	}
}

// one does a single item on the publishing connection.
func (c *Client) one(ctx context.Context, item link.Item) (link.Result, error) {
	var result link.Result
	err := c.onConnection(ctx, c.publish, func(conn link.Conn) error {
		result = conn.Declare(ctx, []link.Item{item})[0]
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
	r, err := c.one(ctx, link.Queue{Name: queue, Passive: true})
	if err != nil {
		return QueueInfo{}, fmt.Errorf("inspecting queue %q: %w", queue, err)
	}
	return QueueInfo{Name: queue, Messages: r.Messages, Consumers: r.Consumers}, nil
}

// PurgeQueue removes the messages of a queue that wait to be delivered, and tells
// how many they were.
func (c *Client) PurgeQueue(ctx context.Context, queue string) (messages int, err error) {
	r, err := c.one(ctx, link.QueuePurge{Name: queue})
	if err != nil {
		return 0, fmt.Errorf("purging queue %q: %w", queue, err)
	}
	return r.Messages, nil
}

// DeleteQueue deletes a queue, and tells how many messages it had. It is not
// declared again.
func (c *Client) DeleteQueue(ctx context.Context, queue string) (messages int, err error) {
	c.topology.forgetQueue(queue)
	r, err := c.one(ctx, link.QueueDelete{Name: queue})
	if err != nil {
		return 0, fmt.Errorf("deleting queue %q: %w", queue, err)
	}
	return r.Messages, nil
}

// DeleteExchange deletes an exchange. It is not declared again.
func (c *Client) DeleteExchange(ctx context.Context, exchange string) error {
	c.topology.forgetExchange(exchange)
	if _, err := c.one(ctx, link.ExchangeDelete{Name: exchange}); err != nil {
		return fmt.Errorf("deleting exchange %q: %w", exchange, err)
	}
	return nil
}
