package file

import (
	"encoding/binary"
	"testing"
)

// FuzzSegment opens a journal of one damaged segment, which must not crash
// whatever the bytes are, and dumps it.
func FuzzSegment(f *testing.F) {
	for _, p := range sampleSegments(f) {
		f.Add(p, uint16(0), byte(0))
		f.Add(p, uint16(70), byte(1))
		f.Add(p, uint16(len(p)-9), byte(1))
	}
	f.Add([]byte{}, uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, p []byte, at uint16, flip byte) {
		if int(at) < len(p) {
			p[at] ^= flip
		}
		checkSegment(t, p)
	})
}

// FuzzSummedSegment is FuzzSegment with checksums that are right, so that what
// stands behind them is reached.
func FuzzSummedSegment(f *testing.F) {
	for _, p := range sampleSegments(f) {
		f.Add(p, uint16(0), byte(0))
		for at := uint16(fileHeaderSize); int(at) < len(p) && at < fileHeaderSize+recordHeaderSize; at += 4 {
			f.Add(p, at, byte(1))
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, at uint16, flip byte) {
		if int(at) < len(p) {
			p[at] ^= flip
		}
		sum(p)
		checkSegment(t, p)
	})
}

// sum makes the checksums of a segment right, as far as there are records.
func sum(p []byte) {
	if len(p) < fileHeaderSize {
		return
	}
	binary.LittleEndian.PutUint32(p[12:], fileHeaderChecksum(p))
	for p = p[fileHeaderSize:]; ; {
		h, ok := parseRecordHeader(p)
		if !ok || h.size() > int64(len(p)) {
			return
		}
		table, body := p[h.tableAt():h.bodyAt()], p[h.bodyAt():][:h.bodyLen]
		copy(table, appendTable(nil, [][]byte{body}))
		putRecordHeader(p, &h, checksum(p[recordHeaderSize:h.bodyAt()]))
		p = p[h.size():]
	}
}

// checkSegment opens a journal of one segment, and dumps it.
func checkSegment(t *testing.T, p []byte) {
	t.Helper()
	files := map[string][]byte{segmentName(1): p}
	if err := Dump(medium(t, files), testDir, func(Part) error { return nil }); err != nil {
		t.Errorf("dump: %v", err)
	}
	m := medium(t, files)
	got, _, err := readAll(m)
	if err == nil {
		// What was found once is found again, and nothing more is cut.
		again, cut, err := readAll(m)
		if err == nil {
			err = compareAll(again, got)
		}
		if err != nil || cut != 0 {
			t.Errorf("opened again: %d bytes cut, %v", cut, err)
		}
	}
	sealedOnly(t, p)
}

// sampleSegments are one that is open, the beginning of it, and a sealed one.
func sampleSegments(f *testing.F) [][]byte {
	m := newMem(f)
	j := mustOpen(f, m)
	for p := uint64(1); p <= 3; p++ {
		if err := appendAll(j, makeBatch(p, 1, 'a')); err != nil {
			f.Fatal(err)
		}
	}
	open := contents(f, m)[segmentName(1)]
	if err := appendAll(j, makeBatch(4, 2, 'a')); err != nil {
		f.Fatal(err)
	}
	mustClose(f, j)
	end := j.segments[0].bytes
	sealed := contents(f, m)[segmentName(1)]
	return [][]byte{open, open[:300], sealed[:end]}
}

// sealedOnly reads a segment as if it were not the newest.
func sealedOnly(t *testing.T, p []byte) {
	m := medium(t, map[string][]byte{segmentName(1): p})
	f, err := m.OpenRead(testDir + "/" + segmentName(1))
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := readSealed(f, foundSegment{1, int64(len(p))})
	if err == nil && (s.last < s.first || s.sealAt <= 0) {
		t.Errorf("a sealed segment without batches: %+v", s)
	}
	if _, err := readIndex(f, 1); (err == nil) != (s != nil) {
		t.Errorf("the index: %v", err)
	}
}
