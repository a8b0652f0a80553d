package broker

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// run is the committer: it ends when the log was shut and all is written, or
// the journal failed.
func (l *log) run() {
	defer close(l.done)
	for {
		select {
		case <-l.wake:
		case <-l.b.failed:
			return
		}
		for {
			// Taking records only when a batch may start leaves as many as
			// possible time to be settled first.
			select {
			case l.slots <- struct{}{}:
			case <-l.b.failed:
				return
			}
			l.mu.Lock()
			if len(l.recs) == 0 && l.shut && l.b.lease != nil && !l.handed {
				// Whoever reads this may begin: nobody is told anything from here on.
				l.b.lease.ended.Store(true)
				l.markLocked(recHandover)
				l.handed = true
			} else if l.handed {
				l.recs = nil // of sessions that were not closed
			}
			recs, w := l.recs, l.next
			if len(recs) == 0 {
				shut := l.shut
				l.busy = false
				l.mu.Unlock()
				<-l.slots
				if shut {
					l.drain()
					return
				}
				break
			}
			l.recs, l.spare, l.next = l.spare[:0], nil, nil
			l.busy = true
			l.bytes = 0
			l.mu.Unlock()
			l.encode(recs, w)
			clear(recs)
			if cap(recs) <= 64<<10 {
				l.spare = recs[:0]
			}
		}
	}
}

// drain waits until no batch is in flight.
func (l *log) drain() {
	for range cap(l.slots) {
		select {
		case l.slots <- struct{}{}:
		case <-l.b.failed:
			return
		}
	}
}

// shutdown writes what is pending, while ctx lasts, and ends the committer.
func (l *log) shutdown(ctx context.Context) {
	l.mu.Lock()
	l.shut = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		l.b.fail(fmt.Errorf("close: %w", context.Cause(ctx)))
		<-l.done
	}
}

// confirmRange is a run of publishes that a batch makes safe.
type confirmRange struct {
	ch       *Channel
	from, to uint64
}

// batchBuffers are what a batch is encoded into; they are used again when it
// is durable.
type batchBuffers struct {
	head     []byte
	small    []byte
	accepted []byte // records that are complete, for the head
	cuts     []pieceCut
	pieces   [][]byte
	size     int
	msgs     []*stored
	confirms []confirmRange
	moved    []movedMessage
	waiters  []*waiter
	inTx     bool  // it ends within a transaction
	mixed    bool  // it has more than messages
	sent     int64 // when it was, by the lease's clock
	began    time.Time
}

type movedMessage struct {
	m    *stored
	done func(*stored)
}

// pieceCut says that a large block stands behind the first at bytes of small.
type pieceCut struct {
	at    int
	block []byte
}

func (bb *batchBuffers) reset() {
	clear(bb.cuts)
	clear(bb.pieces)
	clear(bb.msgs)
	clear(bb.confirms)
	clear(bb.waiters)
	clear(bb.moved)
	*bb = batchBuffers{
		head: bb.head[:0], small: bb.small[:0], accepted: bb.accepted[:0], cuts: bb.cuts[:0], pieces: bb.pieces[:0],
		msgs: bb.msgs[:0], confirms: bb.confirms[:0], waiters: bb.waiters[:0], moved: bb.moved[:0],
	}
}

func (bb *batchBuffers) body(block []byte) (offset int) {
	offset = bb.size
	bb.size += len(block)
	if len(block) >= inPiece {
		bb.cuts = append(bb.cuts, pieceCut{len(bb.small), block})
	} else {
		bb.small = append(bb.small, block...)
	}
	return offset
}

// encode turns records into batches and hands them to the journal. It owns one
// slot, and takes more for more batches.
func (l *log) encode(recs []record, w *waiter) {
	bb := l.buffers()
	for i := 0; i < len(recs); {
		if bb.size >= l.batchMax || len(bb.head)+len(bb.accepted)+l.notedBytes >= l.batchMax {
			l.send(bb)
			select {
			case l.slots <- struct{}{}:
			case <-l.b.failed:
				return
			}
			bb = l.buffers()
			l.skipSettled(bb, recs[i:])
		}
		r := &recs[i]
		bb.mixed = bb.mixed || !plain(r.kind)
		switch r.kind {
		case recNone:
			l.note(bb, r)
			bb.confirm(r)
			i++
		case recRun:
			if int(r.m.size) > l.partMax {
				var at []attrs
				if r.with {
					at = []attrs{r.attrs()}
				}
				if bb = l.encodeParts(bb, r, []target{{r.q, r.seq}}, at); bb == nil {
					return
				}
				i++
				continue
			}
			n, size := 1, bb.size+int(r.m.size)
			for i+n < len(recs) && size < l.batchMax && n < runMax {
				x := &recs[i+n]
				if x.kind != recRun || x.with != r.with || x.q != r.q || x.seq != r.seq+uint64(n) || int(x.m.size) > l.partMax {
					break
				}
				size += int(x.m.size)
				n++
			}
			kind := recRun
			if r.with {
				kind = withAttrs[kind]
			}
			bb.head = append(bb.head, kind)
			bb.head = binary.AppendUvarint(bb.head, r.q)
			bb.head = binary.AppendUvarint(bb.head, r.seq)
			bb.head = binary.AppendUvarint(bb.head, uint64(n))
			var coder attrCoder
			for k := range n {
				x := &recs[i+k]
				bb.head = binary.AppendUvarint(bb.head, uint64(x.m.size))
				if x.with {
					bb.head = coder.append(bb.head, x.attrs())
				}
				l.place(bb, x)
			}
			i += n
		case recMany:
			if int(r.m.size) > l.partMax {
				if bb = l.encodeParts(bb, r, r.ext.targets, r.ext.attrs); bb == nil {
					return
				}
				i++
				continue
			}
			at := len(bb.head)
			bb.head = appendTargets(bb.head, recMany, r.ext.targets, r.ext.attrs)
			bb.head = binary.AppendUvarint(bb.head, uint64(r.m.size))
			r.m.setHead(len(bb.head) - at)
			l.place(bb, r)
			i++
		case recSettle:
			bb.head = append(bb.head, recSettle)
			bb.head = binary.AppendUvarint(bb.head, r.q)
			bb.head = binary.AppendUvarint(bb.head, r.seq)
			bb.head = binary.AppendUvarint(bb.head, r.n)
			i++
		default:
			switch r.kind {
			case recTxBegin:
				l.writeNoted(bb)
				l.open = true
			case recTxEnd:
				l.open = false
			}
			bb.head = append(bb.head, r.kind)
			if r.ext != nil {
				bb.head = append(bb.head, r.ext.blob...)
				if r.ext.placed != nil {
					r.ext.placed(l.pos + 1)
				}
			}
			i++
		}
	}
	if w != nil {
		bb.waiters = append(bb.waiters, w)
	}
	l.send(bb)
}

// skipSettled leaves out of the next batch the messages that were settled while
// their publishes waited for a slot: when the medium is full, they may be what
// there is no room for.
func (l *log) skipSettled(bb *batchBuffers, recs []record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := 0
	for i := range recs {
		r := &recs[i]
		if r.kind != recRun && r.kind != recMany {
			continue
		}
		if _, must := l.must[r.m]; must || r.m.logged > 0 {
			if size += int(r.m.size); size >= l.batchMax {
				return
			}
			continue
		}
		if r.identified() {
			*r = r.withoutMessage()
			continue
		}
		bb.confirm(r)
		*r = record{}
	}
}

// appendTargets begins a recMany or recParts, or, if there are attributes, the record
// of that which has them.
func appendTargets(dst []byte, kind recordKind, targets []target, with []attrs) []byte {
	if with != nil {
		kind = withAttrs[kind]
	}
	dst = binary.AppendUvarint(append(dst, kind), uint64(len(targets)))
	var coder attrCoder
	for i, t := range targets {
		dst = binary.AppendUvarint(dst, t.queue)
		dst = binary.AppendUvarint(dst, t.seq)
		if with != nil {
			dst = coder.append(dst, with[i])
		}
	}
	return dst
}

var withAttrs = [...]recordKind{recRun: recRunWith, recMany: recManyWith, recParts: recPartsWith}

// place puts a message's block into the batch that will be at the next
// position.
func (l *log) place(bb *batchBuffers, r *record) {
	m := r.m
	m.seal()
	m.ref = journal.Ref{Position: l.pos + 1, Offset: uint32(bb.body(m.block())), Length: m.size}
	m.placed.Store(inJournal)
	bb.msgs = append(bb.msgs, m)
	l.note(bb, r)
	bb.confirm(r)
}

func (bb *batchBuffers) confirm(r *record) {
	if r.ext != nil && r.ext.moved != nil {
		bb.moved = append(bb.moved, movedMessage{r.m, r.ext.moved})
	}
	if r.ch == nil {
		return
	}
	to := r.tag
	if r.kind == recNone && r.ext == nil {
		to += r.n
	}
	if n := len(bb.confirms); n > 0 && bb.confirms[n-1].ch == r.ch && bb.confirms[n-1].to+1 == r.tag {
		bb.confirms[n-1].to = to
		return
	}
	bb.confirms = append(bb.confirms, confirmRange{r.ch, r.tag, to})
}

// encodeParts writes a large block in parts, each in the batch that is open, so
// that it neither needs a batch of its own size nor holds up what else waits.
// nil: the broker failed.
func (l *log) encodeParts(bb *batchBuffers, r *record, targets []target, with []attrs) *batchBuffers {
	r.m.seal()
	block := r.m.block()
	var refs []journal.Ref
	for at := 0; at < len(block); at += l.partMax {
		if bb.size >= l.batchMax {
			l.send(bb)
			select {
			case l.slots <- struct{}{}:
			case <-l.b.failed:
				return nil
			}
			bb = l.buffers()
		}
		part := block[at:min(at+l.partMax, len(block))]
		bb.head = append(bb.head, recPart)
		bb.head = binary.AppendUvarint(bb.head, targets[0].queue)
		bb.head = binary.AppendUvarint(bb.head, targets[0].seq)
		bb.head = binary.AppendUvarint(bb.head, uint64(len(part)))
		refs = append(refs, journal.Ref{Position: l.pos + 1, Offset: uint32(bb.body(part)), Length: uint32(len(part))})
	}
	bb.head = appendTargets(bb.head, recParts, targets, with)
	bb.head = binary.AppendUvarint(bb.head, uint64(len(refs)))
	for _, ref := range refs {
		bb.head = binary.AppendUvarint(bb.head, ref.Position)
		bb.head = binary.AppendUvarint(bb.head, uint64(ref.Offset))
		bb.head = binary.AppendUvarint(bb.head, uint64(ref.Length))
	}
	r.m.parts = &parts{refs: refs, targets: slices.Clone(targets)}
	r.m.ref = refs[len(refs)-1]
	r.m.placed.Store(inJournal)
	bb.msgs = append(bb.msgs, r.m)
	l.note(bb, r)
	bb.confirm(r)
	return bb
}

func (l *log) buffers() *batchBuffers {
	select {
	case bb := <-l.free:
		return bb
	default:
		return &batchBuffers{}
	}
}

// send hands a batch to the journal.
func (l *log) send(bb *batchBuffers) {
	l.writeNoted(bb)
	bb.inTx = l.open
	at := 0
	for _, c := range bb.cuts {
		if c.at > at {
			bb.pieces = append(bb.pieces, bb.small[at:c.at])
			at = c.at
		}
		bb.pieces = append(bb.pieces, c.block)
	}
	if len(bb.small) > at {
		bb.pieces = append(bb.pieces, bb.small[at:])
	}
	size := int64(len(bb.head) + bb.size)
	if size == 0 {
		l.beats++
	}
	size += l.weight
	// A transaction stays in one segment: without its end, which goes when that
	// is dropped, a replay would take all behind its beginning for a part of it.
	if !l.inTx && (l.segBytes > 0 && l.segBytes+size > l.segmentMax || l.roll.Swap(false) && l.segBytes > 0 || l.weight > 0 && l.beats > beatsMax) {
		l.seg++
		l.segBytes, l.beats = 0, 0
		select {
		case l.rolled <- struct{}{}:
		default:
		}
	}
	l.inTx = bb.inTx
	l.segBytes += size
	l.pos++
	pos, seg := l.pos, l.seg

	l.mu.Lock()
	s := l.segs[seg]
	if s == nil {
		s = &segment{number: seg, first: pos}
		l.addSegmentLocked(s)
	}
	s.last = pos
	s.mixed = s.mixed || bb.mixed
	l.sent = pos
	l.work.batches++
	l.work.batchBytes += size - l.weight
	s.bytes += size
	for _, m := range bb.msgs {
		m.segment = uint32(seg)
		if _, must := l.must[m]; must {
			delete(l.must, m)
			l.keepLocked(m)
		}
		if m.logged <= 0 {
			s.mixed = true
			continue // settled meanwhile, perhaps by a transaction
		}
		l.accountLocked(m)
	}
	l.mu.Unlock()

	if lease := l.b.lease; lease != nil {
		bb.sent = lease.now()
		lease.sent.Store(bb.sent)
	}
	bb.began = time.Now()
	l.j.Append(journal.Batch{
		Position: pos, Epoch: l.epoch, Segment: seg, Checkpoint: l.checkpoint.Load(),
		Head: bb.head, Body: bb.pieces,
	}, func(err error) { l.appended(bb, pos, err) })
}

// appended runs when a batch is durable, or nothing is known of it.
func (l *log) appended(bb *batchBuffers, pos uint64, err error) {
	if err != nil {
		l.b.fail(err)
		<-l.slots
		return
	}
	l.durable.Store(pos)
	l.commits.count(time.Since(bb.began))
	if lease := l.b.lease; lease != nil {
		lease.came.Store(bb.sent)
	}
	for _, c := range bb.confirms {
		c.ch.confirmNow(c.from, c.to)
	}
	for _, mv := range bb.moved {
		mv.done(mv.m)
	}
	for _, w := range bb.waiters {
		close(w.done)
	}
	bb.reset()
	if cap(bb.small) <= 4*batchBody {
		select {
		case l.free <- bb:
		default:
		}
	}
	<-l.slots
}
