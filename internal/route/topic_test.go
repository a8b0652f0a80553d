package route

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// naive says whether a pattern matches a key, straight from the definition.
func naive(pattern, key []string) bool {
	switch {
	case len(pattern) == 0:
		return len(key) == 0
	case pattern[0] == "#":
		return naive(pattern[1:], key) || len(key) > 0 && naive(pattern, key[1:])
	case len(key) == 0:
		return false
	}
	return (pattern[0] == "*" || pattern[0] == key[0]) && naive(pattern[1:], key[1:])
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ".")
}

func matches(t *Trie[int], key string) map[int]int {
	out := map[int]int{}
	t.Match([]byte(key), func(v int) { out[v]++ })
	return out
}

func TestMatchFollowsTheDefinitionOfTopics(t *testing.T) {
	for _, row := range []struct {
		pattern string
		yes, no []string
	}{
		// RabbitMQ's tutorial five.
		{
			"*.orange.*",
			[]string{"quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox"},
			[]string{"lazy.brown.fox", "orange", "quick.orange.new.rabbit", "quick.brown.fox"},
		},
		{"*.*.rabbit", []string{"quick.orange.rabbit", "lazy.pink.rabbit"}, []string{"lazy.orange.elephant"}},
		{"lazy.#", []string{"lazy", "lazy.orange.elephant", "lazy.orange.new.rabbit"}, []string{"quick.orange.fox"}},
		// AMQP 0-9-1 specification 3.1.3.3.
		{"*.stock.#", []string{"usd.stock", "eur.stock.db"}, []string{"stock.nasdaq"}},
		// Empty texts and empty words.
		{"", []string{""}, []string{".", "a"}},
		{"#", []string{"", ".", "a", "a.b", "..."}, nil},
		{"*", []string{"a", "#", "*"}, []string{"", ".", "a.b"}},
		{".", []string{"."}, []string{"", "..", "a", "a."}},
		{"*.*", []string{".", "a.", ".a", "a.b"}, []string{"", "a", ".."}},
		{"a.", []string{"a."}, []string{"a", ".a", "a.."}},
		{"a..b", []string{"a..b"}, []string{"a.b", "a.x.b"}},
		{"a.*.b", []string{"a..b", "a.x.b"}, []string{"a.b"}},
		{"#.#", []string{"", "a", "a.b"}, nil},
		{"#.a.#", []string{"a", "a.a", "x.a.y", "a."}, []string{"", "x", "ax"}},
		{"*.#", []string{"a", "a.b"}, []string{""}},
		{"#.*", []string{"a", "a.b"}, []string{""}},
		{"#.a.#.b.#.c", []string{"a.b.c", "x.a.y.b.z.c", "a.b.c.c"}, []string{"a.c.b", "a.b.c.d"}},
		{"a#.*b", []string{"a#.*b"}, []string{"ax.xb", "a.b"}},
	} {
		var trie Trie[int]
		trie.Add(row.pattern, 1)
		for _, key := range row.yes {
			if got := matches(&trie, key); got[1] != 1 {
				t.Errorf("pattern %q, key %q: visited %d times, want once", row.pattern, key, got[1])
			}
		}
		for _, key := range row.no {
			if got := matches(&trie, key); got[1] != 0 {
				t.Errorf("pattern %q, key %q: matched", row.pattern, key)
			}
		}
	}
}

func TestMatchAgreesWithNaiveSearch(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var trie Trie[int]
		patterns := map[int]string{}
		for i := range 1 + rng.IntN(60) {
			patterns[i] = randomText(rng, 6, "a", "b", "", "*", "#", "#")
			trie.Add(patterns[i], i)
		}
		check := func(when string) {
			t.Helper()
			for range 20 {
				key := randomText(rng, 7, "a", "b", "c", "", "#", "*")
				got := matches(&trie, key)
				for i, p := range patterns {
					want := 0
					if naive(split(p), split(key)) {
						want = 1
					}
					if got[i] != want {
						t.Fatalf("round %d %s: pattern %q, key %q: visited %d times, want %d",
							round, when, p, key, got[i], want)
					}
					delete(got, i)
				}
				if len(got) > 0 {
					t.Fatalf("round %d %s: key %q matched values that are not bound: %v", round, when, key, got)
				}
			}
		}
		check("filled")
		for _, i := range slices.Sorted(maps.Keys(patterns)) {
			if rng.IntN(2) == 0 {
				if !trie.Remove(patterns[i], i) {
					t.Fatalf("Remove(%q, %d) found nothing", patterns[i], i)
				}
				delete(patterns, i)
			}
		}
		check("half empty")
		for i, p := range patterns {
			trie.Remove(p, i)
		}
		if !trie.root.empty() || trie.Len() != 0 {
			t.Fatalf("round %d: something is left after the last was removed", round)
		}
	}
}

func randomText(rng *rand.Rand, most int, from ...string) string {
	w := make([]string, rng.IntN(most+1))
	for i := range w {
		w[i] = from[rng.IntN(len(from))]
	}
	return strings.Join(w, ".")
}

func TestManyHashesBelowOthersAgreeWithNaiveSearch(t *testing.T) {
	var trie Trie[int] // more nested `#` than a match holds on its stack
	var patterns []string
	for i := range 700 {
		p := fmt.Sprintf("#.w%d.#", i)
		patterns = append(patterns, p)
		trie.Add(p, i)
	}
	key := "w3.x.w699.w3.w4"
	got := matches(&trie, key)
	for i, p := range patterns {
		if want := naive(split(p), split(key)); (got[i] == 1) != want {
			t.Errorf("%q: visited %d times, want a match: %v", p, got[i], want)
		}
	}
}

func TestManyHashesDoNotBlowUp(t *testing.T) {
	var trie Trie[int]
	pattern := strings.Repeat("#.a.", 60) + "#.never"
	trie.Add(pattern, 1)
	trie.Add(strings.Repeat("#.", 120)+"a", 2)
	key := strings.Repeat("a.", 120) + "a"
	start := time.Now()
	got := matches(&trie, key)
	if got[1] != 0 || got[2] != 1 {
		t.Errorf("visited %v, want the second once", got)
	}
	if d := time.Since(start); d > time.Second { // exponential would not end at all
		t.Errorf("took %v", d)
	}
}

func TestAddAndRemoveKeepPairsApart(t *testing.T) {
	var trie Trie[int]
	for i := range 100 {
		if !trie.Add("a.*", i) || trie.Add("a.*", i) {
			t.Fatal("a pair is added once")
		}
	}
	if trie.Len() != 100 {
		t.Errorf("Len is %d", trie.Len())
	}
	for i := 0; i < 100; i += 2 {
		if !trie.Remove("a.*", i) || trie.Remove("a.*", i) {
			t.Fatal("a pair is removed once")
		}
	}
	for _, p := range []string{"a", "a.*.b", "a.b", "b.*", "#", ""} {
		if trie.Remove(p, 1) {
			t.Errorf("Remove(%q) found a pair of another pattern", p)
		}
	}
	got := matches(&trie, "a.x")
	for i := range 100 {
		if got[i] != i%2 {
			t.Errorf("value %d visited %d times", i, got[i])
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	trie := manyBindings(1000)
	key := []byte("region7.device42.temperature")
	n := 0
	visit := func(int) { n++ }
	if a := testing.AllocsPerRun(100, func() { trie.Match(key, visit) }); a != 0 {
		t.Errorf("%v allocations a match", a)
	}
	if n == 0 {
		t.Error("nothing matched")
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("*.orange.#", "#.b.#.c", "quick.orange.b.c")
	f.Add("", "#", "")
	f.Add("a..b", ".", "a..b")
	f.Add("#.#.*.#", "*.#.*", "a.b.c.d")
	f.Fuzz(func(t *testing.T, p, q, key string) {
		if len(p)+len(q) > 40 || len(key) > 40 {
			t.Skip("the naive search is exponential")
		}
		var trie Trie[int]
		trie.Add(p, 1)
		trie.Add(q, 2)
		got := matches(&trie, key)
		for i, pattern := range []string{p, q} {
			want := 0
			if naive(split(pattern), split(key)) {
				want = 1
			}
			if got[i+1] != want {
				t.Errorf("pattern %q, key %q: visited %d times, want %d", pattern, key, got[i+1], want)
			}
		}
		trie.Remove(p, 1)
		if !trie.Remove(q, 2) || !trie.root.empty() {
			t.Error("something is left after Remove")
		}
	})
}

func manyBindings(n int) *Trie[int] {
	var trie Trie[int]
	for i := range n {
		switch i % 10 {
		case 0:
			trie.Add(fmt.Sprintf("region%d.#", i), i)
		case 1:
			trie.Add(fmt.Sprintf("*.device%d.*", i), i)
		case 2:
			trie.Add(fmt.Sprintf("#.device%d.#", i), i)
		default:
			trie.Add(fmt.Sprintf("region%d.device%d.temperature", i%50, i), i)
		}
	}
	trie.Add("region7.*.temperature", -1)
	return &trie
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		trie := manyBindings(n)
		key := []byte("region7.device42.temperature")
		b.Run(fmt.Sprintf("bindings=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				trie.Match(key, func(int) { n++ })
			}
		})
	}
}

func BenchmarkAddRemove(b *testing.B) {
	trie := manyBindings(100_000)
	b.ReportAllocs()
	for b.Loop() {
		trie.Add("region7.device1.humidity", 1)
		trie.Remove("region7.device1.humidity", 1)
	}
}
