package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// Connections that bring the same messages at the same time store each once,
// unless their producer is forgotten meanwhile; but even then they lose none.
func TestConnectionsOfOneProducerRace(t *testing.T) {
	t.Run("remembered", func(t *testing.T) { race(t, 0) })
	t.Run("forgotten", func(t *testing.T) { race(t, 3) })
}

func race(t *testing.T, producers int) {
	const racers, messages = 4, 1500
	w, c := idWorld(t, func(c *Config) { c.producers = producers })
	var all sync.WaitGroup
	for k := range racers {
		d := w.client().confirming()
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 0))
			for i := 0; i < messages; {
				for range 1 + rng.IntN(40) {
					if i++; i > messages {
						break
					}
					d.add("", "a", fmt.Sprint("p-", i), true, mark(2))
				}
				d.Flush()
			}
			d.confirmed()
			d.Close()
		})
	}
	all.Go(func() { // others come and go
		d := w.client().confirming()
		for i := range 200 {
			d.send("", "b", fmt.Sprintf("n%d-1", i), true)
		}
		d.confirmed()
		d.Close()
	})
	all.Wait()
	got := c.drain("a")
	seen := map[string]int{}
	for _, id := range got {
		seen[id]++
	}
	for i := range messages {
		if n := seen[fmt.Sprint("p-", i+1)]; n == 0 {
			t.Fatalf("p-%d is lost", i+1)
		}
	}
	c.Close()
	if len(got) > messages && producers == 0 {
		t.Fatalf("%d messages are there twice", len(got)-messages)
	}
}

func TestConnectionsRaceInTransactions(t *testing.T) {
	const racers, rounds = 4, 60
	w, c := idWorld(t)
	var all sync.WaitGroup
	for k := range racers {
		d := w.client()
		all.Go(func() {
			if k%2 == 0 {
				if err := d.ch.TxSelect(); err != nil {
					t.Error(err)
					return
				}
			} else {
				d.confirming()
			}
			for i := range rounds {
				for _, p := range []string{"p", "q", "r"} {
					key := "a"
					if (i+k)%2 == 0 {
						key = "b"
					}
					d.add("", key, fmt.Sprintf("%s-%d", p, i+1), true, mark(2))
				}
				if k%2 == 0 {
					if err := d.ch.TxCommit(); err != nil {
						t.Error(err)
						return
					}
				}
				d.Flush()
			}
			if k%2 == 1 {
				d.confirmed()
			}
			d.Close()
		})
	}
	all.Wait()
	got := append(c.drain("a"), c.drain("b")...)
	slices.Sort(got)
	if n := len(slices.Compact(slices.Clone(got))); n != 3*rounds || len(got) != n {
		t.Errorf("%d messages, %d different, want %d", len(got), n, 3*rounds)
	}
	c.Close()
}

// Whatever is published, sent again, copied, returned and restarted: a confirmed
// message that was not returned was stored, and as long as little is forgotten,
// nothing that is sent again is stored twice.
func TestNothingIsLostToRepeats(t *testing.T) { eachJournal(t, testNothingIsLostToRepeats) }

func testNothingIsLostToRepeats(t *testing.T, on journals) {
	for seed := range uint64(on.some(12, 2)) {
		rng := rand.New(rand.NewPCG(seed, 7))
		change := func(c *Config) {
			c.producers, c.SegmentBytes, c.CleanEvery = 6, 16<<10, time.Millisecond
		}
		w, c := on.idWorld(t, change)
		d := w.client().confirming()   // a consumer, which republishes
		known := map[string]bool{}     // stored, and not forgotten by a restart
		transient := map[string]bool{} // of known, what the next restart forgets
		next := map[string]int{}
		producers := 4 + int(seed%2)*6
		forgetful := producers > 6
		copies, dropped := 0, 0
		for range on.some(500, 150) {
			p := fmt.Sprint("p", rng.IntN(producers))
			n := next[p]
			via, isCopy, marks := c, false, [][]byte(nil)
			switch k := rng.IntN(12); {
			case n == 0 || k < 5:
				n++
				if rng.IntN(6) == 0 {
					n++ // a hole
				}
				if next[p] = n; k == 0 {
					marks = append(marks, mark(2)) // its first attempt was lost
				}
			case k < 8:
				n = 1 + rng.IntN(n)
				marks = append(marks, mark(int32(2+rng.IntN(3))))
				if rng.IntN(2) == 0 {
					via = d
				}
			case k < 11:
				n = 1 + rng.IntN(n)
				if isCopy = known[fmt.Sprintf("%s-%d", p, n)]; !isCopy {
					continue
				}
				switch {
				case forgetful:
					// A copy of what was forgotten is taken for an original, and
					// its connection for the producer's.
					d.Close()
					d = w.client().confirming()
					via = d
				case rng.IntN(2) == 0:
					via = d
				}
			case rng.IntN(8) == 0:
				c.Close()
				d.Close()
				w.restart(change)
				c, d = w.client().confirming(), w.client().confirming()
				for id := range transient {
					delete(known, id)
				}
				clear(transient)
				continue
			default:
				continue
			}
			id, key, persistent := fmt.Sprintf("%s-%d", p, n), "a", rng.IntN(5) > 0
			if rng.IntN(6) == 0 {
				key = "none"
			}
			via.add("", key, id, persistent, marks...)
			via.Flush()
			via.confirmed()
			returned := len(via.got) > 0
			via.got = nil
			got := c.drain("a")
			switch {
			case len(got) > 1 || len(got) == 1 && (got[0] != id || key == "none" || returned):
				t.Fatalf("seed %d: %s gave %q, returned %v", seed, id, got, returned)
			case len(got) == 0 && !returned && (isCopy || !known[id]):
				t.Fatalf("seed %d: %s is lost, a copy: %v", seed, id, isCopy)
			case isCopy && !forgetful:
				copies++
			case known[id] && (len(got) > 0 || returned) && !forgetful:
				t.Fatalf("seed %d: %s is stored again, or returned: %v", seed, id, returned)
			case len(got) == 1:
				known[id] = true
				if transient[id] = true; persistent {
					delete(transient, id)
				}
			case !returned:
				dropped++
			}
		}
		if dropped == 0 || copies == 0 && !forgetful {
			t.Errorf("seed %d: %d copies, %d dropped", seed, copies, dropped)
		}
		c.Close()
		d.Close()
	}
}

// Originals, and what is sent again of them, race: nothing is lost, whichever
// comes first, nor any of the copies that a consumer publishes meanwhile.
func TestOriginalsResendsAndCopiesRace(t *testing.T) {
	const messages, received = 1500, 10
	w, c := idWorld(t)
	for i := range received {
		c.send("", "a", fmt.Sprint("p-", i+1), true)
	}
	var all sync.WaitGroup
	for k, queue := range []string{"a", "a", "b"} { // the publisher, again, and who copies
		d := w.client().confirming()
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 1))
			for i := received; i < messages; {
				for range 1 + rng.IntN(40) {
					if i++; i > messages {
						break
					}
					id, marks := fmt.Sprint("p-", i), [][]byte(nil)
					switch k {
					case 1:
						marks = append(marks, mark(2))
					case 2:
						id = fmt.Sprint("p-", 1+rng.IntN(received))
					}
					d.add("", queue, id, true, marks...)
				}
				d.Flush()
			}
			d.confirmed()
			d.Close()
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, id := range c.drain("a") {
		seen[id] = true
	}
	if copies := len(c.drain("b")); len(seen) != messages || copies != messages-received {
		t.Errorf("%d of %d messages are there, and %d of %d copies", len(seen), messages, copies, messages-received)
	}
	c.Close()
}
