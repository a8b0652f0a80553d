package broker

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

// A repeat is not confirmed before its original is durable.
func TestDuplicateWaitsForItsOriginal(t *testing.T) {
	w, c := idWorld(t)
	defer c.Close()
	d := w.client().confirming()
	defer d.Close()
	let := w.hold()
	defer let()
	c.dup("a", "1", "1")
	d.dup("a", "1")
	d.dupAs(false, "a", "1")
	c.none(EventConfirm)
	d.none(EventConfirm)
	let()
	c.confirmed()
	d.confirmed()
	c.ready("a", 1)
}

// What is settled before it was written is confirmed when its id is durable; what
// a crash forgets is taken again.
func TestDuplicateSettledBeforeItIsWritten(t *testing.T) {
	w, c := idWorld(t)
	for _, q := range []string{"a", "b"} {
		c.must(c.BindQueue(q, "amq.fanout", "", nil))
	}
	let := w.hold()
	defer let()
	c.dup("a", "1")
	c.publishWith("amq.fanout", "", duplicate("2"), "2", true)
	c.holds("a", "1", "2")
	c.holds("b", "2")
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
		{"before the confirm", &world{t: t, fs: lost}, []string{"1", "3", "2"}},
		{"after it", &world{t: t, fs: kept}, []string{"3"}},
	} {
		x.w.start()
		c := x.w.client().confirming()
		c.dup("a", "1", "3", "1")
		c.publishWith("amq.fanout", "", duplicate("2"), "2", true)
		c.confirmed()
		if got := c.drain("a"); !slices.Equal(got, x.want) {
			t.Errorf("power went %s: %q were taken again, want %q", x.name, got, x.want)
		}
		c.Close()
		x.w.stop()
	}
}

// Of a transaction that takes several batches, a crash keeps all ids or none, as it
// does with its messages; one in front of it does not wait for its end.
func TestDuplicateIDsOfATransactionAreWhole(t *testing.T) {
	w := &world{t: t, fs: vfs.NewMem(), wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
	w.fs.Record()
	w.start(tiny)
	c := w.client().confirming()
	c.queue("a", true)
	tx := w.client()
	c.must(tx.ch.TxSelect())
	began := len(w.fs.History())
	let := w.hold()
	defer let()
	c.dup("a", "front")
	var ids []string
	for n := range 20 {
		ids = append(ids, fmt.Sprint(n))
		tx.put("", "a", ids[n], strings.Repeat("x", 100), true)
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
	c.must(<-committed)
	c.confirmed()
	c.Close()
	tx.Close()
	w.stop()
	seen := map[string]int{}
	for at := began; at <= len(w.fs.History()); at++ {
		w := &world{t: t, fs: w.fs.Cut(at, 0, 100, rand.New(rand.NewPCG(1, uint64(at)))), wrap: w.wrap}
		w.start(tiny)
		c := w.client().confirming()
		c.dup("a", append([]string{"front"}, ids...)...)
		c.confirmed()
		got := c.drain("a")
		stored, again := 0, 0
		for _, text := range got {
			switch {
			case len(text) == 100:
				stored++
			case text != "front":
				again++
			}
		}
		if len(got) != 21 || slices.Index(got, "front") < 0 || stored > 0 && again > 0 {
			t.Fatalf("crash at change %d: %d stored, %d again: %.300q", at, stored, again, got)
		}
		seen[fmt.Sprint(got[0] == "front", stored > 0)]++
		c.Close()
		w.stop()
	}
	if seen["true false"] < 3 || seen["true true"] == 0 {
		t.Errorf("too few crashes within the transaction, or behind it: %v", seen)
	}
}

// The ids of a batch are one record for each address, however the messages come
// among each other.
func TestIDsOfABatchAreOneRecord(t *testing.T) {
	w, c := idWorld(t)
	let := w.hold()
	defer let()
	for n := range 50 {
		c.dup("a", fmt.Sprint(n))
		c.dup("b", fmt.Sprint(n))
	}
	let()
	c.confirmed()
	c.Close()
	var got []string
	err := w.j.Replay(t.Context(), 0, 0, false, func(b journal.Batch) error {
		return DescribeHead(b.Head, func(r RecordInfo) {
			if r.Kind == "ids" {
				got = append(got, fmt.Sprintf("%s %q %s %v %d", r.VHost, r.Name, r.Key, r.Whole, len(r.IDs)))
			}
		})
	})
	if want := []string{`/ "" a false 50`, `/ "" b false 50`}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// What is remembered outlives the segments that say so, and is forgotten in the
// order in which it came.
func TestCleaningKeepsDuplicateIDs(t *testing.T) { eachJournal(t, testCleaningKeepsDuplicateIDs) }

func testCleaningKeepsDuplicateIDs(t *testing.T, on journals) {
	often := func(c *Config) {
		c.SegmentBytes, c.CleanEvery = 64<<10, time.Millisecond
		c.windows.each = 1500
	}
	w, c := on.idWorld(t, often)
	const n = 2000
	for i := range n {
		c.dup("a", fmt.Sprint(i))
		if i%100 == 99 {
			c.dup("b", fmt.Sprint(i))
			c.confirmed()
			c.drain("a")
			c.drain("b")
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
	for range 2 {
		w.restart(often)
		c = w.client().confirming()
		c.v.windows.sound(t)
		for i := n - 1500; i < n; i++ {
			c.dup("a", fmt.Sprint(i))
		}
		for i := 99; i < n; i += 100 {
			c.dup("b", fmt.Sprint(i))
		}
		c.confirmed()
		c.holds("a")
		c.holds("b")
		c.Close()
	}
	c = w.client().confirming()
	c.dup("a", "0") // forgets the oldest
	c.dup("a", fmt.Sprint(n-1500+1), fmt.Sprint(n-1500))
	c.confirmed()
	c.holds("a", "0", fmt.Sprint(n-1500))
	c.Close()
}

// A checkpoint is behind records of batches that it contains: its ids are in the
// order in which they came all the same.
func TestCheckpointPutsIDsInOrder(t *testing.T) {
	all := func(n ...byte) (blob []byte) {
		for _, x := range n {
			id := hashID([]byte{x})
			blob = append(blob, id[:]...)
		}
		return blob
	}
	of := address{"x", "k"}
	r := newReplayer()
	for i, blob := range [][]byte{
		appendIDs(nil, "/", of, false, all(4, 5)), // of a batch behind the beginning
		appendIDs(nil, "/", of, true, all(1, 2, 3, 4, 5)),
		appendIDs(nil, "/", of, false, all(5, 6)),
		appendIDs(nil, "nowhere", of, true, all(7)),
	} {
		b := ids(blob)
		b.Position = uint64(i + 1)
		if err := r.batch(b); err != nil {
			t.Fatal(err)
		}
	}
	ws := &r.b.vhosts["/"].windows
	ws.sound(t)
	if list := ws.list(); len(list) != 1 || !bytes.Equal(list[0].recordLocked(), appendIDs(nil, "/", of, true, all(1, 2, 3, 4, 5, 6))) {
		t.Errorf("%d windows, %+v", len(list), list)
	}
}

// ids is a batch with a record of ids.
func ids(blob []byte) journal.Batch {
	return journal.Batch{Position: 1, Epoch: 1, Segment: 1, Head: append([]byte{recIDs}, blob...)}
}

// FuzzIDs: what is read of a record is sound, and is written as it was.
func FuzzIDs(f *testing.F) {
	f.Add(appendIDs(nil, "/", address{"x", "k"}, true, make([]byte, 16)))
	f.Add(appendIDs(nil, "/", address{"", "q"}, false, []byte("0123456789abcdef0123456789abcdefghijklmnopqrstuv")))
	f.Add([]byte{1, '/', 0, 0, 0, 0})
	f.Add([]byte{1, '/', 0, 0, 2, 1})
	f.Fuzz(func(t *testing.T, blob []byte) {
		r := newReplayer()
		if r.batch(ids(blob)) != nil {
			return
		}
		ws := &r.b.vhosts["/"].windows
		ws.sound(t)
		for _, w := range ws.list() {
			record := w.recordLocked()
			if record == nil {
				continue
			}
			again := newReplayer()
			if err := again.batch(ids(record)); err != nil {
				t.Fatal(err)
			}
			back := again.b.vhosts["/"].windows.list()
			if len(back) != 1 || !bytes.Equal(back[0].recordLocked(), record) {
				t.Fatalf("%x came back as %+v", record, back)
			}
		}
	})
}

// Connections that bring the same messages at the same time, in transactions and
// without, store each once, unless their window is forgotten meanwhile; but even
// then they lose none.
func TestDuplicatesRace(t *testing.T) {
	t.Run("remembered", func(t *testing.T) { raceDuplicates(t, 0, 0) })
	t.Run("address forgotten", func(t *testing.T) { raceDuplicates(t, 0, 2) })
	t.Run("ids forgotten", func(t *testing.T) { raceDuplicates(t, 100, 0) })
}

func raceDuplicates(t *testing.T, all, addresses int) {
	const racers, messages = 4, 800
	w, c := idWorld(t, limits(0, all, addresses))
	var racing sync.WaitGroup
	for k := range racers {
		d := w.client()
		racing.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 0))
			if k == 0 {
				d.must(d.ch.TxSelect())
			} else {
				d.confirming()
			}
			for i := 0; i < messages; {
				var some []string
				for range 1 + rng.IntN(40) {
					if i++; i <= messages {
						some = append(some, fmt.Sprint(i))
					}
				}
				d.dup("a", some...)
				d.dup("b", some[0])
				if k == 0 {
					d.must(d.ch.TxCommit())
				}
			}
			if k > 0 {
				d.confirmed()
			}
			d.Close()
		})
	}
	racing.Go(func() { // others come and go
		d := w.client().confirming()
		for i := range 100 {
			d.must(d.BindQueue("b", "amq.direct", fmt.Sprint(i%10), nil))
			d.publishWith("amq.direct", fmt.Sprint(i%10), duplicate(fmt.Sprint(i)), "other", true)
		}
		d.confirmed()
		d.Close()
	})
	racing.Wait()
	got := c.drain("a")
	seen := map[string]int{}
	for _, id := range got {
		seen[id]++
	}
	if len(seen) != messages {
		t.Errorf("%d of %d messages are there", len(seen), messages)
	}
	if len(got) > messages && all+addresses == 0 {
		t.Errorf("%d messages are there twice", len(got)-messages)
	}
	c.v.windows.sound(t)
	c.Close()
}

// Whatever is published, sent again and restarted, by whom and in what: exactly
// those messages are stored whose id is not among the last of their address. What
// transient messages pushed out of a window may be back after a restart.
func TestWindowsAreAsTheyShouldBe(t *testing.T) { eachJournal(t, testWindowsAreAsTheyShouldBe) }

func testWindowsAreAsTheyShouldBe(t *testing.T, on journals) {
	const each = 7
	for seed := range uint64(on.some(10, 2)) {
		mixed := seed%2 == 1
		rng := rand.New(rand.NewPCG(seed, 9))
		change := func(c *Config) {
			c.windows.each, c.SegmentBytes, c.CleanEvery = each, 8<<10, time.Millisecond
		}
		w, c := on.idWorld(t, change)
		d := w.client()
		c.must(d.ch.TxSelect())
		last := map[string][]string{}          // the ids of an address, the oldest first
		before := map[string]map[string]bool{} // those that may have outlived a restart
		logged := map[string]map[string]bool{} // those that may outlive the next
		repeats, restarts := 0, 0
		for range on.some(400, 200) {
			if rng.IntN(60) == 0 {
				c.Close()
				d.Close()
				w.restart(change)
				c, d = w.client().confirming(), w.client()
				c.must(d.ch.TxSelect())
				c.v.windows.sound(t)
				restarts++
				for key := range last {
					if mixed {
						before[key], last[key] = maps.Clone(logged[key]), nil
					}
				}
				continue
			}
			key := string(rune('a' + rng.IntN(2)))
			if logged[key] == nil {
				logged[key], before[key] = map[string]bool{}, map[string]bool{}
			}
			persistent := !mixed || rng.IntN(6) > 0
			id := fmt.Sprint(rng.IntN(3 * each))
			again := slices.Contains(last[key], id)
			open := !again && before[key][id]
			if via := rng.IntN(2); via == 0 {
				d.dupAs(persistent, key, id, id)
				c.must(d.ch.TxCommit())
			} else {
				c.dupAs(persistent, key, id, id)
				c.confirmed()
			}
			got := c.drain(key)
			if len(got) > 1 || again && len(got) > 0 || !again && !open && len(got) == 0 {
				t.Fatalf("seed %d: of %s at %s %q is stored, the last are %q", seed, id, key, got, last[key])
			}
			if len(got) == 0 {
				repeats++
				continue
			}
			last[key] = append(last[key], id)
			if len(last[key]) >= each {
				last[key] = last[key][len(last[key])-each:]
				clear(before[key])
			}
			if persistent {
				logged[key][id] = true
			}
		}
		if repeats == 0 || restarts == 0 {
			t.Errorf("seed %d: %d repeats, %d restarts", seed, repeats, restarts)
		}
		c.v.windows.sound(t)
		c.Close()
		d.Close()
	}
}
