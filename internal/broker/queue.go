package broker

import (
	"container/heap"
	"sync"
)

// Queue is one queue. Messages have sequence numbers in it that are never used
// again, and are delivered in their order.
type Queue struct {
	v    *VHost
	name string
	num  uint64 // names the queue in the journal; never used again
	spec QueueSpec

	owner  *Session // of an exclusive queue
	logged bool     // its persistent messages go to the journal
	kind   uint8    // of QueueTypes

	bindings map[*binding]struct{} // where it is the destination; guarded by v.mu
	place    int                   // in v.listing.all; guarded by v.mu
	seen     uint32                // guarded by v.listing.mu

	mu        sync.Mutex // guards what follows
	deleted   bool
	chunks    chunks
	next      uint64  // no lower sequence number was never delivered, but those in requeued
	tail      uint64  // the next sequence number to be given
	requeued  seqHeap // ready and below next
	ready     int
	unacked   int
	consumers []*Consumer
	ring      ring
	exclusive *Consumer
	single    *single // nil: all consumers are active, or there was none
	hadOne    bool    // ever had a consumer: an auto-delete queue may go
	taken     uint64
	drained   chan struct{} // closed when held publishers may go on, nil if there are none
	settled   []settledItem // scratch
	trimming  bool          // by a goroutine of its own
	rules     *rules        // never nil
	counts    *Traffic      // nil: there was none
	looked    *looked       // nil: nobody has looked
	used      int64         // when something happened last, unix ms
	free,
	full uint32 // how often there was nothing left to deliver, and how often something
	exit *exit // of messages that leave for other queues; nil: none ever did
}

// Back-pressure (a publisher that outruns a queue's consumers is held): the
// number of ready messages, and their size, that begin and end it.
const (
	pressureHigh = 16 << 10
	pressureLow  = 4 << 10
)

// settledMost is how many messages are taken out of a long queue before they are
// forgotten: its index may be packed, and is not to be unpacked all at once.
const settledMost = 2048

type seqHeap []uint64

func (h seqHeap) Len() int           { return len(h) }
func (h seqHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h seqHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *seqHeap) Push(x any)        { *h = append(*h, x.(uint64)) }
func (h *seqHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// appendLocked puts a message at the tail and returns its sequence number. One
// that its publisher has marked as sent again may have been delivered before a
// crash forgot it: consumers are told so, as of what is delivered again.
func (q *Queue) appendLocked(m *stored, resent bool) uint64 {
	seq := q.tail
	q.tail++
	k, e := q.chunks.slot(q, seq)
	*e = entry{msg: m, state: ready, redelivered: resent}
	k.live++
	q.ready++
	q.count(Published, 1)
	if !k.listed {
		q.v.b.evict.add(k)
	}
	return seq
}

// peekLocked finds the first ready message.
func (q *Queue) peekLocked() (uint64, *entry) {
	for len(q.requeued) > 0 {
		seq := q.requeued[0]
		if e := q.chunks.entry(seq); e != nil && e.state == ready {
			return seq, e
		}
		heap.Pop(&q.requeued)
	}
	for q.next < q.tail {
		k := q.chunks.at(q.next)
		if k == nil || q.next-k.first >= uint64(len(k.entries)) && q.next >= k.first {
			q.next = (q.next | (chunkSize - 1)) + 1
			continue
		}
		if q.next < k.first {
			q.next = k.first
		}
		if e := &k.entries[q.next-k.first]; e.state == ready {
			return q.next, e
		}
		q.next++
	}
	if q.next > q.tail {
		q.next = q.tail
	}
	return 0, nil
}

// takeLocked marks the message that peekLocked found as delivered.
func (q *Queue) takeLocked(seq uint64, e *entry) {
	e.state = unacked
	q.ready--
	q.unacked++
	q.taken++
	if seq == q.next {
		q.next++
	} else {
		heap.Pop(&q.requeued)
	}
}

func (q *Queue) requeueLocked(seq uint64) {
	e := q.chunks.entry(seq)
	if e == nil || e.state != unacked {
		return
	}
	e.state, e.redelivered = ready, true
	q.unacked--
	q.ready++
	if seq < q.next {
		heap.Push(&q.requeued, seq)
	}
}

// A settledItem is a message that left a queue, for the log to be told.
type settledItem struct {
	seq uint64
	msg *stored
}

// removeLocked takes a message out of the index.
func (q *Queue) removeLocked(seq uint64) {
	k := q.chunks.at(seq)
	if k == nil || seq < k.first || seq-k.first >= uint64(len(k.entries)) {
		return
	}
	e := &k.entries[seq-k.first]
	switch e.state {
	case gone:
		return
	case ready:
		q.ready--
	case unacked:
		q.unacked--
	case leaving:
		q.exit.held--
	}
	q.settled = append(q.settled, settledItem{seq, e.msg})
	*e = entry{}
	k.live--
	if k.live == 0 && q.chunks.free(k, q.tail) {
		q.v.b.evict.remove(k)
	}
}

// reportLocked tells the log, and the count of memory, what removeLocked took
// out. What had not been written yet need not be: its publishers get their
// confirms now.
func (q *Queue) reportLocked() {
	if len(q.settled) == 0 {
		return
	}
	if q.logged {
		l := q.v.b.log
		l.mu.Lock()
		l.settleLocked(q.num, q.settled, false)
		l.unlockAndWake()
	}
	q.forgetLocked()
}

// forgetLocked lets go of the messages that the log has been told of.
func (q *Queue) forgetLocked() {
	b := q.v.b
	freed := 0
	for i := range q.settled {
		freed += q.settled[i].msg.release(b)
	}
	b.evict.hot.Add(int64(-freed))
	clear(q.settled)
	if q.settled = q.settled[:0]; cap(q.settled) > 4096 {
		q.settled = nil
	}
	if q.drained != nil && q.ready <= pressureLow {
		q.releaseLocked()
	}
}

// releaseLocked lets held publishers go on.
func (q *Queue) releaseLocked() {
	if q.drained != nil {
		close(q.drained)
		q.drained = nil
	}
}

// dispatchLocked assigns ready messages to consumers that have room, each in
// its turn.
func (q *Queue) dispatchLocked() {
	for q.ready > 0 {
		c := q.ring.turn()
		if c == nil {
			break
		}
		most := 1
		if q.ring.alone(c) {
			most = q.ready
		}
		verdict := c.assignLocked(most)
		if verdict == noRoom {
			q.ring.remove(c)
		}
		if verdict == notLoaded {
			break
		}
	}
	if q.overLocked() {
		q.trimLocked()
	}
	q.touch()
	q.reportLocked()
	if q.drained != nil && q.ready <= pressureLow {
		q.releaseLocked()
	}
}
