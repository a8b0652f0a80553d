package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func TestCloseWaitsForEveryOutcomeAndCallback(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		hold(b, true)
		s := w.sending(c, ferry.PublisherOptions{})
		s.submit(numbered(100)...)
		closed := make(chan error)
		go func() { closed <- s.p.Close(t.Context()) }()
		synctest.Wait()
		if err := s.p.Submit(t.Context(), ferry.Message{}, nil); !errors.Is(err, ferry.ErrClosed) || !errors.Is(err, ferry.ErrNotSent) {
			t.Errorf("Submit while it closes: %v", err)
		}
		if err := s.p.Publish(t.Context(), ferry.Message{}); !errors.Is(err, ferry.ErrClosed) || !errors.Is(err, ferry.ErrNotSent) {
			t.Errorf("Publish while it closes: %v", err)
		}
		select {
		case err := <-closed:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		hold(b, false)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if len(s.order) != 100 {
			t.Errorf("%d callbacks", len(s.order))
		}
		if err := s.p.Close(t.Context()); err != nil {
			t.Errorf("the second time: %v", err)
		}
		if err := s.p.Flush(t.Context()); err != nil {
			t.Errorf("Flush afterwards: %v", err)
		}
		synctest.Wait()
		if n := len(arrived(b)); n != 100 {
			t.Errorf("%d arrived", n)
		}
	})
}

func TestCloseThatIsCutShortTellsWhatIsLeft(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		hold(b, true)
		s := w.sending(c, ferry.PublisherOptions{})
		s.submit("a", "b", "c")
		s.message(ferry.Message{Body: []byte("d"), ID: "moved-1"})
		synctest.Wait()
		b.Ack(b.Publishes()[1], false)
		synctest.Wait()
		b.Down()
		synctest.Wait()
		s.submit("e")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := s.p.Close(ctx)
		if d := time.Since(start); d != time.Second {
			t.Errorf("it took %v", d)
		}
		left := (*ferry.UnconfirmedError)(nil)
		if !errors.As(err, &left) || !errors.Is(err, ferry.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		var bodies []string
		for _, m := range left.Messages {
			bodies = append(bodies, string(m.Body))
			if r, _ := s.result(string(m.Body)); m.ID == "" || r.ID() != m.ID {
				t.Errorf("%s has the ID %q, its result says %q", m.Body, m.ID, r.ID())
			}
		}
		wantList(t, "left", bodies, "a", "c", "d", "e")
		s.expect("unknown/1 confirmed/1 unknown/1 unknown/1 not sent/0", "a", "b", "c", "d", "e")
		if err := s.p.Close(t.Context()); !errors.As(err, &left) || len(left.Messages) != 4 {
			t.Errorf("the second time: %v", err)
		}
		up(t, b)
		reconnected(t, b, 2)
		if n := len(arrived(b)); n != 4 {
			t.Errorf("%q arrived", arrived(b))
		}
	})
}

func TestClientCloseEndsAllPublishers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b")
		c, err := ferry.Dial(t.Context(), url("b"), w.options(ferry.WithTopology(queues("q")))...)
		if err != nil {
			t.Fatal(err)
		}
		hold(b, true)
		var all []*sending
		for i := range 3 {
			s := w.sending(c, ferry.PublisherOptions{})
			s.submit(fmt.Sprint(i, "a"), fmt.Sprint(i, "b"))
			all = append(all, s)
		}
		synctest.Wait()
		for _, p := range b.Publishes() {
			if strings.HasSuffix(string(p.Body), "a") {
				b.Ack(p, false)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = c.Close(ctx)
		left := (*ferry.UnconfirmedError)(nil)
		if !errors.As(err, &left) || len(left.Messages) != 3 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
		for i, s := range all {
			s.expect("confirmed/1 unknown/1", fmt.Sprint(i, "a"), fmt.Sprint(i, "b"))
			if err := s.p.Submit(t.Context(), ferry.Message{}, nil); !errors.Is(err, ferry.ErrClosed) {
				t.Error(err)
			}
		}
		if _, err := c.Publisher(ferry.PublisherOptions{}); !errors.Is(err, ferry.ErrClosed) {
			t.Error(err)
		}
		if err := c.Publish(t.Context(), ferry.Message{Key: "q"}); !errors.Is(err, ferry.ErrClosed) || !errors.Is(err, ferry.ErrNotSent) {
			t.Error(err)
		}
		if _, err := c.Request(t.Context(), ferry.Message{Key: "q"}); !errors.Is(err, ferry.ErrClosed) {
			t.Error(err)
		}
	}) // no goroutine may be left
}

// A callback that does not return holds up nobody but its own publisher, and that
// for no longer than the context says.
func TestCloseDoesNotWaitForACallbackThatDoesNotReturn(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, _ *faultbroker.Broker, c *ferry.Client) {
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		closed := make(chan time.Duration, 1)
		err = p.Submit(t.Context(), ferry.Message{}, func(ferry.Result) {
			start := time.Now()
			_ = p.Close(ctx) // waits for itself
			closed <- time.Since(start)
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := <-closed; d > 1100*time.Millisecond {
			t.Errorf("after %v", d)
		}
	})
}

// limit is how long what has to return may take once its context has ended.
const limit = 100 * time.Millisecond

// Every call returns when its context ends, whatever the peer leaves out, and
// when it says what makes no sense it does not wait for ever either.
func TestPeersThatDoNotAnswer(t *testing.T) {
	calls := map[string]func(ctx context.Context, c *ferry.Client, p *ferry.Publisher) error{
		"publish": func(ctx context.Context, c *ferry.Client, _ *ferry.Publisher) error {
			return c.Publish(ctx, ferry.Message{Key: "q"})
		},
		"submit": func(ctx context.Context, _ *ferry.Client, p *ferry.Publisher) error {
			return p.Submit(ctx, ferry.Message{Body: []byte("more")}, nil)
		},
		"flush": func(ctx context.Context, _ *ferry.Client, p *ferry.Publisher) error { return p.Flush(ctx) },
		"close publisher": func(ctx context.Context, _ *ferry.Client, p *ferry.Publisher) error {
			return p.Close(ctx)
		},
		"request": func(ctx context.Context, c *ferry.Client, _ *ferry.Publisher) error {
			_, err := c.Request(ctx, ferry.Message{Key: "q"})
			return err
		},
		"close client": func(ctx context.Context, c *ferry.Client, _ *ferry.Publisher) error { return c.Close(ctx) },
	}
	steps := map[string]func(*faultbroker.Broker){
		"nothing":        func(b *faultbroker.Broker) { hold(b, true) },
		"channel open":   func(b *faultbroker.Broker) { silent(b, faultbroker.StepChannelOpen) },
		"confirm select": func(b *faultbroker.Broker) { silent(b, faultbroker.StepConfirmSelect) },
		"consume": func(b *faultbroker.Broker) {
			hold(b, true)
			silent(b, faultbroker.StepConsume)
		},
		"closes": func(b *faultbroker.Broker) {
			hold(b, true)
			silent(b, faultbroker.StepChannelClose|faultbroker.StepClose)
		},
		"anything": (*faultbroker.Broker).Pause,
		"blocked":  func(b *faultbroker.Broker) { b.Block("full") },
		"down":     (*faultbroker.Broker).Down,
		"down after the handshake began": func(b *faultbroker.Broker) {
			silent(b, faultbroker.StepHeader|faultbroker.StepStartOk|faultbroker.StepOpen)
			b.Cut()
		},
		"garbage": func(b *faultbroker.Broker) {
			b.Set(func(f *faultbroker.Faults) {
				f.HoldConfirms = true
				f.Garbage = faultbroker.StepChannelOpen | faultbroker.StepConfirmSelect | faultbroker.StepChannelClose | faultbroker.StepClose
			})
		},
		"garbage from the beginning": func(b *faultbroker.Broker) {
			b.Set(func(f *faultbroker.Faults) { f.Garbage = faultbroker.StepHeader })
			b.Cut()
		},
	}
	for step, misbehave := range steps {
		for call, do := range calls {
			t.Run(step+"/"+call, func(t *testing.T) {
				publishing(t, func(t *testing.T, _ *world, b *faultbroker.Broker, c *ferry.Client) {
					misbehave(b)
					synctest.Wait()
					p, err := c.Publisher(ferry.PublisherOptions{Key: "q", Window: 1})
					if err != nil {
						t.Fatal(err)
					}
					outcomes := 0
					if err := p.Submit(t.Context(), ferry.Message{Body: make([]byte, 1<<20)}, func(ferry.Result) { outcomes++ }); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					const patience = 3 * time.Second
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					start := time.Now()
					err = do(ctx, c, p)
					if d := time.Since(start); d > patience+limit {
						t.Errorf("it took %v", d)
					}
					if err == nil {
						t.Error("no error")
					}
					if call != "close client" && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("the error is %v", err)
					}
					// And the rest ends, too.
					ctx, cancel = context.WithTimeout(t.Context(), patience)
					defer cancel()
					start = time.Now()
					_ = c.Close(ctx)
					if d := time.Since(start); d > patience+limit {
						t.Errorf("Close of the client took %v", d)
					}
					synctest.Wait()
					if outcomes != 1 {
						t.Errorf("the message has %d outcomes", outcomes)
					}
				})
			})
		}
	}
}

func TestDialOfAPeerThatDoesNotAnswer(t *testing.T) {
	for name, f := range map[string]faultbroker.Faults{
		"header":   {Silent: faultbroker.StepHeader},
		"start-ok": {Silent: faultbroker.StepStartOk},
		"open":     {Silent: faultbroker.StepOpen},
		"closes":   {Silent: faultbroker.StepClose, RefuseLogin: true},
		"garbage":  {Garbage: faultbroker.StepHeader},
		"later":    {Garbage: faultbroker.StepOpen},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.broker("b", func(o *faultbroker.Options) { o.Faults = f })
				const patience = 3 * time.Second // less than the connect timeout
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				start := time.Now()
				_, err := ferry.Dial(ctx, url("b"), w.options(ferry.WithInitialRetry())...)
				if d := time.Since(start); err == nil || d > patience+limit {
					t.Errorf("after %v: %v", d, err)
				}
			})
		})
	}
}

func silent(b *faultbroker.Broker, s faultbroker.Step) {
	b.Set(func(f *faultbroker.Faults) { f.Silent = s })
}

// A stuck transport keeps writes of more than 100 kB until it is let go or closed.
type stuck struct {
	net.Conn
	free   <-chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (c *stuck) Write(b []byte) (int, error) {
	if len(b) > 100<<10 {
		select {
		case <-c.free:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return c.Conn.Write(b)
}

func (c *stuck) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// stuckClient makes a client that has no connection yet; when it has, its writes
// are stuck until free is called.
func (w *world) stuckClient(b *faultbroker.Broker) (c *ferry.Client, free func()) {
	w.t.Helper()
	released := make(chan struct{})
	c = w.dial(url("b"), ferry.WithTopology(queues("q")), ferry.WithNetDial(func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := w.net.DialContext(ctx, network, addr)
		return &stuck{Conn: nc, free: released, closed: make(chan struct{})}, err
	}))
	b.Down()
	synctest.Wait()
	return c, func() { close(released) }
}

// A sender that is stuck in the middle of writing holds messages that nobody waits
// for any more. When it gets on, what it writes is what it was given.
func TestWhatIsWrittenLateIsWhatWasSubmitted(t *testing.T) {
	large := strings.Repeat("x", 10<<10)
	for name, giveUp := range map[string]func(t *testing.T, b *faultbroker.Broker, p *ferry.Publisher){
		"closed": func(t *testing.T, b *faultbroker.Broker, p *ferry.Publisher) {
			for range 50 {
				if err := p.Submit(t.Context(), ferry.Message{Body: []byte(large)}, nil); err != nil {
					t.Fatal(err)
				}
			}
			up(t, b)
			reconnected(t, b, 2)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := p.Close(ctx); !errors.Is(err, ferry.ErrUnknown) {
				t.Error(err)
			}
		},
		"given up": func(t *testing.T, b *faultbroker.Broker, p *ferry.Publisher) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					if err := p.Publish(ctx, ferry.Message{Body: []byte(large)}); !errors.Is(err, ferry.ErrUnknown) {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			up(t, b)
			wg.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				b := w.broker("b")
				c, free := w.stuckClient(b)
				p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
				if err != nil {
					t.Fatal(err)
				}
				giveUp(t, b, p)
				free()
				publish(t, c, "q", "y")
				synctest.Wait()
				if n := len(b.Publishes()); n != 51 {
					t.Errorf("%d arrived", n)
				}
				for _, p := range b.Publishes() {
					if p.Key != "q" || string(p.Body) != large && string(p.Body) != "y" {
						t.Fatalf("to %q came %d bytes", p.Key, len(p.Body))
					}
				}
			})
		})
	}
}

// Without confirms a 404 may be because of any message before: the only one that
// is not written yet is not to blame.
func TestWithoutConfirmsWhoIsLastIsNotBlamed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b")
		c, free := w.stuckClient(b)
		s := w.sending(c, ferry.PublisherOptions{NoConfirm: true})
		body := strings.Repeat("x", 200<<10)
		s.submit(body)
		up(t, b)
		reconnected(t, b, 2)
		b.CloseChannels(404, "NOT_FOUND")
		synctest.Wait()
		free()
		s.flush()
		s.expect("unknown/1", body)
	})
}

// A connection that was closed may need a while to end, as when a write is stuck.
// What was in flight on it is no more to blame than at once.
func TestConnectionErrorIsNobodysFaultWhileItEnds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b")
		c, free := w.stuckClient(b)
		hold(b, true)
		s, stuck := w.sending(c, ferry.PublisherOptions{}), w.sending(c, ferry.PublisherOptions{})
		s.submit("a")
		up(t, b)
		reconnected(t, b, 2)
		stuck.submit(strings.Repeat("x", 200<<10))
		synctest.Wait()
		b.CloseConnections(404, "for a reason of its own")
		reconnected(t, b, 3)
		hold(b, false)
		free()
		s.flush()
		s.expect("confirmed/2", "a")
	})
}

func TestClientsBehindOneAnotherLeaveNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b")
		for range 3 {
			c, err := ferry.Dial(t.Context(), url("b"), w.options(ferry.WithTopology(queues("q")))...)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 10 { // the common publisher is made once, whoever is first
				wg.Go(func() {
					if err := c.Publish(t.Context(), ferry.Message{Key: "q"}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if n := b.Snapshot().Open(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		if !slices.ContainsFunc(b.Snapshot().Methods, func(m faultbroker.Received) bool {
			_, is := m.Method.(*amqpwire.ConnectionClose)
			return is
		}) {
			t.Error("the broker was not told")
		}
	})
}
