package amqpserver

import (
	"encoding/binary"
	"errors"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// reader is the receiving half of a connection whose session is open. All of it
// belongs to one goroutine.
type reader struct {
	*conn
	limit    uint32 // frame_max
	within   bool   // the input stands within a frame
	channels map[uint16]*channel
	last     *channel // the one the last frame was for
	props    propertiesIn
	pub      broker.Publish // the publish at hand
}

// errClosed says that the peer has sent connection.close.
var errClosed = errors.New("closed by the peer")

// run reads until the connection ends, and says why: a fault that the peer is to
// be told, errClosed, or what the network said.
func (r *reader) run() error {
	for {
		need, err := r.frames()
		if err != nil {
			return err
		}
		r.session.Flush()
		r.session.Throttle()
		if len(r.nc.In.Buffered()) == 0 {
			r.props.idle()
		}
		if err := r.nc.In.Need(need); err != nil {
			return err
		}
	}
}

// frames handles all frames that are complete. need is how many bytes the next
// one takes.
func (r *reader) frames() (need int, err error) {
	for {
		b := r.nc.In.Buffered()
		f, size, err := parseFrame(b, r.limit)
		if err != nil {
			return 0, err
		}
		if size > len(b) {
			if f.Type == amqpwire.FrameBody && len(b) >= frameHeaderSize && size > directMin {
				done, err := r.bodyDirect(f.Channel, size-amqpwire.FrameOverhead)
				if err != nil {
					return 0, err
				}
				if done {
					continue
				}
			}
			return size, nil
		}
		if f.Type == amqpwire.FrameMethod && isPublish(f.Payload) {
			used, need, err := r.publish(f, b, size)
			if err != nil {
				return 0, err
			}
			if used == 0 {
				return need, nil
			}
			r.nc.In.Discard(used)
			continue
		}
		r.nc.In.Discard(size)
		if err := r.frame(f); err != nil {
			return 0, err
		}
	}
}

func isPublish(payload []byte) bool {
	return len(payload) >= 4 &&
		binary.BigEndian.Uint32(payload) == uint32(amqpwire.ClassBasic)<<16|uint32(amqpwire.MethodBasicPublish)
}

// frame handles one frame. An error ends the connection.
func (r *reader) frame(f amqpwire.Frame) error {
	switch f.Type {
	case amqpwire.FrameMethod:
		if len(f.Payload) < 4 {
			return badFrame(f.Type, f.Payload, unknownFrame)
		}
	case amqpwire.FrameHeader:
		if len(f.Payload) < contentHeaderMin {
			return badFrame(f.Type, f.Payload, unknownFrame)
		}
	case amqpwire.FrameBody:
	case amqpwire.FrameHeartbeat:
		// §4.2.7: heartbeats are on channel 0 and empty.
		if len(f.Payload) > 0 {
			return badFrame(f.Type, f.Payload, unknownFrame)
		}
		if f.Channel != 0 {
			return unexpectedFrame(f.Type, f.Payload)
		}
		return nil
	default:
		return badFrame(f.Type, f.Payload, unknownFrame)
	}
	if f.Channel == 0 {
		if f.Type != amqpwire.FrameMethod {
			return unexpectedFrame(f.Type, f.Payload)
		}
		return r.connectionMethod(f.Payload)
	}
	ch := r.channel(f.Channel)
	switch {
	case ch == nil:
		return r.openChannel(f)
	case ch.broker == nil:
		return r.closingChannel(ch, f)
	case ch.content != nil:
		return r.contentFrame(ch, f)
	case f.Type != amqpwire.FrameMethod:
		return errNotMethod
	}
	return r.method(ch, f.Payload)
}

var errNotMethod = faultf(amqpwire.UnexpectedFrame, "expected method frame, got non method frame instead")

// channel finds a channel by its number, nil if it is not open.
func (r *reader) channel(id uint16) *channel {
	if r.last != nil && r.last.id == id {
		return r.last
	}
	ch := r.channels[id]
	if ch != nil {
		r.last = ch
	}
	return ch
}

// method handles a method on an open channel. Those that occur for each message
// are decoded without an allocation.
func (r *reader) method(ch *channel, payload []byte) error {
	class, method, _ := amqpwire.MethodID(payload)
	var err error
	switch {
	case class == amqpwire.ClassBasic && method == amqpwire.MethodBasicAck:
		err = r.ack(ch, payload)
	case class == amqpwire.ClassBasic && method == amqpwire.MethodBasicNack:
		err = r.nack(ch, payload)
	case class == amqpwire.ClassBasic && method == amqpwire.MethodBasicReject:
		err = r.reject(ch, payload)
	default:
		err = r.otherMethod(ch, class, method, payload)
	}
	if err != nil {
		return r.fail(ch, err, class, method)
	}
	return nil
}

func (r *reader) otherMethod(ch *channel, class, method uint16, payload []byte) error {
	// What was published before comes before the answer: a return, a confirm.
	r.session.Flush()
	if ch.broker.Failed() {
		ch.end()
		return r.closingChannel(ch, amqpwire.Frame{Type: amqpwire.FrameMethod, Channel: ch.id, Payload: payload})
	}
	m, err := parseMethod(payload)
	if err != nil {
		return err
	}
	switch class {
	case amqpwire.ClassChannel:
		return r.channelMethod(ch, m)
	case amqpwire.ClassAccess:
		return r.accessMethod(ch, m)
	case amqpwire.ClassExchange:
		return r.exchangeMethod(ch, m)
	case amqpwire.ClassQueue:
		return r.queueMethod(ch, m)
	case amqpwire.ClassBasic:
		return r.basicMethod(ch, m)
	case amqpwire.ClassConfirm:
		return r.confirmMethod(ch, m)
	case amqpwire.ClassTx:
		return r.txMethod(ch, m)
	}
	return unimplemented(class, method)
}

// fail answers an error of a method: the channel is closed, or the error is
// returned because it ends the connection.
func (r *reader) fail(ch *channel, err error, class, method uint16) error {
	f, ok := asFault(err, class, method)
	if !ok {
		return err
	}
	if f.hard() {
		return f
	}
	if ch.broker.Failed() {
		ch.end() // the broker was first, and the writer says so
		return nil
	}
	r.log.Debug("channel closed by an error", "channel", ch.id, "code", f.code, "text", capped(f.text))
	ch.end()
	r.reply(ch.id, &amqpwire.ChannelClose{
		ReplyCode: f.code,
		ReplyText: amqpwire.ReplyText(f.code, f.text),
		ClassID:   f.class,
		MethodID:  f.method,
	})
	return nil
}

// connectionMethod handles a method on channel 0 of an open connection.
func (r *reader) connectionMethod(payload []byte) error {
	m, err := parseMethod(payload)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *amqpwire.ConnectionClose:
		r.log.Debug("closed by the peer", "code", m.ReplyCode, "text", capped(m.ReplyText))
		return errClosed
	case *amqpwire.ConnectionUpdateSecret:
		// Passwords do not run out, so there is nothing to renew.
		r.reply(0, &amqpwire.ConnectionUpdateSecretOk{})
		return nil
	}
	class, method := m.ID()
	return faultf(amqpwire.ChannelError, "unexpected method in connection state running").in(class, method)
}
