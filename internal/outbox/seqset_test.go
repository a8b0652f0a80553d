package outbox

import (
	"math/rand/v2"
	"testing"
)

// TestSeqSet compares with a map.
func TestSeqSet(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := seqSet{floor: 1}
		model := map[uint64]bool{0: true}
		for range 100 {
			r := seqRun{1 + rng.Uint64N(120), 0}
			r.end = r.first + rng.Uint64N(1+rng.Uint64N(20))
			s.add(r)
			for i := r.first; i < r.end; i++ {
				model[i] = true
			}
			compareSet(t, &s, model, rng)
			if t.Failed() {
				t.Fatalf("seed %d, added %v: %+v", seed, r, s)
			}
		}
	}
}

func compareSet(t *testing.T, s *seqSet, model map[uint64]bool, rng *rand.Rand) {
	t.Helper()
	next := uint64(200)
	counted := uint64(0)
	first := rng.Uint64N(150)
	for seq := uint64(199); seq < 200; seq-- {
		if s.has(seq) != model[seq] {
			t.Errorf("has %d: %t", seq, s.has(seq))
		}
		if !model[seq] {
			next = seq
		}
		if got := s.next(seq); got != next {
			t.Errorf("next of %d is %d, want %d", seq, got, next)
		}
		if seq >= first && seq < first+30 && model[seq] {
			counted++
		}
	}
	if got := s.count(seqRun{first, first + 30}); got != counted {
		t.Errorf("%d of 30 from %d on, want %d", got, first, counted)
	}
	for i, r := range s.runs {
		if r.first >= r.end || i > 0 && s.runs[i-1].end >= r.first || r.first <= s.floor {
			t.Errorf("runs %v above %d", s.runs, s.floor)
		}
	}
}
