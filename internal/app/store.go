package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
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
	dir     string // of a FileStore
	url     string // of a DatabaseStore, as it may be shown
	journal journal.Journal
	roster  journal.Roster  // nil: the journal is this process's alone
	scratch journal.Journal // nil: transient messages stay in memory
	clear   func() error    // empties the scratch journal's place
	telling *roster         // of a shared store that is in use; ends with it
}

// openStore opens a store that is this process's alone.
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
		return nil, s.explain(err)
	}
	// The journal's lock is ours: what is in scratch is the last process's.
	scratch := filepath.Join(dir, scratchDir)
	s.clear = func() error { return clearScratch(s.fs, scratch) }
	err = s.clear()
	if err == nil {
		s.scratch, err = file.Open(s.fs, scratch, file.Options{NoSync: true, Logger: log})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make room for transient messages: %w", err), s.journal.Close())
	}
	return s, nil
}

// openDatabase opens a store that other processes may have open too. That the
// database cannot be reached is an error like others: see permanent.
func openDatabase(ctx context.Context, cfg Config, log *slog.Logger) (*store, error) {
	_, url, err := ParseStore(cfg.Store)
	if err != nil {
		return nil, err
	}
	s := &store{kind: DatabaseStore, url: sqldb.Redact(url)}
	j, err := sqldb.Open(ctx, url, sqldb.Options{Lease: cfg.lease(), Logger: log})
	if err != nil {
		return nil, s.explain(err)
	}
	s.journal, s.roster = j, j
	return s, nil
}

// permanent reports whether it is of no use to open a database again after an error
// of openDatabase.
func permanent(err error) bool {
	return !sqldb.IsTemporary(err)
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

func clearScratch(fsys vfs.FS, dir string) error {
	entries, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, fsys.Remove(filepath.Join(dir, e.Name)))
	}
	return err
}

const (
	// scratchName begins the names of directories for transient messages beside a
	// store that is in no directory.
	scratchName = "ferry-scratch-"
	// scratchAge is how old such a directory is before it is taken for one that a
	// killed process left: by then its owner would have locked it.
	scratchAge = time.Minute
)

// makeScratch makes a place for transient messages among the system's temporary
// files, which close removes. Those that killed processes left are removed.
func (s *store) makeScratch(log *slog.Logger) error {
	sweepScratch(os.TempDir(), time.Now().Add(-scratchAge), log)
	dir, err := os.MkdirTemp("", scratchName)
	if err != nil {
		return fmt.Errorf("make room for transient messages, where $TMPDIR says: %w", err)
	}
	s.clear = func() error { return os.RemoveAll(dir) }
	j, err := file.Open(vfs.OS{}, dir, file.Options{NoSync: true, Logger: log})
	if err != nil {
		return errors.Join(fmt.Errorf("make room for transient messages, where $TMPDIR says: %w", err), s.clear())
	}
	s.scratch = j
	return nil
}

// sweepScratch removes what makeScratch made in dir before a time, and nobody has
// locked.
func sweepScratch(dir string, before time.Time, log *slog.Logger) {
	found, err := filepath.Glob(filepath.Join(dir, scratchName+"*"))
	if err != nil {
		return // never: the pattern is right
	}
	for _, d := range found {
		if info, err := os.Lstat(d); err != nil || !info.IsDir() || info.ModTime().After(before) {
			continue
		}
		lock, err := vfs.OS{}.Lock(d)
		if err != nil {
			continue // it is used, or another user's
		}
		if err := errors.Join(os.RemoveAll(d), lock.Close()); err != nil {
			log.Warn("cannot remove what a killed process left", "dir", d, "error", err)
		}
	}
}

// name is how the store is shown to people.
func (s *store) name() string {
	switch s.kind {
	case MemoryStore:
		return "memory"
	case FileStore:
		return "file"
	}
	return s.journal.Info().Durability
}

// place is where the store is, for people.
func (s *store) place() string {
	if s.kind == DatabaseStore {
		return s.url
	}
	return s.dir
}

// shared reports whether other processes may have the store open.
func (s *store) shared() bool { return s.roster != nil }

// changed makes that the other processes are told at once how this one stands.
func (s *store) changed() {
	if s.telling != nil {
		s.telling.change()
	}
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
	if s.telling != nil {
		s.telling.stop()
	}
	if s.scratch != nil {
		err = errors.Join(s.scratch.Close(), s.clear())
	}
	return errors.Join(err, s.journal.Close())
}

// explain says of an error of the store what it means and what can be done.
func (s *store) explain(err error) error {
	if s.kind == DatabaseStore {
		return s.explainDatabase(err)
	}
	var damaged *journal.CorruptError
	switch dir := s.dir; {
	case errors.Is(err, journal.ErrLocked):
		return fmt.Errorf("another process uses the store in %s: stop the broker that runs there, or choose another directory with --store file:DIR (%w)", dir, journal.ErrLocked)
	case errors.As(err, &damaged):
		return fmt.Errorf("the store in %s is damaged, in a way that no crash explains: %w. "+
			"Nothing was changed or thrown away. `ferry dump %s` shows what can be read; "+
			"restore the directory from a copy, or move it away to start empty", dir, err, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the store in %s may not be read and written by this user: %w", dir, err)
	}
	return fmt.Errorf("open the store in %s: %w", s.dir, err)
}

func (s *store) explainDatabase(err error) error {
	var damaged *journal.CorruptError
	if errors.As(err, &damaged) {
		return fmt.Errorf("the store in %s is damaged, in a way that no crash explains: %w. "+
			"Nothing was changed or thrown away: restore the database from a backup, "+
			"or give the URL another journal=NAME to start empty", s.url, err)
	}
	return err // says which database, and what to do
}
