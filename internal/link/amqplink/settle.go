package amqplink

import (
	"fmt"
	"sync"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// How a delivery stands.
type standing uint8

const (
	settled     standing = iota // and written; or never given
	outstanding                 // with the application
	acked                       // this and what follows: not written yet
	nackedRequeue
	nackedDrop
	rejectedRequeue
	rejectedDrop
)

const (
	ledgerLeast = 64      // standings that a ledger has room for, a power of two
	tagGapMost  = 1 << 16 // a broker counts its delivery tags by one
)

// A ledger knows how the deliveries of one receiver stand, and writes what was
// settled: each tag once, the oldest ones in one frame.
//
// It holds the standings of the tags from low, the oldest that is not written, to
// next, which comes next, in a ring.
type ledger struct {
	mu        sync.Mutex // guards all
	closed    bool
	queued    bool // the writer knows that there is something
	low, next uint64
	ring      []standing // of a length that is a power of two
	pending   []uint64   // tags to be written, in the order of their settlement
}

func newLedger() *ledger {
	return &ledger{low: 1, next: 1, ring: make([]standing, ledgerLeast)}
}

func (l *ledger) at(tag uint64) *standing { return &l.ring[tag&uint64(len(l.ring)-1)] }

// add takes deliveries in, in order. It says false when the receiver is closed.
func (l *ledger) add(batch []*link.Delivery) (bool, *link.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, nil
	}
	for _, d := range batch {
		if d.Tag < l.next || d.Tag-l.next > tagGapMost {
			return false, violation(fmt.Sprintf("delivery tag %d came where %d is next", d.Tag, l.next))
		}
		for l.next <= d.Tag {
			if l.next-l.low == uint64(len(l.ring)) {
				l.makeRoom()
			}
			*l.at(l.next) = settled
			l.next++
		}
		*l.at(d.Tag) = outstanding
	}
	return true, nil
}

// makeRoom forgets the oldest that are written, or doubles the ring.
func (l *ledger) makeRoom() {
	l.forget()
	if l.next-l.low < uint64(len(l.ring)) {
		return
	}
	old := l.ring
	l.ring = make([]standing, 2*len(old))
	for tag := l.low; tag < l.next; tag++ {
		*l.at(tag) = old[tag&uint64(len(old)-1)]
	}
}

func (l *ledger) forget() {
	for l.low < l.next && *l.at(l.low) == settled {
		l.low++
	}
}

// settle notes how a delivery was settled. first is true when the writer is to
// be told.
func (l *ledger) settle(tag uint64, how standing) (first bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, link.ErrClosed
	}
	if tag < l.low || tag >= l.next || *l.at(tag) != outstanding {
		return false, link.ErrSettled
	}
	*l.at(tag) = how
	l.pending = append(l.pending, tag)
	first = !l.queued
	l.queued = true
	return first, nil
}

// close makes settling fail. What is settled can still be written.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// appendFrames appends what was settled since the last time. From the oldest on,
// a run of tags of one standing is one frame; behind the first that is
// outstanding each is its own, because multiple would settle that too.
func (l *ledger) appendFrames(dst []byte, channel uint16) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queued = false
	for l.low < l.next && *l.at(l.low) != outstanding {
		how, last, n := *l.at(l.low), l.low, 0
		if how == settled {
			l.low++
			continue
		}
		for tag := l.low; tag < l.next; tag++ {
			if s := *l.at(tag); s == how {
				*l.at(tag) = settled
				last = tag
				if n++; how >= rejectedRequeue {
					break // basic.reject is of one
				}
			} else if s != settled {
				break
			}
		}
		l.low = last + 1
		dst = appendSettlement(dst, channel, last, how, n > 1)
	}
	for _, tag := range l.pending {
		if tag >= l.low && *l.at(tag) > outstanding {
			dst = appendSettlement(dst, channel, tag, *l.at(tag), false)
			*l.at(tag) = settled
		}
	}
	l.pending = l.pending[:0]
	return dst
}

func appendSettlement(dst []byte, channel uint16, tag uint64, how standing, multiple bool) []byte {
	switch how {
	case nackedRequeue, nackedDrop:
		return amqpwire.AppendNack(dst, channel, tag, multiple, how == nackedRequeue)
	case rejectedRequeue, rejectedDrop:
		return amqpwire.AppendReject(dst, channel, tag, how == rejectedRequeue)
	}
	return amqpwire.AppendAck(dst, channel, tag, multiple)
}
