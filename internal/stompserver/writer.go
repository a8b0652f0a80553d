package stompserver

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
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
	out  *netserve.Writer
	buf  []byte        // of out, while events are encoded
	stop chan struct{} // closed: write what is there, and end
	done chan struct{} // closed: it has ended

	consumer *broker.Consumer // of the last delivery
	sub      *subscription    // its subscription
	to       route            // of the last delivery
}

// route is where a message was published to, and the destination header that
// says so.
type route struct {
	exchange, key []byte
	text          []byte // unescaped
	line          []byte // nil: none yet
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
			events = nil
			w.consumer, w.sub = nil, nil
			w.receipts.idle() // the reader was idle before the last of them came
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
	case broker.EventConfirm:
		return w.confirmed(e)
	case broker.EventReturn:
		return w.returned(e)
	case broker.EventCancelled:
		return w.cancelled(e)
	case broker.EventReply:
		if len(e.Data) == 0 {
			w.consumer, w.sub = nil, nil
			w.subs.forgetNext()
		}
		w.buf = append(w.buf, e.Data...)
	case broker.EventClosed:
		return kindFault(e.Err.Kind, e.Err.Text)
	}
	return nil
}

func (w *writer) confirmed(e *broker.Event) *fault {
	if e.Nack {
		// STOMP has no word for it but ERROR. Who asked for no receipt is told nothing, as
		// a publisher without confirms is in AMQP.
		id := w.receipts.refuse(e.Tag, e.Multiple)
		if id == nil {
			return nil
		}
		f := kindFault(broker.PreconditionFailed, "a queue refused the message")
		f.receipt = id
		return f
	}
	var err error
	if w.buf, err = w.receipts.take(w.buf, w.version, e.Tag, e.Multiple); err != nil {
		return unwritable(err)
	}
	return nil
}

// returned is for a message whose queue is not there any more. What follows is
// its confirm, which must not become a receipt.
func (w *writer) returned(e *broker.Event) *fault {
	v, err := message.ParseVisible(e.Data)
	if err != nil {
		return unwritable(err)
	}
	f := w.noRoute(string(v.Key))
	f.receipt = w.receipts.find(e.Tag)
	return f
}

// noRoute is the fault of a SEND whose queue is not there.
func (c *conn) noRoute(queue string) *fault {
	return kindFault(broker.NoRoute, "no queue '"+queue+"' in vhost '"+c.session.VHostName()+"'")
}

// cancelled is for a subscription whose queue was deleted. Its consumer's tag is
// its key; the subscription itself may not be known yet.
func (w *writer) cancelled(e *broker.Event) *fault {
	key := e.Consumer.Tag()
	name, what := key[len(keyOfID):], "id"
	if strings.HasPrefix(key, keyOfDestination) {
		what = "destination"
	}
	f := faultf(cancelled, "The server has canceled a subscription.\nNo more messages will be delivered for %s.\n", quoted(what+"='"+name+"'"))
	f.subscription = name
	return f
}

// delivery appends a MESSAGE.
func (w *writer) delivery(e *broker.Event) *fault {
	if e.Consumer != w.consumer {
		w.consumer, w.sub = e.Consumer, w.subs.find(e.Consumer)
	}
	s := w.sub
	v, err := message.ParseVisible(e.Data)
	if err != nil || s == nil {
		return unwritable(err)
	}
	b := append(w.buf, s.head...)
	b = append(strconv.AppendUint(b, e.Tag, 10), '\n')
	if s.ackLine != nil {
		b = append(b, s.ackLine...)
		b = append(strconv.AppendUint(b, e.Tag, 10), '\n')
	}
	if b, err = w.appendDestination(b, s, &v); err != nil {
		return unwritable(err)
	}
	if e.Redelivered {
		b = append(b, stompwire.HeaderRedelivered+":true\n"...)
	} else {
		b = append(b, stompwire.HeaderRedelivered+":false\n"...)
	}
	b = stompwire.AppendHeaderInt(b, stompwire.HeaderContentLength, int64(len(v.Body)))
	if b, err = stompwire.AppendMessageHeaders(b, w.version, v.Properties, v.Persistent); err != nil {
		return unwritable(err)
	}
	b = stompwire.AppendHeadEnd(b)
	if len(v.Body) < referMin {
		w.buf = append(append(b, v.Body...), 0)
		return nil
	}
	w.out.SetBuf(b)
	w.out.AppendRef(v.Body)
	w.buf = append(w.out.Buf(), 0)
	return nil
}

// appendDestination appends the header that says where a message was sent: as
// RabbitMQ says it, but to who has subscribed in the way of ActiveMQ and Artemis
// in that way.
func (w *writer) appendDestination(b []byte, s *subscription, v *message.View) ([]byte, error) {
	switch {
	case s.toLine != nil:
		return append(b, s.toLine...), nil
	case s.bareKeys && string(v.Exchange) == topicExchange:
		if out, err := stompwire.AppendHeader(b, w.version, stompwire.HeaderDestination, v.Key); err == nil {
			return out, nil
		}
	}
	t := &w.to
	if t.line == nil || !bytes.Equal(t.key, v.Key) || !bytes.Equal(t.exchange, v.Exchange) {
		var err error
		t.text = stompwire.AppendRoute(t.text[:0], v.Exchange, v.Key)
		if t.line, err = stompwire.AppendHeader(t.line[:0], w.version, stompwire.HeaderDestination, t.text); err != nil {
			t.line = nil
			return b, err
		}
		t.exchange = append(t.exchange[:0], v.Exchange...)
		t.key = append(t.key[:0], v.Key...)
	}
	return append(b, t.line...), nil
}

// unwritable is the fault of a message or a reply that cannot be encoded: ours,
// not the peer's.
func unwritable(err error) *fault {
	return kindFault(broker.Internal, fmt.Sprintf("%v", err))
}
