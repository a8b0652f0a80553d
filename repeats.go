package ferry

import "sync"

// repeats knows the ids of the messages that were handled lately, and of those
// that are being handled.
type repeats struct {
	mu     sync.Mutex
	ring   []string // ids that were handled, the oldest at next
	next   int
	done   map[string]struct{}
	active map[string]*activity
}

// An activity is a message in a handler's hands.
type activity struct {
	delivery *Delivery
	held     []*Delivery // repeats that wait for what becomes of it
}

func newRepeats(size int) *repeats {
	return &repeats{
		ring:   make([]string, size),
		done:   make(map[string]struct{}),
		active: make(map[string]*activity),
	}
}

type begun uint8

const (
	fresh    begun = iota // to be handled
	repeated              // was handled
	held                  // waits for the copy that is being handled
)

// begin decides what to do with a delivery that has an id.
func (r *repeats) begin(d *Delivery) begun {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.done[d.ID]; ok {
		return repeated
	}
	if a := r.active[d.ID]; a != nil {
		a.held = append(a.held, d)
		return held
	}
	r.active[d.ID] = &activity{delivery: d}
	return fresh
}

// handled remembers the id of a delivery, and drops the repeats that waited.
func (r *repeats) handled(d *Delivery) {
	if d.ID == "" {
		return
	}
	r.mu.Lock()
	a := r.active[d.ID]
	if a == nil || a.delivery != d { // settled before
		r.mu.Unlock()
		return
	}
	delete(r.active, d.ID)
	delete(r.done, r.ring[r.next])
	r.ring[r.next] = d.ID
	r.done[d.ID] = struct{}{}
	r.next = (r.next + 1) % len(r.ring)
	r.mu.Unlock()
	for _, other := range a.held {
		co := other.from.consumer
		co.mu.Lock()
		co.stats.Duplicates++
		co.mu.Unlock()
		if !co.options.NoAck {
			_ = other.from.receiver.Ack(other.tag) // stale ones come again, and are dropped again
		}
	}
}

// unhandled forgets a delivery that was not handled, and gives the repeats that
// waited.
func (r *repeats) unhandled(d *Delivery) []*Delivery {
	if d.ID == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.active[d.ID]
	if a == nil || a.delivery != d {
		return nil
	}
	delete(r.active, d.ID)
	return a.held
}
