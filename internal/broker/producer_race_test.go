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
					d.add("", "a", fmt.Sprint("p-", i), true)
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
					d.add("", key, fmt.Sprintf("%s-%d", p, i+1), true)
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

// Whatever is published, repeated, returned and restarted: a confirmed message
// that was not returned was stored, and as long as little is forgotten, once.
func TestNothingIsLostToRepeats(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 7))
		change := func(c *Config) {
			c.producers, c.SegmentBytes, c.CleanEvery = 6, 16<<10, time.Millisecond
		}
		w, c := idWorld(t, change)
		stored := map[string]int{}     // how often
		known := map[string]bool{}     // stored, and not forgotten by a restart
		transient := map[string]bool{} // of known, what the next restart forgets
		next := map[string]int{}
		producers := 4 + int(seed%2)*6
		for range 400 {
			p := fmt.Sprint("p", rng.IntN(producers))
			n := next[p]
			switch k := rng.IntN(10); {
			case n == 0 || k < 5:
				n++
				if rng.IntN(6) == 0 {
					n++ // a hole
				}
				next[p] = n
			case k < 9:
				n = 1 + rng.IntN(n)
			case rng.IntN(8) == 0:
				c.Close()
				w.restart(change)
				c = w.client().confirming()
				for id := range transient {
					delete(known, id)
				}
				clear(transient)
				continue
			}
			id, key, persistent := fmt.Sprintf("%s-%d", p, n), "a", rng.IntN(5) > 0
			if rng.IntN(6) == 0 {
				key = "none"
			}
			c.send("", key, id, persistent)
			c.confirmed()
			returned := len(c.got) > 0
			c.got = nil
			got := c.drain("a")
			switch {
			case len(got) > 1 || len(got) == 1 && (got[0] != id || key == "none" || returned):
				t.Fatalf("seed %d: %s gave %q, returned %v", seed, id, got, returned)
			case len(got) == 0 && !known[id] && !returned:
				t.Fatalf("seed %d: %s is lost", seed, id)
			case known[id] && (len(got) > 0 || returned) && producers <= 6:
				t.Fatalf("seed %d: %s is stored again, or returned: %v", seed, id, returned)
			case len(got) == 1:
				known[id] = true
				stored[id]++
				if transient[id] = true; persistent {
					delete(transient, id)
				}
			}
		}
		c.Close()
	}
}
