package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
)

// connect makes a client of a real broker that is closed when the test ends.
func connect(t *testing.T, url string, opts ...ferry.Option) *ferry.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := ferry.Dial(ctx, url, append([]ferry.Option{
		ferry.WithTopology(queues("q")), ferry.WithBackoff(time.Millisecond, 20*time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// serve handles what comes to q until the test ends.
func serve(t *testing.T, c *ferry.Client, handle func(context.Context, *ferry.Delivery) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- c.Consume(ctx, ferry.ConsumerOptions{Queue: "q", Concurrency: 4}, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Consume: %v", err)
		}
	})
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestRequestsGetTheirReplies(t *testing.T) {
	b := ferrytest.Start(t)
	c := connect(t, b.URL())
	server := connect(t, b.DirectURL())
	serve(t, server, func(ctx context.Context, d *ferry.Delivery) error {
		stranger := *d
		stranger.CorrelationID = "of nobody"
		if err := stranger.Reply(ctx, ferry.Message{Body: []byte("wrong")}); err != nil {
			return err
		}
		return d.Reply(ctx, ferry.Message{Body: append([]byte("re: "), d.Body...), Headers: map[string]any{"n": int64(1)}})
	})
	ctx := deadline(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			m := ferry.Message{Key: "q", Body: []byte(fmt.Sprint(i))}
			if i == 0 {
				m.CorrelationID = "of its own"
			}
			got, err := c.Request(ctx, m)
			if err != nil {
				t.Error(err)
				return
			}
			if string(got.Body) != fmt.Sprint("re: ", i) || got.Headers["n"] != int64(1) {
				t.Errorf("request %d was replied to with %q, %v", i, got.Body, got.Headers)
			}
		})
	}
	wg.Wait()
}

func TestRequestThatNobodyServesIsUnroutable(t *testing.T) {
	b := ferrytest.Start(t)
	c := connect(t, b.URL())
	_, err := c.Request(deadline(t), ferry.Message{Key: "nowhere"})
	if !errors.Is(err, ferry.ErrUnroutable) || !errors.Is(err, ferry.ErrRefused) {
		t.Error(err)
	}
}

func TestRequestWhoseConnectionIsLost(t *testing.T) {
	t.Run("after the broker had it", func(t *testing.T) {
		b := ferrytest.Start(t)
		c := connect(t, b.URL())
		server := connect(t, b.DirectURL())
		serve(t, server, func(ctx context.Context, d *ferry.Delivery) error {
			if string(d.Body) == "request" {
				// What is confirmed after it says that it is confirmed.
				if err := c.Publish(ctx, ferry.Message{Key: "q"}); err != nil {
					t.Error(err)
				}
				b.Drop()
			}
			return nil // and no reply
		})
		_, err := c.Request(deadline(t), ferry.Message{Key: "q", Body: []byte("request")})
		if !errors.Is(err, ferry.ErrConnectionLost) {
			t.Error(err)
		}
	})
	t.Run("before the broker had it", func(t *testing.T) {
		b := ferrytest.Start(t)
		c := connect(t, b.URL())
		server := connect(t, b.DirectURL())
		serve(t, server, func(ctx context.Context, d *ferry.Delivery) error {
			return d.Reply(ctx, ferry.Message{Body: []byte("served")})
		})
		// The channel for requests is there, and its connection breaks within the
		// next one.
		if _, err := c.Request(deadline(t), ferry.Message{Key: "q"}); err != nil {
			t.Fatal(err)
		}
		b.CutAfter(20)
		replied := make(chan error, 1)
		go func() {
			got, err := c.Request(deadline(t), ferry.Message{Key: "q", Body: make([]byte, 100)})
			if err == nil && string(got.Body) != "served" {
				err = fmt.Errorf("the reply is %q", got.Body)
			}
			replied <- err
		}()
		if err := b.WaitAccepted(deadline(t), b.Accepted()+1); err != nil {
			t.Fatal(err)
		}
		b.Heal()
		if err := <-replied; err != nil {
			t.Error(err)
		}
	})
}

// What nobody waits for any more is not sent later.
func TestRequestThatGaveUpIsForgotten(t *testing.T) {
	b := ferrytest.Start(t)
	c := connect(t, b.URL())
	b.Refuse()
	b.Drop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Request(ctx, ferry.Message{Key: "q", Body: []byte("given up"), CorrelationID: "1"})
	if !errors.Is(err, ferry.ErrNotSent) && !errors.Is(err, ferry.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	b.Heal()
	serve(t, c, func(ctx context.Context, d *ferry.Delivery) error {
		return d.Reply(ctx, ferry.Message{Body: d.Body})
	})
	got, err := c.Request(deadline(t), ferry.Message{Key: "q", Body: []byte("next"), CorrelationID: "1"})
	if err != nil || string(got.Body) != "next" {
		t.Errorf("%v, %v", got, err)
	}
	if info, err := c.Inspect(deadline(t), "q"); err != nil || info.Messages != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestTwoRequestsOfOneCorrelationID(t *testing.T) {
	b := ferrytest.Start(t)
	c := connect(t, b.URL())
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := c.Request(ctx, ferry.Message{Key: "q", CorrelationID: "1"})
		first <- err
	}()
	taken := make(chan struct{})
	serve(t, c, func(context.Context, *ferry.Delivery) error {
		close(taken)
		return nil
	})
	<-taken
	if _, err := c.Request(deadline(t), ferry.Message{Key: "q", CorrelationID: "1"}); err == nil {
		t.Error("the second was let in")
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A tracer that notes what it is shown.
type tracer struct {
	mu     sync.Mutex
	starts []string
	ends   []error
	spoil  bool
}

func (tr *tracer) Start(ctx context.Context, op ferry.Operation, m *ferry.Message) (context.Context, func(error)) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.starts = append(tr.starts, fmt.Sprint(op, " ", string(m.Body), " ", m.Headers["traceparent"]))
	if op == ferry.Sending {
		if m.Headers == nil {
			m.Headers = make(map[string]any)
		}
		m.Headers["traceparent"] = "by the tracer"
		if tr.spoil {
			m.Headers["wrong"] = make(chan int)
		}
	}
	return ctx, func(err error) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.ends = append(tr.ends, err)
	}
}

func TestTracerSeesEveryOutcomeOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b")
		tr := new(tracer)
		c := w.dial(url("b"), ferry.WithTopology(queues("q")), ferry.WithTracer(tr))
		headers := map[string]any{"mine": "1"}
		if err := c.Publish(t.Context(), ferry.Message{Key: "q", Body: []byte("a"), Headers: headers}); err != nil {
			t.Fatal(err)
		}
		if err := c.Publish(t.Context(), ferry.Message{Key: "nowhere"}); !errors.Is(err, ferry.ErrUnroutable) {
			t.Fatal(err)
		}
		s := w.sending(c, ferry.PublisherOptions{Window: 1})
		s.submit("b")
		s.flush()
		hold(b, true)
		s.submit("c")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.p.Submit(ctx, ferry.Message{}, nil); !errors.Is(err, ferry.ErrNotSent) {
			t.Error(err)
		}
		hold(b, false)
		s.flush()
		tr.spoil = true
		if err := s.p.Submit(t.Context(), ferry.Message{}, nil); err == nil {
			t.Error("a header that cannot be sent was let in")
		}
		if err := s.p.Publish(t.Context(), ferry.Message{}); err == nil {
			t.Error("a header that cannot be sent was let in")
		}
		if len(headers) != 1 {
			t.Errorf("the caller's headers became %v", headers)
		}
		if p := b.Publishes()[0]; p.Header("traceparent") != "by the tracer" || p.Header("mine") != "1" {
			t.Errorf("%v", p.Properties.Headers)
		}
		var outcomes []string
		for _, err := range tr.ends {
			switch {
			case err == nil:
				outcomes = append(outcomes, "ok")
			case errors.Is(err, ferry.ErrUnroutable):
				outcomes = append(outcomes, "unroutable")
			case errors.Is(err, ferry.ErrNotSent):
				outcomes = append(outcomes, "not sent")
			default:
				outcomes = append(outcomes, "wrong")
			}
		}
		wantList(t, "outcomes", outcomes, "ok", "unroutable", "ok", "not sent", "ok", "wrong", "wrong")
	})
}

func TestTraceIsCarriedFromMessageToMessage(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b")
		c := w.dial(url("b"), ferry.WithTopology(queues("q", "next")))
		ctx := ferry.ContextWithTrace(t.Context(), "00-4bf9-01", "vendor=1")
		if err := c.Publish(ctx, ferry.Message{Key: "q"}); err != nil {
			t.Fatal(err)
		}
		if err := c.Publish(ctx, ferry.Message{Key: "q", Headers: map[string]any{"traceparent": "kept"}}); err != nil {
			t.Fatal(err)
		}
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		for _, want := range []string{"00-4bf9-01 vendor=1", "kept "} {
			d, err := co.Receive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			parent, state := ferry.TraceFromContext(d.Context())
			if got := parent + " " + state; got != want {
				t.Errorf("the delivery's trace is %q, want %q", got, want)
			}
			if err := c.Publish(d.Context(), ferry.Message{Key: "next"}); err != nil {
				t.Fatal(err)
			}
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
		}
		var sent []string
		for _, p := range b.Publishes() {
			sent = append(sent, fmt.Sprint(p.Key, " ", p.Header("traceparent"), " ", p.Header("tracestate")))
		}
		wantList(t, "sent", sent,
			"q 00-4bf9-01 vendor=1", "q kept <nil>", "next 00-4bf9-01 vendor=1", "next kept <nil>")
	})
}
