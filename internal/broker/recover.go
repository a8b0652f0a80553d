package broker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// replayer rebuilds the broker's state from the journal's heads.
//
// Before the newest checkpoint only messages count: they are kept as strays
// until the checkpoint describes their queue. From there on every record does.
// A queue's description may come behind records that it already contains;
// those find no queue, and are settled or adopted with the description.
type replayer struct {
	b          *Broker
	checkpoint uint64
	queues     map[uint64]*Queue
	stale      map[*VHost]struct{} // whose policies changed behind the queues
	gone       map[uint64]struct{}
	strays     map[uint64][]stray
	epoch      uint64
	tx         []txPiece // of a transaction whose end has not come
	inTx       bool
	slab       []stored
	ready      int      // messages that are in queues
	loose      []*chunk // that this batch may have unpacked
	described  bool     // the checkpoint has been read: all queues are known
	spread     uint64   // by how many chunks one message may lengthen an index; of tests
	err        error    // what no broker writes

	// Of the last batch.
	last    uint64 // its position
	segment uint64
	named   uint64        // the checkpoint that it names
	handed  bool          // it ends with a handover
	owner   string        // of the last epoch, empty: it has no name, or it is not known
	lease   time.Duration // of that owner, 0: not known

	// gap: batches were missing behind the checkpoint, the first of them behind
	// the position before.
	gap    bool
	before uint64
}

// maxSpread is how far, in chunks, a message may be from the others of its
// queue: a sanity check.
const maxSpread = 1 << 27

func (r *replayer) fault(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

type stray struct {
	seq uint64
	m   *stored
	at  attrs
}

// txPiece is a run of records of a transaction.
type txPiece struct {
	head   []byte
	pos    uint64
	seg    uint64
	offset uint32
}

func (b *Broker) replayer(checkpoint uint64) *replayer {
	return &replayer{
		b: b, checkpoint: checkpoint, described: checkpoint == 0, spread: maxSpread,
		queues: map[uint64]*Queue{}, stale: map[*VHost]struct{}{}, gone: map[uint64]struct{}{}, strays: map[uint64][]stray{},
	}
}

// finish makes what was replayed fit to be served: segments are those of the
// journal. More may be replayed behind it, and finish be called again.
func (r *replayer) finish(segments []journal.SegmentInfo) {
	l := r.b.log
	there := make(map[uint64]struct{}, len(segments))
	for _, s := range segments {
		there[s.Segment] = struct{}{}
		seg := l.segs[s.Segment]
		if seg == nil {
			seg = &segment{number: s.Segment}
			l.addSegmentLocked(seg)
		}
		seg.first, seg.last, seg.bytes = s.First, s.Last, s.Bytes+int64(s.Last-s.First+1)*l.weight
	}
	slices.SortFunc(l.order, func(x, y *segment) int { return cmp.Compare(x.number, y.number) })
	r.forgetSegments(there)
	r.applyPolicies()
	for _, v := range r.b.vhosts {
		v.eachQueue(func(q *Queue) {
			q.lanes(func(ln *lane) {
				ln.next = ln.tail
				ln.chunks.each(func(k *chunk) {
					ln.next = min(ln.next, k.first)
					k.pack(l, false)
				})
				ln.chunks.sweep()
			})
		})
	}
	if r.ready > 0 || len(r.queues) > 0 {
		r.b.logger.Info("recovered", "queues", len(r.queues), "messages", r.ready)
	}
}

// forgetSegments lets go of the segments that are not there any more. They have
// no message that is alive: an owner drops one when what settled them is durable.
// If there is one all the same, it is gone for whoever begins to read now, and is
// settled here too.
func (r *replayer) forgetSegments(there map[uint64]struct{}) {
	l := r.b.log
	missing := map[uint64]struct{}{}
	live := int64(0)
	for n, s := range l.segs {
		if _, ok := there[n]; !ok {
			missing[n] = struct{}{}
			live += s.live
		}
	}
	if len(missing) == 0 {
		return
	}
	if live > 0 {
		r.b.logger.Warn("the journal has dropped messages that are not settled in what is left of it", "bytes", live)
		for _, q := range r.queues {
			r.forgetMissing(q, missing)
		}
	}
	for n := range missing {
		l.dropSegmentLocked(n)
	}
}

// forgetMissing settles the messages of a queue that are not there any more.
func (r *replayer) forgetMissing(q *Queue, missing map[uint64]struct{}) {
	l := r.b.log
	var lost []uint64
	q.eachChunk(func(k *chunk) {
		for i, e := range k.peek().entries {
			if e.msg == nil {
				continue
			}
			_, is := missing[uint64(e.msg.segment)]
			if e.msg.parts != nil {
				for _, ref := range e.msg.parts.refs {
					s := l.segmentOfLocked(ref.Position)
					if s == nil {
						is = true
					} else if _, gone := missing[s.number]; gone {
						is = true
					}
				}
			}
			if is {
				lost = append(lost, k.first+uint64(i))
			}
		}
	})
	for _, seq := range lost {
		r.settle(q, seq, 1)
	}
}

// begin makes the log go on behind a position: what is written next is of this
// epoch, from this segment on.
func (l *log) begin(pos, epoch, seg, checkpoint uint64) {
	l.pos, l.epoch, l.seg, l.sent = pos, epoch, max(seg, 1), pos
	if s := l.segs[l.seg]; s != nil {
		l.segBytes = s.bytes
	}
	l.checkpoint.Store(checkpoint)
	l.named.Store(checkpoint)
	l.durable.Store(pos)
}

// batch takes in a batch. They come in order; a gap is where segments were
// dropped.
func (r *replayer) batch(b journal.Batch) error {
	l := r.b.log
	if l.segs[b.Segment] == nil {
		l.addSegmentLocked(&segment{number: b.Segment, first: b.Position})
	}
	seg := l.segs[b.Segment]
	seg.last = b.Position
	if b.Position != r.last+1 && b.Position > r.checkpoint && !r.gap {
		r.gap, r.before = true, r.last
	}
	r.last = b.Position
	if b.Epoch < r.epoch {
		return nil // superseded, which a reader that goes on from the middle is not told
	}
	if b.Epoch > r.epoch {
		// What the last owner began and did not end never happened.
		r.epoch, r.inTx, r.tx = b.Epoch, false, nil
	}
	if r.inTx && r.tx != nil && r.tx[0].seg != b.Segment {
		// A transaction is in one segment: the rest of it was dropped, because
		// nothing of it is of interest any more.
		r.inTx, r.tx = false, nil
	}
	r.segment, r.named, r.handed = b.Segment, b.Checkpoint, false
	rd := reader{b: b.Head}
	offset := uint32(0)
	for len(rd.b) > 0 && rd.err == nil {
		if !plain(rd.b[0]) {
			seg.mixed = true
		}
		r.handed = rd.b[0] == recHandover
		switch rd.b[0] {
		case recTxBegin:
			rd.b = rd.b[1:]
			r.inTx, r.tx = true, []txPiece{{seg: b.Segment}}
		case recTxEnd:
			rd.b = rd.b[1:]
			r.inTx = false
			for _, p := range r.tx {
				prd := reader{b: p.head}
				off := p.offset
				for len(prd.b) > 0 && prd.err == nil {
					r.record(&prd, p.pos, p.seg, &off, true)
				}
			}
			r.tx = nil
		default:
			from, at := rd.b, offset
			r.record(&rd, b.Position, b.Segment, &offset, !r.inTx)
			if r.inTx {
				head := slices.Clone(from[:len(from)-len(rd.b)])
				r.tx = append(r.tx, txPiece{head, b.Position, b.Segment, at})
			}
		}
	}
	if rd.err == nil {
		rd.err = r.err
	}
	if rd.err != nil {
		return fmt.Errorf("batch at position %d: %w", b.Position, rd.err)
	}
	for _, k := range r.loose {
		k.pack(l, true)
	}
	clear(r.loose)
	r.loose = r.loose[:0]
	return nil
}

func (r *replayer) message(pos, seg uint64, offset *uint32, size uint64) *stored {
	if len(r.slab) == 0 {
		r.slab = make([]stored, chunkSize)
	}
	m := &r.slab[0]
	r.slab = r.slab[1:]
	m.size, m.segment = uint32(size), uint32(seg)
	m.persistent, m.journaled = true, true
	m.ref = journal.Ref{Position: pos, Offset: *offset, Length: uint32(size)}
	m.placed.Store(inJournal)
	*offset += uint32(size)
	return m
}

// record carries out one record, or only steps over it.
func (r *replayer) record(rd *reader, pos, seg uint64, offset *uint32, apply bool) {
	full := pos >= r.checkpoint && apply
	kind := rd.byte()
	switch kind {
	case recRun, recRunWith:
		queue, first, n := rd.num(), rd.num(), rd.count()
		var coder attrCoder
		for i := range uint64(n) {
			size := rd.num()
			at := attrs{}
			if kind == recRunWith {
				at = coder.read(rd)
			}
			if apply {
				r.place(queue, first+i, r.message(pos, seg, offset, size), at)
			} else {
				*offset += uint32(size)
			}
		}
	case recMany, recManyWith:
		before := len(rd.b)
		targets, with := r.targets(rd, kind == recManyWith)
		size := rd.num()
		if !apply {
			*offset += uint32(size)
			return
		}
		m := r.message(pos, seg, offset, size)
		m.setHead(before - len(rd.b) + 1)
		m.shared = len(targets) > 1
		for i, t := range targets {
			r.place(t.queue, t.seq, m, with[i])
		}
	case recPart:
		rd.num()
		rd.num()
		*offset += uint32(rd.num())
	case recParts, recPartsWith:
		targets, with := r.targets(rd, kind == recPartsWith)
		refs := make([]journal.Ref, rd.count())
		size := uint64(0)
		for i := range refs {
			refs[i] = journal.Ref{Position: rd.num(), Offset: uint32(rd.num()), Length: uint32(rd.num())}
			size += uint64(refs[i].Length)
		}
		if !apply || len(refs) == 0 {
			return
		}
		at := uint32(0)
		m := r.message(pos, seg, &at, size)
		m.parts, m.ref = &parts{refs: refs, targets: targets}, refs[len(refs)-1]
		for i, t := range targets {
			r.place(t.queue, t.seq, m, with[i])
		}
	case recAttrs:
		queue, first, n := rd.num(), rd.num(), rd.count()
		var coder attrCoder
		for i := range uint64(n) {
			at := coder.read(rd)
			if q := r.queues[queue]; full && q != nil && rd.err == nil {
				r.change(q, first+i, at)
			}
		}
	case recSettle:
		queue, first, n := rd.num(), rd.num(), rd.num()
		if q := r.queues[queue]; full && q != nil {
			r.settle(q, first, n)
		}
	case recNone, recHandover:
	case recEpoch:
		r.owner, r.lease = "", 0
	case recOwner:
		r.owner = rd.text()
		r.lease = time.Duration(min(rd.num(), maxLeaseMillis)) * time.Millisecond
	case recVHost:
		if name := rd.text(); full && r.b.vhosts[name] == nil {
			r.b.addVHost(name)
		}
	case recExchange:
		vhost, spec := rd.text(), ExchangeSpec{Name: rd.text(), Type: rd.text()}
		f := rd.byte()
		spec.Durable, spec.AutoDelete, spec.Internal = f&flagDurable != 0, f&flagAutoDelete != 0, f&flagInternal != 0
		spec.Args = slices.Clone(rd.bytes())
		if v := r.b.vhosts[vhost]; full && v != nil && v.exchanges[spec.Name] == nil {
			v.exchanges[spec.Name] = newExchange(v, spec)
		}
	case recExchangeGone:
		vhost, name := rd.text(), rd.text()
		if v := r.b.vhosts[vhost]; full && v != nil && v.exchanges[name] != nil {
			r.dropExchange(v, v.exchanges[name])
		}
	case recQueue:
		num, vhost, spec := r.queueSpec(rd)
		if v := r.b.vhosts[vhost]; full && v != nil && rd.err == nil && r.queues[num] == nil {
			r.addQueue(v, num, spec)
			r.b.nextQueue.Store(max(r.b.nextQueue.Load(), num))
		}
	case recQueueGone:
		num := rd.num()
		if q := r.queues[num]; full {
			r.forgetQueue(num)
			if q != nil {
				r.dropQueue(q)
			}
		}
	case recBind, recUnbind:
		r.binding(rd, kind, full)
	case recCheckpoint:
		next := rd.num()
		if full {
			r.b.nextQueue.Store(max(r.b.nextQueue.Load(), next))
		}
	case recState, recLanes:
		r.state(rd, full, kind == recLanes)
	case recCheckpointEnd:
		if began := rd.num(); full && began == r.checkpoint {
			// Whose queue has not been described by now was deleted.
			r.described = true
			clear(r.gone)
			clear(r.strays)
		}
	case recAccepted:
		r.accepted(rd, full)
	case recIDs:
		r.ids(rd, full)
	case recSeen:
		r.seen(rd, full)
	case recVHostGone:
		if name := rd.text(); full {
			r.vhostGone(name)
		}
	case recSetting:
		if s := readSetting(rd); full && rd.err == nil {
			r.b.settings.mu.Lock()
			r.b.settings.setLocked(s)
			r.b.settings.mu.Unlock()
			if v := r.b.settingChanged(s); v != nil {
				r.stale[v] = struct{}{}
			}
			r.b.settings.tell(s)
		}
	default:
		rd.err = fmt.Errorf("%w: kind %d", errRecord, kind)
	}
}

// targets reads those of a publish, and the attributes of each.
func (r *replayer) targets(rd *reader, with bool) ([]target, []attrs) {
	t := make([]target, rd.count())
	a := make([]attrs, len(t))
	var coder attrCoder
	for i := range t {
		t[i] = target{rd.num(), rd.num()}
		if with {
			a[i] = coder.read(rd)
		}
	}
	return t, a
}

func (r *replayer) queueSpec(rd *reader) (num uint64, vhost string, spec QueueSpec) {
	num, vhost, spec.Name = rd.num(), rd.text(), rd.text()
	f := rd.byte()
	spec.Durable, spec.AutoDelete, spec.delays = f&flagDurable != 0, f&flagAutoDelete != 0, f&flagDelays != 0
	spec.Args = slices.Clone(rd.bytes())
	return num, vhost, spec
}

// place puts a message into its queue, or keeps it until the queue is known.
func (r *replayer) place(queue, seq uint64, m *stored, at attrs) {
	q := r.queues[queue]
	if q == nil {
		if _, gone := r.gone[queue]; !gone && !r.described {
			r.strays[queue] = append(r.strays[queue], stray{seq, m, at})
		}
		return
	}
	ln := q.makeLane(uint8(seq >> laneShift))
	if ln.chunks.distance(seq) > r.spread {
		r.fault("message %d of queue %d is too far from the others", seq, queue)
		return
	}
	k, e := ln.chunks.slot(q, seq)
	if e.state == gone {
		k.live++
		r.ready++
	} else {
		// It was copied. The chunk may have been packed.
		q.uncount(e)
		r.release(e.msg)
		r.loosen(k)
	}
	m.logged++
	m.holders.Add(1)
	if !m.accounted {
		r.b.log.accountLocked(m)
	}
	*e = entry{msg: m, redelivered: true}
	r.setAttrs(q, k, seq, at)
	ln.tail = max(ln.tail, seq+1)
	if (seq+1)&(chunkSize-1) == 0 {
		k.pack(r.b.log, true) // a long backlog needs no memory for its index
	}
}

// setAttrs gives an entry its attributes and its state, and counts it.
func (r *replayer) setAttrs(q *Queue, k *chunk, seq uint64, at attrs) {
	i := int(seq - k.first)
	k.setAttrs(i, at)
	if at.value != (dupID{}) {
		q.valueLocked(at.value, seq)
	}
	e := &k.entries[i]
	q.countIn(e)
	if at.wake != 0 {
		e.state = waiting
		q.waiting++
	} else {
		e.state = ready
		q.ready++
		q.readyBytes += e.body()
	}
	if k.times != nil {
		k.times.next = min(k.times.next, k.timeOf(i))
	}
}

// uncount is for an entry that is ready or waiting, and is to be so no more.
func (q *Queue) uncount(e *entry) {
	q.countOut(e)
	if e.state == waiting {
		q.waiting--
		return
	}
	q.ready--
	q.readyBytes -= e.body()
}

// change takes in the attributes of a message that is in its queue.
func (r *replayer) change(q *Queue, seq uint64, at attrs) {
	k := q.chunkOf(seq)
	if k == nil || seq < k.first || seq-k.first >= uint64(len(k.entries)) || k.entries[seq-k.first].state == gone {
		return
	}
	q.uncount(&k.entries[seq-k.first])
	r.setAttrs(q, k, seq, at)
	r.loosen(k)
}

// loosen notes that a chunk may have been unpacked.
func (r *replayer) loosen(k *chunk) {
	if n := len(r.loose); n == 0 || r.loose[n-1] != k {
		r.loose = append(r.loose, k)
	}
}

func (r *replayer) release(m *stored) {
	m.holders.Add(-1)
	if m.logged--; m.logged == 0 && m.accounted {
		r.b.log.forgetLocked(m)
	}
}

func (r *replayer) settle(q *Queue, first, n uint64) {
	end := first + n
	if end < first || end > first && (end-1)>>laneShift != first>>laneShift {
		r.fault("%d messages of queue %d, from %d on, are settled", n, q.num, first)
		return
	}
	ln := q.makeLane(uint8(first >> laneShift))
	ln.tail = max(ln.tail, end)
	c := &ln.chunks
	// Only what is in the index is looked at, however much is meant.
	first = max(first, c.base<<chunkShift)
	end = min(end, (c.base+uint64(c.len()))<<chunkShift)
	for seq := first; seq < end; seq++ {
		k := c.at(seq)
		if k == nil {
			seq |= chunkSize - 1
			continue
		}
		if seq < k.first || seq-k.first >= uint64(len(k.entries)) {
			continue
		}
		e := &k.entries[seq-k.first]
		if e.state == gone {
			continue
		}
		q.uncount(e)
		r.release(e.msg)
		*e = entry{}
		k.forgetValue(int(seq - k.first))
		r.ready--
		if k.live--; k.live == 0 && c.free(k, ln.tail) {
			q.v.b.evict.remove(k)
		}
	}
}

// addQueue adds a queue; nil: it is what an exchange has kept that is not there.
func (r *replayer) addQueue(v *VHost, num uint64, spec QueueSpec) (q *Queue) {
	if !spec.delays {
		q = v.addQueue(num, spec)
	} else if x := v.exchanges[spec.Name]; x != nil && x.spec.Type == delayedType && x.kept == nil {
		q = x.keep(num)
	} else {
		r.forgetQueue(num)
		return nil
	}
	r.queues[num] = q
	return q
}

// forgetQueue forgets what is known of a queue that is not there any more, but that
// may yet be described, or have records of messages.
func (r *replayer) forgetQueue(num uint64) {
	delete(r.strays, num)
	if !r.described {
		r.gone[num] = struct{}{}
	}
}

func (r *replayer) dropQueue(q *Queue) {
	q.eachChunk(func(k *chunk) {
		for _, e := range k.peek().entries {
			if e.msg != nil {
				r.release(e.msg)
			}
		}
		q.v.b.evict.remove(k)
	})
	r.ready -= q.ready + q.waiting
	q.lane, q.more = lane{}, nil
	delete(r.queues, q.num)
	if q.v.queues[q.name] == q {
		delete(q.v.queues, q.name)
		q.v.listing.remove(q)
	}
	for b := range q.bindings {
		b.from.detach(b)
	}
}

func (r *replayer) dropExchange(v *VHost, x *exchange) {
	delete(v.exchanges, x.spec.Name)
	for _, b := range x.bindings {
		x.detach(b)
	}
	for b := range x.incoming {
		b.from.detach(b)
	}
	if x.kept != nil {
		r.forgetQueue(x.kept.num)
		r.dropQueue(x.kept)
	}
}

func (r *replayer) binding(rd *reader, kind recordKind, full bool) {
	vhost, source, toKind := rd.text(), rd.text(), rd.byte()
	name, key, args := rd.text(), rd.text(), rd.text()
	v := r.b.vhosts[vhost]
	if !full || v == nil || rd.err != nil {
		return
	}
	x := v.exchanges[source]
	var to any
	if toKind == 0 {
		if q := v.queues[name]; q != nil {
			to = q
		}
	} else if d := v.exchanges[name]; d != nil {
		to = d
	}
	if x == nil || to == nil {
		return
	}
	b := &binding{from: x, key: bindingKey{to, key, args}, durable: true}
	old := x.bindings[b.key]
	switch {
	case kind == recUnbind && old != nil:
		x.detach(old)
	case kind == recBind && old == nil && b.compile() == nil:
		x.attach(b)
	}
}
