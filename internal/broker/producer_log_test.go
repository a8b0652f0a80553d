package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

// A repeat is not confirmed before its original is durable.
func TestRepeatWaitsForItsOriginal(t *testing.T) {
	w, c := idWorld(t)
	defer c.Close()
	d := w.client().confirming()
	defer d.Close()
	let := w.hold()
	defer let()
	c.send("", "a", "p-1", true)
	d.again("", "a", "p-1", true)
	d.again("", "a", "p-1", false)
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
			c.again("", "a", id, true)
		}
		c.confirmed()
		if got := c.drain("a"); !slices.Equal(got, x.want) {
			t.Errorf("power went %s: %q were taken again, want %q", x.name, got, x.want)
		}
		c.Close()
		x.w.stop()
	}
}

// While publishes wait for room in the log, what is settled of them is left out,
// but not that it was accepted.
func TestSettledWhileItsBatchWaits(t *testing.T) {
	_, c := idWorld(t)
	defer c.Close()
	p := c.v.producers.find([]byte("p"))
	settled, left := &stored{size: 10}, &stored{size: 10, logged: 1}
	recs := []record{
		{kind: recRun, m: settled, n: 7, ext: p.ext, ch: c.ch, tag: 3},
		{kind: recRun, m: settled, ch: c.ch, tag: 4},
		{kind: recRun, m: left, n: 8, ext: p.ext, ch: c.ch, tag: 5},
	}
	want := []record{{n: 7, ext: p.ext, ch: c.ch, tag: 3}, {}, recs[2]}
	bb := &batchBuffers{}
	c.b.log.skipSettled(bb, recs)
	if !slices.Equal(recs, want) {
		t.Errorf("left are %+v, want %+v", recs, want)
	}
	if confirms := []confirmRange{{c.ch, 4, 4}}; !slices.Equal(bb.confirms, confirms) {
		t.Errorf("confirmed are %+v, want %+v", bb.confirms, confirms)
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
		c.again("", "a", "p-1", true)
		for n := range 20 {
			c.again("", "a", fmt.Sprint("q-", n+1), true)
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
func TestCleaningKeepsWhatWasAccepted(t *testing.T) { eachJournal(t, testCleaningKeepsWhatWasAccepted) }

func testCleaningKeepsWhatWasAccepted(t *testing.T, on journals) {
	often := func(c *Config) { c.SegmentBytes, c.CleanEvery = 64<<10, time.Millisecond }
	w, c := on.idWorld(t, often)
	const n = 2000
	for i := range n {
		c.add("", "a", fmt.Sprint("p-", i+1), true)
		c.add("", "b", fmt.Sprintf("only%d-1", i%50), true, mark(2))
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
		c.add("", "a", fmt.Sprint("p-", i+1), true, mark(2))
	}
	for i := range 50 {
		c.add("", "a", fmt.Sprintf("only%d-1", i), true, mark(2))
	}
	c.add("", "a", fmt.Sprint("p-", n+1), true, mark(2))
	c.Flush()
	c.confirmed()
	c.holds("a", fmt.Sprint("p-", n+1))
	c.Close()
}
