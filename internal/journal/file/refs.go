package file

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
)

const (
	// maxGap is what is read in vain rather than reading twice, in bytes: from
	// the page cache a call costs about as much as copying that.
	maxGap = 4 << 10
	// maxRun is how much is read at once, in bytes, unless one ref is larger.
	maxRun = 1 << 20
	// slabSize is how much memory one small result can keep from being freed
	// while the caller keeps it, in bytes. Results of slabAlone or more have
	// memory of their own.
	slabSize  = 64 << 10
	slabAlone = 16 << 10
)

// ReadRefs implements journal.Journal. Refs are read in the order of the file,
// with neighbours together, and each is verified: of the bodies, pieces of
// 4096 bytes have a checksum each, so that a ref costs at least that much.
func (j *Journal) ReadRefs(ctx context.Context, refs []journal.Ref) ([][]byte, error) {
	r := refReader{ctx: ctx, j: j, refs: refs, results: make([][]byte, len(refs))}
	if err := r.read(); err != nil {
		return nil, fmt.Errorf("read journal %s: %w", j.dir, err)
	}
	return r.results, nil
}

// A refReader serves one ReadRefs.
type refReader struct {
	ctx     context.Context
	j       *Journal
	refs    []journal.Ref
	results [][]byte

	order   []int32 // refs by position and offset; nil if they are so already
	slab    []byte
	ahead   int // bytes of small results that are not yet in a slab
	extents []extent
	table   []byte // of the batch at hand
}

// An extent is a part of the file that will be asked for.
type extent struct{ at, end int64 }

func (r *refReader) read() error {
	less := func(a, b journal.Ref) int {
		if c := cmp.Compare(a.Position, b.Position); c != 0 {
			return c
		}
		return cmp.Compare(a.Offset, b.Offset)
	}
	if !slices.IsSortedFunc(r.refs, less) {
		r.order = make([]int32, len(r.refs))
		for i := range r.order {
			r.order[i] = int32(i)
		}
		slices.SortFunc(r.order, func(a, b int32) int { return less(r.refs[a], r.refs[b]) })
	}
	for i := range r.refs {
		if n := r.refs[i].Length; n < slabAlone {
			r.ahead += int(n)
		}
	}
	for i := 0; i < len(r.refs); {
		if err := r.ctx.Err(); err != nil {
			return context.Cause(r.ctx)
		}
		n, err := r.segment(i)
		if err != nil {
			return err
		}
		i = n
	}
	return nil
}

// at returns the i-th ref in the order of the log, and its place in refs.
func (r *refReader) at(i int) (journal.Ref, int) {
	if r.order != nil {
		i = int(r.order[i])
	}
	return r.refs[i], i
}

// segment reads the refs from the i-th on that are in the same segment. It
// returns the index of the first that is not.
func (r *refReader) segment(i int) (int, error) {
	ref, _ := r.at(i)
	s, _ := r.j.find(ref.Position)
	if s == nil {
		if head := r.j.tail.Head(); ref.Position == 0 || ref.Position > head {
			return 0, fmt.Errorf("position %d: the last durable one is %d", ref.Position, head)
		}
		return 0, fmt.Errorf("position %d: %w", ref.Position, journal.ErrDropped)
	}
	open, err := r.j.readers.acquire(s)
	if errors.Is(err, errGone) {
		return 0, fmt.Errorf("position %d: %w", ref.Position, journal.ErrDropped)
	}
	if err != nil {
		return 0, err
	}
	defer r.j.readers.release(open)
	entries, err := r.j.entriesOf(open)
	if err != nil {
		return 0, err
	}
	end := i
	for ; end < len(r.refs); end++ {
		if ref, _ := r.at(end); ref.Position-s.first >= uint64(len(entries)) {
			break
		}
	}
	if end == i {
		return 0, &damage{0, "the index does not fit the segment"}
	}
	if err := r.plan(i, end, s.first, entries); err != nil {
		return 0, err
	}
	f := newFetcher(open.file, r.extents)
	defer f.close()
	return end, r.j.located(s, r.fetch(f, i, end, s.first, entries))
}

// chunks returns the numbers of the first chunk of a ref and of that behind
// the last.
func chunks(ref journal.Ref) (first, end int64) {
	return int64(ref.Offset) / chunkSize, (int64(ref.Offset) + int64(ref.Length) + chunkSize - 1) / chunkSize
}

// plan collects what must be read for the refs from i to end, in the order in
// which fetch will ask for it.
func (r *refReader) plan(i, end int, first uint64, entries []entry) error {
	r.extents = r.extents[:0]
	for i < end {
		ref, _ := r.at(i)
		e := entries[ref.Position-first]
		n := i
		last := int64(0) // chunk of the batch behind those that are asked for
		for ; n < end; n++ {
			other, _ := r.at(n)
			if other.Position != ref.Position {
				break
			}
			if int64(other.Offset)+int64(other.Length) > e.bodyLen() {
				return fmt.Errorf("position %d: bytes %d to %d of a body of %d", other.Position,
					other.Offset, int64(other.Offset)+int64(other.Length), e.bodyLen())
			}
			_, c := chunks(other)
			last = max(last, c)
		}
		c, _ := chunks(ref)
		if last > c {
			r.extents = append(r.extents, tableExtent(e, c, last))
		}
		for ; i < n; i++ {
			other, _ := r.at(i)
			if other.Length == 0 {
				continue
			}
			x := bodyExtent(e, other)
			if k := &r.extents[len(r.extents)-1]; x.at < k.end && x.at >= k.at {
				k.end = max(k.end, x.end)
				continue
			}
			r.extents = append(r.extents, x)
		}
	}
	return nil
}

// tableExtent is where the checksums of some chunks are.
func tableExtent(e entry, first, end int64) extent {
	at := e.bodyAt() - tableSize(e.bodyLen())
	return extent{at + 4*first, at + 4*end}
}

// bodyExtent is where the chunks of a ref are.
func bodyExtent(e entry, ref journal.Ref) extent {
	first, end := chunks(ref)
	return extent{e.bodyAt() + first*chunkSize, e.bodyAt() + min(end*chunkSize, e.bodyLen())}
}

// fetch reads, verifies and copies the refs from i to end.
func (r *refReader) fetch(f *fetcher, i, end int, first uint64, entries []entry) error {
	position := uint64(0)
	var verified, tableFrom int64
	for ; i < end; i++ {
		ref, place := r.at(i)
		if ref.Length == 0 {
			r.results[place] = []byte{}
			continue
		}
		e := entries[ref.Position-first]
		if ref.Position != position {
			position = ref.Position
			tableFrom, _ = chunks(ref)
			verified = tableFrom
			if err := r.loadTable(f, e, i, end); err != nil {
				return err
			}
		}
		x := bodyExtent(e, ref)
		p, err := f.bytes(x)
		if err != nil {
			return mediumError(err, x.at)
		}
		from, to := chunks(ref)
		for c := max(from, verified); c < to; c++ {
			chunk := p[(c-from)*chunkSize:]
			chunk = chunk[:min(len(chunk), chunkSize)]
			if binary.LittleEndian.Uint32(r.table[4*(c-tableFrom):]) != checksum(chunk) {
				return &damage{x.at + (c-from)*chunkSize, fmt.Sprintf("checksum of the body of position %d", position)}
			}
		}
		verified = max(verified, to)
		r.results[place] = r.own(p[int64(ref.Offset)-from*chunkSize:][:ref.Length])
	}
	return nil
}

// loadTable reads the checksums that the refs from i on to the same batch need.
func (r *refReader) loadTable(f *fetcher, e entry, i, end int) error {
	ref, _ := r.at(i)
	first, last := chunks(ref)
	for n := i + 1; n < end; n++ {
		other, _ := r.at(n)
		if other.Position != ref.Position {
			break
		}
		_, c := chunks(other)
		last = max(last, c)
	}
	x := tableExtent(e, first, last)
	p, err := f.bytes(x)
	if err != nil {
		return mediumError(err, x.at)
	}
	r.table = append(r.table[:0], p...)
	return nil
}

// own returns a copy that belongs to the caller.
func (r *refReader) own(p []byte) []byte {
	if len(p) >= slabAlone {
		return append(make([]byte, 0, len(p)), p...)
	}
	if cap(r.slab)-len(r.slab) < len(p) {
		r.slab = make([]byte, 0, max(len(p), min(r.ahead, slabSize)))
	}
	r.ahead -= len(p)
	at := len(r.slab)
	r.slab = append(r.slab, p...)
	return r.slab[at:len(r.slab):len(r.slab)]
}

// A fetcher reads extents, which it is asked for in their order, and those
// that are near each other together.
type fetcher struct {
	r       io.ReaderAt
	extents []extent
	next    int // the first extent that does not end before what is in buf
	at      int64
	buf     []byte
	pooled  *[]byte
}

var fetchBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, maxRun)
	return &b
}}

func newFetcher(r io.ReaderAt, extents []extent) *fetcher {
	p := fetchBuffers.Get().(*[]byte)
	return &fetcher{r: r, extents: extents, pooled: p}
}

func (f *fetcher) close() { fetchBuffers.Put(f.pooled) }

// bytes returns what an extent, or a part of one, holds, until the next call.
func (f *fetcher) bytes(x extent) ([]byte, error) {
	if x.at < f.at || x.end > f.at+int64(len(f.buf)) {
		if err := f.fill(x); err != nil {
			return nil, err
		}
	}
	return f.buf[x.at-f.at : x.end-f.at], nil
}

func (f *fetcher) fill(x extent) error {
	end := x.end
	for f.next < len(f.extents) {
		n := f.extents[f.next]
		if n.at > end+maxGap {
			break
		}
		if n.end-x.at > maxRun {
			// As much of it as one read takes; the rest is asked for later.
			end = max(end, x.at+maxRun)
			break
		}
		end = max(end, n.end)
		f.next++
	}
	n := int(end - x.at)
	f.buf = (*f.pooled)[:0]
	if n > cap(f.buf) {
		f.buf = make([]byte, 0, n) // one ref that is larger than a run
	}
	f.at, f.buf = x.at, f.buf[:n]
	m, err := f.r.ReadAt(f.buf, f.at)
	if m == n {
		return nil
	}
	f.buf = f.buf[:0]
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
