package ferry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ferrymq/ferry/internal/link"
)

// What errors.Is finds in the errors of this package.
var (
	// ErrClosed: the client, publisher or consumer was closed by this program.
	ErrClosed = errors.New("ferry: closed")

	// ErrNoBroker: no endpoint could be connected to.
	ErrNoBroker = errors.New("ferry: no broker is reachable")

	// ErrConnectionLost is the cause with which the context of a delivery ends
	// when its connection does.
	ErrConnectionLost = errors.New("ferry: connection lost")

	// ErrStale: the delivery's connection is gone; the broker has given the
	// message back to the queue. Nothing was sent.
	ErrStale = errors.New("ferry: the delivery belongs to a connection that is gone")

	// ErrSettled: the delivery was acknowledged, rejected or requeued before.
	ErrSettled = errors.New("ferry: the delivery is settled already")

	// ErrNotSent: the call gave up, and the message never left this program.
	ErrNotSent = errors.New("ferry: the message was not sent")

	// ErrUnknown: the call gave up after the message was sent and before the
	// broker answered; or it was sent again after that, and then refused (which
	// ErrNacked, ErrUnroutable or a *BrokerError tell). The broker may have it or
	// not.
	ErrUnknown = errors.New("ferry: it is not known whether the broker has the message")

	// ErrBlocked: the broker takes no messages at present, because it is short of
	// memory or disk. It comes with ErrNotSent or ErrUnknown.
	ErrBlocked = errors.New("ferry: the broker has blocked publishing")

	// ErrRefused: the broker answered, and does not have the message. ErrNacked
	// and ErrUnroutable come with it, or what the broker said as a *BrokerError.
	ErrRefused = errors.New("ferry: the broker refused the message")

	// ErrNacked: the broker could not take the message, for example because a
	// queue that it was routed to is full.
	ErrNacked = errors.New("ferry: the broker nacked the message")

	// ErrUnroutable: no queue takes messages with this exchange and key.
	ErrUnroutable = errors.New("ferry: no queue takes the message")

	// What brokers refuse: the queue, exchange or virtual host does not exist;
	// this user may not; it exists and is different, or a value is not allowed;
	// another connection has it exclusively.
	ErrNotFound      = errors.New("ferry: not found")
	ErrAccessRefused = errors.New("ferry: access refused")
	ErrPrecondition  = errors.New("ferry: precondition failed")
	ErrLocked        = errors.New("ferry: locked by another connection")

	// ErrNotAllowed: the broker does not do this, or its protocol has no way to ask
	// for it: over STOMP nothing but queues can be declared.
	ErrNotAllowed = errors.New("ferry: not allowed")

	// ErrReject is for handlers: one that returns it, or an error that wraps it,
	// has the message rejected instead of requeued.
	ErrReject = errors.New("ferry: reject the message")

	// ErrOutboxFull: the outbox has as many bytes as it may have.
	ErrOutboxFull = errors.New("ferry: the outbox is full")
)

// BrokerError is what a broker said, in its own words.
type BrokerError struct {
	Code int // of the protocol: 404, 406, ...
	Text string
	kind link.Kind
}

// Error gives the code and the text.
func (e *BrokerError) Error() string {
	if e.Code == 0 {
		return e.Text
	}
	return fmt.Sprintf("%d %s", e.Code, e.Text)
}

// Is makes errors.Is find which of the errors above it is.
func (e *BrokerError) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.kind == link.NotFound
	case ErrAccessRefused:
		return e.kind == link.AccessRefused
	case ErrPrecondition:
		return e.kind == link.Precondition
	case ErrLocked:
		return e.kind == link.Locked
	case ErrNotAllowed:
		return e.kind == link.NotAllowed
	default:
		return false
	}
}

// UnconfirmedError is returned by Close when messages are left whose outcome is
// not known, or that were not sent. With an outbox they stay in it instead.
type UnconfirmedError struct {
	// Messages in the order in which they were submitted, with their IDs, and with
	// the Attempt that marks those that were sent: published again as they are, a
	// broker of Ferry's drops what it has.
	Messages []Message
	Cause    error // why it was not waited for longer
}

func (e *UnconfirmedError) Error() string {
	return fmt.Sprintf("ferry: %d messages are not confirmed: %v", len(e.Messages), e.Cause)
}

// Unwrap gives ErrUnknown and the cause.
func (e *UnconfirmedError) Unwrap() []error { return []error{ErrUnknown, e.Cause} }

// A verdict is what to do about an error of a link.
type verdict uint8

const (
	// tryElsewhere: the connection is no more; another may do.
	tryElsewhere verdict = iota
	// tryAgain: the connection is fine, what was asked cannot be done now.
	tryAgain
	// giveUp: trying again gives the same answer.
	giveUp
)

// judge is the one place that decides what may be tried again. scope says
// whether the connection goes on.
func judge(err error, connectionAlive bool) verdict {
	var e *link.Error
	if !errors.As(err, &e) {
		return tryElsewhere
	}
	switch e.Kind {
	case link.NotFound, link.AccessRefused, link.Precondition, link.NotAllowed,
		link.TooLarge, link.Unsendable, link.Unroutable:
		return giveUp
	case link.Unavailable, link.Locked, link.Internal:
		if connectionAlive {
			return tryAgain
		}
	case link.Protocol:
		if connectionAlive {
			return giveUp
		}
	}
	return tryElsewhere
}

// culpable tells whether an error that ended a sender, and not its connection, may
// be the fault of one of its messages: then sending them all again would end the
// next one as well.
func culpable(err error) bool {
	var e *link.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Kind {
	case link.NotFound, link.AccessRefused, link.Precondition, link.NotAllowed,
		link.TooLarge, link.Unsendable, link.Unroutable:
		return true
	default:
		return false
	}
}

// suspicious tells whether an error that ended a sender is what the broker said, and
// does not say whose fault it is: a message's, perhaps.
func suspicious(err error) bool {
	var e *link.Error
	return errors.As(err, &e) && e.Said && (e.Kind == link.Internal || e.Kind == link.Protocol)
}

// public is an error of a link as this package's callers see it.
func public(err error) error {
	var e *link.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case link.Closed:
		return ErrClosed
	case link.Network, link.Dead, link.Forced, link.Internal:
		if !e.Said {
			return &lostError{e}
		}
		return fmt.Errorf("%w: %w", ErrConnectionLost, brokerError(e))
	case link.Unsendable:
		return err
	default:
		return brokerError(e)
	}
}

// lostError is ErrConnectionLost with the transport's reason.
type lostError struct{ err *link.Error }

func (e *lostError) Error() string {
	text := e.err.Text
	switch {
	case text == "" && e.err.Err == nil:
		text = e.err.Kind.String()
	case text == "":
		text = e.err.Err.Error()
	case e.err.Err != nil:
		text += ": " + e.err.Err.Error()
	}
	return ErrConnectionLost.Error() + ": " + text
}

func (e *lostError) Unwrap() []error { return []error{ErrConnectionLost, e.err} }

func brokerError(e *link.Error) *BrokerError {
	text := e.Text
	if text == "" {
		text = e.Kind.String()
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return &BrokerError{Code: e.Code, Text: text, kind: e.Kind}
}

// refusal is why a message was refused.
func refusal(err error) error {
	var e *link.Error
	if errors.As(err, &e) && e.Kind == link.Unroutable {
		return fmt.Errorf("%w: %w: %w", ErrRefused, ErrUnroutable, brokerError(e))
	}
	return fmt.Errorf("%w: %w", ErrRefused, public(err))
}

// refused is the outcome of a message that the broker has refused for a reason. If
// it was sent before, with an unknown outcome, then that it is refused now says
// nothing of the first time: the broker may have it.
func (e *entry) refused(why error) error {
	if !e.doubt {
		return why
	}
	return &doubtful{why}
}

// doubtful is ErrUnknown and why a message was refused when it was sent again, but
// for ErrRefused.
type doubtful struct{ why error }

func (e *doubtful) Error() string {
	return ErrUnknown.Error() + ": it was sent before, and refused now: " + strings.TrimPrefix(e.why.Error(), ErrRefused.Error()+": ")
}

func (e *doubtful) Is(target error) bool { return target != ErrRefused && errors.Is(e.why, target) }

func (e *doubtful) As(target any) bool { return errors.As(e.why, target) }

func (e *doubtful) Unwrap() error { return ErrUnknown }

var errNacked = fmt.Errorf("%w: %w", ErrRefused, ErrNacked)

// ended says what gave up first: the context's cause.
func ended(ctx context.Context) error { return context.Cause(ctx) }
