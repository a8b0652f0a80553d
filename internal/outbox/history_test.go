package outbox

import (
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/ferrymq/ferry/internal/vfs"
)

// A history does things by chance, and compares with what must be there.
type history struct {
	t    *testing.T
	rng  *rand.Rand
	fs   *vfs.Mem
	o    *Outbox
	want map[uint64]string // stored and not settled
	gone map[uint64]string // settled, but perhaps that is not written
	out  []uint64          // taken and not settled
	next uint64            // of what may be taken
	last uint64            // that was put
}

func TestRandomHistories(t *testing.T) {
	histories := uint64(25)
	if long {
		histories = 3000
	}
	for seed := range histories {
		h := &history{
			t: t, rng: rand.New(rand.NewPCG(seed, 7)), fs: vfs.NewMem(),
			want: map[uint64]string{}, gone: map[uint64]string{},
		}
		if err := h.fs.MkdirAll(filepath.Dir(crashDir)); err != nil {
			t.Fatal(err)
		}
		h.o = mustOpen(t, crashDir, tiny(h.fs))
		for range 150 {
			h.step()
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		mustClose(t, h.o)
	}
}

func (h *history) step() {
	switch n := h.rng.IntN(100); {
	case n < 40:
		s := text(h.rng.Uint64N(1000), h.rng.IntN(1+h.rng.IntN(1500)))
		seq := mustPut(h.t, h.o, s)
		if seq <= h.last {
			h.t.Errorf("number %d behind %d", seq, h.last)
		}
		h.last = seq
		h.want[seq] = s
	case n < 65:
		h.take(1 + h.rng.IntN(8))
	case n < 90 && len(h.out) > 0:
		// Mostly the first, sometimes any.
		i := 0
		if n < 70 {
			i = h.rng.IntN(len(h.out))
		}
		seq := h.out[i]
		h.out = append(h.out[:i], h.out[i+1:]...)
		if n < 68 {
			if err := h.o.Refuse(seq, nil); err != nil {
				h.t.Error(err)
			}
		} else {
			h.o.Settle(seq)
		}
		h.gone[seq] = h.want[seq]
		delete(h.want, seq)
	case n < 94:
		mustClose(h.t, h.o)
		clear(h.gone)
		h.reopen(h.fs)
	case n < 97:
		left := h.fs.CrashClone(50*h.rng.IntN(3), h.rng)
		mustClose(h.t, h.o)
		h.reopen(left)
	}
}

// take takes what is there, at most n.
func (h *history) take(n int) {
	seq, end, err := h.o.takeable()
	if err != nil || seq == end {
		return
	}
	entries, err := h.o.Take(h.t.Context(), n)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		for h.next < e.Seq {
			if _, ok := h.want[h.next]; ok {
				h.t.Errorf("%d was left out before %d", h.next, e.Seq)
			}
			h.next++
		}
		s, ok := h.want[e.Seq]
		if !ok || string(e.Message.Body) != s || e.Recovered != (e.Seq < h.o.recovered) {
			h.t.Errorf("took %d %.30q, want %.30q", e.Seq, e.Message.Body, s)
		}
		h.next = e.Seq + 1
		h.out = append(h.out, e.Seq)
	}
}

// reopen goes on with what is on a file system. What was settled may be back if
// that was not written.
func (h *history) reopen(fs *vfs.Mem) {
	look := mustOpen(h.t, crashDir, tiny(fs.CrashClone(100, nil)))
	found, err := all(h.t, look)
	if err != nil {
		h.t.Error(err)
	}
	mustClose(h.t, look)
	there := map[uint64]string{}
	for _, e := range found {
		there[e.Seq] = string(e.Message.Body)
		if s, ok := h.gone[e.Seq]; ok {
			h.want[e.Seq] = s
		}
	}
	if !maps.Equal(there, h.want) {
		h.t.Errorf("there are %v, want %v", there, h.want)
	}
	clear(h.gone)
	h.fs = fs
	h.o = mustOpen(h.t, crashDir, tiny(fs))
	h.next, h.out = 0, nil
}
