package broker

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Whatever is delivered and settled, in whatever order: exactly what is not settled
// is found, and settled once.
func TestUnackedIsASet(t *testing.T) {
	q := &Queue{}
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var r unackedRing
		var model []uint64
		tag := uint64(0)
		retired := 0
		for step := range 30000 {
			switch k := rng.IntN(20); {
			case k < 10 || len(model) == 0:
				tag += 1 + uint64(rng.IntN(3))
				if rng.IntN(1000) == 0 {
					tag += sparseSpan * uint64(1+rng.IntN(5)) // of a consumer that does not settle
				}
				r.push(delivered{q: q, tag: tag})
				model = append(model, tag)
			case k < 19 || seed%2 == 0:
				i := rng.IntN(len(model))
				if rng.IntN(3) > 0 {
					i = max(len(model)-1-rng.IntN(20), 0) // mostly the latest: the old ones stay
				}
				want := model[i]
				model = slices.Delete(model, i, i+1)
				p := r.find(want)
				if p == nil || p.tag != want {
					t.Fatalf("seed %d: %d is found as %+v", seed, want, p)
				}
				if d := r.take(p); d.tag != want || d.q != q || r.find(want) != nil {
					t.Fatalf("seed %d: %d is taken as %+v", seed, want, d)
				}
			case rng.IntN(200) == 0:
				i := rng.IntN(len(model))
				var got []uint64
				for _, d := range r.takeUpTo(model[i], nil) {
					got = append(got, d.tag)
				}
				if !slices.Equal(got, model[:i+1]) {
					t.Fatalf("seed %d: up to %d: %d, want %d", seed, model[i], got, model[:i+1])
				}
				model = slices.Delete(model, 0, i+1)
			}
			if len(r.old) > 0 {
				retired++
			}
			if none := rng.Uint64N(tag + 10); r.find(none) != nil != slices.Contains(model, none) {
				t.Fatalf("seed %d: %d is found wrongly", seed, none)
			}
			if r.held() != len(model) || r.n > sparseSpan+sparseShare*(len(model)+1) || len(r.old) > 2*len(model)+1 {
				t.Fatalf("seed %d: %d are held as %d, in %d and %d places", seed, len(model), r.held(), r.n, len(r.old))
			}
			if step%500 == 0 {
				var got []uint64
				r.all(func(d delivered) { got = append(got, d.tag) })
				if !slices.Equal(got, model) {
					t.Fatalf("seed %d: %d are there, want %d", seed, len(got), len(model))
				}
			}
		}
		if retired == 0 {
			t.Errorf("seed %d: nothing stayed long", seed)
		}
	}
}

// A delivery that is not settled takes no room for those behind it that are.
func TestKeptDeliveryIsSmall(t *testing.T) {
	q := &Queue{}
	var r unackedRing
	r.push(delivered{q: q, tag: 1})
	for tag := uint64(2); tag < 1_000_000; tag++ {
		r.push(delivered{q: q, tag: tag})
		r.take(r.find(tag))
	}
	if len(r.buf) > 2*sparseSpan || cap(r.old) > 8 {
		t.Errorf("it takes %d places, and %d", len(r.buf), cap(r.old))
	}
	if list := r.takeUpTo(1, nil); len(list) != 1 || list[0].tag != 1 || r.held() != 0 {
		t.Errorf("%+v", list)
	}
}
