package amqpserver

import (
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// channel is a channel of the peer: open, or closing after an error of its own.
type channel struct {
	id      uint16
	broker  *broker.Channel // nil: channel.close was sent, its close-ok has not come
	queue   string          // the last that was declared on it, "" for none
	content *content        // a publish whose header or body has not come yet
}

// end ends what the channel has at the broker: what it had not settled is
// requeued, its consumers are gone.
func (ch *channel) end() {
	ch.broker.Close()
	ch.broker, ch.content = nil, nil
}

// openChannel handles a frame on a channel that is not open: only channel.open
// may come (AMQP 0-9-1 §1.5.2.1).
func (r *reader) openChannel(f amqpwire.Frame) error {
	if f.Type != amqpwire.FrameMethod {
		return errNotMethod
	}
	m, err := parseMethod(f.Payload)
	if err != nil {
		return err
	}
	if _, ok := m.(*amqpwire.ChannelOpen); !ok {
		return faultf(amqpwire.ChannelError, "expected 'channel.open'").in(m.ID())
	}
	if most := int(r.peer.channelMax); len(r.channels) >= most {
		return faultf(amqpwire.NotAllowed,
			"number of channels opened (%d) has reached the negotiated channel_max (%d)", len(r.channels), most)
	}
	if err := r.session.MayOpenChannel(); err != nil {
		return err
	}
	if r.channels == nil {
		r.channels = make(map[uint16]*channel, 1)
	}
	r.channels[f.Channel] = &channel{id: f.Channel, broker: r.session.OpenChannel(f.Channel)}
	r.reply(f.Channel, &amqpwire.ChannelOpenOk{})
	return nil
}

// closingChannel handles a frame on a channel that we have closed: whatever the
// peer sent before it knew is dropped (§1.5.2.5).
func (r *reader) closingChannel(ch *channel, f amqpwire.Frame) error {
	if f.Type != amqpwire.FrameMethod {
		return nil
	}
	class, method, _ := amqpwire.MethodID(f.Payload)
	switch {
	case class != amqpwire.ClassChannel:
	case method == amqpwire.MethodChannelCloseOk:
		r.forget(ch)
	case method == amqpwire.MethodChannelClose:
		// Both closed at once: each answers the other.
		r.reply(ch.id, &amqpwire.ChannelCloseOk{})
	}
	return nil
}

func (r *reader) forget(ch *channel) {
	delete(r.channels, ch.id)
	if r.last == ch {
		r.last = nil
	}
}

func (r *reader) channelMethod(ch *channel, m amqpwire.Method) error {
	switch m := m.(type) {
	case *amqpwire.ChannelOpen:
		return faultf(amqpwire.ChannelError, "second 'channel.open' seen").in(m.ID())
	case *amqpwire.ChannelFlow:
		// RabbitMQ refuses to stop deliveries by flow (basic.qos is for that), and the
		// Go client's own tests rely on it.
		if !m.Active {
			return faultf(amqpwire.NotImplemented, "active=false").in(m.ID())
		}
		r.reply(ch.id, &amqpwire.ChannelFlowOk{Active: m.Active})
		return nil
	case *amqpwire.ChannelClose:
		ch.end()
		r.forget(ch)
		r.reply(ch.id, &amqpwire.ChannelCloseOk{})
		return nil
	}
	return unimplemented(m.ID())
}

// accessMethod handles class access of AMQP 0-8, which old clients still send
// and RabbitMQ still answers. The ticket means nothing.
func (r *reader) accessMethod(ch *channel, m amqpwire.Method) error {
	if _, ok := m.(*amqpwire.AccessRequest); !ok {
		return unimplemented(m.ID())
	}
	r.reply(ch.id, &amqpwire.AccessRequestOk{Ticket: 1})
	return nil
}
