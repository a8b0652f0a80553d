package gmqwire

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func seeds(f *testing.F) {
	for _, o := range objects {
		f.Add([]byte(o), uint8(3))
	}
	for _, text := range []string{
		original1, `{"a":"\ud800"}`, `{"a":01}`, `{"a":1e400}`, `{"queue":5}`, `{"auth":[{}]}`, `[1]`, `{"payload":"\u0000` + "\x7f" + `"}`,
		`{"auth":{"user":null},"AUTH":{"USER":"x"}}`, `{"QUEUE":"a","queue":"b","Queue":"c"}`, "{\"ſ\":1}", `{"a":tru}`, `{"a":1}x`,
	} {
		f.Add([]byte(text), uint8(7))
	}
}

// FuzzScan holds the scanner against encoding/json: what one takes the other
// takes, however it is cut.
func FuzzScan(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		b = b[Blank(b):]
		var s Scanner
		end, err := 0, error(nil)
		for n := 0; n < len(b) && end == 0 && err == nil; {
			n = min(n+1+int(step), len(b))
			end, err = s.Scan(b[:n])
		}
		d := json.NewDecoder(bytes.NewReader(b))
		var raw json.RawMessage
		want := 0
		if d.Decode(&raw) == nil && raw[0] == '{' {
			want = len(raw)
		}
		if end != want && (want == 0 || depth(raw) <= MaxNesting) {
			t.Errorf("the object of %q ends at %d, want %d (%v)", b, end, want, err)
		}
	})
}

// depth is how deep the brackets of valid JSON nest.
func depth(b []byte) int {
	deepest, now, text := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

// FuzzParseRequest holds the parser against encoding/json, by which GMQ's server
// reads.
func FuzzParseRequest(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, _ uint8) {
		var s Scanner
		n, _ := s.Scan(b)
		var got Request
		err := ParseRequest(b, &got)
		if n == 0 || len(b[n:]) > Blank(b[n:]) {
			return // it must not panic, and that is all
		}
		var want struct {
			Operation, Queue, Payload string
			Auth                      struct{ User, Password string }
		}
		e := json.Unmarshal(b, &want)
		if e == nil && err == nil && (got.Operation != want.Operation || got.Queue != want.Queue || string(got.Payload) != want.Payload ||
			got.User != want.Auth.User || got.Password != want.Auth.Password) {
			t.Errorf("%q:\ngot  %+v\nwant %+v", b, got, want)
		}
		if e != nil && err == nil {
			t.Errorf("%q: got %+v, want %v", b, got, e)
		}
		// A request that was parsed is written so that it is parsed to the same.
		if err != nil || !utf8.Valid(b) {
			return
		}
		var again Request
		text := AppendRequest(nil, &got)
		if !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		if err := ParseRequest(text, &again); err != nil || again.Queue != got.Queue || again.MessageID != got.MessageID || again.ID != got.ID ||
			!bytes.Equal(again.Payload, got.Payload) || again.WaitMsec != max(0, got.WaitMsec) {
			t.Errorf("%s: parsed again as %+v, %v", text, again, err)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, _ uint8) {
		var r, again Reply
		if ParseReply(b, &r) != nil {
			return
		}
		text := AppendReply(nil, &r)
		if !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		if err := ParseReply(text, &again); err != nil || again.Confirmed != r.Confirmed || again.ID != r.ID || !bytes.Equal(again.Payload, r.Payload) {
			t.Errorf("%s: parsed again as %+v, %v", text, again, err)
		}
	})
}

// FuzzStrings holds what is written against encoding/json.
func FuzzStrings(f *testing.F) {
	for _, text := range []string{"", "a", "<&>", "\x00\x1f\x7f", "\xff\xc3", "\u2028\u2029\ufffd", "😀"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendString(nil, text); !bytes.Equal(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := appendString(nil, []byte(text)); !bytes.Equal(got, want) {
			t.Errorf("bytes: got %s, want %s", got, want)
		}
	})
}
