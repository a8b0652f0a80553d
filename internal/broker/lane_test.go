package broker

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func (c *client) urgent(queue string, priority byte, text string, persistent bool) {
	c.t.Helper()
	c.publishWith("", queue, lastingProps(priority, ""), text, persistent)
}

func TestHigherPriorityComesFirst(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("q", true, args{"x-max-priority": 5}.list())
	c.queue("plain", true)
	for i, p := range []byte{0, 3, 5, 1, 200, 3, 0, 6} {
		c.urgent("q", p, fmt.Sprint(p, "#", i), i%2 == 0)
		c.urgent("plain", p, fmt.Sprint(p, "#", i), i%2 == 0)
	}
	w.sum("q")
	// More than the highest is the highest, none is the lowest.
	if got, want := c.texts("q"), []string{"5#2", "200#4", "6#7", "3#1", "3#5", "1#3", "0#0", "0#6"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := c.texts("plain"), []string{"0#0", "3#1", "5#2", "1#3", "200#4", "3#5", "0#6", "6#7"}; !slices.Equal(got, want) {
		t.Errorf("without priorities: got %q, want %q", got, want)
	}
	if q := w.queueOf("plain"); q.more != nil {
		t.Error("a queue without priorities has lanes")
	}
}

func TestRequeuedMessagesComeFirstInTheirPriority(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("q", true, args{"x-max-priority": 9}.list())
	for i := range 4 {
		c.urgent("q", 2, fmt.Sprint("low ", i), true)
	}
	c.urgent("q", 7, "high 0", true)
	c.ch.Qos(3, false)
	c.consume("q", "t", false)
	c.expect("high 0", false)
	c.expect("low 0", false)
	e := c.expect("low 1", false)
	c.ch.Cancel("t")
	c.urgent("q", 7, "high 1", true)
	c.must(c.ch.Nack(e.Tag, true, true))
	w.sum("q")
	if got, want := c.texts("q"), []string{"high 0", "high 1", "low 0", "low 1", "low 2", "low 3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A message of a higher priority overtakes those that wait for a consumer with room.
func TestUrgentMessageOvertakesABacklog(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("q", false, args{"x-max-priority": 255}.list())
	c.ch.Qos(1, false)
	c.consume("q", "t", false)
	for i := range 5 {
		c.urgent("q", 1, fmt.Sprint(i), false)
	}
	e := c.expect("0", false)
	c.urgent("q", 255, "urgent", false)
	for _, want := range []string{"urgent", "1", "2", "3", "4"} {
		c.must(c.ch.Ack(e.Tag, false))
		e = c.expect(want, false)
	}
}

func TestPrioritiesSurviveARestart(t *testing.T) { eachJournal(t, testPrioritiesSurviveARestart) }

func testPrioritiesSurviveARestart(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client().confirming()
	c.queueWith("q", true, args{"x-max-priority": 10}.list())
	n := on.some(20, 4)
	var want []string
	for i := range n {
		for p := range byte(11) {
			c.urgent("q", p, fmt.Sprintf("%02d %d", p, i), true)
		}
	}
	c.confirmed()
	for p := 10; p >= 0; p-- {
		for i := range n {
			want = append(want, fmt.Sprintf("%02d %d", p, i))
		}
	}
	take := func(k int) {
		for _, text := range want[:k] {
			found, err := c.ch.Get("q", true)
			if c.must(err); !found {
				t.Fatalf("there is none, want %q", text)
			}
			if got := body(c.next(EventGot)); got != text {
				t.Fatalf("got %q, want %q", got, text)
			}
		}
		want = want[k:]
	}
	take(n + n/2)
	for range 2 {
		c.must(w.b.takeCheckpoint())
		c.urgent("q", 3, "03 later", true)
		c.confirmed()
		at := slices.IndexFunc(want, func(s string) bool { return s < "03" }) // behind all of its priority
		want = slices.Insert(want, at, "03 later")
		c.Close()
		w.restart()
		w.sum("q")
		c = w.client().confirming()
		take(n)
	}
	take(len(want))
	c.ready("q", 0)
	c.Close()
	w.restart()
	if d := w.depth("q"); d.Messages() != 0 {
		t.Errorf("%+v is back", d)
	}
}

func TestBacklogsOfManyPrioritiesOutgrowMemory(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HotBytes, c.SegmentBytes, c.CleanEvery = 32<<10, 64<<10, 10*time.Millisecond })
	c := w.client().confirming()
	defer c.Close()
	c.queueWith("q", true, args{"x-max-priority": 3}.list())
	const n = 1500
	for i := range n {
		c.urgent("q", byte(i%4), fmt.Sprintf("%d %d %s", i%4, i/4, make([]byte, 200)), true)
	}
	c.confirmed()
	eventually(t, func() bool { w.b.evict.poke(); return !w.b.evict.over() })
	c.consume("q", "t", false)
	for p := 3; p >= 0; p-- {
		for i := range n / 4 {
			e := c.next(EventDelivery)
			var gotP, gotI int
			if _, err := fmt.Sscan(body(e), &gotP, &gotI); err != nil || gotP != p || gotI != i {
				t.Fatalf("got %d %d (%v), want %d %d", gotP, gotI, err, p, i)
			}
			if i%50 == 49 {
				c.must(c.ch.Ack(e.Tag, true))
			}
		}
	}
	c.must(c.ch.Ack(0, true))
	w.sum("q")
	if d := w.depth("q"); d.Messages() != 0 {
		t.Errorf("%+v is left", d)
	}
}

func TestPurgeAndDeleteTakeAllPriorities(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	for _, name := range []string{"q", "r"} {
		c.queueWith(name, true, args{"x-max-priority": 9}.list())
		for i := range 3 * chunkSize {
			c.urgent(name, byte(i%10), fmt.Sprint(i), true)
		}
	}
	c.confirmed()
	if n, err := c.PurgeQueue("q"); n != 3*chunkSize || err != nil {
		t.Errorf("%d purged (%v)", n, err)
	}
	w.sum("q")
	c.ready("q", 0)
	if n, err := c.DeleteQueue("r", false, false); n != 3*chunkSize || err != nil {
		t.Errorf("%d deleted (%v)", n, err)
	}
	w.b.log.mu.Lock()
	defer w.b.log.mu.Unlock()
	for _, s := range w.b.log.segs {
		if s.live != 0 {
			t.Errorf("segment %d has %d live bytes", s.number, s.live)
		}
	}
}

func TestFullQueueDropsTheLowestPriorityFirst(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queueWith("q", true, args{"x-max-priority": 9, "x-max-length": 3}.list())
	for i, p := range []byte{5, 1, 9, 1, 5, 9} {
		c.urgent("q", p, fmt.Sprint(i), true)
	}
	if got, want := c.texts("q"), []string{"2", "5", "4"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUrgentMessagesExpire(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		c := w.client()
		c.queueWith("q", true, args{"x-max-priority": 9}.list())
		for p := range byte(10) {
			c.publishWith("", "q", lastingProps(p, fmt.Sprint(1000*int(p+1))), fmt.Sprint(p), true)
		}
		c.Close()
		w.restart()
		time.Sleep(5*time.Second + tickLeast)
		synctest.Wait()
		c = w.client()
		defer c.Close()
		if got, want := c.texts("q"), []string{"9", "8", "7", "6", "5"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
