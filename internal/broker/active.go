package broker

import "container/heap"

// Of the consumers of a queue with x-single-active-consumer one is active, and the
// others wait: the one of the highest priority is next, and of several the one that
// has waited longest.
//
// The hand-over is orderly: as long as the active consumer has deliveries that are not
// settled, no other gets any, so that what is in the queue is worked on in its order.
// This is so when it is cancelled, and when one of a higher priority has come, for
// which it is given nothing more. When its channel or connection ends its deliveries
// are requeued first.
type single struct {
	active  *Consumer // nil: nobody is there, or nobody has started
	leaving bool      // it is to hand over when its deliveries are settled
	waiting waitingConsumers
	came    uint64 // counts those that did
}

// waitingConsumers is a heap, of who is next.
type waitingConsumers []*Consumer

func (h waitingConsumers) Len() int { return len(h) }

func (h waitingConsumers) Less(i, j int) bool {
	if h[i].priority != h[j].priority {
		return h[i].priority > h[j].priority
	}
	return h[i].arrival < h[j].arrival
}

func (h waitingConsumers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].waitAt, h[j].waitAt = i+1, j+1
}

func (h *waitingConsumers) Push(x any) {
	c := x.(*Consumer)
	*h = append(*h, c)
	c.waitAt = len(*h)
}

func (h *waitingConsumers) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	c.waitAt = 0
	return c
}

// joinLocked lets a consumer that has started, or that has room again, have its turns.
func (q *Queue) joinLocked(c *Consumer) {
	if !q.rules.single {
		q.ring.add(c)
		return
	}
	if q.single == nil {
		q.single = &single{}
	}
	if g := q.single; c != g.active && c.waitAt == 0 {
		if c.arrival == 0 {
			g.came++
			c.arrival = g.came
		}
		heap.Push(&g.waiting, c)
	}
	q.electLocked()
}

// electLocked sees to it that the right consumer is active, and has its turns.
func (q *Queue) electLocked() {
	g := q.single
	for {
		c := g.active
		due := c == nil || c.gone || len(g.waiting) > 0 && g.waiting[0].priority > c.priority
		if c != nil && !due {
			g.leaving = false
			q.ring.add(c)
			return
		}
		if c != nil {
			q.ring.remove(c)
			if g.leaving = c.held > 0; g.leaving {
				return
			}
			g.active = nil
			if !c.gone {
				heap.Push(&g.waiting, c)
			}
		}
		if len(g.waiting) == 0 {
			return
		}
		g.active = heap.Pop(&g.waiting).(*Consumer)
	}
}

// settledLocked notes that a delivery of the queue is settled, or given back. The
// caller calls dispatchLocked when all are.
func (q *Queue) settledLocked(d delivered) {
	if d.c == nil || d.c.noAck {
		return
	}
	if d.c.held--; d.c.held == 0 && d.c == q.single.active && q.single.leaving {
		q.electLocked()
	}
}

// leaveLocked forgets a consumer that has ended, and may let another have its place.
func (q *Queue) leaveLocked(c *Consumer) {
	q.ring.remove(c)
	g := q.single
	if g == nil {
		return
	}
	if c.waitAt > 0 {
		heap.Remove(&g.waiting, c.waitAt-1)
	}
	q.electLocked()
}

// activeLocked is the consumer that gets messages while others wait; nil: there is
// none, or all consumers of the queue do. One that was cancelled stays until its
// deliveries are settled.
func (q *Queue) activeLocked() *Consumer {
	if q.single == nil {
		return nil
	}
	return q.single.active
}
