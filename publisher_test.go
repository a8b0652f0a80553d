package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// A sending is what a test submits to one publisher, and what becomes of it.
type sending struct {
	t *testing.T
	p *ferry.Publisher

	mu      sync.Mutex
	results map[string]ferry.Result // by body
	order   []string                // of the callbacks
}

// sending makes a publisher of c's that sends to the queue q.
func (w *world) sending(c *ferry.Client, o ferry.PublisherOptions) *sending {
	w.t.Helper()
	if o.Key == "" {
		o.Key = "q"
	}
	p, err := c.Publisher(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return &sending{t: w.t, p: p, results: make(map[string]ferry.Result)}
}

func (s *sending) submit(bodies ...string) {
	s.t.Helper()
	for _, b := range bodies {
		s.message(ferry.Message{Body: []byte(b)})
	}
}

func (s *sending) message(m ferry.Message) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Hour)
	defer cancel()
	body := string(m.Body)
	err := s.p.Submit(ctx, m, func(r ferry.Result) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, again := s.results[body]; again {
			s.t.Errorf("%q has a second outcome", body)
		}
		s.results[body] = r
		s.order = append(s.order, body)
	})
	if err != nil {
		s.t.Fatalf("submitting %q: %v", body, err)
	}
}

// flush waits for all outcomes.
func (s *sending) flush() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Minute)
	defer cancel()
	if err := s.p.Flush(ctx); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sending) result(body string) (r ferry.Result, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, known = s.results[body]
	return r, known
}

// became says what became of messages: "confirmed/1" after one attempt, "" if
// that is not known yet.
func (s *sending) became(bodies ...string) string {
	var all []string
	for _, b := range bodies {
		if r, known := s.result(b); known {
			all = append(all, fmt.Sprintf("%s/%d", r.Outcome(), r.Attempts))
		} else {
			all = append(all, "")
		}
	}
	return strings.Join(all, " ")
}

func (s *sending) expect(want string, bodies ...string) {
	s.t.Helper()
	if got := s.became(bodies...); got != want {
		s.t.Errorf("%v became %q, want %q", bodies, got, want)
	}
}

// numbered are n bodies.
func numbered(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("m%d", i))
	}
	return list
}

// arrived is what clients sent: the bodies in order, those that are marked as
// sent before with the number of the attempt, "b/2".
func arrived(b *faultbroker.Broker) []string {
	var list []string
	for _, p := range b.Publishes() {
		list = append(list, withAttempt(p))
	}
	return list
}

func withAttempt(p faultbroker.Publish) string {
	if n := p.Header("x-ferry-attempt"); n != nil {
		return fmt.Sprintf("%s/%d", p.Body, n)
	}
	return string(p.Body)
}

func wantList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// hold has a broker keep confirms back, now or not any more.
func hold(b *faultbroker.Broker, on bool) {
	b.Set(func(f *faultbroker.Faults) { f.HoldConfirms = on })
}

// publishing makes a world with a broker that has the queue q, and one client.
func publishing(t *testing.T, f func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client)) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b")
		f(t, w, b, w.dial(url("b"), ferry.WithTopology(queues("q"))))
	})
}

func TestOutcomesAreThree(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		b.Set(func(f *faultbroker.Faults) { f.NackEvery = 2 })
		s := w.sending(c, ferry.PublisherOptions{})
		s.submit("taken", "nacked")
		s.flush()
		s.expect("confirmed/1 refused/1", "taken", "nacked")
		if r, _ := s.result("nacked"); !errors.Is(r.Err, ferry.ErrNacked) || errors.Is(r.Err, ferry.ErrUnknown) || errors.Is(r.Err, ferry.ErrUnroutable) {
			w.t.Errorf("nacked: %v", r.Err)
		}
		b.Set(func(f *faultbroker.Faults) { f.NackEvery = 0; f.HoldConfirms = true })
		s.submit("unanswered")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		err := s.p.Close(ctx)
		s.expect("unknown/1", "unanswered")
		if left := (*ferry.UnconfirmedError)(nil); !errors.As(err, &left) || len(left.Messages) != 1 {
			w.t.Errorf("Close: %v", err)
		}
		wantList(w.t, "arrived", arrived(b), "taken", "nacked", "unanswered")
		for i, body := range []string{"taken", "nacked", "unanswered"} {
			r, _ := s.result(body)
			if id := b.Publishes()[i].Header("x-ferry-id"); id != r.ID() || !strings.HasSuffix(r.ID(), fmt.Sprint("-", i+1)) {
				w.t.Errorf("%s: the result has the ID %q, the broker got %q", body, r.ID(), id)
			}
		}
		if st := s.p.Stats(); st.Confirmed != 1 || st.Refused != 1 || st.Unknown != 1 || st.NotSent != 0 {
			w.t.Errorf("%+v", st)
		}
	})
}

func TestReturnsAreMatchedToTheirMessages(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		hold(b, true)
		b.Set(func(f *faultbroker.Faults) { f.ConfirmMultiple = true })
		s := w.sending(c, ferry.PublisherOptions{})
		s.submit("a")
		s.message(ferry.Message{Key: "nowhere", Body: []byte("b")})
		s.submit("c")
		s.message(ferry.Message{Key: "nowhere", Body: []byte("own"), ID: "moved-17"})
		s.message(ferry.Message{Key: "q", Body: []byte("kept"), ID: "moved-18"})
		s.message(ferry.Message{Key: "nowhere", Body: []byte("d")})
		synctest.Wait()
		s.expect("     ", "a", "b", "c", "own", "kept", "d")
		b.ReleaseConfirms() // one, of all
		synctest.Wait()
		s.expect("confirmed/1 refused/1 confirmed/1 refused/1 confirmed/1 refused/1", "a", "b", "c", "own", "kept", "d")
		for _, body := range []string{"b", "own", "d"} {
			r, _ := s.result(body)
			said := (*ferry.BrokerError)(nil)
			if !errors.Is(r.Err, ferry.ErrUnroutable) || !errors.As(r.Err, &said) || said.Code != 312 {
				t.Errorf("%s: %v", body, r.Err)
			}
		}
		if r, _ := s.result("own"); r.ID() != "moved-17" {
			t.Errorf("its ID is %q", r.ID())
		}
	})
}

// A message that was refused and is submitted again with the ID that it had.
func TestReturnOfAMessageWithAnIDOfItsOwnPublisher(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		s := w.sending(c, ferry.PublisherOptions{})
		s.submit("a")
		s.flush()
		a, _ := s.result("a")
		s.message(ferry.Message{Key: "nowhere", Body: []byte("again"), ID: a.ID()})
		s.flush()
		s.expect("refused/1", "again")
	})
}

func TestDropUnroutable(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		s := w.sending(c, ferry.PublisherOptions{DropUnroutable: true, Key: "nowhere"})
		s.submit("a")
		s.flush()
		s.expect("confirmed/1", "a")
	})
}

func TestBlockedBroker(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		s := w.sending(c, ferry.PublisherOptions{})
		hold(b, true)
		s.submit("before")
		synctest.Wait()
		b.Block("low on memory")
		synctest.Wait()
		if got := c.Status().Publish.Blocked; got != "low on memory" {
			t.Errorf("Status says %q", got)
		}
		if got := w.happened(ferry.Blocked); len(got) != 1 || !errors.Is(got[0].Err, ferry.ErrBlocked) {
			t.Errorf("events: %v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := s.p.Publish(ctx, ferry.Message{Body: []byte("never")})
		if !errors.Is(err, ferry.ErrNotSent) || !errors.Is(err, ferry.ErrBlocked) || errors.Is(err, ferry.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Publish: %v", err)
		}
		if time.Since(start) != time.Second {
			t.Errorf("after %v", time.Since(start))
		}
		s.submit("after")
		// Ten minutes later nobody was taken for dead, and it goes on by itself.
		time.Sleep(10 * time.Minute)
		b.Unblock()
		hold(b, false)
		s.flush()
		s.expect("confirmed/1 confirmed/1", "before", "after")
		wantList(t, "arrived", arrived(b), "before", "after")
		if got := c.Status().Publish; got.Blocked != "" || got.Connects != 1 {
			t.Errorf("%+v", got)
		}
		if len(w.happened(ferry.Unblocked)) != 1 {
			t.Error("no event Unblocked")
		}
	})
}

func TestBlockIsForgottenOnTheNextConnection(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")))
		hold(a, true)
		sent := make(chan error, 1)
		go func() { sent <- c.Publish(t.Context(), ferry.Message{Key: "q", Body: []byte("x")}) }()
		synctest.Wait()
		a.Block("full disk")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := w.sending(c, ferry.PublisherOptions{})
		if err := s.p.Flush(ctx); err != nil {
			t.Error(err) // there is nothing to wait for
		}
		a.Down()
		if err := <-sent; err != nil {
			t.Error(err)
		}
		wantList(t, "arrived", arrived(b), "x/2")
		if got := c.Status().Publish; got.Blocked != "" {
			t.Errorf("%+v", got)
		}
	})
}

func TestPublishWhoseContextEnds(t *testing.T) {
	t.Run("before it was sent", func(t *testing.T) {
		publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
			b.Down()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := c.Publish(ctx, ferry.Message{Key: "q", Body: []byte("never")})
			if !errors.Is(err, ferry.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ferry.ErrNoBroker) {
				t.Error(err)
			}
			if err := b.Up(); err != nil {
				t.Fatal(err)
			}
			publish(t, c, "q", "later")
			wantList(t, "arrived", arrived(b), "later")
		})
	})
	t.Run("when it was called", func(t *testing.T) {
		publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := c.Publish(ctx, ferry.Message{Key: "q"}); !errors.Is(err, ferry.ErrNotSent) {
				t.Error(err)
			}
			s := w.sending(c, ferry.PublisherOptions{})
			if err := s.p.Submit(ctx, ferry.Message{}, nil); !errors.Is(err, ferry.ErrNotSent) {
				t.Error(err)
			}
			synctest.Wait()
			wantList(t, "arrived", arrived(b))
		})
	})
	t.Run("after it was sent", func(t *testing.T) {
		publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
			hold(b, true)
			s := w.sending(c, ferry.PublisherOptions{})
			s.submit("a")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := s.p.Publish(ctx, ferry.Message{Body: []byte("given up")})
			if !errors.Is(err, ferry.ErrUnknown) || errors.Is(err, ferry.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			s.submit("b")
			synctest.Wait()
			b.Cut()
			if err := b.Wait(t.Context(), func(st faultbroker.State) bool { return len(st.Publishes) == 5 }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			wantList(t, "arrived", arrived(b), "a", "given up", "b", "a/2", "b/2")
			hold(b, false)
			s.flush()
			s.expect("confirmed/2 confirmed/2", "a", "b")
		})
	})
	t.Run("and its confirm is late", func(t *testing.T) {
		publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
			hold(b, true)
			s := w.sending(c, ferry.PublisherOptions{Window: 1})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := s.p.Publish(ctx, ferry.Message{Body: []byte("given up")}); !errors.Is(err, ferry.ErrUnknown) {
				t.Error(err)
			}
			hold(b, false)
			s.submit("a", "b")
			s.flush()
			s.expect("confirmed/1 confirmed/1", "a", "b")
			if st := s.p.Stats(); st.Confirmed != 2 || st.Unknown != 1 || st.InFlight != 0 {
				t.Errorf("%+v", st)
			}
		})
	})
}

func TestWindowBoundsWhatIsInFlight(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		hold(b, true)
		s := w.sending(c, ferry.PublisherOptions{Window: 3})
		s.submit("a", "b", "c")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.p.Submit(ctx, ferry.Message{Body: []byte("none")}, func(ferry.Result) { t.Error("called") }); !errors.Is(err, ferry.ErrNotSent) {
			t.Error(err)
		}
		admitted := make(chan struct{})
		go func() { s.submit("d"); close(admitted) }()
		synctest.Wait()
		wantList(t, "arrived", arrived(b), "a", "b", "c")
		b.Ack(b.Publishes()[0], false)
		<-admitted
		synctest.Wait()
		wantList(t, "arrived", arrived(b), "a", "b", "c", "d")
		hold(b, false)
		s.flush()
	})
}

func TestWindowBoundsBytes(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		hold(b, true)
		s := w.sending(c, ferry.PublisherOptions{WindowBytes: 10})
		s.submit(strings.Repeat("x", 1000)) // alone it is let in
		var order []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, body := range []string{"123456789", "ab", "c", "d"} {
			wg.Go(func() {
				s.submit(body)
				mu.Lock()
				defer mu.Unlock()
				order = append(order, body)
			})
			synctest.Wait()
		}
		if len(order) > 0 {
			t.Errorf("%q found room", order)
		}
		// It leaves: the first finds room, the second not, and nobody overtakes.
		b.ReleaseConfirms()
		synctest.Wait()
		wantList(t, "arrived", arrived(b)[1:], "123456789")
		b.ReleaseConfirms()
		synctest.Wait()
		wantList(t, "arrived", arrived(b)[1:], "123456789", "ab", "c", "d")
		wg.Wait()
		hold(b, false)
		s.flush()
	})
}

// The first in the row is large and gives up: those behind it find room without
// anything being confirmed.
func TestWhoWaitsBehindOneThatGivesUpIsNotForgotten(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		hold(b, true)
		s := w.sending(c, ferry.PublisherOptions{WindowBytes: 10})
		s.submit("12345")
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wg.Go(func() {
			if err := s.p.Submit(ctx, ferry.Message{Body: []byte("123456789")}, nil); !errors.Is(err, ferry.ErrNotSent) {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() { s.submit("a") })
		wg.Go(func() { s.submit("b") })
		synctest.Wait()
		wantList(t, "arrived", arrived(b), "12345") // nobody overtakes
		wg.Wait()
		synctest.Wait()
		if got := arrived(b); len(got) != 3 || slices.Contains(got, "123456789") {
			t.Errorf("arrived: %q", got)
		}
		hold(b, false)
		s.flush()
	})
}

func TestManyGoroutinesShareASmallWindow(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		p, err := c.Publisher(ferry.PublisherOptions{Window: 4, WindowBytes: 50, Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for g := range 20 {
			wg.Go(func() {
				for i := range 50 {
					m := ferry.Message{Body: []byte(fmt.Sprintf("%d.%d %*s", g, i, i, ""))}
					if g%2 == 0 {
						if err := p.Publish(t.Context(), m); err != nil {
							t.Error(err)
						}
					} else if err := p.Submit(t.Context(), m, nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		next := make(map[int]int)
		for _, body := range b.Bodies("q") {
			var g, i int
			if _, err := fmt.Sscanf(body, "%d.%d", &g, &i); err != nil {
				t.Fatal(err)
			}
			if next[g] != i {
				t.Fatalf("of goroutine %d came %d where %d was next", g, i, next[g])
			}
			next[g]++
		}
		if st := p.Stats(); st.Confirmed != 1000 {
			t.Errorf("%+v", st)
		}
	})
}

func TestCallbacksOneAfterTheOtherAndBesideAllElse(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b", func(o *faultbroker.Options) { o.Heartbeat = 1 })
		c := w.dial(url("b"), ferry.WithTopology(queues("q")))
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q", Window: 10})
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		var order []int
		for i := range 100 { // more than the window: confirms are handled
			err := p.Submit(t.Context(), ferry.Message{Body: []byte("x")}, func(ferry.Result) {
				if i == 0 {
					<-release
				}
				order = append(order, i)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute) // of heartbeats each second
		if st := p.Stats(); st.Confirmed != 100 {
			t.Errorf("%+v", st)
		}
		if err := p.Publish(t.Context(), ferry.Message{Body: []byte("y")}); err != nil {
			t.Error(err)
		}
		publish(t, c, "q", "z") // of another publisher
		if n := len(b.Snapshot().Conns); n != 1 {
			t.Errorf("%d connections", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush did not wait for the callbacks: %v", err)
		}
		close(release)
		if err := p.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		if len(order) != 100 || !slices.IsSorted(order) {
			t.Errorf("called in the order %v", order)
		}
	})
}

func TestCallbackMaySubmitAndPublish(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q", Window: 1})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		err = p.Submit(t.Context(), ferry.Message{Body: []byte("a")}, func(ferry.Result) {
			if err := p.Submit(t.Context(), ferry.Message{Body: []byte("b")}, nil); err != nil {
				t.Error(err)
			}
			if err := p.Publish(t.Context(), ferry.Message{Body: []byte("c")}); err != nil {
				t.Error(err)
			}
			close(done)
		})
		if err != nil {
			t.Fatal(err)
		}
		<-done
		wantList(t, "arrived", arrived(b), "a", "b", "c")
	})
}

func TestWithoutConfirms(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		s := w.sending(c, ferry.PublisherOptions{NoConfirm: true})
		s.submit("a", "b")
		s.flush()
		s.expect("confirmed/1 confirmed/1", "a", "b")
		synctest.Wait()
		for _, p := range b.Publishes() {
			if p.Tag != 0 || p.Mandatory || p.Header("x-ferry-id") != nil {
				t.Errorf("%+v", p)
			}
		}
		// The peer's buffers fill: what is on its way when the connection breaks
		// is unknown, and not sent again.
		b.Pause()
		large := strings.Repeat("x", 50<<10)
		for i := range 10 {
			s.message(ferry.Message{Body: []byte(fmt.Sprint(i, large))})
		}
		synctest.Wait()
		b.Cut()
		b.Resume()
		s.flush()
		var unknown, confirmed int
		for i := range 10 {
			switch r, _ := s.result(fmt.Sprint(i, large)); r.Outcome() {
			case ferry.Unknown:
				unknown++
			case ferry.Confirmed:
				confirmed++
			case ferry.Refused, ferry.NotSent:
				t.Errorf("%d: %v", i, r.Err)
			}
		}
		if unknown == 0 || confirmed+unknown != 10 {
			t.Errorf("%d confirmed, %d unknown", confirmed, unknown)
		}
		s.submit("last")
		s.flush()
		synctest.Wait()
		for _, p := range b.Publishes() {
			if p.Header("x-ferry-attempt") != nil {
				t.Error("sent again")
			}
		}
	})
}

// A 404 may be of any message before: nobody is blamed.
func TestWithoutConfirmsNobodyIsBlamed(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		s := w.sending(c, ferry.PublisherOptions{NoConfirm: true})
		for i := range 5 {
			s.message(ferry.Message{Exchange: "missing", Key: "k", Body: []byte(fmt.Sprint("bad", i))})
			s.submit(fmt.Sprint("good", i))
		}
		s.flush()
		for i := range 5 {
			if r, _ := s.result(fmt.Sprint("good", i)); r.Outcome() == ferry.Refused {
				t.Errorf("good%d: %v", i, r.Err)
			}
		}
		// What was written to a channel that had been closed is lost: the second
		// goes by a new one.
		s.submit("lost")
		s.flush()
		time.Sleep(time.Minute)
		s.submit("last")
		s.flush()
		synctest.Wait()
		if got := b.Bodies("q"); !slices.Contains(got, "last") {
			t.Errorf("arrived: %q", got)
		}
	})
}
