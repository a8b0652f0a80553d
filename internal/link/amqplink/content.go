package amqplink

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// stages of a message that arrives (AMQP 0-9-1 §4.2.6).
type stage uint8

const (
	noContent stage = iota
	wantsHeader
	wantsBody
)

// content is a message of which not all is there.
type content struct {
	stage    stage
	delivery *link.Delivery // nil: it is returned
	returned *link.Error    // for whom id is the message's
	id       string
	left     uint64 // bytes of the body that are to come
}

// arrivals is what the reader keeps from one message to the next.
type arrivals struct {
	transport.Arrivals

	channel *channel // of the last frame
	touched []*inbox // that have deliveries of this read

	exchange, key, contentType, encoding, replyTo, kind, user, app transport.Last
}

// forget is called when the number of a channel becomes free.
func (a *arrivals) forget(ch *channel) {
	if a.channel == ch {
		a.channel = nil
	}
}

// deliver handles basic.deliver; the content follows.
//
//	class 2, method 2, consumer tag (short string), delivery tag 8, bits 1,
//	exchange (short string), routing key (short string)
func (c *conn) deliver(ch *channel, payload []byte) *link.Error {
	if ch.inbox == nil {
		return violation(fmt.Sprintf("got a delivery on channel %d, which has no consumer", ch.id))
	}
	b := payload[4:]
	_, b, ok := cutShort(b)
	if !ok || len(b) < 9 {
		return malformed("reading a delivery", io.ErrUnexpectedEOF)
	}
	tag, redelivered := binary.BigEndian.Uint64(b), b[8]&1 != 0
	exchange, b, ok := cutShort(b[9:])
	if !ok {
		return malformed("reading a delivery", io.ErrUnexpectedEOF)
	}
	key, b, ok := cutShort(b)
	if !ok || len(b) != 0 {
		return malformed("reading a delivery", io.ErrUnexpectedEOF)
	}
	a := &c.found
	d := a.Delivery(len(c.in.Unread()))
	d.Tag, d.Redelivered = tag, redelivered
	d.Message.Exchange, d.Message.Key = a.exchange.Of(exchange), a.key.Of(key)
	a.Size = len(payload) + amqpwire.FrameOverhead
	ch.content = content{stage: wantsHeader, delivery: d}
	return nil
}

// cutShort takes a short string off b.
func cutShort(b []byte) (s, rest []byte, ok bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return nil, nil, false
	}
	n := 1 + int(b[0])
	return b[1:n], b[n:], true
}

// contentFrame handles a content header or a piece of a body.
func (c *conn) contentFrame(ch *channel, f amqpwire.Frame) *link.Error {
	k := &ch.content
	if k.stage == wantsHeader && f.Type == amqpwire.FrameHeader {
		return c.contentHeader(ch, f.Payload)
	}
	if k.stage != wantsBody || f.Type != amqpwire.FrameBody {
		return violation(fmt.Sprintf("got a frame of type %d on channel %d, where none is expected", f.Type, f.Channel))
	}
	n := uint64(len(f.Payload))
	if n > k.left {
		return violation(fmt.Sprintf("got %d bytes more of a message on channel %d than its header says", n-k.left, ch.id))
	}
	if k.delivery != nil {
		k.delivery.Message.Body = append(k.delivery.Message.Body, f.Payload...)
	}
	if k.left -= n; k.left == 0 {
		c.arrived(ch)
	}
	return nil
}

func (c *conn) contentHeader(ch *channel, payload []byte) *link.Error {
	h, err := amqpwire.ParseContentHeader(payload)
	if err != nil {
		return malformed("reading a content header", err)
	}
	if h.Class != amqpwire.ClassBasic {
		return violation(fmt.Sprintf("got a content header of class %d on channel %d", h.Class, ch.id))
	}
	if h.BodySize > transport.BodyMost {
		return violation(fmt.Sprintf("got a message of %d bytes on channel %d: at most %d are taken", h.BodySize, ch.id, transport.BodyMost))
	}
	k := &ch.content
	k.stage, k.left = wantsBody, h.BodySize
	if d := k.delivery; d != nil {
		a := &c.found
		if err := a.properties(h.Properties, d, c.log); err != nil {
			return malformed("reading properties", err)
		}
		a.Size += len(payload) + int(h.BodySize) + 2*amqpwire.FrameOverhead
		if h.BodySize > 0 {
			d.Message.Body = a.Room(int(h.BodySize), len(c.in.Unread()))
		}
	} else {
		var d link.Delivery
		if err := c.found.properties(h.Properties, &d, c.log); err != nil {
			return malformed("reading properties", err)
		}
		if k.id = d.Message.ID; k.id == "" {
			k.id = d.Message.MessageID
		}
	}
	if k.left == 0 {
		c.arrived(ch)
	}
	return nil
}

// arrived handles a message that is there.
func (c *conn) arrived(ch *channel) {
	k := ch.content
	ch.content = content{}
	if k.delivery == nil {
		ch.sender.returned(k.id, k.returned)
		return
	}
	in := ch.inbox
	if len(in.batch) == 0 {
		c.found.touched = append(c.found.touched, in)
		in.batch = make([]*link.Delivery, 0, c.found.Expected(len(c.in.Unread())))
	}
	in.batch = append(in.batch, k.delivery)
}

// deliverAll gives every sink what this read brought.
func (c *conn) deliverAll() *link.Error {
	for _, in := range c.found.touched {
		if err := c.deliverTo(in); err != nil {
			return err
		}
	}
	c.found.touched = c.found.touched[:0]
	return nil
}

func (c *conn) deliverTo(in *inbox) *link.Error {
	batch := in.batch
	if len(batch) == 0 {
		return nil
	}
	in.batch = nil
	if in.ledger == nil {
		// The broker counts these as done: they are given to the sink also while
		// the receiver closes, and the sink may hold the reader up.
		if in.gate.Passable() {
			c.pulse.Held.Store(true)
			in.sink.Deliver(batch)
			c.pulse.Held.Store(false)
		}
		return nil
	}
	ok, err := in.ledger.add(batch)
	if err != nil {
		return err
	}
	// What comes after Close goes back to the queue with the channel.
	if ok && in.gate.Enter() {
		in.sink.Deliver(batch)
		in.gate.Leave()
	}
	return nil
}
