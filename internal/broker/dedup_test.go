package broker

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

// seen publishes messages to an exchange whose value of the header that is looked at
// is their body.
func (c *client) seen(exchange string, persistent bool, values ...string) {
	c.t.Helper()
	for _, v := range values {
		c.seenWith(exchange, persistent, v, longText(dedupHeader, v))
	}
}

func (c *client) seenWith(exchange string, persistent bool, text string, headers ...[]byte) {
	c.t.Helper()
	c.must(c.ch.Publish(&Publish{
		Exchange: []byte(exchange), Persistent: persistent, Mandatory: true, Properties: withHeaders(headers...), Body: []byte(text),
	}))
	c.Flush()
}

// once declares an exchange that drops repeats.
func (c *client) once(name string, size byte, more ...[]byte) {
	c.t.Helper()
	c.exchange(name, "x-message-deduplication", append(more, number("x-cache-size", size))...)
}

func TestRepeatsAreDroppedByAnExchange(t *testing.T) {
	eachJournal(t, testRepeatsAreDroppedByAnExchange)
}

func testRepeatsAreDroppedByAnExchange(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client().confirming()
	c.once("x", 4, longText("alternate-exchange", "rest"))
	c.exchange("rest", "fanout")
	c.bind("rest", map[string]string{"rest": ""})
	c.bind("x", map[string]string{"a": "", "b": "whatever"})
	c.seen("x", true, "1", "2", "1", "3", "2")
	c.publish("x", "", "plain", true)
	c.publish("x", "", "plain", true)
	c.seenWith("x", true, "4", int64Header(dedupHeader, 4))
	c.seenWith("x", true, "4 again", number(dedupHeader, 4))
	c.seenWith("x", true, "not 4", longText("X-Deduplication-Header", "1"))
	c.confirmed()
	c.none(EventReturn)
	want := []string{"1", "2", "3", "plain", "plain", "4", "not 4"}
	c.holds("a", want...)
	c.holds("b", want...)
	c.holds("rest")
	for range 2 {
		c.Close()
		w.restart()
		c = w.client().confirming()
		c.seen("x", true, "1", "2", "3")
		c.seenWith("x", true, "4", int64Header(dedupHeader, 4))
		c.confirmed()
		c.holds("a")
		if err := w.b.takeCheckpoint(); err != nil {
			t.Fatal(err)
		}
	}
	c.seen("x", true, "5", "2", "1", "3") // there is room for four: the 5 has taken that of the 1, and so on
	c.confirmed()
	c.holds("a", "5", "1")
	// What another exchange has let through is nothing to this one, nor is what one of
	// its name did.
	c.once("y", 4)
	c.must(c.BindQueue("a", "y", "", nil))
	c.seen("y", true, "1")
	c.must(c.DeleteExchange("x", false))
	c.once("x", 4)
	c.must(c.BindQueue("a", "x", "", nil))
	c.seen("x", true, "3", "3")
	c.confirmed()
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.seen("x", true, "3", "5")
	c.confirmed()
	c.holds("a", "1", "3", "5")
	c.Close()
}

// What nobody took has not been seen, and what a restart forgets is taken again.
func TestWhatCountsAsSeen(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	c.once("x", 10)
	c.seen("x", true, "1")
	c.next(EventReturn)
	c.bind("x", map[string]string{"a": ""})
	c.seen("x", true, "1")
	c.seen("x", false, "2", "2")
	c.seen("x", true, "2")
	c.confirmed()
	c.none(EventReturn)
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.seen("x", true, "1", "2")
	c.confirmed()
	c.holds("a", "1", "2")
	c.Close()
}

func TestRepeatWaitsForItsOriginalBehindAnExchange(t *testing.T) {
	w := newWorld(t)
	c, d := w.client().confirming(), w.client().confirming()
	defer c.Close()
	defer d.Close()
	c.once("x", 10)
	c.bind("x", map[string]string{"a": ""})
	let := w.hold()
	defer let()
	c.seen("x", true, "1", "1")
	d.seen("x", true, "1")
	c.none(EventConfirm)
	d.none(EventConfirm)
	let()
	c.confirmed()
	d.confirmed()
	c.holds("a", "1")
}

func TestValuesAreForgottenWithAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.client().confirming()
		c.once("x", 100, longText("x-cache-ttl", "1000"))
		c.once("forever", 100)
		c.bind("x", map[string]string{"a": ""})
		c.must(c.BindQueue("a", "forever", "", nil))
		long := int64Header("x-cache-ttl", 10_000)
		all := func(round string) {
			t.Helper()
			c.seenWith("x", true, round+" default", longText(dedupHeader, "default"))
			c.seenWith("x", true, round+" long", longText(dedupHeader, "long"), long)
			c.seenWith("x", true, round+" bad", longText("x-cache-ttl", "soon"), longText(dedupHeader, "bad"))
			c.seenWith("x", true, round+" never", longText(dedupHeader, "never"), number("x-cache-ttl", 0))
			c.seenWith("forever", true, round+" forever", longText(dedupHeader, "forever"))
			c.seenWith("forever", true, round+" short", longText(dedupHeader, "short"), longText("x-cache-ttl", "500"))
			c.confirmed()
		}
		all("first")
		c.holds("a", "first default", "first long", "first bad", "first never", "first forever", "first short")
		time.Sleep(499 * time.Millisecond)
		all("soon")
		c.holds("a", "soon never")
		time.Sleep(500 * time.Millisecond)
		c.Close()
		w.restart()
		c = w.client().confirming()
		all("later")
		c.holds("a", "later never", "later short")
		time.Sleep(2 * time.Millisecond)
		all("late")
		c.holds("a", "late default", "late bad", "late never")
		if err := w.b.takeCheckpoint(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		c.Close()
		w.restart()
		c = w.client().confirming()
		all("last")
		c.holds("a", "last default", "last long", "last bad", "last never", "last short")
		c.Close()
	})
}

// A window whose values are all too old does not grow, however many it may have.
func TestOldValuesGiveTheirRoomBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &window{of: &windows{}, x: &exchange{}, most: 1 << 20, age: 1000}
		n := 0
		add := func(count int) {
			for range count {
				n++
				id := hashID(fmt.Append(nil, n%1500))
				if !w.hasLocked(id) {
					w.addLocked(id, idInLog, w.untilOf(&recordExt{}))
				}
				if !w.hasLocked(id) {
					t.Fatalf("the %d. is not remembered", n)
				}
			}
		}
		for range 100 {
			add(500)
			time.Sleep(500 * time.Millisecond)
		}
		if w.n > 2000 || len(w.ring) > 2048 || len(w.ids) > w.n {
			t.Errorf("%d ids in a ring of %d and a map of %d, for 1000 at a time", w.n, len(w.ring), len(w.ids))
		}
		for i := range w.n {
			if s, ok := w.ids[w.ring[w.at(i)]]; !ok || w.slotAt(s) >= len(w.ring) {
				t.Errorf("the %d. of the ring has slot %x", i, s)
			}
		}
	})
}

func TestRepeatsInTransactions(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.must(c.ch.TxSelect())
	c.once("x", 10)
	c.bind("x", map[string]string{"a": ""})
	c.seen("x", true, "1", "2", "1")
	c.must(c.ch.TxRollback())
	c.seen("x", true, "2", "3", "2")
	d := w.client().confirming()
	d.seen("x", true, "3")
	d.confirmed()
	c.must(c.ch.TxCommit())
	c.none(EventReturn)
	c.seen("x", true, "1", "2", "3")
	c.must(c.ch.TxCommit())
	d.Close()
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.seen("x", true, "1", "2", "3")
	c.confirmed()
	c.holds("a", "3", "2", "1")
	c.Close()
}

// Messages with an identity, as Ferry's own client sends them, are looked at too, and
// so are those with a duplicate id.
func TestRepeatsOfMessagesWithIdentities(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	c.once("x", 100)
	c.bind("x", map[string]string{"a": ""})
	put := func(id, value string, more ...[]byte) {
		c.must(c.ch.Publish(&Publish{
			Exchange: []byte("x"), Persistent: true, Properties: named(id, append(more, longText(dedupHeader, value))...), Body: []byte(id),
		}))
		c.Flush()
	}
	for i := range 100 {
		put(fmt.Sprint("p-", i+1), fmt.Sprint(i%3))
	}
	c.confirmed()
	p := c.v.producers.find([]byte("p"))
	if p.all.top != (span{1, 100}) || p.logged != nil {
		t.Errorf("accepted are %v %v of 100", p.all.top, p.all.rest)
	}
	both := headerList(longText(duplicateHeader, "d"), longText(dedupHeader, "other"))
	c.publishWith("x", "", message.AppendField(nil, message.Headers, both), "both", true)
	c.publishWith("x", "", duplicate("d"), "one", true)
	c.publishWith("x", "", withHeaders(longText(dedupHeader, "other")), "the other", true)
	c.confirmed()
	c.holds("a", "p-1", "p-2", "p-3", "both")
	c.Close()
	w.restart()
	c = w.client().confirming()
	if p := c.v.producers.find([]byte("p")); p.all.top != (span{1, 100}) {
		t.Errorf("accepted are %v %v of 100 after a restart", p.all.top, p.all.rest)
	}
	put("p-7", "seven", mark(2))
	put("p-101", "1")
	put("p-102", "seven")
	c.publishWith("x", "", duplicate("d"), "one", true)
	c.publishWith("x", "", withHeaders(longText(dedupHeader, "other")), "the other", true)
	c.confirmed()
	c.holds("a", "p-102")
	c.Close()
}

// A message goes on where it has not been.
func TestExchangesThatDropRepeatsAmongOthers(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	tx := w.transacting()
	defer tx.Close()
	c.exchange("in", "fanout")
	c.once("x", 10)
	c.once("y", 10)
	c.must(c.BindExchange("x", "in", "", nil))
	c.must(c.BindExchange("y", "in", "", nil))
	c.bind("in", map[string]string{"all": ""})
	c.bind("x", map[string]string{"x1": "", "both": ""})
	c.bind("y", map[string]string{"y1": "", "both": ""})
	c.confirming()
	for _, put := range []func(exchange, value string){
		func(x, v string) { c.seen(x, true, v); c.confirmed() },
		func(x, v string) { tx.seen(x, true, v); tx.commit() },
	} {
		put("x", "1")
		put("y", "2")
		put("in", "1")
		put("in", "2")
		put("in", "3")
		put("in", "3")
		put("x", "3")
		c.none(EventReturn)
		for q, want := range map[string][]string{
			"all": {"1", "2", "3", "3"}, "x1": {"1", "2", "3"}, "y1": {"2", "1", "3"}, "both": {"1", "2", "1", "2", "3"},
		} {
			c.holds(q, want...)
		}
		for _, x := range []string{"x", "y"} { // so that the next begins as this one
			for i := range 10 {
				c.seen(x, true, fmt.Sprint("filler", i, x))
			}
		}
		c.confirmed()
		for _, q := range []string{"x1", "y1", "both"} {
			c.drain(q)
		}
	}
}

// A crash forgets a value with its message, and no confirmed one of either.
func TestValuesAreAsDurableAsTheirMessages(t *testing.T) {
	w := &world{t: t, fs: vfs.NewMem(), wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
	w.fs.Record()
	w.start(tiny)
	c := w.client().confirming()
	c.once("x", 200)
	c.bind("x", map[string]string{"a": "", "b": ""})
	began := len(w.fs.History())
	type sent struct {
		value string
		at    int // where the history was when it was confirmed
	}
	var all []sent
	for i := range 12 {
		var values []string
		for k := range 3 {
			values = append(values, fmt.Sprint(i*2+k))
		}
		c.seen("x", true, values...)
		c.confirmed()
		if i == 6 {
			if err := w.b.takeCheckpoint(); err != nil {
				t.Fatal(err)
			}
		}
		for _, v := range values {
			all = append(all, sent{v, len(w.fs.History())})
		}
	}
	c.Close()
	w.stop()
	for at := began; at <= len(w.fs.History()); at++ {
		w := &world{t: t, fs: w.fs.Cut(at, 0, 100, rand.New(rand.NewPCG(1, uint64(at)))), wrap: w.wrap}
		w.start(tiny)
		c := w.client().confirming()
		before := c.drain("b")
		for _, s := range all {
			if s.at <= at && !slices.Contains(before, s.value) {
				t.Fatalf("crash at change %d: %s was confirmed and is not there", at, s.value)
			}
			c.seen("x", true, s.value)
		}
		c.confirmed()
		after := append(before, c.drain("b")...)
		if slices.Sort(after); len(slices.Compact(slices.Clone(after))) != len(after) || len(after) != 25 {
			t.Fatalf("crash at change %d: there are %q", at, after)
		}
		c.Close()
		w.stop()
	}
}

func TestConnectionsThatBringOneValueRace(t *testing.T) {
	const racers, values = 4, 300
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.once("x", 255)
	c.bind("x", map[string]string{"a": "", "b": ""})
	var racing sync.WaitGroup
	for k := range racers {
		d := w.client()
		racing.Go(func() {
			defer d.Close()
			if k == 0 {
				d.must(d.ch.TxSelect())
			} else {
				d.confirming()
			}
			for i := range values {
				d.seen("x", true, fmt.Sprint(i%200))
				if k == 0 && i%10 == 9 {
					d.must(d.ch.TxCommit())
				}
			}
			if k == 0 {
				d.must(d.ch.TxCommit())
			} else {
				d.confirmed()
			}
		})
	}
	racing.Wait()
	for _, q := range []string{"a", "b"} {
		got := c.drain(q)
		if slices.Sort(got); len(got) != 200 || len(slices.Compact(got)) != 200 {
			t.Errorf("%s has %d of 200 values", q, len(got))
		}
	}
}

func TestArgumentsOfExchangesThatDropRepeats(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	const size, age, where = "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0",
		"Invalid argument, 'x-cache-ttl' must be an integer greater than 0", "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'"
	for i, row := range []struct {
		args []byte
		want string
	}{
		{nil, size},
		{number("x-cache-size", 0), size},
		{longText("x-cache-size", "many"), size},
		{longText("x-cache-size", "10"), ""},
		{headerList(number("x-cache-size", 1), number("x-cache-ttl", 0)), age},
		{headerList(number("x-cache-size", 1), longText("x-cache-ttl", "1s")), age},
		{headerList(number("x-cache-size", 1), int64Header("x-cache-ttl", 1<<62)), ""},
		{headerList(number("x-cache-size", 1), longText("x-cache-persistence", "tape")), where},
		{headerList(number("x-cache-size", 1), longText("x-cache-persistence", "disk")), ""},
		{int64Header("x-cache-size", 1<<62), ""},
	} {
		err := c.DeclareExchange(ExchangeSpec{Name: fmt.Sprint("x", i), Type: "x-message-deduplication", Args: row.args})
		switch {
		case row.want == "":
			c.must(err)
		case kind(err) != PreconditionFailed || err.Error() != row.want:
			t.Errorf("row %d: %v, want %s", i, err, row.want)
		}
	}
}

// FuzzSeen: what is read of a record is sound, and is written as it was.
func FuzzSeen(f *testing.F) {
	w := &window{of: &windows{vhost: "/"}, address: address{exchange: "x"}}
	f.Add(w.appendSeen(nil, true, 1, append(make([]byte, 16), 0)))
	f.Add(w.appendSeen(nil, false, 2, []byte("0123456789abcdef\x050123456789abcdeg\xff\xff\xff\xff\xff\xff\xff\xff\x7f")))
	f.Add([]byte("\x01/\x01x\x00\x01"))
	f.Fuzz(func(t *testing.T, blob []byte) {
		replay := func(blobs ...[]byte) (*window, error) {
			r := newReplayer()
			v := r.b.vhosts["/"]
			x := newExchange(v, ExchangeSpec{Name: "x", Type: "x-message-deduplication", Durable: true, Args: number("x-cache-size", 4)})
			v.exchanges["x"] = x
			for i, blob := range blobs {
				if err := r.batch(journal.Batch{Position: uint64(i + 1), Epoch: 1, Segment: 1, Head: append([]byte{recSeen}, blob...)}); err != nil {
					return nil, err
				}
			}
			return x.seen, nil
		}
		w, err := replay(blob)
		if err != nil {
			return
		}
		if w.n > 4 || len(w.ids) > w.n {
			t.Fatalf("%d ids of 4 at most, and %d in the map", w.n, len(w.ids))
		}
		records := w.seenRecordsLocked()
		again, err := replay(records...)
		if err != nil {
			t.Fatal(err)
		}
		if back := again.seenRecordsLocked(); !slices.EqualFunc(records, back, bytes.Equal) {
			t.Fatalf("%x came back as %x", records, back)
		}
	})
}

// A window with more values than one record has comes back whole.
func TestLargeWindowsComeBackFromACheckpoint(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	c.exchange("x", "x-message-deduplication", int64Header("x-cache-size", 3*seenRecordIDs))
	c.bind("x", map[string]string{"a": ""})
	const n = 2*seenRecordIDs + 10
	for i := range n {
		c.must(c.ch.Publish(&Publish{Exchange: []byte("x"), Persistent: true, Properties: withHeaders(longText(dedupHeader, fmt.Sprint(i)))}))
	}
	c.Flush()
	c.confirmed()
	if err := w.b.takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.restart()
	c = w.client().confirming()
	if got := c.v.exchanges["x"].seen.n; got != n {
		t.Errorf("%d of %d came back", got, n)
	}
	c.drain("a")
	c.seen("x", true, "0", "1", fmt.Sprint(n-1), strings.Repeat("9", 9))
	c.confirmed()
	c.holds("a", strings.Repeat("9", 9))
	c.Close()
}

// What is dead-lettered, or was delayed, is looked at as what is published.
func TestMovedMessagesAreLookedAtToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.client().confirming()
		c.once("x", 10)
		c.exchange("in", "fanout")
		c.must(c.BindExchange("x", "in", "", nil))
		c.bind("x", map[string]string{"a": "", "b": ""})
		c.bind("in", map[string]string{"all": ""})
		c.delays("later", "x-message-deduplication", number("x-cache-size", 10))
		c.must(c.BindQueue("a", "later", "", nil))
		_, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, Args: headerList(longText("x-dead-letter-exchange", "in"), number("x-message-ttl", 100))})
		c.must(err)
		c.value("q", "1", "1", "2")
		c.seen("x", true, "2")
		for _, v := range []string{"5", "5", "6"} {
			c.seenWith("later", true, v, longText(dedupHeader, v), delayBy(50))
		}
		c.confirmed()
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		c.holds("a", "2", "5", "6", "1")
		c.holds("b", "2", "1")
		c.holds("all", "1", "1", "2")
		c.Close()
		w.restart()
		c = w.client().confirming()
		c.seen("x", true, "1", "2", "3")
		c.seen("later", true, "5", "6", "7")
		c.confirmed()
		c.holds("a", "3", "7")
		c.Close()
		w.stop()
	})
}

// TestRefusedMessageOfSeveralWindowsMayComeAgain: as one of a single window may.
func TestRefusedMessageOfSeveralWindowsMayComeAgain(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.once("x", 4)
	c.declare("full", args{"x-max-length": 1, "x-overflow": "reject-publish"})
	c.declare("other", nil)
	c.must(c.BindQueue("full", "x", "", nil))
	c.must(c.BindQueue("other", "x", "", nil))
	send := func(text, value string) {
		c.seenWith("x", true, text, longText(dedupHeader, value), longText(duplicateHeader, value))
	}
	send("1", "1")
	send("2", "2")
	for !c.next(EventConfirm).Nack { // one queue is full
	}
	c.take("full")
	send("2 again", "2")
	for c.next(EventConfirm).Tag < 3 {
	}
	c.holds("full", "2 again")
	c.holds("other", "1", "2", "2 again")
}
