package file

import (
	"container/list"
	"errors"
	"fmt"
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

const (
	// maxReaders is how many segments are kept open for reading while nobody
	// reads them.
	maxReaders = 128
	// maxIndexed is how many batches' index entries those may hold, of
	// entrySize bytes each.
	maxIndexed = 2 << 20
)

// readers are the segments that are open for reading, the most recently used
// first.
type readers struct {
	j *Journal

	mu      sync.Mutex
	closed  bool
	open    map[*segment]*list.Element
	recent  *list.List // of *reader
	indexed int
	gone    sync.Cond
	busy    int // readers that somebody uses
}

// A reader is one open segment.
type reader struct {
	segment *segment
	file    vfs.File
	cost    int
	index   func() ([]entry, error) // that of the seal, read once

	users   int  // guarded by readers.mu
	evicted bool // closed by the last user
}

func newReaders(j *Journal) *readers {
	r := &readers{j: j, open: make(map[*segment]*list.Element), recent: list.New()}
	r.gone.L = &r.mu
	return r
}

// errGone says that a segment was dropped.
var errGone = errors.New("segment is gone")

// acquire opens a segment for reading until release.
func (rs *readers) acquire(s *segment) (*reader, error) {
	if r, err := rs.cached(s); r != nil || err != nil {
		return r, err
	}
	f, err := rs.j.fs.OpenRead(rs.j.path(segmentName(s.number)))
	if err != nil {
		if isNotExist(err) && rs.j.isDropped(s) {
			return nil, errGone
		}
		if isNotExist(err) {
			err = &journal.CorruptError{File: rs.j.path(segmentName(s.number)), Reason: "the segment is missing"}
		}
		return nil, err
	}
	sealAt, batches := rs.j.sealOf(s)
	r := &reader{segment: s, file: f, users: 1}
	if sealAt > 0 {
		r.cost = batches
		r.index = sync.OnceValues(func() ([]entry, error) { return readIndex(f, s.number) })
	}
	kept, surplus := rs.keep(r)
	for _, f := range surplus {
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		rs.release(kept)
		return nil, err
	}
	return kept, nil
}

func (rs *readers) cached(s *segment) (*reader, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed {
		return nil, journal.ErrClosed
	}
	e := rs.open[s]
	if e == nil {
		return nil, nil
	}
	rs.recent.MoveToFront(e)
	r := e.Value.(*reader)
	rs.useLocked(r)
	return r, nil
}

func (rs *readers) useLocked(r *reader) {
	r.users++
	rs.busy++
}

// keep puts a new reader in its place, unless somebody was faster. It returns
// the one to use and the files to close.
func (rs *readers) keep(r *reader) (kept *reader, surplus []vfs.File) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.busy++
	if e := rs.open[r.segment]; e != nil {
		other := e.Value.(*reader)
		other.users++
		return other, []vfs.File{r.file}
	}
	if rs.closed {
		r.evicted = true
		return r, nil
	}
	rs.open[r.segment] = rs.recent.PushFront(r)
	rs.indexed += r.cost
	for e := rs.recent.Back(); e != nil && (rs.recent.Len() > maxReaders || rs.indexed > maxIndexed); {
		old := e.Value.(*reader)
		e = e.Prev()
		if old.users == 0 {
			rs.evictLocked(old)
			surplus = append(surplus, old.file)
		}
	}
	return r, surplus
}

func (rs *readers) evictLocked(r *reader) {
	rs.recent.Remove(rs.open[r.segment])
	delete(rs.open, r.segment)
	rs.indexed -= r.cost
	r.evicted = true
}

// release ends the use of a reader. A file that was only read has nothing to
// lose when it is closed.
func (rs *readers) release(r *reader) {
	rs.mu.Lock()
	r.users--
	rs.busy--
	last := r.users == 0 && r.evicted
	if rs.busy == 0 {
		rs.gone.Broadcast()
	}
	rs.mu.Unlock()
	if last {
		rs.closeFile(r)
	}
}

func (rs *readers) closeFile(r *reader) {
	if err := r.file.Close(); err != nil {
		rs.j.log.Warn("journal: closing a segment that was read", "dir", rs.j.dir, "segment", r.segment.number, "err", err)
	}
}

// forget closes a segment as soon as nobody reads it.
func (rs *readers) forget(s *segment) {
	rs.mu.Lock()
	var r *reader
	if e := rs.open[s]; e != nil {
		r = e.Value.(*reader)
		rs.evictLocked(r)
	}
	idle := r != nil && r.users == 0
	rs.mu.Unlock()
	if idle {
		rs.closeFile(r)
	}
}

// close waits for those who read, and closes all files.
func (rs *readers) close() {
	rs.mu.Lock()
	rs.closed = true
	for rs.busy > 0 {
		rs.gone.Wait()
	}
	all := make([]*reader, 0, len(rs.open))
	for _, e := range rs.open {
		all = append(all, e.Value.(*reader))
	}
	clear(rs.open)
	rs.recent.Init()
	rs.mu.Unlock()
	for _, r := range all {
		rs.closeFile(r)
	}
}

// entriesOf returns the index of a segment: where its batches are, the first
// of them at index 0. Those of the newest are the durable ones.
func (j *Journal) entriesOf(r *reader) ([]entry, error) {
	j.mu.Lock()
	sealed, entries := r.segment.sealAt > 0, r.segment.entries
	j.mu.Unlock()
	if !sealed {
		return entries, nil
	}
	index := r.index
	if index == nil {
		// It was sealed after this reader opened it.
		index = func() ([]entry, error) { return readIndex(r.file, r.segment.number) }
	}
	entries, err := index()
	return entries, j.located(r.segment, err)
}

// located makes a *damage the error that is told.
func (j *Journal) located(s *segment, err error) error {
	var d *damage
	if errors.As(err, &d) {
		return j.corrupt(s.number, d)
	}
	if err != nil {
		return fmt.Errorf("segment %s: %w", segmentName(s.number), err)
	}
	return nil
}

func (j *Journal) isDropped(s *segment) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return s.dropped
}

func (j *Journal) sealOf(s *segment) (sealAt int64, batches int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return s.sealAt, int(s.last - s.first + 1)
}

// readIndex reads the index of a sealed segment from its file.
func readIndex(f vfs.File, number uint64) ([]entry, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	w := newWindow(f, size)
	sc, err := openScan(w, number)
	if err != nil {
		return nil, err
	}
	seal, err := readSeal(w, &sc.header)
	if err != nil {
		return nil, err
	}
	return parseIndex(seal.head()), nil
}
