package stomplink

import (
	"bytes"
	"maps"
	"sync"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// How a delivery stands.
type standing uint8

const (
	settled     standing = iota // and written; or never given
	outstanding                 // with the application
	acked                       // this and what follows: not written yet
	requeued
	dropped
	held // to be given back with the subscription
)

const ledgerLeast = 64 // places that a ledger has, a power of two

// An account is how one delivery stands.
type account struct {
	standing standing
	id       []byte         // what ACK names it by; its room is used again
	kept     *link.Delivery // what came, where this side alone can give it again
}

// againTags is the first tag of deliveries that are given again by this side: any
// other is less. They are apart because each time is a new tag, and the ring is as
// large as the oldest that is not settled is old.
const againTags = 1 << 63

// A ledger knows how the deliveries of one receiver stand, and writes what was
// settled: each once, several in one write.
//
// It holds those of the tags from low, the oldest that is not written, to next,
// which comes next, in a ring. Tags are counted here.
type ledger struct {
	nacks bool // a NACK can give a message back
	keeps bool // else: the queue goes with the subscription, so that what is given back comes from here

	mu           sync.Mutex // guards all
	closed       bool
	stopped      bool // nothing is taken in any more
	queued       bool // the writer knows that there is something
	low, next    uint64
	ring         []account
	pending      []uint64 // tags to be written, in the order of their settlement
	open         int      // outstanding ones
	returning    bool     // nothing is taken in until the subscription was given back
	subscription uint64   // the id of the present one

	returned []account           // given back, to be given again
	again    map[uint64]*account // given again and not written
	lastTag  uint64              // of these
}

func newLedger(nacks bool) *ledger {
	return &ledger{nacks: nacks, low: 1, next: 1, subscription: 1, ring: make([]account, ledgerLeast), lastTag: againTags - 1}
}

func (l *ledger) at(tag uint64) *account {
	if tag >= againTags {
		return l.again[tag]
	}
	return &l.ring[tag&uint64(len(l.ring)-1)]
}

// outstanding is the account of a tag that is with the application, else nil.
func (l *ledger) outstanding(tag uint64) *account {
	if tag < l.low || tag >= l.next && tag < againTags {
		return nil
	}
	if a := l.at(tag); a != nil && a.standing == outstanding {
		return a
	}
	return nil
}

// add takes deliveries in, in order, and gives them their tags; ids are their ack
// ids up to ends. It says false when nothing is taken in: then they stay unsettled.
func (l *ledger) add(batch []*link.Delivery, ids []byte, ends []int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.stopped || l.returning {
		return false
	}
	from := 0
	for i, d := range batch {
		if l.next-l.low == uint64(len(l.ring)) {
			l.makeRoom()
		}
		a := l.at(l.next)
		a.standing, a.id = outstanding, append(a.id[:0], ids[from:ends[i]]...)
		if l.keeps {
			a.kept = copyOf(d)
		}
		from = ends[i]
		d.Tag = l.next
		l.next++
		l.open++
	}
	return true
}

// makeRoom forgets the oldest that are written, or doubles the ring.
func (l *ledger) makeRoom() {
	for l.low < l.next && l.at(l.low).standing == settled {
		l.low++
	}
	if l.next-l.low < uint64(len(l.ring)) {
		return
	}
	old := l.ring
	l.ring = make([]account, 2*len(old))
	for tag := l.low; tag < l.next; tag++ {
		*l.at(tag) = old[tag&uint64(len(old)-1)]
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
	a := l.outstanding(tag)
	if a == nil {
		return false, link.ErrSettled
	}
	l.open--
	switch {
	case how == requeued && l.keeps:
		how = settled
		l.returned = append(l.returned, account{id: a.id, kept: a.kept})
		a.id = nil // it has another
		delete(l.again, tag)
	case how == requeued && !l.nacks:
		how = held
		l.returning = true
	default:
		l.pending = append(l.pending, tag)
	}
	a.standing, a.kept = how, nil
	first = !l.queued
	l.queued = true
	return first, nil
}

// giveAgain takes what was given back for the application once more.
func (l *ledger) giveAgain() []*link.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.stopped {
		l.returned = nil
	}
	if len(l.returned) == 0 {
		return nil
	}
	if l.again == nil {
		l.again = make(map[uint64]*account)
	}
	batch := make([]*link.Delivery, 0, len(l.returned))
	for _, a := range l.returned {
		l.lastTag++
		l.open++
		d := copyOf(a.kept)
		d.Tag, d.Redelivered = l.lastTag, true
		a.standing = outstanding
		l.again[d.Tag] = &a
		batch = append(batch, d)
	}
	l.returned = nil
	return batch
}

// copyOf is a delivery that does not change when the application writes into the
// other.
func copyOf(d *link.Delivery) *link.Delivery {
	c := *d
	c.Message.Body = bytes.Clone(d.Message.Body)
	c.Message.Headers = maps.Clone(d.Message.Headers)
	return &c
}

// stop has nothing taken in any more.
func (l *ledger) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
}

// close makes settling fail. What is settled can still be written.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// isPresent tells whether a subscription is the one that there is: what others
// brought was given back.
func (l *ledger) isPresent(subscription uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return subscription == l.subscription
}

// appendFrames appends what was settled since the last time. If that leaves nothing
// but what is to be given back, again is the id of the subscription that is to
// replace the present one.
func (l *ledger) appendFrames(dst []byte, v stompwire.Version, d dialect) (out []byte, again uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queued = false
	for _, tag := range l.pending {
		a := l.at(tag)
		switch a.standing {
		case requeued:
			dst = appendAck(dst, v, stompwire.Nack, l.subscription, a.id)
			dst = append(dst, stompwire.HeaderRequeue+":true\n"...)
		case dropped:
			dst = appendAck(dst, v, stompwire.Nack, l.subscription, a.id)
			if d.hasExchanges() {
				dst = append(dst, stompwire.HeaderRequeue+":false\n"...)
			}
		default:
			dst = appendAck(dst, v, stompwire.Ack, l.subscription, a.id)
		}
		dst = append(stompwire.AppendHeadEnd(dst), 0)
		a.standing = settled
		delete(l.again, tag)
	}
	l.pending = l.pending[:0]
	if !l.returning || l.open > 0 || l.closed || l.stopped {
		return dst, 0
	}
	l.returning = false
	for ; l.low < l.next; l.low++ {
		l.at(l.low).standing = settled
	}
	l.subscription++
	return dst, l.subscription
}
