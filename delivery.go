package ferry

import (
	"context"
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/link"
)

// Delivery is a message that was received. It must be settled once, by Ack, Nack,
// Reject or Requeue, on the connection that it came on: after that is lost the
// broker delivers it again, to whoever consumes then, and settling it is ErrStale.
// Deliveries of a consumer with NoAck are settled already: there all four do
// nothing.
type Delivery struct {
	Message

	// ID names the submission of the message, "" if its sender is not a Ferry
	// client. That of Message is empty: published again, it is a new message.
	ID string

	// Redelivered: the broker has delivered it before, and it was not settled.
	Redelivered bool

	// Attempt is over 1 where the sender has marked that it sent the message
	// before and does not know what became of it: it may be a repeat.
	Attempt int

	tag  uint64
	from *subscription
}

// Ack tells the broker that the message is done with. It does not wait: the
// broker has it at the latest when Consumer.Close has returned nil.
func (d *Delivery) Ack() error {
	co := d.from.consumer
	if co.repeats != nil {
		co.repeats.handled(d) // also if it is stale: the work is done
	}
	if co.options.NoAck {
		return nil
	}
	return d.from.after(d.from.receiver.Ack(d.tag))
}

// Nack tells the broker that the message could not be handled. With requeue it is
// delivered again, else it is dropped or dead-lettered.
func (d *Delivery) Nack(requeue bool) error {
	co := d.from.consumer
	if co.repeats != nil {
		co.again(co.repeats.unhandled(d))
	}
	if co.options.NoAck {
		return nil
	}
	return d.from.after(d.from.receiver.Nack(d.tag, requeue))
}

// Reject drops or dead-letters the message.
func (d *Delivery) Reject() error {
	co := d.from.consumer
	if co.repeats != nil {
		co.again(co.repeats.unhandled(d))
	}
	if co.options.NoAck {
		return nil
	}
	return d.from.after(d.from.receiver.Reject(d.tag, false))
}

// Requeue gives the message back to its queue, to be delivered again.
func (d *Delivery) Requeue() error { return d.Nack(true) }

// Context ends when the delivery can no longer be settled, because its connection
// is gone or left for a better one (context.Cause is then ErrConnectionLost) or
// its consumer was closed (ErrClosed). It carries the message's trace context.
func (d *Delivery) Context() context.Context { return extract(d.from.ctx, &d.Message) }

// Reply sends a message to the queue that ReplyTo names, with the same
// CorrelationID, and waits for its outcome as Publish does. A requester that is
// gone is ErrUnroutable.
func (d *Delivery) Reply(ctx context.Context, m Message) error {
	if d.ReplyTo == "" {
		return errors.New("ferry: the message has no ReplyTo to reply to")
	}
	m.Exchange, m.Key, m.CorrelationID = "", d.ReplyTo, d.CorrelationID
	return d.from.consumer.client.reply(ctx, m)
}

// after counts a settlement, and translates the receiver's error.
func (s *subscription) after(err error) error {
	switch {
	case err == nil:
		s.settled()
		return nil
	case errors.Is(err, link.ErrSettled):
		return ErrSettled
	case errors.Is(err, link.ErrClosed):
		if cause := context.Cause(s.ctx); cause != nil {
			return fmt.Errorf("%w: %w", ErrStale, cause)
		}
		return ErrStale
	default:
		return public(err)
	}
}
