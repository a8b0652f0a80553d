package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// The outbox is on a real disk, so these tests are not in a bubble.

func open(t *testing.T, url, dir string, more ...ferry.Option) *ferry.Client {
	t.Helper()
	c, err := ferry.Dial(t.Context(), url, append([]ferry.Option{
		ferry.WithOutbox(dir, 0), ferry.WithBackoff(time.Millisecond, 10*time.Millisecond),
	}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func shut(t *testing.T, c *ferry.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func bodies(n, m int) []string {
	var all []string
	for i := n; i < m; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

func put(t *testing.T, c *ferry.Client, bodies []string) {
	t.Helper()
	for _, b := range bodies {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := c.Publish(ctx, ferry.Message{Key: "q", Body: []byte(b)})
		cancel()
		if err != nil {
			t.Fatalf("publishing %s: %v", b, err)
		}
	}
}

func TestOutboxAcceptsWhileEveryBrokerIsDownAndSendsInOrder(t *testing.T) {
	fb := faultbroker.Start(t, faultbroker.Options{})
	fb.Down()
	dir := t.TempDir()
	c := open(t, fb.URL(), dir, ferry.WithTopology(queues("q")))
	put(t, c, bodies(0, 50))
	if s := c.Status(); s.Outbox.Messages != 50 || s.Publish.State == ferry.Up {
		t.Errorf("%+v", s)
	}
	shut(t, c) // the program ends, and what is in the outbox stays

	c = open(t, fb.URL(), dir, ferry.WithTopology(queues("q")))
	defer shut(t, c)
	put(t, c, bodies(50, 100))
	if err := fb.Up(); err != nil {
		t.Fatal(err)
	}
	p, err := c.Publisher(ferry.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fb.Bodies("q"); !slices.Equal(got, bodies(0, 100)) {
		t.Errorf("the broker has %q", got)
	}
	if s := c.Status().Outbox; s.Messages != 0 {
		t.Errorf("%+v", s)
	}
}

// What was sent and not confirmed when the program ended is sent again with the
// id it had, and marked.
func TestOutboxResendsWithTheSameIDAfterARestart(t *testing.T) {
	fb := faultbroker.Start(t, faultbroker.Options{Faults: faultbroker.Faults{HoldConfirms: true}})
	dir := t.TempDir()
	c := open(t, fb.URL(), dir, ferry.WithTopology(queues("q")))
	put(t, c, bodies(0, 3))
	if err := fb.Wait(t.Context(), func(s faultbroker.State) bool { return s.Held == 3 }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Close(ctx); err != nil && errors.As(err, new(*ferry.UnconfirmedError)) {
		t.Errorf("what is in the outbox is not lost: %v", err)
	}
	fb.Set(func(f *faultbroker.Faults) { f.HoldConfirms = false })
	c = open(t, fb.URL(), dir, ferry.WithTopology(queues("q")))
	defer shut(t, c)
	if err := fb.Wait(t.Context(), func(s faultbroker.State) bool { return len(s.Publishes) == 6 }); err != nil {
		t.Fatal(err)
	}
	for i, p := range fb.Publishes()[3:] {
		first := fb.Publishes()[i]
		if p.Header("x-ferry-id") != first.Header("x-ferry-id") || p.Header("x-ferry-id") == nil {
			t.Errorf("sent as %v, and again as %v", first.Header("x-ferry-id"), p.Header("x-ferry-id"))
		}
		if n, _ := p.Header("x-ferry-attempt").(int32); n < 2 {
			t.Errorf("marked %v", p.Header("x-ferry-attempt"))
		}
	}
}

// What the broker will not take is kept aside, told, and does not hold up the rest.
func TestOutboxKeepsWhatIsRefused(t *testing.T) {
	fb := faultbroker.Start(t, faultbroker.Options{})
	dir := t.TempDir()
	events := make(chan ferry.Event, 100)
	c := open(t, fb.URL(), dir, ferry.WithTopology(queues("q")), ferry.WithEvents(func(e ferry.Event) { events <- e }))
	defer shut(t, c)
	if err := c.Publish(t.Context(), ferry.Message{Key: "nowhere", Body: []byte("lost?")}); err != nil {
		t.Fatal(err)
	}
	put(t, c, []string{"fine"})
	p, err := c.Publisher(ferry.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for e := range events {
		if e.Kind == ferry.MessageRefused {
			if !errors.Is(e.Err, ferry.ErrUnroutable) {
				t.Errorf("%v", e.Err)
			}
			break
		}
	}
	if s := c.Status().Outbox; s.Refused != 1 {
		t.Errorf("%+v", s)
	}
	kept, err := os.ReadFile(filepath.Join(dir, "refused.jsonl"))
	if err != nil || !strings.Contains(string(kept), "nowhere") {
		t.Errorf("%s, %v", kept, err)
	}
}

func TestOutboxIsOfOneProgram(t *testing.T) {
	fb := faultbroker.Start(t, faultbroker.Options{})
	dir := t.TempDir()
	c := open(t, fb.URL(), dir)
	defer shut(t, c)
	if _, err := ferry.Dial(t.Context(), fb.URL(), ferry.WithOutbox(dir, 0)); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
}

// Callbacks may publish, and Flush comes after them.
func TestOutboxCallsBackLikeAPublisher(t *testing.T) {
	fb := faultbroker.Start(t, faultbroker.Options{})
	c := open(t, fb.URL(), t.TempDir(), ferry.WithTopology(queues("q")))
	defer shut(t, c)
	p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
	if err != nil {
		t.Fatal(err)
	}
	var called []string
	for _, body := range bodies(0, 100) {
		err := p.Submit(t.Context(), ferry.Message{Body: []byte(body)}, func(r ferry.Result) {
			called = append(called, body)
			if r.Err != nil || r.ID() == "" {
				t.Errorf("%s: %q, %v", body, r.ID(), r.Err)
			}
			if body == "50" {
				if err := p.Publish(t.Context(), ferry.Message{Body: []byte("more")}); err != nil {
					t.Error(err)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(called, bodies(0, 100)) {
		t.Errorf("called back for %q", called)
	}
	if got := fb.Bodies("q"); len(got) != 101 {
		t.Errorf("%d messages arrived", len(got))
	}
}

// What is in flight when the connection is lost stays in the outbox: Close does
// not wait for it.
func TestCloseDoesNotWaitForAnOutboxThatLostItsConnection(t *testing.T) {
	dir := t.TempDir()
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a", func(o *faultbroker.Options) { o.Faults.HoldConfirms = true })
		c := w.dial(url("a"), ferry.WithTopology(queues("q")), ferry.WithOutbox(dir, 0))
		put(t, c, bodies(0, 3))
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- c.Close(context.Background()) }()
		time.Sleep(time.Second)
		if len(closed) != 0 {
			t.Error("Close did not wait for the confirms")
		}
		start := time.Now()
		a.Down()
		select {
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("Close waits for a connection that is gone")
		}
		within(t, "Close", start, 100*time.Millisecond)
	})
	fb := faultbroker.Start(t, faultbroker.Options{})
	c := open(t, fb.URL(), dir, ferry.WithTopology(queues("q")))
	defer shut(t, c)
	p, err := c.Publisher(ferry.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	flushed := make(chan error, 3)
	for range cap(flushed) { // several may wait
		go func() { flushed <- p.Flush(t.Context()) }()
	}
	for range cap(flushed) {
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	}
	if got := fb.Bodies("q"); !slices.Equal(got, bodies(0, 3)) {
		t.Errorf("%q", got)
	}
}

// Dial that fails leaves the directory to the next.
func TestDialThatFailsLetsGoOfTheOutbox(t *testing.T) {
	dir := t.TempDir()
	fb := faultbroker.Start(t, faultbroker.Options{})
	bad := ferry.Topology{Queues: []ferry.Queue{{}}}
	if _, err := ferry.Dial(t.Context(), fb.URL(), ferry.WithOutbox(dir, 0), ferry.WithTopology(bad)); err == nil {
		t.Fatal("dialled")
	}
	if _, err := ferry.Dial(t.Context(), "gmp://localhost", ferry.WithOutbox(dir, 0)); err == nil {
		t.Fatal("dialled")
	}
	shut(t, open(t, fb.URL(), dir))
}
