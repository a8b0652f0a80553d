package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

var takesOnce = []byte("\x17x-message-deduplicationt\x01")

// takesOnce declares a queue that takes each value once.
func (c *client) takesOnce(name string, more ...[]byte) {
	c.t.Helper()
	_, err := c.DeclareQueue(QueueSpec{Name: name, Durable: true, Args: headerList(append(more, takesOnce)...)})
	c.must(err)
}

// value publishes to a queue messages whose value is their body.
func (c *client) value(queue string, values ...string) {
	c.t.Helper()
	for _, v := range values {
		c.must(c.ch.Publish(&Publish{
			Key: []byte(queue), Persistent: true, Mandatory: true, Properties: withHeaders(longText(dedupHeader, v)), Body: []byte(v),
		}))
	}
	c.Flush()
}

// valuesSound fails unless a queue knows just the values of what it has.
func (c *client) valuesSound(name string) {
	c.t.Helper()
	q := c.v.queues[name]
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	q.eachChunk(func(k *chunk) {
		p := k.peek()
		for i, e := range p.entries {
			if e.msg == nil {
				continue
			}
			if v := p.attrs(i).value; v != (dupID{}) {
				if n++; q.values[v] != k.first+uint64(i) {
					c.t.Errorf("%s: the value of message %d is that of %d", name, k.first+uint64(i), q.values[v])
				}
			}
		}
	})
	if n != len(q.values) {
		c.t.Errorf("%s: %d messages have values, and %d are known", name, n, len(q.values))
	}
}

func TestQueueTakesAValueOnceWhileItHasIt(t *testing.T) {
	eachJournal(t, testQueueTakesAValueOnceWhileItHasIt)
}

func testQueueTakesAValueOnceWhileItHasIt(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client().confirming()
	c.takesOnce("q")
	c.queue("all", true)
	for _, q := range []string{"q", "all"} {
		c.must(c.BindQueue(q, "amq.fanout", "", nil))
	}
	c.value("q", "1", "2", "1", "3", "2", "1")
	c.publish("", "q", "plain", true)
	c.publish("", "q", "plain", true)
	c.seen("amq.fanout", true, "1", "4", "4")
	c.confirmed()
	c.none(EventReturn)
	c.holds("all", "1", "4", "4")
	c.valuesSound("q")
	k := c.consume("q", "t", false)
	first := c.expect("1", false)
	c.value("q", "1") // it is not settled
	c.must(c.ch.Ack(first.Tag, false))
	c.value("q", "1", "1")
	c.confirmed()
	c.ch.Cancel(k.Tag())
	c.must(c.ch.Nack(0, true, true))
	c.valuesSound("q")
	c.ready("q", 6)
	for range 2 {
		c.Close()
		w.restart()
		c = w.client().confirming()
		c.valuesSound("q")
		c.value("q", "2", "3", "1", "4")
		c.confirmed()
		c.ready("q", 6)
		if err := w.b.takeCheckpoint(); err != nil {
			t.Fatal(err)
		}
	}
	c.holds("q", "2", "3", "plain", "plain", "4", "1")
	c.value("q", "2", "3")
	c.confirmed()
	if n, err := c.PurgeQueue("q"); n != 2 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	c.value("q", "2")
	c.confirmed()
	c.holds("q", "2")
	c.valuesSound("q")
	c.Close()
}

func TestValuesLeaveWithTheirMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, tx := w.client().confirming(), w.transacting()
		c.takesOnce("q", number("x-message-ttl", 200), longText("x-dead-letter-exchange", "amq.fanout"))
		c.takesOnce("dead")
		c.must(c.BindQueue("dead", "amq.fanout", "", nil))
		c.value("q", "1", "1", "2")
		c.confirmed()
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		c.value("q", "1", "2", "3")
		c.confirmed()
		c.ready("q", 3)
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		c.valuesSound("q")
		c.valuesSound("dead")
		c.holds("dead", "1", "2", "3")
		tx.value("q", "1", "2", "1")
		tx.commit()
		tx.none(EventReturn)
		tx.value("q", "1", "3")
		tx.must(tx.ch.TxRollback())
		tx.value("q", "2", "3", "3")
		tx.commit()
		c.ready("q", 3)
		c.valuesSound("q")
		tx.Close()
		c.Close()
		w.stop()
	})
}

// A message that is dead-lettered to its own queue is not a repeat of itself.
func TestDeadLetterToItsOwnQueueIsNoRepeat(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	defer c.Close()
	c.takesOnce("q", longText("x-dead-letter-exchange", ""), longText("x-dead-letter-routing-key", "q"))
	c.value("q", "1")
	c.confirmed()
	c.consume("q", "t", false)
	e := c.expect("1", false)
	c.must(c.ch.Nack(e.Tag, false, false))
	c.expect("1", false)
	c.valuesSound("q")
}

func TestQueueTakesAValueOnceOfIdentities(t *testing.T) {
	w := newWorld(t)
	c := w.client().confirming()
	c.takesOnce("q")
	for i := range 200 {
		c.must(c.ch.Publish(&Publish{
			Key: []byte("q"), Persistent: true, Properties: named(fmt.Sprint("p-", i+1), longText(dedupHeader, fmt.Sprint(i%3))), Body: []byte("m"),
		}))
	}
	c.Flush()
	c.confirmed()
	c.ready("q", 3)
	for range 2 {
		if p := c.v.producers.find([]byte("p")); p.all.top != (span{1, 200}) {
			t.Errorf("accepted are %v %v of 200", p.all.top, p.all.rest)
		}
		c.Close()
		w.restart()
		c = w.client()
	}
	c.Close()
}

// A crash forgets a value with its message, whatever the queue drops beside.
func TestValuesOfAQueueAreAsDurableAsItsMessages(t *testing.T) {
	w := &world{t: t, fs: vfs.NewMem(), wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
	w.fs.Record()
	w.start(tiny)
	c := w.client().confirming()
	c.takesOnce("q")
	began := len(w.fs.History())
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range 60 {
		c.value("q", fmt.Sprint(rng.IntN(12)), fmt.Sprint(rng.IntN(12)))
		c.confirmed()
		if found, err := c.ch.Get("q", true); err != nil {
			t.Fatal(err)
		} else if found {
			c.next(EventGot)
		}
		if i == 30 {
			if err := w.b.takeCheckpoint(); err != nil {
				t.Fatal(err)
			}
		}
		c.valuesSound("q")
	}
	c.Close()
	w.stop()
	all := len(w.fs.History())
	for at := began; at <= all; at += 1 + (all-began)/100 {
		w := &world{t: t, fs: w.fs.Cut(at, 0, 100, rand.New(rand.NewPCG(1, uint64(at)))), wrap: w.wrap}
		w.start(tiny)
		c := w.client().confirming()
		c.valuesSound("q")
		for i := range 12 {
			c.value("q", fmt.Sprint(i))
		}
		c.confirmed()
		got := c.drain("q")
		if slices.Sort(got); len(got) != 12 || len(slices.Compact(got)) != 12 {
			t.Fatalf("crash at change %d: %q", at, got)
		}
		c.Close()
		w.stop()
	}
}

// A long backlog is packed with its values.
func TestValuesOfABacklogArePacked(t *testing.T) {
	little := func(c *Config) { c.HotBytes, c.SegmentBytes = 16<<10, 64<<10 }
	w := newWorld(t, little)
	c := w.client().confirming()
	c.takesOnce("q")
	const n = 2000
	for i := range n {
		c.must(c.ch.Publish(&Publish{
			Key: []byte("q"), Persistent: true, Body: []byte(strings.Repeat("x", 50)),
			Properties: message.AppendFieldString(withHeaders(longText(dedupHeader, fmt.Sprint(i))), message.MessageID, fmt.Sprint(i)),
		}))
		if i%200 == 199 {
			c.Flush()
			c.confirmed()
		}
	}
	for range 2 {
		c.valuesSound("q")
		c.value("q", "0", "1999", "1000")
		c.confirmed()
		c.ready("q", n)
		c.Close()
		w.restart(little)
		c = w.client().confirming()
	}
	c.drain("q")
	c.valuesSound("q")
	c.Close()
}
