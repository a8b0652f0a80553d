package file

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Open opens the journal in dir, which is made if it is not there, and holds it
// until Close. It reads the newest segment and the ends of the others; damage
// in the middle of those is found by who reads it.
//
// Its errors are journal.ErrLocked, a *journal.CorruptError, one that says
// that the format is of another version, and those of the file system.
func Open(fsys vfs.FS, dir string, opts Options) (*Journal, error) {
	j := &Journal{fs: fsys, dir: dir, noSync: opts.NoSync, log: opts.Logger}
	if opts.ballast == 0 {
		opts.ballast = ballastSize
	}
	if opts.ahead == 0 {
		opts.ahead = writeAhead
	}
	if j.log == nil {
		j.log = slog.Default()
	}
	if err := j.open(opts); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", dir, err)
	}
	return j, nil
}

func (j *Journal) open(opts Options) (err error) {
	if err := j.makeDir(); err != nil {
		return err
	}
	j.lock, err = j.fs.Lock(j.dir)
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("%w: %w", journal.ErrLocked, err)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.lock.Close())
		}
	}()
	j.readers = newReaders(j)
	rec := recovery{j: j}
	if err := rec.run(); err != nil {
		return err
	}
	j.segments = rec.segments
	j.number = rec.number
	if j.number == 0 {
		if j.number, err = randomNumber(); err != nil {
			return err
		}
	}
	j.info = journal.Info{
		Head:       rec.head,
		Epoch:      rec.epochs.Highest(),
		Checkpoint: rec.checkpoint,
		Segment:    rec.segment,
		MaxBatch:   MaxBatch,
		InFlight:   inFlight,
		Durability: "fsync",
		Cut:        rec.cut,
	}
	if j.noSync {
		j.info.Durability = "none"
	}
	if rec.cut > 0 {
		j.log.Warn("journal: cut a torn tail, left by a crash; nothing in it was acknowledged",
			"dir", j.dir, "bytes", rec.cut, "last_position", rec.head)
	}
	j.tail.Move(rec.head)
	j.writer, err = startWriter(j, &rec, opts)
	return err
}

// makeDir makes the directory, durably.
func (j *Journal) makeDir() error {
	_, err := j.fs.List(j.dir)
	if err == nil {
		return nil
	}
	if err := j.fs.MkdirAll(j.dir); err != nil {
		return err
	}
	if j.noSync {
		return nil
	}
	return j.fs.SyncDir(filepath.Dir(j.dir))
}

func randomNumber() (uint64, error) {
	var b [8]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
		if n := binary.LittleEndian.Uint64(b[:]); n != 0 {
			return n, nil
		}
	}
}

// listSegments returns the numbers of a directory's segment files, ascending,
// and their sizes; and the names of files that a crash left unfinished.
func listSegments(fsys vfs.FS, dir string) (found []foundSegment, unfinished []string, err error) {
	entries, err := fsys.List(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name, temporarySuffix) {
			unfinished = append(unfinished, e.Name)
		}
		if number, ok := parseSegmentName(e.Name); ok {
			found = append(found, foundSegment{number, e.Size})
		}
	}
	slices.SortFunc(found, func(a, b foundSegment) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	return found, unfinished, nil
}

type foundSegment struct {
	number uint64
	size   int64
}
