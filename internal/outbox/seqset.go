package outbox

import (
	"slices"
	"sort"
)

// A seqRun is the sequence numbers from first to end, end not included.
type seqRun struct{ first, end uint64 }

// A seqSet is a set of sequence numbers: all below floor, and runs above it,
// ascending, with something between each two. Added to nearly in order it stays
// small, however many it holds.
type seqSet struct {
	floor uint64
	runs  []seqRun
}

// after returns the index of the first run that ends behind seq.
func (s *seqSet) after(seq uint64) int {
	return sort.Search(len(s.runs), func(i int) bool { return s.runs[i].end > seq })
}

func (s *seqSet) has(seq uint64) bool {
	if seq < s.floor {
		return true
	}
	i := s.after(seq)
	return i < len(s.runs) && s.runs[i].first <= seq
}

// next returns the first number from seq on that is not in the set.
func (s *seqSet) next(seq uint64) uint64 {
	seq = max(seq, s.floor)
	if i := s.after(seq); i < len(s.runs) && s.runs[i].first <= seq {
		return s.runs[i].end
	}
	return seq
}

// count returns how many of the numbers of r are in the set.
func (s *seqSet) count(r seqRun) (n uint64) {
	if r.first < s.floor {
		n = min(r.end, s.floor) - r.first
		r.first = min(r.end, s.floor)
	}
	for i := s.after(r.first); i < len(s.runs) && s.runs[i].first < r.end; i++ {
		n += min(r.end, s.runs[i].end) - max(r.first, s.runs[i].first)
	}
	return n
}

func (s *seqSet) add(r seqRun) {
	if r.first >= r.end || r.end <= s.floor {
		return
	}
	if r.first <= s.floor {
		s.floor = r.end
		n := 0
		for ; n < len(s.runs) && s.runs[n].first <= s.floor; n++ {
			s.floor = max(s.floor, s.runs[n].end)
		}
		if n > 0 {
			s.runs = slices.Delete(s.runs, 0, n)
		}
		return
	}
	// Runs from i to j touch r, and become one with it.
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].end >= r.first })
	j := i
	for ; j < len(s.runs) && s.runs[j].first <= r.end; j++ {
		r.first, r.end = min(r.first, s.runs[j].first), max(r.end, s.runs[j].end)
	}
	s.runs = slices.Replace(s.runs, i, j, r)
}
