package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

// TestTakeoverWhileMessagesMove ends an owner at different times after messages have
// been refused, in the middle of a transaction too: the next one has each once.
func TestTakeoverWhileMessagesMove(t *testing.T) {
	moved := map[int]bool{} // how many messages were found to be so
	for after := range 12 {
		inSite(t, func(t *testing.T, s *site) {
			small := func(c *Config) { c.batchBytes = 300 }
			a := s.node("a", small)
			a.up(time.Second)
			synctest.Wait()
			a.j.latency = time.Millisecond
			c := a.client().confirming()
			for _, q := range []string{"dead", "copy"} {
				c.queue(q, true)
				if err := c.BindQueue(q, "amq.fanout", "", nil); err != nil {
					t.Fatal(err)
				}
			}
			c.queueWith("q", true, deadLetters("amq.fanout"))
			const n = 20
			for i := range n {
				c.publish("", "q", noteText(i, 60), true)
			}
			c.confirmed()
			b := s.node("b", small)
			synctest.Wait()
			c.consume("q", "t", false)
			for range n {
				c.next(EventDelivery)
			}
			for tag := range uint64(n) {
				if err := c.ch.Nack(tag+1, false, false); err != nil {
					t.Fatal(err)
				}
				if tag%7 == 6 {
					synctest.Wait() // what was refused so far is a transaction
				}
			}
			time.Sleep(4 * time.Duration(after) * time.Millisecond)
			a.kill()
			b.up(time.Minute)
			d := b.client()
			here, dead, copied := d.drain("q"), d.drain("dead"), d.drain("copy")
			if len(here)+len(dead) != n || !slices.Equal(dead, copied) {
				t.Errorf("%d: %d in q, %d in dead, %d in copy; want %d", after, len(here), len(dead), len(copied), n)
			}
			all := append(slices.Clone(here), dead...)
			slices.Sort(all)
			if all = slices.Compact(all); len(all) != n {
				t.Errorf("%d: %d of %d messages are there", after, len(all), n)
			}
			moved[len(dead)] = true
			d.Close()
			b.stop()
		})
	}
	if len(moved) < 2 {
		t.Errorf("in all these cases as many as %v were moved", moved)
	}
}

// TestMovesBesideEverything refuses and settles messages while they are evicted, read
// back and cleaned, and queues beside them purged and deleted: each ends once.
func TestMovesBesideEverything(t *testing.T) {
	const each = 1500
	w := newWorld(t, func(c *Config) {
		c.HotBytes, c.SegmentBytes, c.CleanEvery = 32<<10, 64<<10, time.Millisecond
	})
	c := w.client()
	for _, q := range []string{"dead", "beside"} {
		c.queue(q, true)
	}
	c.queueWith("q", true, deadLetters("amq.topic", "dead"))
	for _, q := range []string{"dead", "beside"} {
		if err := c.BindQueue(q, "amq.topic", q+".#", nil); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()

	var mu sync.Mutex
	ended := map[string]int{} // how often each message was settled for good
	end := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		ended[text]++
	}
	var publishing, working sync.WaitGroup
	stop := make(chan struct{})
	for p := range 2 {
		publishing.Go(func() {
			c := w.client().confirming()
			defer c.Close()
			for i := range each {
				c.publish("", "q", fmt.Sprintf("%d-%d %s", p, i, strings.Repeat("x", i%700)), i%5 > 0)
			}
			c.confirmed()
		})
	}
	for k := range 4 {
		working.Go(func() {
			c := w.client()
			defer func() { c.Close() }()
			queue := "q"
			if k == 3 {
				queue = "dead"
			}
			c.ch.Qos(20, false)
			c.consume(queue, "t", false)
			rng := rand.New(rand.NewPCG(uint64(k), 0))
			for {
				for _, e := range c.Take(nil) {
					c.Flushed([]Event{e})
					if e.Kind != EventDelivery {
						continue
					}
					text := body(e)
					err := error(nil)
					switch {
					case queue == "dead" || rng.IntN(4) == 0:
						end(text)
						err = c.ch.Ack(e.Tag, false)
					case rng.IntN(4) == 0:
						err = c.ch.Nack(e.Tag, false, true)
					default:
						err = c.ch.Nack(e.Tag, false, false)
					}
					if err != nil {
						t.Error(err)
					}
				}
				select {
				case <-c.Wake():
				case <-stop:
					return
				}
			}
		})
	}
	working.Go(func() { // queues that come and go, and topology that changes
		c := w.client()
		defer c.Close()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := "passing" + strconv.Itoa(i%3)
			if _, err := c.DeclareQueue(QueueSpec{Name: name, Durable: i%2 > 0, Args: deadLetters("amq.topic", "beside")}); err != nil {
				t.Error(err)
				return
			}
			for j := range 20 {
				c.publish("", name, fmt.Sprint("passing", j), true)
			}
			for range 5 {
				if found, err := c.ch.Get(name, false); err != nil || !found {
					t.Error(found, err)
					return
				}
				if err := c.ch.Nack(c.next(EventGot).Tag, false, false); err != nil {
					t.Error(err)
				}
			}
			if _, err := c.PurgeQueue(name); err != nil {
				t.Error(err)
			}
			if _, err := c.DeleteQueue(name, false, false); err != nil {
				t.Error(err)
			}
			if _, err := c.PurgeQueue("beside"); err != nil {
				t.Error(err)
			}
		}
	})
	publishing.Wait()
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(ended) == 2*each
	})
	close(stop)
	working.Wait()
	for text, n := range ended {
		if n != 1 {
			t.Errorf("%.20q has ended %d times", text, n)
		}
	}
	w.restart()
	c = w.client()
	defer c.Close()
	c.ready("q", 0)
	c.ready("dead", 0)
}

// TestRejectingManyHoldsNoBodies refuses much more than memory is meant to hold.
func TestRejectingManyHoldsNoBodies(t *testing.T) {
	const n, size, hot = 30_000, 1000, 1 << 20
	dir := t.TempDir()
	w := &world{t: t, open: func() (journal.Journal, error) {
		return file.Open(vfs.OS{}, dir, file.Options{Logger: discard})
	}}
	w.start(func(c *Config) { c.HotBytes = hot })
	t.Cleanup(w.stop)
	c := w.client().confirming()
	defer c.Close()
	c.queue("dead", true)
	c.queueWith("q", true, deadLetters("", "dead"))
	text := strings.Repeat("x", size)
	for i := range n {
		if err := c.ch.Publish(&Publish{Key: []byte("q"), Persistent: true, Body: []byte(text)}); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 999 {
			c.Flush()
			c.confirmed()
		}
	}
	q := w.lookup("q")
	most := int64(0)
	for i := 0; i < n; {
		q.mu.Lock()
		for range 1000 {
			seq, e := q.peekLocked()
			if e == nil {
				t.Fatalf("nothing is behind %d", i)
			}
			q.expelLocked(seq, expired)
			i++
		}
		q.mu.Unlock()
		most = max(most, w.b.evict.hot.Load())
	}
	for done := false; !done; {
		q.mu.Lock()
		done = q.leavingLocked() == 0
		q.mu.Unlock()
		most = max(most, w.b.evict.hot.Load())
	}
	c.ready("dead", n)
	// What waits for the journal is in memory too.
	if most > movePending+batchBody*(maxInFlight+carriers+2)+8*hot {
		t.Errorf("%d bytes of bodies were in memory, of %d; the limit is %d", most, n*size, hot)
	}
	t.Logf("at most %d bytes", most)
}

// TestCloseWhileMessagesMove closes a broker that has much to move: it does not wait
// for that, and the next one has each message once.
func TestCloseWhileMessagesMove(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.world(t)
		c := w.client().confirming()
		c.queue("dead", true)
		c.queueWith("q", true, deadLetters("", "dead"))
		n := on.some(8000, 1500)
		for i := range n {
			if err := c.ch.Publish(&Publish{Key: []byte("q"), Persistent: true, Body: []byte(fmt.Sprint(i))}); err != nil {
				t.Fatal(err)
			}
		}
		c.Flush()
		c.confirmed()
		q := w.lookup("q")
		q.mu.Lock()
		for range n {
			seq, _ := q.peekLocked()
			q.expelLocked(seq, maxlen)
		}
		q.mu.Unlock()
		eventually(t, func() bool {
			info, err := c.CheckQueue("dead")
			return err != nil || info.Messages > 0
		})
		c.Close()
		w.restart()
		c = w.client()
		defer c.Close()
		here, dead := c.drain("q"), c.drain("dead")
		t.Logf("%d of %d were moved", len(dead), n)
		for i, text := range append(dead, here...) { // in order: the first ones were moved
			if text != fmt.Sprint(i) {
				t.Fatalf("number %d is %s", i, text)
			}
		}
		if len(dead)+len(here) != n {
			t.Errorf("%d are in q, %d in dead; want %d", len(here), len(dead), n)
		}
	})
}

// FuzzObituary: whatever a client published, and whatever says that a broker wrote
// it, is dead-lettered, with a history that is in proportion, once and again.
func FuzzObituary(f *testing.F) {
	death := numberArg(nil, deathCount, 3)
	death = appendTextHeader(appendTextHeader(death, deathQueue, "q"), deathReason, "rejected")
	table := append([]byte{'F', 0, 0, 0, byte(len(death))}, death...)
	array := append([]byte("\x07x-deathA\x00\x00\x00"), byte(len(table)))
	f.Add(append(array, table...), true, uint8(rejected))
	f.Add(append(array, table...), true, uint8(expired))
	f.Add([]byte("\x07x-deathA\x00\x00\x00\x00"), true, uint8(maxlen))
	f.Add([]byte("\x07x-deathF\x00\x00\x00\x00\x02CCA\x00\x00\x00\x06S\x00\x00\x00\x01b"), false, uint8(deliveryLimit))
	f.Fuzz(func(t *testing.T, headers []byte, dead bool, why uint8) {
		if why < uint8(rejected) || why > uint8(deliveryLimit) {
			return
		}
		if _, ok := message.DecodeHeaders(headers); !ok {
			return // a server refuses it
		}
		block := append(message.AppendBlockHead(nil, true, []byte("x"), []byte("k"), message.AppendField(nil, message.Headers, headers)), "body"...)
		if dead {
			message.MarkDead(block)
		}
		o := &obituary{}
		first := 0
		for round := range 3 {
			v, err := message.Parse(block)
			if err != nil {
				t.Fatal(err)
			}
			o.why, o.from, o.to = reason(why), append(o.from[:0], "q"...), append(o.to[:0], "dlx"...)
			block = o.write(nil, &v)
			after, err := message.Parse(block)
			if err != nil || !after.Dead || string(after.Body) != "body" || string(after.Exchange) != "dlx" || string(after.Key) != "k" {
				t.Fatalf("it becomes %q, %v", block, err)
			}
			m, ok := message.DecodeHeaders(message.Field(after.Properties, message.Headers))
			list, isList := m[deathHeader].([]any)
			if !ok || !isList || len(list) == 0 || len(list) > deathsMost {
				t.Fatalf("the headers are %v", m)
			}
			entry, _ := list[0].(map[string]any)
			if entry[deathQueue] != "q" || entry[deathReason] != reason(why).String() || len(o.deaths) > deathsMost {
				t.Fatalf("the newest is %v", entry)
			}
			if n, _ := entry[deathCount].(int64); n < int64(round+1) {
				t.Fatalf("count is %v in round %d", entry[deathCount], round)
			}
			o.cycles("q")
			if round == 1 {
				first = len(block) // the exchange of the first time was another
			} else if round > 1 && len(block) > first {
				t.Fatalf("it grows from %d to %d bytes for the same queue and reason", first, len(block))
			}
		}
	})
}
