package sqldb_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
)

// kinds are those of the servers that are killed here.
var kinds = []string{dbtest.KindPostgres, dbtest.KindMariaDB}

// disturb appends while faults happen, each after some more appends were
// acknowledged, and some more at the end. All of them must be in the log, once.
func disturb(t *testing.T, url string, faults ...func()) {
	t.Helper()
	const between = 40
	j := openFor(t, url, 5*time.Second)
	var acked atomic.Uint64
	var stop atomic.Bool
	var writing sync.WaitGroup
	writing.Go(func() {
		for position := uint64(1); !stop.Load(); position++ {
			j.Append(faultBatch(1, position, int(position*977%20000)), func(err error) {
				switch {
				case err != nil:
					t.Errorf("position %d: %v", position, err)
					stop.Store(true)
				case acked.Add(1) != position:
					t.Errorf("position %d is the append number %d that is acknowledged", position, acked.Load())
				}
			})
		}
	})
	reach := func(count uint64) {
		if err := j.Follow(t.Context(), count); err != nil {
			t.Fatalf("follow: %v", err)
		}
	}
	reach(between)
	for _, fault := range faults {
		fault()
		reach(acked.Load() + between)
	}
	stop.Store(true)
	writing.Wait()
	if err := j.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	j = openFor(t, url, faultLease)
	if head := j.Info().Head; head != acked.Load() {
		t.Errorf("the log ends at %d, %d appends were acknowledged", head, acked.Load())
	}
	position := uint64(0)
	err := j.Replay(t.Context(), 0, 0, true, func(b journal.Batch) error {
		position++
		return journaltest.Same(b, faultBatch(1, position, int(position*977%20000)))
	})
	if err != nil || position != acked.Load() {
		t.Errorf("replay to %d: %v", position, err)
	}
}

func TestServersThatAreKilledHaveWhatWasAcknowledged(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			s := dbtest.Start(t, kind)
			again := func() { s.Kill(); s.Up() }
			disturb(t, s.URL, again, s.Restart, again)
		})
	}
}

func TestConnectionsThatAreLostLeaveNeitherGapNorDouble(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := dbtest.NewWire(t, url)
		byServer := func() { dbtest.Cut(t, url) }
		onTheWay := func() { w.Cut(); w.Mend() }
		disturb(t, w.URL, byServer, onTheWay, onTheWay, byServer, onTheWay, onTheWay, byServer)
	})
}

// TestAnOwnerThatClosesWithoutItsServer: what is in the log then is what was
// acknowledged, and perhaps what was on its way.
func TestAnOwnerThatClosesWithoutItsServer(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			s := dbtest.Start(t, kind)
			j := openFor(t, s.URL, faultLease)
			var acked atomic.Uint64
			var ended atomic.Bool
			var writing sync.WaitGroup
			writing.Go(func() {
				for position := uint64(1); !ended.Load(); position++ {
					j.Append(faultBatch(1, position, 100), func(err error) {
						if err != nil {
							ended.Store(true)
						} else if acked.Add(1) != position {
							t.Errorf("position %d is acknowledged behind one that failed", position)
						}
					})
				}
			})
			if err := j.Follow(t.Context(), 30); err != nil {
				t.Fatal(err)
			}
			s.Kill()
			if err := j.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			writing.Wait()
			told := acked.Load()
			s.Up()
			next := openFor(t, s.URL, faultLease)
			first := takeOver(t, next, 2, 100)
			checkReigns(t, next, reign{1, 1, told, 100}, reign{2, first, first, 100})
		})
	}
}
