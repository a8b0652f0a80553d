package amqplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// read is the reader: it gives what arrives to whom it is for, in order.
func (c *conn) read() {
	limit := largest(c.frameMax)
	for !c.isOver() {
		for {
			f, n, err := amqpwire.ParseFrame(c.in.Unread(), limit)
			if err != nil {
				c.violated(malformed("reading a frame", err))
				return
			}
			if n == 0 {
				break
			}
			c.in.Take(n)
			if err := c.frame(f); err != nil {
				c.violated(err)
				return
			}
		}
		if err := c.deliverAll(); err != nil {
			c.violated(err)
			return
		}
		if err := c.in.Fill(c.line); err != nil {
			c.hungUp(err)
			return
		}
		c.pulse.Reads.Add(1)
	}
}

func (c *conn) isOver() bool {
	select {
	case <-c.ending:
		return true
	default:
		return false
	}
}

// hungUp ends the connection when nothing more can be read.
func (c *conn) hungUp(err error) {
	c.mu.Lock()
	e := c.writeErr
	c.mu.Unlock()
	switch {
	case e != nil:
	case errors.Is(err, io.EOF):
		e = transport.Lost("the broker closed the connection without a word", io.EOF)
	default:
		e = transport.Lost("reading", err)
	}
	c.fail(e, false)
}

// frame handles one frame. An error is the peer's violation of the protocol.
func (c *conn) frame(f amqpwire.Frame) *link.Error {
	if f.Type == amqpwire.FrameHeartbeat {
		return nil
	}
	if f.Channel == 0 {
		return c.connectionFrame(f)
	}
	ch := c.found.channel
	if ch == nil || ch.id != f.Channel {
		if ch = c.lookup(f.Channel); ch == nil {
			return violation(fmt.Sprintf("got a frame on channel %d, which is not open", f.Channel))
		}
		c.found.channel = ch
	}
	if f.Type == amqpwire.FrameMethod {
		if ch.content.stage != noContent && !isChannelClose(f.Payload) {
			return violation(fmt.Sprintf("got a method on channel %d within a message", f.Channel))
		}
		return c.channelMethod(ch, f.Payload)
	}
	return c.contentFrame(ch, f)
}

// isChannelClose tells whether a method ends what may be half there.
func isChannelClose(payload []byte) bool {
	class, method, ok := amqpwire.MethodID(payload)
	return ok && class == amqpwire.ClassChannel && method == amqpwire.MethodChannelClose
}

func (c *conn) lookup(id uint16) *channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.channels[id]
}

// connectionFrame handles a frame of channel 0.
func (c *conn) connectionFrame(f amqpwire.Frame) *link.Error {
	if f.Type != amqpwire.FrameMethod {
		return violation(fmt.Sprintf("got a frame of type %d on channel 0", f.Type))
	}
	m, err := amqpwire.ParseMethod(f.Payload)
	if err != nil {
		return malformed("reading a method", err)
	}
	switch m := m.(type) {
	case *amqpwire.ConnectionClose:
		c.queue(0, &amqpwire.ConnectionCloseOk{})
		if err := c.deliverAll(); err != nil {
			return err
		}
		c.fail(refusal(m.ReplyCode, m.ReplyText), true)
	case *amqpwire.ConnectionCloseOk:
		c.mu.Lock()
		asked := c.closing
		c.mu.Unlock()
		if !asked {
			return violation("got ConnectionCloseOk, where nothing asked for it")
		}
		if err := c.deliverAll(); err != nil {
			return err
		}
		c.fail(&link.Error{Kind: link.Closed, Text: "connection was closed"}, true)
	case *amqpwire.ConnectionBlocked:
		c.block(m.Reason, true)
	case *amqpwire.ConnectionUnblocked:
		c.block("", false)
	default:
		return violation(fmt.Sprintf("got %s", methodName(m)))
	}
	return nil
}

// block notes whether the broker takes messages.
func (c *conn) block(reason string, blocked bool) {
	c.blocked.Store(blocked)
	if !blocked {
		c.signal()
	}
	if c.o.Blocked != nil {
		c.o.Blocked(reason, !blocked)
	}
}

const (
	basicDeliver = uint32(amqpwire.ClassBasic)<<16 | uint32(amqpwire.MethodBasicDeliver)
	basicAck     = uint32(amqpwire.ClassBasic)<<16 | uint32(amqpwire.MethodBasicAck)
	basicNack    = uint32(amqpwire.ClassBasic)<<16 | uint32(amqpwire.MethodBasicNack)
)

// channelMethod handles a method of a channel; those that come once for each
// message first.
func (c *conn) channelMethod(ch *channel, payload []byte) *link.Error {
	if len(payload) < 4 {
		return malformed("reading a method", io.ErrUnexpectedEOF)
	}
	switch binary.BigEndian.Uint32(payload) {
	case basicDeliver:
		return c.deliver(ch, payload)
	case basicAck:
		m, err := amqpwire.ParseAck(payload)
		return c.confirmed(ch, m.DeliveryTag, m.Multiple, false, err)
	case basicNack:
		m, err := amqpwire.ParseNack(payload)
		return c.confirmed(ch, m.DeliveryTag, m.Multiple, true, err)
	}
	m, err := amqpwire.ParseMethod(payload)
	if err != nil {
		return malformed("reading a method", err)
	}
	// What came before it is before it.
	if ch.inbox != nil {
		if err := c.deliverTo(ch.inbox); err != nil {
			return err
		}
	}
	switch m := m.(type) {
	case *amqpwire.BasicReturn:
		if ch.sender == nil {
			return violation(fmt.Sprintf("got a returned message on channel %d, which sends none", ch.id))
		}
		ch.content = content{stage: wantsHeader, returned: refusal(m.ReplyCode, m.ReplyText)}
	case *amqpwire.BasicCancel:
		c.cancelled(ch, m)
	case *amqpwire.ChannelClose:
		c.refusedBy(ch, m)
	case *amqpwire.ChannelFlow:
		if ch.sender != nil && !m.Active {
			ch.sender.flow(false) // nothing is sent behind flow-ok
		}
		c.queue(ch.id, &amqpwire.ChannelFlowOk{Active: m.Active})
		if ch.sender != nil && m.Active {
			ch.sender.flow(true)
		}
	default:
		return c.answered(ch, m)
	}
	return nil
}

func (c *conn) confirmed(ch *channel, tag uint64, multiple, refused bool, err error) *link.Error {
	if err != nil {
		return malformed("reading a confirmation", err)
	}
	if ch.sender == nil {
		return violation(fmt.Sprintf("got a confirmation on channel %d, which sends nothing", ch.id))
	}
	return ch.sender.settled(tag, multiple, refused)
}

// cancelled handles the end of a consumer by the broker (RabbitMQ extension,
// consumer_cancel_notify). Deliveries that came before stay with the sink.
func (c *conn) cancelled(ch *channel, m *amqpwire.BasicCancel) {
	if !m.NoWait {
		c.queue(ch.id, &amqpwire.BasicCancelOk{ConsumerTag: m.ConsumerTag})
	}
	if ch.receiver != nil {
		ch.receiver.cancelled.Store(true)
	}
	if in := ch.inbox; in != nil && in.gate.Enter() {
		in.sink.Cancelled(&link.Error{
			Kind: link.Unavailable,
			Text: "the broker ended the consumer, as it does when the queue is deleted or moves",
		})
		in.gate.Leave()
	}
}
