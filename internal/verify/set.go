package verify

import "math/bits"

const (
	pageBits  = 1 << 16
	pageWords = pageBits / 64
)

// A set of numbers from 0 on, most of which will be in it: pages of bits, of
// which those that are full need no memory but a pointer. 100 million numbers
// take 12 MB at worst, and next to nothing if they come more or less in order.
// The zero set is empty. It is not safe for concurrent use.
type set struct {
	pages []*page // nil: empty; full: all of its numbers
	count uint64
}

type page struct {
	words [pageWords]uint64
	count int
}

// full stands for every page that is.
var full = &page{count: pageBits}

// add says whether n was not in the set before.
func (s *set) add(n uint64) bool {
	at := n / pageBits
	for uint64(len(s.pages)) <= at {
		s.pages = append(s.pages, nil)
	}
	p := s.pages[at]
	if p == full {
		return false
	}
	if p == nil {
		p = &page{}
		s.pages[at] = p
	}
	word, bit := &p.words[n%pageBits/64], uint64(1)<<(n%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	s.count++
	if p.count++; p.count == pageBits {
		s.pages[at] = full
	}
	return true
}

func (s *set) has(n uint64) bool {
	at := n / pageBits
	if at >= uint64(len(s.pages)) || s.pages[at] == nil {
		return false
	}
	p := s.pages[at]
	return p == full || p.words[n%pageBits/64]&(1<<(n%64)) != 0
}

// word is the 64 numbers from n on, a multiple of 64, as bits.
func (s *set) word(n uint64) uint64 {
	at := n / pageBits
	switch {
	case at >= uint64(len(s.pages)) || s.pages[at] == nil:
		return 0
	case s.pages[at] == full:
		return ^uint64(0)
	}
	return s.pages[at].words[n%pageBits/64]
}

// without calls yield with each number that is in s and not in other, in order,
// until it returns false.
func (s *set) without(other *set, yield func(n uint64) bool) {
	for at, p := range s.pages {
		if p == nil || p == full && at < len(other.pages) && other.pages[at] == full {
			continue
		}
		first := uint64(at) * pageBits
		for n := first; n < first+pageBits; n += 64 {
			for left := s.word(n) &^ other.word(n); left != 0; left &= left - 1 {
				if !yield(n + uint64(bits.TrailingZeros64(left))) {
					return
				}
			}
		}
	}
}
