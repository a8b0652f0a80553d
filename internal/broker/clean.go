package broker

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

const (
	cleanSlack     = 2          // segments that may be dead before cleaning begins
	wasteMin       = 250        // thousandths of a segment that are dead when it is worth copying the rest
	cleanStep      = 4 << 20    // bytes of bodies that are copied before the log is waited for
	checkpointMin  = 32 << 20   // bytes of dead segments that ask for a checkpoint
	checkpointGain = 4          // times its size that a checkpoint should give back
	stateStep      = 256 * 1024 // bytes of a checkpoint before the log is waited for
)

var errClosing = errors.New("broker is closing")

// cleanLoop gives back the room of what is settled: it drops segments that no
// message needs, takes checkpoints so that they may be dropped, and copies the
// last messages out of the deadest.
func (b *Broker) cleanLoop() {
	ticker := time.NewTicker(b.cfg.CleanEvery)
	defer ticker.Stop()
	away := false // and that was said
	for {
		select {
		case <-ticker.C:
		case <-b.log.rolled:
		case <-b.quit:
			return
		case <-b.failed:
			return
		}
		err := error(nil)
		for did := true; did; {
			if did, err = b.cleanOnce(); err != nil {
				break
			}
		}
		switch {
		case err == nil:
			away = false
		case errors.Is(err, errClosing) || b.Err() != nil || b.reading.Err() != nil:
			return
		case !b.passing(err):
			b.fail(fmt.Errorf("clean the journal: %w", err))
			return
		case !away:
			away = true
			b.logger.Warn("the journal cannot be cleaned now; it is tried again", "error", err)
		}
	}
}

// room sums up the journal: all bytes, those of live messages, and those of
// closed segments without any.
func (l *log) room() (segs []segment, total, live, dead int64, newest uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, s := range l.segs {
		segs = append(segs, *s)
		total += s.bytes
		live += s.live
		newest = max(newest, n)
	}
	for i := range segs {
		if segs[i].number != newest && segs[i].live <= 0 {
			dead += segs[i].bytes
		}
	}
	return segs, total, live, dead, newest
}

// cleanOnce does the most useful thing there is to do, and tells whether it did
// one, so that there may be another.
func (b *Broker) cleanOnce() (did bool, err error) {
	b.cleaning.Lock() // two checkpoints at once would each be the other's waste
	defer b.cleaning.Unlock()
	l := b.log
	if err := b.dropDead(); err != nil {
		return false, err
	}
	segs, total, live, dead, newest := l.room()
	slack := cleanSlack * l.segmentMax
	if b.alarms.disk.Load() {
		slack = 0
	}
	// A checkpoint should give back several times the room it takes: with a
	// million queues it is large.
	worth := max(min(checkpointMin, l.segmentMax), checkpointGain*b.checkpointSize.Load())
	// One that gives back little but the room of the last would be followed by
	// another, and that by the next.
	size := b.checkpointSize.Load()
	least := 2 * size
	if slack == 0 {
		least = size + size/4
	}
	waste := int64(0) // since the newest checkpoint, and of itself
	for i := range segs {
		if segs[i].last >= l.checkpoint.Load() {
			waste += segs[i].bytes - segs[i].live
		}
	}
	gains := waste > least
	if dead >= worth || dead > 0 && slack == 0 && gains {
		return true, b.takeCheckpoint()
	}
	if total <= 2*live+slack {
		return false, nil
	}
	// The deadest closed segment is worth the most. If the open one is, it is
	// closed first. One that is mostly live is not worth copying: what it has
	// beside is the log's own.
	slices.SortFunc(segs, func(x, y segment) int { return cmp.Compare(y.waste(), x.waste()) })
	for _, s := range segs {
		switch {
		case s.number == newest:
			if gains && (s.bytes-s.live > l.segmentMax/4 || slack == 0 && s.bytes > 2*s.live+1<<16) {
				return true, b.takeCheckpoint()
			}
		case s.waste() < wasteMin:
			return false, nil
		case s.last >= l.checkpoint.Load():
			if gains {
				return true, b.takeCheckpoint()
			}
		case s.live <= 0:
			// It is dropped when what settled its messages is durable: until then there
			// is nothing to move, and no reason to look at it again and again.
		case !b.roomToMove(s):
			return false, nil
		default:
			return true, b.moveLive(s)
		}
	}
	return false, nil
}

// waste is the dead part of a segment, in thousandths.
func (s *segment) waste() int64 { return (s.bytes - s.live) * 1000 / max(s.bytes, 1) }

// roomToMove tells whether the disk has room for a second copy of what is live in
// a segment. Where it has not, the copies would fill it, ahead in the log of the
// settlements that give room back.
func (b *Broker) roomToMove(s segment) bool {
	if b.cfg.Alarms.Disk == nil {
		return true
	}
	free, limit := b.cfg.Alarms.Disk()
	return limit == 0 || s.live <= free/2 // without a limit free may not be known
}

// takeCheckpoint describes all durable state but the messages, so that what
// stands before it counts for its messages alone. Each entity is described
// under its own lock: what changes meanwhile follows in the log.
func (b *Broker) takeCheckpoint() error {
	l := b.log
	// It begins a segment, so that all before it can go.
	l.roll.Store(true)
	began := make(chan uint64, 1)
	l.mu.Lock()
	l.recs = append(l.recs, record{kind: recCheckpoint, ext: &recordExt{
		blob:   binary.AppendUvarint(nil, b.nextQueue.Load()),
		placed: func(pos uint64) { began <- pos },
	}})
	w := l.waiterLocked()
	l.unlockAndWake()
	if err := b.wait(w); err != nil {
		return err
	}
	pos := <-began
	written, size := 0, int64(0)
	put := func(kind recordKind, blob []byte) {
		l.mu.Lock()
		l.blobLocked(kind, blob)
		l.mu.Unlock()
		written += len(blob)
		size += int64(1 + len(blob))
	}
	if b.cfg.Node != "" {
		rec := ownerRecord(&b.cfg) // the first may be dropped with its segment
		put(rec[0], rec[1:])
	}
	b.settings.each(func(s Setting) { put(recSetting, s.record()) })
	for _, v := range b.allVHosts() {
		v.mu.RLock()
		if v.gone.Load() { // what is described of it otherwise stands behind the record of its end
			v.mu.RUnlock()
			continue
		}
		put(recVHost, appendText(nil, v.name))
		queues := make([]*Queue, 0, len(v.queues))
		v.eachQueue(func(q *Queue) {
			if q.logged {
				queues = append(queues, q)
			}
		})
		// Exchanges and bindings change under v.mu, whose holder writes the
		// record of it before letting go.
		for _, x := range v.exchanges {
			if x.spec.Durable && !reserved(x.spec.Name) {
				put(recExchange, x.record())
			}
		}
		v.mu.RUnlock()
		for _, q := range queues {
			q.mu.Lock()
			if !q.deleted {
				q.statesLocked(put)
			}
			q.mu.Unlock()
			if written > stateStep {
				written = 0
				if err := b.flushLog(); err != nil {
					return err
				}
			}
		}
		// Of a virtual host that is deleted nothing may stand behind the record of its
		// end, which is written under v.mu: the name may be given anew.
		describe := func(do func()) error {
			v.mu.RLock()
			if !v.gone.Load() {
				do()
			}
			v.mu.RUnlock()
			if written <= stateStep {
				return nil
			}
			written = 0
			return b.flushLog()
		}
		for _, p := range v.producers.list() {
			err := describe(func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				if blob := p.recordLocked(); blob != nil && !p.gone {
					put(recAccepted, blob)
				}
			})
			if err != nil {
				return err
			}
		}
		for _, w := range v.windows.list() {
			err := describe(func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				if blob := w.recordLocked(); blob != nil {
					put(recIDs, blob)
				}
			})
			if err != nil {
				return err
			}
		}
		for _, w := range v.seenWindows() {
			err := describe(func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, blob := range w.seenRecordsLocked() {
					put(recSeen, blob)
				}
			})
			if err != nil {
				return err
			}
		}
		v.mu.RLock()
		for _, x := range v.exchanges {
			for _, bind := range x.bindings {
				if bind.durable {
					put(recBind, v.bindingRecord(bind))
				}
			}
		}
		v.mu.RUnlock()
	}
	put(recCheckpointEnd, binary.AppendUvarint(nil, pos))
	if err := b.flushLog(); err != nil {
		return err
	}
	// The next batch says where the checkpoint is; nothing is dropped before
	// that is durable.
	l.checkpoint.Store(pos)
	if err := b.flushLog(); err != nil {
		return err
	}
	b.checkpointSize.Store(size + l.weight*int64(l.durable.Load()-pos+1))
	l.count(func(w *work) { w.checkpoints++ })
	l.named.Store(pos)
	return b.dropDead()
}

func (b *Broker) allVHosts() []*VHost {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.vhosts))
}

// A mover appends the live messages of a segment again, under the numbers they
// have, so that the segment may be dropped.
type mover struct {
	b      *Broker
	seg    segment
	queues map[uint64]*Queue
	items  []moveItem
	seen   map[*stored]int // in items
	size   int
	looked []target // at a message of each chunk that is to be packed again
}

type moveItem struct {
	m       *stored
	targets []target
}

func (b *Broker) moveLive(s segment) error {
	v := &mover{b: b, seg: s, queues: map[uint64]*Queue{}, seen: map[*stored]int{}}
	for _, vhost := range b.allVHosts() {
		vhost.mu.RLock()
		vhost.eachQueue(func(q *Queue) { v.queues[q.num] = q })
		vhost.mu.RUnlock()
	}
	defer v.letGo()
	for _, m := range v.large() {
		for _, t := range m.parts.targets {
			v.find(t.queue, t.seq, m)
		}
		if err := v.move(false); err != nil {
			return err
		}
	}
	if err := b.log.j.Replay(b.reading, s.first, s.last, false, v.batch); err != nil {
		return err
	}
	if err := v.move(true); err != nil {
		return err
	}
	for _, t := range v.looked { // a backlog that waits is not looked at again for long
		q := v.queues[t.queue]
		q.mu.Lock()
		q.repackLocked(t.seq)
		q.mu.Unlock()
	}
	b.log.count(func(w *work) { w.cleaned++ })
	return b.dropDead()
}

// large lists the messages in parts that have one in the segment.
func (v *mover) large() (list []*stored) {
	l := v.b.log
	l.mu.Lock()
	defer l.mu.Unlock()
	for m := range l.large {
		if slices.ContainsFunc(m.parts.refs, func(r journal.Ref) bool { return v.holds(r) }) {
			list = append(list, m)
		}
	}
	return list
}

func (v *mover) holds(r journal.Ref) bool {
	return r.Position >= v.seg.first && r.Position <= v.seg.last
}

// batch finds the messages that a batch of the segment publishes. Those in
// parts have been found already.
func (v *mover) batch(bt journal.Batch) error {
	rd := reader{b: bt.Head}
	skip := &replayer{b: &Broker{}} // it only steps over records
	offset := uint32(0)
	for len(rd.b) > 0 && rd.err == nil {
		at := reader{b: rd.b}
		switch kind := at.byte(); kind {
		case recRun, recRunWith:
			queue, first, n := at.num(), at.num(), at.count()
			for i := range uint64(n) {
				v.find(queue, first+i, nil)
			}
		case recMany, recManyWith:
			targets, _ := skip.targets(&at, kind == recManyWith)
			for _, t := range targets {
				v.find(t.queue, t.seq, nil)
			}
		case recTxBegin, recTxEnd:
			rd.b = rd.b[1:]
			continue
		}
		skip.record(&rd, bt.Position, bt.Segment, &offset, false)
	}
	if rd.err != nil {
		return fmt.Errorf("batch at position %d: %w", bt.Position, rd.err)
	}
	return v.move(false)
}

// find notes the message that a queue has under a number, if it is there and
// this segment's copy is the one that counts. Of a message in parts, only is
// that one.
func (v *mover) find(queue, seq uint64, only *stored) {
	q := v.queues[queue]
	if q == nil {
		return
	}
	q.mu.Lock()
	e := q.entryLocked(seq)
	if q.deleted || e == nil || e.state == gone || !e.msg.persistent {
		q.mu.Unlock()
		return
	}
	defer q.mu.Unlock()
	m := e.msg
	switch {
	case only != nil:
		if m != only {
			return
		}
	case m.placed.Load() != inJournal || m.parts != nil || !v.holds(m.ref):
		return
	}
	t := target{queue, seq}
	if n := len(v.looked); n == 0 || v.looked[n-1].queue != queue || v.looked[n-1].seq>>chunkShift != seq>>chunkShift {
		if m.data.Load() == nil {
			v.looked = append(v.looked, t)
		}
	}
	if i, ok := v.seen[m]; ok {
		if !slices.Contains(v.items[i].targets, t) {
			v.items[i].targets = append(v.items[i].targets, t)
		}
		return
	}
	m.hold() // until it was moved, so that it is neither forgotten nor packed
	v.seen[m] = len(v.items)
	v.items = append(v.items, moveItem{m, []target{t}})
	v.size += int(m.size)
}

// move appends what was found, if it is much or the last, and waits until that
// is durable.
func (v *mover) move(last bool) error {
	if len(v.items) == 0 || !last && v.size < cleanStep {
		return nil
	}
	b := v.b
	msgs := make([]*stored, len(v.items))
	cold := make([]bool, len(v.items))
	for i := range v.items {
		msgs[i] = v.items[i].m
		cold[i] = msgs[i].data.Load() == nil
	}
	if err := b.readBack(msgs); err != nil {
		return err
	}
	b.log.count(func(w *work) { w.moved += int64(v.size) })
	items := v.items
	v.items, v.size = nil, 0
	clear(v.seen)
	for i := range items {
		v.moveOne(&items[i], cold[i])
	}
	return b.flushLog()
}

// letGo releases what was found and is not to be moved after all.
func (v *mover) letGo() {
	for i := range v.items {
		v.b.evict.hot.Add(-int64(v.items[i].m.release(v.b)))
	}
	v.items = nil
}

// moveOne appends one message again. The queues go on with the old copy until
// the new one is durable.
func (v *mover) moveOne(it *moveItem, wasCold bool) {
	b, old := v.b, it.m
	block := old.block()
	if block == nil {
		b.evict.hot.Add(-int64(old.release(b)))
		return // evicted meanwhile: it is found again
	}
	slices.SortFunc(it.targets, func(x, y target) int { return cmp.Compare(x.queue, y.queue) })
	var held []*Queue
	var alive []target
	var with []attrs
	for _, t := range it.targets {
		q := v.queues[t.queue]
		q.mu.Lock()
		if e := q.entryLocked(t.seq); !q.deleted && e != nil && e.msg == old {
			held = append(held, q)
			alive = append(alive, t)
			with = addAttrs(with, len(alive), q.copyAttrsLocked(t.seq))
			continue
		}
		q.mu.Unlock()
	}
	if len(alive) > 0 {
		m := &stored{persistent: true, journaled: true, sealed: true}
		m.setBlock(block)
		m.holders.Store(1) // until moved is done with it
		b.evict.hot.Add(int64(m.size))
		ext := &recordExt{moved: func(m *stored) { v.moved(old, m, alive, wasCold) }}
		l := b.log
		l.mu.Lock()
		m.pend = uint32(len(l.recs))
		m.logged = int32(len(alive))
		r := record{kind: recRun, m: m, q: alive[0].queue, seq: alive[0].seq, ext: ext, with: with != nil}
		if ext.attrs = with; len(alive) > 1 {
			r.kind, ext.targets = recMany, alive
		}
		l.recs = append(l.recs, r)
		l.bytes += int(m.size)
		l.mu.Unlock()
	}
	for _, q := range held {
		q.mu.Unlock()
	}
	if len(alive) == 0 {
		b.evict.hot.Add(-int64(old.release(b)))
	}
}

// moved runs when a message's new copy is durable: queues that still have the
// message go over to it.
func (v *mover) moved(old, m *stored, targets []target, wasCold bool) {
	b := v.b
	if wasCold || old.data.Load() == nil {
		m.data.Store(nil)
		b.evict.hot.Add(-int64(m.size))
	}
	left, freed := 0, 0
	for _, t := range targets {
		q := v.queues[t.queue]
		q.mu.Lock()
		e := q.entryLocked(t.seq)
		if !q.deleted && e != nil && e.msg == old {
			e.msg = m
			m.holders.Add(1)
			freed += old.release(b)
			left++
		}
		q.mu.Unlock()
	}
	l := b.log
	l.mu.Lock()
	// m.logged counted all targets; those that settled the old copy meanwhile
	// are not left.
	m.logged -= int32(len(targets) - left)
	if m.logged <= 0 && m.accounted {
		l.forgetLocked(m)
	}
	old.logged -= int32(left)
	if old.logged <= 0 && old.accounted {
		l.forgetLocked(old)
	}
	l.mu.Unlock()
	b.evict.hot.Add(-int64(freed + old.release(b) + m.release(b)))
}
