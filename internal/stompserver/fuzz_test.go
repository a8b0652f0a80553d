package stompserver

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// FuzzServer sends anything on an open connection. Whatever it is, the server
// answers in frames, ends the connection or waits for more, and serves others.
func FuzzServer(f *testing.F) {
	for _, m := range mistakes() {
		if len(m.in) < 4096 {
			f.Add(m.in)
		}
	}
	f.Add(text("SEND", "destination:/queue/a", "receipt:1", "reply-to:/temp-queue/x", "", "body") +
		text("SUBSCRIBE", "destination:/queue/a", "id:1", "ack:client") + text("BEGIN", "transaction:t") +
		text("SEND", "destination:/topic/a", "transaction:t", "receipt:2") + text("ABORT", "transaction:t") +
		text("UNSUBSCRIBE", "id:1") + text("DISCONNECT", "receipt:3"))
	f.Add("SEND\ndestination:/queue/a\ncontent-length:20000\n\n" + strings.Repeat("x", 20000) + "\x00")
	f.Fuzz(func(t *testing.T, in string) {
		fix := newFixture(t)
		p := fix.connect()
		p.write(in)
		_ = p.nc.(*net.TCPConn).CloseWrite()
		_ = p.nc.SetReadDeadline(time.Now().Add(patience))
		all, err := io.ReadAll(p.nc)
		if err != nil && isTimeout(err) {
			t.Fatal("the connection does not end")
		}
		p.buf = append(p.buf, all...)
		for p.buf = p.buf[stompwire.EOLs(p.buf):]; len(p.buf) > 0; p.buf = p.buf[stompwire.EOLs(p.buf):] {
			if p.parse() == nil {
				break // cut by our own close
			}
		}
		fix.connect().ping()
	})
}

func FuzzCutTag(f *testing.F) {
	f.Add([]byte("T_1@@session-x@@1-7"))
	f.Add([]byte("-00"))
	f.Fuzz(func(t *testing.T, id []byte) {
		prefix, tag, ok := cutTag(id)
		if ok && (tag == 0 || len(prefix) == 0 || !strings.HasPrefix(string(id), string(prefix))) {
			t.Fatalf("%q: %q, %d", id, prefix, tag)
		}
	})
}
