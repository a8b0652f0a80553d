package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// The outbox is a journal of package journal/file. The head of each batch holds
// records, one behind the other; the body holds messages. Numbers are uvarints;
// a text is its length and its bytes; times are milliseconds since 1970.
//
//	state    magic, version, producer, next, refused,
//	         n, n × (segment, first, count, time),
//	         floor, m, m × (skip, count)
//	settle   first, count     these are settled
//	refused  seq              so is this one; it is in refused.jsonl
//	run      first, count, length, time
//	                          the body, of so many bytes, is so many messages
//	part     seq, offset, size, length, time
//	                          the body, of length bytes, is what stands from offset
//	                          on of a message that takes size bytes
//
// A message in a body is its length and its block, which is drawn in message.go.
// One that takes more than a batch should is spread over the bodies of batches,
// its parts, consecutive and in one segment. It is there when all of it is: parts
// that a crash has left without an end are followed by a part with offset 0, or
// by a run. A head has at most one run or part.
//
// The first batch of each segment begins with a state, and only that. A state is
// all that is known at its place: the id of the producer, the number of the next
// message, how many were refused, the older segments that hold messages (the
// number of the first one, how many, the time of the first), and which are
// settled: all below floor, and m runs, each skip behind the end of the last. So
// a start reads the newest segment alone, and each older one can be dropped as
// soon as all its messages are settled, whatever else is in it. A message is
// settled also if its segment was dropped.
//
// The journal's checkpoint is the position of the newest state.
const (
	formatMagic   = "FerryOutbox"
	formatVersion = 1
)

const (
	recState = 1 + iota
	recSettle
	recRefused
	recRun
	recPart
)

// A segmentState is what a state says of an older segment.
type segmentState struct {
	number   uint64
	messages seqRun
	since    time.Time
}

type state struct {
	producer string
	next     uint64
	refused  uint64
	segments []segmentState
	settled  seqSet
}

// A content is a run or part: what messages the body of a batch holds.
type content struct {
	messages seqRun // empty if it holds none
	length   uint64 // of the body
	time     time.Time

	// Of a part; size is 0 for a run.
	offset, size uint64
}

// records is what a head holds.
type records struct {
	state   *state
	settled []seqRun
	refused []uint64
	content content
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendNumbers(dst []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		dst = binary.AppendUvarint(dst, n)
	}
	return dst
}

func appendState(dst []byte, s *state) []byte {
	dst = append(dst, recState)
	dst = appendText(dst, formatMagic)
	dst = appendNumbers(dst, formatVersion)
	dst = appendText(dst, s.producer)
	dst = appendNumbers(dst, s.next, s.refused, uint64(len(s.segments)))
	for _, g := range s.segments {
		m := g.messages
		dst = appendNumbers(dst, g.number, m.first, m.end-m.first, uint64(g.since.UnixMilli()))
	}
	dst = appendNumbers(dst, s.settled.floor, uint64(len(s.settled.runs)))
	end := s.settled.floor
	for _, r := range s.settled.runs {
		dst = appendNumbers(dst, r.first-end, r.end-r.first)
		end = r.end
	}
	return dst
}

func appendSettle(dst []byte, r seqRun) []byte {
	return appendNumbers(append(dst, recSettle), r.first, r.end-r.first)
}

func appendRefused(dst []byte, seq uint64) []byte {
	return appendNumbers(append(dst, recRefused), seq)
}

func appendContent(dst []byte, c content) []byte {
	at := uint64(c.time.UnixMilli())
	if c.size > 0 {
		return appendNumbers(append(dst, recPart), c.messages.first, c.offset, c.size, c.length, at)
	}
	return appendNumbers(append(dst, recRun), c.messages.first, c.messages.end-c.messages.first, c.length, at)
}

var errRecord = errors.New("a record is cut short, has an impossible value or is of an unknown kind")

// A parser takes bytes apart. The first fault sticks, and all is zero from then
// on.
type parser struct {
	b   []byte
	err error
}

func (p *parser) fail() {
	if p.err == nil {
		p.b, p.err = nil, errRecord
	}
}

func (p *parser) number() uint64 {
	n, w := binary.Uvarint(p.b)
	if w <= 0 {
		p.fail()
		return 0
	}
	p.b = p.b[w:]
	return n
}

func (p *parser) bytes() []byte {
	n := p.number()
	if n > uint64(len(p.b)) {
		p.fail()
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

// count reads how many things follow, of which each takes at least size bytes.
func (p *parser) count(size int) int {
	n := p.number()
	if n > uint64(len(p.b)/size) {
		p.fail()
		return 0
	}
	return int(n)
}

func (p *parser) time() time.Time {
	ms := p.number()
	if ms > math.MaxInt64 {
		p.fail()
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC()
}

// run reads how many numbers there are from first on, at least one.
func (p *parser) run(first uint64) seqRun {
	n := p.number()
	if first == 0 || n == 0 || first+n < first {
		p.fail()
		return seqRun{}
	}
	return seqRun{first, first + n}
}

func (p *parser) seq() uint64 { return p.run1(p.number()).first }

func (p *parser) run1(seq uint64) seqRun {
	if seq == 0 || seq == math.MaxUint64 {
		p.fail()
		return seqRun{}
	}
	return seqRun{seq, seq + 1}
}

// parse takes a head apart, into memory that r has.
func (r *records) parse(head []byte) error {
	*r = records{settled: r.settled[:0], refused: r.refused[:0]}
	p := parser{b: head}
	for first := true; len(p.b) > 0; first = false {
		kind := p.b[0]
		p.b = p.b[1:]
		switch kind {
		case recState:
			if !first {
				return errRecord
			}
			s, err := p.state()
			if err != nil {
				return err
			}
			r.state = s
		case recSettle:
			r.settled = append(r.settled, p.run(p.number()))
		case recRefused:
			r.refused = append(r.refused, p.seq())
		case recRun, recPart:
			if r.content.messages != (seqRun{}) {
				return errRecord
			}
			r.content = p.content(kind)
		default:
			return errRecord
		}
	}
	return p.err
}

func (p *parser) content(kind byte) (c content) {
	if kind == recRun {
		c.messages = p.run(p.number())
	} else {
		c.messages = p.run1(p.number())
		c.offset, c.size = p.number(), p.number()
	}
	c.length = p.number()
	if kind == recPart && (c.offset >= c.size || c.length == 0 || c.length > c.size-c.offset) {
		p.fail()
	}
	c.time = p.time()
	return c
}

func (p *parser) state() (*state, error) {
	if string(p.bytes()) != formatMagic {
		return nil, errors.New("this is the journal of something else than an outbox")
	}
	if v := p.number(); p.err == nil && v != formatVersion {
		return nil, fmt.Errorf("unknown version %d of the format, this program reads version %d", v, formatVersion)
	}
	s := &state{producer: string(p.bytes()), next: p.seq(), refused: p.number()}
	for range p.count(4) {
		g := segmentState{number: p.number()}
		g.messages = p.run(p.number())
		g.since = p.time()
		if n := len(s.segments); n > 0 && (s.segments[n-1].number >= g.number || s.segments[n-1].messages.end > g.messages.first) {
			p.fail()
		}
		if g.messages.end > s.next {
			p.fail()
		}
		s.segments = append(s.segments, g)
	}
	s.settled.floor = p.seq()
	end := s.settled.floor
	for range p.count(2) {
		skip := p.number()
		r := p.run(end + skip)
		if skip == 0 || end+skip < end {
			p.fail()
		}
		s.settled.runs = append(s.settled.runs, r)
		end = r.end
	}
	if end > s.next {
		p.fail()
	}
	return s, p.err
}
