package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// within fails the test when what began at start has taken longer than it may.
func within(t *testing.T, what string, start time.Time, atMost time.Duration) {
	t.Helper()
	if took := time.Since(start); took > atMost {
		t.Errorf("%s took %v, at most %v may it take", what, took, atMost)
	}
}

// A peer that falls silent at any step of the end does not hold it up.
func TestCloseIsBoundedWhateverIsNotAnswered(t *testing.T) {
	silent := map[string]func(*faultbroker.Faults){
		"cancel":        func(f *faultbroker.Faults) { f.Silent = faultbroker.StepCancel },
		"channel close": func(f *faultbroker.Faults) { f.Silent = faultbroker.StepChannelClose },
		"close":         func(f *faultbroker.Faults) { f.Silent = faultbroker.StepClose },
		"confirms":      func(f *faultbroker.Faults) { f.HoldConfirms = true },
		"garbage":       func(f *faultbroker.Faults) { f.Garbage = faultbroker.StepCancel },
		"all":           func(f *faultbroker.Faults) { f.Silent = ^faultbroker.Step(0) },
	}
	for name, fault := range silent {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.broker("a")
				c, err := ferry.Dial(t.Context(), url("a"), w.options(ferry.WithTopology(queues("q")))...)
				if err != nil {
					t.Fatal(err)
				}
				enqueue(a, "q", "1", "2")
				co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
				receive(t, co, "1")
				handling := consume(t.Context(), c, ferry.ConsumerOptions{Queue: "q"}, func(context.Context, *ferry.Delivery) error { return nil })
				publish(t, c, "q", "3")
				synctest.Wait()
				a.Set(fault)
				p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Submit(t.Context(), ferry.Message{}, nil); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				start := time.Now()
				_ = c.Close(ctx)
				within(t, "Close", start, 600*time.Millisecond)
				if err := <-handling; !errors.Is(err, ferry.ErrClosed) {
					t.Errorf("Consume: %v", err)
				}
			})
		})
	}
}

// Each of several calls that close is bounded by its own context.
func TestClosingTwiceIsBoundedByEachContext(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		a.Set(func(f *faultbroker.Faults) { f.Silent = faultbroker.StepCancel })
		var calls sync.WaitGroup
		calls.Go(func() { _ = co.Close(context.Background()) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := co.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		within(t, "closing the consumer again", start, 1100*time.Millisecond)
		calls.Wait()
		if err := co.Close(t.Context()); err != nil {
			t.Errorf("closing what is closed: %v", err)
		}

		p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		a.Set(func(f *faultbroker.Faults) { f.HoldConfirms = true })
		if err := p.Submit(t.Context(), ferry.Message{}, nil); err != nil {
			t.Fatal(err)
		}
		calls.Go(func() { _ = c.Close(context.Background()) })
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		within(t, "closing the client again", start, 1100*time.Millisecond)
		a.ReleaseConfirms()
		calls.Wait()
	})
}

// Close ends calls that are under way, whatever they wait for.
func TestCloseEndsCallsThatWait(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c, err := ferry.Dial(t.Context(), url("a"), w.options(ferry.WithTopology(queues("q")))...)
		if err != nil {
			t.Fatal(err)
		}
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		a.Down()
		synctest.Wait()
		results := make(chan error, 10)
		for _, call := range []func() error{
			func() error { return c.Publish(context.Background(), ferry.Message{Key: "q"}) },
			func() error { _, err := co.Receive(context.Background()); return err },
			func() error { _, err := co.Receive(context.Background()); return err },
			func() error { return c.Declare(context.Background(), queues("r")) },
			func() error { _, err := c.Inspect(context.Background(), "q"); return err },
			func() error {
				_, err := c.Consumer(context.Background(), ferry.ConsumerOptions{Queue: "r"})
				return err
			},
			func() error {
				return c.Consume(context.Background(), ferry.ConsumerOptions{Queue: "q"}, func(context.Context, *ferry.Delivery) error { return nil })
			},
			func() error {
				_, err := c.Request(context.Background(), ferry.Message{Key: "q"})
				return err
			},
		} {
			go func() { results <- call() }()
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_ = c.Close(ctx)
		for range 8 {
			if err := <-results; !errors.Is(err, ferry.ErrClosed) {
				t.Errorf("%v", err)
			}
		}
		within(t, "Close", start, 1100*time.Millisecond)
		if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"}); !errors.Is(err, ferry.ErrClosed) {
			t.Errorf("a consumer afterwards: %v", err)
		}
		if s := c.Status(); s.Publish.State != ferry.Ended || s.Consume.State != ferry.Ended || !errors.Is(s.Publish.Err, ferry.ErrClosed) {
			t.Errorf("%+v", s)
		}
	})
}

// When the client gives up for good, all that waits is told why.
func TestFailureOfTheClientEndsWhatWaits(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")), ferry.WithMaxAttempts(2))
		enqueue(a, "q", "x")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		d := receive(t, co, "x")
		began := make(chan struct{}, 1)
		handling := consume(t.Context(), c, ferry.ConsumerOptions{Queue: "q"}, func(ctx context.Context, _ *ferry.Delivery) error {
			began <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		synctest.Wait() // it has subscribed
		enqueue(a, "q", "y", "y")
		<-began
		a.Down()
		results := make(chan error, 10)
		for range 2 {
			go func() {
				for {
					if _, err := co.Receive(context.Background()); err != nil {
						results <- err
						return
					}
				}
			}()
		}
		go func() { results <- c.Publish(context.Background(), ferry.Message{Key: "q"}) }()
		for range 3 {
			if err := <-results; !errors.Is(err, ferry.ErrNoBroker) {
				t.Errorf("%v", err)
			}
		}
		if err := <-handling; !errors.Is(err, ferry.ErrNoBroker) {
			t.Errorf("Consume: %v", err)
		}
		if err := d.Ack(); !errors.Is(err, ferry.ErrStale) {
			t.Errorf("Ack: %v", err)
		}
		synctest.Wait()
		if s := c.Status().Publish; s.State != ferry.Ended || !errors.Is(s.Err, ferry.ErrNoBroker) {
			t.Errorf("%+v", s)
		}
		for _, e := range w.happened(ferry.Closed) {
			if !errors.Is(e.Err, ferry.ErrNoBroker) {
				t.Errorf("%v", e)
			}
		}
		start := time.Now()
		if err := c.Close(t.Context()); err != nil && !errors.As(err, new(*ferry.UnconfirmedError)) {
			t.Error(err)
		}
		within(t, "Close", start, 100*time.Millisecond)
	})
}

// What the program gives the client to call may never return.
func TestCallbacksThatDoNotReturnHoldNothingUp(t *testing.T) {
	type endings struct{ release, late chan struct{} }
	hang := func(e endings) {
		<-e.release
		e.late <- struct{}{}
	}
	options := map[string]func(*world, endings) ferry.Option{
		"credentials": func(_ *world, e endings) ferry.Option {
			return ferry.WithCredentials(func(context.Context, string) (string, string, error) {
				hang(e)
				return "", "", nil
			})
		},
		"dial": func(w *world, e endings) ferry.Option {
			return ferry.WithNetDial(func(_ context.Context, network, addr string) (net.Conn, error) {
				hang(e)
				return w.net.DialContext(context.Background(), network, addr)
			})
		},
	}
	for name, option := range options {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.broker("a")
				e := endings{make(chan struct{}), make(chan struct{}, 100)}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := ferry.Dial(ctx, url("a"), w.options(option(w, e))...)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v", err)
				}
				within(t, "Dial", start, 1100*time.Millisecond)
				close(e.release)
				<-e.late
				synctest.Wait()
				if n := a.Snapshot().Open(); n != 0 {
					t.Errorf("%d connections are open", n)
				}
			})
		})
	}
	t.Run("listener", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.broker("a")
			release := make(chan struct{})
			defer close(release)
			c, err := ferry.Dial(t.Context(), url("a"), w.options(ferry.WithEvents(func(ferry.Event) { <-release }))...)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := c.Close(context.Background()); err != nil {
				t.Error(err)
			}
			within(t, "Close", start, 1100*time.Millisecond)
		})
	})
	t.Run("listener that closes the client", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.broker("a")
			var c *ferry.Client
			made, done := make(chan struct{}), make(chan error, 1)
			c, err := ferry.Dial(t.Context(), url("a"), w.options(ferry.WithEvents(func(e ferry.Event) {
				if e.Kind == ferry.Connected {
					<-made
					done <- c.Close(context.Background())
				}
			}))...)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			close(made)
			if err := <-done; err != nil {
				t.Error(err)
			}
			within(t, "Close", start, 1100*time.Millisecond)
		})
	})
}

// Close and what begins at the same moment do not hinder each other.
func TestCloseBesideWhatBegins(t *testing.T) {
	for delay := range 8 {
		t.Run(fmt.Sprint(delay), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.broker("a")
				c, err := ferry.Dial(t.Context(), url("a"), w.options(ferry.WithTopology(queues("q")))...)
				if err != nil {
					t.Fatal(err)
				}
				var calls sync.WaitGroup
				for range 4 {
					calls.Go(func() {
						_, err := c.Consumer(context.Background(), ferry.ConsumerOptions{Queue: "q"})
						if err != nil && !errors.Is(err, ferry.ErrClosed) {
							t.Errorf("Consumer: %v", err)
						}
					})
					calls.Go(func() {
						if err := c.Declare(context.Background(), queues("q")); err != nil && !errors.Is(err, ferry.ErrClosed) {
							t.Errorf("Declare: %v", err)
						}
					})
					calls.Go(func() {
						if err := c.Publish(context.Background(), ferry.Message{Key: "q"}); err != nil && !errors.Is(err, ferry.ErrClosed) {
							t.Errorf("Publish: %v", err)
						}
					})
				}
				for range delay {
					synctest.Wait()
				}
				calls.Go(func() { _ = c.Close(t.Context()) })
				_ = c.Close(t.Context())
				calls.Wait()
			})
		})
	}
}

// The options of a failover: URL count.
func TestFailoverOptionsOfTheURL(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		if _, err := ferry.Dial(t.Context(), "failover:("+url("a", "b")+")?startupMaxReconnectAttempts=3", w.options()...); !errors.Is(err, ferry.ErrNoBroker) {
			t.Errorf("%v", err)
		}
		if n := len(w.dialled()); n != 6 {
			t.Errorf("%d dials at first", n)
		}
		a := w.broker("a")
		c := w.dial("failover:(" + url("a") + ")?maxReconnectAttempts=0")
		before := len(w.dialled())
		a.Cut()
		err := c.Publish(t.Context(), ferry.Message{Key: "q"})
		if !errors.Is(err, ferry.ErrNotSent) || !errors.Is(err, ferry.ErrConnectionLost) {
			t.Errorf("%v", err)
		}
		if n := len(w.dialled()) - before; n != 0 {
			t.Errorf("%d dials after the loss", n)
		}
		w.broker("c")
		c = w.dial("failover:(" + url("b", "c") + ")?randomize=false&priorityBackup=true")
		b := w.broker("b")
		time.Sleep(time.Minute)
		if s := c.Status().Publish.Endpoint; !strings.Contains(s, "b:5672") || b.Snapshot().Open() != 1 {
			t.Errorf("on %s", s)
		}
	})
}

// A name is looked up at each attempt: what dials gets it, and no address.
func TestNamesAreLookedUpAtEachAttempt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		old, moved := w.broker("10.0.0.1"), w.broker("10.0.0.2")
		addresses := map[string]string{"broker.example:5672": "10.0.0.1:5672"}
		var mu sync.Mutex
		c := w.dial("amqp://broker.example/", ferry.WithTopology(queues("q")),
			ferry.WithNetDial(func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				return w.net.DialContext(ctx, network, addresses[addr])
			}))
		publish(t, c, "q", "x")
		mu.Lock()
		addresses["broker.example:5672"] = "10.0.0.2:5672"
		mu.Unlock()
		old.Down()
		publish(t, c, "q", "y")
		if got := moved.Bodies("q"); len(got) != 1 {
			t.Errorf("%q", got)
		}
	})
}
