package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// enqueue puts messages with these bodies into a broker's queue.
func enqueue(b *faultbroker.Broker, queue string, bodies ...string) {
	for _, body := range bodies {
		b.Enqueue(queue, faultbroker.Message{Body: []byte(body)})
	}
}

func identified(id, body string) faultbroker.Message {
	return faultbroker.Message{
		Properties: amqpwire.Properties{Headers: amqpwire.Table{"x-ferry-id": id}},
		Body:       []byte(body),
	}
}

func (w *world) consumer(c *ferry.Client, o ferry.ConsumerOptions) *ferry.Consumer {
	w.t.Helper()
	co, err := c.Consumer(w.t.Context(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return co
}

func receive(t *testing.T, co *ferry.Consumer, want string) *ferry.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := co.Receive(ctx)
	if err != nil || string(d.Body) != want {
		t.Fatalf("received %v, %v; want %q", d, err, want)
	}
	return d
}

// Tags begin at 1 again on each connection: an acknowledgement that came late
// would be of another message.
func TestAckAfterAReconnectIsStaleAndSendsNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "one", "two")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q", Prefetch: 1})
		d := receive(t, co, "one")
		a.Cut()
		<-d.Context().Done()
		if cause := context.Cause(d.Context()); !errors.Is(cause, ferry.ErrConnectionLost) {
			t.Errorf("the context ended with %v", cause)
		}
		again := receive(t, co, "one")
		if !again.Redelivered {
			t.Error("not marked redelivered")
		}
		for name, settle := range map[string]func() error{
			"Ack": d.Ack, "Reject": d.Reject, "Requeue": d.Requeue, "Nack": func() error { return d.Nack(false) },
		} {
			if err := settle(); !errors.Is(err, ferry.ErrStale) {
				t.Errorf("%s: %v", name, err)
			}
		}
		synctest.Wait()
		if s := a.Snapshot(); len(s.Settlements) != 0 || s.Queues["q"].Unsettled != 1 {
			t.Errorf("sent %v", s.Settlements)
		}
		if err := again.Ack(); err != nil {
			t.Error(err)
		}
		if err := again.Ack(); !errors.Is(err, ferry.ErrSettled) {
			t.Errorf("settling twice: %v", err)
		}
		_ = receive(t, co, "two").Ack()
	})
}

func TestSettlements(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "ack", "requeue", "reject", "nack")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		_ = receive(t, co, "ack").Ack()
		d := receive(t, co, "requeue")
		_ = receive(t, co, "reject").Reject()
		_ = receive(t, co, "nack").Nack(false)
		if err := d.Requeue(); err != nil {
			t.Error(err)
		}
		if d := receive(t, co, "requeue"); !d.Redelivered || d.Ack() != nil {
			t.Error("not redelivered")
		}
		if err := co.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if q := a.Snapshot().Queues["q"]; q != (faultbroker.Queue{}) {
			t.Errorf("%+v is left", q)
		}
	})
}

func TestCancelledConsumerSubscribesAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "one")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		d := receive(t, co, "one")
		a.CancelConsumers()
		synctest.Wait()
		enqueue(a, "q", "two")
		_ = receive(t, co, "two").Ack()
		if err := d.Ack(); err != nil {
			t.Errorf("what was delivered before: %v", err)
		}
		if err := a.Wait(t.Context(), func(s faultbroker.State) bool {
			return s.Queues["q"] == faultbroker.Queue{Consumers: 1}
		}); err != nil {
			t.Error(err)
		}
		if n := len(w.happened(ferry.ConsumerCancelled)); n != 1 {
			t.Errorf("%d events", n)
		}
		if s := co.Stats(); s.Subscriptions != 2 || s.Received != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// A channel error ends its culprit and nothing else on the connection.
func TestChannelErrorConcernsItsConsumerOnly(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		_, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "missing"})
		if !errors.Is(err, ferry.ErrNotFound) {
			t.Errorf("%v", err)
		}
		enqueue(a, "q", "x")
		_ = receive(t, co, "x").Ack()
		if s := co.Stats(); s.Subscriptions != 1 || len(w.happened(ferry.Disconnected)) > 0 {
			t.Errorf("%+v, %v", s, w.events)
		}
		synctest.Wait()
		// When the broker closes the channel later, the consumer opens another.
		a.CloseChannels(amqpwire.PreconditionFailed, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out")
		enqueue(a, "q", "y")
		_ = receive(t, co, "y").Ack()
		if len(w.happened(ferry.Disconnected)) > 0 {
			t.Error("the connection was lost")
		}
	})
}

func TestQueueThatIsGoneEndsAConsumerUnlessItIsOfTheTopology(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		c := w.dial(url("a"), ferry.WithTopology(queues("kept")))
		if _, err := c.Inspect(t.Context(), "other"); !errors.Is(err, ferry.ErrNotFound) {
			t.Fatal(err)
		}
		other := w.dial(url("a", "b"))
		enqueue(a, "other", "x")
		co := w.consumer(other, ferry.ConsumerOptions{Queue: "other"})
		_ = receive(t, co, "x").Ack()
		synctest.Wait()
		a.Down()
		if _, err := co.Receive(t.Context()); !errors.Is(err, ferry.ErrNotFound) {
			t.Errorf("%v", err)
		}
		if n := b.Snapshot().Open(); n == 0 {
			t.Error("it did not ask b")
		}
	})
}

// What is handled once, is not handled twice: also while the handler that had it
// first is at work, and when its acknowledgement came too late.
func TestDedupDropsWhatWasHandled(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		a.Enqueue("q", identified("p-1", "1"), identified("p-2", "2"), identified("p-1", "1"))
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q", Dedup: 2})
		first := receive(t, co, "1")
		second := receive(t, co, "2") // the repeat of 1 waits
		a.Cut()
		<-first.Context().Done()
		if err := first.Ack(); !errors.Is(err, ferry.ErrStale) {
			t.Error(err)
		}
		if err := second.Requeue(); !errors.Is(err, ferry.ErrStale) {
			t.Error(err)
		}
		_ = receive(t, co, "2").Ack() // it was not handled; both copies of 1 were
		a.Enqueue("q", identified("p-2", "2"), identified("p-3", "3"), identified("p-4", "4"))
		_ = receive(t, co, "3").Ack()
		_ = receive(t, co, "4").Ack()
		a.Enqueue("q", identified("p-1", "1")) // forgotten: the window is of two
		_ = receive(t, co, "1").Ack()
		if err := co.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if q := a.Snapshot().Queues["q"]; q != (faultbroker.Queue{}) {
			t.Errorf("%+v is left", q)
		}
		if s := co.Stats(); s.Duplicates != 3 {
			t.Errorf("%+v", s)
		}
	})
}

// A repeat that waited is handled when the first copy was not.
func TestDedupDeliversARepeatWhenTheFirstWasNotHandled(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		a.Enqueue("q", identified("p-1", "1"), identified("p-1", "1"), identified("p-2", "2"))
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q", Dedup: 10})
		first := receive(t, co, "1")
		receive(t, co, "2")
		_ = first.Reject()
		_ = receive(t, co, "1").Ack()
	})
}

func TestConsumeSettlesByWhatTheHandlerReturns(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "ok", "fails once", "bad")
		ctx, cancel := context.WithCancel(t.Context())
		var seen []string
		err := c.Consume(ctx, ferry.ConsumerOptions{Queue: "q"}, func(_ context.Context, d *ferry.Delivery) error {
			body := string(d.Body)
			seen = append(seen, body)
			switch {
			case body == "bad":
				return fmt.Errorf("cannot be read: %w", ferry.ErrReject)
			case body == "fails once" && !d.Redelivered:
				return errors.New("not now")
			case body == "fails once":
				cancel()
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if len(seen) != 4 || seen[0] != "ok" {
			t.Errorf("%q", seen)
		}
		if q := a.Snapshot().Queues["q"]; q != (faultbroker.Queue{}) {
			t.Errorf("%+v is left", q)
		}
	})
}

// A message that always fails does not spin between broker and handler.
func TestFailingHandlerIsSlowedDown(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "poison")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n := 0
		_ = c.Consume(ctx, ferry.ConsumerOptions{Queue: "q"}, func(context.Context, *ferry.Delivery) error {
			n++
			return errors.New("no")
		})
		if n < 30 || n > 400 {
			t.Errorf("handled %d times in a minute", n)
		}
	})
}

// When Consume's context ends, handlers finish and what they did is acknowledged;
// what waited goes back.
func TestConsumeEndsInOrder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		for i := range 10 {
			enqueue(a, "q", fmt.Sprint(i))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		handled := 0
		err := c.Consume(ctx, ferry.ConsumerOptions{Queue: "q", Concurrency: 3}, func(ctx context.Context, _ *ferry.Delivery) error {
			cancel()
			time.Sleep(5 * time.Second)
			mu.Lock()
			handled++
			mu.Unlock()
			return ctx.Err()
		})
		if err != nil {
			t.Error(err)
		}
		if handled == 0 || handled > 3 {
			t.Errorf("%d handled", handled)
		}
		s := a.Snapshot()
		if q := s.Queues["q"]; q != (faultbroker.Queue{Ready: 10 - handled}) {
			t.Errorf("%+v is left, %d were handled", q, handled)
		}
		for _, x := range s.Settlements {
			if !x.Ack && !x.Requeue {
				t.Errorf("%+v", x)
			}
		}
	})
}

// A handler that does not return in time is left behind, and its message comes
// again.
func TestConsumeWaitsForHandlersNoLongerThanTheirGrace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "x")
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		_ = c.Consume(ctx, ferry.ConsumerOptions{Queue: "q", Grace: 3 * time.Second}, func(ctx context.Context, _ *ferry.Delivery) error {
			cancel()
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
		if err := a.Wait(t.Context(), func(s faultbroker.State) bool { return s.Queues["q"] == faultbroker.Queue{Ready: 1} }); err != nil {
			t.Error(err)
		}
	})
}

// Heartbeats wait for no handler.
func TestHandlerThatTakesAnHourLosesNoConnection(t *testing.T) {
	for _, noAck := range []bool{false, true} {
		t.Run(fmt.Sprintf("NoAck %v", noAck), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.broker("a", func(o *faultbroker.Options) { o.Heartbeat = 10 })
				c := w.dial(url("a"), ferry.WithTopology(queues("q")))
				var all []faultbroker.Message
				for range 30_000 {
					all = append(all, faultbroker.Message{Body: []byte("x")})
				}
				a.Enqueue("q", all...)
				ctx, cancel := context.WithCancel(t.Context())
				_ = c.Consume(ctx, ferry.ConsumerOptions{Queue: "q", NoAck: noAck}, func(context.Context, *ferry.Delivery) error {
					time.Sleep(time.Hour)
					cancel()
					return nil
				})
				if lost := w.happened(ferry.Disconnected); len(lost) > 0 {
					t.Errorf("%v", lost)
				}
			})
		})
	}
}

func TestAllEndsWithItsContextAndWithTheConsumer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "1", "2", "3")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		var got []string
		for d, err := range co.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(d.Body))
			_ = d.Ack()
			if len(got) == 2 {
				break
			}
		}
		if !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("%q", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for d, err := range co.All(ctx) {
			if err != nil || string(d.Body) != "3" {
				t.Errorf("%v, %v", d, err)
			}
		}
		go func() {
			time.Sleep(time.Second)
			_ = co.Close(context.Background())
		}()
		for d, err := range co.All(t.Context()) {
			t.Errorf("%v, %v", d, err)
		}
		if q := a.Snapshot().Queues["q"]; q != (faultbroker.Queue{Ready: 1}) {
			t.Errorf("%+v: what was not settled goes back", q)
		}
	})
}

func TestConsumerWithoutAQueueGetsANewOneOnEachConnection(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(ferry.Topology{Exchanges: []ferry.Exchange{{Name: "x", Kind: "fanout"}}}))
		co := w.consumer(c, ferry.ConsumerOptions{Bindings: []ferry.Binding{{Exchange: "x"}}})
		send := func(body string) {
			t.Helper()
			if err := c.Publish(t.Context(), ferry.Message{Exchange: "x", Body: []byte(body)}); err != nil {
				t.Fatal(err)
			}
		}
		send("one")
		_ = receive(t, co, "one").Ack()
		synctest.Wait()
		a.Down()
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		if err := a.Wait(t.Context(), func(s faultbroker.State) bool {
			n := 0
			for _, m := range s.Methods {
				if _, ok := m.Method.(*amqpwire.BasicConsume); ok {
					n++
				}
			}
			return n == 2
		}); err != nil {
			t.Fatal(err)
		}
		send("two")
		_ = receive(t, co, "two").Ack()
	})
}

func TestReceiveAndConsumerReturnWhenTheirContextEnds(t *testing.T) {
	for name, faults := range map[string]faultbroker.Faults{
		"channel open": {Silent: faultbroker.StepChannelOpen}, "qos": {Silent: faultbroker.StepQos},
		"consume": {Silent: faultbroker.StepConsume}, "garbage": {Garbage: faultbroker.StepConsume},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.broker("a")
				c := w.dial(url("a"), ferry.WithTopology(queues("q")))
				a.Set(func(f *faultbroker.Faults) { *f = faults })
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := c.Consumer(ctx, ferry.ConsumerOptions{Queue: "q"})
				if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 1100*time.Millisecond {
					t.Errorf("%v after %v", err, took)
				}
				a.Set(func(f *faultbroker.Faults) { *f = faultbroker.Faults{} })
			})
		})
	}
	inWorld(t, func(t *testing.T, w *world) {
		w.broker("a")
		co := w.consumer(w.dial(url("a"), ferry.WithTopology(queues("q"))), ferry.ConsumerOptions{Queue: "q"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := co.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// Moving to another broker waits for handlers, so that nothing is handled twice.
func TestFailbackLetsHandlersFinish(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(5*time.Second))
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		time.Sleep(3 * time.Second)
		a.Down()
		enqueue(b, "q", "1", "2")
		d := receive(t, co, "1")
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second) // the move has begun, and waits
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
		enqueue(a, "q", "3")
		_ = receive(t, co, "3").Ack()
		time.Sleep(time.Minute)
		if q := b.Snapshot().Queues["q"]; q != (faultbroker.Queue{Ready: 1}) {
			t.Errorf("b has %+v, want the one that nobody had seen", q)
		}
	})
}

// What nobody has asked for is forgotten with its connection.
func TestDeliveriesOfLostConnectionsDoNotPileUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		enqueue(a, "q", "1", "2", "3")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		for range 10 {
			a.Cut()
			time.Sleep(10 * time.Second)
			a.CloseChannels(amqpwire.PreconditionFailed, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out")
			time.Sleep(10 * time.Second)
		}
		if s := co.Stats(); s.Waiting != 3 {
			t.Errorf("%+v", s)
		}
		for _, body := range []string{"1", "2", "3"} {
			_ = receive(t, co, body).Ack()
		}
	})
}

// A NoAck consumer that does not keep up holds up its connection, and no end: not
// that of the consumer, of its connection, or of the client.
func TestNoAckConsumerThatIsFullCanBeEnded(t *testing.T) {
	for name, end := range map[string]func(context.Context, *faultbroker.Broker, *ferry.Client, *ferry.Consumer){
		"consumer": func(ctx context.Context, _ *faultbroker.Broker, _ *ferry.Client, co *ferry.Consumer) {
			_ = co.Close(ctx)
		},
		"client": func(ctx context.Context, _ *faultbroker.Broker, c *ferry.Client, _ *ferry.Consumer) { _ = c.Close(ctx) },
		"connection": func(ctx context.Context, a *faultbroker.Broker, c *ferry.Client, _ *ferry.Consumer) {
			a.Cut()
			synctest.Wait()
			_ = c.Close(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a := w.broker("a")
				c := w.dial(url("a"), ferry.WithTopology(queues("q")))
				body := make([]byte, 64<<10)
				for range 600 {
					a.Enqueue("q", faultbroker.Message{Body: body})
				}
				co := w.consumer(c, ferry.ConsumerOptions{Queue: "q", NoAck: true})
				synctest.Wait()
				if n := co.Stats().Waiting; n < 200 || n > 300 {
					t.Errorf("%d of 64 KiB wait", n)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				end(ctx, a, c, co)
				within(t, "the end", start, 1100*time.Millisecond)
				if name != "connection" {
					if d, err := co.Receive(t.Context()); err != nil || len(d.Body) != len(body) {
						t.Errorf("what was received before: %v", err)
					}
				}
			})
		})
	}
}

// All copies that come while one is handled wait for what becomes of it, also by
// connections that came later.
func TestDedupParksCopiesUntilTheFirstIsSettled(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		a.Enqueue("q", identified("p-1", "1"), identified("p-1", "1"))
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q", Dedup: 5})
		first := receive(t, co, "1")
		for range 3 {
			a.Cut()
			time.Sleep(5 * time.Second)
		}
		if s := co.Stats(); s.Received != 1 || s.Waiting != 2 {
			t.Errorf("%+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if d, err := co.Receive(ctx); err == nil {
			t.Errorf("received %v", d)
		}
		for range 2 { // a second time does nothing
			if err := first.Ack(); !errors.Is(err, ferry.ErrStale) {
				t.Error(err)
			}
		}
		a.Enqueue("q", identified("p-1", "1"), identified("", "no id"), identified("", "no id"))
		for range 2 {
			_ = receive(t, co, "no id").Ack()
		}
		if err := co.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if q := a.Snapshot().Queues["q"]; q != (faultbroker.Queue{}) {
			t.Errorf("%+v is left", q)
		}
	})
}

func TestPrefetchBounds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		for range 1000 {
			enqueue(a, "q", "x")
		}
		for prefetch, want := range map[int]int{0: ferry.DefaultPrefetch, 1: 1, 7: 7, -1: 1000} {
			co := w.consumer(c, ferry.ConsumerOptions{Queue: "q", Prefetch: prefetch})
			synctest.Wait()
			if n := co.Stats().Waiting; n != want {
				t.Errorf("Prefetch %d: %d came", prefetch, n)
			}
			if err := co.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if q := a.Snapshot().Queues["q"]; q != (faultbroker.Queue{Ready: 1000}) {
				t.Errorf("%+v", q)
			}
		}
		if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q", Prefetch: 1 << 16}); err == nil {
			t.Error("more than the protocol has room for")
		}
	})
}
