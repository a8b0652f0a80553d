package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/message"
)

var identities = []struct {
	id, name string
	seq      uint64
}{
	{"a-1", "a", 1},
	{"0123456789abcdefghijklmnopqrstuv-7", "0123456789abcdefghijklmnopqrstuv", 7},
	{"p-18446744073709551615", "p", math.MaxUint64},
	{"p-10000000000000000000", "p", 1e19},
	{"", "", 0},
	{"-1", "", 0},
	{"a", "", 0},
	{"a-", "", 0},
	{"a-0", "", 0},
	{"a-01", "", 0},
	{"a-+1", "", 0},
	{"a-1x", "", 0},
	{"a-1 ", "", 0},
	{"a--1", "", 0},
	{"A-1", "", 0},
	{"a_b-1", "", 0},
	{"ä-1", "", 0},
	{"p-18446744073709551616", "", 0},
	{"p-20000000000000000000", "", 0},
	{"p-99999999999999999999", "", 0},
	{"p-100000000000000000000", "", 0},
	{strings.Repeat("a", 33) + "-1", "", 0},
	{strings.Repeat("a", 60), "", 0},
}

func TestIdentitiesAreTakenApart(t *testing.T) {
	for _, x := range identities {
		name, seq, ok := parseID([]byte(x.id))
		if ok != (x.seq > 0) || ok && (string(name) != x.name || seq != x.seq) {
			t.Errorf("%q is %q, %d, %v, want %q, %d", x.id, name, seq, ok, x.name, x.seq)
		}
	}
}

// FuzzIdentity: what is taken apart is what it was made of.
func FuzzIdentity(f *testing.F) {
	for _, x := range identities {
		f.Add(x.id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		name, seq, ok := parseID([]byte(id))
		if ok && (fmt.Sprintf("%s-%d", name, seq) != id || !isProducerName(name) || seq == 0) {
			t.Errorf("%q is %q, %d", id, name, seq)
		}
	})
}

// sound checks what must be true of every set.
func (a *accepted) sound(t *testing.T) {
	t.Helper()
	last, n := uint64(0), 0
	a.each(func(s span) {
		if s.first == 0 || s.last < s.first || n > 0 && s.first-last < 2 {
			t.Fatalf("run %d is %+v, behind %d", n, s, last)
		}
		last = s.last
		n++
	})
	if n > acceptedRunsMax {
		t.Fatalf("%d runs", n)
	}
}

// A set never has what was not put into it, and has all that was as long as
// that takes no more runs than are kept.
func TestAcceptedIsWhatWasAdded(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var a accepted
		model := map[uint64]bool{}
		area := uint64(1 + rng.IntN(400))
		most, few := uint64(1), true
		for range rng.IntN(300) {
			s := span{1 + rng.Uint64N(area), 0}
			if rng.IntN(3) > 0 {
				s.first = most // mostly in order
			}
			s.last = s.first + uint64(rng.IntN(3))
			a.add(s)
			for n := s.first; n <= s.last; n++ {
				model[n] = true
			}
			most = max(most, s.last+uint64(rng.IntN(3)))
			a.sound(t)
			few = few && len(a.rest)+1 < acceptedRunsMax
		}
		for n := uint64(1); n < most+area; n++ {
			if got := a.has(n); got && !model[n] || !got && model[n] && few {
				t.Fatalf("round %d: %d is in it: %v, was added: %v", round, n, got, model[n])
			}
		}
	}
}

func TestAcceptedAtTheEnds(t *testing.T) {
	var a accepted
	a.add(span{math.MaxUint64, math.MaxUint64})
	a.add(span{1, 1})
	a.add(span{math.MaxUint64 - 1, math.MaxUint64 - 1})
	a.add(span{math.MaxUint64, math.MaxUint64})
	a.sound(t)
	for n, want := range map[uint64]bool{0: false, 1: true, 2: false, math.MaxUint64 - 2: false, math.MaxUint64 - 1: true, math.MaxUint64: true} {
		if a.has(n) != want {
			t.Errorf("%d: %v", n, !want)
		}
	}
	a.add(span{1, math.MaxUint64})
	if a.sound(t); len(a.rest) > 0 || !a.has(5) {
		t.Errorf("%+v", a)
	}
}

// Too many holes: what is below the oldest is forgotten, not taken for accepted.
func TestHolesAreBounded(t *testing.T) {
	var a accepted
	const n = 5 * acceptedRunsMax
	for i := range uint64(n) {
		a.add(span{2*i + 2, 2*i + 2})
	}
	a.sound(t)
	for i := range uint64(2*n + 2) {
		want := i > 0 && i%2 == 0 && i > 2*(n-acceptedRunsMax)
		if a.has(i) != want {
			t.Fatalf("%d: %v", i, !want)
		}
	}
}

// FuzzAccepted: what is read of a record is sound, and is written as it was.
func FuzzAccepted(f *testing.F) {
	f.Add(appendAccepted(nil, "/", "p0", []span{{1, 3}, {5, 5}}, span{9, 20}))
	f.Add(appendAccepted(nil, "/", "p", nil, span{1, math.MaxUint64}))
	f.Add([]byte{1, '/', 1, 'p', 2, 1, 1, 0, 1})
	f.Add([]byte{1, '/', 1, 'p', 0})
	f.Fuzz(func(t *testing.T, blob []byte) {
		r := newReplayer()
		err := r.batch(journal.Batch{Position: 1, Epoch: 1, Segment: 1, Head: append([]byte{recAccepted}, blob...)})
		if err != nil {
			return
		}
		for _, p := range r.b.vhosts["/"].producers.list() {
			p.all.sound(t)
			again := newReplayer()
			err := again.batch(journal.Batch{Position: 1, Epoch: 1, Segment: 1, Head: append([]byte{recAccepted}, p.recordLocked()...)})
			q := again.b.vhosts["/"].producers.list()
			if err != nil || len(q) != 1 || !bytes.Equal(q[0].recordLocked(), p.recordLocked()) {
				t.Fatalf("%+v came back as %v: %v", p.all, q, err)
			}
		}
	})
}

func TestReplayRefusesProducersThatNobodyWrites(t *testing.T) {
	for _, blob := range [][]byte{
		appendAccepted(nil, "/", "", nil, span{1, 1}),
		appendAccepted(nil, "/", "P", nil, span{1, 1}),
		appendAccepted(nil, "/", strings.Repeat("p", 33), nil, span{1, 1}),
		{1, '/', 1, 'p', 1, 0, 1},
		{1, '/', 1, 'p', 1, 1, 0},
		{1, '/', 1, 'p', 2, 1, 1},
		append([]byte{1, '/', 1, 'p', 1, 2}, bytes.Repeat([]byte{0xff}, 9)...),
		append(append([]byte{1, '/', 1, 'p', 1, 2}, bytes.Repeat([]byte{0xff}, 9)...), 1),
	} {
		head := append([]byte{recAccepted}, blob...)
		if err := newReplayer().batch(journal.Batch{Position: 1, Epoch: 1, Segment: 1, Head: head}); err == nil {
			t.Errorf("% x is replayed", blob)
		}
	}
}

// longText is a header that is a long text.
func longText(name, value string) []byte {
	b := append([]byte{byte(len(name))}, name...)
	b = append(b, 'S', 0, 0, byte(len(value)>>8), byte(len(value)))
	return append(b, value...)
}

// named are properties with an identity, which is the first of the headers.
func named(id string, more ...[]byte) []byte {
	headers := append(longText(idHeader, id), bytes.Join(more, nil)...)
	return message.AppendField(nil, message.Headers, headers)
}

// mark is the header that counts the attempts to send a message.
func mark(attempt int32) []byte {
	return binary.BigEndian.AppendUint32([]byte("\x0fx-ferry-attemptI"), uint32(attempt))
}

// The identity is found wherever it is, and lists that differ in it alone are
// examined once.
func TestIdentityIsFoundInProperties(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	other := longText("other", "x")
	withType := message.AppendFieldString(nil, message.ContentType, "text")
	for _, x := range []struct {
		name  string
		props []byte
		want  string
	}{
		{"none", nil, ""},
		{"first", named("p-1"), "p-1"},
		{"the same again", named("p-2"), "p-2"},
		{"longer", named("p-10", other), "p-10"},
		{"longer again", named("p-11", other), "p-11"},
		{"none again", nil, ""},
		{"without headers", withType, ""},
		{"behind a property", append(bytes.Clone(withType), named("p-3")...), "p-3"},
		{"between properties", message.AppendFieldString(append(bytes.Clone(withType), named("p-4")...), message.MessageID, "m"), "p-4"},
		{"behind a header", message.AppendField(nil, message.Headers, append(bytes.Clone(other), longText(idHeader, "p-5")...)), "p-5"},
		{"of another kind", message.AppendField(nil, message.Headers, append([]byte("\x0ax-ferry-idI"), 0, 0, 0, 1)), ""},
		{"of a longer name", message.AppendField(nil, message.Headers, longText("x-ferry-idx", "p-6")), ""},
		{"with CC", named("p-7", append([]byte("\x02CCA"), 0, 0, 0, 0)), "p-7"},
		{"with CC again", named("p-8", append([]byte("\x02CCA"), 0, 0, 0, 0)), "p-8"},
		{"as before", named("p-9"), "p-9"},
	} {
		p := &Publish{Exchange: []byte("amq.fanout"), Properties: x.props}
		if _, err := c.pub.route(p); err != nil || string(c.pub.id) != x.want {
			t.Errorf("%s: found %q, want %q (%v)", x.name, c.pub.id, x.want, err)
		}
	}
}
