package broker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal/memory"
)

// inBubble runs a test in which time passes only while everybody waits.
func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		b, err := Open(t.Context(), Config{Journal: memory.New(memory.Options{})})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		test(t, &world{t: t, b: b})
	})
}

// wait lets time pass, and all that happens in it.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

func TestAConsumerThatKeepsADeliveryTooLongIsCancelled(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		const timeout = 8 * time.Second
		c.declare("q", args{"x-consumer-timeout": int(timeout.Milliseconds())})
		c.ch.Qos(2, false)
		stuck := c.consume("q", "stuck", false)
		other := c.OpenChannel(2)
		c.publish("", "q", "0", true)
		c.publish("", "q", "1", true)
		first, second := c.expect("0", false), c.expect("1", false)
		c.publish("", "q", "2", true)
		pass(timeout - time.Second)
		c.must(c.ch.Ack(first.Tag, false))
		third := c.expect("2", false)
		c.none(EventCancelled)
		pass(time.Second + 2*lookEvery(timeout))
		if e := c.next(EventCancelled); e.Consumer != stuck {
			t.Fatalf("%q was cancelled", e.Consumer.Tag())
		}
		c.ready("q", 2)
		// The channel goes on. What was settled too late is no mistake, but once.
		c.must(c.ch.Nack(third.Tag, true, true))
		for _, tag := range []uint64{first.Tag, second.Tag, third.Tag} {
			if err := c.ch.Ack(tag, false); kind(err) != PreconditionFailed {
				t.Errorf("the acknowledgement of %d: %v", tag, err)
			}
		}
		c.ready("q", 2)
		c.on(other, "q")
		c.expect("1", true)
		c.expect("2", true)
		c.must(other.Ack(0, true))
		pass(time.Hour)
		c.none(EventCancelled)
		c.consume("q", "stuck", false) // its tag is free
		c.ch.Cancel("stuck")
		if n := len(w.b.timeouts.due); n != 1 {
			t.Errorf("%d consumers are watched", n)
		}
	})
}

func TestWhoMayKeepDeliveriesForEver(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		c.declare("q", args{"x-consumer-timeout": 1000})
		own := args{"x-consumer-timeout": 0}.list()
		k, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "own", Args: own})
		c.must(err)
		k.Start()
		c.publish("", "q", "0", true)
		c.expect("0", false)
		c.ch.Cancel("own")
		c.consume("q", "no ack", true)
		c.publish("", "q", "1", true)
		c.expect("1", false)
		c.ch.Cancel("no ack")
		c.publish("", "q", "2", true)
		if found, err := c.ch.Get("q", false); !found || err != nil {
			t.Fatal(found, err)
		}
		c.consume("q", "works", false)
		for i := range 100 {
			c.publish("", "q", fmt.Sprint(i), true)
			e := c.next(EventDelivery)
			pass(900 * time.Millisecond)
			c.must(c.ch.Ack(e.Tag, false))
		}
		pass(time.Hour)
		c.none(EventCancelled)
		if n := w.unsettled("q"); n != 2 {
			t.Errorf("%d are unsettled, want what the first consumer and Get have", n)
		}
	})
}

// TestAConsumerHasItsOwnTimeout, and one that was cancelled has it too.
func TestAConsumerHasItsOwnTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		q := c.single("q")
		k, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "t", Args: args{"x-consumer-timeout": 10000}.list()})
		c.must(err)
		k.Start()
		c.publish("", "q", "0", true)
		e := c.expect("0", false)
		c.ch.Cancel("t")
		c.on(c.OpenChannel(2), "q")
		pass(9 * time.Second)
		q.wantActive(t, "t")
		c.none(EventDelivery)
		pass(4 * time.Second)
		c.expect("0", true) // the other's
		c.none(EventCancelled)
		c.must(c.ch.Ack(e.Tag, false))
		for _, wrong := range []args{{"x-consumer-timeout": "1"}, {"x-consumer-timeout": -1}} {
			_, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "wrong", Args: wrong.list()})
			if kind(err) != PreconditionFailed || !strings.HasPrefix(err.Error(), "invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/': ") {
				t.Errorf("%v: %v", wrong, err)
			}
		}
	})
}

// TestATimeoutComesWithAPolicy: it counts for the consumers that are there.
func TestATimeoutComesWithAPolicy(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		q := c.declare("q", nil)
		c.consume("q", "t", false)
		c.publish("", "q", "0", true)
		c.expect("0", false)
		pass(time.Hour)
		set := func(timeout time.Duration) {
			q.mu.Lock()
			rules := *q.rules
			rules.timeout = timeout
			q.rules = &rules
			q.enforceLocked()
			q.mu.Unlock()
		}
		set(time.Minute)
		set(0)
		pass(time.Hour)
		c.none(EventCancelled)
		set(24 * time.Hour)
		set(time.Minute)
		pass(70 * time.Second)
		c.next(EventCancelled)
		c.ready("q", 1)
	})
}

// TestAPeerThatKnowsNoCancelLosesItsChannel: all that it has there is requeued.
func TestAPeerThatKnowsNoCancelLosesItsChannel(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s, err := w.b.OpenSession(SessionConfig{VHost: "/", User: "guest"})
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t: t, Session: s, ch: s.OpenChannel(1)}
		defer c.Close()
		c.declare("q", args{"x-consumer-timeout": 1000})
		c.declare("patient", nil)
		second := c.OpenChannel(2)
		c.consume("q", "t", false)
		c.consume("patient", "p", false)
		for _, q := range []string{"q", "patient"} {
			c.publish("", q, q, true)
			c.expect(q, false)
		}
		pass(2 * time.Second)
		e := c.next(EventChannelClosed)
		want := "delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms. This timeout value can be configured, see consumers doc guide to learn more"
		if e.Channel != c.ch || e.Err.Kind != PreconditionFailed || e.Err.Text != want || !c.ch.Failed() || second.Failed() {
			t.Errorf("told %+v", e)
		}
		c.ready("q", 1)
		c.ready("patient", 1)
		c.on(second, "patient")
		c.expect("patient", true)
		c.publish("", "q", "more", true)
		c.ch.Close()
		c.none(EventDelivery)
		c.ready("q", 2)
		if info, _ := c.CheckQueue("q"); info.Consumers != 0 {
			t.Errorf("%d consumers are left", info.Consumers)
		}
	})
}

// TestWhatIsNotReadInTimeGoesBack: it is not written any more.
func TestWhatIsNotReadInTimeGoesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		c.declare("q", args{"x-consumer-timeout": 1000})
		if _, err := c.DeclareQueue(QueueSpec{Name: "gone", AutoDelete: true, Args: args{"x-consumer-timeout": 1000}.list()}); err != nil {
			t.Fatal(err)
		}
		c.consume("q", "t", false)
		c.consume("gone", "u", false)
		c.publish("", "gone", "m", false)
		big := strings.Repeat("x", outboxLimit/2)
		for range 3 {
			c.publish("", "q", big, false)
		}
		pass(2 * time.Second)
		c.ready("q", 3)
		if _, err := c.CheckQueue("gone"); kind(err) != NotFound {
			t.Errorf("a queue whose last consumer was cancelled: %v", err)
		}
		c.none(EventDelivery)
		c.mu.Lock()
		left, stalled := c.outBytes, len(c.stalled)
		c.mu.Unlock()
		if left != 0 || stalled != 0 {
			t.Errorf("%d bytes and %d consumers are left", left, stalled)
		}
	})
}
