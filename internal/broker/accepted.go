package broker

import (
	"cmp"
	"encoding/binary"
	"slices"
)

const (
	acceptedRunsMax = 64 // runs of numbers that are remembered of a producer

	// acceptedOverhead is the most that a record of one run takes beside its
	// names, bytes.
	acceptedOverhead = 1 + 3 + 3*binary.MaxVarintLen64
)

// A span is a run of numbers, both ends included; none begins with 0.
type span struct{ first, last uint64 }

// accepted is a set of numbers as runs, in ascending order, none next to
// another. It has acceptedRunsMax at most, and forgets the lowest for more: a
// number that it has was put into it, one that it has not may have been.
type accepted struct {
	top  span   // the highest run; zero: the set is empty
	rest []span // those below
}

func (a *accepted) has(n uint64) bool {
	if n > a.top.last {
		return false
	}
	if n >= a.top.first {
		return true
	}
	i, _ := slices.BinarySearchFunc(a.rest, n, func(s span, n uint64) int { return cmp.Compare(s.last, n) })
	return i < len(a.rest) && a.rest[i].first <= n
}

// add puts a run into the set.
func (a *accepted) add(s span) {
	switch {
	case a.top.last == 0:
		a.top = s
	case s.first > a.top.last && s.first-a.top.last == 1:
		a.top.last = s.last
	case s.first > a.top.last:
		a.rest = append(a.rest, a.top)
		a.top = s
		a.trim()
	default:
		a.merge(s)
	}
}

// merge adds a run that does not lie above all others.
func (a *accepted) merge(s span) {
	runs := make([]span, 0, len(a.rest)+2)
	a.each(func(x span) {
		switch {
		case x.last < s.first && s.first-x.last > 1:
			runs = append(runs, x)
		case x.first > s.last && x.first-s.last > 1:
			if s.last > 0 {
				runs = append(runs, s)
				s = span{}
			}
			runs = append(runs, x)
		default:
			s = span{min(s.first, x.first), max(s.last, x.last)}
		}
	})
	if s.last > 0 {
		runs = append(runs, s)
	}
	a.top, a.rest = runs[len(runs)-1], runs[:len(runs)-1]
	a.trim()
}

func (a *accepted) trim() {
	if n := len(a.rest) + 1 - acceptedRunsMax; n > 0 {
		a.rest = a.rest[:copy(a.rest, a.rest[n:])]
	}
	if len(a.rest) == 0 {
		a.rest = nil
	}
}

func (a *accepted) each(visit func(span)) {
	for _, s := range a.rest {
		visit(s)
	}
	if a.top.last > 0 {
		visit(a.top)
	}
}

// appendAccepted encodes what was accepted of a producer, without the kind of
// the record.
func appendAccepted(dst []byte, vhost, name string, rest []span, top span) []byte {
	dst = appendText(appendText(dst, vhost), name)
	dst = binary.AppendUvarint(dst, uint64(len(rest)+1))
	end := uint64(0)
	for i := range len(rest) + 1 {
		s := top
		if i < len(rest) {
			s = rest[i]
		}
		dst = binary.AppendUvarint(dst, s.first-end)
		dst = binary.AppendUvarint(dst, s.last-s.first+1)
		end = s.last + 1
	}
	return dst
}

// acceptedRun reads one run of such a record; end is behind the one before.
func (r *reader) acceptedRun(end uint64) (s span, next uint64) {
	skip, n := r.num(), r.num()
	s.first = end + skip
	s.last = s.first + n - 1
	if r.err == nil && (s.first < end || s.first == 0 || n == 0 || s.last < s.first) {
		r.b, r.err = nil, errRecord
	}
	return s, s.last + 1
}

// recordLocked describes the producer for a checkpoint; nil: there is nothing
// to describe.
func (p *producer) recordLocked() []byte {
	a := &p.all
	if p.logged != nil {
		a = p.logged
	}
	if a.top.last == 0 {
		return nil
	}
	return appendAccepted(nil, p.of.vhost, p.name, a.rest, a.top)
}

// note adds the identity of a record's message, if it has one, to what was
// accepted with this batch.
func (l *log) note(bb *batchBuffers, r *record) {
	if !r.identified() {
		return
	}
	if r.ext.window != nil {
		l.noteIDs(r.ext)
	}
	p := r.ext.from
	if p == nil {
		return
	}
	switch b := &p.batch; {
	case b.last == 0:
		*b = span{r.n, r.n}
		l.noted = append(l.noted, p)
		l.notedBytes += len(p.of.vhost) + len(p.name) + acceptedOverhead
	case r.n == b.last+1:
		b.last++
	default:
		bb.accepted = p.appendBatch(bb.accepted)
		*b = span{r.n, r.n}
	}
}

// writeNoted writes what was noted: before the batch is sent, and before a
// transaction begins, whose end may be in another batch.
func (l *log) writeNoted(bb *batchBuffers) {
	if len(l.noted) == 0 && len(l.windows) == 0 {
		return
	}
	bb.mixed = true
	bb.head = append(bb.head, bb.accepted...)
	for _, p := range l.noted {
		bb.head = p.appendBatch(bb.head)
		p.batch = span{}
	}
	clear(l.noted)
	l.noted, l.notedBytes, bb.accepted = l.noted[:0], 0, bb.accepted[:0]
	l.writeIDs(bb)
}

// appendBatch appends the record of what the open batch has of a producer.
func (p *producer) appendBatch(head []byte) []byte {
	return appendAccepted(append(head, recAccepted), p.of.vhost, p.name, nil, p.batch)
}

// accepted takes in what was accepted of a producer.
func (r *replayer) accepted(rd *reader, full bool) {
	vhost, name := rd.text(), rd.bytes()
	runs := make([]span, rd.count())
	end := uint64(0)
	for i := range runs {
		runs[i], end = rd.acceptedRun(end)
	}
	if rd.err == nil && !isProducerName(name) {
		r.fault("%q is no name of a producer", name)
		return
	}
	v := r.b.vhosts[vhost]
	if !full || v == nil || rd.err != nil || len(runs) == 0 {
		return
	}
	p := v.producers.find(name)
	for _, s := range runs {
		p.all.add(s)
	}
}
