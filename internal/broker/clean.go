package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

const (
	cleanSlack    = 2          // segments that may be dead before cleaning begins
	cleanStep     = 4 << 20    // bytes of bodies that are copied before the log is waited for
	checkpointMin = 32 << 20   // bytes of dead segments that ask for a checkpoint
	stateStep     = 256 * 1024 // bytes of a checkpoint before the log is waited for
)

var errClosing = errors.New("broker is closing")

// cleanLoop gives back the room of what is settled: it drops segments that no
// message needs, takes checkpoints so that they may be dropped, and copies the
// last messages out of the deadest.
func (b *Broker) cleanLoop() {
	ticker := time.NewTicker(b.cfg.CleanEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-b.quit:
			return
		case <-b.failed:
			return
		}
		if err := b.cleanOnce(); err != nil {
			if !errors.Is(err, errClosing) && b.Err() == nil {
				b.fail(fmt.Errorf("clean the journal: %w", err))
			}
			return
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

func (b *Broker) cleanOnce() error {
	l := b.log
	if err := b.dropDead(); err != nil {
		return err
	}
	segs, total, live, dead, newest := l.room()
	slack := cleanSlack * l.segmentMax
	if b.alarms.disk.Load() {
		slack = 0
	}
	if dead >= min(checkpointMin, l.segmentMax) || dead > 0 && slack == 0 {
		return b.takeCheckpoint()
	}
	if total <= 2*live+slack {
		return nil
	}
	// The deadest closed segment is worth the most. If the open one is, it is
	// closed first.
	slices.SortFunc(segs, func(x, y segment) int {
		return int(min(max((y.bytes-y.live)*1000/max(y.bytes, 1)-(x.bytes-x.live)*1000/max(x.bytes, 1), -1), 1))
	})
	for _, s := range segs {
		if s.number == newest {
			if (s.bytes-s.live) > l.segmentMax/4 || slack == 0 && s.bytes > 2*s.live+1<<16 {
				l.roll.Store(true)
				return b.takeCheckpoint()
			}
			continue
		}
		if s.last >= l.checkpoint.Load() {
			return b.takeCheckpoint()
		}
		return b.moveLive(s)
	}
	return nil
}

// dropDead drops the segments that no live message and no settlement behind
// the checkpoint needs.
func (b *Broker) dropDead() error {
	l := b.log
	checkpoint := l.checkpoint.Load()
	var dead []uint64
	l.mu.Lock()
	newest := uint64(0)
	for n := range l.segs {
		newest = max(newest, n)
	}
	for n, s := range l.segs {
		if n != newest && s.live <= 0 && s.last < checkpoint && s.last <= l.durable.Load() {
			dead = append(dead, n)
			l.dropSegmentLocked(n)
		}
	}
	l.mu.Unlock()
	slices.Sort(dead)
	for _, n := range dead {
		if err := l.j.Drop(n); err != nil {
			return err
		}
	}
	return nil
}

// takeCheckpoint describes all durable state but the messages, so that what
// stands before it counts for its messages alone. Each entity is described
// under its own lock: what changes meanwhile follows in the log.
func (b *Broker) takeCheckpoint() error {
	l := b.log
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
	b.mu.Lock()
	vhosts := make([]*VHost, 0, len(b.vhosts))
	for _, v := range b.vhosts {
		vhosts = append(vhosts, v)
	}
	b.mu.Unlock()
	written := 0
	put := func(kind recordKind, blob []byte) {
		l.mu.Lock()
		l.blobLocked(kind, blob)
		l.mu.Unlock()
		written += len(blob)
	}
	for _, v := range vhosts {
		put(recVHost, appendText(nil, v.name))
		v.mu.RLock()
		queues := make([]*Queue, 0, len(v.queues))
		for _, q := range v.queues {
			if q.logged {
				queues = append(queues, q)
			}
		}
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
				put(recState, q.stateRecordLocked())
			}
			q.mu.Unlock()
			if written > stateStep {
				written = 0
				if err := b.flushLog(); err != nil {
					return err
				}
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
	return b.dropDead()
}

// flushLog returns when all that was appended is durable, in a batch that was
// begun after the call.
func (b *Broker) flushLog() error {
	l := b.log
	l.mu.Lock()
	l.markLocked(recNone)
	w := l.waiterLocked()
	l.unlockAndWake()
	return b.wait(w)
}

func (b *Broker) wait(w *waiter) error {
	select {
	case <-w.done:
		return nil
	case <-b.failed:
		return b.Err()
	case <-b.quit:
		return errClosing
	}
}

// moveLive appends the live messages of a segment again, under the numbers they
// have, and drops it.
func (b *Broker) moveLive(s segment) error {
	l := b.log
	type item struct {
		q       *Queue
		seq     uint64
		m       *stored
		targets []target
	}
	byNum := map[uint64]*Queue{}
	b.mu.Lock()
	for _, v := range b.vhosts {
		v.mu.RLock()
		for _, q := range v.queues {
			byNum[q.num] = q
		}
		v.mu.RUnlock()
	}
	b.mu.Unlock()
	var items []item
	seen := map[*stored]int{}
	size := 0
	find := func(queue, seq uint64) {
		q := byNum[queue]
		if q == nil {
			return
		}
		q.mu.Lock()
		e := q.chunks.entry(seq)
		if q.deleted || e == nil || e.state == gone || !e.msg.persistent {
			q.mu.Unlock()
			return
		}
		m := e.msg
		q.mu.Unlock()
		t := target{queue, seq}
		if i, ok := seen[m]; ok {
			if !slices.Contains(items[i].targets, t) {
				items[i].targets = append(items[i].targets, t)
			}
			return
		}
		if m.parts == nil && (m.placed.Load() != inJournal || m.ref.Position < s.first || m.ref.Position > s.last) {
			return // this copy is not the one that counts
		}
		seen[m] = len(items)
		items = append(items, item{q: q, seq: seq, m: m, targets: []target{t}})
		size += int(m.size)
	}
	move := func() error {
		msgs := make([]*stored, len(items))
		for i := range items {
			msgs[i] = items[i].m
		}
		cold := map[*stored]bool{}
		for _, m := range msgs {
			cold[m] = m.data.Load() == nil
		}
		if err := b.readBack(msgs); err != nil {
			return err
		}
		for _, it := range items {
			b.moveOne(it.m, it.targets, byNum, cold[it.m])
		}
		items, size = items[:0], 0
		clear(seen)
		return b.flushLog()
	}
	err := l.j.Replay(context.Background(), s.first, s.last, false, func(bt journal.Batch) error {
		rd := reader{b: bt.Head}
		skip := &replayer{b: b}
		offset := uint32(0)
		for len(rd.b) > 0 && rd.err == nil {
			at := reader{b: rd.b}
			switch kind := at.byte(); kind {
			case recRun:
				queue, first, n := at.num(), at.num(), at.num()
				for i := range n {
					find(queue, first+i)
				}
			case recMany, recParts:
				for _, t := range skip.targets(&at) {
					find(t.queue, t.seq)
				}
			case recPart:
				find(at.num(), at.num())
			case recTxBegin, recTxEnd:
				rd.b = rd.b[1:]
				continue
			}
			skip.record(&rd, bt.Position, bt.Segment, &offset, false)
		}
		if rd.err != nil {
			return fmt.Errorf("batch at position %d: %w", bt.Position, rd.err)
		}
		if size >= cleanStep {
			return move()
		}
		return nil
	})
	if err == nil {
		err = move()
	}
	if err != nil {
		return err
	}
	return b.dropDead()
}

// moveOne appends one message again. The queues go on with the old copy until
// the new one is durable.
func (b *Broker) moveOne(old *stored, targets []target, byNum map[uint64]*Queue, wasCold bool) {
	block := old.block()
	if block == nil {
		return // settled meanwhile
	}
	slices.SortFunc(targets, func(x, y target) int { return int(min(max(int64(x.queue)-int64(y.queue), -1), 1)) })
	var held []*Queue
	var alive []target
	for _, t := range targets {
		q := byNum[t.queue]
		q.mu.Lock()
		if e := q.chunks.entry(t.seq); !q.deleted && e != nil && e.msg == old {
			held = append(held, q)
			alive = append(alive, t)
			continue
		}
		q.mu.Unlock()
	}
	if len(alive) > 0 {
		m := &stored{persistent: true, journaled: true}
		m.setBlock(block)
		ext := &recordExt{moved: func(m *stored) { b.moved(old, m, alive, byNum, wasCold) }}
		l := b.log
		l.mu.Lock()
		m.pend = uint32(len(l.recs))
		m.logged = int32(len(alive))
		r := record{kind: recRun, m: m, q: alive[0].queue, seq: alive[0].seq, ext: ext}
		if len(alive) > 1 {
			r.kind, ext.targets = recMany, alive
		}
		l.recs = append(l.recs, r)
		l.bytes += int(m.size)
		l.mu.Unlock()
	}
	for _, q := range held {
		q.mu.Unlock()
	}
	if wasCold && len(alive) == 0 && old.data.Swap(nil) != nil {
		b.evict.hot.Add(-int64(old.size))
	}
}

// moved runs when a message's new copy is durable: queues that still have the
// message go over to it.
func (b *Broker) moved(old, m *stored, targets []target, byNum map[uint64]*Queue, wasCold bool) {
	left := 0
	for _, t := range targets {
		q := byNum[t.queue]
		q.mu.Lock()
		e := q.chunks.entry(t.seq)
		if !q.deleted && e != nil && e.msg == old {
			e.msg = m
			m.holders.Add(1)
			old.holders.Add(-1)
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
	if m.holders.Load() == 0 {
		return
	}
	if wasCold || old.data.Load() == nil {
		m.data.Store(nil)
		if old.data.Swap(nil) != nil {
			b.evict.hot.Add(-int64(old.size))
		}
	}
}
