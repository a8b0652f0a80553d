package transport

import "github.com/ferrymq/ferry/internal/link"

const (
	// BodyMost is how many bytes of a message are taken from a peer, of which
	// bodyAtOnce are allocated before they are there.
	BodyMost   = 512 << 20
	bodyAtOnce = 1 << 20

	// Small bodies that came in one read share a piece of memory, and so do
	// deliveries: few enough that one that is kept does not keep much.
	slabMost       = 32 << 10
	slabBodyMost   = 4 << 10
	deliveriesMost = 64
)

// Arrivals is memory for messages that arrive. It is the reader's.
type Arrivals struct {
	Size int // bytes that the last message took on the wire, about

	slab       []byte          // room for bodies
	deliveries []link.Delivery // room for deliveries
}

// Expected is how many messages the bytes that were read hold, about.
func (a *Arrivals) Expected(unread int) int {
	return min(max(1, (unread+a.Size-1)/max(1, a.Size)+1), deliveriesMost)
}

// Delivery is a new delivery.
func (a *Arrivals) Delivery(unread int) *link.Delivery {
	if len(a.deliveries) == 0 {
		a.deliveries = make([]link.Delivery, a.Expected(unread))
	}
	d := &a.deliveries[0]
	a.deliveries = a.deliveries[1:]
	return d
}

// Room is room for a body of n bytes, of length 0. That of a large one grows with
// what is appended.
func (a *Arrivals) Room(n, unread int) []byte {
	if n > slabBodyMost {
		return make([]byte, 0, min(n, bodyAtOnce))
	}
	if len(a.slab) < n {
		a.slab = make([]byte, max(n, min(unread, slabMost)))
	}
	b := a.slab[:0:n]
	a.slab = a.slab[n:]
	return b
}

// Last is a text that is likely to come again: then it takes no memory.
type Last struct{ s string }

// Of is the text.
func (l *Last) Of(b []byte) string {
	if l.s != string(b) {
		l.s = string(b)
	}
	return l.s
}
