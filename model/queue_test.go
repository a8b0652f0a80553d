package model

import (
	"cmp"
	"slices"
)

// lane is the priority of a letter in a queue.
func (q *box) lane(l *letter) int { return min(l.priority, q.args.priorities) }

// next is the letter that is delivered next, or (last) the first of those that would
// be delivered last.
func (q *box) next(last bool) *letter {
	var found *letter
	for _, l := range q.letters {
		if !l.ready() {
			continue
		}
		if found == nil || !last && q.lane(l) > q.lane(found) || last && q.lane(l) < q.lane(found) {
			found = l
		}
	}
	return found
}

func (q *box) count() (ready, bytes int64) {
	for _, l := range q.letters {
		if l.ready() {
			ready++
			bytes += l.size
		}
	}
	return ready, bytes
}

// full tells whether the queue refuses a message of a size.
func (q *box) full(size int64) bool {
	r := q.rules()
	n, bytes := q.count()
	return r.refuses() && (n >= r.length || size > r.bytes-bytes)
}

func (q *box) over() bool {
	r := q.rules()
	n, bytes := q.count()
	return !r.refuses() && (n > r.length || bytes > r.bytes)
}

func (w *world) remove(q *box, l *letter) {
	q.letters = slices.DeleteFunc(q.letters, func(x *letter) bool { return x == l })
	w.remember()
}

// expel takes a letter out of its queue for a reason.
func (w *world) expel(q *box, l *letter, why string) {
	if r := q.rules(); !r.dead && why != "delivery_limit" {
		w.remove(q, l)
		return
	}
	w.leave(l, why)
	l.by = q.rules()
}

func (w *world) leave(l *letter, why string) {
	w.leaving++
	l.leaves, l.why, l.holder, l.tag, l.wake = w.leaving, why, "", 0, 0
}

// enter puts a mail into a queue at a time.
func (w *world) enter(q *box, m *mail, now int64) *letter {
	l := &letter{mail: m}
	ttl := min(q.rules().ttl, m.expiration)
	switch ttl {
	case unlimited:
	case 0:
		l.instant, l.due = true, 1
	default:
		l.due = now + ttl
	}
	q.letters = append(q.letters, l)
	return l
}

// turn is the consumer that gets the next message.
func (q *box) turn() *subscriber {
	var c *subscriber
	switch {
	case q.args.single && !q.handing:
		c = q.active
	case !q.args.single && len(q.subscribers) > 0:
		c = q.subscribers[0]
	}
	if c == nil || c.parked {
		return nil
	}
	return c
}

// dispatch delivers, and does what is to be done with the rest.
func (w *world) dispatch(q *box) {
	for {
		l := q.next(false)
		c := q.turn()
		if l == nil || c == nil {
			break
		}
		if l.due != 0 && l.due <= w.now && !l.instant { // it was given back
			w.expel(q, l, "expired")
			continue
		}
		if c.prefetch > 0 && c.held >= c.prefetch {
			c.parked = true
			break
		}
		l.holder = c.key
		c.held++
		w.out[c.key] = append(w.out[c.key], l)
	}
	for _, l := range slices.Clone(q.letters) {
		if l.due == 1 && l.instant && l.ready() {
			w.expel(q, l, "expired")
		}
		l.instant = false
	}
	for q.over() {
		if l := q.next(true); l.due != 0 && l.due <= w.now {
			w.expel(q, l, "expired")
		} else {
			w.expel(q, l, "maxlen")
		}
	}
}

// elect finds the consumer that is active.
func (q *box) elect() {
	for {
		var next *subscriber
		for _, c := range q.subscribers {
			if c != q.active && (next == nil || cmp.Or(cmp.Compare(c.priority, next.priority), cmp.Compare(next.arrived, c.arrived)) > 0) {
				next = c
			}
		}
		a := q.active
		if a != nil && !a.gone && (next == nil || next.priority <= a.priority) {
			a.parked, q.handing = false, false
			return
		}
		if a != nil {
			if q.handing = a.held > 0; q.handing {
				return
			}
			q.active = nil
		}
		if next == nil && (a == nil || a.gone) {
			return
		}
		q.active = next
	}
}

// giveBack is what becomes of a letter that its consumer gives back.
func (w *world) giveBack(q *box, l *letter, failed bool) {
	r := q.rules()
	l.holder, l.tag, l.redelivered = "", 0, true
	if !r.counts() {
		if l.due != 0 && l.due <= w.now {
			w.expel(q, l, "expired")
		}
		return
	}
	times := 0
	if failed {
		l.failures++
		times = l.failures
	} else {
		l.given++
		times = l.failures + l.given
	}
	if failed && int64(l.failures) > r.deliveries {
		w.remember()
		w.expel(q, l, "delivery_limit")
		return
	}
	if r.retry == "all" || r.retry == "failed" && failed || r.retry == "returned" && !failed {
		l.wake = w.now + min(int64(times)*r.least, r.most)
	}
	w.remember()
	if l.due != 0 && l.due <= w.now {
		w.expel(q, l, "expired")
	}
}

// A settlement is what a client says of deliveries.
type settlement uint8

const (
	ack settlement = iota
	discard
	nack
	fail
)

// settle carries out one, for some letters of a queue.
func (w *world) settle(q *box, list []*letter, how settlement) []*world {
	var resumed []string
	type return_ struct {
		l *letter
		c *subscriber
	}
	var all []return_
	for _, l := range list {
		c := q.subscriber(l.holder)
		if c != nil {
			c.held--
			if c.parked && c.held == c.prefetch-1 {
				resumed = append(resumed, c.key)
			}
		}
		all = append(all, return_{l, c})
	}
	if how >= nack {
		slices.SortStableFunc(all, func(a, b return_) int {
			return cmp.Or(cmp.Compare(q.lane(a.l), q.lane(b.l)), cmp.Compare(slices.Index(q.letters, a.l), slices.Index(q.letters, b.l)))
		})
	}
	for _, x := range all {
		switch how {
		case ack:
			w.remove(q, x.l)
		case discard:
			w.expel(q, x.l, "rejected")
		default:
			w.giveBack(q, x.l, how == fail)
		}
		if x.c != nil && q.handing && x.c == q.active && x.c.held == 0 {
			q.elect()
		}
	}
	w.dispatch(q)
	if len(resumed) == 0 {
		return []*world{w}
	}
	all2 := w.explore(w.now, true)
	for _, v := range all2 {
		q := v.boxes[q.name]
		for _, key := range resumed {
			if c := q.subscriber(key); c != nil && !c.gone {
				c.parked = false
				v.dispatch(q)
			}
		}
	}
	return all2
}

// subscriber finds one, also one that is gone and active.
func (q *box) subscriber(key string) *subscriber {
	if q.active != nil && q.active.key == key {
		return q.active
	}
	for _, c := range q.subscribers {
		if c.key == key {
			return c
		}
	}
	return nil
}

func (w *world) join(q *box, c *subscriber) {
	q.subscribers = append(q.subscribers, c)
	if q.args.single {
		q.elect()
	}
	w.dispatch(q)
}

// cancel ends a consumer. What it has stays with it.
func (w *world) cancel(q *box, key string) {
	c := q.subscriber(key)
	c.gone = true
	q.subscribers = slices.DeleteFunc(q.subscribers, func(x *subscriber) bool { return x == c })
	if q.args.single {
		q.elect()
		w.dispatch(q)
	}
}
