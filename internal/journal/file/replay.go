package file

import (
	"context"
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/journal"
)

// Replay implements journal.Journal. It reads heads with large reads, and
// leaves out bodies that are large enough for that to be worth it.
func (j *Journal) Replay(ctx context.Context, from, to uint64, bodies bool, visit func(journal.Batch) error) error {
	if to == 0 {
		to = j.tail.Head()
	}
	from = max(from, 1)
	for from <= to {
		holder, next := j.find(from)
		if holder == nil {
			if next == nil {
				return nil
			}
			from = next.first
			continue
		}
		if from > to {
			return nil
		}
		last, err := j.replaySegment(ctx, holder, from, to, bodies, visit)
		if errors.Is(err, errGone) {
			continue // find does not return it again
		}
		if err != nil {
			return err
		}
		from = last + 1
	}
	return nil
}

// errVisit wraps an error of the visitor's, which is not the journal's.
type errVisit struct{ error }

// replaySegment returns the last position that it has read.
func (j *Journal) replaySegment(ctx context.Context, s *segment, from, to uint64, bodies bool, visit func(journal.Batch) error) (uint64, error) {
	r, err := j.readers.acquire(s)
	if errors.Is(err, errGone) {
		return 0, err
	}
	if err != nil {
		return 0, fmt.Errorf("replay journal %s: %w", j.dir, err)
	}
	defer j.readers.release(r)
	last, err := j.replayFrom(ctx, r, from, to, bodies, visit)
	var v errVisit
	if errors.As(err, &v) {
		return 0, v.error
	}
	if err != nil {
		return 0, fmt.Errorf("replay journal %s: %w", j.dir, j.located(s, err))
	}
	return last, nil
}

func (j *Journal) replayFrom(ctx context.Context, r *reader, from, to uint64, bodies bool, visit func(journal.Batch) error) (uint64, error) {
	entries, err := j.entriesOf(r)
	if err != nil {
		return 0, err
	}
	first := r.segment.first
	last := min(to, first+uint64(len(entries))-1)
	if last < from {
		return 0, &damage{0, "the index does not fit the segment"}
	}
	w := newWindow(r.file, entries[len(entries)-1].end())
	body := make([][]byte, 1)
	for position := from; position <= last; position++ {
		if err := ctx.Err(); err != nil {
			return 0, context.Cause(ctx)
		}
		e := entries[position-first]
		rec, whole, err := readEntry(w, r.segment.number, position, e, bodies)
		if err != nil {
			return 0, err
		}
		if e.superseded() {
			continue
		}
		b := rec.batch(rec.head(), nil)
		if bodies {
			body[0] = whole
			b.Body = body
		}
		if err := visit(b); err != nil {
			return 0, errVisit{err}
		}
		w.skipping(e.bodyLen())
	}
	return last, nil
}

// readEntry reads the batch that the index says is there, and its body if that
// is wanted.
func readEntry(w *window, segment, position uint64, e entry, bodies bool) (record, []byte, error) {
	at := e.recordAt()
	n := int(e.bodyAt() - at)
	all := n
	if bodies {
		all += int(e.bodyLen())
	}
	p, err := w.bytes(at, all)
	if err != nil {
		return record{}, nil, mediumError(err, at)
	}
	h, ok := parseRecordHeader(p)
	switch {
	case !ok:
		return record{}, nil, &damage{at, "no record begins here"}
	case h.bodyAt() != int64(n) || int64(h.bodyLen) != e.bodyLen():
		return record{}, nil, &damage{at, "the lengths of a record"}
	case !checkRecord(&h, p[:n]):
		return record{}, nil, &damage{at, "checksum of a record's header and head"}
	case h.position != position || h.segment != segment || h.kind != kindBatch:
		return record{}, nil, &damage{at, fmt.Sprintf("a record of position %d where %d must be", h.position, position)}
	}
	rec := record{recordHeader: h, at: at, front: p[:n:n]}
	if bodies && !checkBody(rec.table(), p[n:]) {
		return record{}, nil, &damage{at, "checksum of a batch's body"}
	}
	return rec, p[n:], nil
}
