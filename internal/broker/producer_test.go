package broker

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

// send publishes a message with an identity, which is its body too.
func (c *client) send(exchange, key, id string, persistent bool) {
	c.t.Helper()
	c.add(exchange, key, id, persistent)
	c.Flush()
}

func (c *client) add(exchange, key, id string, persistent bool) {
	c.t.Helper()
	err := c.ch.Publish(&Publish{
		Exchange: []byte(exchange), Key: []byte(key), Persistent: persistent, Mandatory: true,
		Properties: named(id), Body: []byte(id),
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
	w := newWorld(t, change...)
	c := w.client().confirming()
	c.queue("a", true)
	c.queue("b", true)
	return w, c
}

func TestRepeatsAreDroppedAndConfirmed(t *testing.T) {
	w, c := idWorld(t)
	for _, id := range []string{"p-1", "p-2", "q-1", "p-2", "p-1", "p-3", "q-1"} {
		c.send("", "a", id, true)
	}
	for _, id := range []string{"p-4", "p-4", "p-3", "q-2", "p-5", "q-2"} { // in one run
		c.add("", "a", id, true)
	}
	c.Flush()
	c.confirmed()
	if hot := w.b.evict.hot.Load(); hot > 2000 {
		t.Errorf("%d bytes are counted in memory", hot)
	}
	c.holds("a", "p-1", "p-2", "q-1", "p-3", "p-4", "q-2", "p-5")
	// Neither where it goes nor who brings it makes a repeat another message.
	d := w.client().confirming()
	d.send("", "b", "p-5", true)
	d.confirmed()
	c.holds("b")
	d.Close()
	c.Close()
	w.restart()
	c = w.client().confirming()
	for _, id := range []string{"p-1", "q-2", "p-5", "p-6", "q-3"} {
		c.send("", "a", id, true)
	}
	c.confirmed()
	c.holds("a", "p-6", "q-3")
	if hot := w.b.evict.hot.Load(); hot != 0 {
		t.Errorf("%d bytes are counted in memory that has nothing", hot)
	}
	c.Close()
}

func TestRepeatsInAnotherVHostAreOthers(t *testing.T) {
	w, c := idWorld(t)
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
		d.send("", "a", "p-1", true)
		d.confirmed()
		d.ready("a", 1)
		d.Close()
		w.restart()
	}
}

func TestRepeatsOfMessagesForManyQueuesAndInPieces(t *testing.T) {
	w, c := idWorld(t)
	for _, q := range []string{"a", "b"} {
		if err := c.BindQueue(q, "amq.fanout", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	large := strings.Repeat("x", 5*partSize/2)
	publish := func(c *client) {
		c.send("amq.fanout", "", "p-1", true)
		p := &Publish{Exchange: []byte("amq.fanout"), Persistent: true, Properties: named("p-2")}
		in, err := c.ch.PublishLarge(p, uint64(len(large)))
		if err != nil {
			t.Fatal(err)
		}
		copy(in.Room(len(large)), large)
		if err := in.Finish(); err != nil {
			t.Fatal(err)
		}
		c.send("", "b", "p-3", true)
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

func TestHolesAreFilledOnce(t *testing.T) {
	w, c := idWorld(t)
	var want []string
	for _, n := range []int{5, 7, 6, 10, 5, 7, 2, 8, 10, 2, 3, 1, 6, 9, 4, 1} {
		id := fmt.Sprint("p-", n)
		if !slices.Contains(want, id) {
			want = append(want, id)
		}
		c.send("", "a", id, true)
	}
	c.confirmed()
	c.holds("a", want...)
	c.Close()
	w.restart()
	c = w.client().confirming()
	for n := range 12 {
		c.send("", "a", fmt.Sprint("p-", n), true) // p-0 is no identity
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
		c.send("", "a", x.id, true)
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

func TestUnroutableIsNotAccepted(t *testing.T) {
	w, c := idWorld(t)
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
	c.send("", "none", "p-1", true)
	c.confirmed()
	c.none(EventReturn)
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.send("", "none", "p-2", true)
	c.confirmed()
	c.none(EventReturn)
	c.send("", "none", "p-3", true)
	c.next(EventReturn)
	c.Close()
}

func TestTransactionsAcceptWhenTheyCommit(t *testing.T) {
	w, c := idWorld(t)
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
	tx.send("", "a", "p-2", true)
	tx.send("", "a", "p-1", true) // twice in one transaction
	tx.send("", "none", "p-3", true)
	tx.send("", "none", "p-3", true)
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
		c.send("", "b", id, true)
	}
	c.confirmed()
	c.holds("b", "q-2", "p-3")
	tx.send("", "b", "p-1", true) // nothing but repeats
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
		c.send("", "a", id, true)
	}
	c.confirmed()
	c.holds("a", "q-2", "p-4") // q-2 was transient
	c.Close()
}

// What a crash forgets must be taken again afterwards: transient messages, and
// those of queues that are not durable.
func TestTransientIsRememberedAsLongAsItIsThere(t *testing.T) {
	w, c := idWorld(t)
	c.queue("t", false)
	c.send("", "a", "p-1", true)
	c.send("", "a", "p-2", false)
	c.send("", "t", "p-3", true)
	c.send("", "a", "p-4", true)
	c.send("", "a", "q-1", false)
	for _, id := range []string{"p-1", "p-2", "p-3", "p-4", "q-1"} {
		c.send("", "b", id, true)
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
		c.send("", "b", id, true)
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
	d.send("", k.token, "p-1", false)
	d.confirmed()
	c.expect("p-1", false)
	c.none(EventDelivery)
}

func TestLeastRecentlyUsedProducersAreForgotten(t *testing.T) {
	small := func(c *Config) { c.producers = 4 }
	w, c := idWorld(t, small)
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
		c.send("", "a", id, true)
	}
	c.confirmed()
	c.holds("a")
	c.send("", "a", "p2-1", true) // known no more, so it is accepted; p1 goes
	c.send("", "a", "p2-1", true)
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
	d.send("", "a", "p2-2", true)
	c.send("", "a", "p2-2", true)
	c.send("", "a", "p2-3", true)
	d.send("", "a", "p2-3", true)
	c.confirmed()
	d.confirmed()
	d.Close()
	if got := c.drain("a"); !slices.Equal(got, []string{"p2-2", "p2-2", "p2-3"}) {
		t.Errorf("got %q", got)
	}
	c.Close()
}

// A repeat is not confirmed before its original is durable.
func TestRepeatWaitsForItsOriginal(t *testing.T) {
	w, c := idWorld(t)
	defer c.Close()
	d := w.client().confirming()
	defer d.Close()
	let := w.hold()
	defer let()
	c.send("", "a", "p-1", true)
	d.send("", "a", "p-1", true)
	d.send("", "a", "p-1", false)
	c.none(EventConfirm)
	d.none(EventConfirm)
	let()
	c.confirmed()
	d.confirmed()
	c.ready("a", 1)
}

// A message with an identity that is settled before it was written is confirmed
// when that it was accepted is durable; one without is confirmed at once.
func TestSettledBeforeItIsWritten(t *testing.T) {
	w, c := idWorld(t)
	if err := c.BindQueue("a", "amq.fanout", "", nil); err != nil {
		t.Fatal(err)
	}
	if err := c.BindQueue("b", "amq.fanout", "", nil); err != nil {
		t.Fatal(err)
	}
	let := w.hold()
	defer let()
	c.publish("", "a", "nameless", true)
	c.holds("a", "nameless")
	if e := c.next(EventConfirm); e.Tag != 1 {
		t.Fatalf("confirmed %d", e.Tag)
	}
	c.send("", "a", "p-1", true)
	c.send("amq.fanout", "", "p-2", true)
	c.send("", "a", "p-3", true)
	c.holds("a", "p-1", "p-2", "p-3")
	c.holds("b", "p-2")
	c.none(EventConfirm)
	lost := w.fs.CrashClone(0, rand.New(rand.NewPCG(1, 1)))
	let()
	c.confirmed()
	kept := w.fs.CrashClone(0, rand.New(rand.NewPCG(1, 1)))
	c.Close()
	for _, x := range []struct {
		name string
		w    *world
		want []string
	}{
		{"before the confirm", &world{t: t, fs: lost}, []string{"p-1", "p-2", "p-3", "p-4"}},
		{"after it", &world{t: t, fs: kept}, []string{"p-4"}},
	} {
		x.w.start()
		c := x.w.client().confirming()
		for _, id := range []string{"p-1", "p-2", "p-3", "p-4"} {
			c.send("", "a", id, true)
		}
		c.confirmed()
		if got := c.drain("a"); !slices.Equal(got, x.want) {
			t.Errorf("power went %s: %q were taken again, want %q", x.name, got, x.want)
		}
		c.Close()
		x.w.stop()
	}
}

// A message in front of a transaction that takes several batches does not wait
// for its end to count as accepted.
func TestAcceptedInFrontOfATransaction(t *testing.T) {
	w := &world{t: t, fs: vfs.NewMem(), wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
	w.fs.Record()
	w.start(tiny)
	c := w.client().confirming()
	c.queue("a", true)
	tx := w.client()
	if err := tx.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	began := len(w.fs.History())
	let := w.hold()
	defer let()
	c.send("", "a", "p-1", true)
	for n := range 20 {
		tx.bring("", "a", fmt.Sprint("q-", n+1), strings.Repeat("x", 100), true)
	}
	committed := make(chan error, 1)
	go func() { committed <- tx.ch.TxCommit() }()
	eventually(t, func() bool {
		w.b.log.mu.Lock()
		defer w.b.log.mu.Unlock()
		n := len(w.b.log.recs)
		return n > 0 && w.b.log.recs[n-1].kind == recTxEnd
	})
	let()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	c.confirmed()
	c.Close()
	tx.Close()
	w.stop()
	partly := 0
	for at := began; at <= len(w.fs.History()); at++ {
		w := &world{t: t, fs: w.fs.Cut(at, 0, 100, rand.New(rand.NewPCG(1, uint64(at)))), wrap: w.wrap}
		w.start(tiny)
		c := w.client().confirming()
		c.send("", "a", "p-1", true)
		for n := range 20 {
			c.send("", "a", fmt.Sprint("q-", n+1), true)
		}
		c.confirmed()
		got := c.drain("a")
		count := map[string]int{}
		for _, text := range got {
			count[text]++
		}
		if len(got) != 21 || count["p-1"] != 1 {
			t.Fatalf("crash at change %d: %q", at, got)
		}
		if got[0] == "p-1" && count["q-1"] == 1 {
			partly++
		}
		c.Close()
		w.stop()
	}
	if partly < 3 {
		t.Errorf("only %d crashes within the transaction", partly)
	}
}

// The identities of a batch are runs, however the messages of producers come
// among each other.
func TestIdentitiesOfABatchAreRuns(t *testing.T) {
	w, c := idWorld(t)
	let := w.hold()
	defer let()
	for n := range 100 {
		c.send("", "a", fmt.Sprint("p-", n+1), true)
		c.send("", "b", fmt.Sprint("q-", n+1), true)
	}
	let()
	c.confirmed()
	c.Close()
	var got []string
	err := w.j.Replay(t.Context(), 0, 0, false, func(b journal.Batch) error {
		return DescribeHead(b.Head, func(r RecordInfo) {
			if r.Kind == "accepted" {
				got = append(got, fmt.Sprint(r.VHost, r.Name, r.Accepted))
			}
		})
	})
	if want := []string{"/p[{1 100}]", "/q[{1 100}]"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// What was accepted outlives the segments that say so.
func TestCleaningKeepsWhatWasAccepted(t *testing.T) {
	often := func(c *Config) { c.SegmentBytes, c.CleanEvery = 64<<10, time.Millisecond }
	w, c := idWorld(t, often)
	const n = 2000
	for i := range n {
		c.add("", "a", fmt.Sprint("p-", i+1), true)
		c.add("", "b", fmt.Sprintf("only%d-1", i%50), true)
		if i%100 == 99 {
			c.Flush()
			c.confirmed()
			c.drain("a")
		}
	}
	eventually(t, func() bool {
		c.publish("", "b", strings.Repeat("x", 1000), true)
		c.confirmed()
		c.drain("b")
		segs, _, _, _, _ := w.b.log.room()
		return !slices.ContainsFunc(segs, func(s segment) bool { return s.number <= 3 })
	})
	c.Close()
	w.restart(often)
	c = w.client().confirming()
	for i := range n {
		c.add("", "a", fmt.Sprint("p-", i+1), true)
	}
	for i := range 50 {
		c.add("", "a", fmt.Sprintf("only%d-1", i), true)
	}
	c.add("", "a", fmt.Sprint("p-", n+1), true)
	c.Flush()
	c.confirmed()
	c.holds("a", fmt.Sprint("p-", n+1))
	c.Close()
}

// Connections that bring the same messages at the same time store each once,
// unless their producer is forgotten meanwhile; but even then they lose none.
func TestConnectionsOfOneProducerRace(t *testing.T) {
	t.Run("remembered", func(t *testing.T) { race(t, 0) })
	t.Run("forgotten", func(t *testing.T) { race(t, 3) })
}

func race(t *testing.T, producers int) {
	const racers, messages = 4, 1500
	w, c := idWorld(t, func(c *Config) { c.producers = producers })
	var all sync.WaitGroup
	for k := range racers {
		d := w.client().confirming()
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 0))
			for i := 0; i < messages; {
				for range 1 + rng.IntN(40) {
					if i++; i > messages {
						break
					}
					d.add("", "a", fmt.Sprint("p-", i), true)
				}
				d.Flush()
			}
			d.confirmed()
			d.Close()
		})
	}
	all.Go(func() { // others come and go
		d := w.client().confirming()
		for i := range 200 {
			d.send("", "b", fmt.Sprintf("n%d-1", i), true)
		}
		d.confirmed()
		d.Close()
	})
	all.Wait()
	got := c.drain("a")
	seen := map[string]int{}
	for _, id := range got {
		seen[id]++
	}
	for i := range messages {
		if n := seen[fmt.Sprint("p-", i+1)]; n == 0 {
			t.Fatalf("p-%d is lost", i+1)
		}
	}
	c.Close()
	if len(got) > messages && producers == 0 {
		t.Fatalf("%d messages are there twice", len(got)-messages)
	}
}

func TestConnectionsRaceInTransactions(t *testing.T) {
	const racers, rounds = 4, 60
	w, c := idWorld(t)
	var all sync.WaitGroup
	for k := range racers {
		d := w.client()
		all.Go(func() {
			if k%2 == 0 {
				if err := d.ch.TxSelect(); err != nil {
					t.Error(err)
					return
				}
			} else {
				d.confirming()
			}
			for i := range rounds {
				for _, p := range []string{"p", "q", "r"} {
					key := "a"
					if (i+k)%2 == 0 {
						key = "b"
					}
					d.add("", key, fmt.Sprintf("%s-%d", p, i+1), true)
				}
				if k%2 == 0 {
					if err := d.ch.TxCommit(); err != nil {
						t.Error(err)
						return
					}
				}
				d.Flush()
			}
			if k%2 == 1 {
				d.confirmed()
			}
			d.Close()
		})
	}
	all.Wait()
	got := append(c.drain("a"), c.drain("b")...)
	slices.Sort(got)
	if n := len(slices.Compact(slices.Clone(got))); n != 3*rounds || len(got) != n {
		t.Errorf("%d messages, %d different, want %d", len(got), n, 3*rounds)
	}
	c.Close()
}

// Whatever is published, repeated, returned and restarted: a confirmed message
// that was not returned was stored, and as long as little is forgotten, once.
func TestNothingIsLostToRepeats(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 7))
		change := func(c *Config) {
			c.producers, c.SegmentBytes, c.CleanEvery = 6, 16<<10, time.Millisecond
		}
		w, c := idWorld(t, change)
		stored := map[string]int{}     // how often
		known := map[string]bool{}     // stored, and not forgotten by a restart
		transient := map[string]bool{} // of known, what the next restart forgets
		next := map[string]int{}
		producers := 4 + int(seed%2)*6
		for range 400 {
			p := fmt.Sprint("p", rng.IntN(producers))
			n := next[p]
			switch k := rng.IntN(10); {
			case n == 0 || k < 5:
				n++
				if rng.IntN(6) == 0 {
					n++ // a hole
				}
				next[p] = n
			case k < 9:
				n = 1 + rng.IntN(n)
			case rng.IntN(8) == 0:
				c.Close()
				w.restart(change)
				c = w.client().confirming()
				for id := range transient {
					delete(known, id)
				}
				clear(transient)
				continue
			}
			id, key, persistent := fmt.Sprintf("%s-%d", p, n), "a", rng.IntN(5) > 0
			if rng.IntN(6) == 0 {
				key = "none"
			}
			c.send("", key, id, persistent)
			c.confirmed()
			returned := len(c.got) > 0
			c.got = nil
			got := c.drain("a")
			switch {
			case len(got) > 1 || len(got) == 1 && (got[0] != id || key == "none" || returned):
				t.Fatalf("seed %d: %s gave %q, returned %v", seed, id, got, returned)
			case len(got) == 0 && !known[id] && !returned:
				t.Fatalf("seed %d: %s is lost", seed, id)
			case known[id] && (len(got) > 0 || returned) && producers <= 6:
				t.Fatalf("seed %d: %s is stored again, or returned: %v", seed, id, returned)
			case len(got) == 1:
				known[id] = true
				stored[id]++
				if transient[id] = true; persistent {
					delete(transient, id)
				}
			}
		}
		c.Close()
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, x := range []struct {
		name  string
		props func(n int) []byte
	}{
		{"bare", func(int) []byte { return nil }},
		{"header", func(int) []byte {
			return message.AppendField(nil, message.Headers, longText("x-other-id", "0123456789abcdef-1000000"))
		}},
		{"identity", func(n int) []byte { return named(fmt.Sprintf("0123456789abcdef-%d", 1000000+n)) }},
	} {
		for _, persistent := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/persistent=%v", x.name, persistent), func(b *testing.B) {
				j := memory.New(memory.Options{})
				broker, err := Open(b.Context(), Config{Journal: j})
				if err != nil {
					b.Fatal(err)
				}
				w := &world{t: b, j: j, b: broker}
				defer w.stop()
				c := w.client().confirming()
				c.queue("a", true)
				c.consume("a", "t", true)
				text := bytes.Repeat([]byte("x"), 100)
				const round = 100
				lists := make([][]byte, b.N+round)
				for i := range lists {
					lists[i] = x.props(i)
				}
				p := &Publish{Key: []byte("a"), Persistent: persistent, Body: text}
				var events []Event
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; {
					for range round {
						p.Properties = lists[i]
						if err := c.ch.Publish(p); err != nil {
							b.Fatal(err)
						}
						i++
					}
					c.Flush()
					events = c.Take(events)
					c.Flushed(events)
				}
				b.StopTimer()
				c.Close()
			})
		}
	}
}
