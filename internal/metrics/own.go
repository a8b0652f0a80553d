package metrics

import (
	"runtime"
	"strconv"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
)

// own writes what RabbitMQ does not have. b is nil while no broker serves.
func (h *Handler) own(e *exposition, b *broker.Broker) {
	e.family("ferry_version_info", gauge, "The version of Ferry, and that of Go it was built with.")
	e.number(1, "version", h.cfg.Version, "go_version", runtime.Version())
	if h.cfg.Standing != nil {
		s := h.cfg.Standing()
		e.family("ferry_role_info", gauge, "What the process is among those that share its store.")
		e.number(1, "node", h.cfg.Node, "role", s.Role)
		e.family("ferry_epoch", gauge, "The epoch of the message store: who owns it has begun a new one.")
		e.count(s.Epoch)
		e.family("ferry_lag_batches", gauge, "Batches of the log that this process has not taken in.")
		e.count(s.Lag)
	}
	h.goruntime(e)
	if b == nil {
		return
	}
	s := b.Store()
	gauges := []struct {
		name, help string
		v          float64
	}{
		{"ferry_journal_segments", "Segments of the journal.", float64(s.Segments)},
		{"ferry_journal_bytes", "Bytes of the journal.", float64(s.Bytes)},
		{"ferry_journal_live_bytes", "Of these, bytes of messages that are not settled.", float64(s.Live)},
		{"ferry_journal_pending_bytes", "Bytes of messages that wait to be written.", float64(s.Pending)},
		{"ferry_journal_checkpoint_bytes", "Bytes of the newest checkpoint.", float64(s.CheckpointBytes)},
		{"ferry_recovery_seconds", "Time that reading the journal took at the start, or taking it over.", s.Recovery.Seconds()},
		{"ferry_hot_bytes", "Bytes of messages in memory.", float64(s.HotBytes)},
		{"ferry_hot_limit_bytes", "Bytes of messages from which on those leave memory that are also on disk.", float64(s.HotLimit)},
		{"ferry_blocked", "Whether publishers are blocked.", boolean(b.Blocked() != "")},
	}
	for _, m := range gauges {
		e.family(m.name, gauge, m.help)
		e.number(m.v)
	}
	counters := []struct {
		name, help string
		n          uint64
	}{
		{"ferry_journal_position", "Batches of the log that are durable, from its first on.", s.Position},
		{"ferry_journal_batches_total", "Batches that were written.", s.Batches},
		{"ferry_journal_batch_bytes_total", "Bytes of these batches.", uint64(s.BatchBytes)},
		{"ferry_journal_checkpoints_total", "Checkpoints that were taken.", s.Checkpoints},
		{"ferry_journal_dropped_segments_total", "Segments that were given back.", s.Dropped},
		{"ferry_journal_cleaned_segments_total", "Segments whose last messages were copied, so that they could be given back.", s.Cleaned},
		{"ferry_journal_copied_bytes_total", "Bytes of such messages.", uint64(s.MovedBytes)},
	}
	for _, m := range counters {
		e.family(m.name, counter, m.help)
		e.count(m.n)
	}
	e.family("ferry_journal_commit_seconds", histogram, "From when a batch is complete to when it is durable.")
	e.durations(&s.Commits)
	if s.Syncs != nil {
		e.family("ferry_journal_sync_seconds", histogram, "Making durable what was written: an fsync, or a commit of a database.")
		e.durations(&s.Syncs.Syncs)
		e.family("ferry_journal_written_bytes_total", counter, "Bytes that the journal has written, with its own.")
		e.count(uint64(s.Syncs.Written))
	}
}

// durationBounds are journal.DurationBounds in seconds.
var durationBounds = func() (bounds [len(journal.DurationBounds)]string) {
	for i, d := range journal.DurationBounds {
		bounds[i] = strconv.FormatFloat(d.Seconds(), 'g', -1, 64)
	}
	return bounds
}()

func (e *exposition) durations(d *journal.Durations) {
	e.classes(durationBounds[:], d.Counts[:], d.Sum.Seconds())
}

// goruntime writes what the client library of Prometheus for Go tells of every
// process, as far as it costs nothing.
func (h *Handler) goruntime(e *exposition) {
	p := h.process()
	for _, m := range []struct {
		name, kind, help string
		v                float64
	}{
		{"go_goroutines", gauge, "Goroutines.", float64(runtime.NumGoroutine())},
		{"process_open_fds", gauge, "Open file descriptors.", float64(p.openFiles)},
		{"process_max_fds", gauge, "Limit of open file descriptors.", float64(p.mostFiles)},
		{"process_resident_memory_bytes", gauge, "Memory of the process.", float64(p.resident)},
		{"process_cpu_seconds_total", counter, "Processor time, of the system's part too.", p.cpu.Seconds()},
	} {
		e.family(m.name, m.kind, m.help)
		e.number(m.v)
	}
}
