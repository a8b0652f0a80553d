package stompwire_test

import (
	"bytes"
	"testing"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// FuzzParseDestination: what was parsed is written as what parses to the same,
// and the destination of a MESSAGE leads back to where the message was published.
func FuzzParseDestination(f *testing.F) {
	for _, text := range []string{
		"", "/queue/a", "/queue/a%2Fb%zz%2", "/amq/queue/q", "/topic/a.*.#", "/exchange/n", "/exchange/n/",
		"/exchange/n%25/k%C3%A9", "/temp-queue/x", "/reply-queue//x/%2F", "/test/message", "a::q", "/queue/%252F",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := stompwire.ParseDestination(text)
		if err != nil {
			if d != (stompwire.Destination{}) {
				t.Fatalf("%q: %+v and %v", text, d, err)
			}
			return
		}
		again, err := stompwire.ParseDestination(d.String())
		if err != nil || again != d {
			t.Fatalf("%q: %+v, written as %q, is %+v, %v", text, d, d, again, err)
		}
		exchange, key, ok := d.Route()
		if !ok {
			return
		}
		if exchange == "amq.topic" && key == "" {
			return // /exchange/amq.topic, which MESSAGE has as /topic/
		}
		back := stompwire.AppendRoute(nil, exchange, key)
		if bytes.ContainsFunc(back, func(r rune) bool { return r < ' ' || r > 127 }) {
			t.Fatalf("%q is not escaped", back)
		}
		r, err := stompwire.ParseDestination(back)
		if err != nil {
			t.Fatalf("%q %q is written as %q: %v", exchange, key, back, err)
		}
		if x, k, ok := r.Route(); x != exchange || k != key || !ok {
			t.Fatalf("%q %q is written as %q and read as %q %q", exchange, key, back, x, k)
		}
	})
}
