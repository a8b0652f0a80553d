package app

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/vfs"
)

// A small medium holds at least segmentsAtLeast segments, unless that would
// make them smaller than smallestSegment, bytes.
const (
	segmentsAtLeast = 32
	smallestSegment = 1 << 20
)

// scratchDir is where transient messages go that memory has no room for, below
// the directory of a file store. What it holds is of no use to the next start.
const scratchDir = "scratch"

// A store is a journal, and beside it the scratch journal if there is one.
type store struct {
	kind    StoreKind
	fs      vfs.FS // of a FileStore
	dir     string
	journal journal.Journal
	scratch journal.Journal // nil: transient messages stay in memory
}

func openStore(cfg Config, log *slog.Logger) (*store, error) {
	kind, dir, err := ParseStore(cfg.Store)
	if err != nil {
		return nil, err
	}
	if kind == MemoryStore {
		log.Warn("messages are kept in memory only: none of them survives a restart", "store", cfg.Store)
		return &store{kind: kind, journal: memory.New(memory.Options{})}, nil
	}
	s := &store{kind: kind, fs: cfg.fs, dir: dir}
	if s.fs == nil {
		s.fs = vfs.OS{}
	}
	if s.journal, err = openJournal(s.fs, dir, log); err != nil {
		return nil, explain(err, dir)
	}
	// The journal's lock is ours: what is in scratch is the last process's.
	err = s.clearScratch()
	if err == nil {
		s.scratch, err = file.Open(s.fs, s.scratchDir(), file.Options{NoSync: true, Logger: log})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make room for transient messages: %w", err), s.journal.Close())
	}
	return s, nil
}

// A process that was just killed holds the lock until the system has taken it apart:
// who starts the next at once need not be told that it is too early.
const (
	lockWait = time.Second
	lockPoll = 20 * time.Millisecond
)

func openJournal(fsys vfs.FS, dir string, log *slog.Logger) (*file.Journal, error) {
	for until := time.Now().Add(lockWait); ; time.Sleep(lockPoll) {
		j, err := file.Open(fsys, dir, file.Options{Logger: log})
		if !errors.Is(err, journal.ErrLocked) || time.Now().After(until) {
			return j, err
		}
	}
}

func (s *store) scratchDir() string { return filepath.Join(s.dir, scratchDir) }

func (s *store) clearScratch() error {
	entries, err := s.fs.List(s.scratchDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, s.fs.Remove(filepath.Join(s.scratchDir(), e.Name)))
	}
	return err
}

// name is how the store is shown to people.
func (s *store) name() string {
	if s.kind == MemoryStore {
		return "memory"
	}
	return "file"
}

// diskAlarm is the broker's disk alarm for this store, nil if it has none.
func (s *store) diskAlarm(limit Limit) func() (free, limit int64) {
	if s.kind != FileStore || limit == (Limit{}) {
		return nil
	}
	return func() (int64, int64) {
		free, total, err := s.fs.Free(s.dir)
		if err != nil {
			return 0, 0 // not known: no alarm; a write will tell
		}
		return free, limit.of(total)
	}
}

// segmentBytes is how large the journal's segments become: small against the
// medium, because space is given back a segment at a time. 0 is the broker's
// default.
func (s *store) segmentBytes() int64 {
	if s.kind != FileStore {
		return 0
	}
	_, total, err := s.fs.Free(s.dir)
	if err != nil || total/segmentsAtLeast >= broker.DefaultSegmentBytes {
		return 0
	}
	return max(total/segmentsAtLeast, smallestSegment)
}

// close releases what is open. It may be called twice.
func (s *store) close() error {
	var err error
	if s.scratch != nil {
		err = errors.Join(s.scratch.Close(), s.clearScratch())
	}
	return errors.Join(err, s.journal.Close())
}

// explain says of an error of the store at dir what it means and what can be
// done.
func explain(err error, dir string) error {
	var damaged *journal.CorruptError
	switch {
	case errors.Is(err, journal.ErrLocked):
		return fmt.Errorf("another process uses the store in %s: stop the broker that runs there, or choose another directory with --store file:DIR (%w)", dir, journal.ErrLocked)
	case errors.As(err, &damaged):
		return fmt.Errorf("the store in %s is damaged, in a way that no crash explains: %w. "+
			"Nothing was changed or thrown away. `ferry dump %s` shows what can be read; "+
			"restore the directory from a copy, or move it away to start empty", dir, err, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the store in %s may not be read and written by this user: %w", dir, err)
	}
	return fmt.Errorf("open the store in %s: %w", dir, err)
}
