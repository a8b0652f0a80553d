package faultbroker

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A stage is what a connection waits for.
type stage int

const (
	header stage = iota
	startOk
	tuneOk
	open
	running
	closing // close-ok; all else is ignored
)

// A conn is one connection. Its fields are guarded by the broker's mutex, but
// for those that never change. One goroutine reads it, one writes.
type conn struct {
	b    *Broker
	nc   net.Conn
	done chan struct{} // closed when the connection has ended

	stage    stage
	seen     Conn // but for Channels
	out      []byte
	last     bool // what is in out is the last
	broken   bool // by Cut
	frameMax uint32
	channels map[uint16]*channel
}

func newConn(b *Broker, nc net.Conn, id int) *conn {
	return &conn{b: b, nc: nc, done: make(chan struct{}), seen: Conn{ID: id}, channels: make(map[uint16]*channel)}
}

// send appends a method to what is to be written. A method that cannot be
// encoded is a mistake of the test that asked for it.
func (c *conn) send(channel uint16, m amqpwire.Method) {
	out, err := amqpwire.AppendMethod(c.out, channel, m)
	if err != nil {
		panic("faultbroker: a method that cannot be encoded: " + err.Error())
	}
	c.out = out
	c.b.touch()
}

func (c *conn) sendContent(channel uint16, m *message) {
	c.out = amqpwire.AppendContentHeader(c.out, channel, uint64(len(m.body)), m.properties)
	c.out = amqpwire.AppendBody(c.out, channel, m.body, c.frameMax)
}

// mute says whether a step is not to be answered as it should be, and talks
// garbage if that is wanted.
func (c *conn) mute(s Step) bool {
	if c.b.faults.Garbage&s != 0 {
		c.out = append(c.out, garbage...)
		c.b.touch()
		return true
	}
	return c.b.faults.Silent&s != 0
}

// fail ends the connection with connection.close.
func (c *conn) fail(code uint16, text string, class, method uint16) {
	if c.stage == closing {
		return
	}
	c.endChannels()
	c.stage = closing
	c.send(0, &amqpwire.ConnectionClose{ReplyCode: code, ReplyText: text, ClassID: class, MethodID: method})
}

func (c *conn) endChannels() {
	for _, ch := range c.channels {
		ch.dropConsumers() // of all, so that what one gives back is not for another
	}
	for _, ch := range c.channels {
		ch.end()
	}
	clear(c.channels)
	for _, q := range c.b.queues {
		if q.owner == c {
			c.b.deleteQueue(q)
		}
	}
}

// end takes the connection out of the broker. What is left is to close it.
func (c *conn) end() {
	if c.seen.Ended {
		return
	}
	c.endChannels()
	c.seen.Ended = true
	close(c.done)
	c.b.touch()
}

// hangUp closes the connection as it is to end: in order, or broken.
func (c *conn) hangUp() {
	c.b.mu.Lock()
	broken := c.broken
	c.b.mu.Unlock()
	if broken {
		c.cut()
		return
	}
	_ = c.nc.Close()
}

// cut breaks the connection without sending the end of the stream.
func (c *conn) cut() {
	switch nc := c.nc.(type) {
	case interface{ Cut() }:
		nc.Cut()
	case *net.TCPConn:
		_ = nc.SetLinger(0)
	}
	_ = c.nc.Close()
}

// write writes what there is to write until the connection ends.
func (c *conn) write() {
	defer c.hangUp() // which ends read
	for {
		out, ok := c.take()
		if !ok {
			return
		}
		if _, err := c.nc.Write(out); err != nil {
			return
		}
	}
}

func (c *conn) take() ([]byte, bool) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	for !c.seen.Ended && (c.b.paused || len(c.out) == 0 && !c.last) {
		c.b.changed.Wait()
	}
	if c.seen.Ended || len(c.out) == 0 {
		return nil, false
	}
	out := c.out
	c.out = nil
	return out, true
}

// read takes what the client sends until the connection ends.
func (c *conn) read() {
	defer c.b.change(c.end)
	buf := make([]byte, 64<<10)
	var in []byte
	for {
		n, err := c.nc.Read(buf)
		if n > 0 {
			var ok bool
			if in, ok = c.handle(append(in, buf[:n]...)); !ok {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// handle handles what was read and returns what is left of it, and whether to go
// on.
func (c *conn) handle(in []byte) (rest []byte, ok bool) {
	b := c.b
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.touch()
	for b.paused && !c.seen.Ended {
		b.changed.Wait()
	}
	for !c.seen.Ended {
		n, err := c.one(in)
		if err != nil {
			var e *amqpwire.Error
			if !errors.As(err, &e) {
				return nil, false
			}
			c.fail(e.Code, e.Text, e.Class, e.Method)
			return nil, true
		}
		if n == 0 {
			if !b.faults.HoldConfirms {
				for _, ch := range c.channels {
					ch.sendConfirms()
				}
			}
			return slices.Clone(in), true
		}
		in = in[n:]
	}
	return nil, false
}

var errProtocol = errors.New("not AMQP 0-9-1")

// one handles the first frame and returns its size; 0: it is not all there.
func (c *conn) one(in []byte) (int, error) {
	if c.stage == header {
		want := amqpwire.ProtocolHeader[:]
		k := min(len(in), len(want))
		if !bytes.Equal(in[:k], want[:k]) {
			return 0, errProtocol
		}
		if k < len(want) {
			return 0, nil
		}
		c.stage = startOk
		if !c.mute(StepHeader) {
			c.start()
		}
		return k, nil
	}
	f, n, err := amqpwire.ParseFrame(in, c.frameMax)
	if err != nil || n == 0 {
		return 0, err
	}
	return n, c.frame(f)
}

func (c *conn) frame(f amqpwire.Frame) error {
	if f.Type == amqpwire.FrameHeartbeat {
		c.seen.Heartbeats++
		return nil
	}
	if f.Type != amqpwire.FrameMethod {
		if ch := c.channels[f.Channel]; ch != nil && c.stage == running {
			return ch.content(f)
		}
		return nil
	}
	m, err := amqpwire.ParseMethod(f.Payload)
	if err != nil {
		return err
	}
	if _, is := m.(*amqpwire.BasicPublish); is {
		for c.b.blocked && !c.seen.Ended {
			c.b.changed.Wait()
		}
	}
	c.b.methods = append(c.b.methods, Received{c.seen.ID, f.Channel, m})
	if c.stage == closing {
		if _, is := m.(*amqpwire.ConnectionCloseOk); is {
			c.last = true
		}
		return nil
	}
	if f.Channel != 0 && c.stage == running {
		return c.method(f.Channel, m)
	}
	if step := stepOf(m); step != 0 && c.mute(step) {
		return nil
	}
	return c.zero(m)
}

func (c *conn) start() {
	properties := c.b.options.ServerProperties
	if properties == nil {
		properties = amqpwire.Table{
			"product": "faultbroker",
			"capabilities": amqpwire.Table{
				"publisher_confirms": true, "basic.nack": true, "consumer_cancel_notify": true,
				"connection.blocked": true, "authentication_failure_close": true, "per_consumer_qos": true,
			},
		}
	}
	c.send(0, &amqpwire.ConnectionStart{VersionMinor: 9, ServerProperties: properties, Mechanisms: "PLAIN AMQPLAIN", Locales: "en_US"})
}

// zero handles a method of channel 0.
func (c *conn) zero(m amqpwire.Method) error {
	class, method := m.ID()
	switch m := m.(type) {
	case *amqpwire.ConnectionStartOk:
		if c.stage != startOk {
			break
		}
		c.seen.Properties = m.ClientProperties
		if m.Mechanism == "PLAIN" {
			if parts := bytes.Split(m.Response, []byte{0}); len(parts) == 3 {
				c.seen.User = string(parts[1])
			}
		}
		if c.b.faults.RefuseLogin {
			c.fail(amqpwire.AccessRefused, amqpwire.ReplyText(amqpwire.AccessRefused, "Login was refused using authentication mechanism "+m.Mechanism), 0, 0)
			return nil
		}
		o := &c.b.options
		c.stage = tuneOk
		c.send(0, &amqpwire.ConnectionTune{ChannelMax: o.ChannelMax, FrameMax: o.FrameMax, Heartbeat: o.Heartbeat})
		return nil
	case *amqpwire.ConnectionTuneOk:
		if c.stage != tuneOk {
			break
		}
		c.stage, c.seen.Tuned, c.frameMax = open, *m, m.FrameMax
		if c.frameMax == 0 {
			c.frameMax = c.b.options.FrameMax
		}
		if m.Heartbeat > 0 {
			interval := time.Duration(m.Heartbeat) * time.Second
			c.b.running.Go(func() { c.beat(interval / 2) })
		}
		return nil
	case *amqpwire.ConnectionOpen:
		if c.stage != open {
			break
		}
		c.stage, c.seen.VHost, c.seen.Open = running, m.VirtualHost, true
		c.send(0, &amqpwire.ConnectionOpenOk{})
		if c.b.blocked {
			c.send(0, &amqpwire.ConnectionBlocked{Reason: c.b.reason})
		}
		return nil
	case *amqpwire.ConnectionClose:
		c.endChannels()
		c.stage, c.seen.Closed = closing, true
		c.send(0, &amqpwire.ConnectionCloseOk{})
		c.last = true
		return nil
	}
	return &amqpwire.Error{Code: amqpwire.CommandInvalid, Text: "unexpected method", Class: class, Method: method}
}

// beat sends heartbeats until the connection ends (AMQP 0-9-1 §4.2.7).
func (c *conn) beat(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.done:
			return
		}
		c.b.mu.Lock()
		// One that waits to be written is enough: a connection that is paused for
		// long does not get all of them at once.
		if !c.b.faults.NoHeartbeats && len(c.out) == 0 {
			c.out = amqpwire.AppendHeartbeat(c.out)
			c.b.changed.Broadcast()
		}
		c.b.mu.Unlock()
	}
}
