package route

import (
	"fmt"
	"math"
	"testing"
)

func sharesOf(weights map[string]float64, names []string) *Shares {
	s := &Shares{}
	for _, n := range names {
		s.Add(Hash(n), weights[n])
	}
	return s
}

// Hashes are written nowhere, but two nodes, and two versions, are to agree.
func TestHashIsTheSameEverywhere(t *testing.T) {
	for text, want := range map[string]uint64{
		"":            0xf52a15e9a9b5e89b,
		"a":           0x2c0bdbf481420f8,
		"orders.eu.1": 0x36cde65ad9979b22,
	} {
		if a, b := Hash(text), Hash([]byte(text)); a != want || b != want {
			t.Errorf("%q: %#x as a text, %#x as bytes, want %#x", text, a, b, want)
		}
	}
}

func TestSharesFollowWeights(t *testing.T) {
	const keys = 100_000
	for _, weights := range [][]float64{{1}, {1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 2, 3, 4}, {10, 1, 1}, {1, 1000}, {0.5, 1e200, 1e200}} {
		s, total := &Shares{}, 0.0
		for i, w := range weights {
			s.Add(Hash(fmt.Sprint("queue ", i)), w)
			total += w
		}
		got := make([]int, len(weights))
		for k := range keys {
			got[s.Choose(Hash(fmt.Sprint("key ", k)))]++
		}
		chi := 0.0
		for i, w := range weights {
			want := keys * w / total
			if want < 1 {
				if got[i] > 5 {
					t.Errorf("weights %v: %d of %d for the %d.", weights, got[i], keys, i)
				}
				continue
			}
			chi += (float64(got[i]) - want) * (float64(got[i]) - want) / want
		}
		// Above 30 chance has one case in a thousand, for ten destinations; the
		// keys are always the same.
		if chi > 30 {
			t.Errorf("weights %v: %v, chi square %.1f", weights, got, chi)
		}
	}
	if (&Shares{}).Choose(1) != -1 {
		t.Error("nobody has a share of nothing")
	}
}

func TestSharesChangeHandsAsLittleAsPossible(t *testing.T) {
	const keys = 20_000
	names := []string{"a", "b", "c", "d", "e"}
	weights := map[string]float64{"a": 1, "b": 1, "c": 2, "d": 1, "e": 5, "f": 2}
	owner := func(names []string, weights map[string]float64) []string {
		s := sharesOf(weights, names)
		list := make([]string, keys)
		for k := range list {
			list[k] = names[s.Choose(Hash(fmt.Sprint(k)))]
		}
		return list
	}
	before := owner(names, weights)
	for i, x := range owner([]string{"e", "d", "c", "b", "a"}, weights) {
		if x != before[i] {
			t.Fatalf("key %d: %s, but %s in another order", i, x, before[i])
		}
	}
	came := 0
	for i, x := range owner(append(names, "f"), weights) {
		if x == "f" {
			came++
		} else if x != before[i] {
			t.Fatalf("key %d went from %s to %s when f came", i, before[i], x)
		}
	}
	if want := keys * 2 / 12; math.Abs(float64(came-want)) > float64(want)/10 {
		t.Errorf("%d keys for a sixth of %d", came, keys)
	}
	for i, x := range owner([]string{"a", "b", "d", "e"}, weights) {
		if x != before[i] && before[i] != "c" {
			t.Fatalf("key %d went from %s to %s when c went", i, before[i], x)
		}
	}
	heavier := map[string]float64{"a": 1, "b": 3, "c": 2, "d": 1, "e": 5}
	for i, x := range owner(names, heavier) {
		if x != before[i] && x != "b" {
			t.Fatalf("key %d went from %s to %s when b became heavier", i, before[i], x)
		}
	}
}

func TestChoosingDoesNotAllocate(t *testing.T) {
	s := sharesOf(map[string]float64{"a": 1, "b": 2}, []string{"a", "b"})
	key := []byte("key")
	if n := testing.AllocsPerRun(100, func() { s.Choose(Hash(key)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkShares(b *testing.B) {
	s := &Shares{}
	for i := range 100 {
		s.Add(Hash(fmt.Sprint(i)), 1)
	}
	key := []byte("orders.eu.1")
	b.ReportAllocs()
	for b.Loop() {
		s.Choose(Hash(key))
	}
}
