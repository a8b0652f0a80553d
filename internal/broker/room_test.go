package broker

import (
	"fmt"
	"strings"
	"testing"
)

// backlog fills a queue with so many messages of a size.
func (c *client) backlog(queue string, n, size int) {
	c.t.Helper()
	text := []byte(strings.Repeat("x", size))
	for range n {
		c.must(c.ch.Publish(&Publish{Key: []byte(queue), Body: text}))
	}
	c.Flush()
}

// Consumers of one connection, each of a long queue and without a limit, share what
// the peer reads.
func TestConsumersOfOneConnectionShareIt(t *testing.T) {
	const subscriptions = 5
	w := newWorld(t)
	d := w.client()
	defer d.Close()
	c := w.client()
	defer c.Close()
	got := map[*Channel]int{}
	for i := range subscriptions {
		queue := fmt.Sprint("q", i)
		d.queue(queue, false)
		d.backlog(queue, 4*outboxLimit>>10, 1<<10)
		k, err := c.OpenChannel(uint16(i + 2)).Consume(ConsumeSpec{Queue: queue, Tag: "t", NoAck: true})
		c.must(err)
		k.Start()
	}
	for range 2 * subscriptions {
		events := c.Take(nil)
		for _, e := range events {
			got[e.Consumer.Channel()]++
		}
		c.Flushed(events)
	}
	if len(got) != subscriptions {
		t.Errorf("only %d of %d consumers got something: %v", len(got), subscriptions, got)
	}
}

// A peer that does not read may begin and end any number of consumers: nothing is
// left of them.
func TestEndedConsumersLeaveNothing(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	c.backlog("q", 3*outboxLimit>>10, 1<<10)
	full := c.OpenChannel(2)
	c.on(full, "q")
	shared := c.OpenChannel(3)
	shared.Qos(1, true)
	if found, err := shared.Get("q", false); err != nil || !found {
		t.Fatal(found, err)
	}
	for i := range 100 {
		for _, ch := range []*Channel{c.OpenChannel(4), shared} {
			k, err := ch.Consume(ConsumeSpec{Queue: "q", Tag: "more", Args: number("x-priority", byte(i))})
			c.must(err)
			k.Start()
			if ch == shared {
				ch.Cancel("more")
			} else {
				ch.Close()
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.stalled); n > 1 {
		t.Errorf("%d consumers wait for the connection to be read", n)
	}
	if n := len(shared.parked); n > 0 {
		t.Errorf("%d consumers wait for the channel", n)
	}
	if q, _ := w.b.vhost("/").queue("q", nil); len(q.ring.groups) > groupsKept+1 {
		t.Errorf("the queue remembers %d priorities", len(q.ring.groups))
	}
}

// Nor of consumers that end with their queues, whose tags are used again.
func TestConsumersOfDeletedQueuesLeaveNothing(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("full", false)
	c.backlog("full", 3*outboxLimit>>10, 1<<10)
	c.on(c.OpenChannel(2), "full")
	shared := c.OpenChannel(3)
	shared.Qos(1, true)
	if found, err := shared.Get("full", false); err != nil || !found {
		t.Fatal(found, err)
	}
	for range 100 {
		c.queue("q", false)
		c.backlog("q", 1, 10)
		c.on(c.ch, "q")
		c.on(shared, "q")
		if _, err := c.DeleteQueue("q", false, false); err != nil {
			t.Fatal(err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.stalled) > 3 || len(shared.parked) > 1 {
		t.Errorf("%d consumers wait for the connection to be read, %d for the channel", len(c.stalled), len(shared.parked))
	}
}

// A shared limit of a channel parks its consumers, and forgets those that end.
func TestEndedConsumersOfAFullChannel(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	c.backlog("q", 10, 10)
	c.ch.Qos(1, true)
	c.consume("q", "first", false)
	e := c.next(EventDelivery)
	for range 100 {
		c.consume("q", "more", false)
		c.ch.Cancel("more")
	}
	if n := len(c.ch.parked); n > 1 {
		t.Errorf("%d consumers wait for the channel", n)
	}
	c.consume("q", "last", false)
	c.ch.Cancel("first")
	c.must(c.ch.Ack(e.Tag, false))
	if e := c.next(EventDelivery); e.Consumer.Tag() != "last" {
		t.Errorf("delivered to %s", e.Consumer.Tag())
	}
}

// A connection that is being closed is given nothing that nobody would know of.
func TestClosingConnectionTakesNothing(t *testing.T) {
	w := newWorld(t)
	d := w.client()
	defer d.Close()
	d.queue("q", false)
	c := w.client()
	c.consume("q", "t", true)
	c.mu.Lock()
	c.closed = true // and its channels are not yet
	c.mu.Unlock()
	d.backlog("q", 3, 10)
	d.ready("q", 3)
	c.Close()
	d.ready("q", 3)
}
