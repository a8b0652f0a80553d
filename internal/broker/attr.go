package broker

import (
	"encoding/binary"
	"math"
)

// Attributes are what a queue knows of one of its messages beside the message: when
// it expires, how often it was delivered in vain, until when it waits, and how much
// of its block is not its body. The same message may have others in other queues.
//
//	arrival                        what is to be known when a message enters a queue;
//	                               appendLocked makes attributes of it
//	q.attrsLocked(seq)             the attributes that it has
//	q.publishAttrsLocked(it, seq)  those that the record of its publish must have;
//	                               to log.publishLocked and publishManyLocked
//	q.countLocked(seq, n)          it was delivered in vain, n times in all
//	q.delayLocked(seq, until)      it is ready, and now it waits
//	q.onDue                        what becomes of a message whose wait is over
//
// What countLocked and delayLocked change is told to the log by reportLocked, with
// what was settled, or in a transaction by logLocked.

// arrival is what a queue is to know of a message that enters it.
type arrival struct {
	resent   bool   // it may have been delivered before: it is redelivered
	priority uint8  // its own; more than the queue's highest counts as that
	over     uint16 // bytes by which its block is larger than its body; see headBytes
	ttl      int64  // ms, and one: its own, from entering the queue on; 0: it has none
	count    uint32 // deliveries in vain
	wake     int64  // ms since 1970: it waits until then; 0: it is ready
	value    *dupID // of dedupHeader, for a queue that takes each value once; nil: it has none
}

// attrs are the attributes of a message in a queue. Zero: it has none.
type attrs struct {
	due   int64  // ms since 1970: it expires then; 0: never
	wake  int64  // ms since 1970: it waits until then; 0: it does not
	count uint32 // deliveries in vain
	over  uint16 // bytes by which its block is larger than its body; 0: not known
	value dupID  // of dedupHeader, in a queue that takes each value once; zero: it has none
}

// times are those of a chunk's entries, and their values.
type times struct {
	due   []int64 // attrs.due of each entry; of those behind its end it is 0; nil while the chunk is packed
	wake  []int64 // likewise attrs.wake
	value []dupID // likewise attrs.value
	next  int64   // nothing in the chunk is to be done before; ms since 1970
	slot  int     // place in the queue's heap, and one; 0: it is not there
}

// notTimed is when something happens that does not.
const notTimed = math.MaxInt64

// headBytes is the value of over for a block whose body begins at a byte.
func headBytes(at int) uint16 { return uint16(min(at, math.MaxUint16)) }

func timeAt(list []int64, i int) int64 {
	if i < len(list) {
		return list[i]
	}
	return 0
}

func setTimeAt(list []int64, i int, t int64) []int64 {
	if t == 0 && i >= len(list) {
		return list
	}
	for len(list) <= i {
		list = append(list, 0)
	}
	list[i] = t
	return list
}

// shift makes room for n entries in front.
func (t *times) shift(n int) {
	if len(t.due) > 0 {
		t.due = append(make([]int64, n, n+len(t.due)), t.due...)
	}
	if len(t.wake) > 0 {
		t.wake = append(make([]int64, n, n+len(t.wake)), t.wake...)
	}
	if len(t.value) > 0 {
		t.value = append(make([]dupID, n, n+len(t.value)), t.value...)
	}
}

// forget is for an entry that is gone.
func (t *times) forget(i int) {
	if i < len(t.due) {
		t.due[i] = 0
	}
	if i < len(t.wake) {
		t.wake[i] = 0
	}
}

// attrs are those of the i'th entry, which is not packed.
func (k *chunk) attrs(i int) attrs {
	a := attrs{count: k.entries[i].count, over: k.entries[i].over}
	if k.times != nil {
		a.due, a.wake = timeAt(k.times.due, i), timeAt(k.times.wake, i)
		if i < len(k.times.value) {
			a.value = k.times.value[i]
		}
	}
	return a
}

// setAttrs gives the i'th entry attributes, but for its state.
func (k *chunk) setAttrs(i int, a attrs) {
	k.entries[i].count, k.entries[i].over = a.count, a.over
	k.changed = k.changed || a.count != 0 || a.wake != 0
	if k.times == nil {
		if a.due == 0 && a.wake == 0 && a.value == (dupID{}) {
			return
		}
		k.times = &times{next: notTimed}
	}
	k.times.due = setTimeAt(k.times.due, i, a.due)
	k.times.wake = setTimeAt(k.times.wake, i, a.wake)
	k.times.setValue(i, a.value)
}

// attrsLocked are the attributes of a message that is in the queue.
func (q *Queue) attrsLocked(seq uint64) attrs {
	k := q.chunkOf(seq)
	if k == nil || seq < k.first || seq-k.first >= uint64(len(k.entries)) {
		return attrs{}
	}
	return k.attrs(int(seq - k.first))
}

// publishAttrsLocked are the attributes that the record of a publish must have: none
// for most.
func (q *Queue) publishAttrsLocked(it *pubItem, seq uint64) attrs {
	if it.ttl == 0 && q.rules.ttl == none && q.rules.maxBytes == none && q.delay == nil && !q.rules.dedup.on {
		return attrs{}
	}
	return q.attrsLocked(seq)
}

// copyAttrsLocked are those that a copy of a message's record must have: how much of
// a block is not its body is worth that only where it counts.
func (q *Queue) copyAttrsLocked(seq uint64) attrs {
	a := q.attrsLocked(seq)
	if a.due == 0 && a.wake == 0 && a.count == 0 && q.rules.maxBytes == none {
		return attrs{}
	}
	return a
}

// addAttrs makes a the n'th of a list, which is nil as long as none has any.
func addAttrs(list []attrs, n int, a attrs) []attrs {
	if list == nil && a == (attrs{}) {
		return nil
	}
	for len(list) < n-1 {
		list = append(list, attrs{})
	}
	return append(list, a)
}

// countLocked notes how often a message that is in the queue was delivered in vain.
func (q *Queue) countLocked(seq uint64, n uint32) {
	k := q.chunkOf(seq)
	if k == nil || seq < k.first || seq-k.first >= uint64(len(k.entries)) {
		return
	}
	if e := &k.entries[seq-k.first]; e.state != gone && e.count != n {
		e.count, k.changed = n, true
		q.changed = append(q.changed, seq)
	}
}

// logChangedLocked tells the log, which is locked, of the messages whose attributes
// have changed.
func (q *Queue) logChangedLocked() {
	for list := q.changed; len(list) > 0; {
		k, first, n := q.chunkOf(list[0]), list[0], 0
		for n < len(list) && list[n] == first+uint64(n) && k != nil && first+uint64(n) < k.first+uint64(len(k.entries)) {
			if m := k.entries[list[n]-k.first].msg; m == nil || !m.persistent {
				break
			}
			n++
		}
		if n > 0 {
			q.v.b.log.blobLocked(recAttrs, k.attrsRecord(q, int(first-k.first), n))
		}
		list = list[max(n, 1):]
	}
}

// attrsRecord tells the attributes of n entries, from the i'th on.
func (k *chunk) attrsRecord(q *Queue, i, n int) []byte {
	b := binary.AppendUvarint(nil, q.num)
	b = binary.AppendUvarint(b, k.first+uint64(i))
	b = binary.AppendUvarint(b, uint64(n))
	var coder attrCoder
	for j := i; j < i+n; j++ {
		b = coder.append(b, k.attrs(j))
	}
	return b
}

// delayLocked makes a message that is ready wait until a time, ms since 1970.
func (q *Queue) delayLocked(seq uint64, until int64) {
	k := q.chunkOf(seq)
	if k == nil || seq < k.first || seq-k.first >= uint64(len(k.entries)) {
		return
	}
	i := int(seq - k.first)
	e := &k.entries[i]
	if e.state != ready {
		return
	}
	e.state = waiting
	q.ready--
	q.readyBytes -= e.body()
	q.waiting++
	a := k.attrs(i)
	a.wake = until
	k.setAttrs(i, a)
	q.timeLocked(k, k.timeOf(i))
	q.changed = append(q.changed, seq)
}

// wakeLocked is for a message whose wait is over.
func (q *Queue) wakeLocked(seq uint64, k *chunk) {
	if q.onDue != nil {
		q.onDue(q, seq)
		return
	}
	i := int(seq - k.first)
	e := &k.entries[i]
	e.state = ready
	k.times.wake[i] = 0
	q.waiting--
	q.ready++
	q.readyBytes += e.body()
	q.backLocked(seq)
}

// The attributes of a message in a record, and in a packed chunk: flags, and those
// that are not 0, times as the difference to the last of its kind.
const (
	attrDue = 1 << iota
	attrWake
	attrCount
	attrOver
	attrValue
)

// attrCoder is what is remembered from one message's attributes to the next's.
type attrCoder struct{ due, wake int64 }

func (c *attrCoder) append(dst []byte, a attrs) []byte {
	at := len(dst)
	dst = append(dst, 0)
	if a.due != 0 {
		dst[at] |= attrDue
		dst = binary.AppendVarint(dst, a.due-c.due)
		c.due = a.due
	}
	if a.wake != 0 {
		dst[at] |= attrWake
		dst = binary.AppendVarint(dst, a.wake-c.wake)
		c.wake = a.wake
	}
	if a.count != 0 {
		dst[at] |= attrCount
		dst = binary.AppendUvarint(dst, uint64(a.count))
	}
	if a.over != 0 {
		dst[at] |= attrOver
		dst = binary.AppendUvarint(dst, uint64(a.over))
	}
	if a.value != (dupID{}) {
		dst[at] |= attrValue
		dst = append(dst, a.value[:]...)
	}
	return dst
}

func (c *attrCoder) read(rd *reader) (a attrs) {
	f := rd.byte()
	if f&^(attrDue|attrWake|attrCount|attrOver|attrValue) != 0 {
		rd.b, rd.err = nil, errRecord
	}
	if f&attrDue != 0 {
		c.due += rd.diff()
		a.due = c.due
	}
	if f&attrWake != 0 {
		c.wake += rd.diff()
		a.wake = c.wake
	}
	if f&attrCount != 0 {
		a.count = uint32(min(rd.num(), math.MaxUint32))
	}
	if f&attrOver != 0 {
		a.over = uint16(min(rd.num(), math.MaxUint16))
	}
	if f&attrValue != 0 {
		a.value = rd.dupID()
	}
	return a
}

// diff reads a number that may be negative.
func (r *reader) diff() int64 {
	n, w := binary.Varint(r.b)
	if w <= 0 {
		r.b, r.err = nil, errRecord
		return 0
	}
	r.b = r.b[w:]
	return n
}
