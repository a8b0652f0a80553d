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
	"github.com/ferrymq/ferry/internal/pipenet"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A world is a network of brokers within a bubble, whose time is the test's own.
// When the bubble ends, whoever left a goroutine behind fails the test.
type world struct {
	t   *testing.T
	net *pipenet.Network

	mu     sync.Mutex
	dials  []dial
	events []ferry.Event
}

type dial struct {
	addr string
	at   time.Time
}

func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		f(t, &world{t: t, net: pipenet.New()})
	})
}

func (w *world) broker(addr string, change ...func(*faultbroker.Options)) *faultbroker.Broker {
	o := faultbroker.Options{Network: w.net, Addr: addr + ":5672", Heartbeat: 60}
	for _, c := range change {
		c(&o)
	}
	return faultbroker.Start(w.t, o)
}

func url(addrs ...string) string {
	var urls []string
	for _, a := range addrs {
		urls = append(urls, "amqp://guest:guest@"+a+":5672/")
	}
	return strings.Join(urls, ",")
}

// options connect a client to the world, and record what it does.
func (w *world) options(more ...ferry.Option) []ferry.Option {
	return append([]ferry.Option{
		ferry.WithNetDial(func(ctx context.Context, network, addr string) (net.Conn, error) {
			w.mu.Lock()
			w.dials = append(w.dials, dial{addr, time.Now()})
			w.mu.Unlock()
			return w.net.DialContext(ctx, network, addr)
		}),
		ferry.WithEvents(func(e ferry.Event) {
			w.mu.Lock()
			w.events = append(w.events, e)
			w.mu.Unlock()
		}),
	}, more...)
}

// dial connects a client that is closed when the test ends.
func (w *world) dial(url string, more ...ferry.Option) *ferry.Client {
	w.t.Helper()
	c, err := ferry.Dial(w.t.Context(), url, w.options(more...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil && !errors.As(err, new(*ferry.UnconfirmedError)) {
			w.t.Errorf("Close: %v", err)
		}
	})
	return c
}

func (w *world) dialled() []dial {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.dials)
}

// happened gives the events of one kind.
func (w *world) happened(kind ferry.EventKind) []ferry.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.events), func(e ferry.Event) bool { return e.Kind != kind })
}

func publish(t *testing.T, c *ferry.Client, queue, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Publish(ctx, ferry.Message{Key: queue, Body: []byte(body)}); err != nil {
		t.Fatalf("publishing %q: %v", body, err)
	}
}

// queues is a topology of queues with these names.
func queues(names ...string) ferry.Topology {
	var t ferry.Topology
	for _, n := range names {
		t.Queues = append(t.Queues, ferry.Queue{Name: n})
	}
	return t
}

func TestDialTriesEveryEndpointInOrder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b")
		start := time.Now()
		c := w.dial(url("a", "b", "c"))
		if got := w.dialled(); len(got) != 2 || got[0].addr != "a:5672" || got[1].addr != "b:5672" || time.Since(start) > 0 {
			t.Errorf("dialled %v in %v", got, time.Since(start))
		}
		if s := c.Status().Publish; s.State != ferry.Up || s.Endpoint != "amqp://guest@b:5672/" {
			t.Errorf("%+v", s)
		}
		if b.Snapshot().Open() != 1 {
			t.Error("no connection")
		}
	})
}

func TestDialSaysWhatEachEndpointSaid(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.broker("b", func(o *faultbroker.Options) { o.Faults.RefuseLogin = true })
		_, err := ferry.Dial(t.Context(), url("a", "b"), w.options()...)
		if !errors.Is(err, ferry.ErrNoBroker) || !strings.Contains(err.Error(), "a:5672") || !errors.Is(err, ferry.ErrAccessRefused) {
			t.Errorf("%v", err)
		}
		if strings.Contains(err.Error(), "guest:guest") {
			t.Errorf("the password is in %q", err)
		}
		if got := len(w.dialled()); got != 2 {
			t.Errorf("dialled %d times", got)
		}
	})
}

// All endpoints are tried before a sleep, which has full jitter, grows and is
// capped.
func TestWaitsComeAfterWholeSweeps(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		_, err := ferry.Dial(ctx, url("a", "b", "c"), w.options(ferry.WithInitialRetry())...)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ferry.ErrNoBroker) {
			t.Errorf("%v", err)
		}
		dials := w.dialled()
		if len(dials) < 3*20 || len(dials) > 3*400 {
			t.Fatalf("%d dials in 20 minutes", len(dials))
		}
		longest, short := time.Duration(0), 0
		for i := 0; i+3 <= len(dials); i += 3 {
			if dials[i].addr != "a:5672" || dials[i+1].addr != "b:5672" || dials[i+2].addr != "c:5672" {
				t.Fatalf("sweep %d tried %v", i/3, dials[i:i+3])
			}
			if dials[i+2].at != dials[i].at {
				t.Errorf("sweep %d took %v", i/3, dials[i+2].at.Sub(dials[i].at))
			}
			if i > 0 {
				wait := dials[i].at.Sub(dials[i-1].at)
				longest = max(longest, wait)
				if wait < 10*time.Second && i > 3*10 {
					short++
				}
			}
		}
		if longest > 30*time.Second || longest < 20*time.Second {
			t.Errorf("the longest wait was %v", longest)
		}
		if short == 0 {
			t.Error("no wait was short: that is no full jitter")
		}
	})
}

func TestFailoverToTheNextEndpointIsAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")))
		publish(t, c, "q", "one")
		time.Sleep(3 * time.Second)
		start := time.Now()
		a.Down()
		publish(t, c, "q", "two")
		if took := time.Since(start); took > 0 {
			t.Errorf("took %v", took)
		}
		if got := b.Bodies("q"); !slices.Equal(got, []string{"two"}) {
			t.Errorf("b has %q", got)
		}
		if s := c.Status().Publish; s.Endpoint != "amqp://guest@b:5672/" || s.Connects != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// A broker that accepts and closes is not dialled in a tight loop, and a
// connection that lasted begins a new row of waits.
func TestBackoffIsResetOnlyByAConnectionThatLasted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 60 * 10 { // for a minute
				a.CloseConnections(amqpwire.ConnectionForced, "shutdown")
				time.Sleep(100 * time.Millisecond)
			}
		}()
		<-done
		if n := len(w.dialled()); n > 30 || n < 4 {
			t.Errorf("%d dials in a minute of closing", n)
		}
		publish(t, c, "q", "x") // it is back
		time.Sleep(10 * time.Second)
		before := len(w.dialled())
		start := time.Now()
		a.Cut()
		publish(t, c, "q", "y")
		if took := time.Since(start); took > 0 || len(w.dialled()) != before+1 {
			t.Errorf("after a connection that lasted: %v, %d dials", took, len(w.dialled())-before)
		}
	})
}

func TestDeadPeerIsLeftWithinTwoHeartbeats(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithHeartbeat(10*time.Second))
		co, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // idle, kept by heartbeats
		if n := len(w.happened(ferry.Disconnected)); n != 0 {
			t.Fatalf("%d connections were lost in an hour", n)
		}
		start := time.Now()
		a.Pause()
		publish(t, c, "q", "x")
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("publishing went on after %v", took)
		}
		if d, err := co.Receive(t.Context()); err != nil || string(d.Body) != "x" {
			t.Errorf("%v", err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("consuming went on after %v", took)
		}
		if got := b.Snapshot().Open(); got != 2 {
			t.Errorf("%d connections to b", got)
		}
	})
}

func TestPublishingAndConsumingHaveConnectionsOfTheirOwn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"}); err != nil {
			t.Fatal(err)
		}
		publish(t, c, "q", "x")
		s := a.Snapshot()
		if s.Open() != 2 {
			t.Fatalf("%d connections", s.Open())
		}
		for _, m := range s.Methods {
			if _, ok := m.Method.(*amqpwire.BasicConsume); ok && m.Conn == s.Publishes[0].Conn {
				t.Error("a consumer is on the connection that publishes")
			}
		}
	})
}

func TestCredentialsAreAskedForAtEachConnect(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		n := 0
		c := w.dial(url("a"), ferry.WithTopology(queues("q")), ferry.WithCredentials(func(_ context.Context, endpoint string) (string, string, error) {
			n++
			if strings.Contains(endpoint, "guest:") {
				t.Errorf("asked for %q", endpoint)
			}
			return fmt.Sprintf("user%d", n), "secret", nil
		}))
		a.Cut()
		publish(t, c, "q", "x")
		if conns := a.Snapshot().Conns; len(conns) != 2 || conns[0].User != "user1" || conns[1].User != "user2" {
			t.Errorf("%+v", conns)
		}
	})
}

func TestTopologyIsDeclaredInOrderOnEachConnection(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"))
		err := c.Declare(t.Context(), ferry.Topology{
			Exchanges: []ferry.Exchange{{Name: "x", Kind: "fanout"}},
			Queues:    []ferry.Queue{{Name: "q"}, {Name: "mine", Exclusive: true}},
			Bindings:  []ferry.Binding{{Exchange: "x", Queue: "q"}, {Exchange: "x", Queue: "mine"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		a.Down()
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{"q", "mine"} {
			if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: q}); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Publish(t.Context(), ferry.Message{Exchange: "x"}); err != nil {
			t.Fatal(err)
		}
		exclusive := 0
		s := a.Snapshot()
		for _, m := range s.Methods {
			if q, ok := m.Method.(*amqpwire.QueueDeclare); ok && q.Exclusive {
				exclusive++
				for _, p := range s.Publishes {
					if p.Conn == m.Conn {
						t.Error("an exclusive queue was declared on the connection that publishes")
					}
				}
			}
		}
		if exclusive != 2 {
			t.Errorf("the exclusive queue was declared %d times", exclusive)
		}
		var order []string
		last := s.Publishes[0].Conn
		for _, m := range s.Methods {
			if m.Conn != last {
				continue
			}
			switch m := m.Method.(type) {
			case *amqpwire.ExchangeDeclare:
				order = append(order, "exchange")
			case *amqpwire.QueueDeclare:
				order = append(order, m.Queue)
			case *amqpwire.QueueBind:
				order = append(order, "bind "+m.Queue)
			}
		}
		if !slices.Equal(order, []string{"exchange", "q", "bind q"}) {
			t.Errorf("declared %q on the new connection", order)
		}
	})
}

func TestFailbackMovesInOrderOnceTheFirstEndpointLasts(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(10*time.Second))
		publish(t, c, "q", "1")
		time.Sleep(5 * time.Second)
		a.Down()
		publish(t, c, "q", "2")
		// It flaps: up for less than it must be.
		for range 3 {
			if err := a.Up(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
			a.Down()
			time.Sleep(6 * time.Second)
		}
		publish(t, c, "q", "3")
		if got := b.Bodies("q"); !slices.Equal(got, []string{"2", "3"}) {
			t.Errorf("b has %q", got)
		}
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		// A message is in flight when the time comes: it is not sent again.
		b.Set(func(f *faultbroker.Faults) { f.HoldConfirms = true })
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan ferry.Result, 1)
		if err := p.Submit(t.Context(), ferry.Message{Body: []byte("4")}, func(r ferry.Result) { result <- r }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(14 * time.Second)
		if len(w.happened(ferry.FailedBack)) != 1 {
			t.Fatalf("no failback: %v", w.events)
		}
		b.ReleaseConfirms()
		if r := <-result; r.Err != nil || r.Attempts != 1 {
			t.Errorf("%+v", r)
		}
		publish(t, c, "q", "5")
		if got := a.Bodies("q"); !slices.Equal(got, []string{"1", "5"}) {
			t.Errorf("a has %q", got)
		}
		time.Sleep(time.Minute)
		if got := b.Snapshot().Open(); got != 0 {
			t.Errorf("%d connections to b are left", got)
		}
	})
}

func TestMaxAttemptsEndTheClient(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithMaxAttempts(3), ferry.WithTopology(queues("q")))
		a.Down()
		err := c.Publish(t.Context(), ferry.Message{Key: "q"})
		if !errors.Is(err, ferry.ErrNotSent) || !errors.Is(err, ferry.ErrNoBroker) {
			t.Errorf("%v", err)
		}
		if n := len(w.dialled()); n != 1+3 {
			t.Errorf("%d dials", n)
		}
		if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"}); !errors.Is(err, ferry.ErrNoBroker) {
			t.Errorf("a consumer afterwards: %v", err)
		}
	})
}

func TestRefusedLoginsAreTriedForAWhileAndThenEndTheClient(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		a.Set(func(f *faultbroker.Faults) { f.RefuseLogin = true })
		a.Cut()
		if err := c.Publish(t.Context(), ferry.Message{Key: "q"}); !errors.Is(err, ferry.ErrAccessRefused) {
			t.Errorf("%v", err)
		}
		if n := len(w.dialled()); n < 4 || n > 20 {
			t.Errorf("%d dials", n)
		}
	})
}

// Each step of connecting, with a peer that never takes it, ends with the context.
func TestDialReturnsWhenItsContextEnds(t *testing.T) {
	steps := map[string]faultbroker.Faults{
		"only accepts":     {Silent: faultbroker.StepHeader},
		"after start":      {Silent: faultbroker.StepStartOk},
		"after tune":       {Silent: faultbroker.StepOpen},
		"declare":          {Silent: faultbroker.StepDeclare},
		"channel open":     {Silent: faultbroker.StepChannelOpen},
		"garbage at first": {Garbage: faultbroker.StepHeader},
		"garbage later":    {Garbage: faultbroker.StepOpen},
	}
	for name, faults := range steps {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.broker("a", func(o *faultbroker.Options) { o.Faults = faults })
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := ferry.Dial(ctx, url("a"), w.options(ferry.WithInitialRetry(), ferry.WithTopology(queues("q")))...)
				if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 1100*time.Millisecond {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
	t.Run("black hole", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.net.Silence("a:5672", true)
			w.broker("b")
			start := time.Now()
			w.dial(url("a", "b"))
			if took := time.Since(start); took != ferry.DefaultConnectTimeout {
				t.Errorf("the next was tried after %v", took)
			}
		})
	})
}

func TestCloseIsBoundedByItsContext(t *testing.T) {
	for _, paused := range []bool{false, true} {
		t.Run(fmt.Sprintf("paused %v", paused), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.broker("a")
				c, err := ferry.Dial(t.Context(), url("a"), w.options(ferry.WithTopology(queues("q")))...)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"}); err != nil {
					t.Fatal(err)
				}
				publish(t, c, "q", "x")
				if paused {
					a.Pause()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				start := time.Now()
				if err := c.Close(ctx); err != nil {
					t.Errorf("%v", err)
				}
				if took := time.Since(start); took > 600*time.Millisecond || !paused && took > 0 {
					t.Errorf("took %v", took)
				}
				if err := c.Publish(t.Context(), ferry.Message{Key: "q"}); !errors.Is(err, ferry.ErrClosed) {
					t.Errorf("publishing afterwards: %v", err)
				}
				if err := c.Close(t.Context()); err != nil {
					t.Errorf("closing again: %v", err)
				}
				a.Resume()
			})
		})
	}
}

func TestBlockedIsVisibleAndForgottenWithTheConnection(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		publish(t, c, "q", "x")
		a.Block("low on memory")
		synctest.Wait()
		if s := c.Status().Publish.Blocked; s != "low on memory" {
			t.Errorf("Blocked is %q", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Publish(ctx, ferry.Message{Key: "q"}); !errors.Is(err, ferry.ErrBlocked) || !errors.Is(err, ferry.ErrNotSent) {
			t.Errorf("%v", err)
		}
		a.Unblock()
		a.Cut()
		publish(t, c, "q", "y")
		if s := c.Status().Publish.Blocked; s != "" {
			t.Errorf("Blocked is %q on a new connection", s)
		}
		if len(w.happened(ferry.Blocked)) != 1 {
			t.Error("no event")
		}
	})
}

func TestTimeoutOfTheURLBoundsPublish(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial("failover:(" + url("a") + ")?timeout=3000")
		a.Down()
		start := time.Now()
		err := c.Publish(t.Context(), ferry.Message{Key: "q"})
		if took := time.Since(start); !errors.Is(err, ferry.ErrNotSent) || took != 3*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}
