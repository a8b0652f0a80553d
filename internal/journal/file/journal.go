// Package file keeps a journal in a directory of segment files. A batch is
// acknowledged when it and all before it survive a power cut.
//
// The directory holds the segments, LOCK, and ballast: a reserve that is given
// up when the medium is full, so that what frees space can still be written.
// Other files in it are left alone, but for those ending in ".tmp".
//
// The format is drawn in format.go. What is a torn tail and what is corruption
// is in recover.go and docs/journal.md.
package file

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sort"
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

// inFlight is how many appends may be under way: what one fsync carries while
// the next ones gather.
const inFlight = 4

// Options are the settings of a journal; the zero value is the safe one.
type Options struct {
	// NoSync leaves out all syncs: Durability is then "none". It is for files
	// that nobody needs after a crash; the journal must not be opened without
	// NoSync later.
	NoSync bool

	// Logger gets warnings: a tail that was cut, a medium that is full.
	// nil means slog.Default.
	Logger *slog.Logger

	// Of tests.
	ballast int64 // 0 for ballastSize
	ahead   int   // 0 for writeAhead, negative for none
}

// A Journal implements journal.Journal on a file system.
//
// Beside the contract: an append that is refused before anything was written
// (its position, its size, a segment that goes back) fails alone, and the
// journal goes on. A failed write or sync is final.
type Journal struct {
	fs      vfs.FS
	dir     string
	noSync  bool
	log     *slog.Logger
	lock    io.Closer
	info    journal.Info
	number  uint64 // of the journal, random
	tail    journal.Tail
	readers *readers
	writer  *writer

	mu       sync.Mutex
	closed   bool
	segments []*segment // oldest first; the slice is replaced, never changed
	status   journal.Status
	measures journal.Measures
	dropping sync.WaitGroup

	closing  sync.Once
	closeErr error
}

// A segment is one file. What follows mu in Journal guards it, but for number
// and first, which do not change.
type segment struct {
	number uint64
	first  uint64

	last    uint64 // durable
	bytes   int64  // durable
	sealAt  int64  // offset of the seal, 0 while batches are appended
	entries []entry
	dropped bool // it is not to be read any more
}

var (
	_ journal.Journal = (*Journal)(nil)
	_ journal.Meter   = (*Journal)(nil)
)

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

// Info implements journal.Journal.
func (j *Journal) Info() journal.Info { return j.info }

// Segments implements journal.Journal. A segment whose Drop failed is listed.
func (j *Journal) Segments(context.Context) ([]journal.SegmentInfo, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	infos := make([]journal.SegmentInfo, len(j.segments))
	for i, s := range j.segments {
		infos[i] = journal.SegmentInfo{Segment: s.number, First: s.first, Last: s.last, Bytes: s.bytes}
	}
	return infos, nil
}

// Status implements journal.Journal.
func (j *Journal) Status() journal.Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.status
}

// Measures implements journal.Meter.
func (j *Journal) Measures() journal.Measures {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.measures
}

// Head implements journal.Journal.
func (j *Journal) Head(context.Context) (uint64, error) { return j.tail.Head(), nil }

// Follow implements journal.Journal. When the journal has failed, so does it.
func (j *Journal) Follow(ctx context.Context, after uint64) error {
	if err := j.tail.Wait(ctx, after); err != nil {
		return fmt.Errorf("follow journal %s: %w", j.dir, err)
	}
	return nil
}

// Drop implements journal.Journal. It removes the file; those who are reading
// it go on. After an error it may be tried again.
func (j *Journal) Drop(number uint64) error {
	s, err := j.forget(number)
	if err != nil {
		return fmt.Errorf("drop segment %d of journal %s: %w", number, j.dir, err)
	}
	if s == nil {
		return nil
	}
	defer j.dropping.Done()
	j.readers.forget(s)
	err = j.fs.Remove(j.path(segmentName(number)))
	if isNotExist(err) {
		err = nil // an earlier Drop came this far
	}
	if err == nil && !j.noSync {
		err = j.fs.SyncDir(j.dir)
	}
	if err != nil {
		return fmt.Errorf("drop segment %d of journal %s: %w", number, j.dir, err)
	}
	j.mu.Lock()
	rest := make([]*segment, 0, len(j.segments))
	for _, other := range j.segments {
		if other != s {
			rest = append(rest, other)
		}
	}
	j.segments = rest
	j.mu.Unlock()
	j.writer.spaceFreed()
	return nil
}

// forget marks a segment as dropped, so that nobody begins to read it. It
// returns nil if there is none. The caller has to call dropping.Done.
func (j *Journal) forget(number uint64) (*segment, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := len(j.segments)
	switch {
	case j.closed:
		return nil, journal.ErrClosed
	case n == 0 || number >= j.segments[n-1].number:
		return nil, fmt.Errorf("only segments before the newest can be dropped")
	}
	for _, s := range j.segments {
		if s.number == number {
			s.dropped = true
			j.dropping.Add(1)
			return s, nil
		}
	}
	return nil, nil
}

// find returns the segment that holds a position, nil if none does, and the
// first segment behind it.
func (j *Journal) find(position uint64) (holder, next *segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := sort.Search(len(j.segments), func(i int) bool { return position <= j.segments[i].last })
	for ; i < len(j.segments); i++ {
		s := j.segments[i]
		if s.dropped {
			continue
		}
		if holder == nil && s.first <= position && position <= s.last {
			holder = s
			continue
		}
		return holder, s
	}
	return holder, nil
}

// Close implements journal.Journal. Appends that wait for space fail. It ends
// the journal with a mark, so that whatever is damaged later is known to have
// been whole. Closing twice is no error.
func (j *Journal) Close() error {
	j.closing.Do(func() {
		j.mu.Lock()
		j.closed = true
		j.mu.Unlock()
		err := j.writer.close()
		j.tail.Fail(journal.ErrClosed)
		j.dropping.Wait()
		j.readers.close()
		if lockErr := j.lock.Close(); err == nil {
			err = lockErr
		}
		if err != nil {
			j.closeErr = fmt.Errorf("close journal %s: %w", j.dir, err)
		}
	})
	return j.closeErr
}
