package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsFollowEachOther(t *testing.T) {
	for b := range buckets - 1 {
		top := limit(b)
		if got := bucketOf(top - 1); got != b {
			t.Fatalf("%d ns is in bucket %d, want %d", top-1, got, b)
		}
		if got := bucketOf(top); got != b+1 {
			t.Fatalf("%d ns is in bucket %d, want %d", top, got, b+1)
		}
	}
	if got := bucketOf(-1); got != 0 {
		t.Errorf("a clock that went back: bucket %d", got)
	}
	if got := bucketOf(1 << 62); got != buckets-1 {
		t.Errorf("a very long time: bucket %d", got)
	}
}

func TestQuantilesAreWithinASixtyFourth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var a, b Histogram
	var all []time.Duration
	for i := range 50_000 {
		d := time.Duration(rng.ExpFloat64() * 1e6)
		all = append(all, d)
		if i%2 == 0 {
			a.Add(d, 1)
		} else {
			b.Add(d, 1)
		}
	}
	a.Merge(&b)
	slices.Sort(all)
	for _, p := range []float64{.5, .9, .99, .999, 1} {
		want := all[int(p*float64(len(all))+0.999999)-1]
		got := a.Quantile(p)
		if got <= want || got > want+want/64+1 {
			t.Errorf("%g: %v, want %v", p, got, want)
		}
	}
	if got := new(Histogram).Quantile(.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func BenchmarkHistogram(b *testing.B) {
	var h Histogram
	for i := range b.N {
		h.Add(time.Duration(i*97), 1)
	}
}
