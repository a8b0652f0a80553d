package broker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// single makes a queue with a single active consumer.
func (c *client) single(name string) *Queue {
	c.t.Helper()
	return c.declare(name, args{"x-single-active-consumer": true})
}

// join consumes from a queue on a channel, with a priority.
func (c *client) join(ch *Channel, queue, tag string, priority byte) *Consumer {
	c.t.Helper()
	k, err := ch.Consume(ConsumeSpec{Queue: queue, Tag: tag, Args: number("x-priority", priority)})
	if err != nil {
		c.t.Fatal(err)
	}
	k.Start()
	return k
}

// takes waits for a message that a consumer must get, and returns its tag.
func (c *client) takes(tag, text string) uint64 {
	c.t.Helper()
	e := c.next(EventDelivery)
	if e.Consumer.tag != tag || body(e) != text {
		c.t.Fatalf("%s gets %q, want %s to get %q", e.Consumer.tag, body(e), tag, text)
	}
	return e.Tag
}

func (q *Queue) wantActive(t *testing.T, want string) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	got := ""
	if c := q.activeLocked(); c != nil {
		got = c.tag
	}
	if got != want {
		t.Fatalf("%q is active, want %q", got, want)
	}
}

func TestOneConsumerIsActive(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	q := c.single("q")
	other := c.OpenChannel(2)
	c.join(c.ch, "q", "first", 0)
	c.join(other, "q", "second", 0)
	c.join(other, "q", "third", 0)
	q.wantActive(t, "first")
	for i := range 3 {
		c.publish("", "q", fmt.Sprint(i), true)
		c.takes("first", fmt.Sprint(i))
	}
	// Cancelled, it keeps what it has, and the others wait for that.
	c.ch.Cancel("first")
	c.publish("", "q", "3", true)
	c.must(c.ch.Ack(1, false))
	c.none(EventDelivery)
	q.wantActive(t, "first")
	c.must(c.ch.Nack(3, false, true))
	c.none(EventDelivery)
	c.must(c.ch.Ack(2, false))
	q.wantActive(t, "second")
	c.takes("second", "2")
	tag := c.takes("second", "3")
	c.must(other.Ack(tag, true))
	// One that waits goes unseen; with nothing unsettled the next is active at once.
	other.Cancel("third")
	c.join(c.ch, "q", "fourth", 0)
	other.Cancel("second")
	q.wantActive(t, "fourth")
	c.ch.Cancel("fourth")
	q.wantActive(t, "")
	c.publish("", "q", "4", true)
	c.none(EventDelivery)
	c.join(c.ch, "q", "fifth", 0)
	c.takes("fifth", "4")
}

func TestTheActiveConsumerGoesWithItsChannel(t *testing.T) {
	w := newWorld(t)
	c, lost := w.client(), w.client()
	defer c.Close()
	q := c.single("q")
	lost.join(lost.ch, "q", "lost", 0)
	lost.join(lost.ch, "q", "lost too", 0)
	closed := c.OpenChannel(2)
	c.join(closed, "q", "closed", 0)
	c.join(closed, "q", "closed too", 0)
	c.join(c.ch, "q", "last", 0)
	for i := range 3 {
		c.publish("", "q", fmt.Sprint(i), true)
	}
	lost.takes("lost", "0")
	lost.Close()
	q.wantActive(t, "closed")
	for i := range 3 {
		c.takes("closed", fmt.Sprint(i))
	}
	closed.Close()
	q.wantActive(t, "last")
	for i := range 3 {
		c.takes("last", fmt.Sprint(i))
	}
}

// TestAHigherPriorityTakesOver: when the active consumer has settled what it has, for
// it gets nothing more.
func TestAHigherPriorityTakesOver(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	q := c.single("q")
	c.join(c.ch, "q", "low", 1)
	c.publish("", "q", "0", true)
	first := c.takes("low", "0")
	c.join(c.ch, "q", "high", 5)
	q.wantActive(t, "low")
	c.publish("", "q", "1", true)
	c.none(EventDelivery)
	// It goes again before it was its turn: all is as before.
	c.ch.Cancel("high")
	second := c.takes("low", "1")
	c.join(c.ch, "q", "high", 5)
	c.publish("", "q", "2", true)
	c.none(EventDelivery)
	c.must(c.ch.Ack(second, false))
	c.none(EventDelivery)
	c.must(c.ch.Ack(first, false))
	q.wantActive(t, "high")
	third := c.takes("high", "2")
	c.join(c.ch, "q", "same", 5)
	c.must(c.ch.Ack(third, false))
	q.wantActive(t, "high")
	c.ch.Cancel("high")
	q.wantActive(t, "same")
	c.ch.Cancel("same")
	q.wantActive(t, "low") // who was active before waits as the others do
}

func TestASingleActiveConsumerIsNotExclusive(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.single("q")
	_, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "t", Exclusive: true})
	if kind(err) != AccessRefused || !strings.Contains(err.Error(), "queue 'q' in vhost '/' in exclusive use") {
		t.Errorf("an exclusive consumer: %v", err)
	}
	c.publish("", "q", "m", true)
	c.wantDrained("q", "m")
	c.declare("quorum", args{"x-single-active-consumer": true, "x-queue-type": "quorum"})
	if _, err := c.ch.Get("quorum", true); kind(err) != ResourceLocked {
		t.Errorf("get from a quorum queue: %v", err)
	}
}

// TestATransactionHoldsTheHandOver: what it settles is settled with its commit.
func TestATransactionHoldsTheHandOver(t *testing.T) {
	for _, end := range []string{"commit", "rollback", "close"} {
		t.Run(end, func(t *testing.T) {
			w := newWorld(t)
			c := w.client()
			defer c.Close()
			q := c.single("q")
			tx, sub := c.begin(2), c.OpenChannel(3)
			c.join(sub, "q", "first", 0)
			c.join(c.ch, "q", "second", 0)
			c.publish("", "q", "0", true)
			tag := c.takes("first", "0")
			c.must(tx.TxAck(sub, tag, false))
			sub.Close()
			c.publish("", "q", "1", true)
			c.none(EventDelivery)
			q.wantActive(t, "first")
			switch end {
			case "commit":
				c.must(tx.TxCommit())
			case "rollback":
				c.must(tx.TxRollback())
			default:
				tx.Close()
			}
			if end != "commit" {
				c.takes("second", "0")
			}
			c.takes("second", "1")
		})
	}
}

// TestOrderIsKeptByAnySingleConsumer: consumers come, go, are lost, and settle or give
// back; at any time one has deliveries, and they are in order.
func TestOrderIsKeptByAnySingleConsumer(t *testing.T) {
	w := newWorld(t)
	setup := w.client()
	defer setup.Close()
	q := setup.single("q")
	const n = 300
	var mu sync.Mutex
	held, who, next := 0, -1, 0 // deliveries that are not settled, whose they are, and what was settled
	over := make(chan struct{})
	var wg sync.WaitGroup
	for id := range 4 {
		rnd := rand.New(rand.NewPCG(uint64(id), 7))
		wg.Go(func() {
			for {
				c := w.client()
				c.ch.Qos(uint32(1+rnd.IntN(3)), false)
				k, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "t", Args: number("x-priority", byte(rnd.IntN(3)))})
				if err != nil {
					t.Error(err)
					return
				}
				k.Start()
				var mine []Event
				cancelled := false
				for round := 1 + rnd.IntN(8); round > 0; {
					taken := c.Take(nil)
					c.Flushed(taken)
					mu.Lock()
					for _, e := range taken {
						if who != id && held > 0 {
							t.Errorf("%d gets what %d may have", id, who)
						}
						who = id
						held++
						mine = append(mine, e)
					}
					mu.Unlock()
					if len(mine) == 0 {
						if cancelled {
							break
						}
						select {
						case <-c.Wake():
							continue
						case <-over:
							c.Close()
							return
						}
					}
					round--
					e := mine[0]
					mu.Lock()
					held--
					if rnd.IntN(4) == 0 {
						held++
						mu.Unlock()
						break // it is lost with all that it has
					}
					if body(e) != fmt.Sprint(next) {
						t.Errorf("got %s, want %d", body(e), next)
					}
					next++
					mine = mine[1:]
					last := next == n
					mu.Unlock()
					if err := c.ch.Ack(e.Tag, false); err != nil {
						t.Error(err)
					}
					if last {
						close(over)
					}
					if !cancelled && rnd.IntN(6) == 0 {
						c.ch.Cancel("t")
						cancelled = true
					}
				}
				mu.Lock()
				held -= len(mine)
				mu.Unlock()
				c.Close()
			}
		})
	}
	p := w.client()
	for i := range n {
		p.publish("", "q", fmt.Sprint(i), i%2 == 0)
	}
	wg.Wait()
	p.Close()
	q.wantActive(t, "")
}

// TestConsumersThatComeAndGoLeaveNoTrace: the active one waits for room once, however
// often it is found to be the active one.
func TestConsumersThatComeAndGoLeaveNoTrace(t *testing.T) {
	w := newWorld(t)
	c, other := w.client(), w.client()
	defer c.Close()
	defer other.Close()
	c.single("q")
	c.ch.Qos(1, true)
	c.consume("q", "active", false)
	c.publish("", "q", "1", true)
	c.publish("", "q", "2", true)
	tag := c.takes("active", "1")
	for range 100 {
		other.consume("q", "t", false)
		other.ch.Cancel("t")
		other.join(other.ch, "q", "higher", 1)
		other.ch.Cancel("higher")
	}
	c.mu.Lock()
	parked := len(c.ch.parked)
	c.mu.Unlock()
	if parked != 1 {
		t.Errorf("the channel has %d consumers that wait for its room, want 1", parked)
	}
	c.must(c.ch.Ack(tag, false))
	c.takes("active", "2")
}
