package stompws

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ferrymq/ferry/internal/netserve"
)

// patience is how long a test waits for what must come, at most.
const patience = 20 * time.Second

// fixture is a handler behind a listener as internal/app makes it.
type fixture struct {
	t    *testing.T
	addr string
	h    *Handler
	all  []*peer
	end  func() // ends it, once, after the peers
}

func serve(t *testing.T, cfg Config, limits netserve.Config, handle netserve.Handler) *fixture {
	t.Helper()
	ln, err := netserve.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, addr: ln.Addr().String(), h: NewHandler(cfg)}
	web := netserve.NewHandoff(ln.Addr())
	below := start(t, netserve.Config{Endpoints: []netserve.Endpoint{{Name: "http", Listener: ln, Handle: web.Handle}}})
	limits.Endpoints = []netserve.Endpoint{{Name: "ws", Listener: f.h.Listener(), Handle: handle}}
	above := start(t, limits)
	s := &http.Server{
		Handler: f.h, ConnContext: ConnContext,
		ReadTimeout: 50 * time.Millisecond, WriteTimeout: 50 * time.Millisecond, // not for WebSockets
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(web) }()
	f.end = func() {
		f.end = func() {}
		for _, p := range f.all {
			_ = p.CloseNow()
		}
		above()
		_ = s.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("HTTP ended with %v", err)
		}
		f.h.Close()
		below()
	}
	t.Cleanup(func() { f.end() })
	return f
}

func start(t *testing.T, cfg netserve.Config) (stop func()) {
	t.Helper()
	s, err := netserve.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// peer is a client's WebSocket.
type peer struct {
	*websocket.Conn
	t   *testing.T
	ctx context.Context
}

// open returns the WebSocket, nil if it is refused, and the answer's status and
// header.
func (f *fixture) open(ctx context.Context, o *websocket.DialOptions) (*websocket.Conn, int, http.Header) {
	f.t.Helper()
	ws, resp, err := websocket.Dial(ctx, "ws://"+f.addr+"/", o) //nolint:bodyclose // Dial has read it
	if resp == nil {
		f.t.Fatal(err)
	}
	return ws, resp.StatusCode, resp.Header
}

func (f *fixture) dial(header http.Header, subprotocols ...string) *peer {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	f.t.Cleanup(cancel)
	ws, status, _ := f.open(ctx, &websocket.DialOptions{HTTPHeader: header, Subprotocols: subprotocols})
	if ws == nil {
		f.t.Fatalf("refused with %d", status)
	}
	f.t.Cleanup(func() { _ = ws.CloseNow() })
	ws.SetReadLimit(-1)
	f.all = append(f.all, &peer{ws, f.t, ctx})
	return f.all[len(f.all)-1]
}

func (p *peer) say(typ websocket.MessageType, text string) {
	p.t.Helper()
	if err := p.Write(p.ctx, typ, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) mustHear(typ websocket.MessageType, text string) {
	p.t.Helper()
	got, message, err := p.Read(p.ctx)
	if err != nil || got != typ || string(message) != text {
		p.t.Fatalf("got %v %.100q (%d bytes), %v; want %v %.100q (%d bytes)", got, message, len(message), err, typ, text, len(text))
	}
}

func (p *peer) mustEnd(code websocket.StatusCode) {
	p.t.Helper()
	if _, message, err := p.Read(p.ctx); websocket.CloseStatus(err) != code {
		p.t.Errorf("got %.100q, %v; want it closed with %v", message, err, code)
	}
}

// echo sends back what comes.
func echo(c *netserve.Conn) {
	c.Authenticated()
	for {
		c.Out.SetBuf(append(c.Out.Buf(), c.In.Buffered()...))
		c.In.Discard(len(c.In.Buffered()))
		if c.Out.Flush() != nil {
			return
		}
		if c.In.Fill() != nil {
			break
		}
	}
	c.Linger(patience)
}

const (
	text   = websocket.MessageText
	binary = websocket.MessageBinary
)

// Messages may hold any part of the stream, text or binary. Back comes a message for
// each frame and heart-beat.
func TestMessagesAndFramesNeedNotCoincide(t *testing.T) {
	f := serve(t, Config{}, netserve.Config{}, echo)
	p := f.dial(nil)
	p.say(text, "SEND\n\nhello\x00")
	p.mustHear(text, "SEND\n\nhello\x00")
	p.say(binary, "SEND\n\nhello\x00")
	p.mustHear(text, "SEND\n\nhello\x00")
	p.say(binary, "SEND\n\n\xff\x00\n")
	p.mustHear(binary, "SEND\n\n\xff\x00")
	p.mustHear(text, "\n")
	p.say(text, "SEND\n\none\x00\nSEND\n\ntwo\x00SEND\ncontent-le")
	p.mustHear(text, "SEND\n\none\x00")
	p.mustHear(text, "\n")
	p.mustHear(text, "SEND\n\ntwo\x00")
	p.say(text, "")
	p.say(binary, "ngth:5\n\n\x00\xc3")
	p.say(binary, "\xa4\x00\x00")
	p.say(text, "\x00")
	p.mustHear(text, "SEND\ncontent-length:5\n\n\x00ä\x00\x00\x00")
	f.end()
}

func TestFragments(t *testing.T) {
	f := serve(t, Config{}, netserve.Config{}, echo)
	p := f.dial(nil)
	w, err := p.Writer(p.ctx, text)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range "SEND\n\näöü\x00" { // a fragment of WebSocket's each
		if _, err := io.WriteString(w, string(c)); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, w)
	p.mustHear(text, "SEND\n\näöü\x00")
	f.end()
}

func mustClose(t *testing.T, w io.Closer) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLargeFrames(t *testing.T) {
	f := serve(t, Config{}, netserve.Config{}, echo)
	p := f.dial(nil)
	frame := "SEND\ncontent-length:8000000\n\n" + strings.Repeat("0123456\x00", 1000000) + "\x00"
	said := make(chan error, 1)
	go func() { said <- p.Write(p.ctx, binary, []byte(frame)) }()
	p.mustHear(text, frame)
	if err := <-said; err != nil {
		t.Error(err)
	}
	f.end()
}

func TestTooLargeMessagesEndTheConnection(t *testing.T) {
	f := serve(t, Config{MessageLimit: 1000}, netserve.Config{}, echo)
	p := f.dial(nil)
	frame := "SEND\n\n" + strings.Repeat("x", 1000-7) + "\x00"
	p.say(text, frame)
	p.mustHear(text, frame)
	_ = p.Write(p.ctx, text, []byte(frame+frame))
	for {
		_, message, err := p.Read(p.ctx)
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
				t.Errorf("it ended with %v", err)
			}
			break
		}
		if string(message) != frame {
			t.Errorf("got %.100q", message)
		}
	}
	f.end()
}

func TestSubprotocols(t *testing.T) {
	f := serve(t, Config{}, netserve.Config{}, echo)
	for _, row := range []struct {
		offered []string
		want    string
	}{
		{nil, ""},
		{[]string{"v12.stomp"}, "v12.stomp"},
		{[]string{"v10.stomp", "v11.stomp", "v12.stomp"}, "v12.stomp"},
		{[]string{"mqtt", "v11.stomp", "v10.stomp"}, "v11.stomp"},
		{[]string{"mqtt"}, ""},
	} {
		p := f.dial(nil, row.offered...)
		if p.Subprotocol() != row.want {
			t.Errorf("%q: %q, want %q", row.offered, p.Subprotocol(), row.want)
		}
		p.say(text, "\n")
		p.mustHear(text, "\n")
	}
	f.end()
}

// Compression is not agreed on, so that a peer cannot make much out of little.
func TestNothingIsCompressed(t *testing.T) {
	f := serve(t, Config{}, netserve.Config{}, echo)
	ws, _, header := f.open(t.Context(), &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
	if ws == nil {
		t.Fatal("refused")
	}
	_ = ws.CloseNow()
	if got := header.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Errorf("extensions %q", got)
	}
	f.end()
}

// The server sees who has really connected: guest may come from this machine only.
func TestAddressesAreThoseOfTheConnection(t *testing.T) {
	peers := make(chan netip.AddrPort, 2)
	f := serve(t, Config{}, netserve.Config{}, func(c *netserve.Conn) {
		peers <- c.PeerPort()
		peers <- c.LocalPort()
	})
	p := f.dial(http.Header{"X-Forwarded-For": {"192.0.2.1"}, "Forwarded": {"for=192.0.2.1"}, "X-Real-Ip": {"192.0.2.1"}})
	p.say(text, "\n")
	if got := <-peers; !got.Addr().IsLoopback() || got.Port() == 0 {
		t.Errorf("peer %v", got)
	}
	if got := <-peers; got.String() != f.addr {
		t.Errorf("local %v, want %v", got, f.addr)
	}
	p.mustEnd(websocket.StatusNormalClosure)
	f.end()
}

func TestPingsAreAnswered(t *testing.T) {
	f := serve(t, Config{}, netserve.Config{}, echo)
	p := f.dial(nil)
	p.CloseRead(p.ctx)
	if err := p.Ping(p.ctx); err != nil {
		t.Error(err)
	}
	f.end()
}

// A peer's good-bye is answered, and ends the server's input.
func TestPeersGoodBye(t *testing.T) {
	ended := make(chan error, 1)
	f := serve(t, Config{}, netserve.Config{}, func(c *netserve.Conn) { ended <- c.In.Need(2) })
	p := f.dial(nil)
	p.say(text, "\n")
	if err := p.Close(websocket.StatusGoingAway, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-ended; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the server's input ended with %v", err)
	}
	f.end()
}

func TestPeerThatIsGone(t *testing.T) {
	ended := make(chan error, 1)
	f := serve(t, Config{}, netserve.Config{}, func(c *netserve.Conn) { ended <- c.In.Need(2) })
	p := f.dial(nil)
	p.say(text, "\n")
	_ = p.CloseNow()
	if err := <-ended; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the server's input ended with %v", err)
	}
	f.end()
}

// What the server wrote before it closed arrives, and then its good-bye.
func TestLastWords(t *testing.T) {
	for _, linger := range []bool{false, true} {
		f := serve(t, Config{}, netserve.Config{}, func(c *netserve.Conn) {
			c.Out.SetBuf(append(c.Out.Buf(), "ERROR\n\nwhy\x00"...))
			if err := c.Out.Flush(); err != nil {
				t.Error(err)
			}
			if linger {
				c.Linger(patience)
			}
		})
		p := f.dial(nil)
		p.say(text, "SEND\n\nunread\x00")
		p.mustHear(text, "ERROR\n\nwhy\x00")
		p.mustEnd(websocket.StatusNormalClosure)
		f.end()
	}
}

// A peer that has not logged in has no more room than by TCP, and no more time;
// what bounds it is netserve's, and not the size of a message.
func TestLimitsBeforeLogin(t *testing.T) {
	ended := make(chan error, 2)
	f := serve(t, Config{}, netserve.Config{LoginTimeout: 100 * time.Millisecond}, func(c *netserve.Conn) {
		for {
			if err := c.In.Fill(); err != nil {
				ended <- err
				return
			}
		}
	})
	p := f.dial(nil)
	_ = p.Write(p.ctx, binary, bytes.Repeat([]byte("x"), 1<<20))
	if err := <-ended; !errors.Is(err, netserve.ErrFull) {
		t.Errorf("much: %v", err)
	}
	f.dial(nil).say(text, "\n")
	if err := <-ended; !errors.Is(err, netserve.ErrLogin) {
		t.Errorf("nothing: %v", err)
	}
	f.end()
}

// A peer that takes nothing holds the server back, whose limit for that counts;
// when the server has closed the connection it is cut.
func TestPeerThatReadsNothing(t *testing.T) {
	stuck := make(chan error, 1)
	f := serve(t, Config{}, netserve.Config{}, func(c *netserve.Conn) {
		c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		frame := []byte("MESSAGE\n\n" + strings.Repeat("x", 100000) + "\x00")
		for {
			c.Out.AppendRef(frame)
			if err := c.Out.Flush(); err != nil {
				stuck <- err
				return
			}
		}
	})
	f.h.closeTimeout = 50 * time.Millisecond
	p := f.dial(nil)
	p.say(text, "\n")
	if err := <-stuck; err == nil {
		t.Error("nothing held it back")
	}
	f.h.Close() // while the peer is there
	f.end()
}

func TestNoWebSockets(t *testing.T) {
	f := serve(t, Config{}, netserve.Config{}, echo)
	for _, row := range []struct {
		request string
		code    string
	}{
		{"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "426 Upgrade Required"},
		{"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", "405 Method Not Allowed"},
		{"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\r\n", "400 Bad Request"},
		{"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", "400 Bad Request"},
		{"GET / HTTP/1.1\r\nHost: x\r\nOrigin: http://y\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "403 Forbidden"},
	} {
		nc, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, row.request); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len("HTTP/1.1 ")+len(row.code))
		if _, err := io.ReadFull(nc, answer); err != nil || !strings.HasSuffix(string(answer), row.code) {
			t.Errorf("%q: %q, %v; want %s", row.request, answer, err, row.code)
		}
		nc.Close()
	}
	f.end()
}

// When it stops, those who come are told so, and those who are there have ended.
func TestClose(t *testing.T) {
	f := serve(t, Config{}, netserve.Config{}, echo)
	p := f.dial(nil)
	p.say(text, "\n")
	p.mustHear(text, "\n") // it was accepted
	_ = f.h.Listener().Close()
	f.dial(nil).mustEnd(websocket.StatusGoingAway)
	p.say(text, "\n")
	p.mustHear(text, "\n")
	if err := p.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	f.h.Close()
	if _, status, _ := f.open(t.Context(), nil); status != http.StatusServiceUnavailable {
		t.Errorf("status %d", status)
	}
	f.end()
}
