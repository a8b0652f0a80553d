package amqplink

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/app"
	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
)

// startFerry runs a broker in this process and returns its URL.
func startFerry(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan []app.Address, 1)
	ended := make(chan error, 1)
	cfg := app.Config{
		Store: "memory:", AMQP: "127.0.0.1:0", HTTP: "127.0.0.1:0",
		User: "ada", Password: "lovelace", Logger: slog.New(slog.DiscardHandler),
	}
	go func() { ended <- app.Run(ctx, cfg, func(a []app.Address) { ready <- a }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the broker ended with: %v", err)
		}
	})
	select {
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	case addresses := <-ready:
		for _, a := range addresses {
			if a.Name == "amqp" {
				return "amqp://ada:lovelace@" + a.Addr
			}
		}
		ended <- nil
		t.Fatalf("no amqp among %v", addresses)
	}
	return ""
}

func mustParse(t testing.TB, url string) endpoint.Endpoint {
	t.Helper()
	list, err := endpoint.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return list.Endpoints[0]
}

// mustOpen opens a connection that is cut when the test ends.
func mustOpen(t testing.TB, o link.Options) *conn {
	t.Helper()
	c, err := open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Close(ctx)
	})
	return c
}

// checkGoroutines fails the test if a goroutine of this package is left.
func checkGoroutines(t testing.TB) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, of := range []string{"amqplink.(*conn).read", "amqplink.(*writer).run", "transport.(*Pulse).Run"} {
			if strings.Contains(g, of) {
				t.Errorf("a goroutine is left:\n%s", g)
			}
		}
	}
}

// An event is a call to a source.
type event struct {
	what     string // settled, returned, written, closed
	tag      uint64
	multiple bool
	refused  bool
	id       string
	err      error
}

// source is a link.Source that holds messages and notes what it is told.
type source struct {
	mu      sync.Mutex
	waiting []link.Outgoing
	taken   int
	events  []event
	changed chan struct{} // replaced at every change
}

func newSource() *source { return &source{changed: make(chan struct{})} }

func (s *source) add(o ...link.Outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, o...)
}

func (s *source) note(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *source) Next(limit int) []link.Outgoing {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(limit, len(s.waiting))
	out := s.waiting[:n]
	s.waiting = s.waiting[n:]
	s.taken += n
	return out
}

func (s *source) Written(tag uint64) { s.note(event{what: "written", tag: tag}) }
func (s *source) Settled(tag uint64, multiple, refused bool) {
	s.note(event{what: "settled", tag: tag, multiple: multiple, refused: refused})
}

func (s *source) Refused(tag uint64, err *link.Error) {
	s.note(event{what: "refused", tag: tag, err: err})
}

func (s *source) Returned(id string, err *link.Error) {
	s.note(event{what: "returned", id: id, err: err})
}
func (s *source) Closed(err error) { s.note(event{what: "closed", err: err}) }

// await returns the events when they hold what is wanted.
func (s *source) await(t testing.TB, holds func([]event) bool) []event {
	t.Helper()
	return await(t, &s.mu, &s.changed, &s.events, holds)
}

func await[E any](t testing.TB, mu *sync.Mutex, changed *chan struct{}, list *[]E, holds func([]E) bool) []E {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		mu.Lock()
		all, ch := append([]E(nil), *list...), *changed
		mu.Unlock()
		if holds(all) {
			return all
		}
		select {
		case <-ch:
		case <-timeout:
			t.Fatalf("waited for too long; have %s", abridged(all))
		}
	}
}

func abridged[E any](all []E) string {
	s := fmt.Sprintf("%d: %+v", len(all), all)
	return s[:min(len(s), 2000)]
}

// settledUpTo tells whether tags 1 to n are settled.
func settledUpTo(n uint64) func([]event) bool {
	return func(all []event) bool {
		done := make(map[uint64]bool)
		for _, e := range all {
			if e.what != "settled" {
				continue
			}
			done[e.tag] = true
			for tag := e.tag; e.multiple && tag > 0; tag-- {
				done[tag] = true
			}
		}
		return uint64(len(done)) == n
	}
}

func has(what string) func([]event) bool {
	return func(all []event) bool {
		for _, e := range all {
			if e.what == what {
				return true
			}
		}
		return false
	}
}

// sink is a link.Sink that keeps what it gets.
type sink struct {
	mu        sync.Mutex
	got       []*link.Delivery
	batches   int
	cancelled []error
	closed    []error
	changed   chan struct{}
}

func newSink() *sink { return &sink{changed: make(chan struct{})} }

func (s *sink) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *sink) Deliver(batch []*link.Delivery) {
	s.change(func() { s.got = append(s.got, batch...); s.batches++ })
}

func (s *sink) Cancelled(reason *link.Error) {
	s.change(func() { s.cancelled = append(s.cancelled, reason) })
}
func (s *sink) Closed(err error) { s.change(func() { s.closed = append(s.closed, err) }) }

func (s *sink) await(t testing.TB, n int) []*link.Delivery {
	t.Helper()
	return await(t, &s.mu, &s.changed, &s.got, func(all []*link.Delivery) bool { return len(all) >= n })
}

// closedWith fails the test unless the sink is closed with an error of that kind.
func (s *sink) closedWith(t testing.TB, kind link.Kind) {
	t.Helper()
	kindIs(t, s.awaitClosed(t), kind)
}

func (s *sink) awaitClosed(t testing.TB) error {
	t.Helper()
	return await(t, &s.mu, &s.changed, &s.closed, func(all []error) bool { return len(all) > 0 })[0]
}

func (s *sink) awaitCancelled(t testing.TB) error {
	t.Helper()
	return await(t, &s.mu, &s.changed, &s.cancelled, func(all []error) bool { return len(all) > 0 })[0]
}

func outgoing(queue, body string, seq uint64) link.Outgoing {
	return link.Outgoing{
		Message:  &link.Message{Key: queue, Body: []byte(body)},
		Producer: "p", Seq: seq, Attempt: 1, Mandatory: true,
	}
}

func mustDeclare(t testing.TB, c link.Conn, items ...link.Item) []link.Result {
	t.Helper()
	results := c.Declare(t.Context(), items)
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("%+v: %v", items[i], r.Err)
		}
	}
	return results
}
