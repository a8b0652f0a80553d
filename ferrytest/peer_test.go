package ferrytest

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// patience is how long a peer waits for an answer before the test fails.
const patience = 20 * time.Second

// peer speaks AMQP in frames, on channel 1.
type peer struct {
	t  *testing.T
	nc *net.TCPConn
	in []byte
}

func dial(t *testing.T, addr string) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, nc: nc.(*net.TCPConn)}
}

// login opens a connection and a channel.
func login(t *testing.T, addr string) *peer {
	t.Helper()
	p := dial(t, addr)
	p.write(amqpwire.ProtocolHeader[:])
	expect[*amqpwire.ConnectionStart](p)
	p.sendOn(0, &amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00guest\x00guest"), Locale: "en_US"})
	expect[*amqpwire.ConnectionTune](p)
	p.sendOn(0, &amqpwire.ConnectionTuneOk{ChannelMax: 10, FrameMax: amqpwire.DefaultFrameMax})
	p.sendOn(0, &amqpwire.ConnectionOpen{VirtualHost: "/"})
	expect[*amqpwire.ConnectionOpenOk](p)
	p.send(&amqpwire.ChannelOpen{})
	expect[*amqpwire.ChannelOpenOk](p)
	return p
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
	p.write(method(p.t, channel, m))
}

func method(t *testing.T, channel uint16, m amqpwire.Method) []byte {
	t.Helper()
	out, err := amqpwire.AppendMethod(nil, channel, m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// declare declares a durable queue and returns how many messages it has.
func (p *peer) declare(queue string) int {
	p.t.Helper()
	p.send(&amqpwire.QueueDeclare{Queue: queue, Durable: true})
	return int(expect[*amqpwire.QueueDeclareOk](p).MessageCount)
}

func (p *peer) confirms() {
	p.t.Helper()
	p.send(&amqpwire.ConfirmSelect{})
	expect[*amqpwire.ConfirmSelectOk](p)
}

// publish sends persistent messages at once.
func (p *peer) publish(queue string, bodies ...string) {
	p.t.Helper()
	var out []byte
	for _, body := range bodies {
		out = append(out, message(p.t, 1, queue, body)...)
	}
	p.write(out)
}

func message(t *testing.T, channel uint16, queue, body string) []byte {
	t.Helper()
	out, err := amqpwire.AppendPublish(nil, channel, "", queue, false)
	if err != nil {
		t.Fatal(err)
	}
	properties, err := amqpwire.AppendProperties(nil, &amqpwire.Properties{DeliveryMode: amqpwire.Persistent})
	if err != nil {
		t.Fatal(err)
	}
	out = amqpwire.AppendContentHeader(out, channel, uint64(len(body)), properties)
	return amqpwire.AppendBody(out, channel, []byte(body), amqpwire.MinFrameSize)
}

// get takes a message, "" if there is none.
func (p *peer) get(queue string) string {
	p.t.Helper()
	p.send(&amqpwire.BasicGet{Queue: queue, NoAck: true})
	switch m := p.method().(type) {
	case *amqpwire.BasicGetEmpty:
		return ""
	case *amqpwire.BasicGetOk:
	default:
		p.t.Fatalf("got %T", m)
	}
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

// outcomes reads confirms until all of so many publishes have theirs, and returns
// an a or n for each. A confirm that covers nothing that was open fails the test.
func (p *peer) outcomes(publishes int) string {
	p.t.Helper()
	got := make([]byte, publishes)
	for open := publishes; open > 0; {
		var tag uint64
		var multiple bool
		outcome := byte('a')
		switch m := p.method().(type) {
		case *amqpwire.BasicAck:
			tag, multiple = m.DeliveryTag, m.Multiple
		case *amqpwire.BasicNack:
			tag, multiple, outcome = m.DeliveryTag, m.Multiple, 'n'
		default:
			p.t.Fatalf("got %T", m)
		}
		if tag < 1 || tag > uint64(publishes) {
			p.t.Fatalf("a confirm of publish %d", tag)
		}
		settled := 0
		for i := range got {
			if n := uint64(i + 1); got[i] == 0 && (n == tag || multiple && n < tag) {
				got[i] = outcome
				settled++
			}
		}
		if settled == 0 {
			p.t.Errorf("the confirm of %d (multiple: %v) is not of anything open", tag, multiple)
		}
		open -= settled
	}
	return string(got)
}

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

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("%v are over", patience))
	t.Cleanup(cancel)
	return ctx
}
