package outbox

import (
	"sort"
	"time"
)

// markBytes is how many bytes of bodies a search for one message may read, about.
const markBytes = 512 << 10

// A book says what the journal holds: all that has a number, stored or being
// stored.
type book struct {
	next     uint64 // number of the next message
	settled  seqSet
	refused  uint64 // ever
	messages int64  // not settled
	bytes    int64  // of all segments
	segments []*segment

	// What is stored: messages below, up to this batch, the newest segment of
	// which a batch is.
	stored  uint64
	head    uint64
	segment uint64
}

// A segment is one of the journal's. Those that were written before Open and
// hold nothing have an empty run.
type segment struct {
	number    uint64
	messages  seqRun
	unsettled uint64
	bytes     int64
	since     time.Time // of the first message
	marks     []mark    // ascending
	marked    uint64    // bytes of bodies since the last one
}

// A mark is where a batch stands that begins with a message.
type mark struct {
	seq      uint64
	position uint64
	time     time.Time
}

// find returns the segment that holds a message, nil if none does.
func (b *book) find(seq uint64) *segment {
	i := sort.Search(len(b.segments), func(i int) bool { return b.segments[i].messages.end > seq })
	if i == len(b.segments) || seq < b.segments[i].messages.first {
		return nil
	}
	return b.segments[i]
}

// mark remembers a batch, unless there is a mark near before it.
func (s *segment) mark(m mark) {
	n := len(s.marks)
	if n == 0 {
		s.since = m.time
	} else if s.marked < markBytes || s.marks[n-1].seq >= m.seq {
		return
	}
	s.marks = append(s.marks, m)
	s.marked = 0
}

// before returns the last mark of a segment that is not behind a message.
func (s *segment) before(seq uint64) (mark, bool) {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].seq > seq })
	if i == 0 {
		return mark{}, false
	}
	return s.marks[i-1], true
}

// newest is the segment that is being written, nil if there is none.
func (b *book) newest() *segment {
	if len(b.segments) == 0 {
		return nil
	}
	return b.segments[len(b.segments)-1]
}

func (b *book) oldest() time.Time {
	if b.messages == 0 {
		return time.Time{}
	}
	seq := b.settled.next(b.settled.floor)
	s := b.find(seq)
	if s == nil {
		return time.Time{}
	}
	if m, ok := s.before(seq); ok {
		return m.time
	}
	return s.since
}

// settle forgets a message. It returns false if it is not there, or settled
// already, and the segment that holds nothing any more because of it.
func (b *book) settle(seq uint64) (ok bool, emptied *segment) {
	if seq >= b.stored || b.settled.has(seq) {
		return false, nil
	}
	b.settled.add(seqRun{seq, seq + 1})
	b.messages--
	s := b.find(seq)
	if s.unsettled--; s.unsettled == 0 {
		emptied = s
	}
	return true, emptied
}

// droppable returns a segment that nobody needs. The newest one that is stored
// is needed: all that is known of the older ones is in its state.
func (b *book) droppable() *segment {
	for _, s := range b.segments {
		if s.number >= b.segment {
			break
		}
		if s.unsettled == 0 {
			return s
		}
	}
	return nil
}

func (b *book) drop(s *segment) {
	for i, other := range b.segments {
		if other == s {
			b.segments = append(b.segments[:i:i], b.segments[i+1:]...)
			b.bytes -= s.bytes
			return
		}
	}
}

// state is what a new segment begins with.
func (b *book) state(producer string) *state {
	s := &state{producer: producer, next: b.next, refused: b.refused}
	for _, g := range b.segments {
		if g.unsettled > 0 {
			s.segments = append(s.segments, segmentState{number: g.number, messages: g.messages, since: g.since})
		}
	}
	s.settled = seqSet{floor: b.settled.floor, runs: append([]seqRun(nil), b.settled.runs...)}
	return s
}
