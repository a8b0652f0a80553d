package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

// declare makes a durable queue with arguments.
func (c *client) declare(name string, a args) *Queue {
	c.t.Helper()
	if _, err := c.DeclareQueue(QueueSpec{Name: name, Durable: true, Args: a.list()}); err != nil {
		c.t.Fatalf("declare %s: %v", name, err)
	}
	q, err := c.v.queue(name, c.Session)
	if err != nil {
		c.t.Fatal(err)
	}
	return q
}

// load publishes messages in one run, "0" to n-1 in decimal, and tells which were
// refused.
func (c *client) load(exchange, key string, n int) (refused []uint64) {
	c.t.Helper()
	first := c.ch.published
	for i := range n {
		c.must(c.ch.Publish(&Publish{Exchange: []byte(exchange), Key: []byte(key), Persistent: true, Body: fmt.Append(nil, i)}))
	}
	c.Flush()
	return c.refusals(first, n)
}

// refusals waits until n publishes behind a tag are settled, and says which of them,
// from 1, were refused.
func (c *client) refusals(first uint64, n int) (refused []uint64) {
	c.t.Helper()
	told := map[uint64]bool{}
	for len(told) < n {
		e := c.next(EventConfirm)
		for tag := e.Tag; tag > first; tag-- {
			if !told[tag] && e.Nack {
				refused = append(refused, tag-first)
			}
			told[tag] = true
			if !e.Multiple {
				break
			}
		}
	}
	slices.Sort(refused)
	return refused
}

func (c *client) wantDrained(queue string, want ...string) {
	c.t.Helper()
	if got := c.drain(queue); strings.Join(got, " ") != strings.Join(want, " ") {
		c.t.Fatalf("%s has %q, want %q", queue, got, want)
	}
}

func TestAFullQueueDropsItsFirstMessages(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.declare("q", args{"x-max-length": 3})
	if r := c.load("", "q", 10); len(r) > 0 {
		t.Errorf("%v were refused", r)
	}
	c.wantDrained("q", "7", "8", "9")

	// What is delivered does not count, until it is given back: then it is the first.
	for i := range 4 {
		if i == 1 {
			if _, err := c.ch.Get("q", false); err != nil {
				t.Fatal(err)
			}
		}
		c.publish("", "q", fmt.Sprint(i), true)
	}
	c.ready("q", 3)
	c.must(c.ch.Nack(c.next(EventGot).Tag, false, true))
	c.wantDrained("q", "1", "2", "3")
}

func TestAQueueOfNoLength(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.declare("q", args{"x-max-length": 0})
	if r := c.load("", "q", 2); len(r) > 0 {
		t.Errorf("%v were refused", r)
	}
	c.ready("q", 0)
	c.ch.Qos(1, false)
	c.consume("q", "t", false)
	c.load("", "q", 2)
	e := c.expect("0", false)
	c.must(c.ch.Nack(e.Tag, false, true)) // it is the only one, and its consumer waits
	c.none(EventDelivery)
	c.declare("full", args{"x-max-length": 0, "x-overflow": "reject-publish"})
	if r := c.load("", "full", 2); fmt.Sprint(r) != "[1 2]" {
		t.Errorf("%v were refused", r)
	}
}

func TestAFullQueueRefusesMessages(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.declare("q", args{"x-max-length": 2, "x-overflow": "reject-publish"})
	if r := c.load("", "q", 5); fmt.Sprint(r) != "[3 4 5]" {
		t.Errorf("%v were refused", r)
	}
	idle(w)
	before := w.b.log.durable.Load()
	for range 10 {
		c.must(c.ch.Publish(&Publish{Key: []byte("q"), Persistent: true, Mandatory: true}))
	}
	c.Flush()
	if r := c.refusals(5, 10); len(r) != 10 {
		t.Errorf("%v were refused", r)
	}
	c.none(EventReturn)
	idle(w)
	if after := w.b.log.durable.Load(); after != before {
		t.Errorf("refused messages took %d batches", after-before)
	}
	c.must(c.ch.Recover(true))
	c.wantDrained("q", "0", "1")
	if r := c.load("", "q", 1); len(r) > 0 {
		t.Errorf("refused by a queue that is empty again")
	}
	// What is given back does not count as published.
	if _, err := c.ch.Get("q", false); err != nil {
		t.Fatal(err)
	}
	c.load("", "q", 2)
	c.must(c.ch.Nack(c.next(EventGot).Tag, false, true))
	c.wantDrained("q", "0", "0", "1")
	if hot := w.b.evict.hot.Load(); hot != 0 {
		t.Errorf("%d bytes are held of no message", hot)
	}
}

// idle waits until the log has nothing to write.
func idle(w *world) {
	w.t.Helper()
	if err := w.b.await(w.b.log.caughtUp()); err != nil {
		w.t.Fatal(err)
	}
}

// TestARefusalIsOfOneQueue: the others keep the message.
func TestARefusalIsOfOneQueue(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.declare("full", args{"x-max-length": 1, "x-overflow": "reject-publish"})
	c.declare("short", args{"x-max-length": 2})
	c.queue("roomy", false)
	for _, q := range []string{"full", "short", "roomy"} {
		c.must(c.BindQueue(q, "amq.fanout", "", nil))
	}
	if r := c.load("amq.fanout", "", 4); fmt.Sprint(r) != "[2 3 4]" {
		t.Errorf("%v were refused", r)
	}
	c.wantDrained("full", "0")
	c.wantDrained("short", "2", "3")
	c.wantDrained("roomy", "0", "1", "2", "3")
}

// TestWhoTakesMakesRoom: messages that come at once are not refused while a consumer
// takes them.
func TestWhoTakesMakesRoom(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.declare("q", args{"x-max-length": 2, "x-overflow": "reject-publish"})
	c.ch.Qos(20, false)
	c.consume("q", "t", false)
	if r := c.load("", "q", 30); fmt.Sprint(r) != "[23 24 25 26 27 28 29 30]" {
		t.Errorf("%v were refused", r)
	}
}

// TestARefusedMessageMayComeAgain: it was not accepted, whatever names it.
func TestARefusedMessageMayComeAgain(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.declare("full", args{"x-max-length": 1, "x-overflow": "reject-publish"})
	c.queue("roomy", true)
	for _, q := range []string{"full", "roomy"} {
		c.must(c.BindQueue(q, "amq.fanout", "", nil))
	}
	for _, props := range [][]byte{named("p-1"), duplicate("one")} {
		c.publish("", "full", "first", true)
		c.refusals(c.ch.published-1, 1)
		for _, refused := range []int{1, 0, 0} {
			first := c.ch.published
			c.must(c.ch.Publish(&Publish{Exchange: []byte("amq.fanout"), Persistent: true, Properties: props, Body: []byte("m")}))
			c.Flush()
			if got := len(c.refusals(first, 1)); got != refused {
				t.Errorf("%d of one message were refused, want %d", got, refused)
			}
			if refused == 1 {
				c.wantDrained("full", "first")
			}
			if refused == 0 && len(props) > 0 && strings.Contains(string(props), "p-1") {
				props = named("p-1", mark(2))
			}
		}
		c.wantDrained("full", "m")
		c.wantDrained("roomy", "m", "m") // refused once, accepted once, repeated once
	}
}

func TestATransactionIsRefusedInPart(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.declare("q", args{"x-max-length": 2, "x-overflow": "reject-publish"})
	c.declare("short", args{"x-max-length": 1})
	c.queue("in", true)
	c.publish("", "in", "taken", true)
	tx := c.begin(2)
	c.on(tx, "in")
	c.must(tx.Ack(c.expect("taken", false).Tag, false))
	for i := range 4 {
		c.must(tx.Publish(&Publish{Key: []byte("q"), Persistent: true, Mandatory: true, Body: fmt.Append(nil, i)}))
		c.must(tx.Publish(&Publish{Key: []byte("short"), Persistent: true, Body: fmt.Append(nil, i)}))
	}
	err := tx.TxCommit()
	if kind(err) != PreconditionFailed || !strings.Contains(err.Error(), "partial tx completion") {
		t.Fatalf("commit: %v", err)
	}
	tx.Close()
	c.none(EventReturn)
	w.restart()
	c = w.client()
	defer c.Close()
	c.ready("in", 0)
	c.wantDrained("q", "0", "1")
	c.wantDrained("short", "3")
}

// TestALimitIsSetToAQueueThatIsLong: the rest is dropped in the background, and what
// is published meanwhile stays.
func TestALimitIsSetToAQueueThatIsLong(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	q := c.declare("q", nil)
	const n = 5 * trimMost
	c.load("", "q", n)
	q.mu.Lock()
	rules := *q.rules
	rules.maxLength = 3
	q.rules = &rules
	q.enforceLocked()
	q.mu.Unlock()
	c.publish("", "q", "last", true)
	w.b.tasks.Wait()
	c.wantDrained("q", fmt.Sprint(n-2), fmt.Sprint(n-1), "last")
	// It is over when the rest is to stay after all.
	c.load("", "q", 3)
	q.mu.Lock()
	refuses := rules
	refuses.maxLength, refuses.overflow = 1, rejectPublish
	q.rules, q.trimming = &refuses, true
	q.mu.Unlock()
	q.trim()
	c.ready("q", 3)
}

func TestLimitsHoldAfterARestart(t *testing.T) { eachJournal(t, testLimitsHoldAfterARestart) }

func testLimitsHoldAfterARestart(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client().confirming()
	c.declare("drops", args{"x-max-length": 2})
	c.declare("refuses", args{"x-max-length": 2, "x-overflow": "reject-publish"})
	for _, q := range []string{"drops", "refuses"} {
		c.consume(q, q, false)
		c.load("", q, 3) // delivered, not settled
		c.ch.Cancel(q)
		c.load("", q, 2)
	}
	idle(w)
	w.restart() // the session is lost with the broker
	for range 2 {
		c = w.client().confirming()
		c.ready("drops", 2)
		c.ready("refuses", 5)
		if r := c.load("", "refuses", 1); len(r) != 1 {
			t.Error("a queue that is too long takes more")
		}
		c.Close()
		w.restart()
	}
	c = w.client()
	defer c.Close()
	c.wantDrained("drops", "0", "1")
	c.wantDrained("refuses", "0", "1", "2", "0", "1")
}

// TestLimitsUnderLoad: of what several publish and take at once, nothing is both
// refused and delivered, nothing confirmed is lost, and the limit holds.
func TestLimitsUnderLoad(t *testing.T) {
	w := newWorld(t)
	setup := w.client()
	defer setup.Close()
	q := setup.declare("q", args{"x-max-length": 10, "x-overflow": "reject-publish"})
	const publishers, each = 3, 400
	var wg sync.WaitGroup
	accepted := make([]map[string]bool, publishers)
	for p := range publishers {
		c := w.client().confirming()
		accepted[p] = map[string]bool{}
		wg.Go(func() {
			defer c.Close()
			for i := range each {
				text := fmt.Sprint(p, "-", i)
				c.publish("", "q", text, i%2 == 0)
				if len(c.refusals(uint64(i), 1)) == 0 {
					accepted[p][text] = true
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	c := w.client()
	defer c.Close()
	c.ch.Qos(5, false)
	c.consume("q", "t", false)
	got := map[string]bool{}
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-c.Wake():
		}
		for _, e := range c.Take(nil) {
			if got[body(e)] {
				t.Errorf("%s came twice", body(e))
			}
			got[body(e)] = true
			c.must(c.ch.Ack(e.Tag, false))
		}
		q.mu.Lock()
		if q.ready > 10 {
			t.Errorf("%d are ready", q.ready)
		}
		q.mu.Unlock()
	}
	for {
		events := c.Take(nil)
		if len(events) == 0 {
			break
		}
		for _, e := range events {
			got[body(e)] = true
			c.must(c.ch.Ack(e.Tag, false))
		}
	}
	n := 0
	for p := range publishers {
		n += len(accepted[p])
		for text := range accepted[p] {
			if !got[text] {
				t.Errorf("%s was accepted and did not come", text)
			}
		}
	}
	if n != len(got) {
		t.Errorf("%d were accepted, %d came", n, len(got))
	}
}

// sized publishes a message with so many bytes of a body, and of headers that do not
// count, and tells whether it was refused.
func (c *client) sized(queue string, bytes, headers int) (refused bool) {
	c.t.Helper()
	first := c.ch.published
	c.must(c.ch.Publish(&Publish{
		Key: []byte(queue), Persistent: true, Body: []byte(strings.Repeat("x", bytes)),
		Properties: message.AppendField(nil, message.Headers, longText("h", strings.Repeat("h", headers))),
	}))
	c.Flush()
	return len(c.refusals(first, 1)) > 0
}

func TestBytesOfBodiesAreLimited(t *testing.T) { eachJournal(t, testBytesOfBodiesAreLimited) }

func testBytesOfBodiesAreLimited(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client().confirming()
	drops, refuses := args{"x-max-length-bytes": 10}, args{"x-max-length-bytes": 10, "x-overflow": "reject-publish"}
	c.declare("drops", drops)
	c.declare("refuses", refuses)
	for range 2 {
		for i := range 5 {
			c.sized("drops", 4, 100)
			if got := c.sized("refuses", 4, 100); got != (i > 1) {
				t.Errorf("the %dth was refused: %v", i, got)
			}
		}
		c.ready("drops", 2)
		c.ready("refuses", 2)
		if c.sized("refuses", 2, 0) {
			t.Error("what still fits is refused")
		}
		if !c.sized("refuses", 1, 0) {
			t.Error("what does not fit is taken")
		}
		c.sized("drops", 7, 0) // all others go
		c.ready("drops", 1)
		idle(w)
		w.restart()
		c = w.client().confirming()
		c.ready("drops", 1)
		c.sized("drops", 3, 200)
		c.ready("drops", 2)
		if !c.sized("refuses", 1, 0) {
			t.Error("after a restart what does not fit is taken")
		}
		c.sized("drops", 11, 0)
		c.ready("drops", 0)
		if got := c.drain("refuses"); len(got) != 3 {
			t.Errorf("%q are in the queue", got)
		}
	}
	c.Close()
}

// TestALowPriorityIsDroppedFirst: of the lowest one, the first message.
func TestALowPriorityIsDroppedFirst(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.declare("q", args{"x-max-length": 3, "x-max-priority": 5})
	for i, priority := range []byte{1, 5, 1, 3, 5, 2, 0} {
		c.must(c.ch.Publish(&Publish{
			Key: []byte("q"), Persistent: true, Body: fmt.Append(nil, i),
			Properties: message.AppendField(nil, message.Priority, []byte{priority}),
		}))
		c.Flush()
	}
	c.wantDrained("q", "1", "4", "3")
}

// TestWhatIsRefusedIsADeadLetter with reject-publish-dlx; its publisher is told that it
// was refused, and no consumer of the queue sees it.
func TestWhatIsRefusedIsADeadLetter(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.queue("dead", true)
	c.queue("roomy", true)
	limit := args{"x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
	for name, most := range map[string]int{"q": 1, "none": 0} {
		limit["x-max-length"] = most
		c.declare(name, limit)
	}
	c.consume("none", "t", false)
	for _, q := range []string{"q", "roomy"} {
		c.must(c.BindQueue(q, "amq.fanout", "", nil))
	}
	if r := c.load("amq.fanout", "", 3); fmt.Sprint(r) != "[2 3]" {
		t.Errorf("%v were refused", r)
	}
	if r := c.load("", "none", 1); fmt.Sprint(r) != "[1]" {
		t.Errorf("%v were refused", r)
	}
	tx := c.begin(2)
	c.must(tx.Publish(&Publish{Key: []byte("q"), Persistent: true, Body: []byte("tx")}))
	if err := tx.TxCommit(); kind(err) != PreconditionFailed {
		t.Errorf("commit: %v", err)
	}
	w.settled("q")
	w.settled("none")
	c.none(EventDelivery)
	c.wantDrained("q", "0")
	c.wantDrained("roomy", "0", "1", "2")
	got := c.drain("dead")
	slices.Sort(got)
	if strings.Join(got, " ") != "0 1 2 tx" {
		t.Errorf("dead letters are %q", got)
	}
	// Without a dead-letter exchange they are only refused.
	c.declare("bare", args{"x-overflow": "reject-publish-dlx", "x-max-length": 0})
	if r := c.load("", "bare", 1); fmt.Sprint(r) != "[1]" {
		t.Errorf("%v were refused", r)
	}
}

// TestWhatIsDroppedIsADeadLetter: also of what a limit is set to afterwards.
func TestWhatIsDroppedIsADeadLetter(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.queue("dead", true)
	q := c.declare("q", args{"x-max-length": 10000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
	c.load("", "q", 10002)
	q.mu.Lock()
	rules := *q.rules
	rules.maxLength = 2
	q.rules = &rules
	q.enforceLocked()
	q.mu.Unlock()
	eventually(t, func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.ready == 2 && q.leavingLocked() == 0
	})
	c.ready("dead", 10000)
	c.wantDrained("q", "10000", "10001")
	for i, text := range c.drain("dead") {
		if text != fmt.Sprint(i) {
			t.Fatalf("the %dth dead letter is %s", i, text)
		}
	}
}
