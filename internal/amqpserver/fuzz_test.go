package amqpserver

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func FuzzParseFrame(f *testing.F) {
	for _, m := range mistakes() {
		f.Add(m.b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, size, err := parseFrame(b, DefaultFrameMax)
		switch {
		case err != nil:
			return
		case size <= 0 || size > DefaultFrameMax+sizeFudge:
			t.Fatalf("size %d", size)
		case size > len(b):
			return
		case len(frame.Payload) != size-amqpwire.FrameOverhead:
			t.Fatalf("%d bytes of payload in a frame of %d", len(frame.Payload), size)
		}
		// The codec, which knows four types, agrees where it takes the frame.
		want, n, err := amqpwire.ParseFrame(b, DefaultFrameMax)
		if err == nil && (n != size || want.Type != frame.Type || want.Channel != frame.Channel || !bytes.Equal(want.Payload, frame.Payload)) {
			t.Fatalf("got %+v of %d bytes, want %+v of %d", frame, size, want, n)
		}
	})
}

func FuzzCredentials(f *testing.F) {
	f.Add("PLAIN", []byte("\x00guest\x00guest"))
	f.Add("AMQPLAIN", []byte("\x05LOGINS\x00\x00\x00\x05guest\x08PASSWORDS\x00\x00\x00\x05guest"))
	f.Fuzz(func(t *testing.T, mechanism string, response []byte) {
		name, password, err := credentials(mechanism, response)
		if err == nil && mechanism == mechanismPlain && "\x00"+name+"\x00"+password != string(response) {
			t.Fatalf("%q is not %q and %q", response, name, password)
		}
	})
}

// FuzzConnection sends anything on an open connection. Whatever it is, the server
// answers in frames, ends the connection or waits for more, and serves others.
func FuzzConnection(f *testing.F) {
	for _, m := range mistakes() {
		f.Add(m.b)
	}
	f.Add(join(published(1, "", "q", full(), "body"), frames(1, &amqpwire.BasicGet{Queue: "q"}, &amqpwire.TxSelect{})))
	f.Fuzz(func(t *testing.T, b []byte) {
		fix := newFixture(t)
		p := fix.open()
		p.declare(&amqpwire.QueueDeclare{Queue: "q"})
		p.write(b)
		p.closeWrite()
		_ = p.nc.SetReadDeadline(time.Now().Add(patience))
		all, err := io.ReadAll(p.nc)
		if err != nil && isTimeout(err) {
			t.Fatal("the connection does not end")
		}
		for len(all) > 0 {
			_, n, err := amqpwire.ParseFrame(all, DefaultFrameMax)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break // cut by our own close
			}
			all = all[n:]
		}
		fix.mustServe(t)
	})
}
