package model

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// slack is how much later than it is to be something may happen, ms.
const slack = 60

// route finds the queues of a message by their numbers.
func (w *world) route(exchange, key string) (list []*box) {
	var names []string
	switch exchange {
	case "":
		names = []string{key}
	case "fan":
		names = w.conf.fan
	case "dir":
		if n, ok := w.conf.dir[key]; ok {
			names = []string{n}
			if w.boxes[n] != nil {
				break
			}
		}
		names = w.conf.fan // its alternate exchange
	case "later":
		names = []string{w.conf.later[key]}
	case "once":
		names = w.conf.once
	}
	for _, n := range names {
		if q := w.boxes[n]; q != nil && !slices.Contains(list, q) {
			list = append(list, q)
		}
	}
	slices.SortFunc(list, func(a, b *box) int { return cmp.Compare(a.num, b.num) })
	return list
}

// publish is what becomes of a message that a client sends.
func (w *world) publish(m *mail) {
	w.published++
	n := w.published
	if m.exchange == "later" && m.delay > 0 {
		w.kept = append(w.kept, &letter{mail: m, wake: w.now + m.delay})
		w.remember()
		return
	}
	if m.exchange == "once" && m.value != "" && slices.ContainsFunc(w.seen, func(s seen) bool {
		return s.value == m.value && (s.until == 0 || s.until > w.now)
	}) {
		return
	}
	queues := w.route(m.exchange, m.key)
	var takers, last []*box
	for _, q := range queues {
		switch {
		case !q.full(m.size):
			takers = append(takers, q)
		default:
			w.refused[n] = true
			if r := q.rules(); r.overflow == "reject-publish-dlx" && r.dead {
				last = append(last, q)
			}
		}
	}
	takers = append(takers, last...)
	if len(takers) == 0 {
		return
	}
	sure := false
	letters := map[*box]*letter{}
	for _, q := range takers {
		letters[q] = w.enter(q, m, w.now)
		sure = sure || !q.args.transient
	}
	if m.exchange == "once" && m.value != "" && !w.refused[n] {
		s := seen{value: m.value, sure: sure && m.persistent}
		if w.conf.seenAge > 0 {
			s.until = w.now + w.conf.seenAge
		}
		if len(w.seen) == w.conf.seenMost {
			w.seen = slices.Clone(w.seen[1:])
		}
		w.seen = append(w.seen, s)
	}
	w.remember()
	for _, q := range last {
		w.expel(q, letters[q], "maxlen")
	}
	for _, q := range takers {
		w.dispatch(q)
	}
}

// dies is a mail as a dead letter, of a letter that left a queue.
func (l *letter) dies(queue, to string, key *string, counts bool) *mail {
	m := *l.mail
	d := death{queue: queue, reason: l.why, exchange: m.exchange, key: m.key, expiration: m.expiration, count: 1}
	m.deaths = nil
	for _, x := range l.deaths {
		if x.queue == queue && x.reason == l.why {
			x.count++
			d = x
		} else {
			m.deaths = append(m.deaths, x)
		}
	}
	m.deaths = slices.Insert(m.deaths, 0, d)
	m.last = queue + " " + l.why + " " + m.exchange
	if m.first == "" {
		m.first = m.last
	}
	if l.failures+l.given > 0 {
		m.failed, m.offers = l.failures, l.failures+l.given
	}
	m.exchange, m.expiration = to, unlimited
	if key != nil {
		m.key = *key
	}
	return &m
}

// cycles tells whether a dead letter would be in a queue again without a client
// having rejected it since.
func (m *mail) cycles(queue string) bool {
	for _, d := range m.deaths {
		if d.reason == "rejected" {
			return false
		}
		if d.queue == queue {
			return true
		}
	}
	return false
}

// address finds what a letter becomes that left a queue, and where it goes.
func (w *world) address(q *box, l *letter) (m *mail, to []*box) {
	if q == nil { // its delay is over
		return l.mail, w.route("later", l.key)
	}
	if l.by.dead {
		var key *string
		if l.by.hasKey {
			key = &l.by.deadKey
		}
		m = l.dies(q.name, l.by.deadTo, key, l.by.counts())
		to = w.route(m.exchange, m.key)
		if l.why != "rejected" {
			to = slices.DeleteFunc(to, func(t *box) bool { return m.cycles(t.name) })
		}
		if len(to) > 0 {
			return m, to
		}
	}
	if l.why != "delivery_limit" {
		return nil, nil
	}
	name := q.name + parked
	if w.boxes[name] == nil {
		w.nums++
		w.boxes[name] = &box{name: name, num: w.nums, args: noRules}
		w.remember()
	}
	m = l.dies(q.name, "", &name, l.by.counts())
	return m, w.route("", name)
}

// move carries the first letters that left a queue (nil: the exchange that delays) to
// where they go, at once.
func (w *world) move(q *box, n int, now int64) {
	list := leaving(w.lettersOf(q))[:n]
	touched := []*box{}
	if q != nil {
		touched = append(touched, q)
	}
	for i, l := range list {
		m, to := w.address(q, l)
		if i > 0 && slices.ContainsFunc(to, func(t *box) bool { return len(t.subscribers) > 0 && t.full(m.size) }) {
			break
		}
		for _, t := range to {
			full := t.full(m.size)
			if r := t.rules(); full && l.why != "delivery_limit" && (r.overflow != "reject-publish-dlx" || !r.dead) {
				continue
			}
			x := w.enter(t, m, now)
			if full && l.why != "delivery_limit" {
				w.expel(t, x, "maxlen")
			}
			if !slices.Contains(touched, t) {
				touched = append(touched, t)
			}
		}
		if q == nil {
			w.kept = slices.DeleteFunc(w.kept, func(x *letter) bool { return x == l })
		} else {
			q.letters = slices.DeleteFunc(q.letters, func(x *letter) bool { return x == l })
		}
	}
	w.remember()
	slices.SortFunc(touched, func(a, b *box) int { return cmp.Compare(a.num, b.num) })
	for _, t := range touched {
		w.dispatch(t)
	}
}

func (w *world) lettersOf(q *box) []*letter {
	if q == nil {
		return w.kept
	}
	return q.letters
}

func leaving(list []*letter) (out []*letter) {
	for _, l := range list {
		if l.leaves > 0 {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b *letter) int { return cmp.Compare(a.leaves, b.leaves) })
	return out
}

// timeOf is when something is to be done with a letter; unlimited: never.
func (l *letter) timeOf() int64 {
	t := int64(unlimited)
	if l.holder != "" || l.leaves > 0 {
		return t
	}
	if l.wake != 0 {
		t = l.wake
	}
	if l.due != 0 {
		t = min(t, l.due)
	}
	return t
}

// nextTime is the first time of any letter.
func (w *world) nextTime() int64 {
	t := int64(unlimited)
	for _, n := range w.names() {
		for _, l := range w.lettersOf(w.boxes[n]) {
			t = min(t, l.timeOf())
		}
	}
	return t
}

// names are those of the queues, and the empty one for the exchange that delays.
func (w *world) names() []string { return append(slices.Sorted(maps.Keys(w.boxes)), "") }

// tick does what is due with one letter.
func (w *world) tick(q *box, i int) {
	l := w.lettersOf(q)[i]
	at := l.timeOf()
	w.now = max(w.now, at)
	switch {
	case q == nil:
		w.leave(l, "")
		return
	case l.due != 0 && l.due <= at:
		w.expel(q, l, "expired")
	default:
		l.wake = 0
		w.remember()
	}
}

// due lists the letters of a queue that may be the next to be done with by a time.
func (w *world) due(q *box, until int64) (list []int) {
	all := w.lettersOf(q)
	for i, l := range all {
		t := l.timeOf()
		if t > until {
			continue
		}
		first := true
		for k := range all {
			if k != i && w.before(q, all, k, i, until) {
				first = false
			}
		}
		if first {
			list = append(list, i)
		}
	}
	return list
}

// before tells whether one letter of a queue is done with before another.
func (w *world) before(q *box, all []*letter, k, i int, until int64) bool {
	t, u := all[i].timeOf(), all[k].timeOf()
	switch {
	case u == unlimited:
		return false
	case q == nil:
		return u < t || u == t && k < i
	case w.late: // all at once, in the order of the queue
		return u <= until && k < i && q.lane(all[k]) == q.lane(all[i])
	default:
		return u+slack < t || u == t && k < i && q.lane(all[k]) == q.lane(all[i])
	}
}

// explore finds how the world may be when all that is due by a time was done, and
// all that leaves has arrived; with between, also how it may be on the way.
func (w *world) explore(until int64, between bool) []*world {
	met := map[string]bool{}
	var list []*world
	var visit func(w *world)
	visit = func(w *world) {
		key := w.key()
		if met[key] {
			return
		}
		met[key] = true
		var ways []func(*world)
		for _, n := range w.names() {
			q := w.boxes[n]
			if q == nil && n != "" {
				continue
			}
			if k := len(leaving(w.lettersOf(q))); k > 0 {
				for i := 1; i <= k; i++ {
					if k > 3 && i < k {
						continue
					}
					ways = append(ways, func(w *world) { w.move(w.boxes[n], i, w.now) })
				}
			}
			for _, i := range w.due(q, until) {
				ways = append(ways, func(w *world) { w.tick(w.boxes[n], i) })
			}
			if q != nil && (q.over() || q.turn() != nil && q.next(false) != nil) {
				ways = append(ways, func(w *world) { w.dispatch(w.boxes[n]) })
			}
		}
		if len(ways) == 0 || between {
			list = append(list, w)
		}
		if len(met) > mostWorlds {
			return
		}
		for i, way := range ways {
			v := w
			if i < len(ways)-1 || between {
				v = w.clone()
			}
			way(v)
			visit(v)
		}
	}
	visit(w)
	if len(met) > mostWorlds {
		return nil
	}
	return list
}

// mostWorlds is how many are looked at; where there are more, nothing is compared.
const mostWorlds = 300

func isParked(name string) bool { return strings.HasSuffix(name, parked) }
