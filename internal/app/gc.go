package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// heapSlack is how much the heap may grow between two collections at least,
	// bytes. A broker that keeps up has a live heap of a few megabytes; with Go's
	// default, twice the live heap, it would collect a hundred times a second.
	heapSlack = 64 << 20

	// A broker that allocates less than quietRate bytes in quietTime has nothing
	// to do. If it has allocated quietGarbage since it gave memory back last, it
	// does so now.
	quietTime    = time.Second
	quietRate    = 1 << 20
	quietGarbage = 4 << 20
)

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

// freeWhenQuiet gives memory back to the operating system when the broker has
// become quiet, so that what is idle costs only what it holds. It ends with ctx.
func freeWhenQuiet(ctx context.Context) {
	ticker := time.NewTicker(quietTime)
	defer ticker.Stop()
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	read := func() uint64 {
		metrics.Read(allocated)
		return allocated[0].Value.Uint64()
	}
	last := read()
	freed := last
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := read()
		if now-last < quietRate && now-freed > quietGarbage {
			debug.FreeOSMemory()
			freed = now
		}
		last = now
	}
}
