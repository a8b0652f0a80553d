package stompwire

import (
	"bytes"
	"errors"
	"testing"
)

func addFrames(f *testing.F, add func(v uint8, b []byte)) {
	f.Helper()
	for _, v := range versions {
		for _, s := range sampleFrames() {
			s = s.inVersion(v)
			b, err := AppendFrame(nil, v, s.command, s.headers, []byte(s.body))
			if err != nil {
				f.Fatal(err)
			}
			add(uint8(v), b)
			add(uint8(v), append(bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")), "\r\nBEGIN\ntransaction:t\n\n\x00"...))
		}
	}
	for _, c := range hostile {
		if len(c.in) < 2000 {
			add(uint8(c.version), []byte(c.in))
		}
	}
}

var fuzzLimits = Limits{Line: 200, Headers: 8, Head: 500, Body: 300}

// What is taken is what is there, within the limits; what is taken can be written
// again, and then is the same frame.
func FuzzDecode(f *testing.F) {
	addFrames(f, func(v uint8, b []byte) { f.Add(v, b) })
	f.Fuzz(func(t *testing.T, version uint8, b []byte) {
		v := Version(version % 4)
		d := &Decoder{Version: v, Limits: fuzzLimits}
		n, err := d.Head(b)
		if err != nil || n == 0 {
			if e, ok := errors.AsType[*Error](err); err != nil && (!ok || e.Text == "") || n != 0 {
				t.Fatalf("%d %v", n, err)
			}
			return
		}
		if n > len(b) || d.Command.String() == "" || len(d.Headers) > fuzzLimits.Headers || d.Length < -1 || d.Length > fuzzLimits.Body {
			t.Fatalf("took %d of %d bytes, %+v", n, len(b), d)
		}
		body, m, err := d.Body(b[n:])
		if err != nil || m == 0 {
			if m != 0 || body != nil {
				t.Fatalf("%q %d %v", body, m, err)
			}
			return
		}
		if n+m > len(b) || b[n+m-1] != 0 || len(body) != m-1 || int64(len(body)) > fuzzLimits.Body {
			t.Fatalf("took %d and %d of %d bytes, body of %d", n, m, len(b), len(body))
		}
		var headers []Header
		for _, h := range d.Headers {
			if string(h.Name) != HeaderContentLength {
				headers = append(headers, h)
			}
		}
		if !d.Command.MayHaveBody() {
			body = nil
		}
		command := d.Command
		again, err := AppendFrame(nil, v, command, headers, body)
		if err != nil {
			t.Fatalf("%q was read and cannot be written: %v", b[:n+m], err)
		}
		large := Limits{Line: 1 << 20, Head: 1 << 20} // escapes are longer than what they are for
		got, rest, err := decodeFrame(&Decoder{Version: v, Limits: large}, again)
		want := sampleFrame{command: command, headers: headers, body: string(body)}
		if len(body) > 0 {
			got.headers = got.headers[:len(got.headers)-1]
		}
		if err != nil || len(rest) != 0 || got.String() != want.String() {
			t.Fatalf("%q became %q (%v): %s, not %s", b[:n+m], again, err, got, want)
		}
	})
}

// What can be written is read as what it was, and a frame behind it is found.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint8(3), uint8(Send), []byte("destination"), []byte("/queue/a"), []byte("a:b"), []byte("c\nd\r\\"), []byte("body\x00"))
	f.Add(uint8(2), uint8(Message), []byte("a\nb"), []byte("\\n"), []byte("x"), []byte(""), []byte(""))
	f.Add(uint8(1), uint8(Err), []byte("a"), []byte("b:c"), []byte("x"), []byte(" y "), []byte("\x00"))
	f.Add(uint8(0), uint8(Connect), []byte("login"), []byte("a\\b"), []byte("passcode"), []byte("a:b"), []byte(""))
	f.Fuzz(func(t *testing.T, version, command uint8, name1, value1, name2, value2, body []byte) {
		v, c := Version(version%4), Command(command%uint8(Err)+1)
		headers := []Header{{name1, value1}, {name2, value2}}
		wire, err := AppendFrame([]byte("before"), v, c, headers, body)
		if err != nil {
			if string(wire) != "before" {
				t.Fatalf("error %v, and dst is %q", err, wire)
			}
			return
		}
		wire = wire[len("before"):]
		limits := Limits{Line: 1 << 24, Head: 1 << 24}
		d := &Decoder{Version: v, Limits: limits}
		got, rest, err := decodeFrame(d, append(wire[:len(wire):len(wire)], "\nRECEIPT\nreceipt-id:1\n\n\x00"...))
		if err != nil {
			t.Fatalf("%q was written and cannot be read: %v", wire, err)
		}
		if d.trims(wire) { // a client of 1.0
			for i := range headers {
				headers[i].Value = bytes.TrimLeft(headers[i].Value, " ")
			}
		}
		if len(body) > 0 {
			got.headers = got.headers[:len(got.headers)-1]
		}
		if want := (sampleFrame{command: c, headers: headers, body: string(body)}); got.String() != want.String() {
			t.Fatalf("%q: %s, not %s", wire, got, want)
		}
		if next, rest, err := decodeFrame(d, rest); err != nil || len(rest) != 0 || next.String() != `RECEIPT "receipt-id"="1" ""` {
			t.Fatalf("behind %q: %s %q %v", wire, next, rest, err)
		}
	})
}

// Byte after byte is the same as all at once: the same frames, then the same
// error, after the same number of bytes.
func FuzzDrip(f *testing.F) {
	addFrames(f, func(v uint8, b []byte) { f.Add(v, b, uint8(1)); f.Add(v, b, uint8(7)) })
	// A header too many, and a NUL in it.
	f.Add(uint8(3), []byte("SEND\n0:\n0:\n0:\n0:\n0:\n0:\n0:\n0:\n0\x00\n"), uint8(1))
	f.Add(uint8(3), []byte("SEND\n0:\n0:\n0:\n0:\n0:\n0:\n0:\n0:\n\r\x00\n"), uint8(1))
	f.Fuzz(func(t *testing.T, version uint8, b []byte, step uint8) {
		all := &Decoder{Version: Version(version % 4), Limits: fuzzLimits}
		drip := &Decoder{Version: Version(version % 4), Limits: fuzzLimits}
		for rest := b; ; {
			want, left, wantErr := decodeFrame(all, rest)
			got, used, gotErr := dripFrame(drip, rest, max(1, int(step)))
			if (gotErr == nil) != (wantErr == nil) {
				t.Fatalf("%q: at once %v, in drops %v", rest, wantErr, gotErr)
			}
			if wantErr != nil {
				e, _ := errors.AsType[*Error](wantErr)
				// Of a command that is unknown as much is repeated as is there.
				if !e.UnknownCommand && gotErr.Error() != wantErr.Error() {
					t.Fatalf("%q: at once %v, in drops %v", rest, wantErr, gotErr)
				}
				return
			}
			if got.String() != want.String() || used != len(rest)-len(left) {
				t.Fatalf("%q: at once %s, %d bytes; in drops %s, %d bytes", rest, want, len(rest)-len(left), got, used)
			}
			if used == 0 {
				return
			}
			rest = left
		}
	})
}

// dripFrame is decodeFrame of bytes that come step by step, each time at another
// place.
func dripFrame(d *Decoder, b []byte, step int) (f sampleFrame, used int, err error) {
	have := func(i int) []byte { return bytes.Clone(b[:min(i, len(b))]) }
	n, i := 0, 0
	var head []byte
	for ; n == 0; i += step {
		head = have(i)
		if n, err = d.Head(head); err != nil {
			return sampleFrame{}, 0, err
		}
		if n == 0 && i >= len(b) {
			return sampleFrame{}, 0, nil
		}
	}
	f.command = d.Command
	for _, h := range d.Headers {
		f.headers = append(f.headers, headersOf(string(h.Name), string(h.Value))...)
	}
	for i = n; ; i += step {
		body, m, err := d.Body(have(i)[n:])
		if err != nil {
			return sampleFrame{}, 0, err
		}
		if m > 0 {
			f.body = string(body)
			return f, n + m, nil
		}
		if i >= len(b) {
			return sampleFrame{}, 0, nil
		}
	}
}

func FuzzParseHeartBeat(f *testing.F) {
	for _, s := range []string{"0,0", "10000,20000", "-1,5", "2147483648,0", " 1 , 2 ", "1,2,3", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		send, receive, err := ParseHeartBeat(b)
		if err != nil && (send != 0 || receive != 0) || send < 0 || receive < 0 {
			t.Fatalf("%q: %s %s %v", b, send, receive, err)
		}
	})
}
