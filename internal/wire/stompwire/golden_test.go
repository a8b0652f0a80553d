package stompwire

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sampleFrame is a frame with each header that its command may have, as one side
// of a session writes it.
type sampleFrame struct {
	command Command
	headers []Header
	body    string
}

func headersOf(pairs ...string) []Header {
	var headers []Header
	for i := 0; i < len(pairs); i += 2 {
		headers = append(headers, Header{Name: []byte(pairs[i]), Value: []byte(pairs[i+1])})
	}
	return headers
}

func sampleFrames() []sampleFrame {
	return []sampleFrame{
		{Connect, headersOf("accept-version", "1.0,1.1,1.2", "host", "/", "login", "guest", "passcode", `a:b\c`, "heart-beat", "10000,20000", "client-id", "me"), ""},
		{Stomp, headersOf("accept-version", "1.2", "host", "orders", "login", "guest", "passcode", "guest"), ""},
		{Send, headersOf("destination", "/exchange/e/k:1", "transaction", "t1", "receipt", "7", "content-type", "text/plain;charset=utf-8",
			"persistent", "true", `sp: ec\`, `a:b\n c`, "lines", "one\ntwo", "cr", "a\rb", "slash", `a\nb`, "empty", ""), "body\x00with NUL"},
		{Subscribe, headersOf("id", "0", "destination", "/queue/a", "ack", "client-individual", "prefetch-count", "100", "receipt", "8"), ""},
		{Unsubscribe, headersOf("id", "0", "destination", "/queue/a", "receipt", "9"), ""},
		{Ack, headersOf("id", "T_0@@session-1@@1", "subscription", "0", "message-id", "T_0@@session-1@@1", "transaction", "t1", "receipt", "10"), ""},
		{Nack, headersOf("id", "2", "subscription", "0", "message-id", "2", "requeue", "false", "transaction", "t1", "receipt", "11"), ""},
		{Begin, headersOf("transaction", "t1", "receipt", "12"), ""},
		{Commit, headersOf("transaction", "t1", "receipt", "13"), ""},
		{Abort, headersOf("transaction", "t1", "receipt", "14"), ""},
		{Disconnect, headersOf("receipt", "15"), ""},
		{Connected, headersOf("version", "1.2", "server", "Ferry/1.0", "session", `s:1\2`, "heart-beat", "20000,10000"), ""},
		{Message, headersOf("subscription", "0", "destination", "/queue/a", "message-id", "1", "ack", "1", "redelivered", "false", "content-type", "text/plain"), "hello"},
		{Receipt, headersOf("receipt-id", "a:b"), ""},
		{Err, headersOf("message", "Bad command", "receipt-id", "7", "version", "1.0,1.1,1.2", "content-type", "text/plain"), "Could not interpret command\n"},
	}
}

var versions = []Version{V10, V11, V12}

// inVersion is what a version can express of a sample: headers with a CR, with
// an LF, or with a colon in the name are left out where it has no escape for them.
func (f sampleFrame) inVersion(v Version) sampleFrame {
	var headers []Header
	for _, h := range f.headers {
		hasCR, hasLF := bytes.IndexByte(h.Value, '\r') >= 0, bytes.IndexByte(h.Value, '\n') >= 0
		if v >= V12 || !hasCR && (v == V11 || !hasLF && bytes.IndexByte(h.Name, ':') < 0) {
			headers = append(headers, h)
		}
	}
	f.headers = headers
	return f
}

const goldenFile = "testdata/golden/frames.txt"

// A line that changes is a peer that no longer understands us.
func TestFramesAreTheirGoldenBytes(t *testing.T) {
	var out strings.Builder
	for _, v := range versions {
		for _, f := range sampleFrames() {
			f = f.inVersion(v)
			b, err := AppendFrame(nil, v, f.command, f.headers, []byte(f.body))
			if err != nil {
				t.Fatalf("%s %s: %v", v, f.command, err)
			}
			fmt.Fprintf(&out, "%s %q\n", v, b)
		}
	}
	if *update {
		if err := os.WriteFile(goldenFile, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	old, lines := strings.Split(string(want), "\n"), strings.Split(out.String(), "\n")
	for i := range max(len(old), len(lines)) {
		var w, g string
		if i < len(old) {
			w = old[i]
		}
		if i < len(lines) {
			g = lines[i]
		}
		if w != g {
			t.Errorf("%s line %d:\n got %s\nwant %s", goldenFile, i+1, g, w)
		}
	}
}

func TestGoldenBytesAreTheirFrames(t *testing.T) {
	file, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(file)), "\n")
	samples := sampleFrames()
	if len(lines) != len(versions)*len(samples) {
		t.Fatalf("%d lines for %d frames", len(lines), len(versions)*len(samples))
	}
	for i, line := range lines {
		text, quoted, _ := strings.Cut(line, " ")
		v, ok := ParseVersion(text)
		if !ok {
			t.Fatalf("no version: %s", line)
		}
		var wire string
		if _, err := fmt.Sscanf(quoted, "%q", &wire); err != nil {
			t.Fatal(err)
		}
		got, rest, err := decodeFrame(&Decoder{Version: v}, []byte(wire))
		if err != nil || len(rest) != 0 {
			t.Fatalf("%s: %d left over, %v", line, len(rest), err)
		}
		want := samples[i%len(samples)].inVersion(v)
		if want.body != "" {
			want.headers = append(want.headers, headersOf("content-length", strconv.Itoa(len(want.body)))...)
		}
		if got.String() != want.String() {
			t.Errorf("%s:\n got %s\nwant %s", line, got, want)
		}
	}
}

// Every command is among the samples.
func TestSamplesAreComplete(t *testing.T) {
	have := map[Command]bool{}
	for _, f := range sampleFrames() {
		have[f.command] = true
	}
	for c := Connect; c <= Err; c++ {
		if !have[c] {
			t.Errorf("%s has no sample", c)
		}
		if parseCommand([]byte(c.String())) != c {
			t.Errorf("%s is parsed as %s", c, parseCommand([]byte(c.String())))
		}
	}
	if (Err+1).String() != "" || Command(0).String() != "" {
		t.Error("there is a command that has no constant")
	}
}

func (f sampleFrame) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", f.command)
	for _, h := range f.headers {
		fmt.Fprintf(&b, " %q=%q", h.Name, h.Value)
	}
	fmt.Fprintf(&b, " %q", f.body)
	return b.String()
}

// decodeFrame takes one frame off b. It is the zero frame where b has not enough,
// and rest is then b.
func decodeFrame(d *Decoder, b []byte) (f sampleFrame, rest []byte, err error) {
	n, err := d.Head(b)
	if err != nil || n == 0 {
		return sampleFrame{}, b, err
	}
	body, m, err := d.Body(b[n:])
	if err != nil || m == 0 {
		return sampleFrame{}, b, err
	}
	f = sampleFrame{command: d.Command, body: string(body)}
	for _, h := range d.Headers {
		f.headers = append(f.headers, headersOf(string(h.Name), string(h.Value))...)
	}
	return f, b[n+m:], nil
}
