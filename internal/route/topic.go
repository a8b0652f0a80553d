// Package route decides which bindings a message matches: by the words of its
// routing key (Trie) and by its headers (HeadersMatcher). It is pure: no locks,
// no clocks, nothing of the broker's. Any number of goroutines may match at the
// same time; whoever changes a structure keeps them out meanwhile.
package route

import (
	"bytes"
	"iter"
	"strings"
	"sync"
)

// Trie holds the bindings of a topic exchange. Patterns and keys are words
// separated by dots; in a pattern the word `*` stands for exactly one word and
// `#` for any number of them, also none. As in RabbitMQ an empty text has no
// words at all, and otherwise an empty word is a word: "a..b" has three, and
// "." has two.
//
// The zero Trie is empty and ready to use.
//
// A match costs at most (nodes of the trie) x (words of the key), however many
// `#` the patterns have. RabbitMQ allows only two of them in a pattern since
// 4.3.5, because its search is exponential in their number; here they need no
// limit.
type Trie[T comparable] struct {
	root   node[T]
	pairs  int
	nested nestedIDs
}

// node is what a sequence of pattern words leads to.
type node[T comparable] struct {
	words map[string]*node[T] // next word is this one
	star  *node[T]            // next word is `*`
	hash  *node[T]            // next word is `#`
	under bool                // the path to it, its own word included, has a `#`
	id    int                 // of a `#` below another `#`: its number, else -1

	values []T
	index  map[T]int // where a value is in values; nil while there are few
}

// indexFrom is how many values a node has before it keeps an index of them.
const indexFrom = 16

// Len returns how many pairs of pattern and value the trie holds.
func (t *Trie[T]) Len() int { return t.pairs }

// Add binds v to a pattern. It returns false, and does nothing, when that very
// pair is there already.
func (t *Trie[T]) Add(pattern string, v T) bool {
	n := &t.root
	for w := range words(pattern) {
		n = t.child(n, w)
	}
	if !n.add(v) {
		return false
	}
	t.pairs++
	return true
}

func (t *Trie[T]) child(n *node[T], word string) *node[T] {
	switch word {
	case "*":
		if n.star == nil {
			n.star = &node[T]{under: n.under, id: -1}
		}
		return n.star
	case "#":
		if n.hash == nil {
			n.hash = &node[T]{under: true, id: -1}
			if n.under {
				n.hash.id = t.nested.take()
			}
		}
		return n.hash
	}
	c := n.words[word]
	if c == nil {
		if n.words == nil {
			n.words = make(map[string]*node[T], 1)
		}
		c = &node[T]{under: n.under, id: -1}
		n.words[strings.Clone(word)] = c
	}
	return c
}

// Remove takes a pair out. It returns false when it was not there.
func (t *Trie[T]) Remove(pattern string, v T) bool {
	type step struct {
		parent *node[T]
		word   string
	}
	var path []step
	n := &t.root
	for w := range words(pattern) {
		path = append(path, step{n, w})
		switch w {
		case "*":
			n = n.star
		case "#":
			n = n.hash
		default:
			n = n.words[w]
		}
		if n == nil {
			return false
		}
	}
	if !n.remove(v) {
		return false
	}
	t.pairs--
	for i := len(path) - 1; i >= 0 && n.empty(); i-- {
		if n.id >= 0 {
			t.nested.give(n.id)
		}
		n = path[i].parent
		switch w := path[i].word; w {
		case "*":
			n.star = nil
		case "#":
			n.hash = nil
		default:
			delete(n.words, w)
		}
	}
	return true
}

// Match calls visit with the values of every pattern that matches the key: once
// for each such pattern, so a value that several matching patterns lead to is
// visited as often, and it is for the caller to count it once. The order means
// nothing. visit must not change the trie.
//
// It does not allocate, unless more than 512 `#` stand below others.
func (t *Trie[T]) Match(key []byte, visit func(T)) {
	m := match[T]{visit: visit}
	if t.nested.next > len(m.few)*64 {
		seen := seenPool.Get().(*[]uint64)
		defer seenPool.Put(seen)
		if need := (t.nested.next + 63) / 64; cap(*seen) < need {
			*seen = make([]uint64, need)
		} else {
			*seen = (*seen)[:need]
			clear(*seen)
		}
		m.many = *seen
	}
	m.from(&t.root, key, len(key) == 0)
}

// match is one search. It walks the trie depth first. A node that is not below
// a `#` is reached at one position of the key only. One that is below may be
// reached at many, but through each `#` above it the positions come in
// ascending order: the first visit of a `#` is therefore at the lowest position
// and has looked at all the later ones, and a second visit has nothing to add.
// That makes the search polynomial.
type match[T comparable] struct {
	visit func(T)
	few   [8]uint64 // which nested `#` were visited, by their numbers
	many  []uint64  // the same, when they do not fit
}

// from goes on at a node with the rest of the key. end says that no words are
// left, which an empty rest does not tell: "a." ends with an empty word.
func (m *match[T]) from(n *node[T], rest []byte, end bool) {
	if n.hash != nil {
		m.through(n.hash, rest, end)
	}
	if end {
		n.each(m.visit)
		return
	}
	m.step(n, rest)
}

// step consumes one word by the children of n that take exactly one.
func (m *match[T]) step(n *node[T], rest []byte) {
	if n.star == nil && len(n.words) == 0 {
		return
	}
	word, after, end := cut(rest)
	if n.star != nil {
		m.from(n.star, after, end)
	}
	if c := n.words[string(word)]; c != nil {
		m.from(c, after, end)
	}
}

// through lets a `#` take none, one and more words.
func (m *match[T]) through(h *node[T], rest []byte, end bool) {
	if h.id >= 0 && m.again(h.id) {
		return
	}
	h.each(m.visit) // all the rest
	if h.hash != nil {
		m.through(h.hash, rest, end) // the first time is the only one that counts
	}
	if h.star == nil && len(h.words) == 0 {
		return
	}
	for !end {
		m.step(h, rest)
		_, rest, end = cut(rest)
	}
}

// again tells whether a nested `#` was visited before, and notes that it is now.
func (m *match[T]) again(id int) bool {
	set := m.many
	if set == nil {
		set = m.few[:]
	}
	bit := uint64(1) << (id % 64)
	was := set[id/64]&bit != 0
	set[id/64] |= bit
	return was
}

var seenPool = sync.Pool{New: func() any { return new([]uint64) }}

// nestedIDs numbers the `#` that stand below other `#`, densely.
type nestedIDs struct {
	next int
	free []int
}

func (s *nestedIDs) take() int {
	if n := len(s.free); n > 0 {
		id := s.free[n-1]
		s.free = s.free[:n-1]
		return id
	}
	s.next++
	return s.next - 1
}

func (s *nestedIDs) give(id int) { s.free = append(s.free, id) }

func (n *node[T]) empty() bool {
	return len(n.values) == 0 && len(n.words) == 0 && n.star == nil && n.hash == nil
}

func (n *node[T]) each(visit func(T)) {
	for _, v := range n.values {
		visit(v)
	}
}

func (n *node[T]) find(v T) int {
	if n.index != nil {
		if i, ok := n.index[v]; ok {
			return i
		}
		return -1
	}
	for i, w := range n.values {
		if w == v {
			return i
		}
	}
	return -1
}

func (n *node[T]) add(v T) bool {
	if n.find(v) >= 0 {
		return false
	}
	n.values = append(n.values, v)
	switch {
	case n.index != nil:
		n.index[v] = len(n.values) - 1
	case len(n.values) == indexFrom:
		n.index = make(map[T]int, 2*indexFrom)
		for i, w := range n.values {
			n.index[w] = i
		}
	}
	return true
}

func (n *node[T]) remove(v T) bool {
	i := n.find(v)
	if i < 0 {
		return false
	}
	last := len(n.values) - 1
	moved := n.values[last]
	n.values[i] = moved
	var zero T
	n.values[last] = zero
	n.values = n.values[:last]
	if n.index != nil {
		n.index[moved] = i
		delete(n.index, v)
	}
	if last == 0 {
		n.values, n.index = nil, nil
	}
	return true
}

// words are the words of a pattern.
func words(pattern string) iter.Seq[string] {
	if pattern == "" {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(pattern, ".")
}

// cut takes the first word off what is left of a key; end says that it was the
// last.
func cut(rest []byte) (word, after []byte, end bool) {
	i := bytes.IndexByte(rest, '.')
	if i < 0 {
		return rest, nil, true
	}
	return rest[:i], rest[i+1:], false
}
