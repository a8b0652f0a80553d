package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A letter is a message in one queue of the model.
type letter struct {
	*mail
	due, wake       int64 // unix ms, 0: never
	failures, given int
	redelivered     bool
	holder          string // empty: it is ready, if wake is 0
	tag             uint64 // of its delivery
	instant         bool   // it is to be delivered now, or never
	leaves          int    // 0: it does not; otherwise in this order
	why             string
	by              rules // of its queue, when it left
}

func (l *letter) ready() bool { return l.holder == "" && l.wake == 0 && l.leaves == 0 }

// A mail is what a message is wherever it is; it is not changed.
type mail struct {
	id             int
	exchange, key  string
	persistent     bool
	priority       int
	expiration     int64 // ms; unlimited: it has none
	size           int64
	deaths         []death // newest first
	first, last    string  // queue, reason and exchange of the first and the last death
	failed, offers int     // what its headers tell of deliveries in vain, -1: nothing
	value          string  // for exchanges that drop repeats
	delay          int64
}

type death struct {
	queue, reason, exchange, key string
	expiration                   int64
	count                        int
}

// A subscriber is a consumer of the model.
type subscriber struct {
	key      string
	peer     int
	prefetch int
	priority int
	held     int
	gone     bool
	parked   bool
	arrived  int
}

type box struct {
	name    string
	num     int // of its declaration
	args    rules
	policy  *rules
	letters []*letter

	subscribers []*subscriber
	active      *subscriber // of those, or one that is gone
	handing     bool
}

func (q *box) rules() rules {
	if strings.HasSuffix(q.name, parked) {
		return noRules
	}
	return q.args.with(q.policy)
}

const parked = ".parked"

// A seen value is one that an exchange that drops repeats has let through.
type seen struct {
	value string
	until int64 // 0: for ever
	sure  bool  // a restart does not forget it
}

// A world is a state that the broker may be in. What a client sees tells in which of
// them it is: the order in which messages from several queues come to one, for
// instance, is not said.
type world struct {
	now       int64
	conf      *config
	boxes     map[string]*box
	nums      int
	kept      []*letter // by the exchange that delays
	leaving   int
	seen      []seen
	published int
	late      bool // the broker was not there when it was time

	out     map[string][]*letter // what consumers are to get now
	refused map[int]bool         // which publishes
	past    *past                // what a crash may leave
}

// A config is what does not change.
type config struct {
	fan      []string // the queues of the exchange fan
	dir      map[string]string
	later    map[string]string
	once     []string
	seenMost int
	seenAge  int64
}

func (w *world) clone() *world {
	c := *w
	c.boxes = make(map[string]*box, len(w.boxes))
	moved := map[*letter]*letter{}
	letters := func(list []*letter) []*letter {
		out := make([]*letter, len(list))
		for i, l := range list {
			x := *l
			out[i] = &x
			moved[l] = &x
		}
		return out
	}
	for n, q := range w.boxes {
		x := *q
		x.letters = letters(q.letters)
		x.subscribers = make([]*subscriber, len(q.subscribers))
		for i, s := range q.subscribers {
			y := *s
			x.subscribers[i] = &y
			if s == q.active {
				x.active = &y
			}
		}
		if q.active != nil && x.active == q.active {
			y := *q.active
			x.active = &y
		}
		c.boxes[n] = &x
	}
	c.kept = letters(w.kept)
	c.seen = slices.Clone(w.seen)
	c.out = map[string][]*letter{}
	for k, list := range w.out {
		for _, l := range list {
			x := moved[l]
			if x == nil { // it was settled as it was delivered
				y := *l
				x = &y
			}
			c.out[k] = append(c.out[k], x)
		}
	}
	c.refused = maps.Clone(w.refused)
	return &c
}

// key is the same for worlds in which the same will happen.
func (w *world) key() string {
	var s strings.Builder
	for _, n := range slices.Sorted(maps.Keys(w.boxes)) {
		q := w.boxes[n]
		fmt.Fprintf(&s, "%s:%v:%v", n, q.handing, q.policy)
		if q.active != nil {
			fmt.Fprintf(&s, ":%s", q.active.key)
		}
		for _, c := range q.subscribers {
			fmt.Fprintf(&s, " %s/%d/%v/%d", c.key, c.held, c.parked, c.arrived)
		}
		for _, l := range q.letters {
			fmt.Fprintf(&s, "\n  %s", l)
		}
		s.WriteByte('\n')
	}
	for _, l := range w.kept {
		fmt.Fprintf(&s, "  kept %s\n", l)
	}
	fmt.Fprintln(&s, w.seen)
	for _, k := range slices.Sorted(maps.Keys(w.out)) {
		fmt.Fprintf(&s, "for %s: %v\n", k, w.out[k])
	}
	fmt.Fprintln(&s, w.refused)
	return s.String()
}

func (l *letter) String() string {
	s := fmt.Sprintf("%s due %d wake %d held %s#%d count %d+%d", l.face(), l.due, l.wake, l.holder, l.tag, l.failures, l.given)
	if l.leaves > 0 {
		s += fmt.Sprint(" leaves ", l.leaves, " ", l.why)
	}
	return s
}

// face is what a client sees of a letter.
func (l *letter) face() string {
	s := fmt.Sprintf("%d %q/%q", l.id, l.exchange, l.key)
	if l.redelivered {
		s += " again"
	}
	if l.expiration != unlimited {
		s += fmt.Sprint(" expiration ", l.expiration)
	}
	if len(l.deaths) > 0 {
		s += fmt.Sprintf(" first %s last %s", l.first, l.last)
	}
	for _, d := range l.deaths {
		s += fmt.Sprintf(" [%s %s x%d from %q/%q", d.queue, d.reason, d.count, d.exchange, d.key)
		if d.expiration != unlimited {
			s += fmt.Sprint(" expiration ", d.expiration)
		}
		s += "]"
	}
	if l.failed >= 0 {
		s += fmt.Sprintf(" failed %d of %d", l.failed, l.offers)
	}
	return s
}

// remember notes a state that a crash may leave: what is on disk after each change.
func (w *world) remember() {
	left := w.restarted()
	(*w.past)[left.key()] = left
}

// A past is the states that a crash may leave. All worlds share one.
type past map[string]*world

// restarted is the world without what is in memory alone.
func (w *world) restarted() *world {
	c := *w
	c.boxes = map[string]*box{}
	c.out, c.refused = map[string][]*letter{}, map[int]bool{}
	keep := func(list []*letter) (out []*letter) {
		for _, l := range list {
			if l.persistent {
				x := *l
				x.holder, x.tag, x.leaves, x.why, x.instant, x.redelivered = "", 0, 0, "", false, true
				out = append(out, &x)
			}
		}
		return out
	}
	for n, q := range w.boxes {
		if !q.args.transient {
			c.boxes[n] = &box{name: n, num: q.num, args: q.args, policy: q.policy, letters: keep(q.letters)}
		}
	}
	c.kept = keep(w.kept)
	c.seen = slices.DeleteFunc(slices.Clone(w.seen), func(s seen) bool { return !s.sure })
	return &c
}
