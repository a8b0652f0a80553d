package sqldb_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

func eachKind(b *testing.B, run func(b *testing.B, url string)) {
	b.Run("postgres", func(b *testing.B) { run(b, dbtest.Postgres(b)) })
	b.Run("mariadb", func(b *testing.B) { run(b, dbtest.MariaDB(b)) })
}

// BenchmarkAppend is a stream of batches, as a broker writes them: an eighth is
// what a replay reads.
func BenchmarkAppend(b *testing.B) {
	eachKind(b, func(b *testing.B, url string) {
		for _, size := range []int{1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
				j := mustOpen(b, url, sqldb.Options{Name: b.Name()})
				// Bytes of every value, so that what must be escaped is among them.
				data := make([]byte, size)
				for i := range data {
					data[i] = byte(i * 7)
				}
				head, body := data[:size/8], [][]byte{data[size/8:]}
				b.SetBytes(int64(size))
				position := j.Info().Head
				var under sync.WaitGroup
				for b.Loop() {
					position++
					under.Add(1)
					j.Append(journal.Batch{Position: position, Epoch: 1, Segment: 1 + position*uint64(size)>>26, Head: head, Body: body}, func(err error) {
						if err != nil {
							b.Error(err)
						}
						under.Done()
					})
				}
				under.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			})
		}
	})
}
