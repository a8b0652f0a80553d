package amqpserver

import (
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const (
	// referMin is the size from which on a body is not copied into the output
	// buffer but written from where the broker keeps it, bytes.
	referMin = 16 << 10

	// keepEvents is how many events an idle connection keeps room for.
	keepEvents = 16
)

// writer is the sending half of a connection: it belongs to one goroutine, and
// when that has ended to the reader, which writes the last frame.
type writer struct {
	*conn
	out   *netserve.Writer
	buf   []byte // of out, while events are encoded
	props propertiesOut
	stop  chan struct{} // closed: write what is there, and end
	done  chan struct{} // closed: it has ended
}

// run writes the session's events until it is stopped, when it writes those that
// are queued by then; or until it cannot write any more: then it interrupts the
// reader, which ends the connection.
func (w *writer) run() {
	defer close(w.done)
	var events []broker.Event
	for last := false; ; {
		events = w.session.Take(events)
		if len(events) == 0 && cap(events) > keepEvents {
			// The session and the writer have a slice each, and swap them: now both
			// are let go.
			events = w.session.Take(nil)
		}
		if len(events) > 0 && !w.write(events) || last {
			return
		}
		if len(events) == 0 {
			w.props.idle()
			events = nil
			select {
			case <-w.session.Wake():
			case <-w.stop:
				last = true
			}
			continue
		}
		select {
		case <-w.stop:
			last = true
		default:
		}
	}
}

// end stops the writer and waits for it.
func (w *writer) end() {
	close(w.stop)
	<-w.done
}

// write writes events, and tells whether there is more to write ever.
func (w *writer) write(events []broker.Event) bool {
	from := 0
	w.buf = w.out.Buf()
	for i := range events {
		mark := len(w.buf)
		if f := w.encode(&events[i]); f != nil {
			w.buf = w.buf[:mark]
			if w.flush() { // what came before
				w.force(f)
			}
			return false
		}
		if len(w.buf) >= netserve.FlushSize || w.out.Waiting() >= netserve.FlushSize {
			if !w.flush() {
				return false
			}
			w.session.Flushed(events[from : i+1])
			from = i + 1
			w.buf = w.out.Buf()
		}
	}
	if !w.flush() {
		return false
	}
	w.session.Flushed(events[from:])
	return true
}

func (w *writer) flush() bool {
	w.out.SetBuf(w.buf)
	w.buf = nil
	if err := w.out.Flush(); err != nil {
		w.cut(err)
		return false
	}
	return true
}

// encode appends what an event says. The error is what the connection is closed
// with.
func (w *writer) encode(e *broker.Event) *fault {
	switch e.Kind {
	case broker.EventDelivery:
		return w.delivery(e)
	case broker.EventGot:
		return w.got(e)
	case broker.EventReturn:
		return w.returned(e)
	case broker.EventConfirm:
		if e.Nack {
			w.buf = amqpwire.AppendNack(w.buf, e.Channel.ID(), e.Tag, e.Multiple, false)
		} else {
			w.buf = amqpwire.AppendAck(w.buf, e.Channel.ID(), e.Tag, e.Multiple)
		}
	case broker.EventCancelled:
		return w.method(e.Consumer.Channel().ID(), &amqpwire.BasicCancel{ConsumerTag: e.Consumer.Tag(), NoWait: true})
	case broker.EventChannelClosed:
		f, _ := asFault(e.Err, 0, 0)
		return w.method(e.Channel.ID(), &amqpwire.ChannelClose{ReplyCode: f.code, ReplyText: amqpwire.ReplyText(f.code, f.text)})
	case broker.EventReply:
		w.buf = append(w.buf, e.Data...)
	case broker.EventBlocked:
		return w.method(0, &amqpwire.ConnectionBlocked{Reason: shortText(string(e.Data))})
	case broker.EventUnblocked:
		return w.method(0, &amqpwire.ConnectionUnblocked{})
	case broker.EventClosed:
		f, _ := asFault(e.Err, 0, 0)
		return f
	}
	return nil
}

func (w *writer) delivery(e *broker.Event) *fault {
	v, err := message.ParseVisible(e.Data)
	if err != nil {
		return unwritable(err)
	}
	id := e.Consumer.Channel().ID()
	w.buf, err = amqpwire.AppendDeliver(w.buf, id, e.Consumer.Tag(), e.Tag, e.Redelivered, v.Exchange, v.Key)
	if err != nil {
		return unwritable(err)
	}
	return w.content(id, &v)
}

func (w *writer) got(e *broker.Event) *fault {
	v, err := message.ParseVisible(e.Data)
	if err != nil {
		return unwritable(err)
	}
	f := w.method(e.Channel.ID(), &amqpwire.BasicGetOk{
		DeliveryTag:  e.Tag,
		Redelivered:  e.Redelivered,
		Exchange:     string(v.Exchange),
		RoutingKey:   string(v.Key),
		MessageCount: e.Count,
	})
	if f != nil {
		return f
	}
	return w.content(e.Channel.ID(), &v)
}

func (w *writer) returned(e *broker.Event) *fault {
	v, err := message.ParseVisible(e.Data)
	if err != nil {
		return unwritable(err)
	}
	f := w.method(e.Channel.ID(), &amqpwire.BasicReturn{
		ReplyCode:  amqpwire.NoRoute,
		ReplyText:  amqpwire.ReplyName(amqpwire.NoRoute),
		Exchange:   string(v.Exchange),
		RoutingKey: string(v.Key),
	})
	if f != nil {
		return f
	}
	return w.content(e.Channel.ID(), &v)
}

// content appends the content header and the body frames of a message (AMQP
// 0-9-1 §4.2.6). A header larger than the peer's frame_max is sent all the same,
// as RabbitMQ sends it: it cannot be split, and most peers take it.
func (w *writer) content(id uint16, v *message.View) *fault {
	raw, err := w.props.translate(v.Properties, v.Persistent)
	if err != nil {
		return unwritable(err)
	}
	w.buf = amqpwire.AppendContentHeader(w.buf, id, uint64(len(v.Body)), raw)
	if len(v.Body) < referMin {
		w.buf = amqpwire.AppendBody(w.buf, id, v.Body, w.peer.frameMax)
		return nil
	}
	most := int(w.peer.frameMax) - amqpwire.FrameOverhead
	for body := v.Body; len(body) > 0; {
		part := body[:min(len(body), most)]
		body = body[len(part):]
		w.buf = amqpwire.AppendFrameHeader(w.buf, amqpwire.FrameBody, id, uint32(len(part)))
		w.out.SetBuf(w.buf)
		w.out.AppendRef(part)
		w.buf = append(w.out.Buf(), amqpwire.FrameEnd)
	}
	return nil
}

func (w *writer) method(id uint16, m amqpwire.Method) *fault {
	var err error
	if w.buf, err = amqpwire.AppendMethod(w.buf, id, m); err != nil {
		return unwritable(err)
	}
	return nil
}

// unwritable is the fault of a message or a reply that cannot be encoded: ours,
// not the peer's.
func unwritable(err error) *fault {
	return faultf(amqpwire.InternalError, "%v", err)
}

// shortText is a text of ours as a short string, cut where it does not fit.
func shortText(s string) string { return amqpwire.ReplyText(0, s) }
