package outbox

import (
	"runtime"
	"testing"
)

// heap is how much is in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMillionWaitingMessagesTakeLittleMemory: beside what is read, as much as a
// few buffers, while they wait, after the next start, and while they are sent
// with a window in which the first of each thousand stays unsettled for long.
func TestMillionWaitingMessagesTakeLittleMemory(t *testing.T) {
	const n, most = 1_000_000, 16 << 20
	dir := t.TempDir()
	before := heap()
	check := func(when string) {
		t.Helper()
		used := heap() - before
		t.Logf("%s: %d KiB", when, used>>10)
		if used > most {
			t.Errorf("%d bytes are in use %s, want at most %d", used, when, most)
		}
	}
	o := mustOpen(t, dir, Options{})
	fill(t, o, n)
	check("when all are stored")
	if s := o.Stats(); s.Messages != n || s.Bytes > 200*n {
		t.Errorf("%+v", s)
	}
	mustClose(t, o)

	o = mustOpen(t, dir, Options{})
	check("after opening")
	next := uint64(1)
	var late []uint64
	for next <= n {
		entries, err := o.Take(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Seq != next || len(e.Message.Body) != 100 || !e.Recovered {
				t.Fatalf("%+v, want number %d", e, next)
			}
			next++
			if e.Seq%1000 == 1 {
				late = append(late, e.Seq)
				continue
			}
			o.Settle(e.Seq)
		}
	}
	check("when all but a thousand are settled")
	for _, seq := range late {
		o.Settle(seq)
	}
	if s := o.Stats(); s.Messages != 0 {
		t.Errorf("%+v", s)
	}
	mustClose(t, o)
	o = mustOpen(t, dir, Options{})
	empty(t, o)
	mustClose(t, o)
}
