package sqldb

import (
	"bytes"
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
)

// FuzzEscaped: what stands between the quotes ends at none of its own, and is what
// went in.
func FuzzEscaped(f *testing.F) {
	f.Add([]byte(`it's a \ and a \'`))
	f.Add([]byte("\\\x00'\xff"))
	f.Fuzz(func(t *testing.T, src []byte) {
		text := appendEscaped(nil, src)
		if len(text) > 2*len(src) {
			t.Errorf("%q grows to %d bytes", src, len(text))
		}
		var back []byte
		for i := 0; i < len(text); i++ {
			switch text[i] {
			case '\'':
				t.Fatalf("%q: the text ends at byte %d", text, i)
			case '\\':
				i++
			}
			back = append(back, text[i])
		}
		if !bytes.Equal(back, src) {
			t.Errorf("%q comes back as %q", src, back)
		}
	})
}

// FuzzRuns: joined or not, each ref gets its own bytes.
func FuzzRuns(f *testing.F) {
	f.Add([]byte{1, 0, 5, 1, 3, 9, 2, 0, 0, 1, 200, 100}, uint8(16))
	f.Add([]byte{7, 255, 255}, uint8(0))
	body := make([]byte, 600)
	for i := range body {
		body[i] = byte(i * 31)
	}
	f.Fuzz(func(t *testing.T, data []byte, gap uint8) {
		var refs []journal.Ref
		for ; len(data) >= 3; data = data[3:] {
			refs = append(refs, journal.Ref{Position: uint64(data[0]), Offset: uint32(data[1]), Length: uint32(data[2])})
		}
		found := make([][]byte, len(refs))
		for _, r := range joinRuns(refs, uint64(gap)) {
			if err := cutRun(r, body[r.offset:r.end], refs, found); err != nil {
				t.Fatal(err)
			}
		}
		for i, r := range refs {
			if want := body[r.Offset:][:r.Length]; found[i] == nil || !bytes.Equal(found[i], want) {
				t.Errorf("%+v: got %v, want %v", r, found[i], want)
			}
		}
	})
}

// TestAppendMessages pins the bytes of an append to Postgres.
func TestAppendMessages(t *testing.T) {
	a := &attempt{journalID: 7, writer: []byte("0123456789abcdef"), first: true, batch: journal.Batch{
		Position: 8, Epoch: 9, Segment: 10, Checkpoint: 11, Head: []byte("head"), Body: [][]byte{[]byte("bo"), []byte("dy")},
	}}
	got := appendBatchMessages([]byte("before"), a)
	want := []byte("before" + "B\x00\x00\x00\x95" + "ferry_portal\x00ferry_append\x00" + "\x00\x01\x00\x01" + "\x00\x0a" +
		"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x07" + "\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x08" +
		"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x09" + "\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x0a" +
		"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x0b" + "\x00\x00\x00\x100123456789abcdef" + "\x00\x00\x00\x01\x01" +
		"\x00\x00\x00\x04\x00\x00\x00\x08" + "\x00\x00\x00\x04head" + "\x00\x00\x00\x04body" + "\x00\x01\x00\x01" +
		"Q\x00\x00\x00\x1eFETCH 1 FROM ferry_portal\x00")
	if !bytes.Equal(got, want) {
		t.Errorf("got %q,\nwant %q", got, want)
	}
}
