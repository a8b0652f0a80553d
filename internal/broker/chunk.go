package broker

// A queue's index is a run of chunks. A chunk covers chunkSize consecutive
// sequence numbers that begin at a multiple of it, so that a sequence number
// is found without searching.
const (
	chunkShift = 7
	chunkSize  = 1 << chunkShift
)

type entryState uint8

const (
	gone    entryState = iota // settled, or never was
	ready                     // may be delivered
	unacked                   // delivered, not settled
	leaving                   // to be moved to other queues; see leave.go
	waiting                   // not to be delivered before its time; see times
)

// An entry takes 16 bytes, and is not to take more.
type entry struct {
	msg         *stored
	state       entryState
	redelivered bool
	over        uint16 // bytes by which the block is larger than the body, math.MaxUint16 at most; 0: not known
	count       uint32 // deliveries in vain
}

// body is how many bytes the body of a message has, as far as that is known:
// otherwise it is a little more.
func (e *entry) body() int64 { return int64(e.msg.size) - int64(e.over) }

// bitmap has a bit for each entry of a chunk.
type bitmap [chunkSize / 64]uint64

func (m *bitmap) set(i int)      { m[i/64] |= 1 << (i % 64) }
func (m *bitmap) has(i int) bool { return m[i/64]>>(i%64)&1 != 0 }

type chunk struct {
	q       *Queue
	first   uint64 // sequence number of entries[0]
	entries []entry
	packed  []byte // instead of entries, while it is packed
	span    int    // how many entries there are in packed
	there   bitmap // which of those are not gone
	live    int    // entries that are not gone
	times   *times // nil: none has a time
	changed bool   // attributes of an entry may not be those of its record

	loading chan struct{} // not nil while bodies are being read back; closed after

	// Guarded by the evictor's mutex.
	prev, next *chunk
	listed     bool
}

// chunks is a deque of chunks; nil stands for one in which all is gone.
type chunks struct {
	list []*chunk
	head int
	base uint64 // number (sequence >> chunkShift) of list[head]
}

func (c *chunks) len() int { return len(c.list) - c.head }

// at returns the chunk of a sequence number, nil if there is none. It is
// unpacked, and listed for the evictor to be packed again.
func (c *chunks) at(seq uint64) *chunk {
	k := c.as(seq)
	if k != nil && k.packed != nil {
		k.unpack()
		k.q.v.b.evict.add(k)
	}
	return k
}

// as is at, but leaves the chunk as it is.
func (c *chunks) as(seq uint64) *chunk {
	n := seq >> chunkShift
	if n < c.base || n-c.base >= uint64(c.len()) {
		return nil
	}
	return c.list[c.head+int(n-c.base)]
}

// entry returns the entry of a sequence number, nil if there is none.
func (c *chunks) entry(seq uint64) *entry {
	k := c.at(seq)
	if k == nil || seq < k.first || seq-k.first >= uint64(len(k.entries)) {
		return nil
	}
	return &k.entries[seq-k.first]
}

// slot makes room for a sequence number and returns its chunk and entry. New
// entries between are gone.
func (c *chunks) slot(q *Queue, seq uint64) (*chunk, *entry) {
	n := seq >> chunkShift
	switch {
	case c.len() == 0:
		c.list, c.head, c.base = append(c.list[:0], nil), 0, n
	case n < c.base:
		grown := make([]*chunk, int(c.base-n)+c.len())
		copy(grown[c.base-n:], c.list[c.head:])
		c.list, c.head, c.base = grown, 0, n
	}
	for n-c.base >= uint64(c.len()) {
		c.push(nil)
	}
	at := c.head + int(n-c.base)
	k := c.list[at]
	switch {
	case k == nil:
		k = &chunk{q: q, first: seq}
		if at > c.head && c.list[at-1] != nil && seq&(chunkSize-1) == 0 {
			k.entries = make([]entry, 0, chunkSize) // a queue that fills chunks fills this one
		}
		c.list[at] = k
	case k.packed != nil:
		k.unpack()
	}
	if seq < k.first {
		grown := make([]entry, int(k.first-seq)+len(k.entries))
		copy(grown[k.first-seq:], k.entries)
		if k.times != nil {
			k.times.shift(int(k.first - seq))
		}
		k.entries, k.first = grown, seq
	}
	for seq-k.first >= uint64(len(k.entries)) {
		k.entries = append(k.entries, entry{})
	}
	return k, &k.entries[seq-k.first]
}

func (c *chunks) push(k *chunk) {
	if c.head > 32 && c.head > len(c.list)/2 {
		n := copy(c.list, c.list[c.head:])
		clear(c.list[n:])
		c.list, c.head = c.list[:n], 0
	}
	c.list = append(c.list, k)
}

// free forgets a chunk in which all is gone, if nothing can be added to it any
// more: tail is the next sequence number to be given.
func (c *chunks) free(k *chunk, tail uint64) bool {
	if k.live > 0 || k.first|(chunkSize-1) >= tail {
		return false
	}
	n := k.first >> chunkShift
	c.list[c.head+int(n-c.base)] = nil
	for c.len() > 0 && c.list[c.head] == nil {
		c.head++
		c.base++
	}
	return true
}

// distance is by how many chunks the index would grow to take in a sequence
// number.
func (c *chunks) distance(seq uint64) uint64 {
	n, end := seq>>chunkShift, c.base+uint64(c.len())
	switch {
	case c.len() == 0:
		return 1
	case n < c.base:
		return c.base - n
	case n >= end:
		return n - end + 1
	}
	return 0
}

// sweep forgets the chunks in which all is gone: those that nothing was added
// to behind, when it went.
func (c *chunks) sweep() {
	for i, k := range c.list[c.head:] {
		if k != nil && k.live == 0 {
			c.list[c.head+i] = nil
		}
	}
	for c.len() > 0 && c.list[c.head] == nil {
		c.head++
		c.base++
	}
}

// each calls visit with every chunk that has something in it. It may be packed.
func (c *chunks) each(visit func(*chunk)) {
	for _, k := range c.list[c.head:] {
		if k != nil {
			visit(k)
		}
	}
}
