package broker

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

// lastingProps are properties of a message that expires, and has a priority; no
// expiration: it does not.
func lastingProps(priority byte, expiration string) []byte {
	var props []byte
	if priority > 0 {
		props = message.AppendField(props, message.Priority, []byte{priority})
	}
	if expiration != "" {
		props = message.AppendFieldString(props, message.Expiration, expiration)
	}
	return props
}

func (w *world) queueOf(name string) *Queue {
	v := w.b.vhost("/")
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.queues[name]
}

// attributes are those of all messages of a queue, with their states.
func (w *world) attributes(name string) map[uint64]string {
	q := w.queueOf(name)
	q.mu.Lock()
	defer q.mu.Unlock()
	all := map[uint64]string{}
	q.eachChunk(func(k *chunk) {
		k = k.peek()
		for i, e := range k.entries {
			if e.state != gone && e.msg.persistent {
				a := k.attrs(i)
				if q.rules.maxBytes == none && a.due == 0 && a.wake == 0 && a.count == 0 {
					a.over = 0 // not worth a record
				}
				all[k.first+uint64(i)] = fmt.Sprintf("%+v, waits %v, %d bytes", a, e.state == waiting, e.msg.size)
			}
		}
	})
	return all
}

// sum checks that what a queue counts is what it has.
func (w *world) sum(name string) {
	w.t.Helper()
	q := w.queueOf(name)
	q.mu.Lock()
	defer q.mu.Unlock()
	var n [waiting + 1]int
	var size, all int64
	q.eachChunk(func(k *chunk) {
		k = k.peek()
		for i := range k.entries {
			e := &k.entries[i]
			if n[e.state]++; e.state != gone {
				all += e.body()
			}
			if e.state == ready {
				size += e.body()
			}
		}
	})
	if n[ready] != q.ready || n[unacked] != q.unacked || n[waiting] != q.waiting || size != q.readyBytes || all != q.bytes {
		w.t.Errorf("%s has %v in its states, %d bytes, %d of them ready; it counts %d, %d, %d, %d, %d",
			name, n, all, size, q.ready, q.unacked, q.waiting, q.bytes, q.readyBytes)
	}
}

// What a queue knows of its messages survives restarts, checkpoints, and the
// cleaning of the journal.
func TestAttributesSurvive(t *testing.T) {
	for _, on := range []journals{onMemory, onFiles} {
		t.Run(on.name, func(t *testing.T) { testAttributesSurvive(t, on) })
	}
}

func testAttributesSurvive(t *testing.T, on journals) {
	w := on.world(t, tiny)
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{"plain", "ttl", "bytes", "urgent"}
	c := w.client().confirming()
	for i, name := range names {
		c.queueWith(name, true, []args{{}, {"x-message-ttl": 3600_000}, {"x-max-length-bytes": 1 << 30}, {"x-max-priority": 9}}[i].list())
		c.must(c.BindQueue(name, "amq.fanout", "", nil))
	}
	held := map[string][]Event{}
	for round := range 6 {
		for i := range 60 {
			props := lastingProps(byte(rnd.IntN(12)), []string{"", "3600000", fmt.Sprint(1000_000 + rnd.IntN(1000_000_000))}[rnd.IntN(3)])
			text := noteText(i, 20+rnd.IntN(200)+900*(i%20/19))
			if rnd.IntN(4) == 0 {
				c.publishWith("amq.fanout", "", props, text, true)
			} else {
				c.publishWith("", names[rnd.IntN(4)], props, text, rnd.IntN(6) > 0)
			}
		}
		c.confirmed()
		for _, name := range names {
			for range rnd.IntN(60) {
				found, err := c.ch.Get(name, false)
				if c.must(err); found {
					held[name] = append(held[name], c.next(EventGot))
				}
			}
			for _, e := range held[name] {
				c.must(c.ch.Nack(e.Tag, false, rnd.IntN(2) == 0))
			}
			held[name] = nil
			q := w.queueOf(name)
			q.mu.Lock()
			q.eachChunk(func(k *chunk) {
				for i := range k.peek().entries {
					switch seq := k.first + uint64(i); rnd.IntN(12) {
					case 0:
						q.countLocked(seq, rnd.Uint32N(1000))
					case 1:
						q.delayLocked(seq, nowMillis()+3600_000+rnd.Int64N(1000_000))
					}
				}
			})
			q.dispatchLocked()
			q.mu.Unlock()
			w.sum(name)
		}
		if round%2 == 1 {
			c.must(w.b.takeCheckpoint())
		}
		want := map[string]map[uint64]string{}
		for _, name := range names {
			want[name] = w.attributes(name)
		}
		c.Close()
		w.restart(tiny)
		for _, name := range names {
			w.sum(name)
			if got := w.attributes(name); !reflect.DeepEqual(got, want[name]) {
				for seq, a := range want[name] {
					if got[seq] != a {
						t.Errorf("round %d: message %d of %s had %s, has %s", round, seq, name, a, got[seq])
					}
				}
				t.Fatalf("round %d: %d messages of %s, want %d", round, len(got), name, len(want[name]))
			}
			if len(want[name]) == 0 {
				t.Errorf("%s has no messages", name)
			}
		}
		c = w.client().confirming()
	}
	c.Close()
}

func TestPackedChunkKeepsAttributesAndGaps(t *testing.T) {
	w := newWorld(t)
	for _, pattern := range []func(i int) (bool, attrs){
		func(i int) (bool, attrs) { return i%2 == 0, attrs{} },
		func(i int) (bool, attrs) { return i < 100, attrs{due: 1700000000000 + int64(i*i), over: 30} },
		func(i int) (bool, attrs) {
			return i > 0 && i != 50, attrs{wake: 1700000000000 - int64(i), count: uint32(i)}
		},
		func(i int) (bool, attrs) { return i == 64, attrs{due: atOnce, count: 1 << 31, over: 1 << 15} },
		func(i int) (bool, attrs) {
			return i%7 > 0, attrs{due: int64(i % 3), wake: int64(i % 5), count: uint32(i % 2), over: uint16(i / 9)}
		},
	} {
		build := func() *chunk {
			k := coldChunk(&Queue{}, 2*chunkSize, nil)
			for i := range k.entries {
				there, a := pattern(i)
				if !there {
					k.entries[i] = entry{}
					k.live--
					continue
				}
				if k.setAttrs(i, a); a.wake != 0 {
					k.entries[i].state = waiting
				}
			}
			return k
		}
		k, want := build(), build()
		k.pack(w.b.log, false)
		if k.packed == nil || k.entries != nil || k.times != nil && (k.times.due != nil || k.times.wake != nil) {
			t.Fatal("it was not packed")
		}
		for range 2 {
			p := k.peek()
			if !reflect.DeepEqual(p.entries, want.entries) {
				t.Fatal("what was unpacked differs")
			}
			for i := range want.entries {
				if got := p.attrs(i); got != want.attrs(i) {
					t.Fatalf("entry %d has %+v, had %+v", i, got, want.attrs(i))
				}
			}
			k.unpack()
			k.pack(w.b.log, false)
		}
	}
}

// A publisher whose messages differ in their expiration alone has its properties
// looked at once.
func TestExpirationsAreReadWithoutLookingAgain(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	list := func(id, expiration, kind string) []byte {
		props := message.AppendFieldString(nil, message.ContentType, "text/plain")
		if id != "" {
			props = append(props, named(id)...)
		}
		props = message.AppendField(props, message.Priority, []byte{3})
		if expiration != "" {
			props = message.AppendFieldString(props, message.Expiration, expiration)
		}
		return message.AppendFieldString(props, message.Type, kind)
	}
	for _, x := range []struct {
		props []byte
		ttl   int64
		again bool // they are looked at
		bad   bool
	}{
		{list("", "1000", "t"), 1001, true, false},
		{list("", "1000", "t"), 1001, false, false},
		{list("", "5", "t"), 6, false, false},
		{list("", "0", "t"), 1, false, false},
		{list("", "315360000000", "t"), 315360000001, false, false},
		{list("", "315360000001", "t"), 0, true, true},
		{list("", "x", "t"), 0, true, true},
		{list("", "-1", "t"), 0, true, true},
		{list("", "123456789012345678901234567890", "t"), 0, true, true},
		{list("", "7", "t"), 8, false, false},
		{list("", "7", "u"), 8, true, false},
		{list("", "", "u"), 0, true, false},
		{list("", "7", "u"), 8, true, false},
		{nil, 0, false, false},
		{list("", "8", "u"), 9, false, false},
		{list("p-1", "8", "u"), 9, true, false},
		{list("p-2", "8", "u"), 9, false, false},
		{list("p-3", "80", "u"), 81, false, false},
		{list("p-33", "80", "u"), 81, true, false},
		{list("p-34", "80000", "u"), 80001, false, false},
	} {
		p := &c.pub
		before := slices.Clone(p.checked)
		_, err := p.route(&Publish{Key: []byte("q"), Properties: x.props})
		if (err != nil) != x.bad || err == nil && p.ttl != x.ttl || err == nil && len(x.props) > 0 && p.priority != 3 {
			t.Errorf("%q: ttl %d, want %d, priority %d, error %v", x.props, p.ttl, x.ttl, p.priority, err)
		}
		again := err != nil || !slices.Equal(p.checked, before)
		if again != x.again {
			t.Errorf("%q: looked at %v, want %v", x.props, again, x.again)
		}
	}
}

func TestBytesAreCounted(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	c.publishWith("", "q", lastingProps(1, "100000"), "12345", true)
	c.publish("", "q", "123", false)
	c.publish("", "q", string(make([]byte, 3*partSize)), true)
	if d := w.queueOf("q").depthLocked(); d.ReadyBytes != 8+3*partSize || d.Bytes != d.ReadyBytes {
		t.Errorf("%+v", d)
	}
	c.consume("q", "t", false)
	e := c.next(EventDelivery)
	c.next(EventDelivery)
	c.next(EventDelivery)
	if d := w.queueOf("q").depthLocked(); d.ReadyBytes != 0 || d.Bytes != 8+3*partSize {
		t.Errorf("%+v", d)
	}
	c.ch.Cancel("t")
	c.must(c.ch.Nack(e.Tag, false, true))
	if d := w.queueOf("q").depthLocked(); d.ReadyBytes != 5 {
		t.Errorf("%+v", d)
	}
	w.sum("q")
}
