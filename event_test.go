package ferry_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
)

// Events of one connection tell its story in order, and what a listener asks of
// the client is not behind them.
func TestEventsComeInOrder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		var c *ferry.Client
		var mu sync.Mutex
		story := make(map[string][]string)
		made := make(chan struct{})
		listener := ferry.WithEvents(func(e ferry.Event) {
			<-made
			mu.Lock()
			defer mu.Unlock()
			step := e.Kind.String()
			if e.Endpoint != "" {
				step += " " + e.Endpoint
			}
			story[e.Connection] = append(story[e.Connection], step)
			if e.Time.IsZero() {
				t.Errorf("%v has no time", e)
			}
			if s := c.Status().Publish; e.Kind == ferry.Connected && e.Connection == "publish" && (s.State != ferry.Up || s.Err != nil) {
				t.Errorf("status when connected: %+v", s)
			}
		})
		c = w.dial(url("a", "b"), ferry.WithTopology(queues("q")), listener)
		close(made)
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		time.Sleep(3 * time.Second)
		a.CancelConsumers()
		time.Sleep(3 * time.Second)
		b.Down()
		a.Down()
		time.Sleep(50 * time.Millisecond)
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		publish(t, c, "q", "x")
		_ = receive(t, co, "x").Ack()
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		isRetry := func(s string) bool { return s == "retrying" }
		const onA, onB = " amqp://guest@a:5672/", " amqp://guest@b:5672/"
		for connection, want := range map[string][]string{
			"publish": {"connected" + onA, "disconnected" + onA, "connected" + onB, "closed"},
			"consume": {
				"connected" + onA, "consumer cancelled" + onA, "resubscribed" + onA,
				"disconnected" + onA, "connected" + onB, "resubscribed" + onB, "closed",
			},
		} {
			got := story[connection]
			if !slices.ContainsFunc(got, isRetry) {
				t.Errorf("%s: no retry in %q", connection, got)
			}
			if got = slices.DeleteFunc(got, isRetry); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", connection, got, want)
			}
		}
	})
}

// A listener that is too slow misses the oldest, and delays nothing.
func TestSlowListenerMissesTheOldestEvents(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		release := make(chan struct{})
		var seen []ferry.Event
		c := w.dial(url("a"), ferry.WithTopology(queues("q")), ferry.WithEvents(func(e ferry.Event) {
			<-release
			seen = append(seen, e)
		}))
		for range 400 {
			a.Cut()
			publish(t, c, "q", "x")
		}
		close(release)
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if len(seen) < 200 || len(seen) > 300 || seen[len(seen)-1].Kind != ferry.Closed {
			t.Errorf("%d events", len(seen))
		}
	})
}

func TestStatusTellsWhatTheConnectionDoes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		up := time.Now()
		time.Sleep(10 * time.Second)
		if s := c.Status().Publish; s.State != ferry.Up || !s.Since.Equal(up) || s.Connects != 1 || s.Err != nil {
			t.Errorf("%+v", s)
		}
		lost := time.Now()
		a.Down()
		time.Sleep(10 * time.Second)
		s := c.Status().Publish
		if s.State != ferry.Connecting || !s.Since.Equal(lost) || !errors.Is(s.Err, ferry.ErrNoBroker) || s.Endpoint == "" {
			t.Errorf("%+v", s)
		}
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		publish(t, c, "q", "x")
		if s := c.Status().Publish; s.State != ferry.Up || !s.Since.After(lost) || s.Connects != 2 || s.Err != nil {
			t.Errorf("%+v", s)
		}
	})
}
