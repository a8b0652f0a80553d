package cli

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ferrymq/ferry"
)

// Pauses after a message could not be handled.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
)

// A source of messages: *ferry.Consumer.
type deliveries interface {
	Receive(ctx context.Context) (*ferry.Delivery, error)
}

// A taker takes messages, has each handled, and acknowledges it then.
type taker struct {
	consumer deliveries
	handle   func(ctx context.Context, d *ferry.Delivery) error
	failed   func(err error, pause time.Duration)
	timeout  time.Duration // 0: none
	counted  bool          // left counts
	ackFirst bool          // messages are acknowledged before they are handled
	noAck    bool          // they need not be

	mu      sync.Mutex
	left    int // how many are still to come, and nobody has taken upon itself
	arrived time.Time
}

// errIdle is why a taker ends when no message came.
var errIdle = errors.New("no message came")

// run returns when all that were to come have, none came for the timeout, or ctx
// has ended, which is no error. Then left is how many did not come.
func (t *taker) run(ctx context.Context, concurrency int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	var first error
	var once sync.Once
	for range concurrency {
		workers.Go(func() {
			err := t.work(ctx)
			if err == nil {
				return
			}
			once.Do(func() { first = err })
			cancel(err)
		})
	}
	workers.Wait()
	return first
}

// work is what one of several does.
func (t *taker) work(ctx context.Context) error {
	pause := firstPause
	for t.reserve() {
		d, err := t.next(ctx)
		if err != nil {
			t.giveBack()
			if errors.Is(err, errIdle) || ctx.Err() != nil {
				return nil
			}
			return clientFailed(err)
		}
		done, err := t.take(ctx, d)
		if !done {
			t.giveBack()
		}
		if fault := (*fatal)(nil); errors.As(err, &fault) {
			return failed(err)
		}
		if err == nil {
			pause = firstPause
			continue
		}
		t.failed(err, pause)
		if sleep(ctx, pause) != nil {
			return nil
		}
		pause = min(2*pause, lastPause)
	}
	return nil
}

// reserve takes one of those upon itself that are to come.
func (t *taker) reserve() bool {
	if !t.counted {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left == 0 {
		return false
	}
	t.left--
	return true
}

func (t *taker) giveBack() {
	if t.counted {
		t.mu.Lock()
		t.left++
		t.mu.Unlock()
	}
}

// next waits for a message. Its error is errIdle if none came, to whomever, for
// the timeout.
func (t *taker) next(ctx context.Context) (*ferry.Delivery, error) {
	if t.timeout == 0 {
		return t.consumer.Receive(ctx)
	}
	began := time.Now()
	for {
		wait := time.Until(t.latest(began).Add(t.timeout))
		limited, cancel := context.WithTimeout(ctx, wait)
		d, err := t.consumer.Receive(limited)
		over := limited.Err() != nil
		cancel()
		switch {
		case err == nil:
			t.mu.Lock()
			t.arrived = time.Now()
			t.mu.Unlock()
			return d, nil
		case ctx.Err() != nil || !over:
			return nil, err
		case time.Until(t.latest(began).Add(t.timeout)) <= 0:
			return nil, errIdle
		}
	}
}

// latest is when the last message came, or since when the caller waits.
func (t *taker) latest(began time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.arrived.After(began) {
		return t.arrived
	}
	return began
}

// take has a message handled. done says that it counts: it was handled, and the
// broker will not send it again.
func (t *taker) take(ctx context.Context, d *ferry.Delivery) (done bool, err error) {
	if t.ackFirst {
		if d.Ack() != nil {
			return false, nil // it comes again
		}
		return true, t.handle(ctx, d)
	}
	if err := t.handle(ctx, d); err != nil {
		if !t.noAck {
			_ = d.Requeue() // if that fails the broker does it itself
		}
		return t.noAck, err
	}
	return t.noAck || d.Ack() == nil, nil
}
