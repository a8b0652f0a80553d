package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// numberArg appends an argument that is a number.
func numberArg(args []byte, name string, n int64) []byte {
	return binary.BigEndian.AppendUint64(appendName(args, name, 'l'), uint64(n))
}

// counted checks what a delivery tells of those in vain; -1: nothing.
func counted(t *testing.T, e Event, delivered, acquired int64) {
	t.Helper()
	l := letterOf(t, e)
	for name, want := range map[string]int64{deliveryCountHeader: delivered, acquiredCountHeader: acquired} {
		if got, ok := l.headers[name].(int64); ok != (want >= 0) || ok && got != want {
			t.Errorf("%s is %v, want %d", name, l.headers[name], want)
		}
	}
}

// TestDeliveriesInVainAreCounted returns a message in every way until there were too
// many failures.
func TestDeliveriesInVainAreCounted(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.world(t)
		c := w.client()
		c.queueWith("q", true, numberArg(deadLetters("", "dead"), "x-delivery-limit", 3))
		c.queue("dead", true)
		props := message.AppendFieldString(nil, message.ContentType, "text/plain")
		props = message.AppendField(props, message.Headers, numberArg(appendTextHeader(nil, "mine", "1"), deliveryCountHeader, 77))
		props = message.AppendFieldString(props, message.MessageID, "id")
		c.publishWith("", "q", props, "m", true)
		c.consume("q", "t", false)
		e := c.next(EventDelivery)
		counted(t, e, 77, -1) // the publisher's own, nothing to tell
		if err := c.ch.Reject(e.Tag, true); err != nil {
			t.Fatal(err)
		}
		e = c.next(EventDelivery)
		counted(t, e, 1, 1)
		if l := letterOf(t, e); l.headers["mine"] != "1" || l.body != "m" || !e.Redelivered {
			t.Errorf("got %+v", l)
		}
		for i := range 3 {
			if err := c.ch.Nack(e.Tag, false, true); err != nil {
				t.Fatal(err)
			}
			e = c.next(EventDelivery)
			counted(t, e, 1, int64(2+i))
		}
		c.Close() // a connection that is lost has failed
		w.restart()
		c = w.client()
		e = c.fetch("q")
		counted(t, e, 2, 5)
		c.ch.Close()
		c.ch = c.OpenChannel(2)
		e = c.fetch("q")
		counted(t, e, 3, 6)
		if err := c.ch.Reject(e.Tag, true); err != nil {
			t.Fatal(err)
		}
		w.settled("q")
		c.ready("q", 0)
		e = c.fetch("dead")
		counted(t, e, 4, 7)
		checkDeaths(t, letterOf(t, e), deathOf("q", "delivery_limit", "", 1, "q"))
		c.Close()
	})
}

// TestWhatWasNotWrittenHasNotFailed loses a connection that has been written some of
// its deliveries only.
func TestWhatWasNotWrittenHasNotFailed(t *testing.T) {
	for _, how := range []string{"channel", "connection"} {
		w := newWorld(t)
		c := w.client()
		c.queueWith("q", true, numberArg(nil, "x-delivery-limit", 0))
		for i := range 10 {
			c.publish("", "q", fmt.Sprint(i), true)
		}
		c.consume("q", "t", false)
		for range 10 {
			c.next(EventDelivery)
		}
		c.ch.Cancel("t")
		for i := range 5 {
			c.publish("", "q", fmt.Sprint(10+i), true)
		}
		c.consume("q", "t", false) // these are in the outbox
		if how == "channel" {
			c.ch.Close()
		}
		c.Close()
		w.settled("q")
		d := w.client()
		d.ready("q", 5)
		d.ready("q.parked", 10)
		counted(t, d.fetch("q"), 0, 0)
		d.Close()
	}
}

// TestQueuesThatDoNotCount return messages as often as one likes, and tell nothing.
func TestQueuesThatDoNotCount(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	c.queueWith("forever", true, numberArg(appendTextHeader(nil, "x-queue-type", "quorum"), "x-delivery-limit", -1))
	c.queueWith("quorum", true, appendTextHeader(nil, "x-queue-type", "quorum"))
	for _, q := range []string{"q", "forever", "quorum"} {
		c.publish("", q, "m", true)
		for i := range quorumDeliveries + 1 {
			e := c.fetch(q)
			want := int64(i)
			if q == "q" {
				want = -1
			}
			counted(t, e, want, want)
			if err := c.ch.Reject(e.Tag, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.settled("quorum")
	c.ready("q", 1)
	c.ready("forever", 1)
	c.ready("quorum", 0)
	c.ready("quorum.parked", 1)
	// There the limit is none, also if one is set.
	x := w.lookup("quorum.parked")
	x.mu.Lock()
	limited := *x.rules
	limited.deliveries = 0
	x.rules = &limited
	x.mu.Unlock()
	for range 3 {
		if err := c.ch.Reject(c.fetch("quorum.parked").Tag, true); err != nil {
			t.Fatal(err)
		}
	}
	c.ready("quorum.parked", 1)
}

// waiting is how many messages of a queue wait.
func (w *world) waiting(queue string) int {
	q := w.lookup(queue)
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting
}

// TestDelayedRetry returns messages that are to wait, or are not.
func TestDelayedRetry(t *testing.T) {
	const least = 20 * time.Millisecond
	for _, x := range []struct {
		kind           string
		rejects, gives bool // whether it waits
	}{{"all", true, true}, {"failed", true, false}, {"returned", false, true}, {"disabled", false, false}} {
		w := newWorld(t)
		c := w.client()
		args := appendTextHeader(nil, "x-delayed-retry-type", x.kind)
		args = numberArg(numberArg(args, "x-delayed-retry-min", least.Milliseconds()), "x-delayed-retry-max", 1000)
		c.queueWith("q", true, args)
		refuse := func(refuse func(tag uint64) error, waits bool, times int) {
			t.Helper()
			tag := c.fetch("q").Tag
			began := time.Now().Truncate(time.Millisecond)
			if err := refuse(tag); err != nil {
				t.Fatal(err)
			}
			n := w.waiting("q")
			if err := c.ch.Nack(c.fetch("q").Tag, false, false); err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(began); waits && waited < time.Duration(times)*least || !waits && n > 0 {
				t.Errorf("%s: it waited for %v, %d times %v is due: %v", x.kind, waited, times, least, waits)
			}
		}
		c.publish("", "q", "m", true)
		refuse(func(tag uint64) error { return c.ch.Reject(tag, true) }, x.rejects, 1)
		c.publish("", "q", "m", true)
		refuse(func(tag uint64) error { return c.ch.Nack(tag, false, true) }, x.gives, 1)
		c.publish("", "q", "m", true)
		if err := c.ch.Reject(c.fetch("q").Tag, true); err != nil {
			t.Fatal(err)
		}
		refuse(func(tag uint64) error { return c.ch.Reject(tag, true) }, x.rejects, 2)
		c.Close()
	}
}

// TestWaitsSurviveARestart restarts while messages wait.
func TestWaitsSurviveARestart(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.world(t)
		c := w.client()
		args := appendTextHeader(nil, "x-delayed-retry-type", "all")
		args = numberArg(args, "x-delayed-retry-min", 3_600_000)
		c.queueWith("q", true, args)
		for i := range 3 {
			c.publish("", "q", fmt.Sprint(i), true)
		}
		tag := c.fetch("q").Tag
		if err := c.ch.Reject(tag, true); err != nil {
			t.Fatal(err)
		}
		if err := w.b.flushLog(); err != nil {
			t.Fatal(err)
		}
		c.Close()
		w.restart()
		c = w.client()
		defer c.Close()
		if n := w.waiting("q"); n != 1 {
			t.Errorf("%d wait, want 1", n)
		}
		c.ready("q", 2)
		if e := c.fetch("q"); body(e) != "1" {
			t.Errorf("the first is %s, want 1", body(e))
		}
	})
}

// TestDelayIsOfTheCount computes delays.
func TestDelayIsOfTheCount(t *testing.T) {
	const second = time.Second
	huge := time.Duration(1<<63 - 1)
	given := uint32(1 << failureBits)
	for _, x := range []struct {
		r     retryRule
		how   outcome
		count uint32
		want  time.Duration
	}{
		{retryRule{}, failed, 5, 0},
		{retryRule{all: true, least: second, most: huge}, failed, 3, 3 * second},
		{retryRule{all: true, least: second, most: huge}, requeue, 3 + 2*given, 5 * second},
		{retryRule{all: true, least: second, most: 4 * second}, failed, 100, 4 * second},
		{retryRule{all: true, least: second, most: huge}, unsent, 3, 0},
		{retryRule{failed: true, least: second, most: huge}, requeue, 3, 0},
		{retryRule{failed: true, least: second, most: huge}, failed, 2 + 5*given, 2 * second},
		{retryRule{returned: true, least: second, most: huge}, failed, 3, 0},
		{retryRule{returned: true, least: second, most: huge}, requeue, given, second},
		{retryRule{all: true, most: huge}, failed, 3, 0},
		{retryRule{all: true, least: huge / 2, most: huge}, failed, failuresMax, huge},
		{retryRule{all: true, least: huge, most: second}, failed, 1, second},
	} {
		if got := x.r.delay(x.how, x.count); got != x.want {
			t.Errorf("%+v, %d, count %d: %v, want %v", x.r, x.how, x.count, got, x.want)
		}
	}
}

func TestCountsInProperties(t *testing.T) {
	for _, props := range [][]byte{
		nil,
		message.AppendFieldString(nil, message.ContentType, "t"),
		message.AppendFieldString(nil, message.MessageID, "id"),
		message.AppendField(nil, message.Headers, numberArg(numberArg(nil, acquiredCountHeader, 9), deliveryCountHeader, 8)),
		message.AppendField(message.AppendFieldString(nil, message.ContentType, "t"), message.Headers, appendTextHeader(nil, "a", "b")),
	} {
		got := withCounts(nil, props, 2+3<<failureBits)
		headers, ok := message.DecodeHeaders(message.Field(got, message.Headers))
		if !ok || headers[deliveryCountHeader] != int64(2) || headers[acquiredCountHeader] != int64(5) {
			t.Errorf("%x: headers %v", props, headers)
		}
		last := message.FieldID(0)
		for list := got; ; {
			id, value, rest, ok := message.NextField(list)
			if !ok {
				break
			}
			if id <= last || id != message.Headers && !bytes.Equal(value, message.Field(props, id)) {
				t.Errorf("%x: field %d behind %d, %q", props, id, last, value)
			}
			last, list = id, rest
		}
		if n := bytes.Count(got, []byte(deliveryCountHeader)); n != 1 {
			t.Errorf("%x: %d counts", props, n)
		}
	}
}
