package app

import (
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
)

// How the collector is set, unless GOGC and GOMEMLIMIT say otherwise.
const (
	// gcTarget is the share of the memory limit at which the collector works
	// harder rather than let garbage gather. It lies below the end of the memory
	// alarm (nine tenths of the limit), so that an alarm means memory that is in
	// use, and ends when that is freed.
	gcTarget = 0.8
)

// setCollector tunes the garbage collector to a limit in bytes, 0 if there is
// none.
func setCollector(limit int64) {
	if os.Getenv("GOGC") == "" {
		tuneGC()
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		target := int64(math.MaxInt64)
		if limit > 0 {
			target = int64(float64(limit) * gcTarget)
		}
		debug.SetMemoryLimit(target)
	}
}

// A memoryGauge tells how much memory the process holds. It belongs to one
// goroutine.
type memoryGauge struct{ samples []metrics.Sample }

func newMemoryGauge() *memoryGauge {
	return &memoryGauge{[]metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}}
}

// used is what the runtime has from the operating system and has not given
// back, bytes. It is what GOMEMLIMIT limits.
func (g *memoryGauge) used() int64 {
	metrics.Read(g.samples)
	return int64(g.samples[0].Value.Uint64() - g.samples[1].Value.Uint64())
}
