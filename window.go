package ferry

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/link"
)

// An entry is a message in a window, from Submit until its outcome.
type entry struct {
	message  Message
	seq      uint64 // its place in the window, and the number in its id
	done     func(Result)
	waiter   chan Result // of a Publish, one slot
	attempts int
	tag      uint64 // on the present sender, 0 if it was not taken by that
	returned *link.Error
	state    entryState
	doubt    bool // it was taken by a sender that ended before its outcome
	lost     bool // with its connection
	foreign  bool // message.ID was there already
}

type entryState uint8

const (
	waiting   entryState = iota // to be taken
	taken                       // by the present sender
	abandoned                   // nobody waits for it; it was sent, and the broker may answer yet
	settled                     // has its outcome, and leaves when it is the oldest
)

// A window holds the messages of a publisher that have no outcome, in the order
// in which they were submitted:
//
//	first ............ next ........... end
//	      taken               waiting
//
// A sender takes from next on, and its answers settle what is before. When the
// sender is lost, next goes back to first: so what is unknown is sent again first,
// in its order, and before anything new. Places are numbered from 1 and are not
// used again. It is not safe for concurrent use.
type window struct {
	ring             []entry // its length is a power of two
	first, next, end uint64  // places
	bytes            int     // of the bodies

	tags    []uint64 // by tag: the place in the window, for the present sender
	low     uint64   // the lowest tag that may be unsettled
	lastTag uint64   // the highest tag given
	flying  int      // taken by the present sender, and without an outcome
}

func newWindow() window {
	return window{ring: make([]entry, 64), first: 1, next: 1, end: 1, tags: make([]uint64, 64), low: 1}
}

func (w *window) at(place uint64) *entry { return &w.ring[place&uint64(len(w.ring)-1)] }

func (w *window) len() int { return int(w.end - w.first) }

// push appends a copy of an entry, and gives its place.
func (w *window) push(e *entry) uint64 {
	if w.len() == len(w.ring) {
		w.grow()
	}
	place := w.end
	e.seq = place
	*w.at(place) = *e
	w.bytes += len(e.message.Body)
	w.end++
	return place
}

func (w *window) grow() { w.move(2 * len(w.ring)) }

// move copies the entries to a ring of their own: whoever holds messages of the
// old one, as a sender that is writing them, sees them stay as they are.
func (w *window) move(size int) {
	ring := make([]entry, size)
	for p := w.first; p < w.end; p++ {
		ring[p&uint64(size-1)] = *w.at(p)
	}
	tags := make([]uint64, size)
	for t := w.low; t <= w.lastTag; t++ {
		tags[t&uint64(size-1)] = w.tags[t&uint64(len(w.tags)-1)]
	}
	w.ring, w.tags = ring, tags
}

// take gives the next entry to send, nil if there is none.
func (w *window) take() *entry {
	for w.next < w.end {
		e := w.at(w.next)
		if e.state != waiting { // given up before it was sent
			w.next++
			continue
		}
		w.lastTag++
		w.tags[w.lastTag&uint64(len(w.tags)-1)] = w.next
		e.tag, e.state = w.lastTag, taken
		e.attempts++
		w.flying++
		w.next++
		return e
	}
	return nil
}

// outstanding is the entry that was taken with a tag and has no outcome, nil if
// there is none.
func (w *window) outstanding(tag uint64) *entry {
	if tag < w.low || tag > w.lastTag {
		return nil
	}
	place := w.tags[tag&uint64(len(w.tags)-1)]
	if place < w.first || place >= w.end {
		return nil
	}
	e := w.at(place)
	if e.tag != tag || !e.outstanding() {
		return nil
	}
	return e
}

// settle gives an entry its outcome. The caller trims.
func (w *window) settle(e *entry) {
	if e.outstanding() {
		w.flying--
	}
	e.state = settled
}

// trim removes the settled entries that are oldest, and tells whether there were
// any.
func (w *window) trim() bool {
	before := w.first
	for w.first < w.end && w.at(w.first).state == settled {
		e := w.at(w.first)
		w.bytes -= len(e.message.Body)
		*e = entry{}
		w.first++
	}
	w.next = max(w.next, w.first)
	for w.low <= w.lastTag && w.outstanding(w.low) == nil {
		w.low++
	}
	return w.first != before
}

// rewind forgets the present sender: what it took is to be taken again. lost says
// that its connection has ended. The caller trims.
func (w *window) rewind(lost bool) {
	for p := w.first; p < w.next; p++ {
		e := w.at(p)
		if e.outstanding() && e.returned == nil {
			e.doubt = true
			e.lost = e.lost || lost
		}
		e.tag, e.returned = 0, nil
		switch e.state {
		case taken:
			e.state = waiting
		case abandoned:
			e.state = settled
		}
	}
	w.next, w.low, w.lastTag, w.flying = w.first, 1, 0, 0
}

// alone is the entry that is the only one in flight.
func (w *window) alone() *entry {
	for p := w.first; p < w.next; p++ {
		if e := w.at(p); e.outstanding() {
			return e
		}
	}
	return nil
}

// forgo lets go of the oldest entries that nobody waits for: the broker may never
// answer, and they would take up the window. The caller trims.
func (w *window) forgo() {
	for p := w.first; p < w.next && w.at(p).state >= abandoned; p++ {
		w.settle(w.at(p))
	}
}

// find gives the entry that was sent with an id and was not returned yet, nil if
// there is none.
func (w *window) find(producer, id string) *entry {
	if prefix, digits, ok := strings.Cut(id, "-"); ok && prefix == producer {
		if seq, err := strconv.ParseUint(digits, 10, 64); err == nil && seq >= w.first && seq < w.next {
			if e := w.at(seq); !e.foreign && e.outstanding() {
				return e
			}
		}
	}
	// An id that its message came with; it may well look like one of ours.
	for p := w.first; p < w.next; p++ {
		if e := w.at(p); e.foreign && e.message.ID == id && e.outstanding() && e.returned == nil {
			return e
		}
	}
	return nil
}

// attempt is what a sending is marked with.
func (e *entry) attempt() int { return e.attempts + max(e.message.Attempt-1, 0) }

// outstanding tells whether the present sender took the entry, and it has no
// outcome.
func (e *entry) outstanding() bool { return e.state == taken || e.state == abandoned }

// Outcome is what became of a message.
type Outcome uint8

// Outcomes.
const (
	Confirmed Outcome = iota + 1
	Refused
	Unknown
	NotSent
)

// String is the outcome in words.
func (o Outcome) String() string {
	return [...]string{Confirmed: "confirmed", Refused: "refused", Unknown: "unknown", NotSent: "not sent"}[o]
}

// Result is the outcome of one message.
type Result struct {
	// Err is nil for a message that was confirmed, else an error that says why
	// it is not.
	Err error

	// Attempts is how often it was sent, 0 if it never was.
	Attempts int

	producer string
	seq      uint64
	id       string
}

// ID is the message's.
func (r Result) ID() string {
	if r.id != "" || r.producer == "" {
		return r.id
	}
	return messageID(r.producer, r.seq)
}

// Outcome tells which kind of error Err is.
func (r Result) Outcome() Outcome {
	switch {
	case r.Err == nil:
		return Confirmed
	case errors.Is(r.Err, ErrRefused):
		return Refused
	case errors.Is(r.Err, ErrNotSent):
		return NotSent
	default:
		return Unknown
	}
}

func messageID(producer string, seq uint64) string { return fmt.Sprintf("%s-%d", producer, seq) }
