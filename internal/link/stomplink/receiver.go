package stomplink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// A receiver is one subscription on a session of its own.
type receiver struct {
	session *session
	place   place
	cfg     link.ReceiverConfig
	ledger  *ledger

	taking  *transport.Gate // what is delivered passes it, until Cancel
	stopped chan struct{}   // closed when nothing is delivered any more
}

// An inbox is where deliveries of a session go.
type inbox struct {
	sink   link.Sink
	gate   *transport.Gate
	ledger *ledger         // nil if the broker settles when it sends
	taking *transport.Gate // or nil

	batch []*link.Delivery // the reader's: of this read
	ids   []byte           // the reader's: their ack ids, one after the other
	ends  []int            // and where each ends
}

// windowEach is for how many bytes of a message Artemis is asked at least, for each
// that may be unsettled: its consumer window is in bytes.
const windowEach = 1 << 10

// OpenReceiver implements link.Conn.
func (c *conn) OpenReceiver(ctx context.Context, cfg link.ReceiverConfig, sink link.Sink) (link.Receiver, error) {
	from, err := c.source(&cfg)
	if err != nil {
		return nil, err
	}
	r := &receiver{place: from, cfg: cfg, ledger: newLedger(c.dialect.nacksRequeue()), stopped: make(chan struct{})}
	r.ledger.keeps = cfg.Queue == "" && !c.dialect.nacksRequeue()
	r.taking = transport.NewGate(func(error) { close(r.stopped) })
	r.taking.Open()
	in := &inbox{sink: sink, gate: transport.NewGate(sink.Closed), taking: r.taking}
	if !cfg.NoAck {
		in.ledger = r.ledger
	}
	session, err := c.another(ctx, func(on *session) {
		r.session = on
		on.receiver, on.inbox = r, in
		on.Gates = []*transport.Gate{in.gate}
	})
	if err != nil {
		return nil, err
	}
	headers, err := session.subscription(r.place, r.ledger.subscription, cfg)
	if err == nil {
		err = session.ask(ctx, stompwire.Subscribe, headers, true)
	}
	if err != nil {
		session.End(transport.Closed(), false)
		return nil, err
	}
	return r, nil
}

// source is where a receiver's messages come from.
func (c *conn) source(cfg *link.ReceiverConfig) (place, error) {
	switch {
	case cfg.Exclusive:
		return place{}, notAllowed("STOMP has no exclusive consumers: that needs an amqp:// URL")
	case cfg.Queue != "":
		return c.dialect.place("", cfg.Queue)
	case len(cfg.Bindings) != 1:
		return place{}, notAllowed(fmt.Sprintf(
			"over STOMP a queue of a consumer's own has one binding, and this has %d: a consumer for each, or an amqp:// URL, can do it", len(cfg.Bindings)))
	case len(cfg.Bindings[0].Arguments) > 0:
		return place{}, notAllowed("STOMP has no arguments of a binding: that needs an amqp:// URL")
	case cfg.Bindings[0].Exchange == "":
		return place{}, notAllowed("a queue of a consumer's own cannot be bound to the default exchange")
	}
	return c.dialect.place(cfg.Bindings[0].Exchange, cfg.Bindings[0].Key)
}

// subscription is the headers of a SUBSCRIBE.
func (s *session) subscription(from place, id uint64, cfg link.ReceiverConfig) ([]byte, error) {
	out := stompwire.AppendHeaderInt(nil, stompwire.HeaderID, int64(id))
	var errs []error
	header := func(name, value string) {
		var err error
		out, err = stompwire.AppendHeader(out, s.version, name, value)
		errs = append(errs, err)
	}
	header(stompwire.HeaderDestination, from.destination)
	if from.kind != "" {
		header(stompwire.HeaderSubscriptionType, from.kind)
	}
	mode := "client-individual"
	switch {
	case cfg.NoAck:
		mode = "auto"
	case s.version == stompwire.V10 && !s.conn.dialect.hasExchanges():
		mode = "client" // which acknowledges one in 1.0
	}
	header(stompwire.HeaderAck, mode)
	if !cfg.NoAck {
		if name, value := s.conn.dialect.prefetch(cfg.Prefetch); name != "" {
			out = stompwire.AppendHeaderInt(out, name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Arguments)) {
		text, err := headerText(cfg.Arguments[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("argument %s %w", name, err))
			continue
		}
		header(name, text)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, precondition("SUBSCRIBE cannot be encoded", err)
	}
	return out, nil
}

// prefetch is the header that bounds what is unsettled. ActiveMQ's and Artemis's
// own defaults are few messages, RabbitMQ's is no limit.
func (d dialect) prefetch(n int) (name string, value int64) {
	switch {
	case d == artemis && n <= 0:
		return "consumer-window-size", -1
	case d == artemis && n == 1:
		return "consumer-window-size", 0 // one message at a time
	case d == artemis:
		return "consumer-window-size", int64(n) * windowEach
	case d == activemq && n > 0:
		return "activemq.prefetchSize", int64(n)
	case d.hasExchanges() && n > 0:
		return stompwire.HeaderPrefetchCount, int64(n)
	}
	return "", 0
}

// Queue implements link.Receiver. A broker does not tell how it named a queue of
// the receiver's own: that is "".
func (r *receiver) Queue() string { return r.cfg.Queue }

// Ack implements link.Receiver.
func (r *receiver) Ack(tag uint64) error { return r.settle(tag, acked) }

// Nack implements link.Receiver.
func (r *receiver) Nack(tag uint64, requeue bool) error {
	if requeue {
		return r.settle(tag, requeued)
	}
	return r.settle(tag, dropped)
}

// Reject implements link.Receiver. STOMP has one word for it and Nack.
func (r *receiver) Reject(tag uint64, requeue bool) error { return r.Nack(tag, requeue) }

func (r *receiver) settle(tag uint64, how standing) error {
	first, err := r.ledger.settle(tag, how)
	if first {
		r.session.Mu.Lock()
		r.session.dirty = true
		r.session.Mu.Unlock()
		r.session.Signal()
	}
	return err
}

// appendSettled is for the writer: what was settled since the last time.
func (r *receiver) appendSettled(dst []byte) []byte {
	s := r.session
	dst, again := r.ledger.appendFrames(dst, s.version, s.conn.dialect)
	if again == 0 {
		return dst
	}
	// Nothing is with the application: a new subscription gets back what is not
	// settled.
	dst = stompwire.AppendCommand(dst, stompwire.Unsubscribe)
	dst = stompwire.AppendHeaderInt(dst, stompwire.HeaderID, int64(again-1))
	dst = append(stompwire.AppendHeadEnd(dst), 0)
	headers, err := s.subscription(r.place, again, r.cfg)
	if err != nil {
		s.Log.Error("subscribing again", "error", err) // it could be encoded the first time
		return dst
	}
	dst = stompwire.AppendCommand(dst, stompwire.Subscribe)
	return append(stompwire.AppendHeadEnd(append(dst, headers...)), 0)
}

// giveAgain is for the writer, too: where the queue is the subscription's own, and no
// NACK gives a message back, it gives the application again what it gave back. To the
// broker that is unsettled all the while.
func (r *receiver) giveAgain() {
	in := r.session.inbox
	if !r.ledger.keeps || !in.taking.Enter() {
		return
	}
	defer in.taking.Leave()
	if batch := r.ledger.giveAgain(); len(batch) > 0 && in.gate.Enter() {
		in.sink.Deliver(batch)
		in.gate.Leave()
	}
}

// Cancel implements link.Receiver. To STOMP's brokers what is unsettled at
// UNSUBSCRIBE is lost to the session, so that a receiver that acknowledges only
// stops to take: what still comes, as much as Prefetch lets, stays unsettled until
// Close, and is not seen by other consumers before.
func (r *receiver) Cancel(ctx context.Context) error {
	if r.cfg.NoAck {
		out := stompwire.AppendHeaderInt(nil, stompwire.HeaderID, int64(r.ledger.subscription))
		err := r.session.ask(ctx, stompwire.Unsubscribe, out, false)
		var e *link.Error
		if errors.As(err, &e) && e.Kind == link.Closed {
			return nil
		}
		return err
	}
	r.ledger.stop()
	r.taking.Close(nil)
	select {
	case <-r.stopped:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close implements link.Receiver. The order of the wire does what it promises:
// what was settled is written before DISCONNECT, which the broker answers when it
// has done all that came before.
func (r *receiver) Close(ctx context.Context) error {
	r.ledger.close()
	if err := r.session.Close(ctx); err != nil {
		return fmt.Errorf("closing a receiver: %w", err)
	}
	return nil
}

// appendAck appends ACK or NACK.
func appendAck(dst []byte, v stompwire.Version, command stompwire.Command, subscription uint64, id []byte) []byte {
	dst = stompwire.AppendCommand(dst, command)
	name := stompwire.HeaderID
	if v < stompwire.V12 {
		name = stompwire.HeaderMessageID
		dst = stompwire.AppendHeaderInt(dst, stompwire.HeaderSubscription, int64(subscription))
	}
	out, err := stompwire.AppendHeader(dst, v, name, id)
	if err != nil {
		return dst // no id that was read is one that cannot be written
	}
	return out
}
