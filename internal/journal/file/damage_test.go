package file

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
	"github.com/ferrymq/ferry/internal/vfs"
)

// contents returns the segment files.
func contents(t testing.TB, fs vfs.FS) map[string][]byte {
	t.Helper()
	entries, err := fs.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name, segmentSuffix) {
			continue
		}
		f, err := fs.OpenRead(path.Join(testDir, e.Name))
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, e.Size)
		if _, err := f.ReadAt(p, 0); err != nil && e.Size > 0 {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		files[e.Name] = p
	}
	return files
}

// medium makes a file system with these segment files.
func medium(t testing.TB, files map[string][]byte) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	if err := m.MkdirAll(testDir); err != nil {
		t.Fatal(err)
	}
	for name, p := range files {
		f, err := m.Create(path.Join(testDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// read opens a journal and returns all it holds, as replay and as refs tell it.
func readAll(fs vfs.FS) (batches []journal.Batch, cut int64, err error) {
	j, err := Open(fs, testDir, small)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	var refs []journal.Ref
	err = j.Replay(context.Background(), 0, 0, true, func(b journal.Batch) error {
		b.Head = bytes.Clone(b.Head)
		b.Body = [][]byte{bytes.Clone(b.Body[0])}
		batches = append(batches, b)
		refs = append(refs, journal.Ref{Position: b.Position, Length: uint32(len(b.Body[0]))})
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	heads := 0
	if err := j.Replay(context.Background(), 0, 0, false, func(b journal.Batch) error { heads++; return nil }); err != nil {
		return nil, 0, err
	}
	bodies, err := j.ReadRefs(context.Background(), refs)
	if err != nil {
		return nil, 0, err
	}
	for i, b := range bodies {
		if !bytes.Equal(b, batches[i].Body[0]) || heads != len(batches) {
			return nil, 0, errors.New("ReadRefs and Replay do not agree")
		}
	}
	return batches, j.Info().Cut, nil
}

func compareAll(got, want []journal.Batch) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d batches, want %d", len(got), len(want))
	}
	for i := range got {
		if err := journaltest.Same(got[i], want[i]); err != nil {
			return err
		}
	}
	return nil
}

// TestFlippedByte damages each byte of a journal that was closed.
func TestFlippedByte(t *testing.T) {
	s := tell(t)
	files := contents(t, s.fs)
	want, _, err := readAll(medium(t, files))
	if err != nil || len(want) == 0 {
		t.Fatalf("the whole journal: %d batches, %v", len(want), err)
	}
	identical := 0
	for name, whole := range files {
		for i := range whole {
			if i > 0 && i+1 < len(whole) && isZero(whole[i-1:]) {
				continue // written ahead, all alike
			}
			for _, flip := range []byte{1, 0x80, 0xff} {
				bad := bytes.Clone(whole)
				bad[i] ^= flip
				files[name] = bad
				got, cut, err := readAll(medium(t, files))
				if err != nil {
					var corrupt *journal.CorruptError
					if !errors.As(err, &corrupt) && !errors.Is(err, errVersion) {
						t.Fatalf("byte %d of %s: got %v, want a CorruptError", i, name, err)
					}
					continue
				}
				identical++
				if err := compareAll(got, want); err != nil {
					t.Fatalf("byte %d of %s was taken for good, with %d bytes cut: %v", i, name, cut, err)
				}
			}
		}
		files[name] = whole
	}
	t.Logf("%d flips that made no difference", identical)
}

// TestDamageBelowSynced damages what a later batch knows to be durable, in a
// journal that was not closed.
func TestDamageBelowSynced(t *testing.T) {
	m := newMem(t)
	j := mustOpen(t, m)
	defer mustClose(t, j)
	for p := uint64(1); p <= 3; p++ {
		if err := appendAll(j, makeBatch(p, 1, 'a')); err != nil {
			t.Fatal(err)
		}
	}
	files := contents(t, m.CrashClone(0, nil))
	name := segmentName(1)
	at := j.segments[0].entries
	for _, test := range []struct {
		batch int
		place int64 // in the record
		torn  bool
	}{
		{0, 0, false},
		{0, 60, false},
		{0, 70, false},
		{1, 4, false},
		{1, 50, false},
		{1, 66, false},
		{2, 0, true},
		{2, 50, true},
		{2, 66, true},
		{2, at[2].bodyAt() - at[2].recordAt(), true},
	} {
		bad := bytes.Clone(files[name])
		offset := at[test.batch].recordAt()
		bad[offset+test.place] ^= 0x55
		got, cut, err := readAll(medium(t, map[string][]byte{name: bad}))
		var corrupt *journal.CorruptError
		switch {
		case test.torn && (err != nil || len(got) != 2 || cut != at[2].bodyAt()+at[2].bodyLen()-offset):
			t.Errorf("byte %d of the last batch: got %d batches, %d bytes cut, %v", test.place, len(got), cut, err)
		case !test.torn && (!errors.As(err, &corrupt) || corrupt.Offset != offset || path.Base(corrupt.File) != name):
			t.Errorf("byte %d of batch %d at %d: got %v, want a CorruptError there", test.place, test.batch, offset, err)
		}
	}
}

func mustClose(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestNewestUnusable is about the newest file after a crash while it was made,
// also on file systems that keep a name without the bytes.
func TestNewestUnusable(t *testing.T) {
	m := newMem(t)
	j := mustOpen(t, m)
	if err := appendAll(j, makeBatch(1, 1, 'a'), makeBatch(2, 2, 'a')); err != nil {
		t.Fatal(err)
	}
	mustClose(t, j)
	files := contents(t, m)
	whole := files[segmentName(2)]
	want := []journal.Batch{makeBatch(1, 1, 'a')}
	for _, p := range [][]byte{nil, whole[:1], whole[:63], make([]byte, 64), whole[:64], whole[:100]} {
		files[segmentName(2)] = p
		m := medium(t, files)
		got, _, err := readAll(m)
		if err == nil {
			err = compareAll(got, want)
		}
		if err != nil {
			t.Errorf("a newest segment of %d bytes: %v", len(p), err)
			continue
		}
		j := mustOpen(t, m)
		if err := appendAll(j, makeBatch(2, 2, 'b')); err != nil {
			t.Errorf("append after a newest segment of %d bytes: %v", len(p), err)
		}
		mustClose(t, j)
	}
	// Without the seal that was durable before it, it is no crash.
	files[segmentName(2)] = whole[:64]
	files[segmentName(1)] = files[segmentName(1)][:len(files[segmentName(1)])-8]
	var corrupt *journal.CorruptError
	if _, _, err := readAll(medium(t, files)); !errors.As(err, &corrupt) {
		t.Errorf("without the seal of the segment before: got %v, want a CorruptError", err)
	}
}

func TestUnknownVersion(t *testing.T) {
	files := contents(t, tell(t).fs)
	for name, p := range files {
		old := p[8]
		p[8] = 2
		_, _, err := readAll(medium(t, files))
		if !errors.Is(err, errVersion) || !strings.Contains(err.Error(), "version") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want one that names the version and the file", name, err)
		}
		p[8] = old
	}
}

// TestMissingPositions puts a segment beside one of which an older version
// ends earlier. Their numbers leave no room for one that was dropped.
func TestMissingPositions(t *testing.T) {
	make := func(segments ...uint64) map[string][]byte {
		m := newMem(t)
		j := mustOpen(t, m)
		j.number = 5
		for i, segment := range segments {
			if err := appendAll(j, makeBatch(uint64(i)+1, segment, 'a')); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, j)
		return contents(t, m)
	}
	files := make(1, 1, 2)
	for _, other := range [][]uint64{{1, 2}, {1, 1, 1, 2}} {
		files[segmentName(1)] = make(other...)[segmentName(1)]
		var corrupt *journal.CorruptError
		if _, _, err := readAll(medium(t, files)); !errors.As(err, &corrupt) || corrupt.Offset != 24 {
			t.Errorf("after %d positions, where there were 2: got %v, want a CorruptError", len(other)-1, err)
		}
	}
}

// TestCutTailStaysAway cuts a group of which the second batch is whole, and
// puts another in the place of the first, so that the second would fit again.
func TestCutTailStaysAway(t *testing.T) {
	m := newMem(t)
	j := mustOpen(t, m)
	sized := func(position uint64, n int) journal.Batch {
		return journal.Batch{Position: position, Epoch: 1, Segment: 1, Head: []byte("h"), Body: [][]byte{bytes.Repeat([]byte{byte(n)}, n)}}
	}
	if err := appendAll(j, sized(1, 8), sized(2, 200), sized(3, 8)); err != nil {
		t.Fatal(err)
	}
	files := contents(t, m)
	second, third := j.segments[0].entries[1], j.segments[0].entries[2]
	mustClose(t, j)
	p := files[segmentName(1)][:third.end()]
	p[second.bodyAt()] ^= 1
	// As if the three were one group: the third does not know of the second.
	h, _ := parseRecordHeader(p[third.recordAt():])
	h.synced = 1
	front := p[third.recordAt():third.bodyAt()]
	putRecordHeader(front, &h, checksum(front[recordHeaderSize:]))
	m = medium(t, map[string][]byte{segmentName(1): p})
	m.Record()
	j = mustOpen(t, m)
	if info := j.Info(); info.Head != 1 || info.Cut != third.end()-second.recordAt() {
		t.Fatalf("got head %d, %d bytes cut", info.Head, info.Cut)
	}
	for n := 200; n >= 8; n -= 8 {
		left := m.CrashClone(100, nil)
		// Zeros written ahead would hide what was not cut.
		j, err := Open(left, testDir, Options{Logger: quiet, ballast: 512, ahead: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := appendAll(j, sized(2, n)); err != nil {
			t.Fatal(err)
		}
		again := mustOpen(t, left.CrashClone(100, nil))
		if head := again.Info().Head; head != 2 {
			t.Errorf("with a batch of %d bytes the head is %d, want 2", n, head)
		}
		mustClose(t, again)
		mustClose(t, j)
	}
	mustClose(t, j)
}

// TestDamagedChunk reads what is whole of a damaged body, and nothing else.
func TestDamagedChunk(t *testing.T) {
	m := newMem(t)
	j := mustOpen(t, m)
	body := make([]byte, 10*chunkSize+5)
	for i := range body {
		body[i] = byte(i / 97)
	}
	if err := appendAll(j, journal.Batch{Position: 1, Epoch: 1, Segment: 1, Body: [][]byte{body}}); err != nil {
		t.Fatal(err)
	}
	at := j.segments[0].entries[0].bodyAt()
	mustClose(t, j)
	files := contents(t, m)
	for _, place := range []int64{3 * chunkSize, 4*chunkSize - 1, 10*chunkSize + 4} {
		bad := bytes.Clone(files[segmentName(1)])
		bad[at+place] ^= 4
		j := mustOpen(t, medium(t, map[string][]byte{segmentName(1): bad}))
		for offset := uint32(0); offset < uint32(len(body)); offset += 512 {
			length := min(700, uint32(len(body))-offset)
			first, last := int64(offset)/chunkSize, int64(offset+length-1)/chunkSize
			hit := first <= place/chunkSize && place/chunkSize <= last
			got, err := j.ReadRefs(t.Context(), []journal.Ref{{Position: 1, Offset: offset, Length: length}})
			var corrupt *journal.CorruptError
			switch {
			case hit && (!errors.As(err, &corrupt) || corrupt.Offset != at+place/chunkSize*chunkSize):
				t.Errorf("byte %d is bad: reading at %d: got %v, want a CorruptError", place, offset, err)
			case !hit && (err != nil || !bytes.Equal(got[0], body[offset:][:length])):
				t.Errorf("byte %d is bad: reading at %d: %v", place, offset, err)
			}
		}
		mustClose(t, j)
	}
}

var update = flag.Bool("update", false, "write the golden files")

// goldenFiles has every field non-zero, and is written by this program.
func goldenFiles(t *testing.T) map[string][]byte {
	m := newMem(t)
	j := mustOpen(t, m)
	j.number = 0x0123456789abcdef
	golden := func(position, segment uint64, n int) journal.Batch {
		return journal.Batch{
			Position: position, Epoch: 0x1112131415161718 + position/3, Segment: segment, Checkpoint: 0x2122232425262728 + position,
			Head: []byte("head"), Body: [][]byte{bytes.Repeat([]byte("body"), n)},
		}
	}
	for _, b := range []journal.Batch{golden(1, 0xa1, 1), golden(2, 0xa1, 1100), golden(3, 0xa2, 2), golden(4, 0xa2, 3)} {
		if err := appendAll(j, b); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, j)
	return contents(t, m)
}

func TestGolden(t *testing.T) {
	files := goldenFiles(t)
	for name, p := range files {
		// Without what is written ahead.
		p = bytes.TrimRight(p, "\x00")
		p = append(p, zeros[:align8(len(p))-len(p)]...)
		files[name] = p
		golden := filepath.Join("testdata", "v1", name+".hex")
		if *update {
			if err := os.WriteFile(golden, []byte(hex.Dump(p)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if hex.Dump(p) != string(want) {
			t.Errorf("%s is not as in %s; if the format changed, so must its version", name, golden)
		}
	}
	got, cut, err := readAll(medium(t, files))
	if err != nil || cut != 0 || len(got) != 4 || got[3].Epoch != 0x1112131415161719 || len(got[1].Body[0]) != 4400 {
		t.Errorf("got %d batches, %d bytes cut, %v", len(got), cut, err)
	}
}

func TestDump(t *testing.T) {
	files := goldenFiles(t)
	show := func() (lines []string) {
		err := Dump(medium(t, files), testDir, func(p Part) error {
			damage := ""
			if p.Damage != "" {
				damage = ": damaged"
			}
			lines = append(lines, fmt.Sprintf("%s %d %d+%d%s", p.Kind, p.Batch.Position, p.Offset, p.Size, damage))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	want := "segment 1 0+4744,batch 1 64+88,batch 2 152+4480,seal 2 4632+112,segment 3 0+408,batch 3 64+88,batch 4 152+96,mark 4 248+64,zeros 0 312+96"
	if got := strings.Join(show(), ","); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	files[segmentName(0xa1)][64+70] ^= 1
	files[segmentName(0xa2)][152+90] ^= 1
	got := strings.Join(show(), ",")
	for _, part := range []string{"damage 0 64+88: damaged,batch 2", "batch 4 152+96: damaged,mark"} {
		if !strings.Contains(got, part) {
			t.Errorf("got %s\nwithout %s", got, part)
		}
	}
}
