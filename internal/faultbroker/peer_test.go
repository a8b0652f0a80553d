package faultbroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/pipenet"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// patience is how long a peer waits for an answer, in most tests of the bubble's
// time.
const patience = time.Hour

// peer speaks AMQP in frames, on channel 1.
type peer struct {
	t  *testing.T
	nc net.Conn
	in []byte
}

func dial(t *testing.T, b *Broker) *peer {
	t.Helper()
	nc, err := b.Dialer()(t.Context(), "tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, nc: nc}
}

// login opens a connection and a channel.
func login(t *testing.T, b *Broker) *peer {
	t.Helper()
	p := dial(t, b)
	p.open(0)
	p.send(&amqpwire.ChannelOpen{})
	expect[*amqpwire.ChannelOpenOk](p)
	return p
}

func (p *peer) open(heartbeat uint16) {
	p.t.Helper()
	p.write(amqpwire.ProtocolHeader[:])
	expect[*amqpwire.ConnectionStart](p)
	p.sendOn(0, &amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00ada\x00x"), Locale: "en_US"})
	expect[*amqpwire.ConnectionTune](p)
	p.sendOn(0, &amqpwire.ConnectionTuneOk{ChannelMax: 10, FrameMax: 4096, Heartbeat: heartbeat})
	p.sendOn(0, &amqpwire.ConnectionOpen{VirtualHost: "/v"})
	expect[*amqpwire.ConnectionOpenOk](p)
}

func (p *peer) write(raw []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(raw); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) send(m amqpwire.Method) { p.t.Helper(); p.sendOn(1, m) }

func (p *peer) sendOn(channel uint16, m amqpwire.Method) {
	p.t.Helper()
	out, err := amqpwire.AppendMethod(nil, channel, m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(out)
}

func (p *peer) declare(queue string) int {
	p.t.Helper()
	p.send(&amqpwire.QueueDeclare{Queue: queue})
	return int(expect[*amqpwire.QueueDeclareOk](p).MessageCount)
}

func (p *peer) confirms() {
	p.t.Helper()
	p.send(&amqpwire.ConfirmSelect{})
	expect[*amqpwire.ConfirmSelectOk](p)
}

// publish sends messages at once, to the default exchange.
func (p *peer) publish(queue string, bodies ...string) {
	p.t.Helper()
	var out []byte
	for _, body := range bodies {
		out = appendMessage(p.t, out, queue, body)
	}
	p.write(out)
}

func appendMessage(t *testing.T, out []byte, queue, body string) []byte {
	t.Helper()
	out, err := amqpwire.AppendPublish(out, 1, "", queue, true)
	if err != nil {
		t.Fatal(err)
	}
	properties, err := amqpwire.AppendProperties(nil, &amqpwire.Properties{Headers: amqpwire.Table{"x-ferry-id": "p-" + body[:1]}})
	if err != nil {
		t.Fatal(err)
	}
	out = amqpwire.AppendContentHeader(out, 1, uint64(len(body)), properties)
	return amqpwire.AppendBody(out, 1, []byte(body), 4096)
}

func (p *peer) consume(queue string, prefetch uint16) {
	p.t.Helper()
	p.send(&amqpwire.BasicQos{PrefetchCount: prefetch})
	expect[*amqpwire.BasicQosOk](p)
	p.send(&amqpwire.BasicConsume{Queue: queue, ConsumerTag: "c"})
	expect[*amqpwire.BasicConsumeOk](p)
}

// delivery reads one, as its tag, "again " if it is redelivered, and its body.
func (p *peer) delivery() string {
	p.t.Helper()
	d := expect[*amqpwire.BasicDeliver](p)
	again := ""
	if d.Redelivered {
		again = "again "
	}
	return fmt.Sprintf("%d %s%s", d.DeliveryTag, again, p.content())
}

func (p *peer) content() string {
	p.t.Helper()
	h, err := amqpwire.ParseContentHeader(p.frame().Payload)
	if err != nil {
		p.t.Fatal(err)
	}
	var body []byte
	for uint64(len(body)) < h.BodySize {
		body = append(body, p.frame().Payload...)
	}
	return string(body)
}

// frame reads one.
func (p *peer) frame() amqpwire.Frame {
	p.t.Helper()
	f, err := p.next()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return f
}

func (p *peer) next() (amqpwire.Frame, error) {
	for {
		f, n, err := amqpwire.ParseFrame(p.in, amqpwire.DefaultFrameMax)
		if n > 0 || err != nil {
			p.in = p.in[n:]
			return f, err
		}
		buf := make([]byte, 4096)
		n, err = p.nc.Read(buf)
		if err != nil {
			return f, err
		}
		p.in = append(p.in[:len(p.in):len(p.in)], buf[:n]...)
	}
}

// method reads the next one, whichever it is.
func (p *peer) method() amqpwire.Method {
	p.t.Helper()
	m, err := amqpwire.ParseMethod(p.frame().Payload)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

func expect[M amqpwire.Method](p *peer) M {
	p.t.Helper()
	got := p.method()
	m, ok := got.(M)
	if !ok {
		p.t.Fatalf("got %T %+v, want %T", got, got, m)
	}
	return m
}

// quiet fails the test if anything comes within a minute of the bubble's time.
func (p *peer) quiet() {
	p.t.Helper()
	if err := p.nc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	f, err := p.next()
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		p.t.Fatalf("got %+v, %v; want nothing", f, err)
	}
	if err := p.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
}

// bubble runs a test with a broker in a bubble of time.
func bubble(t *testing.T, o Options, f func(t *testing.T, b *Broker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o.Network = pipenet.New()
		f(t, Start(t, o))
	})
}

func wait(t *testing.T, b *Broker, what func(State) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.Wait(ctx, what); err != nil {
		t.Fatal(err)
	}
}
