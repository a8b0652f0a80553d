package broker

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// looked is what earlier looks at a queue have found.
type looked struct {
	rated
	free, full uint32  // Queue.free and full at the last look
	capacity   float64 // found by it
}

// count counts n messages of a kind; q.mu is held.
func (q *Queue) count(s Stat, n int) {
	if q.counts == nil {
		q.counts = new(Traffic)
	}
	q.counts[s] += uint64(n)
}

// countLeft counts a message that left the queue other than by being settled; q.mu
// is held.
func (q *Queue) countLeft(r reason) {
	switch r {
	case rejected:
		q.count(DeadRejected, 1)
	case expired:
		q.count(DeadExpired, 1)
	case maxlen:
		q.count(DeadMaxlen, 1)
	case deliveryLimit:
		q.count(DeadDeliveries, 1)
	}
}

// countSettled counts n messages that consumers settled; q.mu is held.
func (q *Queue) countSettled(how outcome, n int) {
	if how == acked {
		q.count(Acked, n)
	} else {
		q.count(Rejected, n)
	}
}

// touch notes that something happens to the queue, and whether its consumers have
// room for more than it has; q.mu is held.
func (q *Queue) touch() {
	q.used = q.v.b.clock.Load()
	if q.ready == 0 {
		q.free++
	} else if len(q.consumers) > 0 {
		q.full++
	}
}

// QueueTypes are the names of the kinds of queues that traffic is counted by.
var QueueTypes = [queueKinds]string{"classic", "quorum"}

const queueKinds = 2

func (q *Queue) depthLocked() Depth {
	return Depth{
		Ready: q.ready, Unacked: q.unacked, Leaving: q.leavingLocked(), Waiting: q.waiting,
		ReadyBytes: q.readyBytes, Bytes: q.bytes,
		Persistent: q.lasting.messages, PersistentBytes: q.lasting.bytes,
	}
}

// What a queue takes, bytes, in an estimate.
const (
	queueBytes   = int64(unsafe.Sizeof(Queue{})) + 256 // with its place in maps
	chunkBytes   = int64(unsafe.Sizeof(chunk{}))
	messageBytes = int64(unsafe.Sizeof(entry{}))
	storedBytes  = int64(unsafe.Sizeof(stored{}))
)

func (q *Queue) memoryLocked() int64 {
	chunks := int64(0)
	q.lanes(func(ln *lane) { chunks += int64(ln.chunks.len()) })
	// A long queue is packed but for its ends.
	unpacked := min(int64(q.ready), 64*chunkSize) + int64(q.unacked)
	return queueBytes + chunks*chunkBytes + unpacked*(messageBytes+storedBytes) + int64(cap(q.consumers))*8
}

// idleAfter is how long nothing must have happened to a queue that is called idle:
// more than what the broker's clock is late by.
const idleAfter = time.Second

// view makes a view of the queue; ok is false if it was deleted.
func (q *Queue) view(now time.Time) (view QueueView, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.deleted {
		return QueueView{}, false
	}
	view = QueueView{
		VHost: q.v.name, Name: q.name,
		Durable: q.spec.Durable, Exclusive: q.spec.Exclusive, AutoDelete: q.spec.AutoDelete, Args: q.spec.Args,
		Type: QueueTypes[q.kind], SingleActive: q.rules.single,
		Depth: q.depthLocked(), Consumers: len(q.consumers), Memory: q.memoryLocked(),
	}
	view.Policy, view.OperatorPolicy = q.policies.names()
	view.EffectivePolicy = q.policies.effective()
	if q.owner != nil {
		view.Owner = q.owner.cfg.Name
	}
	if c := q.exclusive; c != nil {
		view.ExclusiveTag, view.ExclusiveOwner = c.tag, c.ch.name()
	}
	if q.single != nil && q.single.active != nil {
		view.ActiveTag, view.ActiveChannel = q.single.active.tag, q.single.active.ch.name()
	}
	if used := time.UnixMilli(q.used); now.Sub(used) > idleAfter {
		view.Idle = used
	}
	if q.counts != nil {
		view.Traffic = *q.counts
	}
	view.Rates, view.Capacity = q.lookLocked(now)
	return view, true
}

// lookLocked returns the rates of the queue and the capacity of its consumers.
func (q *Queue) lookLocked(now time.Time) (Rates, float64) {
	if q.counts == nil {
		return Rates{}, q.capacityNow() // nobody need remember that nothing happened
	}
	if q.looked == nil {
		q.looked = &looked{capacity: q.capacityNow()}
	}
	k := q.looked
	at := k.at
	rates := k.look(now, q.counts)
	if k.at != at {
		if free, full := q.free-k.free, q.full-k.full; !at.IsZero() && free+full > 0 {
			k.capacity = float64(free) / (float64(free) + float64(full))
		} else {
			k.capacity = q.capacityNow()
		}
		k.free, k.full = q.free, q.full
	}
	if len(q.consumers) == 0 {
		return rates, 0
	}
	return rates, k.capacity
}

// capacityNow is whether consumers would take a message.
func (q *Queue) capacityNow() float64 {
	if len(q.consumers) > 0 && (q.ready == 0 || q.ring.some()) {
		return 1
	}
	return 0
}

// queueColumns are what queues can be sorted by, beside their message_stats.
// q.mu is held.
var queueColumns = map[string]func(q *Queue) sortKey{
	"vhost":       func(q *Queue) sortKey { return textKey(q.v.name) },
	"name":        func(q *Queue) sortKey { return textKey(q.name) },
	"type":        func(q *Queue) sortKey { return textKey(QueueTypes[q.kind]) },
	"durable":     func(q *Queue) sortKey { return boolKey(q.spec.Durable) },
	"auto_delete": func(q *Queue) sortKey { return boolKey(q.spec.AutoDelete) },
	"exclusive":   func(q *Queue) sortKey { return boolKey(q.spec.Exclusive) },
	"state":       func(*Queue) sortKey { return sortKey{} }, // all are running
	"policy": func(q *Queue) sortKey {
		name, _ := q.policies.names()
		return textKey(name)
	},
	"messages": func(q *Queue) sortKey {
		d := q.depthLocked()
		return numberKey(d.Messages())
	},
	"messages_ready":          func(q *Queue) sortKey { return numberKey(q.ready) },
	"messages_unacknowledged": func(q *Queue) sortKey { return numberKey(q.unacked) },
	"message_bytes":           func(q *Queue) sortKey { return numberKey(q.depthLocked().Bytes) },
	"message_bytes_ready":     func(q *Queue) sortKey { return numberKey(q.depthLocked().ReadyBytes) },
	"memory":                  func(q *Queue) sortKey { return numberKey(q.memoryLocked()) },
	"consumers":               func(q *Queue) sortKey { return numberKey(len(q.consumers)) },
	"consumer_utilisation":    capacityKey,
	"consumer_capacity":       capacityKey,
}

func capacityKey(q *Queue) sortKey {
	_, capacity := q.lookLocked(time.Now())
	return numberKey(capacity)
}

// queueColumn finds a column of queues; nil: there is none of this name.
func queueColumn(name string) func(q *Queue) sortKey {
	if key := queueColumns[name]; key != nil {
		return key
	}
	stat, ok := strings.CutPrefix(name, "message_stats.")
	stat, rate := strings.CutSuffix(stat, "_details.rate")
	now := time.Now()
	if ok && stat == "deliver_get" {
		if rate {
			return func(q *Queue) sortKey {
				r, _ := q.lookLocked(now)
				return numberKey(r.DeliverGet())
			}
		}
		return func(q *Queue) sortKey {
			if q.counts == nil {
				return sortKey{}
			}
			return numberKey(q.counts.DeliverGet())
		}
	}
	if i := slices.Index(statNames[:], stat); ok && stat != "" && i >= 0 {
		if rate {
			return func(q *Queue) sortKey {
				r, _ := q.lookLocked(now)
				return numberKey(r[i])
			}
		}
		return func(q *Queue) sortKey {
			if q.counts == nil {
				return sortKey{}
			}
			return numberKey(q.counts[i])
		}
	}
	return nil
}

// findQueues lists the queues that a filter wants, in its order, whatever its page;
// total is their number before names were looked at. The list may be shared.
func (b *Broker) findQueues(f *Filter) (list []*Queue, total int, err error) {
	match, err := f.matcher()
	if err != nil {
		return nil, 0, err
	}
	key := queueColumn(f.Sort)
	shared := true
	for _, v := range b.vhostsByName() {
		if !f.allows(v.name) {
			continue
		}
		queues := v.listing.snapshot(v)
		total += len(queues)
		switch {
		case match != nil:
			shared = false
			found, ok := matching(queues, match)
			if !ok {
				return nil, 0, errSlowSearch()
			}
			list = append(list, found...)
		case list == nil:
			list = slices.Clip(queues)
		default:
			list, shared = append(list, queues...), false
		}
	}
	if shared && (key != nil || f.Reverse) {
		list = slices.Clone(list)
	}
	if key != nil {
		sortQueues(list, key)
	}
	if f.Reverse {
		slices.Reverse(list)
	}
	return list, total, nil
}

// matchShare is the least number of names that a goroutine of its own is worth.
const matchShare = 8 << 10

// matching are the queues whose names match. A regular expression takes its time for
// each, so that a long list is divided among the processors. ok is whether there was
// time for all.
func matching(queues []*Queue, match matcher) (all []*Queue, ok bool) {
	workers := max(min(len(queues)/matchShare, runtime.GOMAXPROCS(0)), 1)
	share := (len(queues) + workers - 1) / workers
	found := make([][]*Queue, workers)
	var slow atomic.Bool
	var work sync.WaitGroup
	for i := range workers {
		part := queues[min(i*share, len(queues)):min((i+1)*share, len(queues))]
		look := func() {
			var ok bool
			if found[i], ok = some(part, match, func(q **Queue) string { return (*q).name }); !ok {
				slow.Store(true)
			}
		}
		if i == workers-1 {
			look()
		} else {
			work.Go(look)
		}
	}
	work.Wait()
	return slices.Concat(found...), !slow.Load()
}

func sortQueues(list []*Queue, key func(*Queue) sortKey) {
	type keyed struct {
		key sortKey
		at  int32
		q   *Queue
	}
	keys := make([]keyed, len(list))
	for i, q := range list {
		q.mu.Lock()
		keys[i] = keyed{key(q), int32(i), q}
		q.mu.Unlock()
	}
	slices.SortFunc(keys, func(x, y keyed) int {
		return cmp.Or(x.key.compare(y.key), cmp.Compare(x.at, y.at))
	})
	for i := range keys {
		list[i] = keys[i].q
	}
}
