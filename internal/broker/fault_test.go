package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
)

// TestEveryFlippedByte damages each byte of a journal in turn: what a broker
// then has is what it had, or it says that something is wrong.
func TestEveryFlippedByte(t *testing.T) {
	s := newStory(t)
	c := s.confirming()
	s.declare(c, "a")
	s.declare(c, "b")
	s.bind(c, "amq.fanout", "", "a")
	s.bind(c, "amq.fanout", "", "b")
	s.confirm(c, s.post(c, "", "a", 30, true, "a"), s.post(c, "amq.fanout", "", 950, true, "a", "b"), s.post(c, "", "b", 30, true, "b"))
	first := s.post(c, "", "b", 40, true, "b")
	s.confirm(c, first)
	if _, err := c.PurgeQueue("a"); err != nil {
		t.Fatal(err)
	}
	s.confirm(c, s.post(c, "", "a", 50, true, "a"))
	c.Close()
	s.stop()

	want, err := contents(t, s.fs)
	if err != nil || len(want["a"]) != 1 || len(want["b"]) != 3 {
		t.Fatalf("undamaged: %d %d %v", len(want["a"]), len(want["b"]), err)
	}
	flips, filled, refused := 0, 0, 0
	for _, e := range files(t, s.fs) {
		data := read(t, s.fs, e)
		for at := range data {
			if data[at] == 0 && at%32 != 0 && !long {
				continue // mostly room that was written ahead
			}
			flips++
			if data[at] != 0 {
				filled++
			}
			fs := s.fs.CrashClone(100, nil)
			f, err := fs.OpenWrite(e)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{data[at] ^ byte(1<<(at%8))}, int64(at)); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			got, err := contents(t, fs)
			if err != nil {
				refused++
				continue
			}
			if !maps.EqualFunc(got, want, slices.Equal) {
				t.Fatalf("byte %d of %s flipped: got %.200q, want %.200q", at, e, got, want)
			}
		}
	}
	t.Logf("%d flips, %d refused", flips, refused)
	if refused < filled/3 {
		t.Errorf("only %d of %d flips were noticed", refused, filled)
	}
}

// contents opens a broker on a file system and reads all that it has.
func contents(t *testing.T, m *vfs.Mem) (map[string][]string, error) {
	w := &world{t: t, fs: m, wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
	if err := w.tryStart(tiny); err != nil {
		return nil, err
	}
	c := w.client()
	all, err := w.found(c)
	c.Close()
	return all, errors.Join(err, w.tryStop())
}

func files(t *testing.T, m *vfs.Mem) (names []string) {
	t.Helper()
	entries, err := m.List("data")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, filepath.Join("data", e.Name))
	}
	return names
}

func read(t *testing.T, m *vfs.Mem, name string) []byte {
	t.Helper()
	f, err := m.OpenRead(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFailedSyncIsFinal: what is pending is neither confirmed nor refused, all
// connections are told, and the next start has what was confirmed.
func TestFailedSyncIsFinal(t *testing.T) {
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(noBallast{mem})
	w := &world{t: t, fs: mem, wrap: func(*vfs.Mem) vfs.FS { return faulty }}
	w.start()
	c, d := w.client(), w.client()
	c.queue("q", true)
	_ = c.ch.ConfirmSelect()
	c.publish("", "q", "sure", true)
	c.next(EventConfirm)
	faulty.SetHook(vfs.FailNth(1, false, syscall.EIO, func(c vfs.Call) bool { return c.Op == vfs.OpSync }))
	c.publish("", "q", "pending", true)
	<-w.b.Failed()
	for _, x := range []*client{c, d} {
		if e := x.next(EventClosed); e.Err.Kind != Internal {
			t.Errorf("closed with %v", e.Err)
		}
	}
	c.none(EventConfirm)
	c.publish("", "q", "later", true)
	if _, err := d.DeclareQueue(QueueSpec{Name: "x", Durable: true}); kind(err) != Internal {
		t.Errorf("declare after the failure: %v", err)
	}
	if err := d.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	d.publish("", "q", "transaction", true)
	if err := d.ch.TxCommit(); kind(err) != Internal {
		t.Errorf("commit after the failure: %v", err)
	}
	c.none(EventConfirm)
	if kind(w.b.Err()) != Internal || !errors.Is(w.b.Cause(), syscall.EIO) {
		t.Errorf("%v, cause %v", w.b.Err(), w.b.Cause())
	}
	if _, err := w.b.OpenSession(SessionConfig{VHost: "/"}); kind(err) != Internal {
		t.Errorf("a session after the failure: %v", err)
	}
	c.Close()
	d.Close()
	if err := w.b.Close(context.Background()); kind(err) != Internal {
		t.Errorf("close: %v", err)
	}
	_ = w.j.Close()

	w = &world{t: t, fs: mem.CrashClone(0, nil)}
	w.start()
	defer w.stop()
	e := w.client()
	defer e.Close()
	if found, err := e.ch.Get("q", true); !found || err != nil || body(e.next(EventGot)) != "sure" {
		t.Errorf("after the restart: %v %v", found, err)
	}
}

func kind(err error) Kind {
	var e *Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Kind
}

// TestFullDisk fills the medium: publishers are blocked, consumers drain, what
// they settle is given back, and it goes on.
func TestFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetSpace(8 << 20)
	w := &world{t: t, fs: mem}
	w.start(func(c *Config) {
		c.SegmentBytes, c.CleanEvery, c.Alarms.Every = 64<<10, time.Millisecond, time.Millisecond
		c.HotBytes = 1 << 20
	})
	defer w.stop()
	c := w.client()
	c.queue("q", true)
	_ = c.ch.ConfirmSelect()
	pad := strings.Repeat("x", 10<<10)
	sent := 0
	for end := time.Now().Add(20 * time.Second); w.b.Blocked() == ""; sent++ {
		if time.Now().After(end) {
			t.Fatal("the medium is not full")
		}
		c.publish("", "q", fmt.Sprintf("%06d%s", sent, pad), true)
	}
	if w.b.Blocked() != "low on disk" {
		t.Errorf("blocked for %q", w.b.Blocked())
	}
	for range 3 {
		c.publish("", "q", fmt.Sprintf("%06d%s", sent, pad), true)
		sent++
	}
	c.next(EventBlocked)

	d := w.client()
	defer d.Close()
	d.consume("q", "t", false)
	for i := range sent {
		e := d.next(EventDelivery)
		if got := body(e)[:6]; got != fmt.Sprintf("%06d", i) {
			t.Fatalf("got %s, want %06d", got, i)
		}
		if err := d.ch.Ack(e.Tag, false); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return w.b.Blocked() == "" })
	c.next(EventUnblocked)
	for range 20 {
		c.publish("", "q", fmt.Sprintf("%06d%s", sent, pad), true)
		sent++
	}
	for c.told() < uint64(sent) {
		c.next(EventConfirm)
	}
	c.Close()
}

// TestFullDiskAndMuchPending: what had been taken to be written needs no room
// when it is settled before its turn.
func TestFullDiskAndMuchPending(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetSpace(8 << 20)
	faulty := vfs.NewFaulty(mem)
	w := &world{t: t, fs: mem, wrap: func(*vfs.Mem) vfs.FS { return faulty }}
	w.start(func(c *Config) {
		c.SegmentBytes, c.CleanEvery, c.Alarms.Every = 64<<10, time.Millisecond, time.Millisecond
	})
	defer w.stop()
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	_ = c.ch.ConfirmSelect()
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	faulty.SetHook(func(x vfs.Call) error {
		if x.Op == vfs.OpSync {
			once.Do(func() { close(reached); <-release })
		}
		return nil
	})
	c.publish("", "q", noteText(0, 10<<10), true)
	<-reached
	const n = 2000
	for i := 1; i < n; i++ {
		if err := c.ch.Publish(&Publish{Key: []byte("q"), Persistent: true, Body: []byte(noteText(i, 10<<10))}); err != nil {
			t.Fatal(err)
		}
	}
	c.Flush()
	close(release)
	eventually(t, func() bool { return w.b.log.j.Status().Waiting != nil })
	d := w.client()
	defer d.Close()
	d.consume("q", "t", false)
	for i := range n {
		e := d.expect(noteText(i, 10<<10), false)
		if err := d.ch.Ack(e.Tag, false); err != nil {
			t.Fatal(err)
		}
	}
	for c.told() < n {
		c.next(EventConfirm)
	}
	eventually(t, func() bool { return w.b.Blocked() == "" })
	w.drained()
}

// TestSupersededBatchesAreSkipped: a batch of an old epoch between newer ones,
// and a transaction that its owner did not end.
func TestSupersededBatchesAreSkipped(t *testing.T) {
	mem := vfs.NewMem()
	w := &world{t: t, fs: mem}
	w.start()
	c := w.client()
	c.queue("q", true)
	_ = c.ch.ConfirmSelect()
	for i := range 3 {
		c.publish("", "q", fmt.Sprint(i), true)
		c.next(EventConfirm)
	}
	num := w.b.vhost("/").queues["q"].num
	c.Close()
	w.stop()
	appendBatches(t, mem, func(info journal.Info) []journal.Batch {
		settle := func(first uint64) []byte { return []byte{recSettle, byte(num), byte(first), 1} }
		return []journal.Batch{
			// An owner that began a transaction and vanished.
			{Epoch: info.Epoch + 1, Head: append([]byte{recEpoch, recTxBegin}, settle(0)...)},
			// Its successor, which settles the second message.
			{Epoch: info.Epoch + 2, Head: append([]byte{recEpoch}, settle(1)...)},
			// What the first one still had on its way.
			{Epoch: info.Epoch + 1, Head: append(settle(2), recTxEnd)},
			{Epoch: info.Epoch + 2, Head: []byte{}},
		}
	})
	w = &world{t: t, fs: mem}
	w.start()
	defer w.stop()
	c = w.client()
	defer c.Close()
	c.ready("q", 2)
	c.consume("q", "t", true)
	c.expect("0", true)
	c.expect("2", true)
}

func appendBatches(t *testing.T, mem *vfs.Mem, batches func(journal.Info) []journal.Batch) {
	t.Helper()
	j, err := file.Open(mem, "data", file.Options{Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	info := j.Info()
	for i, b := range batches(info) {
		b.Position, b.Segment, b.Checkpoint = info.Head+1+uint64(i), info.Segment, info.Checkpoint
		done := make(chan error, 1)
		j.Append(b, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPublishesRaceWithDeletes: a publish that found a queue never enters the
// one that took its name.
func TestPublishesRaceWithDeletes(t *testing.T) {
	w := newWorld(t)
	owner := w.client()
	defer owner.Close()
	owner.queue("q", true)
	var running sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		c := w.client()
		running.Go(func() {
			defer c.Close()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				p := Publish{Key: []byte("q"), Persistent: true}
				r, err := c.pub.route(&p)
				if err != nil || len(r.queues) == 0 {
					continue
				}
				p.Body = fmt.Append(nil, r.queues[0].num)
				if err := c.ch.Publish(&p); err != nil {
					t.Error(err)
					return
				}
				if last := len(c.pub.items) - 1; c.pub.items[last].r != r && !slices.Equal(c.pub.items[last].r.queues, r.queues) {
					c.pub.items = c.pub.items[:last] // it found another one than it says
				}
				if i%3 == 0 {
					c.Flush()
				}
				c.Flushed(c.Take(nil))
			}
		})
	}
	seen := 0
	for i := 0; i < 100 || seen < 50; i++ {
		q, err := w.b.vhost("/").queue("q", owner.Session)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			found, err := owner.ch.Get("q", true)
			if err != nil {
				t.Fatal(err)
			}
			if !found {
				break
			}
			seen++
			if got := body(owner.next(EventGot)); got != fmt.Sprint(q.num) {
				t.Fatalf("a message for queue %s is in queue %d", got, q.num)
			}
		}
		if _, err := owner.DeleteQueue("q", false, false); err != nil {
			t.Fatal(err)
		}
		owner.queue("q", true)
	}
	close(stop)
	running.Wait()
}

// TestParkedMessagesKeepNoOthersSpace: the journal stays within twice what is
// live and a few segments while one queue is parked and others churn.
func TestParkedMessagesKeepNoOthersSpace(t *testing.T) {
	const segment = 64 << 10
	w := newWorld(t, func(c *Config) {
		c.SegmentBytes, c.CleanEvery, c.HotBytes = segment, time.Millisecond, 1<<10
	})
	c := w.client()
	defer c.Close()
	_ = c.ch.ConfirmSelect()
	c.queue("parked", true)
	c.queue("churn", true)
	pad := strings.Repeat("p", 900)
	parked := 0
	var most int64
	for i := range 3000 {
		queue := "churn"
		if i < 1500 && i%3 == 0 || i%50 == 0 {
			queue, parked = "parked", parked+1
		}
		c.publish("", queue, fmt.Sprintf("%06d%s", i, pad), true)
		for c.told() < uint64(i+1) {
			c.next(EventConfirm)
		}
		if found, err := c.ch.Get("churn", true); err != nil || found && c.next(EventGot).Tag == 0 {
			t.Fatal(err)
		}
		if i%20 == 0 {
			live := int64(parked * 920)
			// Cleaning runs beside; it must come to rest below the limit.
			eventually(t, func() bool {
				_, total, _, _, _ := w.b.log.room()
				most = max(most, total-2*live)
				return total <= 2*live+4*segment
			})
		}
	}
	t.Logf("at most %d segments over twice what is live", most/segment)
	c.ready("parked", parked)
	d := w.client()
	defer d.Close()
	d.consume("parked", "t", true)
	last := -1
	for range parked {
		n, err := strconv.Atoi(body(d.next(EventDelivery))[:6])
		if err != nil || n <= last {
			t.Fatalf("%d behind %d: %v", n, last, err)
		}
		last = n
	}
	c.empty()
	w.drained()
}

// empty purges all queues.
func (c *client) empty() {
	c.t.Helper()
	for name := range c.v.queues {
		if _, err := c.PurgeQueue(name); err != nil {
			c.t.Fatal(err)
		}
	}
}

// drained fails if the counts of what is in memory and in the journal do not
// return to nothing when all queues are empty.
func (w *world) drained() {
	w.t.Helper()
	eventually(w.t, func() bool {
		_, _, live, _, _ := w.b.log.room()
		return live == 0 && w.b.evict.hot.Load() == 0
	})
}
