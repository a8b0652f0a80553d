package broker

import (
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// StoreView is how the broker's journal, and what it keeps in memory, do now.
type StoreView struct {
	Epoch, Position uint64

	Segments   int
	Bytes      int64 // of all segments
	Live       int64 // of those, of messages that are not settled
	Pending    int64 // bytes of messages that wait to be written
	Batches    uint64
	BatchBytes int64             // of all batches
	Commits    journal.Durations // from when a batch was handed to the journal to when it was durable
	Syncs      *journal.Measures // of the journal itself; nil: it does not tell

	Checkpoints     uint64 // taken
	CheckpointBytes int64  // of the newest
	Dropped         uint64 // segments that were given back
	Cleaned         uint64 // segments whose last messages were copied
	MovedBytes      int64  // of such messages

	Recovery time.Duration // that reading the journal took, or taking it over

	HotBytes, HotLimit int64 // bodies in memory

	// MemoryAlarm and DiskAlarm are whether publishers are blocked because of these.
	// MemoryUsed and the like are bytes, as they were looked at last; a limit of 0:
	// there is none.
	MemoryAlarm, DiskAlarm  bool
	MemoryUsed, MemoryLimit int64
	DiskFree, DiskLimit     int64
}

// work counts what the log, and who cleans it, have done. Guarded by log.mu.
type work struct {
	batches     uint64
	batchBytes  int64
	checkpoints uint64
	dropped     uint64
	cleaned     uint64
	moved       int64
}

func (l *log) count(f func(w *work)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.work)
}

// durations counts how long something took.
type durations struct {
	mu sync.Mutex // guards d
	d  journal.Durations
}

func (d *durations) count(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.d.Count(took)
}

func (d *durations) view() journal.Durations {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.d
}

// Store tells how the journal does. It may be asked at any time, by any goroutine,
// and never waits.
func (b *Broker) Store() StoreView {
	l := b.log
	v := StoreView{
		Epoch: l.epoch, Position: l.durable.Load(), Commits: l.commits.view(),
		CheckpointBytes: b.checkpointSize.Load(), Recovery: b.recovery,
		HotBytes: b.evict.hot.Load(), HotLimit: b.evict.limit,
		MemoryAlarm: b.alarms.memory.Load(), DiskAlarm: b.alarms.disk.Load(),
		MemoryUsed: b.alarms.used.Load(), MemoryLimit: b.alarms.usedLimit.Load(),
		DiskFree: b.alarms.free.Load(), DiskLimit: b.alarms.freeLimit.Load(),
	}
	if m, ok := l.j.(journal.Meter); ok {
		measures := m.Measures()
		v.Syncs = &measures
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segs {
		v.Bytes += s.bytes
		v.Live += s.live
	}
	w := &l.work
	v.Segments, v.Pending = len(l.segs), int64(l.bytes)
	v.Batches, v.BatchBytes = w.batches, w.batchBytes
	v.Checkpoints, v.Dropped, v.Cleaned, v.MovedBytes = w.checkpoints, w.dropped, w.cleaned, w.moved
	return v
}
