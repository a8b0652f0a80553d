package ferry_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A broker that sends heartbeats and answers no declaration is not waited for.
func TestBrokerThatDoesNotAnswerDeclarationsIsLeft(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")))
		a.Set(func(f *faultbroker.Faults) { f.Silent = faultbroker.StepDeclare })
		a.Cut()
		start := time.Now()
		publish(t, c, "q", "x")
		if took := time.Since(start); took > 31*time.Second || len(b.Bodies("q")) != 1 {
			t.Errorf("took %v", took)
		}
		if n := len(w.happened(ferry.TopologyRefused)); n != 0 {
			t.Errorf("%d declarations were refused", n)
		}
	})
}

// A connection that is lost while the topology is declared never was one.
func TestConnectionThatIsLostWhileDeclaringIsAFailedAttempt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.broker("a", func(o *faultbroker.Options) { o.Faults.Garbage = faultbroker.StepDeclare })
		b := w.broker("b")
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q", "r", "s")))
		if s := c.Status().Publish; s.Connects != 1 || !strings.Contains(s.Endpoint, "b") || b.Snapshot().Open() != 1 {
			t.Errorf("%+v", s)
		}
		synctest.Wait()
		if n := len(w.happened(ferry.TopologyRefused)) + len(w.happened(ferry.Disconnected)); n != 0 {
			t.Errorf("%v", w.events)
		}
	})
}

// What a broker refuses is told, and the rest is declared.
func TestRefusedPartOfTheTopologyDoesNotHoldUpTheRest(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		topology := queues("q")
		topology.Bindings = []ferry.Binding{{Exchange: "nowhere", Queue: "q"}, {Exchange: "nowhere", Queue: "r"}}
		topology.Queues = append(topology.Queues, ferry.Queue{Name: "r"})
		c := w.dial(url("a"), ferry.WithTopology(topology))
		publish(t, c, "r", "x")
		synctest.Wait()
		refused := w.happened(ferry.TopologyRefused)
		if len(refused) != 2 || !errors.Is(refused[0].Err, ferry.ErrNotFound) || !strings.Contains(refused[0].Err.Error(), "nowhere") {
			t.Errorf("%v", refused)
		}
		// By Declare it is an error, and it is not tried again.
		err := c.Declare(t.Context(), ferry.Topology{
			Queues: []ferry.Queue{{Name: "s"}}, Bindings: []ferry.Binding{{Exchange: "nowhere", Queue: "s"}},
		})
		if !errors.Is(err, ferry.ErrNotFound) {
			t.Errorf("%v", err)
		}
		if _, ok := a.Snapshot().Queues["s"]; !ok {
			t.Error("the rest was not declared")
		}
		a.Cut()
		publish(t, c, "q", "y")
		synctest.Wait()
		if n := len(w.happened(ferry.TopologyRefused)); n != 4 {
			t.Errorf("%d refusals", n)
		}
	})
}

func TestTopologyThatNobodyCouldDeclareIsAnErrorAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.broker("a")
		c := w.dial(url("a"))
		for name, topology := range map[string]ferry.Topology{
			"queue without a name":        {Queues: []ferry.Queue{{}}},
			"exchange without a name":     {Exchanges: []ferry.Exchange{{Kind: "fanout"}}},
			"exchange without a kind":     {Exchanges: []ferry.Exchange{{Name: "x"}}},
			"binding of nothing":          {Bindings: []ferry.Binding{{Exchange: "x"}}},
			"binding of two":              {Bindings: []ferry.Binding{{Exchange: "x", Queue: "q", Destination: "y"}}},
			"binding to the default one":  {Bindings: []ferry.Binding{{Queue: "q"}}},
			"two faults, both are named:": {Queues: []ferry.Queue{{}}, Bindings: []ferry.Binding{{Exchange: "x"}}},
		} {
			if err := c.Declare(t.Context(), topology); err == nil {
				t.Errorf("%s: declared", name)
			}
			if _, err := ferry.Dial(t.Context(), url("a"), w.options(ferry.WithTopology(topology))...); err == nil {
				t.Errorf("%s: dialled", name)
			}
		}
		for _, b := range []ferry.Binding{{Exchange: "x", Queue: "q"}, {Exchange: "x", Destination: "y"}, {}} {
			if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Bindings: []ferry.Binding{b}}); err == nil {
				t.Errorf("%+v: consuming", b)
			}
		}
	})
}

// RabbitMQ ends the connection for an exchange of a kind that it does not know.
func TestDeclareFailsWhenTheBrokerEndsTheConnectionForIt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"), ferry.WithTopology(queues("q")))
		time.Sleep(3 * time.Second)
		a.Set(func(f *faultbroker.Faults) { f.Silent = faultbroker.StepDeclare })
		result := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			result <- c.Declare(ctx, ferry.Topology{Exchanges: []ferry.Exchange{{Name: "x", Kind: "unheard-of"}}})
		}()
		synctest.Wait()
		a.Set(func(f *faultbroker.Faults) { *f = faultbroker.Faults{} })
		a.CloseConnections(amqpwire.CommandInvalid, "COMMAND_INVALID - unknown exchange type 'unheard-of'")
		start := time.Now()
		if err := <-result; err == nil || !strings.Contains(err.Error(), "unknown exchange type") {
			t.Errorf("%v", err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("took %v", took)
		}
		publish(t, c, "q", "x") // it connects again, and does not declare that
	})
}

// An exclusive queue belongs to the connection that consumes.
func TestExclusiveQueueCanBeInspected(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		c := w.dial(url("a"))
		if err := c.Declare(t.Context(), ferry.Topology{Queues: []ferry.Queue{{Name: "mine", Exclusive: true}}}); err != nil {
			t.Fatal(err)
		}
		publish(t, c, "mine", "x")
		if info, err := c.Inspect(t.Context(), "mine"); err != nil || info.Messages != 1 {
			t.Errorf("%+v, %v", info, err)
		}
		if n, err := c.PurgeQueue(t.Context(), "mine"); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
		if _, err := c.DeleteQueue(t.Context(), "mine"); err != nil {
			t.Error(err)
		}
		if _, ok := a.Snapshot().Queues["mine"]; ok {
			t.Error("it is there")
		}
	})
}

// A queue that a dying connection has is waited for.
func TestConsumerWaitsForALockedQueue(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.broker("a")
		mine := ferry.Topology{Queues: []ferry.Queue{{Name: "mine", Exclusive: true}}}
		old, err := ferry.Dial(t.Context(), url("a"), w.options()...)
		if err != nil {
			t.Fatal(err)
		}
		if err := old.Declare(t.Context(), mine); err != nil {
			t.Fatal(err)
		}
		c := w.dial(url("a"), ferry.WithTopology(mine))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := c.Consumer(ctx, ferry.ConsumerOptions{Queue: "mine"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if err := c.Declare(t.Context(), mine); !errors.Is(err, ferry.ErrLocked) {
			t.Errorf("%v", err)
		}
		go func() {
			time.Sleep(30 * time.Second)
			_ = old.Close(context.Background())
		}()
		start := time.Now()
		w.consumer(c, ferry.ConsumerOptions{Queue: "mine"})
		if took := time.Since(start); took < 30*time.Second || took > 36*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// What messages come through may be gone with a queue, as auto-delete exchanges
// are: all of it is declared anew, also when that happens twice.
func TestConsumerDeclaresAnewWhatIsGone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		topology := queues("q", "other")
		topology.Exchanges = []ferry.Exchange{{Name: "x", Kind: "fanout", AutoDelete: true}, {Name: "y", Kind: "fanout"}}
		topology.Bindings = []ferry.Binding{{Exchange: "x", Queue: "q"}}
		c, operator := w.dial(url("a"), ferry.WithTopology(topology)), w.dial(url("a"))
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		time.Sleep(5 * time.Second)
		for range 3 {
			if err := operator.DeleteExchange(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
			if _, err := operator.DeleteQueue(t.Context(), "q"); err != nil {
				t.Fatal(err)
			}
			a.CancelConsumers()
			time.Sleep(time.Second)
		}
		if err := operator.Publish(t.Context(), ferry.Message{Exchange: "x", Body: []byte("through")}); err != nil {
			t.Fatal(err)
		}
		_ = receive(t, co, "through").Ack()
		n := 0
		for _, m := range a.Snapshot().Methods {
			if d, ok := m.Method.(*amqpwire.QueueDeclare); ok && d.Queue == "other" {
				n++
			}
		}
		if n != 2 { // once for each connection of the client
			t.Errorf("the other queue was declared %d times", n)
		}
	})
}

// Calls to a peer that does not answer end with their context.
func TestCallsEndWithTheirContext(t *testing.T) {
	calls := map[string]func(context.Context, *ferry.Client) error{
		"Declare":        func(ctx context.Context, c *ferry.Client) error { return c.Declare(ctx, queues("r")) },
		"Inspect":        func(ctx context.Context, c *ferry.Client) error { _, err := c.Inspect(ctx, "q"); return err },
		"PurgeQueue":     func(ctx context.Context, c *ferry.Client) error { _, err := c.PurgeQueue(ctx, "q"); return err },
		"DeleteQueue":    func(ctx context.Context, c *ferry.Client) error { _, err := c.DeleteQueue(ctx, "q"); return err },
		"DeleteExchange": func(ctx context.Context, c *ferry.Client) error { return c.DeleteExchange(ctx, "x") },
		"Consumer": func(ctx context.Context, c *ferry.Client) error {
			_, err := c.Consumer(ctx, ferry.ConsumerOptions{Queue: "q"})
			return err
		},
	}
	states := map[string]func(*faultbroker.Broker){
		"paused": (*faultbroker.Broker).Pause,
		"down":   (*faultbroker.Broker).Down,
		"silent": func(b *faultbroker.Broker) {
			b.Set(func(f *faultbroker.Faults) { f.Silent = faultbroker.StepChannelOpen })
		},
		"new connections hang": func(b *faultbroker.Broker) {
			b.Set(func(f *faultbroker.Faults) { f.Silent = faultbroker.StepHeader })
			b.Cut()
		},
	}
	for call, f := range calls {
		for state, make := range states {
			t.Run(call+" "+state, func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					a := w.broker("a")
					c, err := ferry.Dial(t.Context(), url("a"), w.options()...)
					if err != nil {
						t.Fatal(err)
					}
					make(a)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					start := time.Now()
					if err := f(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%v", err)
					}
					if took := time.Since(start); took > 1100*time.Millisecond {
						t.Errorf("took %v", took)
					}
					_ = c.Close(ctx)
					if took := time.Since(start); took > 1200*time.Millisecond {
						t.Errorf("closing took until %v", took)
					}
					a.Resume()
				})
			})
		}
	}
}

// The program may change its maps afterwards.
func TestTopologyKeepsArgumentsAsTheyWere(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		arguments := map[string]any{"x-max-length": int32(1)}
		c := w.dial(url("a"))
		if err := c.Declare(t.Context(), ferry.Topology{Queues: []ferry.Queue{{Name: "q", Arguments: arguments}}}); err != nil {
			t.Fatal(err)
		}
		arguments["x-max-length"] = int32(2)
		a.Cut()
		publish(t, c, "q", "x")
		var got []any
		for _, m := range a.Snapshot().Methods {
			if d, ok := m.Method.(*amqpwire.QueueDeclare); ok {
				got = append(got, d.Arguments["x-max-length"])
			}
		}
		if !slices.Equal(got, []any{int32(1), int32(1)}) {
			t.Errorf("declared with %v", got)
		}
	})
}
