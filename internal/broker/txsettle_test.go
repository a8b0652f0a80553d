package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

func (c *client) begin(id uint16) *Channel {
	c.t.Helper()
	tx := c.OpenChannel(id)
	if err := tx.TxSelect(); err != nil {
		c.t.Fatal(err)
	}
	return tx
}

// on consumes from a queue on a channel.
func (c *client) on(ch *Channel, queue string) {
	c.t.Helper()
	k, err := ch.Consume(ConsumeSpec{Queue: queue, Tag: "t"})
	if err != nil {
		c.t.Fatal(err)
	}
	k.Start()
}

func (c *client) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// unsettled is what a queue has delivered and not settled.
func (w *world) unsettled(queue string) int {
	w.t.Helper()
	q, err := w.b.vhost("/").queue(queue, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unacked
}

func TestTransactionSettlesForOtherChannels(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	for _, q := range []string{"a", "b", "out"} {
		c.queue(q, true)
	}
	subA, subB, tx := c.OpenChannel(2), c.OpenChannel(3), c.begin(4)
	for _, text := range []string{"1", "2", "3"} {
		c.publish("", "a", "a"+text, true)
		c.publish("", "b", "b"+text, true)
	}
	c.on(subA, "a")
	for _, text := range []string{"a1", "a2", "a3"} {
		c.expect(text, false)
	}
	c.on(subB, "b")
	for _, text := range []string{"b1", "b2", "b3"} {
		c.expect(text, false)
	}

	c.must(tx.TxAck(subA, 2, true))
	c.must(tx.TxNack(subB, 1, false, true))
	c.must(tx.TxNack(subB, 3, false, false))
	c.must(tx.Publish(&Publish{Key: []byte("out"), Persistent: true, Body: []byte("done")}))
	// A tag is settled once, by whomever.
	for _, err := range []error{
		tx.TxAck(subA, 1, false), subA.Ack(2, false), tx.TxNack(subB, 3, false, false), subB.Nack(1, true, true), tx.TxAck(subA, 9, false),
	} {
		if kind(err) != PreconditionFailed {
			t.Fatalf("a tag that nothing awaits: %v", err)
		}
	}
	if n := w.unsettled("a") + w.unsettled("b"); n != 6 {
		t.Fatalf("%d deliveries are unsettled before the commit, want 6", n)
	}
	c.ready("out", 0)
	c.must(tx.TxCommit())
	c.expect("b1", true)
	c.ready("out", 1)
	if a, b := w.unsettled("a"), w.unsettled("b"); a != 1 || b != 2 {
		t.Fatalf("%d and %d deliveries are unsettled after the commit, want 1 and 2", a, b)
	}
	c.must(subA.Ack(3, false))
	c.must(subB.Ack(0, true))
	if c.unacked != 0 {
		t.Fatalf("the session counts %d deliveries that are settled", c.unacked)
	}
}

func TestTransactionSettlesOnlyWithinItsConnection(t *testing.T) {
	w := newWorld(t)
	c, d := w.client(), w.client()
	defer c.Close()
	defer d.Close()
	c.queue("q", false)
	c.publish("", "q", "m", false)
	c.consume("q", "t", false)
	e := c.expect("m", false)
	if err := d.begin(2).TxAck(c.ch, e.Tag, false); kind(err) != PreconditionFailed {
		t.Fatalf("a delivery of another connection: %v", err)
	}
	if err := c.OpenChannel(2).TxAck(c.ch, e.Tag, false); kind(err) != PreconditionFailed {
		t.Fatalf("no transaction: %v", err)
	}
	c.must(c.ch.Ack(e.Tag, false))
}

func TestRollbackGivesBackToEachChannel(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("a", true)
	c.queue("b", true)
	subA, subB, tx := c.OpenChannel(2), c.OpenChannel(3), c.begin(4)
	for _, text := range []string{"1", "2", "3"} {
		c.publish("", "a", "a"+text, true)
		c.publish("", "b", "b"+text, true)
	}
	c.on(subA, "a")
	c.on(subB, "b")
	for range 6 {
		c.next(EventDelivery)
	}
	c.must(tx.TxAck(subA, 2, false))
	c.must(tx.TxAck(subB, 0, true))
	c.must(tx.TxAck(subA, 1, false))
	c.must(tx.TxRollback())
	c.none(EventDelivery) // they are with their channels, as before
	c.must(subA.Ack(3, true))
	subB.Close()
	if a, b := w.unsettled("a"), w.unsettled("b"); a != 0 || b != 0 {
		t.Fatalf("%d and %d deliveries are unsettled", a, b)
	}
	c.ready("a", 0)
	c.ready("b", 3)
}

// Whatever is closed first, a delivery in a transaction is settled by a commit and
// requeued without one, once.
func TestTransactionOutlivesTheChannelItSettlesFor(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(c *client, of, tx *Channel)
		left int
	}{
		{"commit", func(c *client, of, tx *Channel) { of.Close(); c.must(tx.TxCommit()); tx.Close() }, 0},
		{"rollback", func(c *client, of, tx *Channel) { of.Close(); c.must(tx.TxRollback()); tx.Close() }, 2},
		{"close of", func(_ *client, of, tx *Channel) { of.Close(); tx.Close() }, 2},
		{"close tx", func(_ *client, of, tx *Channel) { tx.Close(); of.Close() }, 2},
		{"session", func(c *client, _, _ *Channel) { c.Session.Close() }, 2},
	} {
		t.Run(end.name, func(t *testing.T) {
			w := newWorld(t)
			c, d := w.client(), w.client()
			defer d.Close()
			d.queue("q", true)
			d.publish("", "q", "1", true)
			d.publish("", "q", "2", true)
			of, tx := c.OpenChannel(2), c.begin(3)
			c.on(of, "q")
			c.expect("1", false)
			c.expect("2", false)
			c.must(tx.TxAck(of, 2, false))
			c.must(tx.TxAck(of, 1, false))
			end.do(c, of, tx)
			if c.unacked != 0 {
				t.Errorf("the session counts %d deliveries", c.unacked)
			}
			if n := w.unsettled("q"); n != 0 {
				t.Errorf("%d deliveries are unsettled", n)
			}
			d.ready("q", end.left)
			if end.left > 0 {
				d.consume("q", "d", false)
				d.expect("1", true)
				d.expect("2", true)
			}
			if end.name != "session" {
				c.Session.Close()
			}
		})
	}
}

func TestTransactionHoldsPrefetchUntilItsEnd(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	for _, global := range []bool{false, true} {
		of, tx := c.OpenChannel(2), c.begin(3)
		of.Qos(2, global)
		for _, text := range []string{"1", "2", "3", "4"} {
			c.publish("", "q", text, true)
		}
		c.on(of, "q")
		c.expect("1", false)
		c.expect("2", false)
		c.must(tx.TxAck(of, 2, true))
		c.none(EventDelivery)
		c.must(tx.TxRollback())
		c.none(EventDelivery)
		c.must(tx.TxAck(of, 1, false))
		c.must(tx.TxCommit())
		c.expect("3", false) // the room of the channel that it was delivered on
		c.none(EventDelivery)
		c.must(of.Ack(2, false))
		c.expect("4", false)
		c.must(of.Ack(0, true))
		tx.Close()
		of.Close()
	}
}

// Whatever connections do at once with transactions over several channels, all that
// was published is settled once, or there.
func TestTransactionsOfManyChannelsAtOnce(t *testing.T) {
	w := newWorld(t)
	const clients, rounds = 4, 60
	d := w.client()
	defer d.Close()
	for i := range 3 {
		d.queue(fmt.Sprint("q", i), i > 0)
	}
	var wg sync.WaitGroup
	acked := make([]int, clients)
	for k := range clients {
		wg.Go(func() {
			c := w.client()
			r := rand.New(rand.NewPCG(uint64(k), 1))
			for round := range rounds {
				subs := []*Channel{c.OpenChannel(2), c.OpenChannel(3)}
				tx := c.begin(4)
				for i, sub := range subs {
					sub.Qos(5, false)
					c.on(sub, fmt.Sprint("q", (round+i)%3))
				}
				for i := range 3 {
					c.must(tx.Publish(&Publish{Key: []byte(fmt.Sprint("q", i)), Persistent: true, Body: []byte("m")}))
				}
				if err := tx.TxCommit(); err != nil {
					t.Error(err)
				}
				taken := c.Take(nil)
				c.Flushed(taken)
				n := 0
				for _, e := range taken {
					if e.Kind == EventDelivery {
						if err := tx.TxAck(e.Consumer.Channel(), e.Tag, false); err != nil {
							t.Error(err)
						}
						n++
					}
				}
				order := []func(){subs[0].Close, subs[1].Close, tx.Close}
				if r.IntN(2) == 0 {
					if err := tx.TxCommit(); err != nil {
						t.Error(err)
					}
					acked[k] += n
				}
				r.Shuffle(3, func(i, j int) { order[i], order[j] = order[j], order[i] })
				for _, do := range order {
					do()
				}
			}
			c.Session.Close()
			if c.unacked != 0 {
				t.Errorf("client %d counts %d deliveries at its end", k, c.unacked)
			}
		})
	}
	wg.Wait()
	left := 0
	for i := range 3 {
		info, err := d.CheckQueue(fmt.Sprint("q", i))
		if err != nil {
			t.Fatal(err)
		}
		if n := w.unsettled(fmt.Sprint("q", i)); n != 0 {
			t.Errorf("%d deliveries of q%d are unsettled", n, i)
		}
		left += info.Messages
	}
	all := clients * rounds * 3
	for _, n := range acked {
		all -= n
	}
	if left != all || !slices.ContainsFunc(acked, func(n int) bool { return n > 0 }) {
		t.Fatalf("%d messages are left, want %d (acked %v)", left, all, acked)
	}
}
