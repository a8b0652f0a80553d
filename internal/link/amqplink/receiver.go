package amqplink

import (
	"context"
	"errors"
	"math"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A receiver is one consumer on a channel of its own.
type receiver struct {
	conn   *conn
	ch     *channel
	queue  string
	tag    string
	ledger *ledger

	cancelled atomic.Bool // by the broker
}

// An inbox is where deliveries of a channel go.
type inbox struct {
	sink   link.Sink
	gate   *transport.Gate
	ledger *ledger // nil if the broker settles when it sends

	batch []*link.Delivery // the reader's: of this read
}

// OpenReceiver implements link.Conn. A receiver whose opening failed is closed
// at the broker, and its sink is not called.
func (c *conn) OpenReceiver(ctx context.Context, cfg link.ReceiverConfig, sink link.Sink) (link.Receiver, error) {
	r := &receiver{conn: c, queue: cfg.Queue, ledger: newLedger()}
	in := &inbox{sink: sink, gate: transport.NewGate(sink.Closed)}
	if !cfg.NoAck {
		in.ledger = r.ledger
	}
	r.ch = &channel{receiver: r, inbox: in, gates: []*transport.Gate{in.gate}}
	if err := c.begin(r.ch); err != nil {
		return nil, err
	}
	requests := []amqpwire.Method{&amqpwire.ChannelOpen{}}
	if cfg.Prefetch > 0 && !cfg.NoAck {
		requests = append(requests, &amqpwire.BasicQos{PrefetchCount: uint16(min(cfg.Prefetch, math.MaxUint16))})
	}
	if cfg.Queue == "" {
		more, err := r.ownQueue(ctx, requests, cfg.Bindings)
		if err != nil {
			return nil, err
		}
		requests = more
	}
	answers, err := c.ask(ctx, r.ch, true, append(requests, &amqpwire.BasicConsume{
		Queue: r.queue, ConsumerTag: cfg.Tag, NoAck: cfg.NoAck, Exclusive: cfg.Exclusive, Arguments: cfg.Arguments,
	})...)
	if err != nil {
		return nil, err
	}
	r.tag = answers[len(answers)-1].(*amqpwire.BasicConsumeOk).ConsumerTag
	return r, nil
}

// ownQueue has the broker make a queue for this receiver alone, and returns the
// requests that bind it.
func (r *receiver) ownQueue(ctx context.Context, requests []amqpwire.Method, bindings []link.Binding) ([]amqpwire.Method, error) {
	answers, err := r.conn.ask(ctx, r.ch, false, append(requests, &amqpwire.QueueDeclare{Exclusive: true, AutoDelete: true})...)
	if err != nil {
		r.conn.abandon(r.ch)
		return nil, err
	}
	r.queue = answers[len(answers)-1].(*amqpwire.QueueDeclareOk).Queue
	requests = nil
	for _, b := range bindings {
		requests = append(requests, &amqpwire.QueueBind{
			Queue: r.queue, Exchange: b.Exchange, RoutingKey: b.Key, Arguments: b.Arguments,
		})
	}
	return requests, nil
}

// Queue implements link.Receiver.
func (r *receiver) Queue() string { return r.queue }

// Ack implements link.Receiver.
func (r *receiver) Ack(tag uint64) error { return r.settle(tag, acked) }

// Nack implements link.Receiver.
func (r *receiver) Nack(tag uint64, requeue bool) error {
	if requeue {
		return r.settle(tag, nackedRequeue)
	}
	return r.settle(tag, nackedDrop)
}

// Reject implements link.Receiver. It differs from Nack in what some brokers
// count as an attempt to deliver.
func (r *receiver) Reject(tag uint64, requeue bool) error {
	if requeue {
		return r.settle(tag, rejectedRequeue)
	}
	return r.settle(tag, rejectedDrop)
}

func (r *receiver) settle(tag uint64, how standing) error {
	first, err := r.ledger.settle(tag, how)
	if first {
		r.conn.mu.Lock()
		r.conn.dirty = append(r.conn.dirty, r)
		r.conn.mu.Unlock()
		r.conn.signal()
	}
	return err
}

// Cancel implements link.Receiver. It does nothing when the broker has ended the
// consumer.
func (r *receiver) Cancel(ctx context.Context) error {
	if r.cancelled.Load() {
		return nil
	}
	_, err := r.conn.ask(ctx, r.ch, false, &amqpwire.BasicCancel{ConsumerTag: r.tag})
	var e *link.Error
	if errors.As(err, &e) && e.Kind == link.Closed {
		return nil
	}
	return err
}

// Close implements link.Receiver. The order of the wire does what it promises:
// what was settled is written before channel.close, which the broker answers
// when it has done all that came before.
func (r *receiver) Close(ctx context.Context) error {
	r.ledger.close()
	return r.conn.closeChannel(ctx, r.ch)
}
