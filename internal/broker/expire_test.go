package broker

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// inTime runs a test with a clock of its own.
func inTime(t *testing.T, test func(t *testing.T, w *world), change ...func(*Config)) {
	synctest.Test(t, func(t *testing.T) { test(t, onMemory.world(t, change...)) })
}

func (w *world) depth(queue string) Depth {
	q := w.queueOf(queue)
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.depthLocked()
}

// expire publishes a message that lasts some milliseconds.
func (c *client) expire(queue, text string, millis int, persistent bool) {
	c.t.Helper()
	c.publishWith("", queue, lastingProps(0, strconv.Itoa(millis)), text, persistent)
}

// texts are the bodies of a queue's ready messages, which are taken out.
func (c *client) texts(queue string) (all []string) {
	c.t.Helper()
	for {
		found, err := c.ch.Get(queue, true)
		if c.must(err); !found {
			return all
		}
		all = append(all, body(c.next(EventGot)))
	}
}

func TestMessagesExpireOnTimeWhereverTheyAre(t *testing.T) {
	for _, durable := range []bool{true, false} {
		inTime(t, func(t *testing.T, w *world) {
			c := w.client()
			defer c.Close()
			c.queue("q", durable)
			rnd := rand.New(rand.NewPCG(3, 4))
			began := time.Now()
			type lasting struct {
				text  string
				until time.Duration // 0: for ever
			}
			var all []lasting
			for i := range 2000 {
				text := fmt.Sprint("m", i)
				if i%10 == 0 {
					c.publish("", "q", text, true)
					all = append(all, lasting{text, 0})
					continue
				}
				ttl := time.Duration(1+rnd.IntN(20_000)) * time.Millisecond
				c.expire("q", text, int(ttl.Milliseconds()), true)
				all = append(all, lasting{text, ttl})
			}
			for time.Since(began) < 21*time.Second {
				time.Sleep(97 * time.Millisecond)
				synctest.Wait()
				least, most := 0, 0
				for _, m := range all {
					if m.until == 0 || m.until > time.Since(began) {
						least++
					}
					if m.until == 0 || m.until > time.Since(began)-2*tickLeast {
						most++
					}
				}
				info, err := c.CheckQueue("q")
				if c.must(err); info.Messages < least || info.Messages > most {
					t.Fatalf("after %v there are %d messages, want %d to %d", time.Since(began), info.Messages, least, most)
				}
			}
			w.sum("q")
			got, want := c.texts("q"), []string{}
			for _, m := range all {
				if m.until == 0 {
					want = append(want, m.text)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d messages are left, want %d in their order", len(got), len(want))
			}
		})
	}
}

// What has expired is not delivered, also when nobody has looked for it yet.
func TestExpiredMessageIsNeverDelivered(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		c.queue("q", true)
		q := w.queueOf("q")
		for i := range 300 {
			c.expire("q", fmt.Sprint(i), 1000, true)
		}
		q.mu.Lock() // the timer does not come to it
		q.eachChunk(func(k *chunk) {
			for i := range k.entries {
				k.times.due[i] -= int64(1000 * (1 - i%2))
			}
		})
		for i := range 150 {
			seq, e := q.peekLocked()
			if e == nil || seq != uint64(2*i+1) {
				t.Fatalf("found message %d, want %d", seq, 2*i+1)
			}
			q.takeLocked(seq, e)
		}
		if seq, e := q.peekLocked(); e != nil {
			t.Fatalf("found message %d, want none", seq)
		}
		q.reportLocked()
		q.mu.Unlock()
		synctest.Wait()
		w.sum("q")
	})
}

func TestTTLOfQueueAndMessage(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		c.queueWith("q", true, args{"x-message-ttl": 1000}.list())
		c.publish("", "q", "of the queue", true)
		c.expire("q", "sooner", 500, true)
		c.expire("q", "later", 5000, true)
		time.Sleep(600 * time.Millisecond)
		c.ready("q", 2)
		time.Sleep(500 * time.Millisecond)
		c.ready("q", 0)

		// Other rules concern what comes.
		c.publish("", "q", "before", true)
		q := w.queueOf("q")
		q.mu.Lock()
		q.rules = noRules
		q.mu.Unlock()
		c.publish("", "q", "behind", true)
		time.Sleep(1100 * time.Millisecond)
		if got := c.texts("q"); !slices.Equal(got, []string{"behind"}) {
			t.Errorf("there are %q", got)
		}
	})
}

func TestMessageToBeDeliveredAtOnceOrNotAtAll(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client().confirming()
		defer c.Close()
		c.queueWith("zero", true, args{"x-message-ttl": 0}.list())
		c.queue("other", true)
		c.must(c.BindQueue("zero", "amq.fanout", "", nil))
		c.must(c.BindQueue("other", "amq.fanout", "", nil))
		c.publish("", "zero", "in vain", true)
		c.ready("zero", 0)
		c.publish("amq.fanout", "", "for one", true)
		c.ready("zero", 0)
		c.ready("other", 1)
		c.confirmed()

		c.ch.Qos(1, false)
		c.consume("zero", "t", false)
		c.publish("amq.fanout", "", "taken", true)
		c.publish("amq.fanout", "", "no room", true)
		c.publish("amq.fanout", "", "large"+string(make([]byte, flushBytes)), false)
		e := c.expect("taken", false)
		c.none(EventDelivery)
		c.ready("zero", 0)
		c.ready("other", 4)
		// It does not expire while it is unsettled, and does when it is given back.
		c.must(c.ch.Nack(e.Tag, false, true))
		synctest.Wait()
		c.none(EventDelivery)
		if n := w.unsettled("zero"); n != 0 {
			t.Errorf("%d messages are unsettled", n)
		}
		c.ready("zero", 0)
		c.expire("zero", "at last", 0, true)
		c.expect("at last", false)
		c.confirmed()

		tx := w.client()
		defer tx.Close()
		c.must(tx.ch.TxSelect())
		tx.publish("amq.fanout", "", "in a transaction", true)
		c.must(tx.ch.TxCommit())
		c.ready("zero", 0)
		c.ready("other", 5)
		w.sum("zero")
	})
}

func TestUnsettledMessagesDoNotExpire(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		c.queue("q", true)
		c.expire("q", "a", 1000, true)
		c.expire("q", "b", 1000, true)
		c.expire("q", "c", 5000, true)
		c.consume("q", "t", false)
		a, b, third := c.next(EventDelivery), c.next(EventDelivery), c.next(EventDelivery)
		time.Sleep(2 * time.Second)
		c.ch.Cancel("t")
		c.must(c.ch.Nack(b.Tag, false, true))
		c.must(c.ch.Nack(third.Tag, false, true))
		synctest.Wait()
		c.ready("q", 1)
		c.must(c.ch.Ack(a.Tag, false))
		time.Sleep(3001 * time.Millisecond)
		synctest.Wait()
		time.Sleep(tickLeast)
		c.ready("q", 0)
		w.sum("q")
	})
}

// A message expires when it was to, whoever owns it then, and however long nobody
// did.
func TestExpiryGoesOnAfterARestart(t *testing.T) { eachJournal(t, testExpiryGoesOnAfterARestart) }

func testExpiryGoesOnAfterARestart(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client().confirming()
	c.queue("q", true)
	c.queueWith("short", true, args{"x-message-ttl": 1}.list())
	c.must(c.BindQueue("q", "amq.fanout", "", nil))
	c.must(c.BindQueue("short", "amq.fanout", "", nil))
	for i := range 40 {
		c.expire("q", fmt.Sprint("long ", i), 3600_000, true)
		c.publishWith("amq.fanout", "", lastingProps(0, "3600000"), "twice", true)
		c.expire("q", "short", 1, true)
	}
	c.expire("q", string(make([]byte, 3*partSize)), 3600_000, true)
	c.confirmed()
	q := w.queueOf("q")
	q.mu.Lock()
	due := q.attrsLocked(0).due
	q.mu.Unlock()
	if least := nowMillis() + 3500_000; due < least || due > least+100_000 {
		t.Errorf("it expires at %d", due)
	}
	c.Close()
	w.restart()
	c = w.client()
	defer c.Close()
	eventually(t, func() bool {
		q, short := w.queueOf("q"), w.queueOf("short")
		q.mu.Lock()
		defer q.mu.Unlock()
		short.mu.Lock()
		defer short.mu.Unlock()
		return q.ready == 81 && short.ready == 0
	})
	q = w.queueOf("q")
	q.mu.Lock()
	if again := q.attrsLocked(0).due; again != due {
		t.Errorf("it expires at %d, was to at %d", again, due)
	}
	q.mu.Unlock()
	for i, text := range c.texts("q")[:80] {
		if i%2 == 0 && text != fmt.Sprint("long ", i/2) || i%2 == 1 && text != "twice" {
			t.Errorf("message %d is %q", i, text)
		}
	}
}

// A long backlog whose index is packed expires on time, and stays packed.
func TestColdMessagesExpire(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client().confirming()
		defer c.Close()
		c.queue("q", true)
		const n = 64 * chunkSize
		for i := range n {
			c.expire("q", fmt.Sprint(i), 60_000+1000*(i%60), true)
		}
		c.confirmed()
		q := w.queueOf("q")
		packed := func() (n int) {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.eachChunk(func(k *chunk) {
				if k.packed != nil {
					n++
				}
			})
			return n
		}
		for packed() < 60 {
			w.b.evict.poke()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(30*time.Second + 60*time.Second)
		synctest.Wait()
		left := w.depth("q").Ready
		if left < n/2-300 || left > n/2+300 {
			t.Errorf("%d messages are left of %d", left, n)
		}
		if packed() < 60 {
			t.Errorf("%d chunks are packed", packed())
		}
		w.sum("q")
		time.Sleep(31 * time.Second)
		c.ready("q", 0)
		q.mu.Lock()
		if chunks := q.lane.chunks.len(); chunks > 1 || len(q.clock.timed) > 0 {
			t.Errorf("%d chunks are left, %d with times", chunks, len(q.clock.timed))
		}
		q.mu.Unlock()
	}, func(c *Config) { c.HotBytes = 1 << 12 })
}

func TestMessagesThatWait(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		c.queue("q", true)
		q := w.queueOf("q")
		for i := range 3 {
			c.expire("q", fmt.Sprint(i), 10_000, true)
		}
		q.mu.Lock()
		q.delayLocked(0, nowMillis()+1000)
		q.delayLocked(1, nowMillis()+60_000) // it expires before
		q.countLocked(0, 7)
		q.dispatchLocked()
		q.mu.Unlock()
		c.ready("q", 1)
		w.sum("q")
		if got := c.texts("q"); !slices.Equal(got, []string{"2"}) {
			t.Errorf("got %q", got)
		}
		c.Close()
		w.restart()
		c = w.client()
		defer c.Close()
		c.ready("q", 0)
		if d := w.depth("q"); d.Waiting != 2 {
			t.Errorf("%+v after a restart", d)
		}
		time.Sleep(1000*time.Millisecond + tickLeast)
		synctest.Wait()
		c.ready("q", 1)
		q = w.queueOf("q")
		q.mu.Lock()
		if a := q.attrsLocked(0); a.count != 7 || a.wake != 0 {
			t.Errorf("%+v", a)
		}
		q.mu.Unlock()
		if got := c.texts("q"); !slices.Equal(got, []string{"0"}) {
			t.Errorf("got %q", got)
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		w.sum("q")
		if d := w.depth("q"); d.Messages() != 0 {
			t.Errorf("%+v at the end", d)
		}
	})
}

func TestQueueExpiresWhenItIsNotUsed(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		const each = 1000 * time.Millisecond
		spec := func(name string) QueueSpec {
			return QueueSpec{Name: name, Durable: true, Args: args{"x-expires": int(each.Milliseconds())}.list()}
		}
		for _, name := range []string{"unused", "declared", "got", "consumed", "asked"} {
			_, err := c.DeclareQueue(spec(name))
			c.must(err)
			c.publish("", name, "a message is no use", true)
		}
		there := func(name string) bool { synctest.Wait(); return w.queueOf(name) != nil }
		d := w.client()
		d.consume("consumed", "t", false)
		for range 4 {
			time.Sleep(each - 50*time.Millisecond)
			_, err := c.DeclareQueue(spec("declared"))
			c.must(err)
			_, err = c.CheckQueue("asked")
			c.must(err)
			_, err = c.ch.Get("got", true)
			c.must(err)
		}
		if there("unused") {
			t.Error("a queue that nobody uses is there")
		}
		for _, name := range []string{"declared", "got", "consumed", "asked"} {
			if !there(name) {
				t.Errorf("queue %s is gone", name)
			}
		}
		d.Close()
		time.Sleep(each - 50*time.Millisecond)
		if !there("consumed") || !there("got") {
			t.Error("a queue is gone too early")
		}
		// What counted before a restart does not count.
		c.Close()
		w.restart()
		time.Sleep(each - 50*time.Millisecond)
		if !there("consumed") || there("unused") {
			t.Error("a queue is gone, or is back, after a restart")
		}
		time.Sleep(100 * time.Millisecond)
		for _, name := range []string{"declared", "got", "consumed", "asked"} {
			if there(name) {
				t.Errorf("queue %s is there", name)
			}
		}
		w.restart()
		if there("consumed") {
			t.Error("a queue that has expired is back")
		}
	})
}

// A standby leaves what expires to the owner, and goes on where that ends.
func TestStandbyDoesNotExpire(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		b := s.node("b")
		c := a.client().confirming()
		c.queue("q", true)
		c.queueWith("brief", true, args{"x-expires": 2000}.list())
		c.expire("q", "short", 1000, true)
		c.expire("q", "long", 3600_000, true)
		c.publish("", "q", "for ever", true)
		c.confirmed()
		time.Sleep(300 * time.Millisecond)
		if st := b.standby.Status(); st.Messages != 3 || st.Queues != 2 {
			t.Errorf("the standby knows %+v", st)
		}
		a.kill() // nobody is there when the first expires
		b.up(time.Minute)
		d := b.client()
		if got := d.texts("q"); !slices.Equal(got, []string{"long", "for ever"}) {
			t.Errorf("got %q", got)
		}
		time.Sleep(1900 * time.Millisecond)
		_, err := d.CheckQueue("brief")
		d.must(err)
		d.Close()
		b.stop()
	})
}

// TestDeletedQueueHasNoClock: who found it just before it was deleted has used it, and
// does not keep it in memory for as long as it would have lasted.
func TestDeletedQueueHasNoClock(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	q := c.declare("q", args{"x-expires": maxDuration})
	if _, err := c.DeleteQueue("q", false, false); err != nil {
		t.Fatal(err)
	}
	q.info()
	w.b.timers.mu.Lock()
	defer w.b.timers.mu.Unlock()
	if n := len(w.b.timers.heap); n > 0 {
		t.Errorf("%d queues have something to do", n)
	}
}

// TestOneQueueDoesNotKeepOthersWaiting: however much of it has expired, the others have
// their turns.
func TestOneQueueDoesNotKeepOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.client()
		c.queue("q", false)
		c.Close()
		w.stop() // from here on nobody else looks at the clock
		q := w.lookup("q")
		const n = 2*tickBatch + 1
		for range n {
			q.mu.Lock()
			m := &stored{}
			m.setBlock([]byte("block"))
			m.holders.Store(1)
			q.appendLocked(m, arrival{ttl: 1 + 1})
			q.mu.Unlock()
		}
		time.Sleep(time.Millisecond)
		for turns := 1; q.tick(); turns++ {
			if want := n - turns*tickBatch; q.ready < want-chunkSize || q.ready > want {
				t.Fatalf("there are %d left after %d turns, want about %d", q.ready, turns, want)
			}
		}
		if q.ready != 0 {
			t.Errorf("there are %d left", q.ready)
		}
	})
}

// TestClockRestsHoweverFarTheNextTimeIs: until the end of times, too.
func TestClockRestsHoweverFarTheNextTimeIs(t *testing.T) {
	for millis, want := range map[int64]time.Duration{
		notTimed - 1: tickMost, notTimed / 1000: tickMost, notTimed/1000/1000 + 1: tickMost, 1000: tickMost,
		999: 999 * time.Millisecond, 5: tickLeast, 0: tickLeast, -1: tickLeast, -notTimed / 1000: tickLeast,
	} {
		if got := tickRest(millis); got != want {
			t.Errorf("%d ms: %v, want %v", millis, got, want)
		}
	}
}

// TestUnusedQueueIsDeletedOnce: also if that takes long, because its messages are on
// their way to where the journal has no room.
func TestUnusedQueueIsDeletedOnce(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		q := c.declare("q", args{"x-expires": 1000})
		q.mu.Lock()
		q.exit = &exit{given: 1}
		q.mu.Unlock()
		time.Sleep(time.Second + 100*time.Millisecond)
		before := runtime.NumGoroutine()
		time.Sleep(time.Second)
		if n := runtime.NumGoroutine() - before; n > 1 {
			t.Errorf("%d more wait to delete the queue", n)
		}
		q.mu.Lock()
		q.exit.done = 1
		q.exit.tellLocked()
		q.mu.Unlock()
		synctest.Wait()
		if w.lookup("q") != nil {
			t.Error("the queue is still there")
		}
		c.Close()
	})
}

// A queue is full when the broker comes back, because what was delivered is ready
// again: it is what expired meanwhile that goes, and not what is in front of it.
func TestWhatExpiredMeanwhileTakesNoPlace(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		c.queueWith("q", true, numberArg(nil, "x-max-length", 1))
		c.publish("", "q", "kept", true)
		c.fetch("q")
		c.expire("q", "gone", 1000, true)
		c.ready("q", 1)
		w.stop() // with the delivery unsettled
		time.Sleep(2 * time.Second)
		w.start()
		c = w.client()
		defer c.Close()
		if got := c.texts("q"); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("there are %q", got)
		}
	})
}

// The same when deliveries are given back: what expired with their consumer makes room.
func TestWhatExpiredWithItsConsumerTakesNoPlace(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		c.queueWith("q", true, numberArg(nil, "x-max-length", 1))
		for range 2 {
			c.expire("q", "gone", 1000, true)
			c.fetch("q")
		}
		c.publish("", "q", "kept", true)
		last := c.fetch("q").Tag
		time.Sleep(2 * time.Second)
		c.must(c.ch.Nack(last, true, true))
		if got := c.texts("q"); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("there are %q", got)
		}
	})
}

// Nor does it while it is on its way out, where priorities would have others go first.
func TestWhatIsGivenBackTooLateTakesNoPlace(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		defer c.Close()
		c.queueWith("q", true, numberArg(numberArg(nil, "x-max-length", 1), "x-max-priority", 2))
		c.publishWith("", "q", lastingProps(2, "1000"), "gone", true)
		tag := c.fetch("q").Tag
		c.publish("", "q", "kept", true)
		time.Sleep(2 * time.Second)
		c.must(c.ch.Nack(tag, false, true))
		if got := c.texts("q"); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("there are %q", got)
		}
	})
}
