package conformance

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
)

// promptly is how soon after the end of its context a call must have returned.
const promptly = 100 * time.Millisecond

// attempts: on a machine that has much else to do a call may be late once.
const attempts = 3

// within checks that call returns soon after its context has ended, and that it
// fails for that reason. Each attempt has its own broken peer.
func within(t *testing.T, name string, attempt func(t *testing.T, ctx context.Context) error) {
	t.Run(name, func(t *testing.T) {
		for n := 1; ; n++ {
			ctx, cancel := context.WithCancel(t.Context())
			var cancelled time.Time
			timer := time.AfterFunc(150*time.Millisecond, func() {
				cancelled = time.Now()
				cancel()
			})
			err := attempt(t, ctx)
			if timer.Stop() {
				t.Fatalf("returned before its context ended: %v", err)
			}
			late := time.Since(cancelled)
			if err == nil {
				t.Fatal("no error")
			}
			if late <= promptly {
				return
			}
			if n == attempts {
				t.Fatalf("returned %v after its context had ended (%v)", late, err)
			}
		}
	})
}

// TestCallsEndWithTheirContext breaks the peer at every phase of every call, over
// real sockets, and looks that nothing of the client is left.
func TestCallsEndWithTheirContext(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("connecting", func(t *testing.T) {
		for name, talk := range map[string]func(net.Conn){
			"a peer that accepts and never answers": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
			"a peer that never reads":               func(net.Conn) {},
			"a peer that answers garbage": func(c net.Conn) {
				_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				_, _ = io.Copy(io.Discard, c)
			},
			"a peer that closes at once": func(c net.Conn) { c.Close() },
		} {
			url := badPeer(t, talk)
			within(t, name, func(_ *testing.T, ctx context.Context) error {
				_, err := ferry.Dial(ctx, url, ferry.WithInitialRetry())
				return err
			})
		}
	})

	for fault, apply := range map[string]func(*ferrytest.Broker){
		"dead":          func(b *ferrytest.Broker) { b.Pause() },
		"stops reading": func(b *ferrytest.Broker) { b.StopReading() },
		"refuses":       func(b *ferrytest.Broker) { b.Refuse(); b.Drop() },
	} {
		t.Run(fault, func(t *testing.T) {
			for name, call := range calls {
				within(t, name, func(t *testing.T, ctx context.Context) error {
					b := ferrytest.Start(t)
					c, err := ferry.Dial(t.Context(), b.URL(), ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: "q"}}}))
					if err != nil {
						t.Fatal(err)
					}
					defer closeNow(c)
					prepared := call.prepare(t, c)
					apply(b)
					return prepared(ctx)
				})
			}
		})
	}
}

// closeNow ends a client whose broker does not answer.
func closeNow(c *ferry.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Close(ctx)
}

// A call is what may hang. prepare does what comes before it, with the broker
// in good health.
type call struct {
	prepare func(t *testing.T, c *ferry.Client) func(ctx context.Context) error
}

var calls = map[string]call{
	"Publish": {func(t *testing.T, c *ferry.Client) func(context.Context) error {
		mustPublish(t, c)
		return func(ctx context.Context) error { return c.Publish(ctx, ferry.Message{Key: "q"}) }
	}},
	"Publish 1 MiB": {func(t *testing.T, c *ferry.Client) func(context.Context) error {
		mustPublish(t, c)
		return func(ctx context.Context) error {
			return c.Publish(ctx, ferry.Message{Key: "q", Body: make([]byte, 1<<20)})
		}
	}},
	"Submit": {func(t *testing.T, c *ferry.Client) func(context.Context) error {
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q", Window: 2})
		if err != nil {
			t.Fatal(err)
		}
		return func(ctx context.Context) error {
			for {
				if err := p.Submit(ctx, ferry.Message{}, nil); err != nil {
					return err
				}
			}
		}
	}},
	"Flush": {func(t *testing.T, c *ferry.Client) func(context.Context) error {
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		return func(ctx context.Context) error {
			if err := p.Submit(ctx, ferry.Message{}, nil); err != nil {
				t.Error(err)
			}
			return p.Flush(ctx)
		}
	}},
	"Publisher.Close": {func(t *testing.T, c *ferry.Client) func(context.Context) error {
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		return func(ctx context.Context) error {
			if err := p.Submit(ctx, ferry.Message{}, nil); err != nil {
				t.Error(err)
			}
			return p.Close(ctx)
		}
	}},
	"Client.Close": {func(t *testing.T, c *ferry.Client) func(context.Context) error {
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		mustConsume(t, c)
		return func(ctx context.Context) error {
			if err := p.Submit(ctx, ferry.Message{}, nil); err != nil {
				t.Error(err)
			}
			return c.Close(ctx)
		}
	}},
	"Consumer": simple(func(ctx context.Context, c *ferry.Client) error {
		_, err := c.Consumer(ctx, ferry.ConsumerOptions{Queue: "q"})
		return err
	}),
	"Receive": {func(t *testing.T, c *ferry.Client) func(context.Context) error {
		co := mustConsume(t, c)
		return func(ctx context.Context) error { _, err := co.Receive(ctx); return err }
	}},
	"Declare": simple(func(ctx context.Context, c *ferry.Client) error {
		return c.Declare(ctx, ferry.Topology{Queues: []ferry.Queue{{Name: "another"}}})
	}),
	"Inspect": simple(func(ctx context.Context, c *ferry.Client) error { _, err := c.Inspect(ctx, "q"); return err }),
	"Delete":  simple(func(ctx context.Context, c *ferry.Client) error { _, err := c.DeleteQueue(ctx, "q"); return err }),
	"Request": simple(func(ctx context.Context, c *ferry.Client) error {
		_, err := c.Request(ctx, ferry.Message{Key: "q"})
		return err
	}),
}

// simple is a call with nothing before it.
func simple(f func(context.Context, *ferry.Client) error) call {
	return call{func(_ *testing.T, c *ferry.Client) func(context.Context) error {
		return func(ctx context.Context) error { return f(ctx, c) }
	}}
}

func mustPublish(t *testing.T, c *ferry.Client) {
	t.Helper()
	if err := c.Publish(t.Context(), ferry.Message{Key: "q"}); err != nil {
		t.Fatal(err)
	}
}

func mustConsume(t *testing.T, c *ferry.Client) *ferry.Consumer {
	t.Helper()
	co, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	return co
}

// badPeer listens, and does with each connection what it is told to.
func badPeer(t *testing.T, talk func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var conns []net.Conn
	ended := make(chan struct{})
	open := 0
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			conns = append(conns, c)
			open++
			go func() {
				talk(c)
				ended <- struct{}{}
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
		for range open {
			<-ended
		}
	})
	return "amqp://" + l.Addr().String() + "/"
}
