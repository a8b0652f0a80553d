package gateway

import (
	"context"
	"errors"
	"sync"

	"github.com/ferrymq/ferry"
)

const (
	maxKnown    = 10000 // names of queues that are remembered as there
	maxDeclared = 1000  // queues that are declared for whoever asks
)

var errTooManyQueues = errors.New("the gateway has declared as many queues as it may; declare this one at the broker")

// queues are those that are known to be there. Requests may name any: both what
// is remembered and what is declared is bounded.
type queues struct {
	mu       sync.Mutex
	known    map[string]struct{}
	declared map[string]struct{}
}

// ensure declares a queue, durable, unless it is there already, of whatever kind.
func (q *queues) ensure(ctx context.Context, b Broker, name string) error {
	q.mu.Lock()
	_, ok := q.known[name]
	q.mu.Unlock()
	if ok {
		return nil
	}
	_, err := b.Inspect(ctx, name)
	if errors.Is(err, ferry.ErrNotFound) || errors.Is(err, ferry.ErrNotAllowed) { // over STOMP nobody can be asked
		if !q.mayDeclare(name) {
			return errTooManyQueues
		}
		err = b.Declare(ctx, ferry.Topology{Queues: []ferry.Queue{{Name: name, IfAbsent: true}}})
	}
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known == nil || len(q.known) == maxKnown {
		q.known = map[string]struct{}{}
	}
	q.known[name] = struct{}{}
	return nil
}

// mayDeclare counts the queue among those that are declared, if it may be one.
func (q *queues) mayDeclare(name string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.declared[name]; ok {
		return true
	}
	if len(q.declared) == maxDeclared {
		return false
	}
	if q.declared == nil {
		q.declared = map[string]struct{}{}
	}
	q.declared[name] = struct{}{}
	return true
}

func (q *queues) forget(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.known, name)
}
