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

	mu         sync.Mutex // guards what follows
	deleted    bool
	lane               // of messages without a priority
	more       []*lane // of the others, by descending priority
	ready      int
	unacked    int
	waiting    int
	readyBytes int64 // of bodies, as far as they are known; see entry.body
	bytes      int64 // likewise, of all messages
	lasting    struct {
		messages int
		bytes    int64 // likewise
	} // of those, what a restart does not forget
	consumers []*Consumer
	ring      ring
	exclusive *Consumer
	single    *single // nil: all consumers are active, or there was none
	hadOne    bool    // ever had a consumer: an auto-delete queue may go
	taken     uint64
	drained   chan struct{}              // closed when held publishers may go on, nil if there are none
	settled   []settledItem              // scratch
	changed   []uint64                   // messages whose attributes did; scratch
	trimming  bool                       // by a goroutine of its own
	rules     *rules                     // never nil
	policies  policies                   // that the rules are also made of
	clock     *clock                     // nil: nothing in the queue has a time
	delay     *delay                     // of what an exchange keeps for later; nil: it is an ordinary queue
	values    map[dupID]uint64           // which messages have them, in a queue that takes each value once
	onDue     func(q *Queue, seq uint64) // called with mu held when a message's wait is over; nil: it is ready then
	counts    *Traffic                   // nil: there was none
	looked    *looked                    // nil: nobody has looked
	used      int64                      // when something happened last, unix ms
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

// appendLocked puts a message at the tail of its lane and returns its sequence number.
// One that its publisher has marked as sent again may have been delivered before a
// crash forgot it: consumers are told so, as of what is delivered again.
func (q *Queue) appendLocked(m *stored, a arrival) uint64 {
	ln := &q.lane
	if a.priority > 0 && q.rules.priorities > 0 {
		ln = q.makeLane(min(a.priority, q.rules.priorities))
	}
	seq := ln.tail
	ln.tail++
	k, e := ln.chunks.slot(q, seq)
	*e = entry{msg: m, state: ready, redelivered: a.resent, over: a.over, count: a.count}
	k.live++
	q.countIn(e)
	if a.ttl != 0 || a.wake != 0 || a.count != 0 || a.value != nil || q.rules.ttl != none {
		q.arriveLocked(k, seq, a)
	}
	if e.state == ready {
		q.ready++
		q.readyBytes += e.body()
	} else {
		q.waiting++
	}
	q.count(Published, 1)
	if !k.listed {
		q.v.b.evict.add(k)
	}
	return seq
}

// countIn and countOut keep the sums over what is in the queue, whatever its state.
func (q *Queue) countIn(e *entry) {
	q.bytes += e.body()
	if q.logged && e.msg.persistent {
		q.lasting.messages++
		q.lasting.bytes += e.body()
	}
}

func (q *Queue) countOut(e *entry) {
	q.bytes -= e.body()
	if q.logged && e.msg.persistent {
		q.lasting.messages--
		q.lasting.bytes -= e.body()
	}
}

// peekLocked finds the first ready message. What it finds to have expired leaves the
// queue: whoever calls it calls reportLocked afterwards.
func (q *Queue) peekLocked() (uint64, *entry) {
	for _, ln := range q.more {
		if seq, e := q.peekLane(ln); e != nil {
			return seq, e
		}
	}
	return q.peekLane(&q.lane)
}

// lowestLocked is peekLocked for the first of those that would be delivered last.
func (q *Queue) lowestLocked() (uint64, *entry) {
	seq, e := q.peekLane(&q.lane)
	for i := len(q.more) - 1; e == nil && i >= 0; i-- {
		seq, e = q.peekLane(q.more[i])
	}
	return seq, e
}

func (q *Queue) peekLane(ln *lane) (uint64, *entry) {
	for len(ln.requeued) > 0 {
		seq := ln.requeued[0]
		if k := ln.chunks.at(seq); k != nil && seq >= k.first && seq-k.first < uint64(len(k.entries)) {
			if e := &k.entries[seq-k.first]; e.state == ready && !q.overdueLocked(k, seq) {
				return seq, e
			}
		}
		heap.Pop(&ln.requeued)
	}
	for ln.next < ln.tail {
		k := ln.chunks.at(ln.next)
		if k == nil || ln.next-k.first >= uint64(len(k.entries)) && ln.next >= k.first {
			ln.next = (ln.next | (chunkSize - 1)) + 1
			continue
		}
		if ln.next < k.first {
			ln.next = k.first
		}
		if e := &k.entries[ln.next-k.first]; e.state == ready && !q.overdueLocked(k, ln.next) {
			return ln.next, e
		}
		ln.next++
	}
	if ln.next > ln.tail {
		ln.next = ln.tail
	}
	return 0, nil
}

// takeLocked marks the message that peekLocked found as delivered.
func (q *Queue) takeLocked(seq uint64, e *entry) {
	e.state = unacked
	q.ready--
	q.readyBytes -= e.body()
	q.unacked++
	q.taken++
	if ln := q.laneOf(seq); seq == ln.next {
		ln.next++
	} else {
		heap.Pop(&ln.requeued)
	}
}

// requeueLocked gives a message that was delivered back to its place.
func (q *Queue) requeueLocked(seq uint64) {
	k := q.chunkOf(seq)
	if k == nil || seq < k.first || seq-k.first >= uint64(len(k.entries)) {
		return
	}
	e := &k.entries[seq-k.first]
	if e.state != unacked {
		return
	}
	e.state, e.redelivered = ready, true
	q.unacked--
	q.ready++
	q.readyBytes += e.body()
	if k.times != nil {
		if q.overdueLocked(k, seq) {
			return // at once: it must take nobody's place in a queue with a limit
		}
		q.timeLocked(k, k.timeOf(int(seq-k.first)))
	}
	q.backLocked(seq)
}

// backLocked sees to it that a message that has become ready is found.
func (q *Queue) backLocked(seq uint64) {
	if ln := q.laneOf(seq); seq < ln.next {
		heap.Push(&ln.requeued, seq)
	}
}

// A settledItem is a message that left a queue, for the log to be told.
type settledItem struct {
	seq uint64
	msg *stored
}

// removeLocked takes a message out of the index.
func (q *Queue) removeLocked(seq uint64) {
	ln := q.laneOf(seq)
	k := ln.chunks.at(seq)
	if k == nil || seq < k.first || seq-k.first >= uint64(len(k.entries)) {
		return
	}
	e := &k.entries[seq-k.first]
	switch e.state {
	case gone:
		return
	case ready:
		q.ready--
		q.readyBytes -= e.body()
	case unacked:
		q.unacked--
	case leaving:
		q.exit.held--
	case waiting:
		q.waiting--
	}
	q.countOut(e)
	q.settled = append(q.settled, settledItem{seq, e.msg})
	*e = entry{}
	if k.times != nil {
		k.forgetValue(int(seq - k.first))
		k.times.forget(int(seq - k.first))
	}
	k.live--
	if k.live == 0 && ln.chunks.free(k, ln.tail) {
		q.v.b.evict.remove(k)
		q.untimeLocked(k)
	}
}

// reportLocked tells the log, and the count of memory, what removeLocked took
// out. What had not been written yet need not be: its publishers get their
// confirms now.
func (q *Queue) reportLocked() {
	if len(q.settled) == 0 && len(q.changed) == 0 {
		return
	}
	if q.logged {
		l := q.v.b.log
		l.mu.Lock()
		q.logLocked(false)
		l.unlockAndWake()
	}
	q.forgetLocked()
}

// logLocked tells the log, which is locked, what changed and what was settled; whole
// is within a transaction.
func (q *Queue) logLocked(whole bool) {
	l := q.v.b.log
	q.logChangedLocked()
	l.settleLocked(q.num, q.settled, whole)
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
	if q.changed = q.changed[:0]; cap(q.changed) > 4096 {
		q.changed = nil
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
	if q.clock != nil {
		q.expireInstantLocked()
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
