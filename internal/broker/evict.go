package broker

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/message"
)

const (
	loadAhead = 16       // chunks that may be loaded in front of the consumers
	loadFrom  = 8        // chunks in front of the consumers that are not loaded when the next are
	loadBytes = 1 << 20  // bytes read back at once; and of a chunk in front of the consumers that are kept
	loadLess  = 64 << 10 // instead of loadBytes, while there is too much in memory
	loaders   = 4        // reads under way at once
)

// evictor keeps the bytes of bodies in memory near a limit. It holds every
// chunk that may have bodies, oldest first, and lets go of those that a queue
// will deliver last.
type evictor struct {
	b     *Broker
	limit int64
	hot   atomic.Int64 // bytes of blocks in memory
	wake  chan struct{}
	spill []*stored // of the evictor's goroutine
	kept  int64     // bytes that this pass left in front of consumers, of all queues; likewise

	mu   sync.Mutex
	root chunk // of the list
}

func newEvictor(b *Broker, limit int64) *evictor {
	e := &evictor{b: b, limit: limit, wake: make(chan struct{}, 1)}
	e.root.prev, e.root.next = &e.root, &e.root
	return e
}

func (e *evictor) over() bool { return e.hot.Load() > e.limit }

func (e *evictor) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// add lists a chunk; its queue is locked, which guards listed too.
func (e *evictor) add(k *chunk) {
	e.mu.Lock()
	if !k.listed {
		k.listed = true
		k.prev, k.next = e.root.prev, &e.root
		k.prev.next, k.next.prev = k, k
	}
	e.mu.Unlock()
}

func (e *evictor) remove(k *chunk) {
	e.mu.Lock()
	if k.listed {
		k.listed = false
		k.prev.next, k.next.prev = k.next, k.prev
		k.prev, k.next = nil, nil
	}
	e.mu.Unlock()
}

// oldest takes the first chunk off the list, without marking it: the caller
// locks its queue and then removes it.
func (e *evictor) oldest(after *chunk) *chunk {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := e.root.next
	if after != nil && after.listed {
		k = after.next
	}
	if k == &e.root {
		return nil
	}
	return k
}

func (e *evictor) run() {
	for {
		select {
		case <-e.wake:
		case <-e.b.quit:
			return
		}
		var last *chunk
		e.kept = 0
		for e.hot.Load() > e.limit*7/8 {
			k := e.oldest(last)
			if k == nil {
				break
			}
			if !e.evict(k) {
				last = k
			}
			if len(e.spill) > 0 {
				e.b.scratch.spill(e.spill)
				clear(e.spill)
				e.spill = e.spill[:0]
			}
		}
	}
}

// evict drops the bodies of a chunk that are on disk, and gathers those that
// must go to the scratch file first. It tells whether the chunk left the list.
func (e *evictor) evict(k *chunk) bool {
	q := k.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if !k.listed {
		return true
	}
	if k.live == 0 || q.deleted {
		e.remove(k)
		return true
	}
	keep := 0 // bytes that are about to be delivered
	next := q.laneOf(k.first).next
	if at, next := k.first>>chunkShift, next>>chunkShift; len(q.consumers) > 0 && at >= next && at <= next+loadAhead && e.kept < e.limit/2 {
		keep = loadBytes
	}
	if k.loading != nil {
		return false
	}
	durable := e.b.log.durable.Load()
	freed, left := 0, 0
	for i := range k.entries {
		m := k.entries[i].msg
		if m == nil || m.data.Load() == nil {
			continue
		}
		if keep > 0 && k.first+uint64(i) >= next {
			keep -= int(m.size)
			e.kept += int64(m.size)
			left++
			continue
		}
		switch m.placed.Load() {
		case inJournal:
			if m.ref.Position > durable {
				left++
				continue
			}
			fallthrough
		case inScratch:
			if m.data.Swap(nil) != nil {
				freed += int(m.size)
			}
		default:
			left++
			if !m.journaled && e.b.scratch != nil {
				e.spill = append(e.spill, m)
			}
		}
	}
	e.hot.Add(int64(-freed))
	if left > 0 {
		return false // not on disk yet, or about to be delivered
	}
	e.remove(k)
	k.pack(e.b.log, false)
	return true
}

// loadLocked begins to read back the bodies from the chunk of seq on, and
// returns what is closed when they are there. q.mu is held.
func (q *Queue) loadLocked(seq uint64) <-chan struct{} {
	ln := q.laneOf(seq)
	k := ln.chunks.at(seq)
	if k.loading != nil {
		return k.loading
	}
	done := make(chan struct{})
	var ks []*chunk
	var msgs []*stored
	size, most := 0, loadBytes
	if q.v.b.evict.over() {
		most = loadLess
	}
	last := max(seq, ln.next)>>chunkShift + loadAhead
	for n := seq >> chunkShift; n <= last && n-ln.chunks.base < uint64(ln.chunks.len()) && size < most; n++ {
		k := ln.chunks.at(n << chunkShift)
		if k == nil {
			continue
		}
		if k.loading != nil {
			break
		}
		k.loading = done
		ks = append(ks, k)
		for i := range k.entries {
			if k.first+uint64(i) < seq || k.entries[i].state != ready {
				continue
			}
			if m := k.entries[i].msg; m.data.Load() == nil && (size < most || len(msgs) == 0) {
				msgs = append(msgs, m)
				size += int(m.size)
			}
		}
	}
	q.v.b.tasks.Go(func() { q.load(ks, msgs, done) })
	return done
}

// readAheadLocked begins to read back what the consumers will come to next.
func (q *Queue) readAheadLocked(seq uint64) {
	ln := q.laneOf(seq)
	n := seq>>chunkShift + 1
	for i := range uint64(loadFrom) {
		at := n + i
		if at < ln.chunks.base || at-ln.chunks.base >= uint64(ln.chunks.len()) {
			return
		}
		k := ln.chunks.as(at << chunkShift)
		if k == nil || k.live == 0 {
			continue
		}
		if k.loading != nil {
			return
		}
		if k.packed != nil || k.entries[0].msg != nil && k.entries[0].msg.data.Load() == nil {
			q.loadLocked(k.first)
			return
		}
	}
}

func (q *Queue) load(ks []*chunk, msgs []*stored, done chan struct{}) {
	b := q.v.b
	b.loading <- struct{}{}
	err := b.readBack(msgs)
	<-b.loading
	q.mu.Lock()
	for _, k := range ks {
		k.loading = nil
		if k.live > 0 && !q.deleted {
			b.evict.add(k)
		}
	}
	if err == nil && !q.deleted {
		q.dispatchLocked()
	}
	q.mu.Unlock()
	close(done)
	if b.evict.over() {
		b.evict.poke()
	}
	if err != nil && !errors.Is(err, errClosing) {
		b.fail(err)
	}
}

// readBack brings the bodies of messages into memory.
func (b *Broker) readBack(msgs []*stored) error {
	var refs, scratchRefs []journal.Ref
	var from, scratchFrom []*stored
	for _, m := range msgs {
		switch {
		case m.data.Load() != nil || m.holders.Load() == 0:
		case m.placed.Load() == inScratch:
			scratchRefs, scratchFrom = append(scratchRefs, m.ref), append(scratchFrom, m)
		case m.parts != nil:
			if err := b.readParts(m); err != nil {
				return err
			}
		default:
			refs, from = append(refs, m.ref), append(from, m)
		}
	}
	if err := b.readInto(b.log.j, refs, from); err != nil {
		return err
	}
	if len(scratchRefs) > 0 {
		return b.readInto(b.scratch.j, scratchRefs, scratchFrom)
	}
	return nil
}

func (b *Broker) readInto(j journal.Journal, refs []journal.Ref, msgs []*stored) error {
	if len(refs) == 0 {
		return nil
	}
	blocks, err := b.readRefs(j, refs)
	if err != nil {
		// What was settled meanwhile may be gone with its segment.
		if len(refs) == 1 {
			if b.forgotten(msgs[0]) {
				return nil
			}
			return b.unreadable(fmt.Errorf("read back a message: %w", err))
		}
		if errors.Is(err, errClosing) {
			return err
		}
		for i := range refs {
			if err := b.readInto(j, refs[i:i+1], msgs[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	for i, block := range blocks {
		if err := message.Check(block); err != nil {
			if b.forgotten(msgs[i]) {
				continue
			}
			return fmt.Errorf("read back a message from position %d, offset %d: %w", refs[i].Position, refs[i].Offset, err)
		}
		b.warm(msgs[i], block)
	}
	return nil
}

// readRefs reads from a journal. If the medium of a shared one is out of reach it
// is tried again for as long as the lease allows, and for a lease at most: if
// appends succeed all that time, it is the reading that fails.
func (b *Broker) readRefs(j journal.Journal, refs []journal.Ref) ([][]byte, error) {
	began, retry := time.Now(), retryMin
	for {
		blocks, err := j.ReadRefs(b.reading, refs)
		if err == nil || b.lease == nil || j != b.log.j {
			return blocks, err
		}
		if b.reading.Err() != nil {
			return nil, errClosing
		}
		if !b.passing(err) || time.Since(began) > b.lease.length {
			return nil, err
		}
		_ = sleep(b.reading, retry)
		retry = min(2*retry, retryMax)
	}
}

// unreadable is why a message that is alive cannot be read back. If the journal is
// shared its segment may have been dropped by a new owner: then an append fails too.
func (b *Broker) unreadable(err error) error {
	if b.lease == nil || !errors.Is(err, journal.ErrDropped) {
		return err
	}
	if flushErr := b.flushLog(); flushErr != nil {
		return errClosing // it has failed, or is being closed
	}
	return err
}

func (b *Broker) readParts(m *stored) error {
	parts, err := b.readRefs(b.log.j, m.parts.refs)
	if err != nil {
		if b.forgotten(m) {
			return nil
		}
		return b.unreadable(fmt.Errorf("read back a large message: %w", err))
	}
	block := make([]byte, 0, m.size)
	for _, p := range parts {
		block = append(block, p...)
	}
	if err := message.Check(block); err != nil {
		return fmt.Errorf("read back a large message from position %d: %w", m.ref.Position, err)
	}
	b.warm(m, block)
	return nil
}

// forgotten tells whether a message may be gone from where it was: nobody has
// it any more, or the journal has a newer copy, or was told that it is settled.
func (b *Broker) forgotten(m *stored) bool {
	if m.holders.Load() == 0 {
		return true
	}
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	return m.journaled && !m.accounted
}

// warm gives a message the body that was read back, unless another queue's
// reading did, or it was settled meanwhile.
func (b *Broker) warm(m *stored, block []byte) {
	if !m.hold() {
		return
	}
	warmed := 0
	if m.data.CompareAndSwap(nil, &block[0]) {
		warmed = len(block)
	}
	b.evict.hot.Add(int64(warmed - m.release(b)))
}
