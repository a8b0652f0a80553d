package stompws

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// cutAll gives a stream to a cutter in pieces of n bytes.
func cutAll(stream string, n int) (messages []string, left string) {
	var c cutter
	for piece := range slices.Chunk([]byte(stream), max(n, 1)) {
		for in := bytes.Clone(piece); len(in) > 0; {
			var message []byte
			if message, in = c.next(in); message != nil {
				messages = append(messages, string(message))
			}
		}
	}
	return messages, string(c.frame)
}

func TestCutter(t *testing.T) {
	large := "MESSAGE\ncontent-length:100000\n\n" + strings.Repeat("\x00\n", 50000) + "\x00"
	for _, row := range []struct {
		name     string
		messages []string
		left     string
	}{
		{"nothing", nil, ""},
		{"heart-beats", []string{"\n", "\n", "\r\n", "\n"}, ""},
		{"frames", []string{"CONNECTED\nversion:1.2\n\n\x00", "RECEIPT\nreceipt-id:1\n\n\x00"}, ""},
		{"a body of its length", []string{"MESSAGE\nx:y\ncontent-length:3\n\n\x00\n\x00\x00", "\n"}, ""},
		{"a body of no length", []string{"MESSAGE\n\nhello\n\x00", "\n", "A\n\n\x00"}, ""},
		{"an empty body of its length", []string{"MESSAGE\ncontent-length:0\n\n\x00", "\n"}, ""},
		{"carriage returns", []string{"MESSAGE\r\ncontent-length:2\r\n\r\n\x00\x00\x00", "\n"}, ""},
		{"the first length counts", []string{"MESSAGE\ncontent-length:1\ncontent-length:7\n\n\x00\x00"}, ""},
		{"no length", []string{"MESSAGE\nx-content-length:7\ncontent-length:-1\n\n\x00", "\n"}, ""},
		{"large", []string{"\n", large, "A\n\n\x00", large}, ""},
		{"begun", []string{"\n"}, "MESSAGE\ncontent-length:5\n\n123"},
		{"its head begun", []string{"A\n\n\x00"}, "MESSAGE\ncontent-length"},
		{"not ended", nil, "A\n\nxyz"},
	} {
		t.Run(row.name, func(t *testing.T) {
			stream := strings.Join(row.messages, "") + row.left
			for _, n := range []int{1, 2, 3, 7, 100, len(stream)} {
				if n == 1 && len(stream) > 1000 {
					continue
				}
				messages, left := cutAll(stream, n)
				if !slices.Equal(messages, row.messages) || left != row.left {
					t.Errorf("in pieces of %d: got %d messages %.200q and %q", n, len(messages), fmt.Sprint(messages), left)
				}
			}
		})
	}
}

// Room for a large frame is not kept.
func TestCutterGivesRoomBack(t *testing.T) {
	var c cutter
	frame := "MESSAGE\ncontent-length:1000000\n\n" + strings.Repeat("x", 1000000) + "\x00"
	c.next([]byte(frame[:100]))
	if m, _ := c.next([]byte(frame[100:])); string(m) != frame {
		t.Fatal("not the frame")
	}
	if cap(c.frame) > keepMost {
		t.Errorf("%d bytes are kept while nothing comes", cap(c.frame))
	}
	c.next([]byte("A\n\n"))
	if cap(c.frame) > keep {
		t.Errorf("%d bytes are kept", cap(c.frame))
	}
}

// FuzzCutter: whatever comes, in whatever pieces, nothing is lost, and what is whole
// does not depend on the pieces.
func FuzzCutter(f *testing.F) {
	for _, stream := range []string{"", "\n\n", "A\n\n\x00", "MESSAGE\ncontent-length:3\n\n\x00\x00\x00\x00\r\n", "A\ncontent-length:99\n\nx", "\x00\n\n\x00", "A\ncontent-length:99999999999999999999\n\n\x00"} {
		f.Add([]byte(stream), byte(1))
		f.Add([]byte(stream), byte(5))
	}
	f.Fuzz(func(t *testing.T, stream []byte, n byte) {
		whole, left := cutAll(string(stream), len(stream))
		if got := strings.Join(whole, "") + left; got != string(stream) {
			t.Fatalf("%q becomes %q", stream, got)
		}
		pieces, rest := cutAll(string(stream), int(n))
		if !slices.Equal(pieces, whole) || rest != left {
			t.Fatalf("in pieces of %d: %q %q, whole: %q %q", n, pieces, rest, whole, left)
		}
	})
}
