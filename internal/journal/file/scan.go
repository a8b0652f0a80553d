package file

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ferrymq/ferry/internal/journal"
)

// A record as it was found in a file. Its bytes are valid until the window it
// came from is used again.
type record struct {
	recordHeader
	at    int64 // offset in the file
	front []byte
}

func (r *record) head() []byte  { return r.front[recordHeaderSize:][:r.headLen] }
func (r *record) table() []byte { return r.front[r.tableAt():] }
func (r *record) end() int64    { return r.at + r.size() }

// A damage is why bytes are not a record. It becomes a journal.CorruptError or
// a torn tail, as the place says.
type damage struct {
	at     int64
	reason string
}

func (d *damage) Error() string { return fmt.Sprintf("offset %d: %s", d.at, d.reason) }

// errEnd says that the file ends where a record could begin.
var errEnd = errors.New("end of the file")

// errZeros says that a record could begin here, but zeros do.
var errZeros = errors.New("zeros")

// readRecord reads the record at offset at, without its body. The error is
// errEnd at the end of the file, errZeros, a *damage, or that of the medium.
func readRecord(w *window, at int64) (record, error) {
	if at == w.size {
		return record{}, errEnd
	}
	if at+recordHeaderSize > w.size {
		p, err := w.bytes(at, int(w.size-at))
		if err != nil {
			return record{}, mediumError(err, at)
		}
		if isZero(p) {
			return record{}, errZeros
		}
		return record{}, &damage{at, "the file ends within the header of a record"}
	}
	p, err := w.bytes(at, recordHeaderSize)
	if err != nil {
		return record{}, mediumError(err, at)
	}
	h, ok := parseRecordHeader(p)
	if !ok {
		if isZero(p) {
			return record{}, errZeros
		}
		return record{}, &damage{at, "no record begins here"}
	}
	if h.size() > w.size-at {
		return record{}, &damage{at, "the record is longer than the rest of the file"}
	}
	if p, err = w.bytes(at, int(h.bodyAt())); err != nil {
		return record{}, mediumError(err, at)
	}
	if !checkRecord(&h, p) {
		return record{}, &damage{at, "checksum of a record's header and head"}
	}
	return record{recordHeader: h, at: at, front: p}, nil
}

// mediumError tells a file that has become shorter from one that is not read.
func mediumError(err error, at int64) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &damage{at, "the file is shorter than it was"}
	}
	return fmt.Errorf("read at offset %d: %w", at, err)
}

func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

// A scan reads a segment file from its beginning, and knows what must come.
type scan struct {
	w      *window
	header fileHeader

	next       uint64 // position of the next batch
	epochs     journal.EpochFilter
	checkpoint uint64
	synced     uint64 // highest synced field
	end        int64  // of the last record that is as it should be
	sealed     bool   // the last record is a seal
	marked     bool   // the last record says that everything is durable
	entries    []entry
}

// openScan reads the file header. Its error is one of parseFileHeader's as a
// *damage, errVersion, or that of the medium.
func openScan(w *window, number uint64) (*scan, error) {
	if w.size < fileHeaderSize {
		return nil, &damage{0, "the file is shorter than its header"}
	}
	p, err := w.bytes(0, fileHeaderSize)
	if err != nil {
		return nil, mediumError(err, 0)
	}
	h, err := parseFileHeader(p)
	switch {
	case errors.Is(err, errVersion):
		return nil, err
	case err != nil:
		return nil, &damage{0, err.Error()}
	case h.segment != number:
		return nil, &damage{0, fmt.Sprintf("the file header says segment %d", h.segment)}
	}
	return &scan{
		w:          w,
		header:     h,
		next:       h.first,
		epochs:     journal.NewEpochFilter(h.epoch),
		checkpoint: h.checkpoint,
		end:        fileHeaderSize,
	}, nil
}

// step reads one record. Its error is that of readRecord.
func (s *scan) step() (record, error) {
	r, err := readRecord(s.w, s.end)
	if err != nil {
		return record{}, err
	}
	if err := s.expect(&r); err != nil {
		return record{}, err
	}
	s.sealed = r.kind == kindSeal
	s.synced = max(s.synced, r.synced)
	if r.kind == kindBatch {
		superseded := s.epochs.Superseded(r.epoch)
		if !superseded {
			s.checkpoint = r.checkpoint
		}
		s.entries = append(s.entries, newEntry(r.at, &r.recordHeader, superseded))
		s.next++
	}
	s.marked = s.synced >= s.next-1
	s.end = r.end()
	s.w.skipping(int64(r.bodyLen))
	return r, nil
}

// expect checks what the checksum cannot: that the record belongs here.
func (s *scan) expect(r *record) error {
	want := s.next
	switch r.kind {
	case kindBatch:
		if int64(r.headLen)+int64(r.bodyLen) > MaxBatch {
			return &damage{r.at, "a batch larger than any"}
		}
	case kindMark, kindSeal:
		want--
	default:
		return &damage{r.at, fmt.Sprintf("a record of kind %d", r.kind)}
	}
	switch {
	case r.segment != s.header.segment:
		return &damage{r.at, fmt.Sprintf("a record of segment %d", r.segment)}
	case r.journal != uint32(s.header.journal):
		return &damage{r.at, "a record of another journal"}
	case r.position != want:
		return &damage{r.at, fmt.Sprintf("position %d where %d must be", r.position, want)}
	case r.synced > want, r.kind == kindBatch && r.synced >= want:
		return &damage{r.at, "a record that says what is behind it is durable"}
	case r.kind == kindSeal && s.next == s.header.first:
		return &damage{r.at, "a seal without a batch before it"}
	}
	return nil
}

// all reads to the end. It returns nil if the records are followed by nothing
// but zeros, a *damage if by something else, or the medium's error.
func (s *scan) all() error {
	for {
		_, err := s.step()
		switch {
		case err == nil:
		case errors.Is(err, errEnd):
			return nil
		case errors.Is(err, errZeros):
			n, err := lastNonZero(s.w, s.end)
			if err == nil && n > s.end {
				err = &damage{s.end, "something other than zeros follows the last record"}
			}
			return err
		default:
			return err
		}
	}
}

// bodies verifies the bodies of the batches that are not known to be durable.
func (s *scan) bodies() error {
	for i, e := range s.entries {
		if s.header.first+uint64(i) <= s.synced {
			continue
		}
		r, err := readRecord(s.w, e.recordAt())
		if err != nil {
			return err
		}
		table := append([]byte(nil), r.table()...)
		body, err := s.w.bytes(e.bodyAt(), int(e.bodyLen()))
		if err != nil {
			return mediumError(err, e.bodyAt())
		}
		if !checkBody(table, body) {
			return &damage{e.recordAt(), "checksum of a batch's body"}
		}
	}
	return nil
}

// lastNonZero returns the offset behind the last byte from at on that is not
// zero, at if there is none.
func lastNonZero(w *window, at int64) (int64, error) {
	last := at
	for at < w.size {
		n := int(min(w.size-at, windowMax))
		p, err := w.bytes(at, n)
		if err != nil {
			return 0, mediumError(err, at)
		}
		if !isZero(p) {
			last = at + int64(len(bytes.TrimRight(p, "\x00")))
		}
		at += int64(n)
	}
	return last, nil
}

// findSynced looks behind a damage for a record that says that position was
// durable: then what is missing was not lost in a crash.
func findSynced(w *window, at int64, h *fileHeader, position uint64) (bool, error) {
	found, err := findRecord(w, at, h, func(c *recordHeader) bool { return c.synced >= position })
	return found >= 0, err
}

// findRecord returns the offset of the next whole record of the same segment,
// behind offset at, that is wanted; -1 if there is none. It may begin at any
// multiple of 8.
func findRecord(w *window, at int64, h *fileHeader, wanted func(*recordHeader) bool) (int64, error) {
	for at = align8(at + 1); at+recordHeaderSize <= w.size; {
		n := int(min(w.size-at, windowMax))
		p, err := w.bytes(at, n)
		if err != nil {
			return -1, mediumError(err, at)
		}
		i := findCandidate(p, h, wanted)
		if i < 0 {
			if at+int64(n) == w.size {
				break
			}
			at += int64(n) - recordHeaderSize
			continue
		}
		at += int64(i)
		_, err = readRecord(w, at)
		if err == nil {
			return at, nil
		}
		var d *damage
		if !errors.As(err, &d) {
			return -1, err
		}
		at += 8
	}
	return -1, nil
}

// findCandidate returns where in p a header begins that is wanted, -1 if none
// does. Its checksum is not looked at.
func findCandidate(p []byte, h *fileHeader, wanted func(*recordHeader) bool) int {
	for i := 0; i+recordHeaderSize <= len(p); i += 8 {
		if binary.LittleEndian.Uint32(p[i:]) != recordMagic {
			continue
		}
		c, _ := parseRecordHeader(p[i:])
		if c.segment == h.segment && c.journal == uint32(h.journal) && wanted(&c) {
			return i
		}
	}
	return -1
}
