package route

import "math"

// Hash returns a number for a text: the same for the same text, in every process
// and on every machine.
func Hash[T string | []byte](text T) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return mix(h)
}

// mix makes every bit of a number depend on every other, as SplitMix64 ends.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Shares divides all hashes among destinations, to each as much as its weight is
// of all weights. When a destination comes, it takes its share from all others,
// and nothing else changes hands; when it goes, they have its share back
// (rendezvous hashing). The zero Shares has no destinations.
type Shares struct {
	groups []shareGroup
	n      int
}

// shareGroup is the destinations of one weight: of these the one with the highest
// number for a hash wins, which needs no arithmetic.
type shareGroup struct {
	weight  float64
	members []shareMember
}

type shareMember struct {
	seed  uint64
	index int
}

// Add adds a destination: its number is how many were added before. seed is what
// it is known by wherever it is added, as Hash of its name.
func (s *Shares) Add(seed uint64, weight float64) {
	m := shareMember{seed, s.n}
	s.n++
	for i := range s.groups {
		if g := &s.groups[i]; g.weight == weight {
			g.members = append(g.members, m)
			return
		}
	}
	s.groups = append(s.groups, shareGroup{weight, []shareMember{m}})
}

// Choose returns the number of the destination that has a hash, -1 if there are
// none. It costs a few nanoseconds a destination, and does not allocate.
func (s *Shares) Choose(hash uint64) int {
	best, score := -1, math.Inf(-1)
	for i := range s.groups {
		g := &s.groups[i]
		index, highest := -1, uint64(0)
		for _, m := range g.members {
			if n := mix(hash ^ m.seed); index < 0 || n > highest {
				index, highest = m.index, n
			}
		}
		if len(s.groups) == 1 {
			return index
		}
		// n is one of 2^53 numbers between 0 and 1; the highest of w such numbers
		// is distributed as the w-th root of one.
		n := (float64(highest>>11) + 0.5) / (1 << 53)
		if x := math.Log(n) / g.weight; x > score {
			best, score = index, x
		}
	}
	return best
}
