package stompwire

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

func wantFault(t testing.TB, err error, text string, isTooLarge bool) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(e.Text, text) || e.TooLarge != isTooLarge {
		t.Errorf("got %v (%+v), want %q, too large %t", err, e, text, isTooLarge)
	}
}

// lines is n header lines.
func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "h%d:v\n", i)
	}
	return b.String()
}

// hostile is what a peer may send that is wrong. A row without a version is one
// for all of them.
var hostile = []struct {
	name     string
	version  Version
	in       string
	err      string
	tooLarge bool
}{
	{"a command that is none", 0, "HELLO\n\n\x00", `expected a STOMP command, found "H`, false},
	{"a command that is none, and no LF", 0, "X", `found "X"`, false},
	{"a command that begins like one", 0, "SENDER", `found "SENDER"`, false},
	{"a command in small letters", 0, "send\n\n\x00", `found "s`, false},
	{"a command with a space", 0, "SEND \n\n\x00", `found "SEND "`, false},
	{"a command that is cut", 0, "SEN\n\n\x00", `found "SEN"`, false},
	{"a long command", 0, strings.Repeat("S", 100), `found "SS`, false},
	{"two CRs behind a command", 0, "SEND\r\r\n\n\x00", `found "SEND\r"`, false},
	{"a CR within a command", 0, "SE\rND\n\n\x00", `found "SE\rND"`, false},
	{"a CR between frames", 0, "\rSEND\n\n\x00", `found "\rS`, false},
	{"a byte order mark", 0, "\xef\xbb\xbfCONNECT\n\n\x00", `found "\ufeffCONNECT"`, false},
	{"HTTP", 0, "GET / HTTP/1.1\r\n\r\n", `found "G`, false},
	{"a NUL within a command", 0, "SE\x00ND\n", `found "SE\x00`, false},

	{"a line without a colon", 0, "SEND\ndestination\n\n\x00", `expected a header, name:value, found "destination"`, false},
	{"a line of spaces", 0, "SEND\n  \n\n\x00", `found "  "`, false},
	{"a header without a name", 0, "SEND\n:v\n\n\x00", "found one without a name", false},
	{"a NUL in a name", 0, "SEND\na\x00b:v\n\n\x00", `a NUL before the blank line that ends the headers, in the line "a\x00"`, false},
	{"a NUL in a value", 0, "SEND\npasscode:se\x00cret\n\n\x00", `in the line "passcode:"`, false},
	{"no blank line", 0, "SEND\ndestination:/queue/a\n\x00", `a NUL before the blank line`, false},
	{"no blank line, nor an LF", 0, "SEND\ndestination:/queue/a\x00", `in the line "destination:"`, false},
	{"a body and no blank line", 0, "SEND\ndestination:/queue/a\nbody\x00\n", `a NUL before the blank line`, false},
	{"a CR in a value", 0, "SEND\npasscode:se\rcret\n\n\x00", `a CR inside a header's line, where only its end may have one: "passcode:"`, false},
	{"two CRs behind a value", 0, "SEND\na:b\r\r\n\n\x00", `a CR inside a header's line`, false},
	{"a line of two CRs", 0, "SEND\n\r\r\n\n\x00", `expected a header, name:value, found "\r"`, false},

	{"an escape that is none", V12, "SEND\na:b\\tc\n\n\x00", `STOMP 1.2 has no escape "\\t"`, false},
	{"an escape that is none, in a name", V12, "SEND\na\\tb:c\n\n\x00", `no escape "\\t"`, false},
	{"an escape in capitals", V12, "SEND\na:b\\N\n\n\x00", `no escape "\\N"`, false},
	{"an escape of 1.2 in 1.1", V11, "SEND\na:b\\rc\n\n\x00", `STOMP 1.1 has no escape "\\r"`, false},
	{"an escape that is cut", V12, "SEND\na:b\\\n\n\x00", `a backslash ends a header's line`, false},
	{"an escape that is cut by a CR", V12, "SEND\na:b\\\r\n\n\x00", `a backslash ends a header's line`, false},
	{"an escape that is cut by the colon", V12, "SEND\na\\:b\n\n\x00", `no escape "\\:"`, false},
	{"an escape behind one that is right", V11, "SEND\na:\\\\\\c\\n\\x\n\n\x00", `no escape "\\x"`, false},

	{"a negative content-length", 0, "SEND\ncontent-length:-1\n\n\x00", `expected a content-length, a number of bytes, found "-1"`, false},
	{"a negative zero", 0, "SEND\ncontent-length:-0\n\n\x00", `found "-0"`, false},
	{"a signed content-length", 0, "SEND\ncontent-length:+5\n\nhello\x00", `found "+5"`, false},
	{"a content-length in hexadecimal", 0, "SEND\ncontent-length:0x5\n\nhello\x00", `found "0x5"`, false},
	{"a content-length as a float", 0, "SEND\ncontent-length:5.0\n\nhello\x00", `found "5.0"`, false},
	{"a content-length with an exponent", 0, "SEND\ncontent-length:1e9\n\n\x00", `found "1e9"`, false},
	{"a content-length with an underscore", 0, "SEND\ncontent-length:1_0\n\n\x00", `found "1_0"`, false},
	{"a space within", 0, "SEND\ncontent-length:1 0\n\n\x00", `found "1 0"`, false},
	{"a tab in front", 0, "SEND\ncontent-length:\t5\n\nhello\x00", `found "\t5"`, false},
	{"digits of another script", 0, "SEND\ncontent-length:\u0665\n\nhello\x00", `found "\u0665"`, false},
	{"an empty content-length", 0, "SEND\ncontent-length:\n\nhello\x00", `found ""`, false},
	{"a content-length of spaces", 0, "SEND\ncontent-length:  \n\nhello\x00", `found "`, false},
	{"two content-lengths", 0, "SEND\ncontent-length:5\ncontent-length:6\n\nhello\x00", "two content-lengths, 5 and 6", false},
	{"a second that is none", 0, "SEND\ncontent-length:5\ncontent-length:x\n\nhello\x00", `found "x"`, false},
	{"a content-length that is too large", 0, "SEND\ncontent-length:16777217\n\n", "the body of a SEND frame is more than 16777216 bytes", true},
	{"a content-length of 2^31", 0, "SEND\ncontent-length:2147483648\n\n", "more than 16777216 bytes", true},
	{"a content-length of 2^32+5", 0, "SEND\ncontent-length:4294967301\n\nhello\x00", "more than 16777216 bytes", true},
	{"a content-length of 2^63", 0, "SEND\ncontent-length:9223372036854775808\n\n", "more than 16777216 bytes", true},
	{"a content-length of 2^64+5", 0, "SEND\ncontent-length:18446744073709551621\n\nhello\x00", "more than 16777216 bytes", true},
	{"a content-length of a thousand digits", 0, "SEND\ncontent-length:" + strings.Repeat("9", 1000) + "\n\n", "more than 16777216 bytes", true},
	{"a second that is too large", 0, "SEND\ncontent-length:5\ncontent-length:18446744073709551621\n\nhello\x00", "two content-lengths", false},
	{"a large body for a frame without one", 0, "SUBSCRIBE\ncontent-length:65537\n\n", "the body of a SUBSCRIBE frame is more than 65536 bytes", true},
	{"a large body before login", 0, "CONNECT\ncontent-length:65537\n\n", "the body of a CONNECT frame is more than 65536 bytes", true},
	{"a body longer than its content-length", 0, "SEND\ncontent-length:4\n\nhello\x00", `expected NUL behind a body of 4 bytes, its content-length, found "o"`, false},
	{"a body shorter than its content-length", 0, "SEND\ncontent-length:6\n\nhello\x00SEND\n", `expected NUL behind a body of 6 bytes`, false},

	{"101 headers", 0, "SEND\n" + lines(101) + "\n\x00", "a frame has more than 100 headers", true},
	{"101 headers of one name", 0, "SEND\n" + strings.Repeat("a:b\n", 101) + "\n\x00", "more than 100 headers", true},
	{"endless headers", 0, "SEND\n" + lines(100_000), "more than 100 headers", true},
	{"a line that never ends", 0, "SEND\nreceipt:" + strings.Repeat("x", 1<<20), `a header's line is more than 16384 bytes, it begins "receipt:"`, true},
	{"a long line", 0, "SEND\nreceipt:" + strings.Repeat("x", 16<<10-7) + "\n\n\x00", "a header's line is more than 16384 bytes", true},
	{"a long line without a colon", 0, "SEND\n" + strings.Repeat("x", 1<<20), `it begins "` + strings.Repeat("x", 32) + `"...`, true},
	{"a head that is too long", 0, "SEND\n" + strings.Repeat("a:"+strings.Repeat("x", 1000)+"\n", 66) + "\n\x00", "a frame's command and headers are more than 65536 bytes", true},
	{"a frame that never ends", 0, "SEND\n\n" + strings.Repeat("x", 16<<20+1), "the body of a SEND frame is more than 16777216 bytes", true},
	{"a BEGIN that never ends", 0, "BEGIN\ntransaction:t\n\n" + strings.Repeat("x", 64<<10+1), "the body of a BEGIN frame is more than 65536 bytes", true},
}

func TestHostilePeersGetAnError(t *testing.T) {
	for _, c := range hostile {
		for _, v := range versions {
			if c.version != 0 && c.version != v {
				continue
			}
			t.Run(c.name+" in "+v.String(), func(t *testing.T) {
				d := &Decoder{Version: v}
				f, rest, err := decodeFrame(d, []byte(c.in))
				wantFault(t, err, c.err, c.tooLarge)
				if len(rest) != len(c.in) || f.command != 0 {
					t.Errorf("took %d bytes: %s", len(c.in)-len(rest), f)
				}
				if err != nil && len(err.Error()) > 200 {
					t.Errorf("%d bytes of error: %s", len(err.Error()), err)
				}
				// What follows is judged by itself: nothing is left behind.
				if f, rest, err := decodeFrame(d, []byte("SEND\na:b\n\nbody\x00")); err != nil || len(rest) != 0 || f.String() != `SEND "a"="b" "body"` {
					t.Errorf("and then: %s, %q, %v", f, rest, err)
				}
			})
		}
	}
}

// A limit is reached with the byte that is too many, not when what it is a limit
// of has come to its end.
func TestLimitsAreAppliedBeforeMoreIsWaitedFor(t *testing.T) {
	for _, c := range hostile {
		if !c.tooLarge {
			continue
		}
		d := &Decoder{Version: V12}
		n, used := 0, 0
		var err error
		for used < len(c.in) && err == nil && n == 0 {
			used = min(used+1024, len(c.in))
			n, err = d.Head([]byte(c.in[:used]))
		}
		if n > 0 {
			continue // a body: the fuzz test and the one below have it
		}
		wantFault(t, err, c.err, true)
		if used > DefaultHead+1024 {
			t.Errorf("%s: only after %d bytes", c.name, used)
		}
	}
}

func TestUnknownCommandsAreMarked(t *testing.T) {
	var d Decoder
	for in, want := range map[string]bool{"HELLO\n": true, "X": true, "SEND\nx\n": false} {
		_, err := d.Head([]byte(in))
		if e, ok := errors.AsType[*Error](err); !ok || e.UnknownCommand != want {
			t.Errorf("%q: %+v", in, err)
		}
	}
}

// What may still become a frame is not an error.
func TestIncompleteFramesAreWaitedFor(t *testing.T) {
	for _, in := range []string{
		"", "\n", "\r", "\r\n", "\n\r", "\x00", "S", "SEND", "SEND\r", "SEND\n", "SEND\r\n", "SEND\na", "SEND\na:b", "SEND\na:b\r",
		"SEND\na:b\n", "SEND\na:b\n\r", "SEND\na:b\r\n\r", "UNSUBSCRIBE", "UNSUBSCRIBE\r", "SEND\n" + lines(100), "SEND\na:\\",
		"SEND\na:" + strings.Repeat("x", 16<<10-2), "CONNECT", "CONNECTE", "CONNECTED",
	} {
		if n, err := new(Decoder).Head([]byte(in)); n != 0 || err != nil {
			t.Errorf("%.40q: %d %v", in, n, err)
		}
	}
	for _, in := range []string{"", "x", "\n"} {
		var d Decoder
		if n, err := d.Head([]byte("SEND\n\n")); n != 6 || err != nil {
			t.Fatal(n, err)
		}
		if body, n, err := d.Body([]byte(in)); body != nil || n != 0 || err != nil {
			t.Errorf("%q: %q %d %v", in, body, n, err)
		}
	}
}

func TestLimitsAreExact(t *testing.T) {
	limits := Limits{Line: 20, Headers: 3, Head: 50, Body: 10}
	for _, c := range []struct {
		name, in string
		ok       bool
	}{
		{"a line of 20", "SEND\na:345678901234567890\n\n\x00", true},
		{"a line of 19 and a CR", "SEND\na:34567890123456789\r\n\n\x00", true},
		{"a line of 21", "SEND\na:3456789012345678901\n\n\x00", false},
		{"3 headers", "SEND\na:b\na:b\na:b\n\n\x00", true},
		{"4 headers", "SEND\na:b\na:b\na:b\na:b\n\n\x00", false},
		{"a head of 50", "UNSUBSCRIBE\na:" + strings.Repeat("x", 16) + "\nb:" + strings.Repeat("x", 15) + "\n\n\x00", true},
		{"a head of 51", "UNSUBSCRIBE\na:" + strings.Repeat("x", 16) + "\nb:" + strings.Repeat("x", 16) + "\n\n\x00", false},
		{"EOLs do not count", strings.Repeat("\n", 100) + "SEND\na:b\n\n\x00", true},
		{"a body of 10", "SEND\n\n0123456789\x00", true},
		{"a body of 11", "SEND\n\n01234567890\x00", false},
		{"a content-length of 10", "SEND\ncontent-length:10\n\n0123456789\x00", true},
		{"a content-length of 11", "SEND\ncontent-length:11\n\n01234567890\x00", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &Decoder{Version: V12, Limits: limits}
			_, rest, err := decodeFrame(d, []byte(c.in))
			if c.ok && (err != nil || len(rest) != 0) {
				t.Errorf("%d left over, %v", len(rest), err)
			}
			if !c.ok {
				wantFault(t, err, "more than", true)
			}
		})
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// What a peer announces costs nothing; what it sends costs little more than it is.
func TestHostilePeersDoNotMakeTheDecoderAllocate(t *testing.T) {
	for _, c := range hostile {
		in := []byte(c.in)
		n := allocated(func() { _, _, _ = decodeFrame(&Decoder{Version: V12}, in) })
		if n > 256<<10 {
			t.Errorf("%s: %d bytes", c.name, n)
		}
	}
	many := []byte("SEND\n" + strings.Repeat(strings.Repeat("\\n", 300)+":\\c\n", 100) + "\n\x00")
	if n := allocated(func() { _, _, _ = decodeFrame(&Decoder{Version: V12}, many) }); n > 512<<10 {
		t.Errorf("%d bytes for %d bytes of escapes", n, len(many))
	}
}

// A decoder that once saw a large head does not keep the room.
func TestLargeHeadsAreForgotten(t *testing.T) {
	d := &Decoder{Version: V12}
	if _, _, err := decodeFrame(d, []byte("SEND\na:"+strings.Repeat("\\n", 5000)+"\n\n\x00")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := decodeFrame(d, []byte("SEND\na:\\n\n\n\x00")); err != nil {
		t.Fatal(err)
	}
	if cap(d.scratch) > maxKeptScratch {
		t.Errorf("%d bytes are kept", cap(d.scratch))
	}
}

// A peer that sends byte after byte costs as many looks as one that sends all at
// once: every byte is looked at once per search, whatever has come before. Counted
// in bytes that were searched, not in time.
func TestDripFeedingIsLinear(t *testing.T) {
	head := "SEND\n" + strings.Repeat("a:"+strings.Repeat("x", 10_000)+"\n", 6) + "\n"
	body := strings.Repeat("x", 100_000)
	src := []byte(head + body + "\x00")
	d := &Decoder{Version: V12}
	for i := range head {
		if i+1 == len(head) {
			break
		}
		n, err := d.Head(src[:i+1])
		if n != 0 || err != nil {
			t.Fatal(i, n, err)
		}
		// All that is there has been looked at, and is not looked at again.
		if i > 5 && d.seen != i+1 {
			t.Fatalf("with %d bytes, %d were looked at", i+1, d.seen)
		}
	}
	n, err := d.Head(src)
	if n != len(head) || err != nil {
		t.Fatal(n, err)
	}
	rest := src[n:]
	for i := range body {
		_, n, err := d.Body(rest[:i+1])
		if n != 0 || err != nil || d.body != i+1 {
			t.Fatal(i, n, err, d.body)
		}
	}
	got, n, err := d.Body(rest)
	if err != nil || n != len(rest) || !bytes.Equal(got, []byte(body)) {
		t.Fatal(n, err)
	}
}

// The same for one that sends line ends, to an owner who leaves them to Head.
func TestLineEndsAreLookedAtOnce(t *testing.T) {
	src := []byte(strings.Repeat("\r\n\n", 10_000))
	var d Decoder
	for i := range src {
		n, err := d.Head(src[:i+1])
		if n != 0 || err != nil || d.start < i {
			t.Fatal(i, n, err, d.start)
		}
	}
	if n, err := d.Head(append(src, "SEND\n\n"...)); n != len(src)+6 || err != nil {
		t.Error(n, err)
	}
}

// Between two calls the bytes may move: nothing points to where they were.
func TestBytesMayMoveBetweenCalls(t *testing.T) {
	src := "\nSEND\na:b\\cc\nd:e\n\nbody\x00"
	d := &Decoder{Version: V12}
	head := strings.Index(src, "\n\n") + 2
	for i := range head {
		at := []byte(src[:i])
		if n, err := d.Head(at); n != 0 || err != nil {
			t.Fatal(i, n, err)
		}
		clear(at)
	}
	f, rest, err := decodeFrame(d, []byte(src))
	if err != nil || len(rest) != 0 || f.String() != `SEND "a"="b:c" "d"="e" "body"` {
		t.Errorf("%s %q %v", f, rest, err)
	}
}
