package broker

import (
	"cmp"
	"container/heap"
	"slices"
	"sync"
	"time"
)

// A consumer may be allowed to keep a delivery for a limited time: the argument
// x-consumer-timeout of its own, or of its queue, or a policy's consumer-timeout. One
// that keeps one longer is cancelled, it alone; all its deliveries are requeued. If
// its client does not understand that, its channel is closed, as in RabbitMQ.
//
// No time is kept of a delivery. Each consumer with a timeout is looked at now and
// then, and it is noted what the channel's last delivery was. What was delivered by
// then, and is not settled a timeout later, is too old. So it is found an interval
// later than it might be: an eighth of the timeout, a minute at most, but not less
// than a 64th of it.
const (
	lookMost  = time.Minute
	lookLeast = 5 * time.Millisecond
	looksMost = 64

	// lateMost is how many deliveries of consumers that were timed out a channel
	// remembers, so that their settlements are no mistakes.
	lateMost = 1 << 16
)

// lookEvery is how often a consumer is looked at.
func lookEvery(timeout time.Duration) time.Duration {
	return max(min(timeout/8, lookMost), timeout/looksMost, lookLeast)
}

// timeouts are the consumers of a broker that have a timeout.
type timeouts struct {
	wake chan struct{} // a slot: there is an earlier one

	mu  sync.Mutex // guards what follows, and the places of watches
	due watches    // a heap: who is to be looked at first
}

// A watch is on one consumer.
type watch struct {
	c     *Consumer
	at    time.Time // when it is to be looked at
	place int       // in timeouts.due, from 1; 0: it is not there
	over  bool

	seen []sight // of whoever looks; the oldest first
}

// A sight says which delivery was the channel's last, when.
type sight struct {
	tag uint64
	at  time.Time
}

type watches []*watch

func (h watches) Len() int           { return len(h) }
func (h watches) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h watches) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *watches) Push(x any) {
	w := x.(*watch)
	*h = append(*h, w)
	w.place = len(*h)
}

func (h *watches) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.place = 0
	return w
}

// set has a consumer looked at by a time.
func (t *timeouts) set(w *watch, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case w.over:
		return
	case w.place == 0:
		w.at = at
		heap.Push(&t.due, w)
	case at.Before(w.at):
		w.at = at
		heap.Fix(&t.due, w.place-1)
	}
	if t.due[0] == w {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// end ends a watch.
func (t *timeouts) end(w *watch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w.over = true
	if w.place > 0 {
		heap.Remove(&t.due, w.place-1)
	}
}

// next takes the watch that is due; nil: none is, and the next one is at a time, zero
// if there is none.
func (t *timeouts) next(now time.Time) (*watch, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.due) == 0:
		return nil, time.Time{}
	case t.due[0].at.After(now):
		return nil, t.due[0].at
	}
	return heap.Pop(&t.due).(*watch), time.Time{}
}

// timeoutLoop looks at consumers until the broker is closed.
func (b *Broker) timeoutLoop() {
	for !b.ending() {
		now := time.Now()
		w, at := b.timeouts.next(now)
		if w != nil {
			if every := w.c.look(w, now); every > 0 {
				b.timeouts.set(w, now.Add(every))
			}
			continue
		}
		var timer <-chan time.Time
		if !at.IsZero() {
			timer = time.After(at.Sub(now))
		}
		select {
		case <-timer:
		case <-b.timeouts.wake:
		case <-b.quit:
		case <-b.failed:
		}
	}
}

// timeoutLocked is for how long the consumer may keep a delivery; 0: for ever. Its own
// word stands before its queue's. q.mu is held.
func (c *Consumer) timeoutLocked() time.Duration {
	switch {
	case c.noAck:
		return 0
	case c.ownTimeout:
		return c.timeout
	}
	return c.q.rules.timeout
}

// watchLocked has a consumer looked at, if it has a timeout. q.mu is held.
func (c *Consumer) watchLocked() {
	timeout := c.timeoutLocked()
	if timeout == 0 {
		return
	}
	if c.watch == nil {
		c.watch = &watch{c: c}
	}
	c.q.v.b.timeouts.set(c.watch, time.Now().Add(lookEvery(timeout)))
}

// unwatchLocked ends that. q.mu is held.
func (c *Consumer) unwatchLocked() {
	if c.watch != nil {
		c.q.v.b.timeouts.end(c.watch)
		c.watch = nil
	}
}

// look cancels the consumer if it keeps a delivery for too long. every is when it is
// to be looked at again; 0: never.
func (c *Consumer) look(w *watch, now time.Time) (every time.Duration) {
	q, ch, s := c.q, c.ch, c.ch.s
	q.mu.Lock()
	timeout := c.timeoutLocked()
	s.mu.Lock()
	if timeout == 0 || q.deleted || ch.closed || s.closed || c.gone && c.inFlight == 0 {
		s.mu.Unlock()
		c.unwatchLocked()
		q.mu.Unlock()
		return 0
	}
	if !w.passed(now.Add(-timeout)) {
		w.note(now)
		s.mu.Unlock()
		q.mu.Unlock()
		return lookEvery(timeout)
	}
	told := c.gone // by who cancelled it
	late := ch.takeAllOfLocked(c)
	resume := ch.creditLocked(late)
	unsentFrom := min(ch.firstUnsentLocked(), ch.unsent-1) // as in close
	s.dropDeliveriesLocked(func(other *Consumer) bool { return other == c })
	var closing []*Consumer
	if !told && !s.cfg.NotifyCancelled {
		var lost []delivered
		lost, closing = ch.failLocked(errorf(PreconditionFailed, timedOut, ch.id, timeout.Milliseconds()))
		late = append(late, lost...)
	}
	s.mu.Unlock()
	c.unwatchLocked()
	last := q.dropConsumerLocked(c)
	if q.single != nil {
		q.dispatchLocked()
	}
	q.mu.Unlock()

	if !told {
		s.b.logger.Warn("a consumer was cancelled because it kept a delivery for too long",
			"vhost", q.v.name, "queue", q.name, "consumer", c.tag, "connection", s.cfg.Name, "timeout", timeout, "requeued", len(late))
		if s.cfg.NotifyCancelled {
			s.cancelled(c)
		}
	}
	for _, other := range closing {
		if other != c {
			ch.endConsumer(other)
		}
	}
	settleSent(late, failed, unsentFrom)
	resumeConsumers(resume)
	s.unstall()
	s.signal()
	if last && q.spec.AutoDelete {
		q.v.deleteUnused(q)
	}
	return 0
}

// timedOut is RabbitMQ's text.
const timedOut = "delivery acknowledgement on channel %d timed out. Timeout value used: %d ms. This timeout value can be configured, see consumers doc guide to learn more"

// passed tells whether the consumer has a delivery that was made by a time.
func (w *watch) passed(limit time.Time) bool {
	n := 0
	for n < len(w.seen) && !w.seen[n].at.After(limit) {
		n++
	}
	if n == 0 {
		return false
	}
	oldest := w.seen[n-1].tag
	w.seen = slices.Delete(w.seen, 0, n)
	return w.c.inFlight > 0 && w.c.ch.unacked.hasUpTo(oldest, w.c)
}

// note notes what was delivered by now, if anything is to be settled.
func (w *watch) note(now time.Time) {
	last := w.c.ch.lastTag
	switch n := len(w.seen); {
	case w.c.inFlight == 0:
		w.seen = nil
	case n == 0 || w.seen[n-1].tag != last:
		w.seen = append(w.seen, sight{last, now})
	}
}

// hasUpTo tells whether a consumer has a delivery with this tag, or a lower one.
func (r *unackedRing) hasUpTo(tag uint64, c *Consumer) bool {
	for i := range r.old {
		if d := &r.old[i]; d.tag > tag {
			return false
		} else if d.q != nil && d.c == c {
			return true
		}
	}
	for i := range r.n {
		if r.base+uint64(i) > tag {
			return false
		}
		if d := r.at(i); d.q != nil && d.c == c {
			return true
		}
	}
	return false
}

// takeAllOfLocked takes all deliveries of a consumer off the channel, and remembers
// their tags. s.mu is held.
func (ch *Channel) takeAllOfLocked(c *Consumer) (list []delivered) {
	ch.unacked.all(func(d delivered) {
		if d.c == c {
			list = append(list, d)
		}
	})
	for i := range list {
		ch.unacked.take(ch.unacked.find(list[i].tag))
		ch.late = append(ch.late, list[i].tag)
	}
	slices.Sort(ch.late)
	if n := len(ch.late) - lateMost; n > 0 {
		ch.late = slices.Delete(ch.late, 0, n)
	}
	return list
}

// forgiveLocked tells whether a tag is of a delivery that was given back because its
// consumer kept it for too long. Its settlement comes too late and has no effect, but
// is no mistake, once: the consumer could not know. All up to the tag are forgotten if
// all are settled. s.mu is held.
func (ch *Channel) forgiveLocked(tag uint64, multiple bool) bool {
	at, found := slices.BinarySearchFunc(ch.late, tag, cmp.Compare[uint64])
	from, to := at, at
	if found {
		to++
	}
	if multiple {
		from = 0
	}
	if ch.late = slices.Delete(ch.late, from, to); len(ch.late) == 0 {
		ch.late = nil
	}
	return found
}

// dropDeliveriesLocked takes deliveries that were not written yet, and would have to
// be settled, out of the outbox. s.mu is held.
func (s *Session) dropDeliveriesLocked(of func(*Consumer) bool) {
	kept := s.events[:0]
	for _, e := range s.events {
		if e.Kind == EventDelivery && e.Consumer.q != nil && !e.Consumer.noAck && of(e.Consumer) {
			s.outBytes -= eventOverhead + len(e.Data)
			continue
		}
		kept = append(kept, e)
	}
	clear(s.events[len(kept):])
	s.events = kept
}

// failLocked closes the channel for an error of the broker's: its consumers, which
// the caller must end, get nothing more, and the peer is told by EventChannelClosed.
// What was not settled is returned, to be requeued. The channel is of no use from then
// on, but must be closed as any other. s.mu is held.
func (ch *Channel) failLocked(err *Error) (back []delivered, consumers []*Consumer) {
	ch.tellConfirms()
	ch.closed, ch.failed = true, true
	ch.unacked.all(func(d delivered) { back = append(back, d) })
	ch.unacked = unackedRing{}
	ch.creditLocked(back)
	ch.s.dropDeliveriesLocked(func(c *Consumer) bool { return c.ch == ch })
	for _, c := range ch.consumers {
		if c.q != nil {
			consumers = append(consumers, c)
		}
	}
	ch.s.pushLocked(Event{Kind: EventChannelClosed, Channel: ch, Err: err})
	return back, consumers
}

// Failed tells whether the broker has closed the channel: there is, or was, an
// EventChannelClosed. Nothing of what is done on it has an effect that its peer would
// be told of.
func (ch *Channel) Failed() bool {
	ch.s.mu.Lock()
	defer ch.s.mu.Unlock()
	return ch.failed
}
