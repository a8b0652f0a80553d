package ferry

import (
	"fmt"
	"sync"
	"time"
)

// EventKind is what happened.
type EventKind uint8

// Kinds of events.
const (
	Connected         EventKind = iota + 1 // to Endpoint; Attempt connects were tried
	Disconnected                           // from Endpoint, because of Err
	Retrying                               // no endpoint could be reached (Err); the next try is after Delay
	Blocked                                // the broker takes no messages; Err says why
	Unblocked                              // it does again
	FailedBack                             // moved to Endpoint, which stands before the one that was in use
	ConsumerCancelled                      // by the broker; Err says why
	Resubscribed                           // a consumer goes on
	TopologyRefused                        // Err says what could not be declared
	MessageRefused                         // a message of the outbox was refused; Err says which and why
	OutboxFailed                           // the outbox can be read and written no more, because of Err
	Closed                                 // for good: by Close, or because of Err
)

var eventKinds = [...]string{
	Connected: "connected", Disconnected: "disconnected", Retrying: "retrying", Blocked: "blocked", Unblocked: "unblocked",
	FailedBack: "failed back", ConsumerCancelled: "consumer cancelled", Resubscribed: "resubscribed",
	TopologyRefused: "topology refused", MessageRefused: "message refused", OutboxFailed: "outbox failed", Closed: "closed",
}

// String is the kind in words.
func (k EventKind) String() string {
	if k > 0 && int(k) < len(eventKinds) {
		return eventKinds[k]
	}
	return fmt.Sprintf("event %d", k)
}

// Event is one change of a client's state.
type Event struct {
	Time       time.Time
	Kind       EventKind
	Connection string // "publish" or "consume"
	Endpoint   string // a URL without its password
	Attempt    int
	Delay      time.Duration
	Err        error
}

// String is the event in one line.
func (e Event) String() string {
	s := e.Connection + ": " + e.Kind.String()
	if e.Endpoint != "" {
		s += " " + e.Endpoint
	}
	if e.Kind == Retrying {
		s += fmt.Sprintf(" in %v", e.Delay.Round(time.Millisecond))
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// maxEvents is how many events wait for a slow listener; beyond it the oldest are
// left out.
const maxEvents = 256

// An eventQueue hands events to a listener that may be slow, in order.
type eventQueue struct {
	listener func(Event)
	signal   chan struct{} // one slot
	done     chan struct{}

	mu     sync.Mutex
	events []Event
	closed bool
}

func newEventQueue(listener func(Event)) *eventQueue {
	q := &eventQueue{listener: listener, signal: make(chan struct{}, 1), done: make(chan struct{})}
	if listener == nil {
		close(q.done)
		return q
	}
	go q.run()
	return q
}

func (q *eventQueue) add(e Event) {
	if q.listener == nil || e.Kind == 0 {
		return
	}
	e.Time = time.Now()
	q.mu.Lock()
	if len(q.events) == maxEvents {
		q.events = append(q.events[:0], q.events[1:]...)
	}
	if !q.closed {
		q.events = append(q.events, e)
	}
	q.mu.Unlock()
	raise(q.signal)
}

// run ends when the queue is closed and empty.
func (q *eventQueue) run() {
	defer close(q.done)
	for {
		q.mu.Lock()
		events, closed := q.events, q.closed
		q.events = nil
		q.mu.Unlock()
		for _, e := range events {
			q.listener(e)
		}
		if len(events) > 0 {
			continue
		}
		if closed {
			return
		}
		<-q.signal
	}
}

// close lets the listener have what is there. The caller waits for q.done.
func (q *eventQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	raise(q.signal)
}

// raise puts a signal into a channel of one slot.
func raise(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
