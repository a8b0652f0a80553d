package broker

import (
	"slices"
	"strings"
	"sync"
)

// A listing keeps the queues of a virtual host so that somebody may look at all of
// them without holding its mutex for longer than a copy takes, and without sorting
// them each time.
type listing struct {
	// Guarded by VHost.mu.
	all     []*Queue // in no order; each knows its place
	version uint64   // changes with all

	mu     sync.Mutex // guards what follows, and Queue.seen
	sorted []*Queue   // by name; replaced, never changed
	of     uint64     // the version that it is of
	newest uint64     // the highest number in it
	round  uint32
}

// add lists a queue, whose number is higher than those that were listed before.
// VHost.mu is held.
func (l *listing) add(q *Queue) {
	q.place = len(l.all)
	l.all = append(l.all, q)
	l.version++
}

// remove takes a queue off; the last takes its place. VHost.mu is held.
func (l *listing) remove(q *Queue) {
	last := len(l.all) - 1
	l.all[q.place] = l.all[last]
	l.all[q.place].place = q.place
	l.all[last] = nil
	l.all = l.all[:last]
	l.version++
}

// snapshot returns the queues by name. The list is not to be changed.
func (l *listing) snapshot(v *VHost) []*Queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	v.mu.RLock()
	if l.of == l.version {
		v.mu.RUnlock()
		return l.sorted
	}
	all := slices.Clone(l.all)
	l.of = l.version
	v.mu.RUnlock()
	// What is new has a higher number than all that was there; what has gone is not
	// seen again.
	l.round++
	var fresh []*Queue
	newest := l.newest
	for _, q := range all {
		q.seen = l.round
		if q.num > l.newest {
			fresh = append(fresh, q)
			newest = max(newest, q.num)
		}
	}
	l.newest = newest
	byName := func(x, y *Queue) int { return strings.Compare(x.name, y.name) }
	slices.SortFunc(fresh, byName)
	merged := make([]*Queue, 0, len(all))
	for _, q := range l.sorted {
		if q.seen != l.round {
			continue
		}
		for len(fresh) > 0 && byName(fresh[0], q) < 0 {
			merged = append(merged, fresh[0])
			fresh = fresh[1:]
		}
		merged = append(merged, q)
	}
	l.sorted = append(merged, fresh...)
	return l.sorted
}
