package load

import (
	"math/rand/v2"
	"testing"
)

func TestConfirmsInAnyOrder(t *testing.T) {
	type ack struct {
		tag            int64
		multiple, nack bool
	}
	for name, c := range map[string]struct {
		acks    []ack
		done    int64
		counted uint64
		nacked  int64
	}{
		"one by one":                        {[]ack{{tag: 1}, {tag: 2}, {tag: 3}}, 3, 3, 0},
		"all at once":                       {[]ack{{tag: 8, multiple: true}}, 8, 8, 0},
		"backwards":                         {[]ack{{tag: 3}, {tag: 2}, {tag: 1}}, 3, 3, 0},
		"a gap stays":                       {[]ack{{tag: 1}, {tag: 3}}, 1, 2, 0},
		"all, over some that came early":    {[]ack{{tag: 2}, {tag: 4}, {tag: 5, multiple: true}}, 5, 5, 0},
		"all, up to one that came early":    {[]ack{{tag: 4}, {tag: 3, multiple: true}}, 4, 4, 0},
		"the same twice":                    {[]ack{{tag: 2}, {tag: 2}, {tag: 1}, {tag: 1}}, 2, 2, 0},
		"never sent":                        {[]ack{{tag: 9}}, 0, 0, 0},
		"refused":                           {[]ack{{tag: 1}, {tag: 3, multiple: true, nack: true}}, 3, 3, 2},
		"refused, over one confirmed early": {[]ack{{tag: 2}, {tag: 3, multiple: true, nack: true}}, 3, 3, 2},
		"refused early":                     {[]ack{{tag: 2, nack: true}, {tag: 1}}, 2, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newConfirms(8)
			for tag := range int64(8) {
				k.stamp(tag+1, 100)
			}
			for _, a := range c.acks {
				k.settle(a.tag, a.multiple, a.nack, 8, 200)
			}
			if k.done != c.done || k.hist.total != c.counted || k.nacked != c.nacked {
				t.Errorf("done %d, counted %d, nacked %d; want %d, %d, %d", k.done, k.hist.total, k.nacked, c.done, c.counted, c.nacked)
			}
		})
	}
}

// Whatever the order, every publish is counted once and with its own time.
func TestConfirmsOfManyRounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const window = 16
	k := newConfirms(window)
	open := map[int64]bool{}
	var sent, now int64
	for range 20_000 {
		now++
		if sent-k.done < window && rng.IntN(2) == 0 {
			sent++
			k.stamp(sent, now)
			open[sent] = true
			continue
		}
		if len(open) == 0 {
			continue
		}
		tag := k.done + 1 + rng.Int64N(sent-k.done)
		multiple := rng.IntN(3) == 0
		k.settle(tag, multiple, false, sent, now)
		delete(open, tag)
		for t := range open {
			if multiple && t <= tag {
				delete(open, t)
			}
		}
		if got, want := int64(k.hist.total), sent-int64(len(open)); got != want {
			t.Fatalf("%d counted, want %d", got, want)
		}
	}
	if worst := k.hist.Quantile(1); worst > 20_000 || worst < 1 {
		t.Errorf("the slowest took %d", worst)
	}
}
