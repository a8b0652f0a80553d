package app

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapSlack is how much the heap may grow between two collections at least,
// bytes. A broker that keeps up has a live heap of a few megabytes; with Go's
// default, twice the live heap, it would collect a hundred times a second.
const heapSlack = 64 << 20

// tuneGC makes the collector run when the heap has grown by heapSlack, or by
// half of what is live if that is more. It looks again after each collection,
// by a finalizer.
func tuneGC() {
	debug.SetGCPercent(400)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	type sentinel struct{ _ [64]byte }
	var again func(*sentinel)
	again = func(*sentinel) {
		metrics.Read(live)
		n := max(live[0].Value.Uint64(), 1<<20)
		grow := max(n/2, heapSlack)
		debug.SetGCPercent(int(min(grow*100/n, 6400)))
		runtime.SetFinalizer(&sentinel{}, again)
	}
	runtime.SetFinalizer(&sentinel{}, again)
}
