package broker

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

// received takes a message out of a queue, for good.
func (c *client) received(queue string) message.View {
	c.t.Helper()
	found, err := c.ch.Get(queue, true)
	if !found || err != nil {
		c.t.Fatalf("get %s: %v, %v", queue, found, err)
	}
	v, err := message.Parse(c.next(EventGot).Data)
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// copied publishes what was received, with all its properties.
func (c *client) copied(exchange, key string, v message.View) {
	c.t.Helper()
	err := c.ch.Publish(&Publish{
		Exchange: []byte(exchange), Key: []byte(key), Persistent: v.Persistent, Properties: v.Properties, Body: v.Body,
	})
	if err != nil {
		c.t.Fatalf("publish %s: %v", v.Body, err)
	}
	c.Flush()
}

func (c *client) inPieces(key string, props []byte, text string) {
	c.t.Helper()
	in, err := c.ch.PublishLarge(&Publish{Key: []byte(key), Persistent: true, Properties: props}, uint64(len(text)))
	if err != nil {
		c.t.Fatal(err)
	}
	copy(in.Room(len(text)), text)
	// Another channel's message between the pieces is none of its business.
	if err := c.Session.OpenChannel(2).Publish(&Publish{Key: []byte("nowhere"), Properties: named("other-1")}); err != nil {
		c.t.Fatal(err)
	}
	if err := in.Finish(); err != nil {
		c.t.Fatal(err)
	}
	c.Flush()
}

// transacting is a client whose channel is transactional.
func (w *world) transacting() *client {
	w.t.Helper()
	c := w.client()
	if err := c.ch.TxSelect(); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (c *client) commit() {
	c.t.Helper()
	if err := c.ch.TxCommit(); err != nil {
		c.t.Fatal(err)
	}
}

// A crash may have forgotten that a message was delivered, and accepted: its
// publisher sends it again, marked. Whoever receives it is told that it may not be
// the first time, though the mark is gone.
func TestAcceptedResendsAreRedelivered(t *testing.T) {
	w, c := idWorld(t)
	c.send("", "a", "p-1", true)
	c.again("", "a", "p-2", true)
	c.confirmed()
	tx := w.transacting()
	tx.again("", "a", "q-1", true)
	tx.commit()
	redelivered := map[string]bool{"p-1": false, "p-2": true, "q-1": true}
	for range redelivered {
		found, err := c.ch.Get("a", true)
		if !found || err != nil {
			t.Fatalf("get: %v, %v", found, err)
		}
		e := c.next(EventGot)
		if v, err := message.Parse(e.Data); err != nil || e.Redelivered != redelivered[string(v.Body)] {
			t.Errorf("%s is redelivered: %v", v.Body, e.Redelivered)
		}
	}
}

// Whoever publishes what it received again, with the headers that it had, has a
// message of its own: over its connection or another, even over the publisher's,
// to the same queue or another, as often as it likes.
func TestCopiesAreStored(t *testing.T) { eachJournal(t, testCopiesAreStored) }

func testCopiesAreStored(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	other := w.client().confirming()
	c.send("", "a", "p-1", true)
	c.send("", "a", "p-2", true)
	c.again("", "a", "p-3", true) // its first attempt was lost
	c.again("", "a", "p-1", true)
	other.again("", "a", "p-4", true)
	other.again("", "a", "p-2", true)
	c.confirmed()
	other.confirmed()
	consumer := w.client().confirming()
	tx := w.transacting()
	for _, id := range []string{"p-1", "p-2", "p-3", "p-4"} {
		v := consumer.received("a")
		if string(v.Body) != id {
			t.Fatalf("got %q, want %q", v.Body, id)
		}
		consumer.copied("", "a", v)
		consumer.copied("", "b", v)
		other.copied("", "b", v)
		if id != "p-4" {
			c.copied("", "b", v)
		}
		tx.copied("", "b", v)
		tx.commit()
		want := []string{id, id, id, id}
		if id == "p-4" {
			want = want[1:]
		}
		consumer.holds("b", want...)
		consumer.inPieces("b", v.Properties, "large")
		consumer.holds("b", "large")
	}
	for _, id := range []string{"p-1", "p-2", "p-3", "p-4"} { // copies of copies
		v := consumer.received("a")
		consumer.copied("", "a", v)
		consumer.copied("", "b", v)
		consumer.holds("b", id)
	}
	c.confirmed()
	consumer.confirmed()
	for _, x := range []*client{c, other, consumer, tx} {
		x.Close()
	}
	w.restart()
	c = w.client().confirming()
	c.again("", "a", "p-4", true)
	c.copied("", "a", message.View{Persistent: true, Properties: named("p-4"), Body: []byte("copy")})
	c.confirmed()
	c.holds("a", "p-1", "p-2", "p-3", "p-4", "copy")
	if hot := w.b.evict.hot.Load(); hot != 0 {
		t.Errorf("%d bytes are counted in memory that has nothing", hot)
	}
	c.Close()
}

// A publisher's connection broke for it, and on another one it sent again what
// was not confirmed. What it had sent before arrives now.
func TestLateOriginalsAreDropped(t *testing.T) {
	w, old := idWorld(t)
	old.send("", "a", "p-1", true)
	old.send("", "a", "p-2", true)
	fresh := w.client().confirming()
	for _, id := range []string{"p-2", "p-3", "p-4", "p-5", "p-6"} {
		fresh.again("", "a", id, true)
	}
	fresh.send("", "a", "p-8", true)
	old.add("", "a", "p-3", true)
	old.add("", "a", "p-4", true)
	old.Flush()
	old.send("", "b", "p-5", true)
	v := fresh.received("a")
	for string(v.Body) != "p-5" {
		v = fresh.received("a")
	}
	old.copied("", "b", v) // its original was here
	fresh.copied("", "b", v)
	old.send("", "a", "p-6", true)
	old.send("", "a", "p-7", true) // not sent again yet
	fresh.again("", "a", "p-7", true)
	old.confirmed()
	fresh.confirmed()
	fresh.holds("a", "p-6", "p-8", "p-7")
	fresh.holds("b", "p-5", "p-5")
	if hot := w.b.evict.hot.Load(); hot != 0 {
		t.Errorf("%d bytes are counted in memory that has nothing", hot)
	}
	fresh.Close()
	old.Close()
}

func TestLateOriginalsInATransactionAreDropped(t *testing.T) {
	w, c := idWorld(t)
	defer c.Close()
	tx := w.transacting()
	defer tx.Close()
	tx.send("", "a", "p-1", true)
	tx.commit()
	c.again("", "a", "p-2", true)
	tx.send("", "a", "p-2", true)
	tx.send("", "a", "p-2", true) // what comes behind it is a copy
	tx.commit()
	c.holds("a", "p-1", "p-2", "p-2")
}

// What nobody sent again has no late original, and what the channel itself
// brought has none either. A channel that knows nothing of a producer stores.
func TestDoubtfulRepeatsAreStored(t *testing.T) {
	w, c := idWorld(t)
	defer c.Close()
	d := w.client()
	defer d.Close()
	c.send("", "a", "p-1", true)
	d.send("", "a", "p-2", true)
	c.send("", "a", "p-2", true) // accepted, but not as a resend
	d.again("", "a", "p-3", true)
	d.send("", "a", "p-3", true) // brought by the channel itself
	c.send("", "a", "q-1", true)
	c.send("", "a", "p-3", true) // behind another producer's
	x := w.client()
	defer x.Close()
	x.again("", "a", "q-2", true)
	x.send("", "a", "p-3", true) // nothing of p was new here
	x.send("", "a", "q-2", true)
	c.holds("a", "p-1", "p-2", "p-2", "p-3", "p-3", "q-1", "p-3", "q-2", "p-3", "q-2")
}

// The mark is gone from what is delivered, also after a restart, wherever it was
// among the headers, and whatever its value.
func TestMarksAreNotStored(t *testing.T) { eachJournal(t, testMarksAreNotStored) }

func testMarksAreNotStored(t *testing.T, on journals) {
	other, cc := longText("other", "x"), append([]byte("\x02CCA"), 0, 0, 0, 0)
	text := longText(attemptHeader, "2")
	byteMark := append([]byte("\x0fx-ferry-attemptb"), 2)
	headers := func(list ...[]byte) []byte {
		props := message.AppendFieldString(nil, message.ContentType, "text")
		props = message.AppendField(props, message.Headers, bytes.Join(list, nil))
		return message.AppendFieldString(props, message.MessageID, "m")
	}
	rows := []struct {
		name      string
		sent      func(id []byte) []byte
		kept      func(id []byte) []byte
		isDropped bool // when it comes again
	}{
		{"second", func(id []byte) []byte { return headers(id, mark(2), other) }, func(id []byte) []byte { return headers(id, other) }, true},
		{"the only other", func(id []byte) []byte { return headers(id, mark(7)) }, func(id []byte) []byte { return headers(id) }, true},
		{"first", func(id []byte) []byte { return headers(mark(2), id) }, func(id []byte) []byte { return headers(id) }, true},
		{"last", func(id []byte) []byte { return headers(other, id, other, mark(2)) }, func(id []byte) []byte { return headers(other, id, other) }, true},
		{"twice", func(id []byte) []byte { return headers(mark(1), id, mark(2)) }, func(id []byte) []byte { return headers(id) }, true},
		{"beside CC", func(id []byte) []byte { return headers(id, mark(2), cc) }, func(id []byte) []byte { return headers(id, cc) }, true},
		{"a byte", func(id []byte) []byte { return headers(id, byteMark) }, func(id []byte) []byte { return headers(id) }, true},
		{"a first attempt", func(id []byte) []byte { return headers(id, mark(1)) }, func(id []byte) []byte { return headers(id) }, false},
		{"less than none", func(id []byte) []byte { return headers(id, mark(-2)) }, func(id []byte) []byte { return headers(id) }, false},
		{"a text", func(id []byte) []byte { return headers(id, text) }, func(id []byte) []byte { return headers(id) }, false},
		{"no identity", func([]byte) []byte { return headers(mark(2), other) }, func([]byte) []byte { return headers(mark(2), other) }, false},
	}
	ways := map[string]func(w *world, props []byte){
		"published": func(w *world, props []byte) {
			c := w.client().confirming()
			c.copied("", "a", message.View{Persistent: true, Properties: props, Body: []byte("text")})
			c.confirmed()
			c.Close()
		},
		"in pieces": func(w *world, props []byte) {
			c := w.client().confirming()
			c.inPieces("a", props, strings.Repeat("x", 3*partSize/2))
			c.confirmed()
			c.Close()
		},
		"in a transaction": func(w *world, props []byte) {
			c := w.transacting()
			c.copied("", "a", message.View{Persistent: true, Properties: props, Body: []byte("text")})
			c.commit()
			c.Close()
		},
	}
	for way, publish := range ways {
		t.Run(way, func(t *testing.T) {
			rows := rows
			if way == "in pieces" && !long { // which are large
				rows = rows[:2]
			}
			w, c := on.idWorld(t)
			for _, restarted := range []bool{false, true} {
				producer := fmt.Sprint("p", restarted)
				for i, x := range rows {
					publish(w, x.sent(longText(idHeader, fmt.Sprint(producer, "-", i+1))))
					publish(w, x.sent(longText(idHeader, fmt.Sprint(producer, "-", i+1))))
				}
				if restarted {
					c.Close()
					w.restart()
					c = w.client()
				}
				for i, x := range rows {
					want := x.kept(longText(idHeader, fmt.Sprint(producer, "-", i+1)))
					v := c.received("a")
					if !bytes.Equal(v.Properties, want) {
						t.Errorf("%s, restarted %v: % x, want % x", x.name, restarted, v.Properties, want)
					}
					if x.isDropped {
						continue
					}
					if v := c.received("a"); !bytes.Equal(v.Properties, want) {
						t.Errorf("%s, restarted %v: its repeat is % x, want % x", x.name, restarted, v.Properties, want)
					}
				}
				c.ready("a", 0)
			}
			c.Close()
		})
	}
}

// A mark goes before anything else looks at the headers: a resend is routed as
// its original, and the name for its replies stands beside what is left.
func TestMarksDoNotRoute(t *testing.T) {
	_, c := idWorld(t)
	defer c.Close()
	args := append(longText("x-match", "any-with-x"), mark(2)...)
	if err := c.BindQueue("a", "amq.headers", "", args); err != nil {
		t.Fatal(err)
	}
	if err := c.BindQueue("b", "amq.headers", "", longText("other", "x")); err != nil {
		t.Fatal(err)
	}
	k := c.consume(ReplyTo, "r", true)
	props := message.AppendFieldString(named("p-1", mark(2), longText("other", "x")), message.ReplyTo, ReplyTo)
	c.copied("amq.headers", "", message.View{Properties: props})
	c.holds("a")
	want := message.AppendFieldString(named("p-1", longText("other", "x")), message.ReplyTo, k.token)
	if v := c.received("b"); !bytes.Equal(v.Properties, want) {
		t.Errorf("% x, want % x", v.Properties, want)
	}
}

// What a connection remembers of property lists has no marks in it, and does not
// hide one.
func TestMarksAreOfOneMessage(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	other, cc := longText("other", "x"), append([]byte("\x02CCA"), 0, 0, 0, 0)
	for i, x := range []struct {
		props  []byte
		id     string
		marked bool
		kept   []byte
	}{
		{named("p-1"), "p-1", false, nil},
		{named("p-2", mark(2)), "p-2", true, named("p-2")},
		{named("p-3"), "p-3", false, nil},
		{named("p-4", mark(2)), "p-4", true, named("p-4")},
		{named("p-5", mark(2)), "p-5", true, named("p-5")},
		{named("p-6", mark(1)), "p-6", false, named("p-6")},
		{named("p-7", mark(2), other), "p-7", true, named("p-7", other)},
		{named("p-8", other), "p-8", false, nil},
		{named("p-9", mark(3), cc), "p-9", true, named("p-9", cc)},
		{named("p-1", cc), "p-1", false, nil},
		{named("P-1", mark(2)), "P-1", true, named("P-1")},
		{named("p-2", mark(2)), "p-2", true, named("p-2")},
		{nil, "", false, nil},
		{named("p-3", mark(2)), "p-3", true, named("p-3")},
		{named("", mark(2)), "", false, nil},
		{named("p-4", mark(2)), "p-4", true, named("p-4")},
		{named("", mark(2)), "", false, nil},
	} {
		sent := bytes.Clone(x.props)
		_, err := c.pub.route(&Publish{Exchange: []byte("amq.fanout"), Properties: sent})
		if err != nil || string(c.pub.id) != x.id || c.pub.marked != x.marked || !bytes.Equal(c.pub.bare, x.kept) {
			t.Errorf("row %d: %q, marked %v, % x (%v)", i, c.pub.id, c.pub.marked, c.pub.bare, err)
		}
		if !bytes.Equal(sent, x.props) {
			t.Errorf("row %d: the caller's list was changed", i)
		}
	}
}

// FuzzWithoutMark: all fields and headers but the marks stay as they were.
func FuzzWithoutMark(f *testing.F) {
	f.Add(named("p-1", mark(2), longText("other", "x")))
	f.Add(message.AppendFieldString(named("p-1", mark(1), mark(2)), message.MessageID, "m"))
	f.Add(append(named("p-1", mark(2), []byte("\x03bad?")), 0xff))
	type item struct{ name, value string }
	list := func(props []byte) (items []item, marks int) {
		for {
			field, v, rest, ok := message.NextField(props)
			if !ok {
				return items, marks
			}
			items = append(items, item{name: fmt.Sprint(field)})
			for field == message.Headers {
				name, kind, value, more, ok := message.NextHeader(v)
				if !ok {
					break
				}
				if v = more; string(name) == attemptHeader {
					marks++
				} else {
					items = append(items, item{string(name), string(kind) + string(value)})
				}
			}
			items = append(items, item{value: string(v)})
			props = rest
		}
	}
	f.Fuzz(func(t *testing.T, props []byte) {
		before := bytes.Clone(props)
		bare, marked := withoutMark(props)
		want, marks := list(props)
		got, left := list(bare)
		if left > 0 || marked && marks == 0 || !slices.Equal(got, want) || !bytes.Equal(props, before) {
			t.Errorf("% x became % x, marked %v", props, bare, marked)
		}
	})
}
