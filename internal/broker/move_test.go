package broker

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// deadLetters are arguments of a queue that has a dead-letter exchange.
func deadLetters(exchange string, key ...string) []byte {
	args := appendTextHeader(nil, "x-dead-letter-exchange", exchange)
	if len(key) > 0 {
		args = appendTextHeader(args, "x-dead-letter-routing-key", key[0])
	}
	return args
}

func (c *client) queueWith(name string, durable bool, args []byte) {
	c.t.Helper()
	if _, err := c.DeclareQueue(QueueSpec{Name: name, Durable: durable, Args: args}); err != nil {
		c.t.Fatalf("declare %s: %v", name, err)
	}
}

// letter is a message as a consumer sees it.
type letter struct {
	exchange, key, body string
	headers             map[string]any
	expiration          string
	persistent          bool
}

func letterOf(t testing.TB, e Event) letter {
	t.Helper()
	v, err := message.Parse(e.Data)
	if err != nil {
		t.Fatal(err)
	}
	headers, ok := message.DecodeHeaders(message.Field(v.Properties, message.Headers))
	if !ok {
		t.Fatalf("damaged headers of %q", v.Body)
	}
	for list := v.Properties; len(list) > 0; {
		_, _, rest, ok := message.NextField(list)
		if !ok {
			t.Fatalf("damaged properties of %q", v.Body)
		}
		list = rest
	}
	return letter{
		string(v.Exchange), string(v.Key), string(v.Body), headers,
		string(message.Field(v.Properties, message.Expiration)), v.Persistent,
	}
}

// take waits for the next message of a queue, and settles it.
func (c *client) take(queue string) letter {
	c.t.Helper()
	e := c.fetch(queue)
	if err := c.ch.Ack(e.Tag, false); err != nil {
		c.t.Fatal(err)
	}
	return letterOf(c.t, e)
}

// fetch waits for the next message of a queue.
func (c *client) fetch(queue string) Event {
	c.t.Helper()
	eventually(c.t, func() bool {
		found, err := c.ch.Get(queue, false)
		if err != nil {
			c.t.Fatalf("get %s: %v", queue, err)
		}
		return found
	})
	return c.next(EventGot)
}

// drop rejects the next message of a queue, for good.
func (c *client) drop(queue string) {
	c.t.Helper()
	if err := c.ch.Nack(c.fetch(queue).Tag, false, false); err != nil {
		c.t.Fatal(err)
	}
}

// lookup finds a queue.
func (w *world) lookup(queue string) *Queue {
	v := w.b.vhost("/")
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.queues[queue]
}

// settled waits until nothing of a queue is on its way any more.
func (w *world) settled(queue string) {
	w.t.Helper()
	q := w.lookup(queue)
	if _, err := w.b.awaitMoves(q); err != nil {
		w.t.Fatal(err)
	}
}

// deathOf is an entry of x-death, but for its time.
func deathOf(queue, reason, exchange string, count int, keys ...string) map[string]any {
	list := []any{}
	for _, k := range keys {
		list = append(list, k)
	}
	return map[string]any{"queue": queue, "reason": reason, "exchange": exchange, "count": int64(count), "routing-keys": list}
}

// checkDeaths compares what a message tells of its deaths, newest first. It is not
// looked at when that was, but that it was now.
func checkDeaths(t *testing.T, l letter, deaths ...map[string]any) {
	t.Helper()
	checkDeathsSince(t, l, deaths[len(deaths)-1], deaths...)
}

// checkDeathsSince is checkDeaths where the first death is not the last in the list:
// it happened again.
func checkDeathsSince(t *testing.T, l letter, first map[string]any, deaths ...map[string]any) {
	t.Helper()
	got, _ := l.headers["x-death"].([]any)
	var list []map[string]any
	for _, d := range got {
		m, _ := d.(map[string]any)
		at, ok := m["time"].(time.Time)
		if since := time.Since(at); !ok || since < -time.Second || since > time.Minute {
			t.Errorf("time of death is %v", m["time"])
		}
		delete(m, "time")
		list = append(list, m)
	}
	if !reflect.DeepEqual(list, deaths) {
		t.Errorf("x-death is\n%v, want\n%v", list, deaths)
	}
	last := deaths[0]
	want := map[string]any{
		"x-first-death-queue": first["queue"], "x-first-death-reason": first["reason"], "x-first-death-exchange": first["exchange"],
		"x-last-death-queue": last["queue"], "x-last-death-reason": last["reason"],
	}
	for name, v := range want {
		if l.headers[name] != v {
			t.Errorf("%s is %v, want %v", name, l.headers[name], v)
		}
	}
	if _, ok := l.headers["x-last-death-exchange"].(string); !ok {
		t.Errorf("x-last-death-exchange is %v", l.headers["x-last-death-exchange"])
	}
}

func TestRejectedMessagesGoToTheDeadLetterExchange(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("q", true, deadLetters("dlx"))
	c.queue("dead", true)
	if err := c.DeclareExchange(ExchangeSpec{Name: "dlx", Type: "topic", Durable: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.BindQueue("dead", "dlx", "#", nil); err != nil {
		t.Fatal(err)
	}
	props := message.AppendFieldString(nil, message.ContentType, "text/plain")
	props = message.AppendField(props, message.Headers, appendTextHeader(nil, "mine", "1"))
	props = message.AppendField(props, message.Priority, []byte{3})
	props = message.AppendFieldString(props, message.Expiration, "60000")
	props = message.AppendFieldString(props, message.MessageID, "id")
	c.publishWith("", "q", props, "m", true)
	e := c.fetch("q")
	if err := c.ch.Nack(e.Tag, false, false); err != nil {
		t.Fatal(err)
	}
	e = c.fetch("dead")
	l := letterOf(t, e)
	if l.exchange != "dlx" || l.key != "q" || l.body != "m" || !l.persistent || e.Redelivered || l.expiration != "" || l.headers["mine"] != "1" {
		t.Errorf("got %+v, redelivered: %v", l, e.Redelivered)
	}
	d := deathOf("q", "rejected", "", 1, "q")
	d["original-expiration"] = "60000"
	checkDeaths(t, l, d)
	v, _ := message.Parse(e.Data)
	var ids []message.FieldID
	for list := v.Properties; ; {
		id, value, rest, ok := message.NextField(list)
		if !ok {
			break
		}
		if ids = append(ids, id); id == message.Priority && !slices.Equal(value, []byte{3}) || id == message.MessageID && string(value) != "id" {
			t.Errorf("property %d is %q", id, value)
		}
		list = rest
	}
	if want := []message.FieldID{message.ContentType, message.Headers, message.Priority, message.MessageID}; !slices.Equal(ids, want) {
		t.Errorf("properties %v, want %v", ids, want)
	}
	c.ready("q", 0)
}

// TestDeathsAreCounted rejects a message that comes back to its queue through
// another: the entries of x-death are one for each queue and reason, newest first.
func TestDeathsAreCounted(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("q", true, deadLetters("", "second"))
	c.queueWith("second", true, deadLetters("", "q"))
	c.publish("amq.direct", "none", "lost", true)
	if err := c.BindQueue("q", "amq.direct", "k", nil); err != nil {
		t.Fatal(err)
	}
	c.publish("amq.direct", "k", "m", true)
	c.drop("q")
	checkDeaths(t, c.peek("second"), deathOf("q", "rejected", "amq.direct", 1, "k"))
	c.drop("second")
	checkDeaths(t, c.peek("q"),
		deathOf("second", "rejected", "", 1, "second"), deathOf("q", "rejected", "amq.direct", 1, "k"))
	c.drop("q")
	l := c.peek("second")
	checkDeathsSince(t, l, deathOf("q", "rejected", "amq.direct", 1, "k"),
		deathOf("q", "rejected", "amq.direct", 2, "k"), deathOf("second", "rejected", "", 1, "second"))
	if l.headers["x-last-death-exchange"] != "" || l.key != "second" {
		t.Errorf("last from exchange %q, key %q", l.headers["x-last-death-exchange"], l.key)
	}
}

// peek looks at the next message of a queue, and leaves it there.
func (c *client) peek(queue string) letter {
	c.t.Helper()
	e := c.fetch(queue)
	if err := c.ch.Nack(e.Tag, false, true); err != nil {
		c.t.Fatal(err)
	}
	return letterOf(c.t, e)
}

// TestDeathsThatAClientTellsAreNotBelieved publishes headers that look like the
// broker's: they are replaced.
func TestDeathsThatAClientTellsAreNotBelieved(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("q", true, deadLetters("", "dead"))
	c.queue("dead", true)
	c.publish("", "q", "m", true)
	c.drop("q")
	e := c.fetch("dead")
	v, err := message.Parse(e.Data)
	if err != nil {
		t.Fatal(err)
	}
	// As it came, and with what would count if it were the broker's.
	c.publishWith("", "q", v.Properties, "m", true)
	c.drop("q")
	checkDeaths(t, c.take("dead"), deathOf("q", "rejected", "", 1, "q"))
	for _, odd := range []string{"A\x00\x00\x00\x00", "S\x00\x00\x00\x01x", "A\x00\x00\x00\x05F\x00\x00\x00\x00", "A\x00\x00\x00\x09l\x00\x00\x00\x00\x00\x00\x00\x07"} {
		headers := append(appendTextHeader(nil, "x-first-death-queue", "other"), "\x07x-death"+odd...)
		headers = appendTextHeader(headers, "x-last-death-reason", "boredom")
		c.publishWith("", "q", message.AppendField(nil, message.Headers, headers), "m", true)
		c.drop("q")
		checkDeaths(t, c.take("dead"), deathOf("q", "rejected", "", 1, "q"))
	}
}

func TestCopiesOfDeadLetters(t *testing.T) {
	cc := []byte("\x02CCA\x00\x00\x00\x06S\x00\x00\x00\x01c\x03BCCA\x00\x00\x00\x06S\x00\x00\x00\x01d")
	props := message.AppendField(nil, message.Headers, cc)
	for _, key := range []string{"", "k"} {
		w := newWorld(t)
		c := w.client()
		args := deadLetters("amq.direct")
		if key != "" {
			args = deadLetters("amq.direct", key)
		}
		c.queueWith("q", true, args)
		for _, k := range []string{"q", "c", "d", "k"} {
			c.queue("dead-"+k, true)
			if err := c.BindQueue("dead-"+k, "amq.direct", k, nil); err != nil {
				t.Fatal(err)
			}
		}
		c.publishWith("", "q", props, "m", true)
		c.drop("q")
		w.settled("q")
		want := map[string]int{"dead-q": 1, "dead-c": 1, "dead-d": 1, "dead-k": 0}
		if key != "" {
			want = map[string]int{"dead-q": 0, "dead-c": 0, "dead-d": 0, "dead-k": 1}
		}
		for q, n := range want {
			c.ready(q, n)
		}
		if key == "" {
			l := c.take("dead-c")
			checkDeaths(t, l, deathOf("q", "rejected", "", 1, "q", "c"))
			if l.key != "q" || l.headers["CC"] == nil {
				t.Errorf("key %q, CC %v", l.key, l.headers["CC"])
			}
		} else {
			l := c.take("dead-k")
			checkDeaths(t, l, deathOf("q", "rejected", "", 1, "q", "c"))
			if l.key != "k" || l.headers["CC"] != nil || l.headers["BCC"] != nil {
				t.Errorf("key %q, CC %v, BCC %v", l.key, l.headers["CC"], l.headers["BCC"])
			}
		}
		c.Close()
	}
}

// expel makes a queue's next message leave it for a reason.
func (w *world) expel(queue string, why reason) {
	w.t.Helper()
	q := w.lookup(queue)
	q.mu.Lock()
	seq, e := q.peekLocked()
	if e == nil {
		w.t.Fatalf("nothing is in %s", queue)
	}
	q.expelLocked(seq, why)
	q.reportLocked()
	q.mu.Unlock()
	w.settled(queue)
}

// TestCyclesWithoutARejectionEnd lets messages leave queues that dead-letter to each
// other: without a rejection none comes back to a queue it was in.
func TestCyclesWithoutARejectionEnd(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("a", true, deadLetters("", "b"))
	c.queueWith("b", true, deadLetters("", "a"))
	c.queueWith("self", true, deadLetters("", "self"))
	for _, why := range []reason{expired, maxlen} {
		c.publish("", "a", "m", true)
		w.expel("a", expired)
		c.ready("b", 1)
		w.expel("b", why)
		c.ready("a", 0)
		c.ready("b", 0)
		c.publish("", "self", "m", true)
		w.expel("self", why)
		c.ready("self", 0)
	}
	// A rejection in it makes it go on.
	c.publish("", "a", "m", true)
	c.drop("a")
	w.settled("a")
	w.expel("b", expired)
	c.ready("a", 1)
	w.expel("a", expired)
	c.ready("b", 0) // expired in b, expired in a: the rejection was before b
	c.publish("", "self", "m", true)
	c.drop("self")
	checkDeaths(t, c.peek("self"), deathOf("self", "rejected", "", 1, "self"))
}

func TestDeadLettersThatNobodyTakesAreDropped(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("q", true, deadLetters("none"))
	c.queueWith("r", true, deadLetters("amq.direct"))
	for _, q := range []string{"q", "r"} {
		c.publish("", q, "m", true)
		c.drop(q)
		w.settled(q)
		c.ready(q, 0)
		x := w.lookup(q)
		x.mu.Lock()
		if x.counts[DeadRejected] != 1 || x.counts[DeadLettered] != 0 {
			t.Errorf("%d left %s, %d arrived; want 1, 0", x.counts[DeadRejected], q, x.counts[DeadLettered])
		}
		x.mu.Unlock()
	}
}

// TestDeadLettersOfAQueueThatIsDeletedNext rejects, and deletes the queue before
// anything else.
func TestDeadLettersOfAQueueThatIsDeletedNext(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.queue("dead", true)
	c.queueWith("q", true, deadLetters("", "dead"))
	if _, err := c.DeclareQueue(QueueSpec{Name: "x", Exclusive: true, Args: deadLetters("", "dead")}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeclareQueue(QueueSpec{Name: "auto", AutoDelete: true, Args: deadLetters("", "dead")}); err != nil {
		t.Fatal(err)
	}
	d := w.client()
	defer d.Close()
	want := 0
	for _, q := range []string{"q", "x", "auto"} {
		for i := range 100 {
			c.publish("", q, fmt.Sprint(q, i), true)
			want++
		}
		c.consume(q, q, false)
		var last uint64
		for range 100 {
			last = c.next(EventDelivery).Tag
		}
		if err := c.ch.Nack(last, true, false); err != nil {
			t.Fatal(err)
		}
		switch q {
		case "q":
			if _, err := c.DeleteQueue(q, false, false); err != nil {
				t.Fatal(err)
			}
		case "auto":
			c.ch.Cancel(q)
		}
	}
	c.Close()
	d.ready("dead", want)
}

// TestPurgeLeavesWhatIsOnItsWay purges a queue whose messages leave.
func TestPurgeLeavesWhatIsOnItsWay(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("dead", true)
	c.queueWith("q", true, deadLetters("", "dead"))
	for i := range 10 {
		c.publish("", "q", fmt.Sprint(i), true)
	}
	q := w.lookup("q")
	q.mu.Lock()
	for range 4 {
		seq, _ := q.peekLocked()
		q.expelLocked(seq, maxlen)
	}
	q.mu.Unlock()
	if n, err := c.PurgeQueue("q"); n != 6 || err != nil {
		t.Fatalf("purged %d, %v; want 6", n, err)
	}
	w.settled("q")
	c.ready("dead", 4)
	c.ready("q", 0)
}

// TestDeadLettersToEveryKindOfQueue moves persistent and transient messages from and
// to queues that the log knows and others, and restarts.
func TestDeadLettersToEveryKindOfQueue(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.world(t)
		c := w.client()
		for _, q := range []string{"durable", "passing"} {
			durable := q == "durable"
			c.queue("dead-"+q, durable)
			c.queueWith(q, durable, deadLetters("amq.fanout"))
			if err := c.BindQueue("dead-"+q, "amq.fanout", "", nil); err != nil {
				t.Fatal(err)
			}
		}
		const n = 30
		for i := range n {
			for _, q := range []string{"durable", "passing"} {
				c.publish("", q, fmt.Sprint(q, i), i%3 > 0)
			}
		}
		for range n {
			c.drop("durable")
			c.drop("passing")
		}
		w.settled("durable")
		w.settled("passing")
		c.ready("dead-durable", 2*n)
		c.ready("dead-passing", 2*n)
		c.Close()
		w.restart()
		c = w.client()
		defer c.Close()
		c.ready("durable", 0)
		c.ready("dead-durable", 2*n*2/3)
		// Each queue's stand in their order.
		texts := c.drain("dead-durable")
		for _, q := range []string{"durable", "passing"} {
			at := -1
			for _, text := range texts {
				var i int
				if _, err := fmt.Sscanf(text, q+"%d", &i); err == nil {
					if i <= at || i%3 == 0 {
						t.Errorf("%s behind %s%d", text, q, at)
					}
					at = i
				}
			}
		}
	})
}

// TestTransactionsThatRefuse commits a refusal: when that is done the dead letter is
// durable.
func TestTransactionsThatRefuse(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.world(t)
		c := w.client()
		c.queue("dead", true)
		c.queueWith("q", true, deadLetters("", "dead"))
		for i := range 20 {
			c.publish("", "q", fmt.Sprint(i), true)
		}
		if err := c.ch.TxSelect(); err != nil {
			t.Fatal(err)
		}
		var last uint64
		for range 10 {
			last = c.fetch("q").Tag
		}
		if err := c.ch.Nack(last, true, false); err != nil {
			t.Fatal(err)
		}
		c.ready("dead", 0)
		if err := c.ch.TxCommit(); err != nil {
			t.Fatal(err)
		}
		c.ready("dead", 10)
		last = c.fetch("q").Tag
		if err := c.ch.Nack(last, false, false); err != nil {
			t.Fatal(err)
		}
		if err := c.ch.TxRollback(); err != nil {
			t.Fatal(err)
		}
		if err := c.ch.Nack(last, false, true); err != nil {
			t.Fatal(err)
		}
		if err := c.ch.TxCommit(); err != nil {
			t.Fatal(err)
		}
		c.ready("dead", 10)
		c.ready("q", 10)
		c.Close()
	})
}

// TestDeadLettersForQueuesThatAreFull moves more than the queues that they go to take.
func TestDeadLettersForQueuesThatAreFull(t *testing.T) {
	for _, x := range []struct {
		overflow    string
		dead, third int
		first       string
	}{
		{"drop-head", 3, 0, "7"},
		{"reject-publish", 3, 0, "0"},
		{"reject-publish-dlx", 3, 7, "0"},
	} {
		w := newWorld(t)
		c := w.client()
		c.queue("third", true)
		args := appendTextHeader(deadLetters("", "third"), "x-overflow", x.overflow)
		if x.overflow != "reject-publish-dlx" {
			args = appendTextHeader(nil, "x-overflow", x.overflow)
		}
		args = append(appendName(args, "x-max-length", 'l'), 0, 0, 0, 0, 0, 0, 0, 3)
		c.queueWith("dead", true, args)
		c.queueWith("q", true, deadLetters("", "dead"))
		for i := range 10 {
			c.publish("", "q", fmt.Sprint(i), true)
		}
		c.consume("q", "t", false)
		for range 10 {
			c.next(EventDelivery)
		}
		if err := c.ch.Nack(10, true, false); err != nil {
			t.Fatal(err)
		}
		w.settled("q")
		w.settled("dead")
		c.ready("dead", x.dead)
		c.ready("third", x.third)
		if l := c.peek("dead"); l.body != x.first {
			t.Errorf("%s: the first is %s, want %s", x.overflow, l.body, x.first)
		}
		// A consumer that makes room gets all.
		if _, err := c.PurgeQueue("dead"); err != nil {
			t.Fatal(err)
		}
		c.consume("dead", "d", true)
		for i := range 10 {
			c.publish("", "q", fmt.Sprint(i), true)
		}
		for range 10 {
			c.next(EventDelivery)
		}
		if err := c.ch.Nack(0, true, false); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if e := c.next(EventDelivery); body(e) != fmt.Sprint(i) {
				t.Errorf("%s: got %s, want %d", x.overflow, body(e), i)
			}
		}
		c.Close()
	}
}

// TestParking lets messages leave that were delivered too often, with and without a
// dead-letter exchange that takes them.
func TestParking(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.world(t)
		c := w.client()
		c.queue("plain", true)
		c.queueWith("q", true, deadLetters("", "dead"))
		c.queueWith("astray", true, deadLetters("none"))
		c.queueWith("self", true, deadLetters("", "self"))
		c.queue("dead", true)
		for _, q := range []string{"plain", "q", "astray", "self"} {
			c.publish("", q, "m", true)
			w.expel(q, deliveryLimit)
			c.ready(q, 0)
			to := q + ".parked"
			if q == "q" {
				to = "dead"
			}
			checkDeaths(t, c.peek(to), deathOf(q, "delivery_limit", "", 1, q))
		}
		c.Close()
		w.restart()
		c = w.client()
		defer c.Close()
		for _, q := range []string{"plain.parked", "dead", "astray.parked", "self.parked"} {
			c.ready(q, 1)
		}
		if _, err := c.CheckQueue("q.parked"); kind(err) != NotFound {
			t.Errorf("q.parked: %v", err)
		}
	})
}

// TestWhatIsDroppedNowhereFindsAnotherWay: the queue that it was to go to is deleted
// after it was found.
func TestWhatIsDroppedNowhereFindsAnotherWay(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.declare("q", args{"x-delivery-limit": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
	c.declare("dead", nil)
	q, dead := w.lookup("q"), w.lookup("dead")
	c.publish("", "q", "m", true)
	e := c.fetch("q")
	dead.mu.Lock() // whoever moves the message waits for that
	c.must(c.ch.Reject(e.Tag, true))
	eventually(t, func() bool {
		free := q.mu.TryLock()
		if free {
			q.mu.Unlock()
		}
		return !free
	})
	c.v.mu.Lock()
	c.v.dropQueueLocked(dead)
	c.v.mu.Unlock()
	dead.mu.Unlock()
	w.settled("q")
	if l := c.take("q.parked"); l.body != "m" {
		t.Errorf("%+v", l)
	}
}

// TestWhatIsDroppedNowhereIsNoRepeat: also if the exchange that drops repeats has let
// the message through before.
func TestWhatIsDroppedNowhereIsNoRepeat(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.once("x", 4)
	c.declare("q", args{"x-delivery-limit": 0, "x-dead-letter-exchange": "x"})
	c.must(c.BindQueue("q", "x", "", nil))
	c.seen("x", true, "1")
	c.declare("dead", nil)
	c.must(c.BindQueue("dead", "x", "", nil))
	c.must(c.ch.Reject(c.fetch("q").Tag, true))
	w.settled("q")
	c.holds("dead", "1")
}
