package broker

import (
	"slices"
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
)

// scratch is where transient messages go that memory has no room for. It is a
// journal that nothing is ever recovered from. When it fails, messages stay in
// memory from there on.
type scratch struct {
	b     *Broker
	j     journal.Journal
	slots chan struct{} // one for each batch in flight

	// Of the evictor's goroutine.
	pos  uint64
	size int64

	mu     sync.Mutex        // guards what follows
	seg    uint64            // of the last batch that was sent
	newest uint64            // of the last batch that was written
	count  map[uint64]int    // messages by segment
	segOf  map[uint64]uint64 // by position
	busy   map[*stored]struct{}
	failed bool
}

func newScratch(b *Broker, j journal.Journal) *scratch {
	if j == nil {
		return nil
	}
	info := j.Info()
	return &scratch{
		b: b, j: j, slots: make(chan struct{}, max(info.InFlight, 1)),
		pos: info.Head, seg: info.Segment + 1,
		count: map[uint64]int{}, segOf: map[uint64]uint64{}, busy: map[*stored]struct{}{},
	}
}

// spill writes messages out, and drops their bodies when that is done. It is
// called by the evictor alone, and leaves out what the file has no time for.
func (s *scratch) spill(msgs []*stored) {
	for len(msgs) > 0 {
		select {
		case s.slots <- struct{}{}:
		default:
			return
		}
		var batch []*stored
		var pieces [][]byte
		size := 0
		for len(msgs) > 0 && size <= batchBody {
			m := msgs[0]
			msgs = msgs[1:]
			if !s.claim(m) {
				continue
			}
			m.seal()
			batch, pieces = append(batch, m), append(pieces, m.block())
			size += int(m.size)
		}
		if len(batch) == 0 {
			<-s.slots
			return
		}
		s.pos++
		s.mu.Lock()
		if s.size > s.b.cfg.SegmentBytes {
			s.seg++
			s.size = 0
		}
		s.size += int64(size)
		pos, seg := s.pos, s.seg
		s.segOf[pos] = seg
		s.count[seg] += len(batch)
		s.mu.Unlock()
		s.j.Append(journal.Batch{Position: pos, Epoch: 1, Segment: seg, Body: pieces}, func(err error) {
			s.written(pos, seg, batch, err)
			<-s.slots
		})
	}
}

// claim tells whether a message is to be written: it is not being written, and
// no batch would be too small for it.
func (s *scratch) claim(m *stored) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.busy[m]; ok || s.failed || int(m.size) > s.j.Info().MaxBatch/2 || m.data.Load() == nil || m.placed.Load() != notPlaced || !m.hold() {
		return false
	}
	s.busy[m] = struct{}{}
	return true
}

// written notes where messages are, and lets go of their bodies.
func (s *scratch) written(pos, seg uint64, msgs []*stored, err error) {
	s.mu.Lock()
	s.newest = max(s.newest, seg)
	offset, freed := 0, 0
	for _, m := range msgs {
		delete(s.busy, m)
		if err == nil {
			m.ref = journal.Ref{Position: pos, Offset: uint32(offset), Length: m.size}
			m.placed.Store(inScratch)
			if m.data.Swap(nil) != nil {
				freed += int(m.size)
			}
		}
		offset += int(m.size)
	}
	first := err != nil && !s.failed
	s.failed = s.failed || err != nil
	s.mu.Unlock()
	for _, m := range msgs {
		freed += m.release(s.b)
	}
	s.b.evict.hot.Add(int64(-freed))
	if first {
		s.b.logger.Warn("cannot write transient messages to the scratch file; they stay in memory", "error", err)
	}
	s.sweep()
}

// release forgets a message that nobody holds any more.
func (s *scratch) release(m *stored) {
	if !m.placed.CompareAndSwap(inScratch, notPlaced) {
		return
	}
	s.mu.Lock()
	seg := s.segOf[m.ref.Position]
	s.count[seg]--
	empty := s.count[seg] == 0 && seg < s.newest
	s.mu.Unlock()
	if empty {
		s.sweep()
	}
}

// sweep drops the segments without messages, but for the newest.
func (s *scratch) sweep() {
	var empty []uint64
	s.mu.Lock()
	for seg, n := range s.count {
		if n == 0 && seg < s.newest {
			empty = append(empty, seg)
			delete(s.count, seg)
		}
	}
	if len(empty) > 0 {
		for pos, of := range s.segOf {
			if slices.Contains(empty, of) {
				delete(s.segOf, pos)
			}
		}
	}
	s.mu.Unlock()
	if len(empty) > 0 {
		s.b.tasks.Go(func() { s.drop(empty) })
	}
}

func (s *scratch) drop(segments []uint64) {
	for _, seg := range segments {
		if err := s.j.Drop(seg); err != nil {
			s.b.logger.Warn("cannot remove a scratch file", "error", err)
		}
	}
}
