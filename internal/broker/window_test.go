package broker

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

// duplicate are properties with a duplicate id, which is the first of the headers.
func duplicate(id string, more ...[]byte) []byte {
	return message.AppendField(nil, message.Headers, append(longText(duplicateHeader, id), bytes.Join(more, nil)...))
}

// dup publishes persistent messages with duplicate ids, which are their bodies, in
// one flush.
func (c *client) dup(key string, ids ...string) { c.dupAs(true, key, ids...) }

func (c *client) dupAs(persistent bool, key string, ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		err := c.ch.Publish(&Publish{
			Key: []byte(key), Persistent: persistent, Mandatory: true, Properties: duplicate(id), Body: []byte(id),
		})
		if err != nil {
			c.t.Fatalf("publish %s: %v", id, err)
		}
	}
	c.Flush()
}

func limits(each, all, addresses int) func(*Config) {
	return func(c *Config) { c.windows = windowLimits{each, all, addresses} }
}

// sound checks what must hold of windows when nobody uses them.
func (ws *windows) sound(t testing.TB) {
	t.Helper()
	count := 0
	for _, w := range ws.list() {
		if len(w.ids) != w.n || w.n > ws.most.each || len(w.ring) > ws.most.each || ws.by[w.address] != w || w.gone {
			t.Errorf("%v: %d ids, %d in the ring of %d", w.address, len(w.ids), w.n, len(w.ring))
		}
		for i := range w.n {
			id := w.ring[w.at(i)]
			if s, ok := w.ids[id]; !ok || s.state() == idEntering || w.slotAt(s) != w.at(i) {
				t.Errorf("%v: %x is in the ring, and is %d", w.address, id, s)
			}
		}
		count += w.n
	}
	if int64(count) != ws.count.Load() || len(ws.by) != ws.order.Len() {
		t.Errorf("%d ids are counted as %d, %d addresses as %d", count, ws.count.Load(), len(ws.by), ws.order.Len())
	}
}

// The hash is written to the journal: it must stay as it is.
func TestDuplicateIDsAreHashedAsEver(t *testing.T) {
	if got, want := hashID([]byte("abc")), "ba7816bf8f01cfea414140de5dae2223"; hex.EncodeToString(got[:]) != want {
		t.Errorf("%x, want %s", got, want)
	}
	id := hashID([]byte("abc"))
	blob := appendIDs(nil, "v", address{"x", "key"}, true, id[:])
	if want := "\x01v\x01x\x03key\x01\x01" + string(id[:]); string(blob) != want {
		t.Errorf("%q, want %q", blob, want)
	}
}

func TestDuplicatesAreDroppedAndConfirmed(t *testing.T) {
	eachJournal(t, testDuplicatesAreDroppedAndConfirmed)
}

func testDuplicatesAreDroppedAndConfirmed(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	for _, id := range []string{"1", "2", "one-1", "2", "1", strings.Repeat("x", 60000), "3"} {
		c.dup("a", id)
	}
	c.dup("a", "4", "5", "4", "3", "6", "6", "7") // in one run
	// Text or bytes, whoever brings it: the id is the same.
	d := w.client().confirming()
	d.publishWith("", "a", message.AppendField(nil, message.Headers, append([]byte("\x0c_AMQ_DUPL_IDx"), "\x00\x00\x00\x015"...)), "bytes", true)
	d.dup("a", "7", "1")
	d.confirmed()
	c.confirmed()
	if hot := w.b.evict.hot.Load(); hot > 130000 {
		t.Errorf("%d bytes are counted in memory", hot)
	}
	c.holds("a", "1", "2", "one-1", strings.Repeat("x", 60000), "3", "4", "5", "6", "7")
	// At another address it is another message, also in the same queue.
	if err := c.BindQueue("a", "amq.direct", "a", nil); err != nil {
		t.Fatal(err)
	}
	d.dup("b", "5")
	d.publishWith("amq.direct", "a", duplicate("5"), "through an exchange", true)
	d.publishWith("amq.direct", "a", duplicate("5"), "again", true)
	d.confirmed()
	c.holds("a", "through an exchange")
	c.holds("b", "5")
	// What is empty, or no text, means nothing.
	for range 2 {
		c.publishWith("", "b", duplicate(""), "empty", true)
		c.publishWith("", "b", message.AppendField(nil, message.Headers, []byte("\x0c_AMQ_DUPL_IDI\x00\x00\x00\x05")), "number", true)
	}
	c.confirmed()
	c.holds("b", "empty", "number", "empty", "number")
	d.Close()
	c.Close()
	w.restart()
	w.b.vhost("/").windows.sound(t)
	c = w.client().confirming()
	c.dup("a", "1", "7", "one-1", "8", strings.Repeat("x", 60000))
	c.confirmed()
	c.holds("a", "8")
	if hot := w.b.evict.hot.Load(); hot != 0 {
		t.Errorf("%d bytes are counted in memory that has nothing", hot)
	}
	c.Close()
}

// A message with an identity goes by that alone; what is none counts for nothing.
func TestIdentityCountsBeforeADuplicateID(t *testing.T) {
	_, c := idWorld(t)
	defer c.Close()
	for _, x := range []struct{ id, dupl, text string }{
		{"p-1", "d", "1"},
		{"p-2", "d", "2"},
		{"P-1", "e", "3"},
		{"P-2", "e", "no identity, a repeat"},
		{"p-3", "e", "4"},
		{"", "e", "no identity, a repeat"},
		{"", "d", "5"},
		{"p-4", "d", "6"},
		{"P-4", "d", "no identity, a repeat"},
	} {
		props := duplicate(x.dupl)
		if x.id != "" {
			props = duplicate(x.dupl, longText(idHeader, x.id))
			if x.text == "6" {
				props = named(x.id, longText(duplicateHeader, x.dupl))
			}
		}
		c.publishWith("", "a", props, x.text, true)
	}
	c.confirmed()
	c.holds("a", "1", "2", "3", "4", "5", "6")
}

// The id is found wherever it is, and lists that differ in it alone are examined
// once.
func TestDuplicateIDIsFoundInProperties(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	other := longText("other", "x")
	cc := append([]byte("\x02CCA"), 0, 0, 0, 0)
	for _, x := range []struct {
		name  string
		props []byte
		want  string
		dupl  bool
	}{
		{"first", duplicate("1"), "1", true},
		{"the same again", duplicate("2"), "2", true},
		{"longer", duplicate("10", other), "10", true},
		{"an identity", named("p-1"), "p-1", false},
		{"behind a header", message.AppendField(nil, message.Headers, append(bytes.Clone(other), longText(duplicateHeader, "p-5")...)), "p-5", true},
		{"behind a property", append(message.AppendFieldString(nil, message.ContentType, "text"), duplicate("3")...), "3", true},
		{"with CC", duplicate("7", cc), "7", true},
		{"with CC again", duplicate("8", cc), "8", true},
		{"with a mark", duplicate("9", mark(2)), "9", true},
		{"beside an identity", duplicate("d", longText(idHeader, "p-7")), "p-7", false},
		{"beside what is none", duplicate("d", longText(idHeader, "P-7")), "d", true},
		{"beside an identity again", duplicate("d", longText(idHeader, "p-8")), "p-8", false},
		{"beside a marked identity", duplicate("d", longText(idHeader, "p-8"), mark(2)), "p-8", false},
		{"none", nil, "", false},
		{"first again", duplicate("4"), "4", true},
	} {
		p := &Publish{Exchange: []byte("amq.fanout"), Properties: x.props}
		if _, err := c.pub.route(p); err != nil || string(c.pub.id) != x.want || x.want != "" && c.pub.duplicate != x.dupl {
			t.Errorf("%s: found %q, %v, want %q, %v (%v)", x.name, c.pub.id, c.pub.duplicate, x.want, x.dupl, err)
		}
	}
}

func TestUnroutableDuplicatesAreNotRemembered(t *testing.T) {
	eachJournal(t, testUnroutableDuplicatesAreNotRemembered)
}

func testUnroutableDuplicatesAreNotRemembered(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	c.dup("none", "1")
	c.dup("none", "2", "2")
	for range 3 {
		c.next(EventReturn)
	}
	if n := len(w.b.vhost("/").windows.list()); n > 0 {
		t.Errorf("%d addresses are remembered that lead nowhere", n)
	}
	c.queue("none", true)
	c.dup("none", "1", "2")
	c.confirmed()
	c.ready("none", 2)
	// The queue goes, what was taken stays so: a repeat is not returned.
	if _, err := c.DeleteQueue("none", false, false); err != nil {
		t.Fatal(err)
	}
	c.dup("none", "1")
	c.confirmed()
	c.none(EventReturn)
	c.dup("none", "3", "3")
	c.next(EventReturn)
	c.next(EventReturn)
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.dup("none", "2")
	c.confirmed()
	c.none(EventReturn)
	w.b.vhost("/").windows.sound(t)
	c.Close()
}

// A queue that is deleted between a publish and its flush takes nothing.
func TestDuplicateOfADeletedQueue(t *testing.T) {
	w, c := idWorld(t)
	defer c.Close()
	r, err := c.pub.route(&Publish{Key: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	d := w.client()
	defer d.Close()
	if _, err := d.DeleteQueue("a", false, false); err != nil {
		t.Fatal(err)
	}
	var run []pubItem
	for _, id := range []string{"1", "2", "1", "1"} {
		m := &stored{}
		m.setBlock(message.AppendBlockHead(nil, true, nil, []byte("a"), nil))
		run = append(run, pubItem{m: m, r: r, ch: c.ch, mandatory: true, ext: c.pub.remember([]byte(id), r, &Publish{Key: []byte("a")})})
	}
	c.insert(run)
	for range run {
		c.next(EventReturn)
	}
	c.v.windows.sound(t)
}

func TestOldestDuplicateIDsAreForgotten(t *testing.T) {
	eachJournal(t, testOldestDuplicateIDsAreForgotten)
}

func testOldestDuplicateIDsAreForgotten(t *testing.T, on journals) {
	w, c := on.idWorld(t, limits(3, 100, 100))
	c.dup("a", "1", "2", "3", "1", "4")
	c.dup("a", "2", "3", "4")
	c.dup("b", "5")
	c.confirmed()
	c.holds("a", "1", "2", "3", "4")
	c.dup("a", "1") // 2, the oldest now, goes for it
	c.dup("a", "3", "4", "2")
	c.confirmed()
	c.holds("a", "1", "2")
	c.dup("a", "6", "7", "8", "9", "10", "6") // more than it holds, in one run
	c.confirmed()
	c.holds("a", "6", "7", "8", "9", "10", "6")
	c.v.windows.sound(t)
	c.Close()
	w.restart(limits(3, 100, 100))
	c = w.client().confirming()
	c.v.windows.sound(t)
	c.dup("a", "9", "10", "6", "7")
	c.dup("b", "5")
	c.confirmed()
	c.holds("a", "7")
	c.Close()
}

func TestLeastUsedAddressesAreForgotten(t *testing.T) {
	eachJournal(t, testLeastUsedAddressesAreForgotten)
}

func testLeastUsedAddressesAreForgotten(t *testing.T, on journals) {
	for _, x := range []struct {
		name   string
		limits func(*Config)
	}{{"ids", limits(10, 6, 100)}, {"addresses", limits(10, 100, 3)}} {
		t.Run(x.name, func(t *testing.T) {
			w, c := on.idWorld(t, x.limits)
			c.queue("c", true)
			c.queue("d", true)
			for _, q := range []string{"a", "b", "c"} {
				c.dup(q, "1", "2")
			}
			c.dup("a", "1") // it is used: b is the oldest
			c.dup("d", "1")
			c.confirmed()
			c.v.windows.sound(t)
			for range 2 {
				c.dup("a", "1")
				c.dup("c", "1")
				c.dup("d", "1")
			}
			c.confirmed()
			for q, n := range map[string]int{"a": 2, "b": 2, "c": 2, "d": 1} {
				c.ready(q, n)
			}
			c.dup("b", "1")
			c.confirmed()
			c.ready("b", 3)
			c.v.windows.sound(t)
			c.Close()
			w.restart(x.limits)
			w.b.vhost("/").windows.sound(t)
		})
	}
}

// Where more addresses are in use than there are ids for, each keeps half a share of
// them at least, in whatever order they are used; idle ones lose theirs first.
func TestAddressesShareTheIDs(t *testing.T) {
	const addresses, all = 5, 40
	const kept = all / addresses / 2
	for _, pick := range []func(n int) int{
		func(n int) int { return n % addresses },
		func(n int) int { return n / 3 % addresses },
		func(int) int { return rand.IntN(addresses) },
		func(int) int { return min(rand.IntN(addresses), rand.IntN(addresses)) },
	} {
		w, c := idWorld(t, limits(20, all, 100))
		c.must(c.BindQueue("a", "amq.fanout", "", nil))
		for i := range 20 {
			c.publishWith("amq.fanout", "idle", duplicate(fmt.Sprint(i)), "m", true)
		}
		var last [addresses][]dupID
		for n := range 600 {
			k, id := pick(n), fmt.Sprint(n)
			c.publishWith("amq.fanout", fmt.Sprint(k), duplicate(id), "m", true)
			last[k] = append(last[k], hashID([]byte(id)))
			for k, ids := range last {
				ids = ids[max(len(ids)-kept+1, 0):] // one more address shares: that is idle
				win := w.b.vhost("/").windows.by[address{"amq.fanout", fmt.Sprint(k)}]
				for _, id := range ids {
					if !win.hasLocked(id) {
						t.Fatalf("one of the last %d ids of an address is forgotten at %d", len(ids), n)
					}
				}
			}
		}
		ws := &w.b.vhost("/").windows
		if n := ws.by[address{"amq.fanout", "idle"}].n; n > all/addresses {
			t.Errorf("an idle address keeps %d ids", n)
		}
		ws.sound(t)
		c.Close()
	}
}

// A window that was forgotten between a publish and its flush is another.
func TestForgottenWindowIsFoundAgain(t *testing.T) {
	w, c := idWorld(t, limits(10, 100, 1))
	defer c.Close()
	d := w.client().confirming()
	defer d.Close()
	c.dup("a", "1")
	d.dup("b", "1") // forgets a
	c.dup("a", "1")
	c.dup("a", "1", "2")
	c.confirmed()
	c.holds("a", "1", "1", "2")
	c.v.windows.sound(t)
}

// A transaction of more addresses than are remembered forgets some of its own, and
// finds them again.
func TestTransactionOfTooManyAddresses(t *testing.T) {
	_, c := idWorld(t, limits(10, 100, 2))
	defer c.Close()
	c.must(c.BindQueue("a", "amq.fanout", "", nil))
	tx := c.begin(4)
	const rounds, messages = 20, 200
	for round := range rounds {
		for i := range messages {
			c.must(tx.Publish(&Publish{
				Exchange: []byte("amq.fanout"), Key: []byte{byte('a' + i*i%7%3)}, Persistent: true,
				Properties: duplicate(fmt.Sprint(round, i)), Body: []byte("m"),
			}))
		}
		c.must(tx.TxCommit())
	}
	c.ready("a", rounds*messages)
	c.v.windows.sound(t)
}

func TestTransientDuplicatesCountUntilARestart(t *testing.T) {
	eachJournal(t, testTransientDuplicatesCountUntilARestart)
}

func testTransientDuplicatesCountUntilARestart(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	c.queue("memory", false)
	c.dupAs(false, "a", "1")
	c.dup("a", "2", "1")
	c.dupAs(false, "a", "2")
	c.dup("memory", "1", "1")
	c.confirmed()
	c.ready("memory", 1)
	c.holds("a", "1", "2")
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.queue("memory", false)
	c.dup("a", "1", "2")
	c.dup("memory", "1", "1")
	c.confirmed()
	c.holds("a", "1")
	c.ready("memory", 1)
	c.v.windows.sound(t)
	c.Close()
}

func TestDuplicatesInTransactions(t *testing.T) { eachJournal(t, testDuplicatesInTransactions) }

func testDuplicatesInTransactions(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	tx := w.client()
	c.must(tx.ch.TxSelect())
	tx.dup("a", "1")
	c.must(tx.ch.TxRollback())
	tx.dup("a", "1", "2", "1")
	tx.bring("", "a", "p-1", "p-1", true)
	tx.dup("none", "3", "3")
	tx.dup("b", "1")
	tx.dupAs(false, "b", "4")
	c.dup("a", "2") // not committed yet: this one is first
	c.confirmed()
	c.must(tx.ch.TxCommit())
	tx.next(EventReturn)
	tx.next(EventReturn)
	c.holds("a", "2", "1", "p-1")
	c.holds("b", "1", "4")
	c.dup("a", "1", "2")
	c.dup("b", "1", "4")
	c.confirmed()
	c.holds("a")
	c.holds("b")
	tx.dup("a", "1", "2") // nothing but repeats
	c.must(tx.ch.TxCommit())
	c.v.windows.sound(t)
	tx.Close()
	if hot := w.b.evict.hot.Load(); hot != 0 {
		t.Errorf("%d bytes are counted in memory that has nothing", hot)
	}
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.dup("a", "1", "2")
	c.dup("b", "1", "4")
	c.confirmed()
	c.holds("a")
	c.holds("b", "4")
	c.Close()
}

// A large message whose body comes in pieces is a repeat like another.
func TestDuplicateInPieces(t *testing.T) { eachJournal(t, testDuplicateInPieces) }

func testDuplicateInPieces(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	for range 2 {
		body := bytes.Repeat([]byte("x"), 3<<20)
		in, err := c.ch.PublishLarge(&Publish{Key: []byte("a"), Persistent: true, Properties: duplicate("1")}, uint64(len(body)))
		c.must(err)
		copy(in.Room(len(body)), body)
		c.must(in.Finish())
		c.Flush()
		c.confirmed()
		c.ready("a", 1)
	}
	c.Close()
	w.restart()
	c = w.client().confirming()
	c.dup("a", "1", "2")
	c.confirmed()
	c.ready("a", 2)
	c.Close()
}

// Messages for several queues, some of which a restart forgets.
func TestDuplicatesOfAFanout(t *testing.T) { eachJournal(t, testDuplicatesOfAFanout) }

func testDuplicatesOfAFanout(t *testing.T, on journals) {
	w, c := on.idWorld(t)
	c.queue("memory", false)
	for _, q := range []string{"a", "b", "memory"} {
		c.must(c.BindQueue(q, "amq.fanout", "", nil))
	}
	for _, persistent := range []bool{true, false} {
		for range 2 {
			c.publishWith("amq.fanout", "", duplicate(fmt.Sprint(persistent)), fmt.Sprint(persistent), persistent)
		}
	}
	c.confirmed()
	for _, q := range []string{"a", "b", "memory"} {
		c.holds(q, "true", "false")
	}
	c.Close()
	w.restart()
	c = w.client().confirming()
	for _, persistent := range []bool{true, false} {
		c.publishWith("amq.fanout", "", duplicate(fmt.Sprint(persistent)), fmt.Sprint(persistent), true)
	}
	c.confirmed()
	c.holds("a", "false")
	c.holds("b", "false")
	c.Close()
}

func TestReplayRefusesIDsThatNobodyWrites(t *testing.T) {
	good := appendIDs(nil, "/", address{"x", "k"}, false, make([]byte, 32))
	if err := newReplayer().batch(ids(good)); err != nil {
		t.Fatal(err)
	}
	flag := bytes.Clone(good)
	flag[cmp.Or(bytes.IndexByte(good, 'k'), 1)+1] = 2
	for _, blob := range [][]byte{good[:len(good)-1], flag, good[:5], slices.Concat([]byte{1, '/', 0, 0, 0}, bytes.Repeat([]byte{0xff}, 9), []byte{1})} {
		if err := newReplayer().batch(ids(blob)); err == nil {
			t.Errorf("% x is replayed", blob)
		}
	}
}
