package file

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

// A Part is something that Dump found in a journal's files.
type Part struct {
	File   string
	Kind   string // "segment", "batch", "mark", "seal", "zeros" or "damage"
	Offset int64
	Size   int64 // bytes; of a segment the size of the file

	// Batch is set for batches, without the body. Marks, seals and segments
	// have those of its fields that they hold: a segment's position is its
	// first batch's, and its epoch and checkpoint are those before it.
	Batch      journal.Batch
	BodySize   int
	Synced     uint64 // the log was durable up to here when this was written
	Superseded bool

	// Damage is why this part is not as it should be, "" if it is. A batch
	// with damage has a body that its checksums do not fit.
	Damage string
}

// Dump shows what the files of a journal hold, in the order of the segments. It
// changes nothing, takes no lock, and does not end at damage. Of a journal that
// is in use, what is being written may look torn. What visit gets is valid
// until it returns; its error ends the dump and is returned.
func Dump(fsys vfs.FS, dir string, visit func(Part) error) error {
	found, _, err := listSegments(fsys, dir)
	if err != nil {
		return fmt.Errorf("dump journal %s: %w", dir, err)
	}
	for _, s := range found {
		d := dumper{name: filepath.Join(dir, segmentName(s.number)), visit: visit}
		err := d.file(fsys, s)
		var v errVisit
		if errors.As(err, &v) {
			return v.error
		}
		if err != nil {
			return fmt.Errorf("dump journal %s: %w", dir, err)
		}
	}
	return nil
}

type dumper struct {
	name  string
	visit func(Part) error
}

func (d *dumper) show(p Part) error {
	p.File = d.name
	if err := d.visit(p); err != nil {
		return errVisit{err}
	}
	return nil
}

func (d *dumper) file(fsys vfs.FS, found foundSegment) (err error) {
	f, err := fsys.OpenRead(d.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	segment := Part{Kind: "segment", Size: found.size, Batch: journal.Batch{Segment: found.number}}
	sc, err := openScan(newWindow(f, found.size), found.number)
	var bad *damage
	switch {
	case errors.As(err, &bad), errors.Is(err, errVersion):
		segment.Damage = err.Error()
		return d.show(segment)
	case err != nil:
		return err
	}
	h := sc.header
	segment.Batch.Position, segment.Batch.Epoch, segment.Batch.Checkpoint = h.first, h.epoch, h.checkpoint
	if err := d.show(segment); err != nil {
		return err
	}
	return d.records(sc)
}

// records shows a segment's records.
func (d *dumper) records(sc *scan) error {
	for {
		at := sc.end
		r, err := sc.step()
		var bad *damage
		switch {
		case err == nil:
			err = d.record(sc, &r)
		case errors.Is(err, errEnd):
			return nil
		case errors.Is(err, errZeros):
			var end int64
			end, err = lastNonZero(sc.w, at)
			if err == nil && end == at {
				return d.show(Part{Kind: "zeros", Offset: at, Size: sc.w.size - at})
			}
			if err == nil {
				err = d.damage(sc, &damage{at, "zeros, with something behind them"})
			}
		case errors.As(err, &bad):
			err = d.damage(sc, bad)
		}
		if err != nil {
			return err
		}
	}
}

var kindNames = map[uint32]string{kindBatch: "batch", kindMark: "mark", kindSeal: "seal"}

func (d *dumper) record(sc *scan, r *record) error {
	p := Part{
		Kind:     kindNames[r.kind],
		Offset:   r.at,
		Size:     r.size(),
		Batch:    r.batch(nil, nil),
		BodySize: int(r.bodyLen),
		Synced:   r.synced,
	}
	// The window is used again for the body.
	front := append([]byte(nil), r.front...)
	body, err := sc.w.bytes(r.at+r.bodyAt(), int(r.bodyLen))
	if err != nil {
		return mediumError(err, r.at)
	}
	if !checkBody(front[r.tableAt():], body) {
		p.Damage = "checksum of the body"
	}
	if r.kind == kindBatch {
		p.Batch.Head = front[recordHeaderSize:][:r.headLen]
		p.Superseded = sc.entries[len(sc.entries)-1].superseded()
		// A dump needs no index.
		sc.entries = sc.entries[:0]
	}
	return d.show(p)
}

// damage shows a damage and moves the scan to the next record that is whole.
func (d *dumper) damage(sc *scan, bad *damage) error {
	next, err := findRecord(sc.w, bad.at, &sc.header, func(*recordHeader) bool { return true })
	if err != nil {
		return err
	}
	if next < 0 {
		next = sc.w.size
	} else {
		r, err := readRecord(sc.w, next)
		if err != nil {
			return err
		}
		sc.next = r.position
		if r.kind != kindBatch {
			sc.next++
		}
	}
	sc.end = next
	return d.show(Part{Kind: "damage", Offset: bad.at, Size: next - bad.at, Damage: bad.reason})
}
