package broker

import (
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/message"
)

// scratch is where transient messages go that memory has no room for. It is a
// journal that nothing is ever recovered from.
type scratch struct {
	b *Broker
	j journal.Journal

	// Of the evictor's goroutine.
	pos  uint64
	size int64

	mu    sync.Mutex // guards what follows
	seg   uint64
	count map[uint64]int    // messages by segment
	segOf map[uint64]uint64 // by position
	busy  map[*stored]struct{}
}

const scratchSegment = 64 << 20

func newScratch(b *Broker, j journal.Journal) *scratch {
	if j == nil {
		return nil
	}
	return &scratch{
		b: b, j: j, pos: j.Info().Head, seg: j.Info().Segment + 1,
		count: map[uint64]int{}, segOf: map[uint64]uint64{}, busy: map[*stored]struct{}{},
	}
}

// spill writes messages out, and drops their bodies when that is done. It may
// wait for the file, and is called by the evictor alone.
func (s *scratch) spill(msgs []*stored) {
	var batch []*stored
	var pieces [][]byte
	size := 0
	flush := func() {
		if len(batch) == 0 {
			return
		}
		s.pos++
		s.mu.Lock()
		if s.size > scratchSegment {
			s.seg++
			s.size = 0
		}
		s.size += int64(size)
		pos, seg, written := s.pos, s.seg, batch
		s.segOf[pos] = seg
		s.count[seg] += len(written)
		s.mu.Unlock()
		s.j.Append(journal.Batch{Position: pos, Epoch: 1, Segment: seg, Body: pieces}, func(err error) {
			s.written(pos, written, err)
		})
		batch, pieces, size = nil, nil, 0
	}
	for _, m := range msgs {
		if !s.claim(m) {
			continue
		}
		if size > batchBody {
			flush()
		}
		block := m.block()
		message.Seal(block)
		batch, pieces = append(batch, m), append(pieces, block)
		size += len(block)
	}
	flush()
}

// claim tells whether a message is to be written: it is not being written, and
// no batch would be too small for it.
func (s *scratch) claim(m *stored) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.busy[m]; ok || int(m.size) > s.j.Info().MaxBatch/2 || m.data.Load() == nil {
		return false
	}
	s.busy[m] = struct{}{}
	return true
}

// written notes where messages are, and lets go of their bodies.
func (s *scratch) written(pos uint64, msgs []*stored, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	offset, freed := 0, 0
	for _, m := range msgs {
		delete(s.busy, m)
		if err == nil {
			m.ref = journal.Ref{Position: pos, Offset: uint32(offset), Length: m.size}
			m.placed.Store(inScratch)
			if m.holders.Load() == 0 {
				s.releaseLocked(m)
			} else if m.data.Swap(nil) != nil {
				freed += int(m.size)
			}
		}
		offset += int(m.size)
	}
	s.b.evict.hot.Add(int64(-freed))
	if err != nil {
		s.b.logger.Warn("cannot write transient messages to the scratch file", "error", err)
	}
}

func (s *scratch) release(m *stored) {
	s.mu.Lock()
	s.releaseLocked(m)
	s.mu.Unlock()
}

func (s *scratch) releaseLocked(m *stored) {
	if !m.placed.CompareAndSwap(inScratch, notPlaced) {
		return
	}
	seg := s.segOf[m.ref.Position]
	if s.count[seg]--; s.count[seg] == 0 && seg < s.seg {
		delete(s.count, seg)
		s.b.tasks.Go(func() { s.drop(seg) })
	}
}

func (s *scratch) drop(seg uint64) {
	s.mu.Lock()
	for pos, of := range s.segOf {
		if of == seg {
			delete(s.segOf, pos)
		}
	}
	s.mu.Unlock()
	if err := s.j.Drop(seg); err != nil {
		s.b.logger.Warn("cannot remove a scratch file", "error", err)
	}
}
