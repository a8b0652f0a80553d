package file

import (
	"errors"
	"fmt"
	"io"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

// A recovery finds out what a directory holds, and repairs what a crash can
// have done, which is little:
//
//   - files with a temporary name are from a segment that was being created;
//   - a segment without a batch is from one that was created and not used: its
//     header was durable before it had its name. Only the newest can be so;
//   - behind the last batch that was known to be durable, the newest segment
//     may hold anything. The first record that is not whole, and all behind
//     it, is the torn tail.
//
// What was known to be durable is in each record's synced field, so that a
// record that is whole says of what is before it that no crash can have
// damaged it. All else that is not as it should be is corruption.
//
// A segment is sealed, and durable, before the next is created; the next one
// is durable before it has its name. Therefore every segment but the newest
// ends with its seal.
type recovery struct {
	j *Journal

	segments   []*segment
	number     uint64 // of the journal, 0 if there is no segment
	head       uint64
	segment    uint64
	epochs     journal.EpochFilter
	checkpoint uint64
	cut        int64

	// Of the newest segment.
	size   int64 // of the file
	marked bool  // its last record says that all before it is durable
}

func (r *recovery) run() error {
	found, unfinished, err := listSegments(r.j.fs, r.j.dir)
	if err != nil {
		return err
	}
	for _, name := range unfinished {
		if err := r.j.fs.Remove(r.j.path(name)); err != nil {
			return err
		}
	}
	var newest *segment
	whole := false // the newest must be whole
	for newest == nil && len(found) > 0 {
		last := found[len(found)-1]
		found = found[:len(found)-1]
		if newest, err = r.newest(last, whole); err != nil {
			return err
		}
		if newest == nil {
			if err := r.remove(last); err != nil {
				return err
			}
			whole = true
		}
	}
	for _, f := range found {
		s, err := r.sealed(f)
		if err != nil {
			return err
		}
		r.segments = append(r.segments, s)
	}
	if newest != nil {
		r.segments = append(r.segments, newest)
	}
	return r.chain()
}

// remove deletes a segment without a batch. It must not come back: the next
// one may have other positions.
func (r *recovery) remove(f foundSegment) error {
	if err := r.j.fs.Remove(r.j.path(segmentName(f.number))); err != nil {
		return err
	}
	if r.j.noSync {
		return nil
	}
	return r.j.fs.SyncDir(r.j.dir)
}

// chain checks that the segments follow each other.
func (r *recovery) chain() error {
	for i, s := range r.segments {
		if i == 0 {
			continue
		}
		before := r.segments[i-1]
		next := before.last + 1
		if s.first < next || s.first > next && s.number == before.number+1 {
			return r.corrupt(s.number, &damage{24, fmt.Sprintf(
				"the first position is %d, but segment %d ends with %d", s.first, before.number, before.last)})
		}
	}
	return nil
}

// newest reads the segment with the highest number. It returns nil if that
// has no batch and is to be removed. whole says that a later segment was there.
func (r *recovery) newest(found foundSegment, whole bool) (_ *segment, err error) {
	f, err := r.j.fs.OpenWrite(r.j.path(segmentName(found.number)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sc, cutAt, err := r.scan(f, found)
	if err != nil {
		return nil, err
	}
	cut := int64(0)
	if cutAt >= 0 {
		if cut, err = lastNonZero(newWindow(f, found.size), cutAt); err != nil {
			return nil, err
		}
		cut -= cutAt
	}
	if whole && (cut > 0 || sc == nil || !sc.sealed || sc.end != found.size) {
		return nil, r.corrupt(found.number, &damage{max(cutAt, 0), "a later segment exists, but this one has no seal at its end"})
	}
	r.cut += cut
	if sc == nil || len(sc.entries) == 0 {
		if sc != nil && sc.header.first > 1 && !r.olderExists(found.number) {
			return nil, r.corrupt(found.number, &damage{24, fmt.Sprintf(
				"the first position is %d, but nothing is before it", sc.header.first)})
		}
		return nil, nil
	}
	if r.size, err = r.settle(f, sc, found.size, cut > 0); err != nil {
		return nil, err
	}
	r.number = sc.header.journal
	r.head, r.segment = sc.next-1, found.number
	r.epochs, r.checkpoint = sc.epochs, sc.checkpoint
	r.marked = sc.marked
	return &segment{
		number:  found.number,
		first:   sc.header.first,
		last:    sc.next - 1,
		bytes:   sc.end,
		entries: sc.entries,
	}, nil
}

// olderExists says whether there is a segment before that of this number.
func (r *recovery) olderExists(number uint64) bool {
	found, _, err := listSegments(r.j.fs, r.j.dir)
	return err == nil && len(found) > 0 && found[0].number < number
}

// settle makes what was found durable, and what was cut impossible to return.
// It returns the size of the file.
func (r *recovery) settle(f vfs.File, sc *scan, size int64, cut bool) (int64, error) {
	if cut {
		size = sc.end
		if err := f.Truncate(size); err != nil {
			return 0, err
		}
	}
	if r.j.noSync {
		return size, nil
	}
	return size, f.Sync()
}

// scan reads the newest segment. cutAt is where its torn tail begins, -1 if it
// has none. The scan is nil if the file was cut before it had a header.
func (r *recovery) scan(f io.ReaderAt, found foundSegment) (sc *scan, cutAt int64, err error) {
	size := found.size
	cutAt = -1
	for {
		sc, err = openScan(newWindow(f, size), found.number)
		if err == nil {
			err = sc.all()
		}
		if err == nil {
			err = sc.bodies()
		}
		var d *damage
		switch {
		case err == nil:
			return sc, cutAt, nil
		case !errors.As(err, &d):
			return nil, 0, fmt.Errorf("segment %s: %w", segmentName(found.number), err)
		case sc == nil && found.size > fileHeaderSize:
			return nil, 0, r.corrupt(found.number, d)
		case sc == nil:
			return nil, 0, nil
		case cutAt >= 0 && d.at >= cutAt:
			return nil, 0, fmt.Errorf("segment %s: %w", segmentName(found.number), d)
		}
		durable, err := findSynced(newWindow(f, found.size), d.at, &sc.header, r.positionAt(sc, d))
		if err != nil {
			return nil, 0, err
		}
		if durable {
			return nil, 0, r.corrupt(found.number, d)
		}
		// Once more, as if the file ended there: the scan must not have seen
		// what is cut.
		size, cutAt = d.at, d.at
	}
}

// positionAt is the position of the batch that is damaged.
func (r *recovery) positionAt(sc *scan, d *damage) uint64 {
	for i, e := range sc.entries {
		if e.recordAt() >= d.at {
			return sc.header.first + uint64(i)
		}
	}
	return sc.next
}

// sealed reads the ends of a segment that is not the newest.
func (r *recovery) sealed(found foundSegment) (_ *segment, err error) {
	f, err := r.j.fs.OpenRead(r.j.path(segmentName(found.number)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s, number, err := readSealed(f, found)
	var d *damage
	switch {
	case errors.As(err, &d):
		return nil, r.corrupt(found.number, d)
	case err != nil:
		return nil, fmt.Errorf("segment %s: %w", segmentName(found.number), err)
	case r.number != 0 && number != r.number:
		return nil, r.corrupt(found.number, &damage{32, "the segment is of another journal"})
	}
	return s, nil
}

// readSealed reads header, footer and seal of a segment. It returns the number
// of the journal, too.
func readSealed(f io.ReaderAt, found foundSegment) (*segment, uint64, error) {
	w := newWindow(f, found.size)
	sc, err := openScan(w, found.number)
	if err != nil {
		return nil, 0, err
	}
	seal, err := readSeal(w, &sc.header)
	if err != nil {
		return nil, 0, err
	}
	return &segment{
		number: found.number,
		first:  sc.header.first,
		last:   seal.position,
		bytes:  found.size,
		sealAt: seal.at,
	}, sc.header.journal, nil
}

// readSeal reads the seal at the end of a file.
func readSeal(w *window, h *fileHeader) (record, error) {
	noSeal := &damage{w.size, "the segment has no seal at its end, but a later one exists"}
	if w.size < fileHeaderSize+recordHeaderSize+footerSize {
		return record{}, noSeal
	}
	p, err := w.bytes(w.size-footerSize, footerSize)
	if err != nil {
		return record{}, mediumError(err, w.size-footerSize)
	}
	at, ok := parseFooter(p)
	if !ok || at < fileHeaderSize || at > w.size-recordHeaderSize-footerSize {
		return record{}, noSeal
	}
	seal, err := readRecord(w, at)
	if errors.Is(err, errZeros) {
		err = noSeal
	}
	if err != nil {
		return record{}, err
	}
	if seal.kind != kindSeal || seal.end() != w.size || seal.segment != h.segment ||
		seal.journal != uint32(h.journal) || seal.position < h.first ||
		uint64(seal.headLen) != (seal.position-h.first+1)*entrySize {
		return record{}, &damage{at, "the seal does not fit its segment"}
	}
	return seal, nil
}

// corrupt makes a damage the error that is told.
func (r *recovery) corrupt(number uint64, d *damage) error { return r.j.corrupt(number, d) }

func (j *Journal) corrupt(number uint64, d *damage) error {
	return &journal.CorruptError{File: j.path(segmentName(number)), Offset: d.at, Reason: d.reason}
}
