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
	logPending = 64 << 20 // bytes that wait for the journal, before publishers are held
	runMax     = 8 << 10  // messages of one record; each may be of another producer, whose record stands beside it
)

// A record is one change that waits to be written. One of a message that has an
// identity holds its number in n, and its producer in ext, and one of a message
// with a duplicate id its window and the id in ext; it does so also when the
// message needs no record any more, as recNone. A recNone without ext confirms the
// n publishes behind tag too.
//
// One of a message that has attributes in its queue holds them in ext.attrs, or, if
// it has no identity, and no more than these, in count, over and n, which is when it
// is due.
type record struct {
	kind  recordKind
	with  bool // its messages have attributes
	over  uint16
	count uint32
	n     uint64
	m     *stored
	ch    *Channel // to be confirmed
	tag   uint64
	q     uint64
	seq   uint64
	ext   *recordExt
}

type recordExt struct {
	targets []target
	attrs   []attrs // of each target, or of the message of a recRun; nil: they are in the record, or there are none
	blob    []byte  // an encoded record
	from    *producer
	window  *window
	id      dupID
	until   int64      // until when the window remembers it, ms since 1970; 0: for ever
	age     int64      // how long the message says that it is to be remembered, ms, and one; 0: nothing
	also    *recordExt // another window, and the id there
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
	must  map[*stored]struct{} // settled by a transaction before they were written, as they must be
	shut  bool
	busy  bool   // the committer has records that it has not sent
	sent  uint64 // position of the last batch that was sent
	work  work

	commits durations

	wake    chan struct{}
	rolled  chan struct{} // a slot: a segment was closed, and cleaning may be due
	durable atomic.Uint64 // position of the last durable batch
	named   atomic.Uint64 // the newest checkpoint that a durable batch names
	slots   chan struct{} // one for each batch in flight
	done    chan struct{}

	// Of the committer's goroutine.
	pos        uint64
	epoch      uint64
	seg        uint64
	segBytes   int64
	inTx       bool        // the last batch that was sent ends within a transaction
	open       bool        // the last record that was encoded is within one
	noted      []*producer // that have something in the open batch
	windows    []*window   // and those
	notedBytes int         // that the records of it may take
	spare      []record
	checkpoint atomic.Uint64
	roll       atomic.Bool
	beats      int   // batches without content in this segment
	handed     bool  // nothing is sent any more: others may have begun
	weight     int64 // batchWeight, if the journal is shared
	segmentMax int64
	batchMax   int // batchBody, but in tests
	partMax    int // partSize, but in tests
	free       chan *batchBuffers
}

// segment counts what a segment of the journal holds.
type segment struct {
	number      uint64
	first, last uint64  // positions
	bytes       int64   // of all batches
	live        int64   // of messages that are not settled
	mixed       bool    // it holds more than messages: a checkpoint must stand for it before it goes
	settled     *waiter // for the last transaction that settled messages of it; nil: there was none
}

// A waiter tells when what was appended is durable.
type waiter struct{ done chan struct{} }

// over tells whether that is so. It is, of none.
func (w *waiter) over() bool {
	if w == nil {
		return true
	}
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

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
		case <-b.failed:
			return b.Err()
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

// publishLocked appends the publish of a message to one queue; at are its attributes
// there.
func (l *log) publishLocked(it *pubItem, queue, seq uint64, at attrs) {
	r := record{kind: recRun, m: it.m, q: queue, seq: seq, tag: it.tag, n: it.id, ext: it.ext}
	if it.from != nil {
		if r.ext == nil {
			r.ext = it.from.ext
		} else {
			r.ext.from = it.from
		}
	}
	if at != (attrs{}) {
		r.setAttrs(at)
	}
	l.appendPublishLocked(it, r)
}

// publishToLocked is one of both.
func (l *log) publishToLocked(it *pubItem, targets []target, with []attrs) {
	switch {
	case len(targets) > 1:
		l.publishManyLocked(it, targets, with)
	case with != nil:
		l.publishLocked(it, targets[0].queue, targets[0].seq, with[0])
	default:
		l.publishLocked(it, targets[0].queue, targets[0].seq, attrs{})
	}
}

// setAttrs gives a recRun attributes.
func (r *record) setAttrs(at attrs) {
	r.with = true
	if at.wake == 0 && at.value == (dupID{}) && (r.ext == nil || r.ext.from == nil) {
		r.n, r.count, r.over = uint64(at.due), at.count, at.over
		return
	}
	ext := recordExt{}
	if r.ext != nil {
		ext = *r.ext // a producer has one for all its messages
	}
	ext.attrs = []attrs{at}
	r.ext = &ext
}

// attrs are those of a recRun.
func (r *record) attrs() attrs {
	if r.ext != nil && r.ext.attrs != nil {
		return r.ext.attrs[0]
	}
	return attrs{due: int64(r.n), count: r.count, over: r.over}
}

// publishManyLocked appends the publish of a message to several queues; at are its
// attributes in each, nil if it has none.
func (l *log) publishManyLocked(it *pubItem, targets []target, at []attrs) {
	r := record{kind: recMany, m: it.m, tag: it.tag, n: it.id, ext: it.ext, with: at != nil}
	if r.ext == nil {
		r.ext = &recordExt{}
	}
	r.ext.from = it.from
	r.ext.targets, r.ext.attrs = targets, at
	l.appendPublishLocked(it, r)
}

func (l *log) appendPublishLocked(it *pubItem, r record) {
	it.m.pend = uint32(len(l.recs))
	if it.tag != 0 {
		r.ch = it.ch
	}
	l.recs = append(l.recs, r)
	l.bytes += int(it.m.size)
}

// pendingLocked tells whether a message's publish has not been taken to be
// written.
func (l *log) pendingLocked(m *stored) bool {
	return int(m.pend) < len(l.recs) && l.recs[m.pend].m == m
}

// settleLocked records that messages of a queue are settled. One whose publish
// has not been written yet needs neither record, and is confirmed at once, if it
// has no identity; not so in a transaction (whole), which may yet turn out never
// to have happened.
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
		switch {
		case !whole:
		case m.accounted:
			l.keepLocked(m)
		default: // where it will be is the committer's to know
			l.must[m] = struct{}{}
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

// keepLocked keeps the segments of a message until there is a checkpoint, and what is
// being appended, which settles it, is durable: the message must be there if that
// never happened.
func (l *log) keepLocked(m *stored) {
	if m.parts == nil {
		if s := l.segs[uint64(m.segment)]; s != nil {
			s.mixed, s.settled = true, l.waiterLocked()
		}
		return
	}
	for _, r := range m.parts.refs {
		if s := l.segmentOfLocked(r.Position); s != nil {
			s.mixed, s.settled = true, l.waiterLocked()
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
	l.work.dropped++
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
				if at := r.ext.attrs; at != nil {
					at[i] = at[len(t)-1]
					r.ext.attrs = at[:len(t)-1]
				}
				break
			}
		}
		if len(r.ext.targets) > 0 {
			return
		}
	}
	l.bytes -= int(m.size)
	if r.identified() {
		*r = r.withoutMessage()
		return
	}
	if r.ch != nil {
		l.early = append(l.early, record{ch: r.ch, tag: r.tag})
	}
	*r = record{}
}

// identified tells whether the message of a record has an identity or a duplicate
// id.
func (r *record) identified() bool {
	return r.ext != nil && (r.ext.from != nil || r.ext.window != nil)
}

// withoutMessage is what is left of the record of such a message that is settled
// before it was written: that it was accepted. Its confirm waits for that. Were it
// sent at once, and power went off before the batch is written, a publisher that
// lost the confirm with it, or what it noted of it, would send the message again,
// and it would be taken for a new one. So a confirm means of each such message
// that it cannot enter again.
func (r *record) withoutMessage() record {
	left := record{n: r.n, ext: r.ext, ch: r.ch, tag: r.tag}
	if r.ext.window == nil {
		left.ext = r.ext.from.ext
	}
	return left
}

func (l *log) markLocked(kind recordKind) { l.recs = append(l.recs, record{kind: kind}) }

// ownerLocked says who owns the log.
func (l *log) ownerLocked() {
	rec := ownerRecord(&l.b.cfg)
	l.blobLocked(rec[0], rec[1:])
}

// ownerRecord is what a new owner writes first. A node without a name says as much
// as one could before they had names.
func ownerRecord(cfg *Config) []byte {
	if cfg.Node == "" {
		return []byte{recEpoch}
	}
	return binary.AppendUvarint(appendText([]byte{recOwner}, cfg.Node), uint64(cfg.Lease.Milliseconds()))
}

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
	if l.idleLocked() {
		l.mu.Unlock()
		return nil
	}
	w := l.waiterLocked()
	l.unlockAndWake()
	return w
}

// idleLocked tells whether all that was ever appended is durable.
func (l *log) idleLocked() bool {
	return len(l.recs) == 0 && !l.busy && l.sent <= l.durable.Load()
}

// write appends one encoded record and returns what tells when it is durable.
func (l *log) write(kind recordKind, blob []byte) *waiter {
	l.mu.Lock()
	l.blobLocked(kind, blob)
	w := l.waiterLocked()
	l.unlockAndWake()
	return w
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
