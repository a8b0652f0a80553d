package chaos

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
)

// promptly is within what a call ends whose context has ended, on a busy machine.
const promptly = 2 * time.Second

// An eventLog keeps what a client says of itself.
type eventLog struct {
	mu     sync.Mutex
	events []ferry.Event
}

func (l *eventLog) add(e ferry.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) all() []ferry.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func (l *eventLog) count(kind ferry.EventKind) (n int) {
	for _, e := range l.all() {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// await waits for n events of a kind.
func (l *eventLog) await(t *testing.T, n int, kind ferry.EventKind) {
	t.Helper()
	if !until(startLimit, func() bool { return l.count(kind) >= n }) {
		t.Fatalf("there were no %d events %q within %s: %v", n, kind, startLimit, l.all())
	}
}

// dial connects a client that ends with the test.
func dial(t *testing.T, url string, o ...ferry.Option) (*ferry.Client, *eventLog) {
	t.Helper()
	events := &eventLog{}
	c, err := ferry.Dial(t.Context(), url, append(o, ferry.WithEvents(events.add))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx) // a second time where the test has
	})
	return c, events
}

// The first connection is tried at intervals, up to as many times as was asked
// for, and made when a broker comes up meanwhile.
func TestInitialConnect(t *testing.T) {
	takeTurn(t)
	addr := freeAddress(t)
	const longest, tries = 50 * time.Millisecond, 4
	events := &eventLog{}
	options := []ferry.Option{ferry.WithInitialRetry(), ferry.WithBackoff(longest/2, longest), ferry.WithEvents(events.add)}
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	if c, err := ferry.Dial(ctx, url(addr), append(options, ferry.WithMaxAttempts(tries))...); !errors.Is(err, ferry.ErrNoBroker) {
		t.Errorf("with nobody there: %v, %v; want %v", c, err, ferry.ErrNoBroker)
	}
	if n := events.count(ferry.Retrying); n != tries-1 {
		t.Errorf("of %d tries %d were announced to be repeated: %v", tries, n, events.all())
	}
	for _, e := range events.all() {
		if e.Kind == ferry.Retrying && e.Delay > longest {
			t.Errorf("it waited %s between two tries, %s at most was asked for", e.Delay, longest)
		}
	}

	events = &eventLog{}
	options[2] = ferry.WithEvents(events.add)
	done := make(chan error, 1)
	go func() {
		c, err := ferry.Dial(ctx, url(addr), options...)
		if err == nil {
			err = c.Close(ctx)
		}
		done <- err
	}()
	events.await(t, 3, ferry.Retrying)
	startAt(t, addr, setup{dir: t.TempDir()})
	if err := <-done; err != nil {
		t.Errorf("with a broker that came up: %v", err)
	}
}

// cancelled runs f, cancels its context once it is where it is to be, and checks
// that it ends with that.
func cancelled(t *testing.T, phase string, there func(), f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	there()
	began := time.Now()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v; want %v", phase, err, context.Canceled)
		}
		if took := time.Since(began); took > promptly {
			t.Errorf("%s: it took %s to end", phase, took)
		}
	case <-time.After(stopLimit):
		t.Fatalf("%s: it hangs though its context has ended", phase)
	}
}

// Wherever a call is, the end of its context ends it.
func TestCancelled(t *testing.T) {
	takeTurn(t)
	p := start(t, setup{dir: t.TempDir()})
	dialing := func(u string, o ...ferry.Option) func(context.Context) error {
		return func(ctx context.Context) error {
			c, err := ferry.Dial(ctx, u, o...)
			if err == nil {
				err = errors.Join(errors.New("it has connected"), c.Close(context.WithoutCancel(ctx)))
			}
			return err
		}
	}

	reached := make(chan struct{}, 1)
	cancelled(t, "dial", func() { <-reached }, dialing(url(p.addr), ferry.WithNetDial(
		func(ctx context.Context, _, _ string) (net.Conn, error) {
			reached <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		})))

	events := &eventLog{}
	cancelled(t, "wait", func() { events.await(t, 1, ferry.Retrying) }, dialing(url(freeAddress(t)),
		ferry.WithInitialRetry(), ferry.WithBackoff(time.Hour, time.Hour), ferry.WithEvents(events.add)))

	client, _ := dial(t, url(p.addr), ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: "q"}}}))
	m := ferry.Message{Key: "q", Body: []byte("?")}
	publish := func(ctx context.Context) error { return client.Publish(ctx, m) }
	if err := publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	consumer, err := client.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := consumer.Receive(t.Context()); err != nil {
		t.Fatal(err)
	} else if err := d.Ack(); err != nil {
		t.Fatal(err)
	}
	cancelled(t, "receive", func() { time.Sleep(calm / 10) }, func(ctx context.Context) error {
		_, err := consumer.Receive(ctx)
		return err
	})

	p.signal(syscall.SIGSTOP) // the system still takes connections for it
	cancelled(t, "handshake", func() { time.Sleep(calm / 2) }, dialing(url(p.addr)))
	cancelled(t, "publish", func() {
		if !until(startLimit, func() bool { return client.Status().Publish.State == ferry.Up }) {
			t.Fatal("it is not connected")
		}
		time.Sleep(calm / 2)
	}, func(ctx context.Context) error {
		err := publish(ctx)
		if !errors.Is(err, ferry.ErrUnknown) {
			t.Errorf("a publish that was sent and not answered: %v; want %v", err, ferry.ErrUnknown)
		}
		return err
	})
	p.signal(syscall.SIGCONT)

	p.kill()
	// The connection that publishes, not the other one alone.
	if !until(stopLimit, func() bool { return client.Status().Publish.State != ferry.Up }) {
		t.Fatal("it is still connected")
	}
	cancelled(t, "publish with no broker", func() { time.Sleep(calm / 10) }, func(ctx context.Context) error {
		err := publish(ctx)
		if !errors.Is(err, ferry.ErrNotSent) {
			t.Errorf("a publish with no broker: %v; want %v", err, ferry.ErrNotSent)
		}
		return err
	})
}

// A client that was closed in order does not connect again.
func TestCloseIsFinal(t *testing.T) {
	takeTurn(t)
	s := setup{dir: t.TempDir()}
	p := start(t, s)
	var dials atomic.Int32
	client, events := dial(t, url(p.addr), ferry.WithBackoff(time.Millisecond, 10*time.Millisecond), ferry.WithFailback(time.Millisecond),
		ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: "q"}}}),
		ferry.WithNetDial(func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}))
	if _, err := client.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"}); err != nil {
		t.Fatal(err)
	}
	// Also after a connection was lost and made anew.
	p.kill()
	p = startAt(t, p.addr, s)
	events.await(t, 4, ferry.Connected)
	if err := client.Close(t.Context()); err != nil {
		t.Error(err)
	}
	before := dials.Load()
	p.kill()
	startAt(t, p.addr, s)
	time.Sleep(calm)
	if n := dials.Load() - before; n > 0 {
		t.Errorf("it dialled %d times after Close", n)
	}
	if err := client.Publish(t.Context(), ferry.Message{Key: "q"}); !errors.Is(err, ferry.ErrClosed) {
		t.Errorf("a publish after Close: %v; want %v", err, ferry.ErrClosed)
	}
	all := events.all()
	if last := all[len(all)-1]; last.Kind != ferry.Closed || last.Err != nil {
		t.Errorf("the last event is %v; want %v", last, ferry.Closed)
	}
}

// A publish is confirmed, or its time passes; after that the next is confirmed.
func TestConfirmedOrTimedOut(t *testing.T) {
	takeTurn(t)
	p := start(t, setup{dir: t.TempDir()})
	confirmedOrTimedOut(t, url(p.addr), p.signal)
}

// confirmedOrTimedOut publishes to a broker, which signal pauses meanwhile.
func confirmedOrTimedOut(t *testing.T, broker string, signal func(syscall.Signal)) {
	t.Helper()
	client, _ := dial(t, broker, ferry.WithTopology(ferry.Topology{
		Exchanges: []ferry.Exchange{{Name: "my_exchange", Kind: "direct"}},
		Queues:    []ferry.Queue{{Name: "my_queue"}},
		Bindings:  []ferry.Binding{{Exchange: "my_exchange", Key: "my_routing_key", Queue: "my_queue"}},
	}))
	publish := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return client.Publish(ctx, ferry.Message{Exchange: "my_exchange", Key: "my_routing_key", Body: []byte("Hello World!")})
	}
	if err := publish(confirmLimit); err != nil {
		t.Error(err)
	}
	signal(syscall.SIGSTOP)
	const limit = time.Second
	began := time.Now()
	err := publish(limit)
	took := time.Since(began)
	signal(syscall.SIGCONT)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ferry.ErrUnknown) {
		t.Errorf("paused: %v; want %v and %v", err, ferry.ErrUnknown, context.DeadlineExceeded)
	}
	if took < limit || took > limit+promptly {
		t.Errorf("paused: it timed out after %s; want %s", took, limit)
	}
	if err := publish(confirmLimit); err != nil {
		t.Errorf("resumed: %v", err)
	}
}
