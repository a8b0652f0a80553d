package ferry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Waits after a handler has failed, so that a message that always fails does not
// spin between broker and handler.
const (
	failedWait    = 10 * time.Millisecond
	failedMaxWait = time.Second
)

// handlerGrace is how long a handler may take to return when its context has
// ended: one that heeds it has returned then.
const handlerGrace = 50 * time.Millisecond

// Consume calls handle with each delivery, on Concurrency goroutines, until ctx
// ends (nil), the client is closed (ErrClosed) or the broker refuses. A delivery
// whose handler returns nil is acknowledged; one whose handler returns an error
// that wraps ErrReject is rejected; with any other error it is requeued, after a
// short wait that grows while handlers keep failing.
//
// The context that handle gets has the values of ctx and the message's trace
// context. It ends when the delivery's connection is lost (context.Cause is
// ErrConnectionLost): the message is delivered again then, and what handle
// returns changes nothing. It does not end with ctx: handlers that are at work
// then have Grace to finish, after which it ends as well. With NoAck it does not
// end with the connection: the message does not come again.
//
// A handler that does not return then is not waited for: the error says that
// there is one, and its message is delivered again, to somebody else. A handler
// that panics is not recovered from: the program ends, as with any goroutine, and
// the broker delivers its message again.
func (c *Client) Consume(ctx context.Context, o ConsumerOptions, handle func(context.Context, *Delivery) error) error {
	co, err := c.newConsumer(ctx, o, true)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var workers sync.WaitGroup
	failures := make(chan error, 1)
	for range max(o.Concurrency, 1) {
		workers.Go(func() {
			if err := co.work(ctx, handle); err != nil {
				select {
				case failures <- err:
				default:
				}
			}
		})
	}
	returned := make(chan struct{})
	go func() {
		workers.Wait()
		close(returned)
	}()
	select {
	case <-ctx.Done():
	case <-co.stopped:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), co.options.Grace)
	defer cancel()
	_ = co.Close(grace) // what was cut short comes again
	left := time.NewTimer(handlerGrace)
	defer left.Stop()
	select {
	case <-returned:
	case <-left.C:
		err = fmt.Errorf("ferry: consuming from %s: a handler did not return, although its context has ended", co.name())
	}
	select {
	case failure := <-failures:
		return errors.Join(failure, err)
	default:
		return err
	}
}

// work handles deliveries one after the other.
func (co *Consumer) work(ctx context.Context, handle func(context.Context, *Delivery) error) error {
	wait := backoff{initial: failedWait, max: failedMaxWait}
	for {
		d, err := co.Receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		err = co.call(ctx, d, handle)
		switch {
		case err == nil:
			wait.reset()
			_ = d.Ack() // a stale one comes again
		case errors.Is(err, ErrReject):
			_ = d.Reject()
		default:
			hold, stop := either(d.from.ctx, ctx)
			_ = pause(hold, wait.next())
			stop()
			_ = d.Requeue()
		}
		if co.options.NoAck {
			d.from.settled()
		}
	}
}

// call calls a handler with the context it is to have.
func (co *Consumer) call(values context.Context, d *Delivery, handle func(context.Context, *Delivery) error) (err error) {
	of := d.from.ctx
	if co.options.NoAck {
		of = co.orderly
	}
	ctx, cancel := either(context.WithoutCancel(values), of)
	defer cancel()
	ctx = extract(ctx, &d.Message)
	if t := co.client.options.tracer; t != nil {
		var end func(error)
		ctx, end = t.Start(ctx, Handling, &d.Message)
		if end != nil {
			err = errPanicked
			defer func() { end(err) }()
		}
	}
	return handle(ctx, d)
}

// errPanicked is what a tracer gets of a handler that did not return.
var errPanicked = errors.New("ferry: the handler panicked")

// either is a context with the values of the first that ends when one of two does.
func either(ctx, other context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

func isLost(err error) bool { return errors.Is(err, ErrConnectionLost) }
