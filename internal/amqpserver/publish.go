package amqpserver

import (
	"bytes"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const (
	// directMin is the size from which on a frame of a body is read straight to
	// where the broker keeps it, bytes.
	directMin = 16 << 10

	// contentHeaderMin is the size of a content header without properties (AMQP
	// 0-9-1 §4.2.6.1): class 2, weight 2, body size 8. The flags may be missing.
	contentHeaderMin = 12
)

// content is a publish of which the method has come, but not everything else. Its
// texts are copies: the method's frame is gone.
type content struct {
	exchange, key []byte
	mandatory     bool
	immediate     bool

	in   *broker.Incoming // nil until the header has come
	left uint64           // bytes of the body that have not come
}

// publish handles a basic.publish, the first frame of b, size bytes long. Where
// its header and its body, in one frame, follow at once, all three are taken
// together and nothing is copied but by the broker; where they have not arrived
// yet and will fit the buffer it waits for them: used is 0, and need is how much
// of b that takes. Everything else is left to the channel's state, content.
func (r *reader) publish(f amqpwire.Frame, b []byte, size int) (used, need int, err error) {
	ch := r.channel(f.Channel)
	if ch == nil || ch.broker == nil || ch.content != nil {
		return size, 0, r.frame(f)
	}
	m, err := amqpwire.ParsePublish(f.Payload)
	if err != nil {
		return size, 0, undecodable(f.Payload)
	}
	if !utf8.Valid(m.Exchange) || !utf8.Valid(m.RoutingKey) {
		return size, 0, errMalformed
	}
	head, body, need, ok := r.wholeContent(f.Channel, b, size)
	if !ok {
		ch.content = &content{
			exchange:  bytes.Clone(m.Exchange),
			key:       bytes.Clone(m.RoutingKey),
			mandatory: m.Mandatory,
			immediate: m.Immediate,
		}
		return size, 0, nil
	}
	if need > len(b) {
		return 0, need, nil
	}
	p := &r.pub
	p.Exchange, p.Key, p.Mandatory, p.Body = m.Exchange, m.RoutingKey, m.Mandatory, body
	if err = r.publishable(m.Immediate, head.Properties); err == nil {
		err = ch.broker.Publish(p)
	}
	if err != nil {
		err = r.fail(ch, err, amqpwire.ClassBasic, amqpwire.MethodBasicPublish)
	}
	return need, 0, err
}

// wholeContent looks for a content header and, unless it announces an empty body,
// one body frame with all of it, at b[at:]. ok is false where something else
// follows, or a body too large to wait for; need is where it ends, as far as that
// is known: with more than len(b) it is not all there yet.
func (r *reader) wholeContent(channel uint16, b []byte, at int) (h amqpwire.ContentHeader, body []byte, need int, ok bool) {
	f, size, err := parseFrame(b[at:], r.limit)
	if err != nil || len(b)-at >= frameHeaderSize && (f.Type != amqpwire.FrameHeader || f.Channel != channel) {
		return h, nil, 0, false
	}
	if at += size; at > len(b) {
		return h, nil, at, true
	}
	h, err = amqpwire.ParseContentHeader(f.Payload)
	if err != nil || h.Class != amqpwire.ClassBasic || h.BodySize > directMin {
		return h, nil, 0, false
	}
	if h.BodySize == 0 {
		return h, nil, at, true
	}
	f, size, err = parseFrame(b[at:], r.limit)
	if err != nil || len(b)-at >= frameHeaderSize &&
		(f.Type != amqpwire.FrameBody || f.Channel != channel || uint64(size) != h.BodySize+amqpwire.FrameOverhead) {
		return h, nil, 0, false
	}
	return h, f.Payload, at + size, true
}

// publishable checks what a publish says beside its body, and translates its
// properties into r.pub.
func (r *reader) publishable(immediate bool, properties []byte) error {
	if immediate {
		return faultf(amqpwire.NotImplemented, "immediate=true").
			in(amqpwire.ClassBasic, amqpwire.MethodBasicPublish)
	}
	if err := r.props.translate(properties); err != nil {
		return err
	}
	r.pub.Properties, r.pub.Persistent = r.props.list, r.props.persistent
	return nil
}

// contentFrame handles a frame on a channel that waits for content (AMQP 0-9-1
// §4.2.6): one header, then bodies until all that was announced is there. Frames
// of other channels may come between.
func (r *reader) contentFrame(ch *channel, f amqpwire.Frame) error {
	var err error
	if ch.content.in == nil {
		err = r.contentHeader(ch, f)
	} else {
		err = r.contentBody(ch, f)
	}
	if err != nil {
		return r.fail(ch, err, amqpwire.ClassBasic, amqpwire.MethodBasicPublish)
	}
	return nil
}

func (r *reader) contentHeader(ch *channel, f amqpwire.Frame) error {
	c := ch.content
	h, err := amqpwire.ParseContentHeader(f.Payload)
	if f.Type != amqpwire.FrameHeader || err != nil && !isShort(f.Payload) {
		return faultf(amqpwire.UnexpectedFrame,
			"expected content header for class %d, got non content header frame instead", amqpwire.ClassBasic).
			in(amqpwire.ClassBasic, amqpwire.MethodBasicPublish)
	}
	if err != nil {
		return err
	}
	if h.Class != amqpwire.ClassBasic {
		return faultf(amqpwire.UnexpectedFrame,
			"expected content header for class %d, got one for class %d instead", amqpwire.ClassBasic, h.Class).
			in(amqpwire.ClassBasic, amqpwire.MethodBasicPublish)
	}
	if err := r.publishable(c.immediate, h.Properties); err != nil {
		return err
	}
	p := &r.pub
	p.Exchange, p.Key, p.Mandatory, p.Body = c.exchange, c.key, c.mandatory, nil
	if h.BodySize == 0 {
		ch.content = nil
		return ch.broker.Publish(p)
	}
	c.in, err = ch.broker.PublishLarge(p, h.BodySize)
	c.left = h.BodySize
	return err
}

// isShort tells whether a content header's payload lacks its property flags.
func isShort(payload []byte) bool { return len(payload) < contentHeaderMin+2 }

func (r *reader) contentBody(ch *channel, f amqpwire.Frame) error {
	c := ch.content
	if f.Type != amqpwire.FrameBody {
		return faultf(amqpwire.UnexpectedFrame, "expected content body, got non content body frame instead").
			in(amqpwire.ClassBasic, amqpwire.MethodBasicPublish)
	}
	if err := c.take(len(f.Payload)); err != nil {
		return err
	}
	copy(c.in.Room(len(f.Payload)), f.Payload)
	return ch.finish()
}

// take notes that n more bytes of the body come. More than was announced are
// refused: the announcement is what memory and limits were judged by.
func (c *content) take(n int) error {
	if uint64(n) > c.left {
		return faultf(amqpwire.UnexpectedFrame,
			"content body is longer than announced: %d bytes where %d are left", n, c.left).
			in(amqpwire.ClassBasic, amqpwire.MethodBasicPublish)
	}
	c.left -= uint64(n)
	return nil
}

// finish publishes the message if its body is complete.
func (ch *channel) finish() error {
	c := ch.content
	if c.left > 0 {
		return nil
	}
	ch.content = nil
	return c.in.Finish()
}

// bodyDirect reads the body frame at the head of the input, n bytes of payload of
// which some have not arrived, to where the broker keeps it. done is false where
// the frame is not one that the channel waits for.
func (r *reader) bodyDirect(channel uint16, n int) (done bool, err error) {
	ch := r.channel(channel)
	if ch == nil || ch.broker == nil || ch.content == nil || ch.content.in == nil || uint64(n) > ch.content.left {
		return false, nil
	}
	c := ch.content
	if err := c.take(n); err != nil {
		return false, err
	}
	r.session.Flush()
	r.within = true
	in := &r.nc.In
	in.Discard(frameHeaderSize)
	if _, err := in.ReadFull(c.in.Room(n)); err != nil {
		return false, err
	}
	// If more of the body is to come, its next frame begins behind this one, and
	// is read to its place as well.
	behind := 1
	if c.left > directMin {
		behind += frameHeaderSize
	}
	if err := in.NeedOnly(behind); err != nil {
		return false, err
	}
	if end := in.Buffered()[0]; end != amqpwire.FrameEnd {
		return false, badEnd(amqpwire.FrameBody, nil, end)
	}
	in.Discard(1)
	r.within = false
	if err := ch.finish(); err != nil {
		return true, r.fail(ch, err, amqpwire.ClassBasic, amqpwire.MethodBasicPublish)
	}
	return true, nil
}
