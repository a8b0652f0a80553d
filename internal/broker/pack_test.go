package broker

import (
	"fmt"
	"reflect"
	"runtime"
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
)

// coldChunk is a full chunk of which everything is in the journal.
func coldChunk(q *Queue, first uint64, change func(i int, e *entry)) *chunk {
	k := &chunk{q: q, first: first}
	offset := uint32(0)
	for i := range chunkSize - int(first&(chunkSize-1)) {
		m := &stored{persistent: true, journaled: true, sealed: true, accounted: true, logged: 1, segment: 3, head: 2}
		m.size = uint32(100 + i/50)
		m.ref = journal.Ref{Position: 7 + uint64(i/40), Offset: offset, Length: m.size}
		if offset += m.size; i%40 == 39 {
			offset = 0
		}
		m.holders.Store(1)
		m.placed.Store(inJournal)
		e := entry{msg: m, state: ready, redelivered: i%3 == 0}
		if change != nil {
			change(i, &e)
		}
		k.entries = append(k.entries, e)
		k.live++
	}
	return k
}

func TestPackedChunkIsWhatItWas(t *testing.T) {
	w := newWorld(t)
	for _, first := range []uint64{0, 5 * chunkSize, 5*chunkSize + 17} {
		k := coldChunk(&Queue{}, first, nil)
		want := coldChunk(&Queue{}, first, nil).entries
		k.pack(w.b.log, false)
		if k.packed == nil || k.entries != nil {
			t.Fatal("it was not packed")
		}
		if n := len(k.packed); n > 2*len(want) {
			t.Errorf("%d entries take %d bytes", len(want), n)
		}
		k.unpack()
		if !reflect.DeepEqual(k.entries, want) {
			t.Errorf("from %d on: what was unpacked differs", first)
		}
	}
}

func TestOnlyWhatIsColdAndWholeIsPacked(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*stored, *entry){
		"delivered":     func(_ *stored, e *entry) { e.state = unacked },
		"transient":     func(m *stored, _ *entry) { m.persistent = false },
		"in memory":     func(m *stored, _ *entry) { m.setBlock([]byte("x")) },
		"in scratch":    func(m *stored, _ *entry) { m.placed.Store(inScratch) },
		"not written":   func(m *stored, _ *entry) { m.placed.Store(notPlaced) },
		"held by two":   func(m *stored, _ *entry) { m.holders.Store(2) },
		"logged by two": func(m *stored, _ *entry) { m.logged = 2 },
		"not counted":   func(m *stored, _ *entry) { m.accounted = false },
		"in parts":      func(m *stored, _ *entry) { m.parts = &parts{} },
	} {
		k := coldChunk(&Queue{}, 0, func(i int, e *entry) {
			if i == 77 {
				change(e.msg, e)
			}
		})
		if k.pack(w.b.log, false); k.packed != nil {
			t.Errorf("%s: it was packed", name)
		}
	}
	k := coldChunk(&Queue{}, 0, nil)
	k.entries, k.live = k.entries[:chunkSize-1], k.live-1
	if k.pack(w.b.log, false); k.packed != nil {
		t.Error("a chunk that grows was packed")
	}
}

// A backlog that is on disk costs a few bytes of memory a message, when it was
// published and when it was recovered, and comes back in order.
func TestColdBacklogCostsLittleMemory(t *testing.T) {
	small := func(c *Config) { c.HotBytes = 1 << 16 }
	w := newWorld(t, small)
	c := w.client()
	c.queue("q", true)
	if err := c.ch.ConfirmSelect(); err != nil {
		t.Fatal(err)
	}
	const n = 64 * chunkSize
	for i := range n {
		c.publish("", "q", fmt.Sprintf("%06d", i), true)
		if i%512 == 511 {
			for c.ch.conf.told < uint64(i+1) {
				c.next(EventConfirm)
			}
		}
	}
	packed := func() (full, all int) {
		q := w.b.vhost("/").queues["q"]
		q.mu.Lock()
		defer q.mu.Unlock()
		q.chunks.each(func(k *chunk) {
			all++
			if k.packed != nil {
				full++
			}
		})
		return full, all
	}
	for full, all := packed(); full < all/2; full, all = packed() {
		w.b.evict.poke()
		runtime.Gosched()
		c.publish("", "other", "", true)
	}
	c.Close()
	w.restart(small)
	if full, all := packed(); full < all-1 {
		t.Errorf("%d of %d chunks are packed after a restart", full, all)
	}
	c = w.client()
	c.consume("q", "t", false)
	for i := range n {
		e := c.expect(fmt.Sprintf("%06d", i), true)
		if i%100 == 99 {
			if err := c.ch.Ack(e.Tag, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.ch.Ack(0, true); err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.restart(small)
	if _, _, live, _, _ := w.b.log.room(); live != 0 {
		t.Errorf("%d bytes are live in an empty broker", live)
	}
}

// A queue's reading that comes late, when another queue has packed the message,
// is for nobody: it neither counts nor fails.
func TestWhatIsReadForNobodyDoesNotCount(t *testing.T) {
	w := newWorld(t)
	k := coldChunk(&Queue{}, 0, nil)
	m := k.entries[5].msg
	k.pack(w.b.log, false)
	before := w.b.evict.hot.Load()
	w.b.warm(m, make([]byte, m.size))
	if hot := w.b.evict.hot.Load(); hot != before {
		t.Errorf("%d bytes are in memory that nobody has", hot-before)
	}
	if !w.b.forgotten(m) {
		t.Error("somebody has it")
	}
	k.unpack()
	if k.entries[5].msg.holders.Load() != 1 {
		t.Error("the queue lost it")
	}
}

// What only transactions publish, and what only is read back, leaves memory too.
func TestBodiesLeaveMemoryWithoutPublishes(t *testing.T) {
	eachJournal(t, testBodiesLeaveMemoryWithoutPublishes)
}

func testBodiesLeaveMemoryWithoutPublishes(t *testing.T, on journals) {
	const limit = 64 << 10
	small := func(c *Config) { c.HotBytes = limit }
	w := on.world(t, small)
	c := w.client()
	c.queue("q", true)
	if err := c.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	const n = 1024
	body := string(make([]byte, 1024))
	for range n {
		c.publish("", "q", body, true)
	}
	if err := c.ch.TxCommit(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return w.b.evict.hot.Load() <= limit })
	c.Close()
	w.restart(small)
	c = w.client()
	defer c.Close()
	c.consume("q", "t", false)
	for range n {
		c.next(EventDelivery)
	}
	eventually(t, func() bool { return w.b.evict.hot.Load() <= limit })
}

// A backlog that is packed is purged, and deleted, without a trace.
func TestPackedBacklogGoesAtOnce(t *testing.T) { eachJournal(t, testPackedBacklogGoesAtOnce) }

func testPackedBacklogGoesAtOnce(t *testing.T, on journals) {
	small := func(c *Config) { c.HotBytes = 1 << 16 }
	for name, end := range map[string]func(*client) (int, error){
		"purge":  func(c *client) (int, error) { return c.PurgeQueue("q") },
		"delete": func(c *client) (int, error) { return c.DeleteQueue("q", false, false) },
	} {
		w := on.world(t, small)
		c := w.client()
		c.queue("q", true)
		const n = 3*settledMost + 5
		for range n {
			c.publish("", "q", "x", true)
		}
		c.Close()
		w.restart(small)
		c = w.client()
		if got, err := end(c); got != n || err != nil {
			t.Errorf("%s: %d messages went, of %d: %v", name, got, n, err)
		}
		if _, _, live, _, _ := w.b.log.room(); live != 0 {
			t.Errorf("%s: %d bytes are live", name, live)
		}
		if hot := w.b.evict.hot.Load(); hot != 0 {
			t.Errorf("%s: %d bytes are in memory", name, hot)
		}
		c.queue("q", true)
		c.ready("q", 0)
		c.Close()
		w.restart(small)
		c = w.client()
		c.ready("q", 0)
		c.Close()
	}
}
