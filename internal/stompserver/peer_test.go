package stompserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// patience is how long a test waits for what must come, at most.
const patience = 10 * time.Second

// fixture is a broker in memory and a server for it on a loopback port.
type fixture struct {
	t      testing.TB
	broker *broker.Broker
	server *Server
	addr   string
	log    *logBuffer
	fails  bool // the broker is meant to fail
}

// logBuffer collects what is logged.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// testUsers is shared: a password hash takes a while.
var testUsers = sync.OnceValues(func() (*auth.Users, error) { return auth.NewUsers("guest", "guest") })

func newFixture(t testing.TB, options ...func(*Config, *broker.Config)) *fixture {
	t.Helper()
	users, err := testUsers()
	if err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	bc := broker.Config{Journal: memory.New(memory.Options{}), Logger: logger}
	sc := Config{Auth: users, Logger: logger, Version: "0.0-test"}
	for _, o := range options {
		o(&sc, &bc)
	}
	b, err := broker.Open(t.Context(), bc)
	if err != nil {
		t.Fatal(err)
	}
	sc.Broker = b
	f := &fixture{t: t, broker: b, server: New(sc), log: log}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	ns, err := netserve.New(netserve.Config{
		Endpoints:    []netserve.Endpoint{{Name: "stomp", Listener: l, Handle: f.server.Handle}},
		Log:          logger,
		DrainTimeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- ns.Serve(ctx) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f.server.Shutdown(ctx, "the test has ended"); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := b.Close(ctx); err != nil && !f.fails {
			t.Error(err)
		}
		if t.Failed() && testing.Verbose() {
			t.Log(log)
		}
	})
	return f
}

// testPeer is a STOMP client that does what it is told, also what is wrong.
type testPeer struct {
	t   testing.TB
	nc  net.Conn
	dec stompwire.Decoder
	buf []byte

	server *Server // in a bubble, for what a peer cannot see
}

// frame is a frame as the test sees it.
type frame struct {
	command string
	headers []stompwire.Header
	body    string
}

func (f *frame) get(name string) string {
	for _, h := range f.headers {
		if string(h.Name) == name {
			return string(h.Value)
		}
	}
	return ""
}

func (f *frame) has(name string) bool {
	for _, h := range f.headers {
		if string(h.Name) == name {
			return true
		}
	}
	return false
}

// String is the frame for a failure, and for tables: headers in their order.
func (f *frame) String() string {
	var s strings.Builder
	s.WriteString(f.command)
	for _, h := range f.headers {
		fmt.Fprintf(&s, " %s=%q", h.Name, h.Value)
	}
	fmt.Fprintf(&s, " %q", f.body)
	return s.String()
}

// dial connects and sends nothing.
func (f *fixture) dial() *testPeer {
	f.t.Helper()
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { nc.Close() })
	return newPeer(f.t, nc)
}

func newPeer(t testing.TB, nc net.Conn) *testPeer {
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &testPeer{t: t, nc: nc, dec: stompwire.Decoder{Limits: stompwire.Limits{Body: 1 << 30}}}
}

// connect connects and logs in with STOMP 1.2. Further headers may be given.
func (f *fixture) connect(headers ...string) *testPeer {
	f.t.Helper()
	return f.connectAs("1.2", headers...)
}

func (f *fixture) connectAs(version string, headers ...string) *testPeer {
	f.t.Helper()
	p := f.dial()
	p.send("CONNECT", append([]string{"accept-version:" + version, "login:guest", "passcode:guest"}, headers...)...)
	c := p.expect("CONNECTED")
	v, _ := stompwire.ParseVersion(c.get("version"))
	p.dec.Version = v
	return p
}

func (p *testPeer) write(b string) {
	p.t.Helper()
	// An error is the server's close: what it said is read next.
	_, _ = io.WriteString(p.nc, b)
}

// text is a frame whose headers are lines, and whose body is what is behind an
// empty one.
func text(command string, lines ...string) string {
	body := ""
	for i, l := range lines {
		if l == "" {
			body = strings.Join(lines[i+1:], "\n")
			lines = lines[:i]
			break
		}
	}
	var s strings.Builder
	s.WriteString(command + "\n")
	for _, l := range lines {
		s.WriteString(l + "\n")
	}
	return s.String() + "\n" + body + "\x00"
}

func (p *testPeer) send(command string, lines ...string) {
	p.t.Helper()
	p.write(text(command, lines...))
}

// call sends a frame with a receipt and waits for that, with nothing between.
func (p *testPeer) call(command string, lines ...string) {
	p.t.Helper()
	p.send(command, append([]string{"receipt:called"}, lines...)...)
	if f := p.expect("RECEIPT"); f.get("receipt-id") != "called" {
		p.t.Fatalf("another receipt: %v", f)
	}
}

// read returns the next frame, io.EOF where the server has closed the
// connection.
func (p *testPeer) read() (*frame, error) {
	p.t.Helper()
	for {
		p.buf = p.buf[stompwire.EOLs(p.buf):]
		if f := p.parse(); f != nil {
			return f, nil
		}
		b := make([]byte, 64<<10)
		n, err := p.nc.Read(b)
		p.buf = append(p.buf, b[:n]...)
		if n == 0 && err != nil {
			if isTimeout(err) {
				p.t.Fatalf("nothing comes; %d bytes are there: %.80q", len(p.buf), p.buf)
			}
			return nil, io.EOF
		}
	}
}

func (p *testPeer) parse() *frame {
	p.t.Helper()
	if len(p.buf) == 0 {
		return nil
	}
	d := stompwire.Decoder{Version: p.dec.Version, Limits: p.dec.Limits}
	n, err := d.Head(p.buf)
	if err != nil {
		p.t.Fatalf("a frame that cannot be parsed: %v: %q", err, p.buf)
	}
	if n == 0 {
		return nil
	}
	body, m, err := d.Body(p.buf[n:])
	if err != nil {
		p.t.Fatalf("a body that cannot be parsed: %v", err)
	}
	if m == 0 {
		return nil
	}
	f := &frame{command: d.Command.String(), body: string(body)}
	for _, h := range d.Headers {
		f.headers = append(f.headers, stompwire.Header{Name: []byte(string(h.Name)), Value: []byte(string(h.Value))})
	}
	p.buf = p.buf[n+m:]
	return f
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// receive returns the next frame.
func (p *testPeer) receive() *frame {
	p.t.Helper()
	f, err := p.read()
	if err != nil {
		p.t.Fatalf("the connection ended: %v", err)
	}
	return f
}

// expect receives a frame of a command.
func (p *testPeer) expect(command string) *frame {
	p.t.Helper()
	f := p.receive()
	if f.command != command {
		p.t.Fatalf("got %v, want %s", f, command)
	}
	return f
}

// expectMessage receives a MESSAGE with a body.
func (p *testPeer) expectMessage(body string) *frame {
	p.t.Helper()
	f := p.expect("MESSAGE")
	if f.body != body {
		p.t.Fatalf("got %v, want the body %q", f, body)
	}
	return f
}

func (p *testPeer) expectReceipt(id string) {
	p.t.Helper()
	if f := p.expect("RECEIPT"); f.get("receipt-id") != id {
		p.t.Fatalf("got %v, want receipt %s", f, id)
	}
}

// expectError receives an ERROR and the end of the connection.
func (p *testPeer) expectError(message string) *frame {
	p.t.Helper()
	f := p.expect("ERROR")
	if f.get("message") != message {
		p.t.Fatalf("got %v, want the message %q", f, message)
	}
	p.expectEnd()
	return f
}

// expectEnd waits for the server to close the connection without a word.
func (p *testPeer) expectEnd() {
	p.t.Helper()
	if f, err := p.read(); err == nil {
		p.t.Fatalf("got %v, want the end", f)
	}
	p.nc.Close()
}

// ping makes sure that everything sent before was handled, and that nothing came.
func (p *testPeer) ping() {
	p.t.Helper()
	p.call("BEGIN", "transaction:ping")
	p.call("ABORT", "transaction:ping")
}

// ack is the id by which a message is acknowledged in STOMP 1.2.
func (f *frame) ack() string { return "id:" + escape(f.get("ack")) }

func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\c`, "\n", `\n`, "\r", `\r`).Replace(s)
}

// session is one of another connection to the broker, for tests to look at it
// and to change it.
func (f *fixture) session() *broker.Session {
	f.t.Helper()
	s, err := f.broker.OpenSession(broker.SessionConfig{VHost: "/", User: "guest"})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(s.Close)
	return s
}

// ready is how many messages wait in a queue, -1 if it is not there.
func (f *fixture) ready(queue string) int {
	f.t.Helper()
	q, err := f.session().CheckQueue(queue)
	if err != nil {
		return -1
	}
	return q.Messages
}

func itoa(n int) string { return fmt.Sprint(n) }
