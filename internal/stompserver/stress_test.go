package stompserver

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
)

// consumer does what consumers do, in any order, and knows what it holds.
type consumer struct {
	p      *testPeer
	rnd    *rand.Rand
	all    []*holding          // also of subscriptions that have ended
	active map[string]*holding // by their ids
	txs    []*heldTx
	calls  int
	acked  []string // outside transactions
}

// holding is what was delivered to a subscription and is not settled.
type holding struct {
	cumulative bool
	messages   []heldMessage
}

type heldMessage struct{ body, ack string }

// heldTx is an open transaction, and what is settled in it.
type heldTx struct {
	name  string
	taken map[*holding][]heldMessage
}

// call sends a frame and takes what comes up to its receipt.
func (c *consumer) call(command string, lines ...string) {
	c.calls++
	id := fmt.Sprint(c.calls)
	c.p.send(command, append([]string{"receipt:" + id}, lines...)...)
	for {
		f, err := c.p.read()
		switch {
		case err != nil:
			c.p.t.Errorf("after %s %q: %v", command, lines, err)
			return
		case f.command == "RECEIPT" && f.get("receipt-id") == id:
			return
		case f.command != "MESSAGE" || c.active[f.get("subscription")] == nil:
			c.p.t.Errorf("after %s %q: %v", command, lines, f)
			return
		}
		h := c.active[f.get("subscription")]
		h.messages = append(h.messages, heldMessage{f.body, f.get("ack")})
	}
}

func (c *consumer) step() {
	switch c.rnd.IntN(10) {
	case 0, 1:
		c.subscribe()
	case 2:
		for id := range c.active {
			c.call("UNSUBSCRIBE", "id:"+id)
			delete(c.active, id)
			return
		}
	case 3:
		c.begin()
	case 4:
		if len(c.txs) > 0 {
			c.call("COMMIT", "transaction:"+c.txs[0].name)
			c.txs = c.txs[1:]
		}
	case 5:
		if len(c.txs) > 0 {
			c.call("ABORT", "transaction:"+c.txs[0].name)
			c.takeBack(c.txs[0])
			c.txs = c.txs[1:]
		}
	default:
		c.settle()
	}
}

func (c *consumer) subscribe() {
	id := fmt.Sprint("s-", c.rnd.IntN(3))
	if c.active[id] != nil {
		return
	}
	h := &holding{cumulative: c.rnd.IntN(2) == 0}
	c.active[id], c.all = h, append(c.all, h)
	mode := "client-individual"
	if h.cumulative {
		mode = "client"
	}
	c.call("SUBSCRIBE", "destination:/queue/in", "id:"+id, "ack:"+mode, fmt.Sprint("prefetch-count:", 1+c.rnd.IntN(8)))
}

func (c *consumer) begin() {
	name := fmt.Sprint("t", c.rnd.IntN(3))
	if slices.ContainsFunc(c.txs, func(t *heldTx) bool { return t.name == name }) {
		return
	}
	c.txs = append(c.txs, &heldTx{name, map[*holding][]heldMessage{}})
	c.call("BEGIN", "transaction:"+name)
}

// takeBack holds again what was settled in a transaction that was aborted.
func (c *consumer) takeBack(t *heldTx) {
	for h, list := range t.taken {
		h.messages = append(h.messages, list...)
		slices.SortFunc(h.messages, func(x, y heldMessage) int {
			_, a, _ := cutTag([]byte(x.ack))
			_, b, _ := cutTag([]byte(y.ack))
			return cmp.Compare(a, b)
		})
	}
}

// settle refuses a message or acknowledges it; in a transaction it also sends what it
// acknowledges on.
func (c *consumer) settle() {
	var some []*holding
	for _, h := range c.all {
		if len(h.messages) > 0 {
			some = append(some, h)
		}
	}
	if len(some) == 0 {
		return
	}
	h := some[c.rnd.IntN(len(some))]
	to := c.rnd.IntN(len(h.messages))
	from := to
	if h.cumulative {
		from = 0
	}
	list := slices.Clone(h.messages[from : to+1])
	h.messages = slices.Delete(h.messages, from, to+1)
	id := "id:" + escape(list[len(list)-1].ack)
	command := "ACK"
	if c.rnd.IntN(4) == 0 {
		command = "NACK"
	}
	if len(c.txs) == 0 || c.rnd.IntN(2) == 0 {
		c.call(command, id)
		for _, m := range list {
			if command == "ACK" {
				c.acked = append(c.acked, m.body)
			}
		}
		return
	}
	t := c.txs[c.rnd.IntN(len(c.txs))]
	t.taken[h] = append(t.taken[h], list...)
	c.p.send(command, id, "transaction:"+t.name)
	for _, m := range list {
		if command == "ACK" {
			c.p.send("SEND", "destination:/queue/out", "persistent:true", "transaction:"+t.name, "", m.body)
		}
	}
}

// Whatever consumers do, and however they end, each message was acknowledged once, was
// sent on once, or is where it was.
func TestEachMessageIsSettledOnce(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := newFixture(t)
			const n = 300
			p := f.connect()
			for i := range n {
				p.send("SEND", "destination:/queue/in", "persistent:true", "", fmt.Sprint(i))
			}
			p.call("SUBSCRIBE", "destination:/queue/out", "id:out") // which makes the queue
			p.call("UNSUBSCRIBE", "id:out")
			found := make([][]string, 4)
			var all sync.WaitGroup
			for k := range 3 {
				all.Go(func() { found[k] = consumeAnyhow(f, rand.New(rand.NewPCG(seed, uint64(k)))) })
			}
			all.Wait()
			if err := f.server.Shutdown(t.Context(), "to see what is left"); err != nil {
				t.Fatal(err)
			}
			found[3] = append(f.drain("in"), f.drain("out")...)
			times := map[string]int{}
			for _, body := range slices.Concat(found...) {
				times[body]++
			}
			for i := range n {
				if k := times[fmt.Sprint(i)]; k != 1 {
					t.Errorf("message %d was found %d times", i, k)
				}
			}
		})
	}
}

// consumeAnyhow returns what was acknowledged outside transactions.
func consumeAnyhow(f *fixture, rnd *rand.Rand) (acked []string) {
	for range 3 {
		c := &consumer{p: f.connect(), rnd: rnd, active: map[string]*holding{}}
		for range 120 {
			c.step()
		}
		switch rnd.IntN(3) {
		case 0:
			c.call("DISCONNECT")
		case 1:
			c.p.send("DISCONNECT")
		}
		_ = c.p.nc.Close()
		acked = append(acked, c.acked...)
	}
	return acked
}

// drain takes what is left in a queue.
func (f *fixture) drain(queue string) (bodies []string) {
	f.t.Helper()
	s := f.session()
	ch := s.OpenChannel(1)
	for {
		found, err := ch.Get(queue, true)
		if err != nil {
			f.t.Fatal(err)
		}
		if !found {
			return bodies
		}
		for _, e := range s.Take(nil) {
			v, err := message.Parse(e.Data)
			if e.Kind != broker.EventGot || err != nil {
				f.t.Fatal(e.Kind, err)
			}
			bodies = append(bodies, string(v.Body))
		}
	}
}
