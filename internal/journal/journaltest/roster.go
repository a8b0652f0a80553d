package journaltest

import (
	"fmt"
	"maps"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// RunRoster runs the tests that every roster passes. It is given what prepares an
// empty medium and returns what opens the roster on it, several times at once.
func RunRoster(t *testing.T, prepare func(t *testing.T) (open func() journal.Roster)) {
	for _, test := range []struct {
		name string
		run  func(f *rosterFixture)
	}{
		{"an empty roster", func(f *rosterFixture) { f.expect(f.open()) }},
		{"what a node says is seen by all", testAnnounce},
		{"a node replaces what it said", testReplace},
		{"who leaves is gone", testLeave},
		{"a node that says nothing grows silent", testSilent},
		{"names and addresses of any kind", testNames},
		{"many nodes at once", testManyNodes},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(&rosterFixture{t, prepare(t)}) })
	}
}

type rosterFixture struct {
	*testing.T
	open func() journal.Roster
}

// node makes up a node; what it says follows from its name.
func node(name string) journal.Node {
	n := uint64(len(name))
	return journal.Node{
		Name: name, Role: "standby", Epoch: 1<<40 + n, Position: 1<<41 + n,
		Started:   time.UnixMilli(1_700_000_000_123 + int64(n)),
		Addresses: map[string]string{"amqp": "127.0.0.1:5672", "http": "[::1]:" + fmt.Sprint(n)},
	}
}

func (f *rosterFixture) announce(r journal.Roster, nodes ...journal.Node) {
	f.Helper()
	for _, n := range nodes {
		if err := r.Announce(f.Context(), n); err != nil {
			f.Fatalf("announce %q: %v", n.Name, err)
		}
	}
}

// expect checks who is in a roster, in this order.
func (f *rosterFixture) expect(r journal.Roster, want ...journal.Node) []journal.Node {
	f.Helper()
	got, err := r.Nodes(f.Context())
	if err != nil {
		f.Fatalf("nodes: %v", err)
	}
	if len(got) != len(want) {
		f.Fatalf("got %d nodes %+v, want %d", len(got), got, len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.Silent < 0 || g.Silent > time.Minute {
			f.Errorf("%q is silent for %v", g.Name, g.Silent)
		}
		if !g.Started.Equal(w.Started) || !maps.Equal(g.Addresses, w.Addresses) {
			f.Errorf("got %+v, want %+v", g, w)
		}
		g.Silent, g.Started, g.Addresses = w.Silent, w.Started, w.Addresses
		if !reflect.DeepEqual(g, w) {
			f.Errorf("got %+v, want %+v", g, w)
		}
	}
	return got
}

func testAnnounce(f *rosterFixture) {
	a, b := f.open(), f.open()
	f.announce(a, node("one"))
	f.announce(b, node("another"))
	for _, r := range []journal.Roster{a, b, f.open()} {
		f.expect(r, node("another"), node("one"))
	}
}

func testReplace(f *rosterFixture) {
	a, b := f.open(), f.open()
	n := node("one")
	f.announce(a, n, node("two"))
	n.Role, n.Epoch, n.Position = "live", 3, 4
	n.Addresses = map[string]string{"gmq": "10.0.0.1:4884"}
	f.announce(a, n)
	f.expect(b, n, node("two"))
	n.Started = n.Started.Add(time.Hour) // a new process of the name
	n.Addresses = nil
	f.announce(b, n)
	f.expect(a, n, node("two"))
}

func testLeave(f *rosterFixture) {
	a, b := f.open(), f.open()
	f.announce(a, node("one"), node("two"))
	for range 2 {
		if err := b.Leave(f.Context(), "one"); err != nil {
			f.Errorf("leave: %v", err)
		}
		f.expect(a, node("two"))
	}
	f.announce(a, node("one"))
	f.expect(b, node("one"), node("two"))
}

func testSilent(f *rosterFixture) {
	r := f.open()
	f.announce(r, node("one"))
	first := f.expect(r, node("one"))[0].Silent
	limit := time.Now().Add(30 * time.Second)
	for f.expect(r, node("one"))[0].Silent <= first {
		if time.Now().After(limit) {
			f.Fatalf("it stays at %v", first)
		}
	}
	n := node("one")
	n.Silent = time.Hour
	f.announce(r, n)
	f.expect(r, node("one"))
}

func testNames(f *rosterFixture) {
	r := f.open()
	var want []journal.Node
	for _, name := range []string{"a host:5672-x7", "a'; DROP TABLE ferry_node; --", `back\slash "quoted" %_`, "größe-日本"} {
		n := node(name)
		n.Addresses["stomp"] = name
		want = append(want, n)
		f.announce(r, n)
	}
	f.expect(r, want...)
	for i, n := range want {
		if err := r.Leave(f.Context(), n.Name); err != nil {
			f.Errorf("leave: %v", err)
		}
		f.expect(r, want[i+1:]...)
	}
}

func testManyNodes(f *rosterFixture) {
	a, b := f.open(), f.open()
	var all sync.WaitGroup
	for i := range 8 {
		r := a
		if i%2 == 1 {
			r = b
		}
		all.Go(func() {
			for range 5 {
				if err := r.Announce(f.Context(), node(fmt.Sprint("node ", i))); err != nil {
					f.Errorf("announce: %v", err)
				}
				if _, err := r.Nodes(f.Context()); err != nil {
					f.Errorf("nodes: %v", err)
				}
			}
		})
	}
	all.Wait()
	var want []journal.Node
	for i := range 8 {
		want = append(want, node(fmt.Sprint("node ", i)))
	}
	f.expect(a, want...)
}
