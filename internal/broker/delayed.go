package broker

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"github.com/ferrymq/ferry/internal/message"
)

// An exchange of type x-delayed-message keeps a message whose header x-delay, in
// milliseconds, is more than 0 for that long, and then routes it, as an exchange of
// the type does that its argument x-delayed-type names. Others it routes at once.
// Names and arguments are those of RabbitMQ's plugin.
//
// What it keeps is in a queue of its own, which nobody can see or address: durable as
// the exchange is, packed while it waits (pack.go), found by its time (expire.go), and
// moved (move.go), in the order of its times, to where the exchange's bindings lead by
// then, in one transaction with its leaving. With the exchange it is gone. A message
// that nothing takes by then is dropped; so `mandatory` asks only that the exchange
// keeps it.
//
// What consumers get has the header with the negative of its value, which is so as
// soon as the message is stored: it was delayed, and is not to be again.
const (
	delayHeader  = "x-delay"
	delayedType  = "x-delayed-message"
	delayedByArg = "x-delayed-type"
)

// delaySlice is within what time, ms, messages are put in order that have become due.
const delaySlice = 100

// routes is how an exchange of a specification routes.
func (spec *ExchangeSpec) routes() exchangeType {
	if spec.Type != delayedType {
		return exchangeTypes[spec.Type]
	}
	a, ok := findArg(spec.Args, delayedByArg)
	if !ok || a.kind != 'S' || a.String() == delayedType {
		return nothing
	}
	return exchangeTypes[a.String()]
}

// checkDelayedArgs checks the argument that names a type.
func checkDelayedArgs(spec *ExchangeSpec) *Error {
	a, ok := findArg(spec.Args, delayedByArg)
	switch {
	case !ok || a.kind != 'S':
		return errorf(PreconditionFailed, "Invalid argument, 'x-delayed-type' must be an existing exchange type")
	case a.String() == delayedType:
		return errorf(PreconditionFailed, "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'")
	}
	return checkExchangeType(a.String())
}

// A delay is what a queue has that an exchange keeps its messages in. Guarded by the
// queue's mutex.
type delay struct {
	x   *exchange
	due []dueMessage // of the tick that goes on, not yet on their way
}

type dueMessage struct {
	at  int64
	seq uint64
}

// keep makes the queue of an exchange that delays messages. v.mu is held, or nobody
// else is there.
func (x *exchange) keep(num uint64) *Queue {
	q := &Queue{v: x.v, name: x.spec.Name, num: num, logged: x.spec.Durable}
	q.spec = QueueSpec{Name: x.spec.Name, Durable: x.spec.Durable, delays: true}
	q.rules = rulesOf(nil, nil, nil)
	q.used = x.v.b.clock.Load()
	q.delay = &delay{x: x}
	q.onDue = (*Queue).dueLocked
	x.kept = q
	x.keeps = &path{queues: []*Queue{q}, counts: &x.counts, delays: true}
	return q
}

// keepMissing makes the queues that exchanges do not have: a crash came between the
// record of the exchange and that of its queue.
func (b *Broker) keepMissing() {
	for _, v := range b.allVHosts() {
		v.mu.Lock()
		for _, x := range v.exchanges {
			if x.spec.Type == delayedType && x.kept == nil {
				q := x.keep(b.nextQueue.Add(1))
				b.log.write(recQueue, q.record())
			}
		}
		v.mu.Unlock()
	}
}

// dropKept removes the queue of an exchange that was deleted. It takes locks, of which
// the caller has others.
func (x *exchange) dropKept() {
	v, q := x.v, x.kept
	v.mu.Lock()
	q.mu.Lock()
	v.dropQueueLocked(q)
	q.mu.Unlock()
	v.mu.Unlock()
}

// eachQueue visits all queues, those among them that exchanges keep messages in. v.mu
// is held.
func (v *VHost) eachQueue(visit func(q *Queue)) {
	for _, q := range v.queues {
		visit(q)
	}
	for _, x := range v.exchanges {
		if x.kept != nil {
			visit(x.kept)
		}
	}
}

// allQueues lists what eachQueue visits.
func (v *VHost) allQueues() (list []*Queue) {
	v.eachQueue(func(q *Queue) { list = append(list, q) })
	return list
}

// delayed is how many messages an exchange keeps for later.
func (x *exchange) delayed() int {
	q := x.kept
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting + q.leavingLocked()
}

// dueLocked takes note of a message whose time has come.
func (q *Queue) dueLocked(seq uint64) {
	k := q.chunkOf(seq)
	i := int(seq - k.first)
	k.entries[i].state = leaving
	q.waiting--
	q.delay.due = append(q.delay.due, dueMessage{timeAt(k.times.wake, i), seq})
}

// tickDelayLocked is for what is due in such a queue: it goes on its way in the order
// of the times, as far as it is looked at together. It tells for how many messages.
func (q *Queue) tickDelayLocked(now int64) (did int) {
	c := q.clock
	now = min(now, c.timed[0].times.next+delaySlice)
	for len(c.timed) > 0 && c.timed[0].times.next <= now && did < tickBatch {
		did += q.tickChunkLocked(c.timed[0], now)
	}
	due := q.delay.due
	slices.SortFunc(due, func(a, b dueMessage) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) })
	for _, d := range due {
		q.leavesLocked(d.seq, released)
	}
	if q.delay.due = due[:0]; cap(due) > tickBatch {
		q.delay.due = nil
	}
	return did
}

// repackLocked packs the chunk of a message that was looked at, or has left, while the
// others wait on.
func (q *Queue) repackLocked(seq uint64) {
	b := q.v.b
	k := q.laneOf(seq).chunks.as(seq)
	if k == nil || k.packed != nil {
		return
	}
	if k.pack(b.log, false); k.packed != nil {
		b.evict.remove(k)
	}
}

// release finds where a message goes that was delayed.
func (w *carrier) release(q *Queue, it *moving) error {
	view, err := message.Parse(it.block)
	if err != nil {
		return err
	}
	it.persistent = view.Persistent
	it.ttl, it.priority = lifeOf(view.Properties)
	r := w.onward(q.delay.x, &view)
	if len(r.queues) > 0 {
		it.letter, it.body, it.r = w.again(&view, len(it.block)), int64(len(view.Body)), r
		it.filter(view.Properties)
	}
	return nil
}

// again returns the block of a message as one of its own, of so many bytes: the
// committer may be about to write the checksum into what it was taken from.
func (w *carrier) again(view *message.View, n int) []byte {
	var out []byte
	if n > ownBlock {
		out = make([]byte, 0, n)
	} else {
		if len(w.slab) < n {
			w.slab = make([]byte, slabMax)
		}
		out = w.slab[:0:n]
		w.slab = w.slab[n:]
	}
	out = message.AppendBlockHead(out, view.Persistent, view.Exchange, view.Key, view.Properties)
	message.MarkAs(out, view)
	return append(out, view.Body...)
}

// onward routes a message that an exchange has kept.
func (w *carrier) onward(x *exchange, view *message.View) *path {
	v := x.v
	version := v.version.Load()
	if w.kept != x || w.version != version || w.routes == nil {
		w.kept, w.version, w.v, w.to = x, version, nil, ""
		w.routes = map[string]*path{}
	}
	keys := [][]byte{view.Key}
	ccKeys(view.Properties, func(k []byte) { keys = append(keys, k) })
	if r := w.routes[string(view.Key)]; r != nil && len(keys) == 1 {
		return r
	}
	r := &path{version: version, counts: &x.counts}
	v.mu.RLock()
	keep := x.routeOnward(r, keys, view.Properties) && len(keys) == 1
	v.mu.RUnlock()
	if keep {
		if len(w.routes) >= moveRoutes {
			clear(w.routes)
		}
		w.routes[string(view.Key)] = r
	}
	return r
}

// delayOf is what an x-delay header of this value asks for, ms; 0: nothing. As in the
// plugin it is an integer, a text of one, or a number that is cut to one; but there it
// may not be over 2^32, and what it is not is a failure.
func delayOf(kind byte, value []byte) int64 {
	n := int64(0)
	switch v := (arg{kind, value}).decoded().(type) {
	case int64:
		n = v
	case string:
		n, _ = strconv.ParseInt(v, 10, 64)
	case float32:
		n = truncated(float64(v))
	case float64:
		n = truncated(v)
	case message.Decimal:
		n = truncated(float64(v.Value) * math.Pow10(-int(v.Scale)))
	}
	return max(n, 0)
}

func truncated(f float64) int64 {
	switch {
	case !(f > 0): // or not a number
		return 0
	case f >= math.MaxInt64:
		return math.MaxInt64
	}
	return int64(f)
}

// propertiesDelay finds what a list of properties asks for.
func propertiesDelay(props []byte) int64 {
	if a, ok := findArg(message.Field(props, message.Headers), delayHeader); ok {
		return delayOf(a.kind, a.value)
	}
	return 0
}

// wakeTime is when a delay is over that begins now.
func wakeTime(delay int64) int64 {
	now := nowMillis()
	return now + min(delay, notTimed-1-now)
}

// withoutDelay returns properties whose x-delay is the negative of what it was.
func withoutDelay(props []byte, delay int64) []byte {
	out := make([]byte, 0, len(props)+8)
	for list := props; ; {
		id, v, rest, ok := message.NextField(list)
		if !ok {
			return out
		}
		if id == message.Headers {
			v = headersWithoutDelay(v, delay)
		}
		out = message.AppendField(out, id, v)
		list = rest
	}
}

func headersWithoutDelay(headers []byte, delay int64) []byte {
	out := make([]byte, 0, len(headers)+8)
	for list := headers; ; {
		name, _, _, rest, ok := message.NextHeader(list)
		if !ok {
			return append(out, list...)
		}
		if string(name) == delayHeader {
			out = append(append(out, byte(len(name))), name...)
			if delay <= math.MaxInt32 {
				out = binary.BigEndian.AppendUint32(append(out, 'I'), uint32(-int32(delay)))
			} else {
				out = binary.BigEndian.AppendUint64(append(out, 'l'), uint64(-delay))
			}
			return append(out, rest...)
		}
		out = append(out, list[:len(list)-len(rest)]...)
		list = rest
	}
}
