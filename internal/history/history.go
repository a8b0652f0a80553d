// Package history judges brokers that share a log: whether what they told their
// clients is what the log says, whoever owned it at the time.
//
// A [Recorder] takes down what publishers and receivers of a test see, by the
// connection on which they saw it; a broker says in its greeting which node it is
// and in which epoch it owns the log. A [Log] is what the batches of the log hold.
// [Check] compares the two:
//
//   - Every message that was confirmed is in the log under the epoch of the broker
//     that confirmed it. One that was settled before it was written need not be: then
//     a receiver on a connection of the same epoch has acknowledged it.
//   - No batch of an epoch stands behind one of a higher epoch, no epoch has two
//     writers, and the log names the node that a connection was told.
//   - No message is confirmed under an epoch at a position behind the beginning of a
//     higher one.
//   - Nothing that was confirmed is lost.
//   - A message has one holder at a time within an epoch, and a broker serves nobody
//     once another was seen to have taken its place.
//
// # What it takes
//
// Each message has an id of its own, also when it is sent again: an id names one
// attempt. The log must be complete from position 1 on, superseded batches
// included: one that is cleaned meanwhile is to be read while it is written.
//
// What a superseded broker does is judged by what can be proven. A process that was
// stopped between deciding and writing writes when it goes on, whatever it finds out
// then; that is told from serving by cause and effect, see [Stale].
package history

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// A Kind is what an event is.
type Kind string

// The kinds of events.
const (
	Connected    Kind = "connected"    // the greeting was read
	Disconnected Kind = "disconnected" // it is known that nothing more will come
	Sent         Kind = "sent"         // just before it is written
	Confirmed    Kind = "confirmed"
	Refused      Kind = "refused" // nacked or returned
	Delivered    Kind = "delivered"
	Acknowledged Kind = "acknowledged" // just before it is written
)

// An Event is one line of a history.
type Event struct {
	At   time.Duration `json:"at"` // since the history began, by a monotonic clock
	Kind Kind          `json:"kind"`
	Conn int           `json:"conn"` // from 1 on
	ID   string        `json:"id,omitempty"`

	// Of Connected.
	Node     string `json:"node,omitempty"`
	Epoch    uint64 `json:"epoch,omitempty"`
	Prefetch int    `json:"prefetch,omitempty"` // 0: it receives nothing, or without a limit

	// Of Delivered.
	Redelivered bool `json:"redelivered,omitempty"`
}

// A Recorder writes a history down. Its methods may be called at once from anywhere;
// the order of their calls is the order of the events, so that what causes something
// must be recorded before it is done, and what was caused after it was seen.
type Recorder struct {
	began time.Time

	mu     sync.Mutex
	conns  int
	events []Event
}

// NewRecorder begins a history.
func NewRecorder() *Recorder { return &Recorder{began: time.Now()} }

func (r *Recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = time.Since(r.began)
	r.events = append(r.events, e)
}

// Connected records a new connection and returns its number. Prefetch is how many
// deliveries may be unacknowledged on it, 0 if it receives none.
func (r *Recorder) Connected(node string, epoch uint64, prefetch int) (conn int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns++
	r.events = append(r.events, Event{
		At: time.Since(r.began), Kind: Connected, Conn: r.conns,
		Node: node, Epoch: epoch, Prefetch: prefetch,
	})
	return r.conns
}

// Disconnected records the end of a connection.
func (r *Recorder) Disconnected(conn int) { r.add(Event{Kind: Disconnected, Conn: conn}) }

// Sent is called before a message is written.
func (r *Recorder) Sent(conn int, id string) { r.add(Event{Kind: Sent, Conn: conn, ID: id}) }

// Confirmed is called when a message's confirm was read.
func (r *Recorder) Confirmed(conn int, id string) { r.add(Event{Kind: Confirmed, Conn: conn, ID: id}) }

// Refused is called when a message was nacked or returned.
func (r *Recorder) Refused(conn int, id string) { r.add(Event{Kind: Refused, Conn: conn, ID: id}) }

// Delivered is called when a delivery was read.
func (r *Recorder) Delivered(conn int, id string, redelivered bool) {
	r.add(Event{Kind: Delivered, Conn: conn, ID: id, Redelivered: redelivered})
}

// Acknowledged is called before an acknowledgement is written.
func (r *Recorder) Acknowledged(conn int, id string) {
	r.add(Event{Kind: Acknowledged, Conn: conn, ID: id})
}

// Now is the time of an event that would be recorded now.
func (r *Recorder) Now() time.Duration { return time.Since(r.began) }

// History is what was recorded so far. It must not be changed.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[:len(r.events):len(r.events)]
}

// A History is events in their order.
type History []Event

// Write writes a history to w, a JSON object a line, so that what failed can be
// judged again.
func (h History) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	for i := range h {
		if err := enc.Encode(&h[i]); err != nil {
			return fmt.Errorf("writing a history: %w", err)
		}
	}
	return nil
}

// Read reads what Write wrote.
func Read(r io.Reader) (History, error) {
	var h History
	for dec := json.NewDecoder(r); ; {
		var e Event
		if err := dec.Decode(&e); err == io.EOF {
			return h, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading a history, event %d: %w", len(h)+1, err)
		}
		h = append(h, e)
	}
}
