package broker

import (
	"container/heap"
	"sync"
	"time"
)

// What has a time is found without looking at anything else: each chunk knows when
// something in it is to be done at the earliest, a queue has a heap of such chunks,
// and the broker one of such queues, by whose first its one timer goes. These times
// are lower bounds: what was delivered or settled meanwhile leaves them as they are,
// and whoever looks then finds nothing to do, and a later time.
//
// Times are the wall clock's, milliseconds since 1970, so that they mean the same
// after a restart and on another node.
const (
	// tickLeast is the least time between two looks, so that what becomes due about
	// the same time is done together.
	tickLeast = 5 * time.Millisecond
	// tickMost is after how long the clock is looked at again at the latest, while
	// anything has a time: it may have been set.
	tickMost = time.Second
	// tickBatch is for how many messages at once a queue is locked.
	tickBatch = 2048
	// atOnce is when a message expires that is to be delivered at once or not at all.
	atOnce = 1
)

// clock is what a queue has whose messages have times, or that is deleted when it is
// not used.
type clock struct {
	q       *Queue
	timed   chunkHeap
	instant []uint64 // messages that expire at the end of this dispatchLocked, if they are still there
	used    int64    // when the queue was last used
	ending  bool     // it was not for too long, and is about to be deleted

	// Guarded by the mutex of timers.
	at   int64
	slot int // place in the heap, and one; 0: it is not there
}

type chunkHeap []*chunk

func (h chunkHeap) Len() int           { return len(h) }
func (h chunkHeap) Less(i, j int) bool { return h[i].times.next < h[j].times.next }
func (h chunkHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].times.slot, h[j].times.slot = i+1, j+1
}

func (h *chunkHeap) Push(x any) {
	k := x.(*chunk)
	*h = append(*h, k)
	k.times.slot = len(*h)
}

func (h *chunkHeap) Pop() any {
	n := len(*h) - 1
	k := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	k.times.slot = 0
	return k
}

// timers are the clocks of all queues that have something to do.
type timers struct {
	wake chan struct{} // a slot: the first time has become earlier

	mu   sync.Mutex // innermost; guards what follows, and what clock says
	heap clockHeap
}

type clockHeap []*clock

func (h clockHeap) Len() int           { return len(h) }
func (h clockHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h clockHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i+1, j+1
}

func (h *clockHeap) Push(x any) {
	c := x.(*clock)
	*h = append(*h, c)
	c.slot = len(*h)
}

func (h *clockHeap) Pop() any {
	n := len(*h) - 1
	c := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	c.slot = 0
	return c
}

// set sees to it that a queue is looked at at a time, or before.
func (t *timers) set(c *clock, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case c.slot == 0:
		c.at = at
		heap.Push(&t.heap, c)
	case at < c.at:
		c.at = at
		heap.Fix(&t.heap, c.slot-1)
	default:
		return
	}
	if c.slot == 1 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

func (t *timers) remove(c *clock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.slot > 0 {
		heap.Remove(&t.heap, c.slot-1)
	}
}

// take takes the clocks out whose time has come, and tells when that of the next
// will: notTimed if there is none.
func (t *timers) take(due []*clock, now int64) ([]*clock, int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.heap) > 0 {
		if t.heap[0].at > now {
			return due, t.heap[0].at
		}
		due = append(due, heap.Pop(&t.heap).(*clock))
	}
	return due, notTimed
}

// startClocks begins to watch what a replay has found.
func (b *Broker) startClocks() {
	for _, v := range b.allVHosts() {
		v.mu.RLock()
		v.eachQueue((*Queue).startClock)
		v.mu.RUnlock()
	}
}

// startClock begins to watch what a replay has found in a queue.
func (q *Queue) startClock() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eachChunk(func(k *chunk) {
		if k.times != nil && k.times.next != notTimed {
			heap.Push(&q.makeClock().timed, k)
		}
	})
	if q.clock != nil {
		q.setClockLocked()
	}
	q.usedLocked()
}

// clockLoop does what is due.
func (b *Broker) clockLoop() {
	timer := time.NewTimer(tickMost)
	defer timer.Stop()
	var due []*clock
	for !b.ending() {
		var next int64
		due, next = b.timers.take(due[:0], nowMillis())
		more := false
		for i, c := range due {
			more = c.q.tick() || more
			due[i] = nil
		}
		if more {
			continue // with those that have become due meanwhile
		}
		if next != notTimed {
			timer.Reset(tickRest(next - nowMillis()))
		}
		select {
		case <-timer.C:
		case <-b.timers.wake:
		case <-b.quit:
			return
		case <-b.failed:
			return
		}
	}
}

// tickRest is for how long nothing is to be done if the next is so many ms away: it may
// be as many as there are.
func tickRest(millis int64) time.Duration {
	return max(time.Duration(min(max(millis, 0), tickMost.Milliseconds()))*time.Millisecond, tickLeast)
}

func nowMillis() int64 { return time.Now().UnixMilli() }

func (q *Queue) makeClock() *clock {
	if q.clock == nil {
		q.clock = &clock{q: q}
	}
	return q.clock
}

// timeOf is when something is to be done with the i'th entry.
func (k *chunk) timeOf(i int) int64 {
	next := int64(notTimed)
	switch k.entries[i].state {
	case waiting:
		next = timeAt(k.times.wake, i)
	case ready:
	default:
		return notTimed
	}
	if due := timeAt(k.times.due, i); due != 0 {
		next = min(next, due)
	}
	return next
}

// arriveLocked gives a message its times when it enters the queue.
func (q *Queue) arriveLocked(k *chunk, seq uint64, a arrival) {
	ttl := q.rules.ttl
	if a.ttl != 0 {
		ttl = min(ttl, a.ttl-1)
	}
	i := int(seq - k.first)
	at := attrs{wake: a.wake, count: a.count, over: a.over}
	if a.value != nil {
		at.value = *a.value
		q.valueLocked(at.value, seq)
	}
	switch {
	case ttl == 0:
		at.due = atOnce
	case ttl != none:
		at.due = nowMillis() + ttl
	}
	k.setAttrs(i, at)
	if a.wake != 0 {
		k.entries[i].state = waiting
	} else if ttl == 0 {
		c := q.makeClock()
		c.instant = append(c.instant, seq)
		return
	}
	if k.times != nil {
		q.timeLocked(k, k.timeOf(i))
	}
}

// timeLocked notes that something in a chunk is to be done at a time.
func (q *Queue) timeLocked(k *chunk, at int64) {
	if at >= k.times.next {
		return
	}
	k.times.next = at
	c := q.makeClock()
	if s := k.times.slot; s > 0 {
		heap.Fix(&c.timed, s-1)
	} else {
		heap.Push(&c.timed, k)
	}
	if c.timed[0] == k {
		q.v.b.timers.set(c, at)
	}
}

// untimeLocked forgets a chunk in which all is gone.
func (q *Queue) untimeLocked(k *chunk) {
	if k.times != nil && k.times.slot > 0 {
		heap.Remove(&q.clock.timed, k.times.slot-1)
	}
}

// overdueLocked tells whether a message that is ready has expired, and expels it.
func (q *Queue) overdueLocked(k *chunk, seq uint64) bool {
	if k.times == nil {
		return false
	}
	due := timeAt(k.times.due, int(seq-k.first))
	if due == 0 || due == atOnce && q.clock != nil && len(q.clock.instant) > 0 || due > nowMillis() {
		return false
	}
	q.expelLocked(seq, expired)
	return true
}

// expireInstantLocked expels what was not delivered at once, as it was to be.
func (q *Queue) expireInstantLocked() {
	c := q.clock
	for _, seq := range c.instant {
		if e := q.entryLocked(seq); e != nil && e.state == ready {
			q.expelLocked(seq, expired)
		}
	}
	if c.instant = c.instant[:0]; cap(c.instant) > 4096 {
		c.instant = nil
	}
}

// tick does what is due in a queue, and tells whether there is more: what it does at
// once is limited, for the sake of other queues.
func (q *Queue) tick() (more bool) {
	q.mu.Lock()
	c := q.clock
	if q.deleted || c == nil {
		q.mu.Unlock()
		return false
	}
	if q.leavingLocked() >= leavingMost {
		q.v.b.timers.remove(c)
		q.v.b.timers.set(c, nowMillis()+tickLeast.Milliseconds())
		q.mu.Unlock()
		return false
	}
	did := 0
	for now := nowMillis(); len(c.timed) > 0 && c.timed[0].times.next <= now; {
		if did >= tickBatch {
			more = true
			break
		}
		if q.delay != nil {
			did += q.tickDelayLocked(now)
			continue
		}
		did += q.tickChunkLocked(c.timed[0], now)
	}
	if did > 0 {
		q.reportLocked()
		q.dispatchLocked()
	}
	unused := q.unusedLocked()
	c.ending = c.ending || unused
	q.setClockLocked()
	q.mu.Unlock()
	if unused {
		q.v.b.tasks.Go(func() { q.v.deleteExpired(q) })
	}
	return more
}

// tickChunkLocked does what is due in a chunk, and finds out when more will be. It
// tells for how many messages. A chunk that was packed is packed again.
func (q *Queue) tickChunkLocked(k *chunk, now int64) (did int) {
	b := q.v.b
	packed := k.packed != nil
	if packed {
		k.unpack()
	}
	next := int64(notTimed)
	for i, t := range k.times.due {
		switch {
		case t > now:
			next = min(next, t) // perhaps of one that does not expire now
		case t != 0 && (k.entries[i].state == ready || k.entries[i].state == waiting):
			q.expelLocked(k.first+uint64(i), expired)
			did++
		}
	}
	for i, t := range k.times.wake {
		switch {
		case t > now:
			next = min(next, t)
		case t != 0 && k.entries[i].state == waiting:
			q.wakeLocked(k.first+uint64(i), k)
			did++
		}
	}
	if k.times.slot == 0 {
		return did // all of it is gone
	}
	k.times.next = next
	if next == notTimed {
		heap.Remove(&q.clock.timed, k.times.slot-1)
	} else {
		heap.Fix(&q.clock.timed, k.times.slot-1)
	}
	if packed && k.live > 0 {
		if k.pack(b.log, false); k.packed == nil {
			b.evict.add(k)
		}
	}
	return did
}

// setClockLocked sees to it that the queue is looked at when something is to be done.
func (q *Queue) setClockLocked() {
	c := q.clock
	next := int64(notTimed)
	if len(c.timed) > 0 {
		next = c.timed[0].times.next
	}
	if q.rules.expires > 0 && len(q.consumers) == 0 && !c.ending {
		next = min(next, c.used+q.rules.expires.Milliseconds())
	}
	if next != notTimed {
		q.v.b.timers.set(c, next)
	}
}

// usedLocked notes that the queue was used, and is to be kept for another while, if
// it is one that is deleted when it is not used: it was declared or asked for a
// message, lost its last consumer, or got other rules.
func (q *Queue) usedLocked() {
	if q.rules.expires > 0 && !q.deleted {
		q.makeClock().used = nowMillis()
		q.setClockLocked()
	}
}

// unusedLocked tells whether the queue was unused for so long that it is to go.
func (q *Queue) unusedLocked() bool {
	return q.rules.expires > 0 && len(q.consumers) == 0 && q.clock != nil && !q.clock.ending &&
		nowMillis()-q.clock.used >= q.rules.expires.Milliseconds()
}

// deleteExpired removes a queue that was not used for as long as it may be.
func (v *VHost) deleteExpired(q *Queue) {
	_, _ = v.b.awaitMoves(q) // if that fails the broker does
	v.mu.Lock()
	q.mu.Lock()
	if !q.deleted {
		q.clock.ending = false
		if q.unusedLocked() {
			v.dropQueueLocked(q)
		} else {
			q.setClockLocked()
		}
	}
	q.mu.Unlock()
	v.mu.Unlock()
}
