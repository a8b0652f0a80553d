package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

func delayBy(ms int64) []byte { return int64Header(delayHeader, ms) }

// delayed publishes a persistent message that is to be delayed.
func (c *client) delayed(exchange, key, text string, ms int64, more ...[]byte) {
	c.t.Helper()
	c.publishWith(exchange, key, withHeaders(append(more, delayBy(ms))...), text, true)
}

// delays declares an exchange that delays messages.
func (c *client) delays(name, typ string, more ...[]byte) {
	c.t.Helper()
	c.exchange(name, delayedType, append(more, longText(delayedByArg, typ))...)
}

// keeps fails unless an exchange keeps so many messages for later.
func (c *client) keeps(exchange string, want int) {
	c.t.Helper()
	c.v.mu.RLock()
	x := c.v.exchanges[exchange]
	c.v.mu.RUnlock()
	if got := x.delayed(); got != want {
		c.t.Fatalf("%s keeps %d messages, want %d", exchange, got, want)
	}
}

func TestMessagesAreDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.client().confirming()
		c.delays("x", "direct", longText("alternate-exchange", "rest"))
		c.exchange("rest", "fanout")
		c.bind("rest", map[string]string{"rest": ""})
		c.bind("x", map[string]string{"q": "k"})
		c.queue("x", true) // has nothing to do with what is kept
		began := time.Now()
		for _, row := range []struct {
			text   string
			header []byte
		}{
			{"300", delayBy(300)},
			{"100", longText(delayHeader, "100")},
			{"200", append([]byte("\x07x-delayf"), binary.BigEndian.AppendUint32(nil, math.Float32bits(200.9))...)},
			{"now: 0", number(delayHeader, 0)},
			{"now: none", longText("x-delayed", "1")},
			{"now: negative", delayBy(-100)},
			{"now: no number", longText(delayHeader, "soon")},
			{"now: true", []byte("\x07x-delayt\x01")},
		} {
			c.must(c.ch.Publish(&Publish{
				Exchange: []byte("x"), Key: []byte("k"), Persistent: true, Mandatory: true, Properties: withHeaders(row.header), Body: []byte(row.text),
			}))
		}
		c.delayed("x", "nobody", "rest", 50)
		c.delayed("x", "nobody", "transient", 50)
		c.Flush()
		c.confirmed() // what is kept is safe, and not unroutable
		c.none(EventReturn)
		c.keeps("x", 5)
		c.holds("q", "now: 0", "now: none", "now: negative", "now: no number", "now: true")
		c.holds("rest")
		c.consume("q", "t", true)
		for _, ms := range []int{100, 200, 300} {
			e := c.expect(fmt.Sprint(ms), false)
			if took := time.Since(began).Milliseconds(); took < int64(ms) || took > int64(ms)+20 {
				t.Errorf("%d ms took %d", ms, took)
			}
			v, err := message.Parse(e.Data)
			c.must(err)
			if got, _ := message.Header(message.Field(v.Properties, message.Headers), delayHeader); got != int64(-ms) {
				t.Errorf("the header of %d is %v on delivery", ms, got)
			}
		}
		if took := time.Since(began).Milliseconds(); took > 330 {
			t.Errorf("all took %d ms", took)
		}
		c.holds("rest", "rest", "transient")
		c.ready("x", 0)
		c.keeps("x", 0)
		c.Close()
		w.stop()
	})
}

// What is kept goes where the exchange leads when its time has come.
func TestDelayedMessagesAreRoutedWhenTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.client()
		c.exchange("in", "fanout")
		c.delays("x", "topic")
		c.delays("y", "fanout")
		c.must(c.BindExchange("x", "in", "#", nil))
		c.must(c.BindExchange("y", "x", "onward.#", nil))
		c.bind("in", map[string]string{"early": ""})
		c.bind("x", map[string]string{"old": "#"})
		c.bind("y", map[string]string{"end": ""})
		c.delayed("x", "a.b", "1", 1000)
		c.delayed("in", "a.b", "2", 1000)
		c.delayed("x", "onward.x", "3", 1000)
		c.delayed("y", "", "4", 2000)
		c.delayed("y", "", "5", 1000)
		c.delayed("in", "late", "6", 5000)
		c.holds("early", "2", "6")
		c.bind("x", map[string]string{"new": "a.*"})
		time.Sleep(1100 * time.Millisecond)
		c.holds("old", "1", "2", "3")
		c.holds("new", "1", "2")
		c.holds("end", "3", "5")
		c.keeps("y", 1)
		// With its exchange what it keeps is gone, and another of the name has none of it.
		c.must(c.DeleteExchange("y", false))
		c.delays("y", "fanout")
		c.must(c.BindQueue("end", "y", "", nil))
		if _, err := c.DeleteQueue("old", false, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		c.holds("end")
		c.keeps("x", 0)
		c.Close()
		w.restart()
		c = w.client()
		c.keeps("y", 0)
		c.Close()
		w.stop()
	})
}

func TestDelayedMessagesOutliveRestarts(t *testing.T) {
	eachJournal(t, testDelayedMessagesOutliveRestarts)
}

func testDelayedMessagesOutliveRestarts(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client().confirming()
	c.delays("x", "fanout")
	c.must(c.DeclareExchange(ExchangeSpec{Name: "gone", Type: delayedType, Args: longText(delayedByArg, "fanout")}))
	c.bind("x", map[string]string{"q": ""})
	c.must(c.BindQueue("q", "gone", "", nil))
	const hour = 3_600_000
	for i := range 300 {
		c.delayed("x", "", fmt.Sprint(i), 100*365*24*hour) // a hundred years
	}
	c.publishWith("x", "", withHeaders(delayBy(hour)), "transient", false)
	c.delayed("gone", "", "gone", hour)
	c.delayed("x", "", "soon", 400)
	c.delayed("x", "", "for ever", math.MaxInt64)
	c.confirmed()
	if err := w.b.takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	c.delayed("x", "", "sooner", 300)
	c.confirmed()
	c.Close()
	w.restart()
	c = w.client()
	c.consume("q", "t", true)
	c.expect("sooner", false)
	c.expect("soon", false)
	c.keeps("x", 301)
	if c.v.exchanges["gone"] != nil {
		t.Error("an exchange that is not durable is back")
	}
	c.must(c.DeleteExchange("x", false))
	eventually(t, func() bool {
		w.b.tasks.Wait()
		_, _, live, _, _ := w.b.log.room()
		return live == 0
	})
	c.Close()
	w.restart()
	if w.b.vhosts["/"].exchanges["x"] != nil {
		t.Error("the exchange is back")
	}
}

// A backlog that waits needs little memory, is found in the order of its times, and is
// whole after all kinds of restarts and cleaning.
func TestDelayedBacklogIsPackedAndOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := func(c *Config) {
			c.HotBytes, c.SegmentBytes, c.CleanEvery = 16<<10, 64<<10, 100*time.Millisecond
		}
		w := newWorld(t, small)
		c := w.client().confirming()
		c.delays("x", "fanout")
		c.bind("x", map[string]string{"q": ""})
		const n = 4000
		rng := rand.New(rand.NewPCG(1, 2))
		times := rng.Perm(n)
		for i, ms := range times {
			c.delayed("x", "", fmt.Sprint(ms), int64(10_000+10*ms))
			if i%100 == 99 {
				c.confirmed()
			}
		}
		c.confirmed()
		synctest.Wait()
		c.keeps("x", n)
		q := c.v.exchanges["x"].kept
		packed := func() (chunks, packed int) {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.eachChunk(func(k *chunk) {
				if chunks++; k.packed != nil {
					packed++
				}
			})
			return chunks, packed
		}
		time.Sleep(time.Second)
		if all, some := packed(); some < all*3/4 {
			t.Errorf("%d of %d chunks are packed", some, all)
		}
		c.Close()
		w.restart(small)
		c = w.client()
		q = c.v.exchanges["x"].kept
		if all, some := packed(); some < all-1 {
			t.Errorf("after a restart %d of %d chunks are packed", some, all)
		}
		var got []string
		for len(got) < n {
			time.Sleep(2 * time.Second)
			if err := w.b.takeCheckpoint(); err != nil {
				t.Fatal(err)
			}
			got = append(got, c.drain("q")...)
			synctest.Wait()
			if all, some := packed(); all > 10 && some < all-4 {
				t.Fatalf("%d of %d chunks are packed while messages go", some, all)
			}
			if len(got) > n/2 && len(got) < n/2+n/10 {
				c.Close()
				w.restart(small)
				c = w.client()
				q = c.v.exchanges["x"].kept
			}
		}
		for i, text := range got {
			if text != fmt.Sprint(i) {
				t.Fatalf("the %d. is %s", i, text)
			}
		}
		c.keeps("x", 0)
		c.Close()
		w.stop()
	})
}

// What became due while the broker was away goes at once, in its order.
func TestWhatBecameDueMeanwhileIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.client().confirming()
		c.delays("x", "fanout")
		c.bind("x", map[string]string{"q": ""})
		var want []string
		for i := range 1000 {
			c.delayed("x", "", fmt.Sprint(i), int64(20_000-10*i))
			want = append(want, fmt.Sprint(999-i))
		}
		c.confirmed()
		c.Close()
		w.stop()
		time.Sleep(time.Minute)
		w.start()
		c = w.client()
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		if got := c.drain("q"); !slices.Equal(got, want) {
			t.Errorf("%d of %d, %.200q", len(got), len(want), got)
		}
		c.Close()
		w.stop()
	})
}

func TestDelayedInTransactionsAndPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, tx := w.client().confirming(), w.transacting()
		c.delays("x", "fanout")
		c.bind("x", map[string]string{"q": "", "r": ""})
		tx.delayed("x", "", "1", 1000)
		tx.commit()
		tx.delayed("x", "", "2", 1000)
		tx.must(tx.ch.TxRollback())
		time.Sleep(500 * time.Millisecond)
		in, err := c.ch.PublishLarge(&Publish{Exchange: []byte("x"), Persistent: true, Properties: withHeaders(delayBy(1000))}, 3<<20)
		c.must(err)
		for in.Left() > 0 {
			room := in.Room(min(in.Left(), 100<<10))
			copy(room, bytes.Repeat([]byte("x"), len(room)))
		}
		c.must(in.Finish())
		c.Flush()
		c.confirmed()
		c.keeps("x", 2)
		time.Sleep(510 * time.Millisecond)
		c.holds("q", "1")
		time.Sleep(510 * time.Millisecond)
		for _, q := range []string{"q", "r"} {
			if got := c.drain(q); len(got[len(got)-1]) != 3<<20 {
				t.Errorf("%s has %d messages", q, len(got))
			}
		}
		tx.Close()
		c.Close()
		w.stop()
	})
}

// A crash finds a message either with its exchange or in all its queues, and every
// confirmed one.
func TestCrashLeavesDelayedMessagesInOnePlace(t *testing.T) {
	w := &world{t: t, fs: vfs.NewMem(), wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
	w.fs.Record()
	w.start(tiny)
	c := w.client().confirming()
	c.delays("x", "fanout")
	c.bind("x", map[string]string{"a": "", "b": ""})
	began := len(w.fs.History())
	const n = 40
	at := make([]int, n)
	for i := range n {
		c.delayed("x", "", fmt.Sprint(i), int64(1+i%7))
		if i%4 == 3 {
			c.confirmed()
			for k := i - 3; k <= i; k++ {
				at[k] = len(w.fs.History())
			}
		}
		if i == n/2 {
			if err := w.b.takeCheckpoint(); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, func() bool { return c.v.exchanges["x"].delayed() == 0 })
	if err := w.b.await(w.b.log.caughtUp()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.stop()
	all := len(w.fs.History())
	kept := 0
	for cut := began; cut <= all; cut += 1 + (all-began)/150 {
		w := &world{t: t, fs: w.fs.Cut(cut, 0, 100, rand.New(rand.NewPCG(1, uint64(cut)))), wrap: w.wrap}
		w.start(tiny)
		c := w.client()
		if c.v.exchanges["x"].delayed() > 0 {
			kept++
		}
		eventually(t, func() bool { return c.v.exchanges["x"].delayed() == 0 })
		a, b := c.drain("a"), c.drain("b")
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) || len(slices.Compact(slices.Clone(a))) != len(a) {
			t.Fatalf("crash at change %d: %q and %q", cut, a, b)
		}
		for i := range n {
			if at[i] <= cut && !slices.Contains(a, fmt.Sprint(i)) {
				t.Fatalf("crash at change %d: %d was confirmed and is gone", cut, i)
			}
		}
		c.Close()
		w.stop()
	}
	if kept == 0 {
		t.Error("no crash found messages that waited")
	}
}

// The record of an exchange may be all that a crash has left of its declaration.
func TestExchangeWithoutItsQueueGetsOne(t *testing.T) {
	w := newWorld(t)
	x := newExchange(w.b.vhosts["/"], ExchangeSpec{Name: "x", Type: delayedType, Durable: true, Args: longText(delayedByArg, "fanout")})
	if err := w.b.log.write(recExchange, x.record()).wait(w.b); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.restart()
		c := w.client().confirming()
		c.bind("x", map[string]string{"q": ""})
		c.delayed("x", "", "m", 1)
		c.confirmed()
		c.consume("q", "t", true)
		c.expect("m", false)
		c.Close()
	}
}

func TestStandbyReleasesWhatWasDelayed(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		b := s.node("b")
		c := a.client().confirming()
		c.delays("x", "fanout")
		c.once("once", 10)
		c.bind("x", map[string]string{"q": ""})
		c.bind("once", map[string]string{"r": ""})
		for i := range 500 {
			c.delayed("x", "", fmt.Sprint(i), int64(10_000+i))
		}
		c.seen("once", true, "1")
		c.confirmed()
		time.Sleep(time.Second)
		a.kill()
		b.up(time.Minute)
		d := b.client().confirming()
		d.keeps("x", 500)
		d.seen("once", true, "1", "2")
		d.confirmed()
		d.holds("r", "1", "2")
		d.consume("q", "t", true)
		for i := range 500 {
			d.expect(fmt.Sprint(i), false)
		}
		d.Close()
	})
}

func TestArgumentsOfExchangesThatDelay(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	for _, row := range []struct {
		args []byte
		kind Kind
		text string
	}{
		{nil, PreconditionFailed, "Invalid argument, 'x-delayed-type' must be an existing exchange type"},
		{number(delayedByArg, 1), PreconditionFailed, "Invalid argument, 'x-delayed-type' must be an existing exchange type"},
		{longText(delayedByArg, delayedType), PreconditionFailed, "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'"},
		{longText(delayedByArg, "x-unheard-of"), Invalid, "unknown exchange type 'x-unheard-of'"},
		{longText(delayedByArg, "nonsense"), Invalid, "invalid exchange type 'nonsense'"},
		{longText(delayedByArg, "x-message-deduplication"), PreconditionFailed, "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0"},
		{headerList(longText(delayedByArg, "x-consistent-hash"), longText("hash-property", "x")), PreconditionFailed, "Unsupported property: x"},
		{longText(delayedByArg, "x-consistent-hash"), 0, ""},
	} {
		err := c.DeclareExchange(ExchangeSpec{Name: "x", Type: delayedType, Args: row.args})
		if row.kind == 0 {
			c.must(err)
		} else if kind(err) != row.kind || err.Error() != row.text {
			t.Errorf("%v, want %s", err, row.text)
		}
	}
	c.queue("q", true)
	if err := c.BindQueue("q", "x", "one", nil); kind(err) != PreconditionFailed {
		t.Errorf("bound by what is no weight: %v", err)
	}
}

// FuzzDelay reads any value, and writes one that means no delay.
func FuzzDelay(f *testing.F) {
	for _, headers := range [][]byte{
		delayBy(1), delayBy(math.MinInt64), delayBy(math.MaxInt64), longText(delayHeader, "99999999999999999999"),
		headerList(longText("a", "b"), longText(delayHeader, "17"), delayBy(18)),
		[]byte("\x07x-delayd\x7f\xf0\x00\x00\x00\x00\x00\x00"), []byte("\x07x-delayD\x02\x00\x00\x01\x00"),
	} {
		f.Add(message.AppendFieldString(withHeaders(headers), message.MessageID, "id"))
	}
	f.Fuzz(func(t *testing.T, props []byte) {
		delay := propertiesDelay(props)
		if delay < 0 {
			t.Fatalf("delayed by %d", delay)
		}
		if at := wakeTime(delay); at < 0 || at >= notTimed {
			t.Fatalf("waits until %d", at)
		}
		if delay == 0 {
			return
		}
		out := withoutDelay(props, delay)
		a, ok := findArg(message.Field(out, message.Headers), delayHeader)
		if !ok || a.decoded() != -delay || propertiesDelay(out) != 0 {
			t.Fatalf("%x became %x", props, out)
		}
	})
}

// With its virtual host goes what an exchange has kept.
func TestDelayedMessagesGoWithTheirVHost(t *testing.T) {
	w := newWorld(t)
	if err := w.b.AddVHost("v"); err != nil {
		t.Fatal(err)
	}
	s, err := w.b.OpenSession(SessionConfig{VHost: "v", User: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	c := (&client{t: t, Session: s, ch: s.OpenChannel(1)}).confirming()
	c.delays("x", "fanout")
	c.once("once", 10)
	c.bind("once", map[string]string{"q": ""})
	c.delayed("x", "", "m", 3_600_000)
	c.seen("once", true, "1")
	c.confirmed()
	if page, err := w.b.Exchanges(Filter{VHost: "v", Name: "x"}); err != nil || len(page.Items) != 1 || page.Items[0].Delayed != 1 {
		t.Errorf("%+v, %v", page, err)
	}
	c.Close()
	if err := w.b.DeleteVHost("v"); err != nil {
		t.Fatal(err)
	}
	if _, _, live, _, _ := w.b.log.room(); live != 0 {
		t.Errorf("%d bytes are alive", live)
	}
	w.restart()
	if _, _, live, _, _ := w.b.log.room(); live != 0 || w.b.vhosts["v"] != nil {
		t.Errorf("%d bytes are alive after a restart", live)
	}
}

// TestDelayedDeadLettersKeepTheirHistory: they go on counting, as without the delay.
func TestDelayedDeadLettersKeepTheirHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.client()
		c.delays("x", "fanout")
		c.declare("q", args{"x-dead-letter-exchange": "x"})
		c.must(c.BindQueue("q", "x", "", nil))
		c.publishWith("", "q", withHeaders(delayBy(10)), "m", true)
		for range 3 {
			c.drop("q")
		}
		l := c.take("q")
		deaths, _ := l.headers["x-death"].([]any)
		if len(deaths) != 1 || deaths[0].(map[string]any)["count"] != int64(3) {
			t.Errorf("%v", l.headers)
		}
		c.Close()
		w.stop()
	})
}
