package broker

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/journal"
)

const (
	batchBody  = 1 << 20  // bytes of bodies after which a batch is closed
	inPiece    = 32 << 10 // blocks of at least this size go to the journal uncopied
	partSize   = 2 << 20  // larger blocks are written in parts of this size
	segmentMax = 64 << 20 // bytes after which a segment is closed
	logPending = 64 << 20 // bytes that wait for the journal, before publishers are held
)

// A record is one change that waits to be written.
type record struct {
	kind recordKind
	n    uint64
	m    *stored
	ch   *Channel // to be confirmed
	tag  uint64
	q    uint64
	seq  uint64
	ext  *recordExt
}

type recordExt struct {
	targets []target
	blob    []byte // an encoded record
	placed  func(pos uint64)
	moved   func(old *stored) // of a message that cleaning copied
}

// log gathers records, and writes them to the journal in batches: all that
// came while one batch was being made durable goes into the next.
type log struct {
	b *Broker
	j journal.Journal

	mu    sync.Mutex // guards what follows, and the fields of stored that say so
	recs  []record
	bytes int     // of the blocks in recs
	next  *waiter // of those who wait for recs
	early []record
	segs  map[uint64]*segment
	order []*segment           // the same, oldest first
	large map[*stored]struct{} // messages in parts that count as live
	shut  bool
	busy  bool   // the committer has records that it has not sent
	sent  uint64 // position of the last batch that was sent

	wake    chan struct{}
	durable atomic.Uint64 // position of the last durable batch
	slots   chan struct{} // one for each batch in flight
	done    chan struct{}

	// Of the committer's goroutine.
	pos        uint64
	epoch      uint64
	seg        uint64
	segBytes   int64
	inTx       bool // the last batch that was sent ends within a transaction
	open       bool // the last record that was encoded is within one
	spare      []record
	checkpoint atomic.Uint64
	roll       atomic.Bool
	segmentMax int64
	batchMax   int // batchBody, but in tests
	partMax    int // partSize, but in tests
	free       chan *batchBuffers
}

// segment counts what a segment of the journal holds.
type segment struct {
	number      uint64
	first, last uint64 // positions
	bytes       int64  // of all batches
	live        int64  // of messages that are not settled
}

// A waiter tells when what was appended is durable.
type waiter struct{ done chan struct{} }

func (w *waiter) wait(b *Broker) error {
	select {
	case <-w.done:
		return nil
	case <-b.failed:
		return b.Err()
	case <-b.log.done: // it may have been the last batch
		select {
		case <-w.done:
			return nil
		default:
			return errorf(Forced, "broker is closed")
		}
	}
}

func (l *log) unlockAndWake() {
	early := l.early
	l.early = nil
	some := len(l.recs) > 0
	l.mu.Unlock()
	if some {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	for i := range early {
		early[i].ch.confirmNow(early[i].tag, early[i].tag)
	}
}

func (l *log) publishLocked(m *stored, queue, seq uint64, ch *Channel, tag uint64) {
	m.pend = uint32(len(l.recs))
	if tag == 0 {
		ch = nil
	}
	l.recs = append(l.recs, record{kind: recRun, m: m, q: queue, seq: seq, ch: ch, tag: tag})
	l.bytes += int(m.size)
}

func (l *log) publishManyLocked(m *stored, targets []target, ch *Channel, tag uint64) {
	m.pend = uint32(len(l.recs))
	if tag == 0 {
		ch = nil
	}
	l.recs = append(l.recs, record{kind: recMany, m: m, ch: ch, tag: tag, ext: &recordExt{targets: targets}})
	l.bytes += int(m.size)
}

// pendingLocked tells whether a message's publish has not been taken to be
// written.
func (l *log) pendingLocked(m *stored) bool {
	return int(m.pend) < len(l.recs) && l.recs[m.pend].m == m
}

// settleLocked records that messages of a queue are settled. One whose publish
// has not been written yet needs neither record, and is confirmed at once; not
// so in a transaction (whole), which may yet turn out never to have happened.
func (l *log) settleLocked(queue uint64, items []settledItem, whole bool) {
	for i := range items {
		m, seq := items[i].msg, items[i].seq
		if !m.persistent {
			continue
		}
		m.logged--
		if !whole && l.pendingLocked(m) {
			l.cancelLocked(m, queue)
			continue
		}
		if n := len(l.recs); n > 0 && l.recs[n-1].kind == recSettle && l.recs[n-1].q == queue && l.recs[n-1].seq+l.recs[n-1].n == seq {
			l.recs[n-1].n++
		} else {
			l.recs = append(l.recs, record{kind: recSettle, q: queue, seq: seq, n: 1})
		}
		if m.logged == 0 && m.accounted {
			l.forgetLocked(m)
		}
	}
}

// forgetLocked takes a message out of its segments' live counts.
func (l *log) forgetLocked(m *stored) {
	m.accounted = false
	if m.parts == nil {
		if s := l.segs[uint64(m.segment)]; s != nil {
			s.live -= int64(m.size) + int64(m.head)
		}
		return
	}
	delete(l.large, m)
	for _, r := range m.parts.refs {
		if s := l.segmentOfLocked(r.Position); s != nil {
			s.live -= int64(r.Length)
		}
	}
}

// accountLocked counts a message as live in its segments.
func (l *log) accountLocked(m *stored) {
	m.accounted = true
	if m.parts == nil {
		if s := l.segs[uint64(m.segment)]; s != nil {
			s.live += int64(m.size) + int64(m.head)
		}
		return
	}
	l.large[m] = struct{}{}
	for _, r := range m.parts.refs {
		if s := l.segmentOfLocked(r.Position); s != nil {
			s.live += int64(r.Length)
		}
	}
}

// segmentOfLocked finds the segment of a position. Segments stand in the order
// of their positions; those that were dropped leave gaps.
func (l *log) segmentOfLocked(pos uint64) *segment {
	i, _ := slices.BinarySearchFunc(l.order, pos, func(s *segment, pos uint64) int {
		return cmp.Compare(s.last, pos)
	})
	if i < len(l.order) && l.order[i].first <= pos {
		return l.order[i]
	}
	return nil
}

func (l *log) addSegmentLocked(s *segment) {
	l.segs[s.number] = s
	l.order = append(l.order, s)
}

func (l *log) dropSegmentLocked(number uint64) {
	s := l.segs[number]
	delete(l.segs, number)
	l.order = slices.DeleteFunc(l.order, func(x *segment) bool { return x == s })
}

// cancelLocked takes one queue out of a publish that has not been written.
func (l *log) cancelLocked(m *stored, queue uint64) {
	r := &l.recs[m.pend]
	if r.kind == recMany {
		t := r.ext.targets
		for i := range t {
			if t[i].queue == queue {
				t[i] = t[len(t)-1]
				r.ext.targets = t[:len(t)-1]
				break
			}
		}
		if len(r.ext.targets) > 0 {
			return
		}
	}
	l.bytes -= int(m.size)
	if r.ch != nil {
		l.early = append(l.early, record{ch: r.ch, tag: r.tag})
	}
	*r = record{}
}

func (l *log) markLocked(kind recordKind) { l.recs = append(l.recs, record{kind: kind}) }

// blobLocked appends a record that is encoded already.
func (l *log) blobLocked(kind recordKind, blob []byte) {
	l.recs = append(l.recs, record{kind: kind, ext: &recordExt{blob: blob}})
}

// waiterLocked returns what tells when all that was appended is durable.
func (l *log) waiterLocked() *waiter {
	if l.next == nil {
		l.next = &waiter{make(chan struct{})}
	}
	if len(l.recs) == 0 {
		l.recs = append(l.recs, record{})
	}
	return l.next
}

// caughtUp is for what was found to be so already: it returns what tells when
// that is durable, nil if it is.
func (l *log) caughtUp() *waiter {
	l.mu.Lock()
	if len(l.recs) == 0 && !l.busy && l.sent <= l.durable.Load() {
		l.mu.Unlock()
		return nil
	}
	w := l.waiterLocked()
	l.unlockAndWake()
	return w
}

// write appends one encoded record and returns what tells when it is durable.
func (l *log) write(kind recordKind, blob []byte) *waiter {
	l.mu.Lock()
	l.blobLocked(kind, blob)
	w := l.waiterLocked()
	l.unlockAndWake()
	return w
}

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

// shutdown writes what is pending and ends the committer.
func (l *log) shutdown() {
	l.mu.Lock()
	l.shut = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	<-l.done
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
	cuts     []pieceCut
	pieces   [][]byte
	size     int
	msgs     []*stored
	confirms []confirmRange
	moved    []movedMessage
	waiters  []*waiter
	inTx     bool // it ends within a transaction
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
		head: bb.head[:0], small: bb.small[:0], cuts: bb.cuts[:0], pieces: bb.pieces[:0],
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
		if bb.size >= l.batchMax || len(bb.head) >= l.batchMax {
			l.send(bb)
			select {
			case l.slots <- struct{}{}:
			case <-l.b.failed:
				return
			}
			bb = l.buffers()
		}
		r := &recs[i]
		switch r.kind {
		case recNone:
			i++
		case recRun:
			if int(r.m.size) > l.partMax {
				if bb = l.encodeParts(bb, r, []target{{r.q, r.seq}}); bb == nil {
					return
				}
				i++
				continue
			}
			n, size := 1, bb.size+int(r.m.size)
			for i+n < len(recs) && size < l.batchMax {
				x := &recs[i+n]
				if x.kind != recRun || x.q != r.q || x.seq != r.seq+uint64(n) || int(x.m.size) > l.partMax {
					break
				}
				size += int(x.m.size)
				n++
			}
			bb.head = append(bb.head, recRun)
			bb.head = binary.AppendUvarint(bb.head, r.q)
			bb.head = binary.AppendUvarint(bb.head, r.seq)
			bb.head = binary.AppendUvarint(bb.head, uint64(n))
			for k := range n {
				x := &recs[i+k]
				bb.head = binary.AppendUvarint(bb.head, uint64(x.m.size))
				l.place(bb, x)
			}
			i += n
		case recMany:
			if int(r.m.size) > l.partMax {
				if bb = l.encodeParts(bb, r, r.ext.targets); bb == nil {
					return
				}
				i++
				continue
			}
			at := len(bb.head)
			bb.head = append(bb.head, recMany)
			bb.head = appendTargets(bb.head, r.ext.targets)
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

func appendTargets(dst []byte, targets []target) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(targets)))
	for _, t := range targets {
		dst = binary.AppendUvarint(dst, t.queue)
		dst = binary.AppendUvarint(dst, t.seq)
	}
	return dst
}

// place puts a message's block into the batch that will be at the next
// position.
func (l *log) place(bb *batchBuffers, r *record) {
	m := r.m
	m.seal()
	m.ref = journal.Ref{Position: l.pos + 1, Offset: uint32(bb.body(m.block())), Length: m.size}
	m.placed.Store(inJournal)
	bb.msgs = append(bb.msgs, m)
	bb.confirm(r)
}

func (bb *batchBuffers) confirm(r *record) {
	if r.ext != nil && r.ext.moved != nil {
		bb.moved = append(bb.moved, movedMessage{r.m, r.ext.moved})
	}
	if r.ch == nil {
		return
	}
	if n := len(bb.confirms); n > 0 && bb.confirms[n-1].ch == r.ch && bb.confirms[n-1].to+1 == r.tag {
		bb.confirms[n-1].to = r.tag
		return
	}
	bb.confirms = append(bb.confirms, confirmRange{r.ch, r.tag, r.tag})
}

// encodeParts writes a large block in parts, each in the batch that is open, so
// that it neither needs a batch of its own size nor holds up what else waits.
// nil: the broker failed.
func (l *log) encodeParts(bb *batchBuffers, r *record, targets []target) *batchBuffers {
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
	bb.head = append(bb.head, recParts)
	bb.head = appendTargets(bb.head, targets)
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
	// A transaction stays in one segment: without its end, which goes when that
	// is dropped, a replay would take all behind its beginning for a part of it.
	if !l.inTx && (l.segBytes > 0 && l.segBytes+size > l.segmentMax || l.roll.Swap(false) && l.segBytes > 0) {
		l.seg++
		l.segBytes = 0
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
	l.sent = pos
	s.bytes += size
	for _, m := range bb.msgs {
		m.segment = uint32(seg)
		if m.logged <= 0 {
			continue // settled meanwhile
		}
		l.accountLocked(m)
	}
	l.mu.Unlock()

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

// dropLocked forgets the messages of a queue that is deleted: the record of
// that settles them all.
func (l *log) dropLocked(queue uint64, items []settledItem) {
	for i := range items {
		m := items[i].msg
		if !m.persistent {
			continue
		}
		m.logged--
		switch {
		case l.pendingLocked(m):
			l.cancelLocked(m, queue)
		case m.logged == 0 && m.accounted:
			l.forgetLocked(m)
		}
	}
}
