package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

type handler = func(context.Context, *ferry.Delivery) error

// consume runs Consume until it returns.
func consume(ctx context.Context, c *ferry.Client, o ferry.ConsumerOptions, h handler) <-chan error {
	result := make(chan error, 1)
	go func() { result <- c.Consume(ctx, o, h) }()
	return result
}

// A handler that heeds nothing is left behind, and that is told.
func TestConsumeDoesNotWaitForAHandlerThatDoesNotReturn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "x")
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		defer close(release)
		start := time.Now()
		err := c.Consume(ctx, ferry.ConsumerOptions{Queue: "q", Grace: 3 * time.Second}, func(context.Context, *ferry.Delivery) error {
			cancel()
			<-release
			return nil
		})
		if took := time.Since(start); took > 3100*time.Millisecond || took < 3*time.Second {
			t.Errorf("took %v", took)
		}
		if err == nil || !strings.Contains(err.Error(), "did not return") {
			t.Errorf("%v", err)
		}
		if err := a.Wait(t.Context(), func(s faultbroker.State) bool { return s.Queues["q"] == faultbroker.Queue{Ready: 1} }); err != nil {
			t.Error(err)
		}
	})
}

// Handlers finish when the client is closed, and may use it to do so: what they
// publish is confirmed, what they did is acknowledged.
func TestCloseLetsHandlersFinish(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q", "answers")))
		enqueue(a, "q", "1", "2", "3", "4")
		began := make(chan struct{})
		result := consume(t.Context(), c, ferry.ConsumerOptions{Queue: "q"}, func(ctx context.Context, _ *ferry.Delivery) error {
			close(began)
			time.Sleep(5 * time.Second)
			return c.Publish(ctx, ferry.Message{Key: "answers", Body: []byte("done")})
		})
		<-began
		start := time.Now()
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		if err := <-result; !errors.Is(err, ferry.ErrClosed) {
			t.Errorf("Consume: %v", err)
		}
		if q := a.Snapshot().Queues; q["q"] != (faultbroker.Queue{Ready: 3}) || q["answers"].Ready != 1 {
			t.Errorf("%+v", q)
		}
	})
}

// A handler that waits for itself does so no longer than its grace.
func TestHandlerThatClosesTheClientIsCutShort(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "x")
		start := time.Now()
		err := c.Consume(t.Context(), ferry.ConsumerOptions{Queue: "q", Grace: 2 * time.Second}, func(context.Context, *ferry.Delivery) error {
			return c.Close(context.Background())
		})
		if took := time.Since(start); !errors.Is(err, ferry.ErrClosed) || took > 2100*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestNoAckConsumerEndsWhenItsHandlersDo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "1", "2", "3")
		ctx, cancel := context.WithCancel(t.Context())
		var start time.Time
		handled := 0
		err := c.Consume(ctx, ferry.ConsumerOptions{Queue: "q", NoAck: true}, func(ctx context.Context, _ *ferry.Delivery) error {
			if handled++; handled == 2 {
				cancel()
				start = time.Now()
				time.Sleep(time.Second)
			}
			return ctx.Err()
		})
		if took := time.Since(start); err != nil || took != time.Second || handled != 2 {
			t.Errorf("%v after %v, %d handled", err, took, handled)
		}
	})
}

// What waits behind a handler when the client is closed is not handled: nobody
// would wait for it.
func TestNoAckConsumerHandlesNothingMoreWhenTheClientIsClosed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "1", "2", "3")
		handled := 0
		began := make(chan struct{}, 3)
		result := consume(t.Context(), c, ferry.ConsumerOptions{Queue: "q", NoAck: true}, func(ctx context.Context, _ *ferry.Delivery) error {
			handled++
			began <- struct{}{}
			time.Sleep(time.Second)
			return ctx.Err()
		})
		<-began
		start := time.Now()
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, ferry.ErrClosed) || handled != 1 {
			t.Errorf("%v, %d handled", err, handled)
		}
		within(t, "Close", start, time.Second)
	})
}

// Without acknowledgements the message does not come again: its handler goes on.
func TestNoAckHandlerGoesOnWhenTheConnectionIsLost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "x")
		ctx, cancel := context.WithCancel(t.Context())
		var cause error
		if err := c.Consume(ctx, ferry.ConsumerOptions{Queue: "q", NoAck: true}, func(ctx context.Context, _ *ferry.Delivery) error {
			a.Cut()
			time.Sleep(time.Second)
			cause = context.Cause(ctx)
			cancel()
			return nil
		}); err != nil {
			t.Error(err)
		}
		if cause != nil {
			t.Errorf("the context ended with %v", cause)
		}
	})
}

// The wait after a failure is not a part of ending.
func TestConsumeEndsWithoutTheWaitAfterAFailure(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "x")
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			var start time.Time
			_ = c.Consume(ctx, ferry.ConsumerOptions{Queue: "q"}, func(context.Context, *ferry.Delivery) error {
				if n++; n == 12 {
					cancel()
					start = time.Now()
				}
				return errors.New("no")
			})
			if took := time.Since(start); took > 0 {
				t.Fatalf("took %v", took)
			}
		}
	})
}

// A handler of a delivery that came before the broker cancelled the consumer has
// its grace, too.
func TestCloseLetsHandlersOfACancelledSubscriptionFinish(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "x")
		ctx, cancel := context.WithCancel(t.Context())
		began := make(chan struct{})
		result := consume(ctx, c, ferry.ConsumerOptions{Queue: "q"}, func(context.Context, *ferry.Delivery) error {
			close(began)
			time.Sleep(5 * time.Second)
			return nil
		})
		<-began
		a.CancelConsumers()
		time.Sleep(time.Second)
		cancel()
		if err := <-result; err != nil {
			t.Error(err)
		}
		if q := a.Snapshot().Queues["q"]; q != (faultbroker.Queue{}) {
			t.Errorf("%+v is left", q)
		}
	})
}

// While a connection is left for a better one, and when handlers do not finish in
// time, they are told that it is gone.
func TestDeliveriesEndAsLostWhenTheConnectionIsLeft(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		a.Down()
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(5*time.Second))
		enqueue(b, "q", "x")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		d := receive(t, co, "x")
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		<-d.Context().Done()
		if cause := context.Cause(d.Context()); !errors.Is(cause, ferry.ErrConnectionLost) {
			t.Errorf("the context ended with %v", cause)
		}
		if err := d.Ack(); !errors.Is(err, ferry.ErrStale) {
			t.Error(err)
		}
	})
}

// A panic ends the program; the message comes again.
func TestHandlerThatPanicsEndsTheProgramAndLosesNothing(t *testing.T) {
	const variable = "FERRY_TEST_PANIC_URL"
	if u := os.Getenv(variable); u != "" {
		c, err := ferry.Dial(t.Context(), u, ferry.WithTracer(printer{}))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Consume(t.Context(), ferry.ConsumerOptions{Queue: "q"}, func(context.Context, *ferry.Delivery) error {
			panic("a fault of the handler")
		})
		t.Fatal("Consume has returned")
	}
	fb := faultbroker.Start(t, faultbroker.Options{})
	enqueue(fb, "q", "x")
	program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	program.Env = append(os.Environ(), variable+"="+fb.URL())
	out, err := program.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: a fault of the handler") || !strings.Contains(string(out), "traced: ferry: the handler panicked") {
		t.Errorf("%v: %s", err, out)
	}
	if err := fb.Wait(t.Context(), func(s faultbroker.State) bool { return s.Queues["q"] == faultbroker.Queue{Ready: 1} }); err != nil {
		t.Error(err)
	}
}

// printer tells on standard output how handlers ended.
type printer struct{}

func (printer) Start(ctx context.Context, _ ferry.Operation, _ *ferry.Message) (context.Context, func(error)) {
	return ctx, func(err error) { fmt.Println("traced:", err) }
}

// endings records how a tracer was told that handlers ended.
type endings []error

func (e *endings) Start(ctx context.Context, op ferry.Operation, _ *ferry.Message) (context.Context, func(error)) {
	if op != ferry.Handling {
		return ctx, nil
	}
	return ctx, func(err error) { *e = append(*e, err) }
}

func TestTracerSeesWhatHandlersReturn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		var seen endings
		c := w.dial(url("a"), ferry.WithTopology(queues("q")), ferry.WithTracer(&seen))
		enqueue(a, "q", "ok", "bad")
		ctx, cancel := context.WithCancel(t.Context())
		if err := c.Consume(ctx, ferry.ConsumerOptions{Queue: "q"}, func(_ context.Context, d *ferry.Delivery) error {
			if string(d.Body) == "bad" {
				cancel()
				return ferry.ErrReject
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(seen) != 2 || seen[0] != nil || !errors.Is(seen[1], ferry.ErrReject) {
			t.Errorf("%v", seen)
		}
	})
}
