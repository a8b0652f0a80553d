package ferry_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// on tells where the two connections are.
func on(c *ferry.Client) [2]string {
	s := c.Status()
	return [2]string{s.Publish.Endpoint, s.Consume.Endpoint}
}

func both(addr string) [2]string {
	u := "amqp://guest@" + addr + ":5672/"
	return [2]string{u, u}
}

func TestFailbackGoesUpTheListWithBothConnections(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		brokers := map[string]*faultbroker.Broker{"a": w.broker("a"), "b": w.broker("b"), "c": w.broker("c")}
		brokers["a"].Down()
		brokers["b"].Down()
		c := w.dial(url("a", "b", "c"), ferry.WithTopology(queues("q")), ferry.WithFailback(5*time.Second))
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		if got := on(c); got != both("c") {
			t.Fatalf("began on %v", got)
		}
		for _, addr := range []string{"b", "a"} {
			if err := brokers[addr].Up(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Second)
			if got := on(c); got != both(addr) {
				t.Fatalf("on %v, not %s", got, addr)
			}
			publish(t, c, "q", addr)
			_ = receive(t, co, addr).Ack()
		}
		time.Sleep(time.Minute)
		for addr, want := range map[string]int{"a": 2, "b": 0, "c": 0} {
			if got := brokers[addr].Snapshot().Open(); got != want {
				t.Errorf("%d connections to %s, want %d", got, addr, want)
			}
		}
	})
}

// A preferred endpoint that lasts, and then fails at what is asked of it, is not
// moved to.
func TestFailbackNeedsTheTopologyDeclared(t *testing.T) {
	for name, f := range map[string]faultbroker.Faults{
		"dies": {Garbage: faultbroker.StepDeclare}, "does not answer": {Silent: faultbroker.StepDeclare},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.broker("a"), w.broker("b")
				a.Down()
				c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(5*time.Second))
				a.Set(func(now *faultbroker.Faults) { *now = f })
				if err := a.Up(); err != nil {
					t.Fatal(err)
				}
				for range 60 {
					time.Sleep(time.Second)
					publish(t, c, "q", "x")
				}
				if n := len(w.happened(ferry.FailedBack)) + len(w.happened(ferry.Disconnected)); n > 0 || len(b.Bodies("q")) != 60 {
					t.Errorf("it moved: %v", w.events)
				}
				a.Set(func(now *faultbroker.Faults) { *now = faultbroker.Faults{} })
				time.Sleep(time.Minute)
				if len(w.happened(ferry.FailedBack)) != 1 {
					t.Error("it did not move when that was over")
				}
			})
		})
	}
}

func TestFailbackWaitsForABrokerThatTakesMessages(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		w.broker("b")
		a.Down()
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(5*time.Second))
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second) // the probe is connected
		a.Block("low on disk")
		time.Sleep(4 * time.Second)
		if n := len(w.happened(ferry.FailedBack)); n > 0 {
			t.Error("it moved to a broker that takes no messages")
		}
		a.Unblock()
		time.Sleep(10 * time.Second)
		if n := len(w.happened(ferry.FailedBack)); n != 1 {
			t.Error("it did not move when that was over")
		}
		publish(t, c, "q", "x")
	})
}

// Brokers count logins that they refuse.
func TestFailbackDoesNotHammerABrokerThatRefusesTheLogin(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a", func(o *faultbroker.Options) { o.Faults.RefuseLogin = true })
		w.broker("b")
		w.dial(url("a", "b"), ferry.WithFailback(5*time.Second))
		time.Sleep(time.Hour)
		if n := len(a.Snapshot().Conns); n > 600 || n < 60 {
			t.Errorf("%d logins in an hour", n)
		}
	})
}

// When the connection in use is lost while a preferred one is looked at, nothing
// is left of that.
func TestFailbackThatIsOvertakenLeavesNoConnection(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		a.Down()
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(10*time.Second))
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		b.Down()
		publish(t, c, "q", "x")
		time.Sleep(time.Second)
		if n := a.Snapshot().Open(); n != 1 {
			t.Errorf("%d connections to a", n)
		}
	})
}

// What is declared while the connection moves is declared on the new one, too.
func TestDeclareDuringAMoveReachesTheNewConnection(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.broker("a")
		w.broker("b")
		a.Down()
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(time.Second))
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		declared := make(chan []string)
		go func() {
			var names []string
			for {
				select {
				case <-stop:
					declared <- names
					return
				case <-time.After(time.Millisecond):
				}
				name := "q" + time.Now().Format("05.000")
				if err := c.Declare(t.Context(), queues(name)); err != nil {
					t.Error(err)
				}
				names = append(names, name)
			}
		}()
		time.Sleep(5 * time.Second)
		close(stop)
		if len(w.happened(ferry.FailedBack)) != 1 {
			t.Fatal("it did not move")
		}
		synctest.Wait()
		have := a.Snapshot().Queues
		for _, name := range <-declared {
			if _, ok := have[name]; !ok {
				t.Errorf("%s is missing", name)
			}
		}
	})
}

// Each of the two connections may be to another broker for a while.
func TestDeclareReachesBothBrokersWhenConnectionsAreApart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		a.Down()
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")))
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		w.consumer(c, ferry.ConsumerOptions{Queue: "q"}) // its connection is to a
		if got := on(c); got[0] == got[1] {
			t.Fatalf("both on %s", got[0])
		}
		if err := c.Declare(t.Context(), queues("new")); err != nil {
			t.Fatal(err)
		}
		for name, broker := range map[string]*faultbroker.Broker{"a": a, "b": b} {
			if _, ok := broker.Snapshot().Queues["new"]; !ok {
				t.Errorf("%s does not have it", name)
			}
		}
	})
}

func TestCloseDuringAMove(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		a.Down()
		c, err := ferry.Dial(t.Context(), url("a", "b"), w.options(ferry.WithTopology(queues("q")), ferry.WithFailback(time.Second))...)
		if err != nil {
			t.Fatal(err)
		}
		enqueue(b, "q", "x")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
		receive(t, co, "x") // is not settled
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if len(w.happened(ferry.FailedBack)) == 0 {
			t.Fatal("it does not move")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_ = c.Close(ctx)
		if took := time.Since(start); took > 1100*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}
