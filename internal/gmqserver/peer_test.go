package gmqserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
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
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
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
var testUsers = sync.OnceValues(func() (*auth.Users, error) {
	u, err := auth.NewUsers("guest", "guest")
	if err == nil {
		password := "gmqpass"
		_, err = u.PutUser(context.Background(), "gmq", auth.UserSpec{Password: &password, Tags: &auth.Tags{}})
	}
	if err == nil {
		_, err = u.PutPermission(auth.Permissions{User: "gmq", VHost: "/", Configure: ".*", Write: ".*", Read: ".*"})
	}
	return u, err
})

func newFixture(t testing.TB, options ...func(*Config, *broker.Config)) *fixture {
	t.Helper()
	users, err := testUsers()
	if err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	bc := broker.Config{Journal: memory.New(memory.Options{}), Logger: logger}
	sc := Config{Auth: users, Logger: logger, Version: "0.0-test", TokenAuth: true}
	for _, o := range options {
		o(&sc, &bc)
	}
	b, err := broker.Open(t.Context(), bc)
	if err != nil {
		t.Fatal(err)
	}
	if sc.Refuse == "" {
		sc.Broker = b
	}
	f := &fixture{t: t, broker: b, server: New(sc), log: log}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	ns, err := netserve.New(netserve.Config{
		Endpoints:    []netserve.Endpoint{{Name: "gmq", Listener: l, Handle: f.server.Handle}},
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

// testPeer is a client that writes what it is told, also what is wrong.
type testPeer struct {
	t  testing.TB
	nc net.Conn
	in *bufio.Reader
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
	return &testPeer{t: t, nc: nc, in: bufio.NewReader(nc)}
}

// connect authenticates on a connection that stays.
func (f *fixture) connect() *testPeer {
	f.t.Helper()
	p := f.dial()
	p.line(`{"operation":"SYNC",` + guestAuth + `}`)
	p.expect(`{"operation":"SYNC","queue":"","payload":"","confirmation":"Y","error":null,"auth":{"user":"","password":""}}`)
	return p
}

// guestAuth is the member of a request that says who asks, as GMQ's client writes it.
var guestAuth = `"auth":{"user":"` + gmqwire.Token("guest") + `","password":"` + gmqwire.Token("guest") + `"}`

// original is a request, byte for byte as GMQ's client writes it.
func original(operation, queue, payload string) string {
	return `{"operation":"` + operation + `","queue":"` + queue + `","payload":"` + payload + `","confirmation":"","error":null,` + guestAuth + `}`
}

// originalReply is a reply, byte for byte as GMQ's server writes it, but for the
// tokens.
func originalReply(operation, queue, payload string) string {
	return `{"operation":"` + operation + `","queue":"` + queue + `","payload":"` + payload + `","confirmation":"Y","error":null,"auth":{"user":"","password":""}}`
}

func (p *testPeer) write(text string) {
	// An error is the server's close: what it said is read next.
	_, _ = io.WriteString(p.nc, text)
}

// line writes a request that does not end the connection.
func (p *testPeer) line(text string) {
	p.t.Helper()
	p.write(text + "\n")
}

// read reads one line.
func (p *testPeer) read() string {
	p.t.Helper()
	text, err := p.in.ReadString('\n')
	if err != nil {
		p.t.Fatalf("read a reply: %v; there is %.200q", err, text)
	}
	return strings.TrimSuffix(text, "\n")
}

func (p *testPeer) expect(want string) {
	p.t.Helper()
	if got := p.read(); got != want {
		p.t.Fatalf("got  %s\nwant %s", got, want)
	}
}

// all reads to the end of the connection.
func (p *testPeer) all() string {
	p.t.Helper()
	text, err := io.ReadAll(p.in)
	if err != nil {
		p.t.Fatalf("read to the end: %v; there is %.200q", err, text)
	}
	return string(text)
}

// expectEnd waits for the end of the connection, before which nothing comes.
func (p *testPeer) expectEnd() {
	p.t.Helper()
	if text := p.all(); text != "" {
		p.t.Fatalf("got %q, want the end", text)
	}
}

// ask sends a line and returns its reply.
func (p *testPeer) ask(text string) gmqwire.Reply {
	p.t.Helper()
	p.line(text)
	return p.reply()
}

func (p *testPeer) reply() gmqwire.Reply {
	p.t.Helper()
	return parse(p.t, p.read())
}

func parse(t testing.TB, text string) (r gmqwire.Reply) {
	t.Helper()
	if !json.Valid([]byte(text)) {
		t.Fatalf("a reply that is not JSON: %q", text)
	}
	if err := gmqwire.ParseReply([]byte(text), &r); err != nil {
		t.Fatalf("a reply that cannot be parsed: %v: %q", err, text)
	}
	r.Payload = bytes.Clone(r.Payload)
	return r
}

// once sends a request as GMQ's client does, on a connection of its own, and
// returns all that the server writes.
func (f *fixture) once(request string) string {
	f.t.Helper()
	p := f.dial()
	p.write(request)
	text := p.all()
	p.nc.Close()
	return text
}

// body is the payload of a reply, decoded.
func body(t testing.TB, r gmqwire.Reply) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(string(r.Payload))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

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

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
