package outbox

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

var hundred = &link.Message{Exchange: "orders", Key: "orders.new", Body: make([]byte, 100)}

// fill puts n messages of 100 bytes.
func fill(t testing.TB, o *Outbox, n int) {
	t.Helper()
	var left sync.WaitGroup
	left.Add(n)
	var failed atomic.Pointer[error]
	done := func(_ uint64, err error) {
		if err != nil {
			failed.Store(&err)
		}
		left.Done()
	}
	for range n {
		if err := o.PutAsync(context.Background(), hundred, done); err != nil {
			t.Fatal(err)
		}
	}
	left.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
}

func BenchmarkPutAsync(b *testing.B) {
	o := mustOpen(b, b.TempDir(), Options{MaxBytes: 64 << 30})
	b.ResetTimer()
	fill(b, o, b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	mustClose(b, o)
}

func BenchmarkPut(b *testing.B) {
	for _, callers := range []int{1, 64, 1024} {
		b.Run(map[int]string{1: "1", 64: "64", 1024: "1024"}[callers], func(b *testing.B) {
			o := mustOpen(b, b.TempDir(), Options{MaxBytes: 64 << 30})
			b.ResetTimer()
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := o.Put(context.Background(), hundred); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
			mustClose(b, o)
		})
	}
}

// BenchmarkThrough puts, takes and settles at the same time.
func BenchmarkThrough(b *testing.B) {
	o := mustOpen(b, b.TempDir(), Options{})
	b.ResetTimer()
	var wg sync.WaitGroup
	wg.Go(func() { drain(b, o, b.N) })
	fill(b, o, b.N)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	mustClose(b, o)
}

func drain(b *testing.B, o *Outbox, n int) {
	for n > 0 {
		entries, err := o.Take(context.Background(), 512)
		if err != nil {
			b.Error(err)
			return
		}
		for _, e := range entries {
			o.Settle(e.Seq)
		}
		n -= len(entries)
	}
}

// BenchmarkBacklog opens an outbox with a million messages waiting, and drains
// it.
func BenchmarkBacklog(b *testing.B) {
	const n = 1_000_000
	dir := b.TempDir()
	o := mustOpen(b, dir, Options{})
	fill(b, o, n)
	mustClose(b, o)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var opening, draining time.Duration
	b.ResetTimer()
	for range b.N {
		at := time.Now()
		o := mustOpen(b, dir, Options{})
		opening += time.Since(at)
		if s := o.Stats(); s.Messages != n {
			b.Fatalf("%+v", s)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		at = time.Now()
		for left := n; left > 0; {
			entries, err := o.Take(context.Background(), 512)
			if err != nil {
				b.Fatal(err)
			}
			left -= len(entries)
		}
		draining += time.Since(at)
		mustClose(b, o)
	}
	b.ReportMetric(opening.Seconds()*1000/float64(b.N), "ms/open")
	b.ReportMetric(n*float64(b.N)/draining.Seconds(), "taken/s")
	b.ReportMetric(float64(after.HeapAlloc)/1e6-float64(before.HeapAlloc)/1e6, "MB")
}
