package broker

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

func headerList(headers ...[]byte) []byte { return slices.Concat(headers...) }

// withHeaders are properties of these headers.
func withHeaders(headers ...[]byte) []byte {
	return message.AppendField(nil, message.Headers, headerList(headers...))
}

func int64Header(name string, n int64) []byte {
	b := append(append([]byte{byte(len(name))}, name...), 'l')
	return binary.BigEndian.AppendUint64(b, uint64(n))
}

func (c *client) exchange(name, typ string, args ...[]byte) {
	c.t.Helper()
	c.must(c.DeclareExchange(ExchangeSpec{Name: name, Type: typ, Durable: true, Args: headerList(args...)}))
}

// bind makes durable queues, and binds each to an exchange by a key of its own.
func (c *client) bind(exchange string, keys map[string]string) {
	c.t.Helper()
	for _, q := range slices.Sorted(maps.Keys(keys)) {
		c.queue(q, true)
		c.must(c.BindQueue(q, exchange, keys[q], nil))
	}
}

// spread publishes messages, whose body is their number, and tells which queue has
// which.
func (c *client) spread(n int, queues []string, publish func(i int, text string)) map[string]string {
	c.t.Helper()
	for i := range n {
		publish(i, fmt.Sprint(i))
	}
	found := map[string]string{}
	for _, q := range queues {
		for _, text := range c.drain(q) {
			if other, twice := found[text]; twice {
				c.t.Fatalf("%s is in %s and in %s", text, other, q)
			}
			found[text] = q
		}
	}
	if len(found) != n {
		c.t.Fatalf("%d of %d messages are in queues", len(found), n)
	}
	return found
}

func count(where map[string]string) map[string]int {
	n := map[string]int{}
	for _, q := range where {
		n[q]++
	}
	return n
}

// The keys are always the same, and so is what becomes of them: a third of a
// sixth more or less is far beyond what chance does.
func (c *client) shares(where map[string]string, weights map[string]int) {
	c.t.Helper()
	total := 0
	for _, w := range weights {
		total += w
	}
	got := count(where)
	for q, w := range weights {
		want := len(where) * w / total
		if got[q] < want*2/3 || got[q] > want*4/3 {
			c.t.Errorf("%s has %d of %d messages, its weight is %d of %d", q, got[q], len(where), w, total)
		}
	}
}

func TestConsistentHashFollowsWeights(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer func() { c.Close() }()
	queues := []string{"a", "b", "c"}
	c.exchange("x", "x-consistent-hash")
	c.bind("x", map[string]string{"a": "1", "b": "2", "c": "+3"})
	byKey := func(i int, text string) { c.publish("x", "key "+text, text, true) }
	first := c.spread(600, queues, byKey)
	c.shares(first, map[string]int{"a": 1, "b": 2, "c": 3})
	if again := c.spread(600, queues, byKey); !maps.Equal(first, again) {
		t.Error("the same keys have gone elsewhere")
	}
	c.Close()
	w.restart()
	c = w.client()
	if again := c.spread(600, queues, byKey); !maps.Equal(first, again) {
		t.Error("the same keys have gone elsewhere after a restart")
	}
	c.bind("x", map[string]string{"d": "2"})
	for text, q := range c.spread(600, append(queues, "d"), byKey) {
		if q != "d" && first[text] != q {
			t.Fatalf("%s went from %s to %s when d came", text, first[text], q)
		}
	}
	c.must(c.UnbindQueue("d", "x", "2", nil))
	if again := c.spread(600, queues, byKey); !maps.Equal(first, again) {
		t.Error("the keys have not come back when d went")
	}
	if _, err := c.DeleteQueue("b", false, false); err != nil {
		t.Fatal(err)
	}
	for text, q := range c.spread(600, []string{"a", "c"}, byKey) {
		if first[text] != "b" && first[text] != q {
			t.Fatalf("%s went from %s to %s when b was deleted", text, first[text], q)
		}
	}
}

// Where a message goes depends on what its exchange hashes and on nothing else,
// whatever of the way is remembered.
func TestConsistentHashByHeaderAndProperty(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	queues := []string{"a", "b", "c"}
	weights := map[string]int{"a": 1, "b": 1, "c": 1}
	c.exchange("header", "x-consistent-hash", longText("hash-header", "customer"))
	c.exchange("message", "x-consistent-hash", longText("hash-property", "message_id"))
	c.exchange("correlation", "x-consistent-hash", longText("hash-property", "correlation_id"))
	c.exchange("time", "x-consistent-hash", longText("hash-property", "timestamp"))
	for _, x := range []string{"header", "message", "correlation", "time"} {
		c.bind(x, map[string]string{"a": "1", "b": "1", "c": "1"})
	}
	all := map[string]map[string]string{}
	for _, row := range []struct {
		name, exchange string
		props          func(i int) []byte
	}{
		{"text", "header", func(i int) []byte { return withHeaders(longText("x", "y"), longText("customer", fmt.Sprint("c", i))) }},
		{"long", "header", func(i int) []byte { return withHeaders(int64Header("customer", int64(i))) }},
		{"id", "message", func(i int) []byte { return message.AppendFieldString(nil, message.MessageID, fmt.Sprint("c", i)) }},
		{"correlation", "correlation", func(i int) []byte {
			return message.AppendFieldString(nil, message.CorrelationID, fmt.Sprint("c", i))
		}},
		{"time", "time", func(i int) []byte {
			return message.AppendField(nil, message.Timestamp, binary.BigEndian.AppendUint64(nil, uint64(i)))
		}},
	} {
		for _, key := range []string{"one", "another"} { // which does not matter
			found := c.spread(300, queues, func(i int, text string) {
				c.publishWith(row.exchange, key, row.props(i), text, true)
			})
			c.shares(found, weights)
			if old := all[row.name]; old != nil && !maps.Equal(old, found) {
				t.Errorf("%s: the key has changed where messages go", row.name)
			}
			all[row.name] = found
		}
	}
	if !maps.Equal(all["text"], all["id"]) {
		t.Error("one text has two hashes")
	}
	short := c.spread(100, queues, func(i int, text string) {
		c.publishWith("header", "", withHeaders(number("customer", byte(i))), text, true)
	})
	for text, q := range short {
		if all["long"][text] != q {
			t.Fatalf("the integer %s goes to %s as a byte, and to %s as a long", text, q, all["long"][text])
		}
	}
	bare := c.spread(20, queues, func(_ int, text string) { c.publish("header", text, text, true) })
	if len(count(bare)) != 1 {
		t.Errorf("messages without the header went to %v", count(bare))
	}
}

func TestModulusHashAndRandom(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	queues := []string{"a", "b", "c"}
	for _, typ := range []string{"x-modulus-hash", "x-random", "x-local-random"} {
		c.exchange(typ, typ)
		c.publish(typ, "nobody is there", "lost", true)
		c.bind(typ, map[string]string{"a": "", "b": "", "c": ""})
		publish := func(_ int, text string) { c.publish(typ, text, text, true) }
		first := c.spread(400, queues, publish)
		for _, q := range queues {
			// By chance less than 60 of 400 go to one of three once in 10^15 times.
			if n := count(first)[q]; n < 60 {
				t.Errorf("%s: %s has only %d of 400 messages", typ, q, n)
			}
		}
		again := c.spread(400, queues, publish)
		if same := maps.Equal(first, again); same != (typ == "x-modulus-hash") {
			t.Errorf("%s: the same keys went to the same queues: %t", typ, same)
		}
	}
}

// A queue that is bound twice gets twice as much, as in RabbitMQ.
func TestRandomCountsBindings(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.exchange("x", "x-random")
	for i := range 19 {
		c.bind("x", map[string]string{"often": fmt.Sprint(i)})
	}
	c.bind("x", map[string]string{"seldom": ""})
	found := count(c.spread(400, []string{"often", "seldom"}, func(_ int, text string) { c.publish("x", "", text, true) }))
	if found["seldom"] > 80 || found["often"] < 320 {
		t.Errorf("%v of 400, for 19 bindings and one", found)
	}
}

// What chooses is chosen from: exchanges are destinations too, and further routing
// keys do not choose again.
func TestChoosingExchangesAmongOthers(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	queues := []string{"a", "b", "c", "d"}
	c.exchange("in", "fanout")
	c.exchange("hash", "x-consistent-hash")
	c.exchange("random", "x-random")
	c.exchange("fan", "fanout")
	c.bind("hash", map[string]string{"a": "1"})
	c.bind("random", map[string]string{"b": "", "c": ""})
	c.bind("fan", map[string]string{"d": ""})
	c.must(c.BindExchange("hash", "in", "", nil))
	c.must(c.BindExchange("random", "hash", "2", nil))
	c.must(c.BindExchange("fan", "hash", "1", nil))
	found := c.spread(400, queues, func(_ int, text string) { c.publish("in", text, text, true) })
	c.shares(found, map[string]int{"a": 1, "b": 1, "c": 1, "d": 1})
	cc := append([]byte("\x02CCA"), 0, 0, 0, 12)
	cc = append(cc, "S\x00\x00\x00\x01xS\x00\x00\x00\x01y"...)
	for _, x := range []string{"hash", "random"} {
		found = c.spread(50, queues, func(_ int, text string) { c.publishWith(x, "one", withHeaders(cc), text, true) })
		if n := len(count(found)); x == "hash" && n != 1 && n != 2 {
			t.Errorf("one first key went to %d queues", n)
		}
	}
}

func TestAlternateExchanges(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer func() { c.Close() }()
	alternate := func(name string) []byte { return longText("alternate-exchange", name) }
	c.exchange("orders", "direct", alternate("others"))
	c.exchange("others", "topic", alternate("rest"))
	c.must(c.DeclareExchange(ExchangeSpec{Name: "rest", Type: "fanout", Durable: true, Internal: true, Args: alternate("orders")}))
	c.exchange("headers", "headers", alternate("others"))
	c.exchange("hash", "x-consistent-hash", alternate("others"))
	c.exchange("lost", "fanout", alternate("missing"))
	c.exchange("default", "fanout", alternate(""))
	c.exchange("in", "fanout", alternate("others"))
	c.exchange("empty", "fanout")
	c.must(c.BindExchange("empty", "in", "", nil))
	c.bind("orders", map[string]string{"new": "new"})
	c.bind("others", map[string]string{"old": "old.#"})
	check := func(when string) {
		t.Helper()
		for _, row := range []struct {
			exchange, key string
			props         []byte
			want          string // queues; none: it comes back
		}{
			{"orders", "new", nil, "new"},
			{"orders", "old.x", nil, "old"},
			{"orders", "x", nil, "rest"},
			{"headers", "old.x", nil, "old"},
			{"headers", "x", withHeaders(longText("a", "b")), "rest"},
			{"hash", "old.x", nil, "old"},
			{"lost", "new", nil, ""},
			{"default", "new", nil, ""}, // as in RabbitMQ
			{"in", "old", nil, ""},      // what is bound to it leads nowhere
			{"orders", "x", withHeaders(append(append([]byte("\x02CCA"), 0, 0, 0, 8), "S\x00\x00\x00\x03new"...)), "new"},
		} {
			for range 2 { // the second time the way may be remembered
				must := row.want == "" || row.want == "rest" && when == "nobody"
				err := c.ch.Publish(&Publish{
					Exchange: []byte(row.exchange), Key: []byte(row.key), Mandatory: true, Properties: row.props, Body: []byte("m"),
				})
				c.must(err)
				c.Flush()
				if must {
					if e := c.next(EventReturn); body(e) != "m" {
						t.Errorf("%v came back", e)
					}
					continue
				}
				c.none(EventReturn)
				if got := c.drain(row.want); !slices.Equal(got, []string{"m"}) {
					t.Errorf("%s: %s, key %s: %s has %q", when, row.exchange, row.key, row.want, got)
				}
			}
		}
	}
	// All three lead to one another.
	check("nobody")
	c.bind("rest", map[string]string{"rest": ""})
	check("bound")
	c.Close()
	w.restart()
	c = w.client()
	check("restarted")
	// An alternate may come later, and go.
	c.exchange("missing", "fanout")
	c.bind("missing", map[string]string{"found": ""})
	c.publish("lost", "k", "m", true)
	c.holds("found", "m")
	c.must(c.DeleteExchange("missing", false))
	c.publish("lost", "k", "m", true)
	c.holds("found")
}

func TestArgumentsOfExchangesAreChecked(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	c.exchange("hash", "x-consistent-hash")
	c.exchange("local", "x-local-random")
	c.exchange("fan", "fanout")
	declare := func(typ string, args ...[]byte) error {
		return c.DeclareExchange(ExchangeSpec{Name: "x", Type: typ, Args: headerList(args...)})
	}
	for _, row := range []struct {
		err  error
		kind Kind
		text string
	}{
		{declare("x-unheard-of"), Invalid, "unknown exchange type 'x-unheard-of'"},
		{declare("nonsense"), Invalid, "invalid exchange type 'nonsense'"},
		{declare("fanout", number("alternate-exchange", 1)), PreconditionFailed, "invalid type 'unsignedbyte' for arg 'alternate-exchange' in exchange 'x' in vhost '/'"},
		{declare("x-consistent-hash", longText("hash-property", "app_id")), PreconditionFailed, "Unsupported property: app_id"},
		{declare("x-consistent-hash", longText("hash-property", "timestamp"), longText("hash-header", "h")), PreconditionFailed, "hash-header and hash-property are mutually exclusive"},
		{declare("x-consistent-hash", longText("hash-property", "x"), longText("hash-header", "h")), PreconditionFailed, "hash-header and hash-property are mutually exclusive"},
		{declare("x-consistent-hash", number("hash-header", 1)), PreconditionFailed, "invalid type 'unsignedbyte' for arg 'hash-header' in exchange 'x' in vhost '/'"},
		{c.DeclareExchange(ExchangeSpec{Name: "hash", Type: "x-random", Durable: true}), PreconditionFailed, "inequivalent arg 'type' for exchange 'hash' in vhost '/': received 'x-random' but current is 'x-consistent-hash'"},
		{c.BindQueue("q", "hash", "many", nil), PreconditionFailed, `The binding key must be an integer: <<"many">>`},
		{c.BindQueue("q", "hash", "", nil), PreconditionFailed, `The binding key must be an integer: <<>>`},
		{c.BindQueue("q", "hash", "1.5", nil), PreconditionFailed, `The binding key must be an integer: <<"1.5">>`},
		{c.BindQueue("q", "hash", "--5", nil), PreconditionFailed, `The binding key must be an integer: <<"--5">>`},
		{c.BindQueue("q", "hash", "0", nil), PreconditionFailed, "The binding key must be greater than 0"},
		{c.BindQueue("q", "hash", "-1", nil), PreconditionFailed, "The binding key must be greater than 0"},
		{c.BindQueue("q", "hash", strings.Repeat("9", 255), nil), 0, ""},
		{c.BindQueue("q", "local", "key", nil), PreconditionFailed, "Non empty binding 'key' key not permitted"},
		{c.BindExchange("fan", "local", "", nil), PreconditionFailed, "Destination not found"},
	} {
		if row.kind == 0 {
			c.must(row.err)
			continue
		}
		if kind(row.err) != row.kind || row.err.Error() != row.text {
			t.Errorf("%v, want %s", row.err, row.text)
		}
	}
}

// What a publisher does for every message allocates nothing where its way is
// remembered.
func TestRememberedChoicesDoNotAllocate(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.exchange("key", "x-consistent-hash")
	c.exchange("header", "x-consistent-hash", longText("hash-header", "h"))
	c.exchange("modulus", "x-modulus-hash")
	c.exchange("random", "x-random")
	for _, x := range []string{"key", "header", "modulus", "random"} {
		c.bind(x, map[string]string{"a": "1", "b": "2", "c": "3"})
		m := &Publish{Exchange: []byte(x), Key: []byte("k"), Properties: withHeaders(longText("h", "v"))}
		if n := testing.AllocsPerRun(100, func() {
			if r, err := c.pub.route(m); err != nil || len(r.queues) != 1 {
				t.Errorf("%s: %v, %v", x, r, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", x, n)
		}
	}
}

func FuzzHashValue(f *testing.F) {
	f.Add(withHeaders(longText("h", "v")), "h")
	f.Add(withHeaders(int64Header("h", -1)), "h")
	f.Add(withHeaders([]byte("\x01hF\x00\x00\x00\x04\x01at\x01")), "h")
	f.Fuzz(func(t *testing.T, props []byte, name string) {
		c := choice{typ: consistentHash, by: byHeader, name: name, to: []any{nil, nil, nil}}
		for i := range c.to {
			c.shares.Add(uint64(i), 1)
		}
		if i := c.index(nil, props); i < 0 || i > 2 || i != c.index([]byte("other"), props) {
			t.Errorf("chose %d", i)
		}
		for property := range hashProperties {
			c.by, c.name = byProperty, property
			c.index(nil, props)
		}
	})
}
