package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// send publishes a message with an identity, which is its body too.
func (c *client) send(exchange, key, id string, persistent bool) {
	c.t.Helper()
	c.add(exchange, key, id, persistent)
	c.Flush()
}

// again does what send does, as one who does not know whether it was done
// before.
func (c *client) again(exchange, key, id string, persistent bool) {
	c.t.Helper()
	c.add(exchange, key, id, persistent, mark(2))
	c.Flush()
}

func (c *client) add(exchange, key, id string, persistent bool, more ...[]byte) {
	c.t.Helper()
	err := c.ch.Publish(&Publish{
		Exchange: []byte(exchange), Key: []byte(key), Persistent: persistent, Mandatory: true,
		Properties: named(id, more...), Body: []byte(id),
	})
	if err != nil {
		c.t.Fatalf("publish %s: %v", id, err)
	}
}

func (c *client) confirming() *client {
	c.t.Helper()
	if err := c.ch.ConfirmSelect(); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// confirmed waits for the confirms of all that was published.
func (c *client) confirmed() {
	c.t.Helper()
	for c.told() < c.ch.published {
		c.next(EventConfirm)
	}
}

// drain takes all out of a queue, for good, and returns the bodies.
func (c *client) drain(queue string) (bodies []string) {
	c.t.Helper()
	for {
		found, err := c.ch.Get(queue, true)
		if err != nil {
			c.t.Fatal(err)
		}
		if !found {
			return bodies
		}
		bodies = append(bodies, body(c.next(EventGot)))
	}
}

func (c *client) holds(queue string, want ...string) {
	c.t.Helper()
	if got := c.drain(queue); !slices.Equal(got, want) {
		c.t.Fatalf("%s has %d, %.200q, want %d, %.200q", queue, len(got), got, len(want), want)
	}
}

// hold keeps the committer from writing until let is called. Nothing must be
// on its way.
func (w *world) hold() (let func()) {
	for range cap(w.b.log.slots) {
		w.b.log.slots <- struct{}{}
	}
	return sync.OnceFunc(func() {
		for range cap(w.b.log.slots) {
			<-w.b.log.slots
		}
	})
}

// idWorld is one with durable queues a and b and a
// confirming client.
func idWorld(t *testing.T, change ...func(*Config)) (*world, *client) {
	t.Helper()
	return onFiles.idWorld(t, change...)
}

func (on journals) idWorld(t *testing.T, change ...func(*Config)) (*world, *client) {
	t.Helper()
	w := on.world(t, change...)
	c := w.client().confirming()
	c.queue("a", true)
	c.queue("b", true)
	return w, c
}

func TestRepeatsAreDroppedAndConfirmed(t *testing.T) {
	eachJournal(t, testRepeatsAreDroppedAndConfirmed)
}

func testRepeatsAreDroppedAndConfirmed(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	for _, id := range []string{"p-1", "p-2", "q-1", "p-2", "p-1", "p-3", "q-1"} {
		c.again("", "a", id, true)
	}
	for _, id := range []string{"p-4", "p-4", "p-3", "q-2", "p-5", "q-2"} { // in one run
		c.add("", "a", id, true, mark(2))
	}
	c.Flush()
	c.confirmed()
	if hot := w.b.evict.hot.Load(); hot > 2000 {
		t.Errorf("%d bytes are counted in memory", hot)
	}
	c.holds("a", "p-1", "p-2", "q-1", "p-3", "p-4", "q-2", "p-5")
	// Neither where it goes nor who brings it makes a repeat another message.
	d := w.client().confirming()
	d.again("", "b", "p-5", true)
	d.confirmed()
	c.holds("b")
	d.Close()
	c.Close()
	w.restart()
	c = w.client().confirming()
	for _, id := range []string{"p-1", "q-2", "p-5", "p-6", "q-3"} {
		c.again("", "a", id, true)
	}
	c.confirmed()
	c.holds("a", "p-6", "q-3")
	if hot := w.b.evict.hot.Load(); hot != 0 {
		t.Errorf("%d bytes are counted in memory that has nothing", hot)
	}
	c.Close()
}

func TestRepeatsInAnotherVHostAreOthers(t *testing.T) {
	eachJournal(t, testRepeatsInAnotherVHostAreOthers)
}

func testRepeatsInAnotherVHostAreOthers(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	if err := w.b.AddVHost("v"); err != nil {
		t.Fatal(err)
	}
	c.send("", "a", "p-1", true)
	c.confirmed()
	c.Close()
	for range 2 { // the second time they are repeats, recovered
		s, err := w.b.OpenSession(SessionConfig{VHost: "v"})
		if err != nil {
			t.Fatal(err)
		}
		d := (&client{t: t, Session: s, ch: s.OpenChannel(1)}).confirming()
		d.queue("a", true)
		d.again("", "a", "p-1", true)
		d.confirmed()
		d.ready("a", 1)
		d.Close()
		w.restart()
	}
}

func TestRepeatsOfMessagesForManyQueuesAndInPieces(t *testing.T) {
	eachJournal(t, testRepeatsOfMessagesForManyQueuesAndInPieces)
}

func testRepeatsOfMessagesForManyQueuesAndInPieces(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	for _, q := range []string{"a", "b"} {
		if err := c.BindQueue(q, "amq.fanout", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	large := strings.Repeat("x", 5*partSize/2)
	publish := func(c *client) {
		c.again("amq.fanout", "", "p-1", true)
		p := &Publish{Exchange: []byte("amq.fanout"), Persistent: true, Properties: named("p-2", mark(2))}
		in, err := c.ch.PublishLarge(p, uint64(len(large)))
		if err != nil {
			t.Fatal(err)
		}
		copy(in.Room(len(large)), large)
		if err := in.Finish(); err != nil {
			t.Fatal(err)
		}
		c.again("", "b", "p-3", true)
		c.confirmed()
	}
	publish(c)
	publish(c)
	c.Close()
	w.restart()
	c = w.client().confirming()
	publish(c)
	c.holds("a", "p-1", large)
	c.holds("b", "p-1", large, "p-3")
	c.Close()
}

func TestHolesAreFilledOnce(t *testing.T) { eachJournal(t, testHolesAreFilledOnce) }

func testHolesAreFilledOnce(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	var want []string
	for _, n := range []int{5, 7, 6, 10, 5, 7, 2, 8, 10, 2, 3, 1, 6, 9, 4, 1} {
		id := fmt.Sprint("p-", n)
		if !slices.Contains(want, id) {
			want = append(want, id)
		}
		c.again("", "a", id, true)
	}
	c.confirmed()
	c.holds("a", want...)
	c.Close()
	w.restart()
	c = w.client().confirming()
	for n := range 12 {
		c.again("", "a", fmt.Sprint("p-", n), true) // p-0 is no identity
	}
	c.confirmed()
	c.holds("a", "p-0", "p-11")
	c.Close()
}

func TestMalformedIdentitiesMeanNothing(t *testing.T) {
	_, c := idWorld(t)
	defer c.Close()
	for _, x := range identities {
		c.send("", "a", x.id, true)
		c.again("", "a", x.id, true)
		c.confirmed()
		want := 2
		if x.seq > 0 {
			want = 1
		}
		if got := c.drain("a"); len(got) != want {
			t.Errorf("%q twice gives %d messages, want %d", x.id, len(got), want)
		}
	}
}

func TestUnroutableIsNotAccepted(t *testing.T) { eachJournal(t, testUnroutableIsNotAccepted) }

func testUnroutableIsNotAccepted(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	c.send("", "none", "p-1", true)
	c.next(EventReturn)
	c.add("", "none", "p-2", true)
	c.add("", "none", "p-2", true)
	c.Flush()
	c.next(EventReturn)
	c.next(EventReturn)
	c.queue("none", true)
	c.send("", "none", "p-1", true)
	c.send("", "none", "p-2", true)
	c.confirmed()
	c.ready("none", 2)
	// The queue goes, what was accepted stays so: a repeat is not returned.
	if _, err := c.DeleteQueue("none", false, false); err != nil {
		t.Fatal(err)
	}
	c.again("", "none", "p-1", true)
	c.confirmed()
	c.none(EventReturn)
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.again("", "none", "p-2", true)
	c.confirmed()
	c.none(EventReturn)
	c.again("", "none", "p-3", true)
	c.next(EventReturn)
	c.Close()
}

func TestTransactionsAcceptWhenTheyCommit(t *testing.T) {
	eachJournal(t, testTransactionsAcceptWhenTheyCommit)
}

func testTransactionsAcceptWhenTheyCommit(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	tx := w.client()
	if err := tx.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	tx.send("", "a", "p-1", true)
	if err := tx.ch.TxRollback(); err != nil {
		t.Fatal(err)
	}
	tx.send("", "a", "p-1", true)
	tx.send("", "a", "q-1", true)
	tx.again("", "a", "p-2", true)
	tx.again("", "a", "p-1", true) // twice in one transaction
	tx.send("", "none", "p-3", true)
	tx.again("", "none", "p-3", true)
	tx.send("", "b", "q-2", false)
	c.send("", "a", "p-2", true) // not committed yet: this one is first
	c.confirmed()
	if err := tx.ch.TxCommit(); err != nil {
		t.Fatal(err)
	}
	tx.next(EventReturn)
	tx.next(EventReturn)
	c.holds("a", "p-2", "p-1", "q-1")
	for _, id := range []string{"p-1", "p-2", "q-1", "q-2", "p-3"} {
		c.again("", "b", id, true)
	}
	c.confirmed()
	c.holds("b", "q-2", "p-3")
	tx.again("", "b", "p-1", true) // nothing but repeats
	if err := tx.ch.TxCommit(); err != nil {
		t.Fatal(err)
	}
	tx.Close()
	if hot := w.b.evict.hot.Load(); hot != 0 {
		t.Errorf("%d bytes are counted in memory that has nothing", hot)
	}
	c.Close()
	w.restart()
	c = w.client().confirming()
	for _, id := range []string{"p-1", "p-2", "q-1", "q-2", "p-3", "p-4"} {
		c.again("", "a", id, true)
	}
	c.confirmed()
	c.holds("a", "q-2", "p-4") // q-2 was transient
	c.Close()
}

// What a crash forgets must be taken again afterwards: transient messages, and
// those of queues that are not durable.
func TestTransientIsRememberedAsLongAsItIsThere(t *testing.T) {
	eachJournal(t, testTransientIsRememberedAsLongAsItIsThere)
}

func testTransientIsRememberedAsLongAsItIsThere(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	c.queue("t", false)
	c.send("", "a", "p-1", true)
	c.send("", "a", "p-2", false)
	c.send("", "t", "p-3", true)
	c.send("", "a", "p-4", true)
	c.send("", "a", "q-1", false)
	for _, id := range []string{"p-1", "p-2", "p-3", "p-4", "q-1"} {
		c.again("", "b", id, true)
	}
	c.confirmed()
	c.holds("b")
	if err := w.b.takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.holds("a", "p-1", "p-4")
	for _, id := range []string{"p-1", "p-2", "p-3", "p-4", "q-1"} {
		c.again("", "b", id, true)
	}
	c.confirmed()
	c.holds("b", "p-2", "p-3", "q-1")
	c.Close()
}

func TestRepliesAreDeliveredOnce(t *testing.T) {
	w, c := idWorld(t)
	defer c.Close()
	k := c.consume(ReplyTo, "r", true)
	d := w.client().confirming()
	defer d.Close()
	d.send("", k.token, "p-1", false)
	d.again("", k.token, "p-1", false)
	d.confirmed()
	c.expect("p-1", false)
	c.none(EventDelivery)
}

func TestLeastRecentlyUsedProducersAreForgotten(t *testing.T) {
	eachJournal(t, testLeastRecentlyUsedProducersAreForgotten)
}

func testLeastRecentlyUsedProducersAreForgotten(t *testing.T, on journals) {
	small := func(c *Config) { c.producers = 4 }
	w, c := on.idWorld(t, small)
	for _, id := range []string{"p1-1", "p2-1", "p3-1", "p4-1", "p1-2"} {
		c.send("", "a", id, true)
	}
	c.send("", "a", "p5-1", true) // p2 goes
	c.confirmed()
	if n := len(c.v.producers.by); n != 4 {
		t.Fatalf("%d producers", n)
	}
	c.drain("a")
	for _, id := range []string{"p1-1", "p3-1", "p4-1", "p5-1"} {
		c.again("", "a", id, true)
	}
	c.confirmed()
	c.holds("a")
	c.again("", "a", "p2-1", true) // known no more, so it is accepted; p1 goes
	c.again("", "a", "p2-1", true)
	c.confirmed()
	c.holds("a", "p2-1")
	c.Close()
	w.restart(small)
	if n := len(w.b.vhost("/").producers.by); n != 4 {
		t.Fatalf("%d producers after a restart", n)
	}
	c = w.client().confirming()
	// A channel that has a producer at hand finds out that it was forgotten.
	c.send("", "a", "p2-2", true)
	d := w.client().confirming()
	for i := range 8 {
		d.send("", "b", fmt.Sprintf("n%d-1", i), true)
	}
	d.again("", "a", "p2-2", true)
	c.again("", "a", "p2-2", true)
	c.again("", "a", "p2-3", true)
	d.again("", "a", "p2-3", true)
	c.confirmed()
	d.confirmed()
	d.Close()
	if got := c.drain("a"); !slices.Equal(got, []string{"p2-2", "p2-2", "p2-3"}) {
		t.Errorf("got %q", got)
	}
	c.Close()
}
