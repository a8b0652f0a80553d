package ferry_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// endsFor has a broker end the connection each time a message with a body arrives,
// until ctx ends.
func endsFor(ctx context.Context, b *faultbroker.Broker, body string, code uint16) (stopped chan struct{}) {
	stopped = make(chan struct{})
	go func() {
		defer close(stopped)
		seen := 0
		_ = b.Wait(ctx, func(s faultbroker.State) bool {
			for ; seen < len(s.Publishes); seen++ {
				if string(s.Publishes[seen].Body) == body {
					go b.CloseConnections(code, "for fun")
				}
			}
			return false
		})
	}()
	return stopped
}

// A message that the broker ends the connection for is not sent again for ever, and
// does not hold up the others: its publisher's, and those of another publisher on
// the same connection.
func TestMessageThatEndsTheConnectionIsGivenUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("a", func(o *faultbroker.Options) { o.Faults.HoldConfirms = true })
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		ctx, cancel := context.WithCancel(t.Context())
		stopped := endsFor(ctx, b, "poison", amqpwire.InternalError)
		release := make(chan struct{})
		go func() { // confirms are late, so that several messages are in flight
			defer close(release)
			for ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
				b.ReleaseConfirms()
			}
		}()
		first, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		second, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
		if err != nil {
			t.Fatal(err)
		}
		results := make(map[string]error)
		for _, body := range []string{"1", "2", "poison", "3", "4"} {
			if err := first.Submit(ctx, ferry.Message{Body: []byte(body)}, func(r ferry.Result) { results[body] = r.Err }); err != nil {
				t.Fatal(err)
			}
		}
		others := make(map[string]error)
		for _, body := range []string{"a", "b", "c"} {
			if err := second.Submit(ctx, ferry.Message{Body: []byte(body)}, func(r ferry.Result) { others[body] = r.Err }); err != nil {
				t.Fatal(err)
			}
		}
		flushing, done := context.WithTimeout(t.Context(), 5*time.Minute)
		defer done()
		if err := errors.Join(first.Flush(flushing), second.Flush(flushing)); err != nil {
			t.Fatal(err)
		}
		said := (*ferry.BrokerError)(nil)
		if err := results["poison"]; !errors.Is(err, ferry.ErrUnknown) || !errors.As(err, &said) || said.Code != int(amqpwire.InternalError) {
			t.Errorf("the message became %v", err)
		}
		delete(results, "poison")
		for body, err := range results {
			if err != nil {
				t.Errorf("%s: %v", body, err)
			}
		}
		for body, err := range others {
			if err != nil {
				t.Errorf("%s: %v", body, err)
			}
		}
		if len(results) != 4 || len(others) != 3 {
			t.Errorf("%v, %v", results, others)
		}
		cancel()
		<-stopped
		<-release
	})
}

// A broker that ends connections because it stops, or fails and is away, is no
// reason to give up a message.
func TestMessageIsNotBlamedForABrokerThatWasAway(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("a", func(o *faultbroker.Options) { o.Faults.HoldConfirms = true })
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		result := make(chan error, 1)
		go func() { result <- c.Publish(t.Context(), ferry.Message{Key: "q"}) }()
		for n := range 8 {
			if err := b.Wait(t.Context(), func(s faultbroker.State) bool { return len(s.Publishes) > n }); err != nil {
				t.Fatal(err)
			}
			b.CloseConnections(amqpwire.InternalError, "the message store failed")
			b.Down()
			time.Sleep(time.Second)
			if err := b.Up(); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Wait(t.Context(), func(s faultbroker.State) bool { return s.Held > 0 }); err != nil {
			t.Fatal(err)
		}
		b.Set(func(f *faultbroker.Faults) { f.HoldConfirms = false })
		b.ReleaseConfirms()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

// When one connection of a client is made, the other's wait ends.
func TestConnectionsAreMadeTogether(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")), ferry.WithBackoff(20*time.Second, time.Hour))
		w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		time.Sleep(5 * time.Second)
		b.Down()
		time.Sleep(time.Minute)
		up := b.Up()
		if up != nil {
			t.Fatal(up)
		}
		if err := b.Wait(t.Context(), func(s faultbroker.State) bool { return s.Open() > 0 }); err != nil {
			t.Fatal(err)
		}
		since := time.Now()
		if err := b.Wait(t.Context(), func(s faultbroker.State) bool { return s.Open() == 2 }); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(since); took > 0 {
			t.Errorf("the other was made %v later", took)
		}
	})
}

// A broker whose heartbeats come and that does not do what it is asked is left.
func TestBrokerThatDoesNotAnswerIsLeft(t *testing.T) {
	for name, silent := range map[string]faultbroker.Step{
		"confirm.select": faultbroker.StepConfirmSelect, "consume": faultbroker.StepConsume,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.broker("a"), w.broker("b")
				c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")))
				a.Set(func(f *faultbroker.Faults) { f.Silent = silent })
				start := time.Now()
				publish(t, c, "q", "x")
				co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
				if took := time.Since(start); took > 35*time.Second {
					t.Errorf("took %v", took)
				}
				if b.Snapshot().Open() == 0 {
					t.Error("b was not tried")
				}
				if err := co.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
