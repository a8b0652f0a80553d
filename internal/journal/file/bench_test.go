package file

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

func benchJournal(b *testing.B) *Journal {
	b.Helper()
	j, err := Open(vfs.OS{}, b.TempDir()+"/journal", Options{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { mustClose(b, j) })
	return j
}

// fillBench appends batches of 100 records each: a head of 24 and a body of 130
// bytes a record. It returns a ref for each record.
func fillBench(b *testing.B, j *Journal, batches, records int) []journal.Ref {
	b.Helper()
	var refs []journal.Ref
	head, body := make([]byte, 24*records), make([]byte, 130*records)
	for p := uint64(1); p <= uint64(batches); p++ {
		j.Append(journal.Batch{Position: p, Epoch: 1, Segment: 1 + p*uint64(len(body))>>26, Head: head, Body: [][]byte{body}}, func(err error) {
			if err != nil {
				b.Error(err)
			}
		})
		for i := range records {
			refs = append(refs, journal.Ref{Position: p, Offset: uint32(i * 130), Length: 130})
		}
	}
	if err := j.Follow(context.Background(), uint64(batches)-1); err != nil {
		b.Fatal(err)
	}
	return refs
}

// BenchmarkAppendOne is the latency of one append at a time.
func BenchmarkAppendOne(b *testing.B) {
	j := benchJournal(b)
	head, body := make([]byte, 60), [][]byte{make([]byte, 130)}
	done := make(chan error, 1)
	ack := func(err error) { done <- err }
	position := uint64(0)
	for b.Loop() {
		position++
		j.Append(journal.Batch{Position: position, Epoch: 1, Segment: 1, Head: head, Body: body}, ack)
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppend is a stream of batches.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{4 << 10, 16 << 10, 128 << 10, 1 << 20} {
		b.Run(sizeName(size), func(b *testing.B) {
			j := benchJournal(b)
			head, body := make([]byte, size/8), [][]byte{make([]byte, size-size/8)}
			b.SetBytes(int64(size))
			position := uint64(0)
			for b.Loop() {
				position++
				j.Append(journal.Batch{Position: position, Epoch: 1, Segment: 1 + position*uint64(size)>>26, Head: head, Body: body}, func(err error) {
					if err != nil {
						b.Error(err)
					}
				})
				if segments, _ := j.Segments(b.Context()); len(segments) > 4 {
					if err := j.Drop(segments[0].Segment); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := j.Follow(context.Background(), position-1); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return "1MiB"
	}
	return map[int]string{4 << 10: "4KiB", 16 << 10: "16KiB", 128 << 10: "128KiB"}[n]
}

// BenchmarkReplay reads the heads of a million records.
func BenchmarkReplay(b *testing.B) {
	for _, records := range []int{100, 1000} {
		b.Run(map[int]string{100: "small", 1000: "large"}[records], func(b *testing.B) {
			j := benchJournal(b)
			n := len(fillBench(b, j, 1_000_000/records, records))
			b.ResetTimer()
			for b.Loop() {
				if err := j.Replay(context.Background(), 0, 0, false, func(journal.Batch) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkOpen is a start with one unsealed segment.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir() + "/journal"
	j, err := Open(vfs.OS{}, dir, Options{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	fillBench(b, j, 10_000, 100)
	mustClose(b, j)
	for b.Loop() {
		j, err := Open(vfs.OS{}, dir, Options{Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		mustClose(b, j)
	}
}

func BenchmarkReadRefs(b *testing.B) {
	j := benchJournal(b)
	refs := fillBench(b, j, 4000, 200)
	rng := rand.New(rand.NewPCG(1, 2))
	run := func(name string, next func() []journal.Ref) {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				some := next()
				n += len(some)
				if _, err := j.ReadRefs(context.Background(), some); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "refs/s")
		})
	}
	scattered := make([]journal.Ref, 512)
	run("scattered", func() []journal.Ref {
		for i := range scattered {
			scattered[i] = refs[rng.IntN(len(refs))]
		}
		return scattered
	})
	at := 0
	run("sequential", func() []journal.Ref {
		if at += 4096; at > len(refs) {
			at = 4096
		}
		return refs[at-4096 : at]
	})
}
