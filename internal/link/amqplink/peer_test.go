package amqplink

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/pipenet"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// peer is a broker that does what a test says, frame by frame.
type peer struct {
	t    testing.TB
	nc   *pipenet.Conn
	in   []byte
	tune amqpwire.ConnectionTune
	mech string

	start   *amqpwire.ConnectionStartOk
	tuned   *amqpwire.ConnectionTuneOk
	opened  *amqpwire.ConnectionOpen
	beats   int // heartbeats that came
	channel uint16
}

// newPeer returns a peer and the options that lead to it.
func newPeer(t testing.TB) (*peer, link.Options) {
	near, far := pipenet.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	p := &peer{
		t: t, nc: far, mech: "PLAIN AMQPLAIN",
		tune: amqpwire.ConnectionTune{ChannelMax: 100, FrameMax: amqpwire.DefaultFrameMax},
	}
	return p, link.Options{
		Endpoint: mustParse(t, "amqp://ada:lovelace@peer/v"),
		Dial:     func(context.Context, string, string) (net.Conn, error) { return near, nil },
	}
}

// connect opens a connection to a peer that behaves up to there.
func connect(t testing.TB, change ...func(*peer, *link.Options)) (*peer, *conn) {
	t.Helper()
	p, o := newPeer(t)
	for _, f := range change {
		f(p, &o)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); p.handshake() }()
	c := mustOpen(t, o)
	<-ended
	return p, c
}

func heartbeat(d time.Duration) func(*peer, *link.Options) {
	return func(_ *peer, o *link.Options) { o.Heartbeat = d }
}

func (p *peer) header() {
	b := make([]byte, 8)
	if _, err := io.ReadFull(p.nc, b); err != nil || [8]byte(b) != amqpwire.ProtocolHeader {
		p.t.Errorf("protocol header %q, %v", b, err)
	}
}

func (p *peer) handshake() {
	p.header()
	p.send(0, &amqpwire.ConnectionStart{
		VersionMinor: 9, Mechanisms: p.mech, Locales: "en_US",
		ServerProperties: amqpwire.Table{"product": "Peer", "version": "1.2"},
	})
	p.start = get[*amqpwire.ConnectionStartOk](p)
	p.send(0, &p.tune)
	p.tuned = get[*amqpwire.ConnectionTuneOk](p)
	p.opened = get[*amqpwire.ConnectionOpen](p)
	p.send(0, &amqpwire.ConnectionOpenOk{})
}

func (p *peer) send(channel uint16, m amqpwire.Method) {
	p.t.Helper()
	out, err := amqpwire.AppendMethod(nil, channel, m)
	if err != nil {
		p.t.Error(err)
	}
	p.write(out)
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Errorf("the peer cannot write: %v", err)
	}
}

// deliver sends a message to the consumer of a channel.
func (p *peer) deliver(channel uint16, tag uint64, body string) {
	p.t.Helper()
	p.write(appendDelivery(nil, channel, tag, body))
}

func appendDelivery(out []byte, channel uint16, tag uint64, body string) []byte {
	out, err := amqpwire.AppendDeliver(out, channel, "tag", tag, false, []byte("x"), []byte("k"))
	if err != nil {
		panic(err)
	}
	out = amqpwire.AppendContentHeader(out, channel, uint64(len(body)), nil)
	return amqpwire.AppendBody(out, channel, []byte(body), amqpwire.DefaultFrameMax)
}

// frame reads one frame that is no heartbeat; ok is false at the end.
func (p *peer) frame() (f amqpwire.Frame, ok bool) {
	p.t.Helper()
	buf := make([]byte, 64<<10)
	for {
		f, n, err := amqpwire.ParseFrame(p.in, amqpwire.DefaultFrameMax)
		if err != nil {
			p.t.Errorf("the client wrote no frame: %v", err)
			return f, false
		}
		if n > 0 {
			p.in = p.in[n:]
			if f.Type == amqpwire.FrameHeartbeat {
				p.beats++
				continue
			}
			p.channel = f.Channel
			return f, true
		}
		n, err = p.nc.Read(buf)
		if n == 0 && err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) &&
				!errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.ECONNRESET) {
				p.t.Errorf("the peer cannot read: %v", err)
			}
			return f, false
		}
		p.in = append(p.in, buf[:n]...)
	}
}

// method reads the next method; nil at the end.
func (p *peer) method() amqpwire.Method {
	p.t.Helper()
	f, ok := p.frame()
	if !ok {
		return nil
	}
	m, err := amqpwire.ParseMethod(f.Payload)
	if err != nil {
		p.t.Errorf("frame of type %d: %v", f.Type, err)
		return nil
	}
	return m
}

func get[M amqpwire.Method](p *peer) M {
	p.t.Helper()
	m := p.method()
	got, ok := m.(M)
	if !ok {
		p.t.Errorf("the client sent %T %+v, not %T", m, m, got)
		panic("the peer's script is at its end")
	}
	return got
}

// publish reads one message whose body is of one frame, and returns it.
func (p *peer) publish() (*amqpwire.BasicPublish, string) {
	p.t.Helper()
	m := get[*amqpwire.BasicPublish](p)
	h, _ := p.frame()
	header, err := amqpwire.ParseContentHeader(h.Payload)
	if err != nil {
		p.t.Error(err)
	}
	if header.BodySize == 0 {
		return m, ""
	}
	b, _ := p.frame()
	return m, string(b.Payload)
}

// sender serves the opening of a sender.
func (p *peer) sender() uint16 {
	p.t.Helper()
	get[*amqpwire.ChannelOpen](p)
	id := p.channel
	get[*amqpwire.ConfirmSelect](p)
	p.send(id, &amqpwire.ChannelOpenOk{})
	p.send(id, &amqpwire.ConfirmSelectOk{})
	return id
}

// receiver serves the opening of a receiver.
func (p *peer) receiver() uint16 {
	p.t.Helper()
	get[*amqpwire.ChannelOpen](p)
	id := p.channel
	p.send(id, &amqpwire.ChannelOpenOk{})
	for {
		switch m := p.method().(type) {
		case *amqpwire.BasicQos:
			p.send(id, &amqpwire.BasicQosOk{})
		case *amqpwire.BasicConsume:
			p.send(id, &amqpwire.BasicConsumeOk{ConsumerTag: "tag"})
			return id
		default:
			p.t.Errorf("the client sent %T", m)
			return 0
		}
	}
}

// during runs the peer's part beside the client's.
func during[T any](p func() T, client func()) T {
	out := make(chan T, 1)
	go func() { out <- p() }()
	client()
	return <-out
}

func openSender(t testing.TB, p *peer, c *conn, src link.Source) (link.Sender, uint16) {
	t.Helper()
	var s link.Sender
	id := during(p.sender, func() {
		var err error
		if s, err = c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src); err != nil {
			t.Error(err)
		}
	})
	if s == nil {
		t.FailNow()
	}
	return s, id
}

func openReceiver(t testing.TB, p *peer, c *conn, in link.Sink, noAck bool) (link.Receiver, uint16) {
	t.Helper()
	var r link.Receiver
	id := during(p.receiver, func() {
		var err error
		if r, err = c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q", Prefetch: 10, NoAck: noAck}, in); err != nil {
			t.Error(err)
		}
	})
	if r == nil {
		t.FailNow()
	}
	return r, id
}

// kindIs fails the test if err is of another kind.
func kindIs(t testing.TB, err error, kind link.Kind) {
	t.Helper()
	_ = mustBe(t, err, kind)
}

// mustBe is kindIs for those who look at the rest of it.
func mustBe(t testing.TB, err error, kind link.Kind) *link.Error {
	t.Helper()
	var e *link.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("got error %v, want one of kind %v", err, kind)
	}
	return e
}
