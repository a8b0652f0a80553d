package broker

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

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
	gone       map[uint64]struct{}
	strays     map[uint64][]stray
	epoch      uint64
	tx         []txPiece // of a transaction whose end has not come
	inTx       bool
	slab       []stored
	messages   int
	spread     uint64 // by how many chunks one message may lengthen an index; of tests
	err        error  // what no broker writes
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
}

// txPiece is a run of records of a transaction.
type txPiece struct {
	head   []byte
	pos    uint64
	seg    uint64
	offset uint32
}

func (b *Broker) recover(ctx context.Context, info journal.Info) error {
	r := &replayer{
		b: b, checkpoint: info.Checkpoint,
		queues: map[uint64]*Queue{}, gone: map[uint64]struct{}{}, strays: map[uint64][]stray{}, spread: maxSpread,
	}
	l := b.log
	err := b.cfg.Journal.Replay(ctx, 0, 0, false, r.batch)
	if err != nil {
		return fmt.Errorf("replay the journal: %w", err)
	}
	for _, v := range b.vhosts {
		for _, q := range v.queues {
			q.next = q.tail
			q.chunks.each(func(k *chunk) {
				if q.next > k.first {
					q.next = k.first
				}
				for _, e := range k.peek() {
					if m := e.msg; m != nil {
						if !m.accounted {
							l.accountLocked(m)
						}
						r.messages++
					}
				}
				k.counted = true
				k.pack(l, false)
			})
			q.chunks.sweep()
		}
	}
	segments, err := b.cfg.Journal.Segments(ctx)
	if err != nil {
		return fmt.Errorf("list the journal's segments: %w", err)
	}
	for _, s := range segments {
		seg := l.segs[s.Segment]
		if seg == nil {
			seg = &segment{number: s.Segment}
			l.addSegmentLocked(seg)
		}
		seg.first, seg.last, seg.bytes = s.First, s.Last, s.Bytes
	}
	slices.SortFunc(l.order, func(x, y *segment) int { return cmp.Compare(x.number, y.number) })
	l.pos, l.epoch, l.seg = info.Head, info.Epoch+1, info.Segment
	if l.seg == 0 {
		l.seg = 1
	}
	if seg := l.segs[l.seg]; seg != nil {
		l.segBytes = seg.bytes
	}
	l.checkpoint.Store(info.Checkpoint)
	l.durable.Store(info.Head)
	l.markLocked(recEpoch)
	l.wake <- struct{}{}
	if r.messages > 0 || len(r.queues) > 0 {
		b.logger.Info("recovered", "queues", len(r.queues), "messages", r.messages)
	}
	return nil
}

func (r *replayer) batch(b journal.Batch) error {
	l := r.b.log
	if l.segs[b.Segment] == nil {
		l.addSegmentLocked(&segment{number: b.Segment, first: b.Position})
	}
	l.segs[b.Segment].last = b.Position
	if b.Epoch > r.epoch {
		// What the last owner began and did not end never happened.
		r.epoch, r.inTx, r.tx = b.Epoch, false, nil
	}
	rd := reader{b: b.Head}
	offset := uint32(0)
	for len(rd.b) > 0 && rd.err == nil {
		if !plain(rd.b[0]) {
			l.segs[b.Segment].mixed = true
		}
		switch rd.b[0] {
		case recTxBegin:
			rd.b = rd.b[1:]
			r.inTx = true
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
	case recRun:
		queue, first, n := rd.num(), rd.num(), rd.count()
		for i := range uint64(n) {
			size := rd.num()
			if apply {
				r.place(queue, first+i, r.message(pos, seg, offset, size))
			} else {
				*offset += uint32(size)
			}
		}
	case recMany:
		before := len(rd.b)
		targets := r.targets(rd)
		size := rd.num()
		if !apply {
			*offset += uint32(size)
			return
		}
		m := r.message(pos, seg, offset, size)
		m.setHead(before - len(rd.b) + 1)
		m.shared = len(targets) > 1
		for _, t := range targets {
			r.place(t.queue, t.seq, m)
		}
	case recPart:
		rd.num()
		rd.num()
		*offset += uint32(rd.num())
	case recParts:
		targets := r.targets(rd)
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
		for _, t := range targets {
			r.place(t.queue, t.seq, m)
		}
	case recSettle:
		queue, first, n := rd.num(), rd.num(), rd.num()
		if q := r.queues[queue]; full && q != nil {
			r.settle(q, first, n)
		}
	case recEpoch, recNone:
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
			r.queues[num] = v.addQueue(num, spec)
			r.b.nextQueue.Store(max(r.b.nextQueue.Load(), num))
		}
	case recQueueGone:
		num := rd.num()
		if q := r.queues[num]; full {
			delete(r.strays, num)
			r.gone[num] = struct{}{}
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
	case recState:
		r.state(rd, full)
	case recCheckpointEnd:
		rd.num()
	case recAccepted:
		r.accepted(rd, full)
	case recIDs:
		r.ids(rd, full)
	default:
		rd.err = fmt.Errorf("%w: kind %d", errRecord, kind)
	}
}

func (r *replayer) targets(rd *reader) []target {
	t := make([]target, rd.count())
	for i := range t {
		t[i] = target{rd.num(), rd.num()}
	}
	return t
}

func (r *replayer) queueSpec(rd *reader) (num uint64, vhost string, spec QueueSpec) {
	num, vhost, spec.Name = rd.num(), rd.text(), rd.text()
	f := rd.byte()
	spec.Durable, spec.AutoDelete = f&flagDurable != 0, f&flagAutoDelete != 0
	spec.Args = slices.Clone(rd.bytes())
	return num, vhost, spec
}

// place puts a message into its queue, or keeps it until the queue is known.
func (r *replayer) place(queue, seq uint64, m *stored) {
	q := r.queues[queue]
	if q == nil {
		if _, gone := r.gone[queue]; !gone {
			r.strays[queue] = append(r.strays[queue], stray{seq, m})
		}
		return
	}
	if q.chunks.distance(seq) > r.spread {
		r.fault("message %d of queue %d is too far from the others", seq, queue)
		return
	}
	k, e := q.chunks.slot(q, seq)
	if e.state == gone {
		k.live++
		q.ready++
	} else {
		r.release(e.msg)
	}
	m.logged++
	m.holders.Add(1)
	*e = entry{msg: m, state: ready, redelivered: true}
	q.tail = max(q.tail, seq+1)
	if (seq+1)&(chunkSize-1) == 0 {
		k.pack(r.b.log, true) // a long backlog needs no memory for its index
	}
}

func (r *replayer) release(m *stored) {
	m.logged--
	m.holders.Add(-1)
}

func (r *replayer) settle(q *Queue, first, n uint64) {
	end := first + n
	if end < first {
		r.fault("%d messages of queue %d, from %d on, are settled", n, q.num, first)
		return
	}
	q.tail = max(q.tail, end)
	// Only what is in the index is looked at, however much is meant.
	first = max(first, q.chunks.base<<chunkShift)
	end = min(end, (q.chunks.base+uint64(q.chunks.len()))<<chunkShift)
	for seq := first; seq < end; seq++ {
		k := q.chunks.at(seq)
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
		r.release(e.msg)
		*e = entry{}
		q.ready--
		if k.live--; k.live == 0 && q.chunks.free(k, q.tail) {
			q.v.b.evict.remove(k)
		}
	}
}

func (r *replayer) dropQueue(q *Queue) {
	q.chunks.each(func(k *chunk) {
		for _, e := range k.peek() {
			if e.msg != nil {
				r.release(e.msg)
			}
		}
	})
	q.chunks = chunks{}
	delete(r.queues, q.num)
	if q.v.queues[q.name] == q {
		delete(q.v.queues, q.name)
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

// state takes in a queue as a checkpoint describes it.
func (r *replayer) state(rd *reader, full bool) {
	num, vhost, spec := r.queueSpec(rd)
	tail, floor := rd.num(), rd.num()
	runs := make([]target, rd.count()) // from, to of what is settled above floor
	at := floor
	for i := range runs {
		at += rd.num()
		runs[i].queue = at
		at += rd.num()
		runs[i].seq = at
	}
	v := r.b.vhosts[vhost]
	if !full || v == nil || rd.err != nil {
		return
	}
	q := r.queues[num]
	if q == nil {
		q = v.addQueue(num, spec)
		r.queues[num] = q
	}
	r.b.nextQueue.Store(max(r.b.nextQueue.Load(), num))
	q.tail = max(q.tail, tail)
	settled := func(seq uint64) bool {
		if seq < floor {
			return true
		}
		i, _ := slices.BinarySearchFunc(runs, seq, func(t target, s uint64) int {
			if t.seq <= s {
				return -1
			}
			return 1
		})
		return i < len(runs) && runs[i].queue <= seq
	}
	for _, s := range r.strays[num] {
		if !settled(s.seq) {
			r.place(num, s.seq, s.m)
		}
	}
	delete(r.strays, num)
	for _, run := range append([]target{{0, floor}}, runs...) {
		r.settle(q, run.queue, run.seq-run.queue)
	}
	q.tail = max(q.tail, tail)
}

// stateRecord describes a queue for a checkpoint. q.mu is held.
func (q *Queue) stateRecordLocked() []byte {
	b := q.record()
	b = binary.AppendUvarint(b, q.tail)
	floor := q.tail
	first := true
	var runs []uint64
	at := uint64(0) // end of what has been described
	n := 0
	live := func(seq uint64) {
		switch {
		case first:
			floor, first = seq, false
		case seq > at:
			runs = append(runs, 0, 0)
			runs[2*n], runs[2*n+1] = at, seq
			n++
		}
		at = seq + 1
	}
	q.chunks.each(func(k *chunk) {
		if k.packed != nil || k.live == len(k.entries) {
			live(k.first)
			at = k.first + uint64(k.live)
			return
		}
		for i := range k.entries {
			if k.entries[i].state != gone {
				live(k.first + uint64(i))
			}
		}
	})
	if !first && at < q.tail {
		runs = append(runs, at, q.tail)
		n++
	}
	b = binary.AppendUvarint(b, floor)
	b = binary.AppendUvarint(b, uint64(n))
	end := floor
	for i := range n {
		b = binary.AppendUvarint(b, runs[2*i]-end)
		b = binary.AppendUvarint(b, runs[2*i+1]-runs[2*i])
		end = runs[2*i+1]
	}
	return b
}
