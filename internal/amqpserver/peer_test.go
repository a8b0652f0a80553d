package amqpserver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// patience is how long a test waits for what must come, at most.
const patience = 10 * time.Second

// fixture is a broker in memory and a server for it on a loopback port.
type fixture struct {
	t      *testing.T
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

func newFixture(t *testing.T, options ...func(*Config, *broker.Config)) *fixture {
	t.Helper()
	users, err := testUsers()
	if err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	bc := broker.Config{Journal: memory.New(memory.Options{}), Logger: logger}
	sc := Config{Auth: users, Logger: logger, Version: "0.0-test", ClusterName: "ferry@test"}
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
		Endpoints:    []netserve.Endpoint{{Name: "amqp", Listener: l, Handle: f.server.Handle}},
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

// testPeer is an AMQP client that does what it is told, also what is wrong.
type testPeer struct {
	t   *testing.T
	nc  net.Conn
	buf []byte
}

// dial connects and sends nothing.
func (f *fixture) dial() *testPeer {
	f.t.Helper()
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &testPeer{t: f.t, nc: nc}
}

// login connects and opens the connection.
func (f *fixture) login() *testPeer {
	f.t.Helper()
	p := f.dial()
	p.start()
	p.send(0, startOk("guest", "guest"))
	p.expect(0, &amqpwire.ConnectionTune{})
	p.send(0, &amqpwire.ConnectionTuneOk{ChannelMax: DefaultChannelMax, FrameMax: DefaultFrameMax})
	p.send(0, &amqpwire.ConnectionOpen{VirtualHost: "/"})
	p.expect(0, &amqpwire.ConnectionOpenOk{})
	return p
}

// open connects and opens channel 1.
func (f *fixture) open() *testPeer {
	f.t.Helper()
	p := f.login()
	p.call(1, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
	return p
}

func (p *testPeer) start() *amqpwire.ConnectionStart {
	p.t.Helper()
	p.write(amqpwire.ProtocolHeader[:])
	return expect[*amqpwire.ConnectionStart](p, 0)
}

var clientCapabilities = amqpwire.Table{
	"authentication_failure_close": true,
	"consumer_cancel_notify":       true,
	"connection.blocked":           true,
}

func startOk(user, password string) *amqpwire.ConnectionStartOk {
	return &amqpwire.ConnectionStartOk{
		ClientProperties: amqpwire.Table{"capabilities": clientCapabilities},
		Mechanism:        "PLAIN",
		Response:         []byte("\x00" + user + "\x00" + password),
		Locale:           "en_US",
	}
}

func (p *testPeer) write(b []byte) {
	p.t.Helper()
	// An error is the server's close: what it said is read next.
	_, _ = p.nc.Write(b)
}

func (p *testPeer) send(channel uint16, methods ...amqpwire.Method) {
	p.t.Helper()
	p.write(frames(channel, methods...))
}

func frames(channel uint16, methods ...amqpwire.Method) (b []byte) {
	for _, m := range methods {
		var err error
		if b, err = amqpwire.AppendMethod(b, channel, m); err != nil {
			panic(err)
		}
	}
	return b
}

// rawFrame is a frame with any payload.
func rawFrame(typ uint8, channel uint16, payload string) []byte {
	b := amqpwire.AppendFrameHeader(nil, typ, channel, uint32(len(payload)))
	return append(append(b, payload...), amqpwire.FrameEnd)
}

// published is a basic.publish with its content.
func published(channel uint16, exchange, key string, props amqpwire.Properties, body string) []byte {
	return contentFrames(channel, &amqpwire.BasicPublish{Exchange: exchange, RoutingKey: key}, props, body)
}

func contentFrames(channel uint16, m amqpwire.Method, props amqpwire.Properties, body string) []byte {
	raw, err := amqpwire.AppendProperties(nil, &props)
	if err != nil {
		panic(err)
	}
	b := amqpwire.AppendContentHeader(frames(channel, m), channel, uint64(len(body)), raw)
	return amqpwire.AppendBody(b, channel, []byte(body), DefaultFrameMax)
}

func (p *testPeer) publish(exchange, key, body string) {
	p.t.Helper()
	p.write(published(1, exchange, key, amqpwire.Properties{}, body))
}

// read returns the next frame that is no heartbeat, io.EOF where the server has
// closed the connection.
func (p *testPeer) read() (amqpwire.Frame, error) {
	p.t.Helper()
	for {
		f, n, err := amqpwire.ParseFrame(p.buf, 1<<20)
		if err != nil {
			p.t.Fatalf("a frame that cannot be parsed: %v", err)
		}
		if n > 0 {
			f.Payload = slices.Clone(f.Payload)
			p.buf = p.buf[n:]
			if f.Type == amqpwire.FrameHeartbeat {
				continue
			}
			return f, nil
		}
		b := make([]byte, 64<<10)
		n, err = p.nc.Read(b)
		p.buf = append(p.buf, b[:n]...)
		if n == 0 && err != nil {
			if isTimeout(err) {
				p.t.Fatal("nothing comes")
			}
			return f, io.EOF
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// receive returns the next method.
func (p *testPeer) receive() (uint16, amqpwire.Method) {
	p.t.Helper()
	f, err := p.read()
	if err != nil {
		p.t.Fatalf("the connection ended: %v", err)
	}
	if f.Type != amqpwire.FrameMethod {
		p.t.Fatalf("a frame of type %d instead of a method", f.Type)
	}
	m, err := amqpwire.ParseMethod(f.Payload)
	if err != nil {
		p.t.Fatal(err)
	}
	return f.Channel, m
}

// expect receives a method of the same kind as want and returns it.
func (p *testPeer) expect(channel uint16, want amqpwire.Method) amqpwire.Method {
	p.t.Helper()
	ch, m := p.receive()
	gc, gm := m.ID()
	wc, wm := want.ID()
	if ch != channel || gc != wc || gm != wm {
		p.t.Fatalf("got %T %+v on channel %d, want %T on channel %d", m, m, ch, want, channel)
	}
	return m
}

func expect[M amqpwire.Method](p *testPeer, channel uint16) M {
	p.t.Helper()
	ch, got := p.receive()
	m, ok := got.(M)
	if !ok || ch != channel {
		p.t.Fatalf("got %T %+v on channel %d, want %T on channel %d", got, got, ch, m, channel)
	}
	return m
}

func (p *testPeer) call(channel uint16, m, want amqpwire.Method) amqpwire.Method {
	p.t.Helper()
	p.send(channel, m)
	return p.expect(channel, want)
}

// body reads the content that follows a deliver, get-ok or return.
func (p *testPeer) body(channel uint16) (amqpwire.Properties, string) {
	p.t.Helper()
	f, err := p.read()
	if err != nil || f.Type != amqpwire.FrameHeader || f.Channel != channel {
		p.t.Fatalf("frame of type %d on channel %d (%v), want a content header on %d", f.Type, f.Channel, err, channel)
	}
	h, err := amqpwire.ParseContentHeader(f.Payload)
	if err != nil {
		p.t.Fatal(err)
	}
	props, err := amqpwire.ParseProperties(h.Properties)
	if err != nil {
		p.t.Fatal(err)
	}
	var body []byte
	for uint64(len(body)) < h.BodySize {
		f, err := p.read()
		if err != nil || f.Type != amqpwire.FrameBody || f.Channel != channel {
			p.t.Fatalf("frame of type %d on channel %d (%v), want a body on %d", f.Type, f.Channel, err, channel)
		}
		body = append(body, f.Payload...)
	}
	return props, string(body)
}

func (p *testPeer) declare(q *amqpwire.QueueDeclare) string {
	p.t.Helper()
	p.send(1, q)
	return expect[*amqpwire.QueueDeclareOk](p, 1).Queue
}

// ping makes sure that everything sent before on the channel was handled.
func (p *testPeer) ping(channel uint16) {
	p.t.Helper()
	p.call(channel, &amqpwire.BasicQos{}, &amqpwire.BasicQosOk{})
}

// closeWrite says that nothing more will come.
func (p *testPeer) closeWrite() {
	p.t.Helper()
	if err := p.nc.(*net.TCPConn).CloseWrite(); err != nil {
		p.t.Error(err)
	}
}

// expectEnd waits for the server to close the connection without a word.
func (p *testPeer) expectEnd() {
	p.t.Helper()
	if f, err := p.read(); err == nil {
		m, _ := amqpwire.ParseMethod(f.Payload)
		p.t.Fatalf("got frame of type %d (%+v), want the end", f.Type, m)
	}
}

// closed is a close of a channel or the connection.
type closed struct {
	Code          uint16
	Text          string
	Class, Method uint16
}

func (p *testPeer) expectConnectionClose() closed {
	p.t.Helper()
	m := expect[*amqpwire.ConnectionClose](p, 0)
	return closed{m.ReplyCode, m.ReplyText, m.ClassID, m.MethodID}
}

func (p *testPeer) expectChannelClose(channel uint16) closed {
	p.t.Helper()
	m := expect[*amqpwire.ChannelClose](p, channel)
	return closed{m.ReplyCode, m.ReplyText, m.ClassID, m.MethodID}
}
