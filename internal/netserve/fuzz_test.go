package netserve

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"
)

// pieces is a connection whose peer sends data, a few bytes at a time, and then
// closes.
type pieces struct {
	net.Conn
	data  []byte
	piece int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.piece)], p.data)
	p.data = p.data[n:]
	return n, nil
}

func (*pieces) Close() error                    { return nil }
func (*pieces) SetReadDeadline(time.Time) error { return nil }

// FuzzRecognise sends anything, in pieces of any size. Who serves it depends on
// the bytes alone, and what was read is there for him.
func FuzzRecognise(f *testing.F) {
	for _, text := range []string{"AMQP\x00\x00\x09\x01", "GET / HTTP/1.1", "POST /", "PUT", "CONNECT\n", "AMQ", "\x16\x03\x01", ""} {
		f.Add([]byte(text), byte(1))
		f.Add([]byte(text), byte(200))
	}
	protocols := [][]string{{"AMQP"}, {"GET ", "POST ", "PUT ", "P!"}, {"\x16\x03"}}
	f.Fuzz(func(t *testing.T, data []byte, piece byte) {
		data = data[:min(len(data), smallBuffer)]
		chosen := -1
		srv := &Server{log: slog.New(slog.DiscardHandler)}
		for i, texts := range protocols {
			srv.cfg.Protocols = append(srv.cfg.Protocols, Protocol{Match: Prefix(texts...), Handle: func(*Conn) { chosen = i }})
		}
		want, decided := len(protocols), true // the endpoint's own
		for i, texts := range protocols {
			for _, text := range texts {
				switch {
				case bytes.HasPrefix(data, []byte(text)):
					want, decided = i, true
				case bytes.HasPrefix([]byte(text), data):
					decided = false
				}
			}
		}
		c := conn(&pieces{data: data, piece: int(max(piece, 1))})
		defer c.In.close()
		handle, err := Handler(nil), c.In.Fill()
		if err == nil {
			handle, err = srv.recognise(c, Endpoint{Handle: func(*Conn) { chosen = len(protocols) }})
		}
		if err != nil {
			if decided || c.In.Received() != uint64(len(data)) {
				t.Fatalf("%q: %v after %d bytes", data, err, c.In.Received())
			}
			return
		}
		handle(c)
		if !decided || chosen != want {
			t.Fatalf("%q is served by %d; decided: %t, by %d", data, chosen, decided, want)
		}
		if !bytes.HasPrefix(data, c.In.Buffered()) || uint64(len(c.In.Buffered())) != c.In.Received() {
			t.Fatalf("%q: %d bytes received, %q buffered", data, c.In.Received(), c.In.Buffered())
		}
	})
}
