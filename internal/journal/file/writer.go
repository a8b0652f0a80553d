package file

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

// A writer is the one goroutine that writes. Everything that arrived while one
// sync ran is written together and synced together.
type writer struct {
	j     *Journal
	room  chan struct{} // a token for each append whose done has not returned
	work  chan struct{} // a slot: the queue or closed changed
	space chan struct{} // a slot: a segment was dropped, or closed was set

	mu              sync.Mutex
	queue           []*request
	spare           []*request
	closed          bool
	running         bool // the goroutine runs
	gone            sync.Cond
	failed          error  // the first failed write or sync
	admitted        uint64 // position of the last append that was not refused
	admittedSegment uint64
	admittedBytes   int64

	// The rest belongs to the goroutine.

	file       vfs.File // of the newest segment, nil if there is none
	active     *segment
	end        int64 // of the last record
	allocated  int64 // end of the file; between end and here are zeros
	marked     bool  // the last record says that all before it is durable
	durable    uint64
	epochs     journal.EpochFilter
	checkpoint uint64
	mark       encoder
	gather     gatherer
	ballast    ballast
	entries    []entry
	ahead      int // zeros behind a small group
}

func startWriter(j *Journal, r *recovery, opts Options) (*writer, error) {
	w := &writer{
		j:               j,
		room:            make(chan struct{}, inFlight),
		work:            make(chan struct{}, 1),
		space:           make(chan struct{}, 1),
		admitted:        r.head,
		admittedSegment: r.segment,
		durable:         r.head,
		epochs:          r.epochs,
		checkpoint:      r.checkpoint,
		marked:          r.marked,
		ballast:         ballast{j: j, size: opts.ballast},
		ahead:           max(opts.ahead, 0),
	}
	w.gone.L = &w.mu
	if n := len(r.segments); n > 0 {
		w.active = r.segments[n-1]
		w.end, w.allocated = w.active.bytes, r.size
		w.admittedBytes = w.end
		f, err := j.fs.OpenWrite(j.path(segmentName(w.active.number)))
		if err != nil {
			return nil, err
		}
		w.file = f
		if err := w.putMark(); err != nil && !isNoSpace(err) {
			return nil, errors.Join(err, f.Close())
		}
	}
	w.ballast.fill()
	return w, nil
}

// putMark writes a mark if the last record does not say already that all is
// durable, which the caller has seen to. The mark itself is not synced: it
// matters only together with what comes behind it.
func (w *writer) putMark() error {
	if w.marked || w.file == nil || w.j.noSync {
		return nil
	}
	w.mark.encode(w.sealHeader(kindMark), nil, nil)
	w.mark.finish(w.durable)
	if _, err := w.file.WriteAt(w.mark.front, w.end); err != nil {
		return err
	}
	w.end += int64(len(w.mark.front))
	w.allocated = max(w.allocated, w.end)
	w.marked = true
	w.publish()
	return nil
}

func (w *writer) sealHeader(kind uint32) recordHeader {
	return recordHeader{
		position:   w.durable,
		epoch:      w.epochs.Highest(),
		segment:    w.active.number,
		checkpoint: w.checkpoint,
		kind:       kind,
		journal:    uint32(w.j.number),
	}
}

// run writes until nothing is left to do and the journal is closed. In an open
// journal it is started by the first append.
func (w *writer) run() {
	for {
		w.mu.Lock()
		queue, closed := w.queue, w.closed
		w.queue = nil
		if len(queue) == 0 && closed {
			w.running = false
			w.gone.Broadcast()
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		for len(queue) > 0 {
			queue = w.commit(queue)
		}
		if !closed {
			<-w.work
		}
	}
}

// close waits for the writer to end, writes the last mark and closes the file.
func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	for _, c := range []chan struct{}{w.work, w.space} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	w.mu.Lock()
	for w.running {
		w.gone.Wait()
	}
	failed := w.failed
	w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	var err error
	if failed == nil && !w.marked && !w.j.noSync {
		if err = w.putMark(); err == nil {
			err = w.file.Sync()
		}
		if isNoSpace(err) {
			err = nil // it only helps
		}
	}
	return errors.Join(err, w.file.Close())
}

// commit writes the requests up to the first one of another segment, and
// reports them. It returns the others.
func (w *writer) commit(queue []*request) (rest []*request) {
	n := 0
	var segment *request
	for ; n < len(queue); n++ {
		r := queue[n]
		if r.err != nil {
			continue
		}
		if segment != nil && r.segment != segment.segment {
			break
		}
		segment = r
	}
	group := queue[:n]
	err := w.failure()
	if err == nil && segment != nil {
		if err = w.write(group, segment.segment); err != nil {
			err = w.fail(err)
		}
	}
	w.finish(group, err)
	w.ballast.refill()
	return queue[n:]
}

func (w *writer) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// fail makes an error the answer to everything from now on.
func (w *writer) fail(err error) error {
	err = fmt.Errorf("append to journal %s: %w", w.j.dir, err)
	w.mu.Lock()
	w.failed = err
	w.mu.Unlock()
	w.j.tail.Fail(err)
	return err
}

// write makes a group of batches of one segment durable.
func (w *writer) write(group []*request, segment uint64) error {
	if w.active == nil || w.active.number != segment {
		if err := w.nextSegment(segment); err != nil {
			return err
		}
	}
	at := w.end
	ahead := true
	err := w.withSpace(func() error {
		err := w.writeGroup(group, ahead)
		if isNoSpace(err) && ahead {
			ahead = false
			err = w.writeGroup(group, ahead)
		}
		return err
	})
	if err != nil {
		return err
	}
	w.entries = w.entries[:0]
	for _, r := range group {
		if r.err != nil {
			continue
		}
		h := &r.record.header
		superseded := w.epochs.Superseded(h.epoch)
		if !superseded {
			w.checkpoint = h.checkpoint
		}
		w.entries = append(w.entries, newEntry(at, h, superseded))
		at += h.size()
		w.durable = h.position
	}
	written := at - w.end
	w.end = at
	w.marked = false
	if !w.j.noSync {
		began := time.Now()
		if err := w.file.SyncData(); err != nil {
			return err
		}
		w.measure(written, time.Since(began))
	}
	w.publish()
	w.j.tail.Move(w.durable)
	return nil
}

// measure counts a sync of so many bytes.
func (w *writer) measure(written int64, took time.Duration) {
	j := w.j
	j.mu.Lock()
	defer j.mu.Unlock()
	j.measures.Syncs.Count(took)
	j.measures.Written += written
}

// publish lets readers see what has become durable.
func (w *writer) publish() {
	j, s := w.j, w.active
	j.mu.Lock()
	defer j.mu.Unlock()
	s.entries = append(s.entries, w.entries...)
	s.last = w.durable
	s.bytes = w.end
	if n := len(j.segments); n == 0 || j.segments[n-1] != s {
		j.segments = append(j.segments[:n:n], s)
	}
	w.entries = w.entries[:0]
}

// writeGroup writes the records of a group behind the last one, and, ahead of
// the next, zeros behind a small one. It changes nothing but the file, so that it may be done
// again when there was no space.
func (w *writer) writeGroup(group []*request, ahead bool) error {
	synced := w.durable
	if w.j.noSync {
		synced = 0
	}
	g := &w.gather
	g.start(w.file, w.end)
	for _, r := range group {
		if r.err != nil {
			continue
		}
		e := &r.record
		e.finish(synced)
		g.add(e.front)
		n := 0
		for _, p := range e.body {
			n += len(p)
			g.add(p)
		}
		g.add(zeros[:align8(n)-n])
	}
	if ahead && g.end() > w.allocated && g.end()-w.end <= smallGroup {
		g.add(zeros[:w.ahead])
	}
	if err := g.flush(); err != nil {
		return err
	}
	w.allocated = max(w.allocated, g.end())
	return nil
}

// nextSegment seals the newest segment and creates the one behind it.
func (w *writer) nextSegment(number uint64) error {
	if w.active != nil {
		if err := w.withSpace(w.seal); err != nil {
			return err
		}
	}
	var f vfs.File
	err := w.withSpace(func() (err error) {
		f, err = w.create(number)
		return err
	})
	if err != nil {
		return err
	}
	if old := w.active; old != nil {
		err := w.file.Close()
		w.j.mu.Lock()
		old.sealAt, old.bytes, old.entries = w.end, w.allocated, nil
		w.j.mu.Unlock()
		w.j.readers.forget(old)
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	w.file = f
	w.active = &segment{number: number, first: w.durable + 1}
	w.end, w.allocated = fileHeaderSize, fileHeaderSize
	w.marked = false
	return nil
}

// seal ends the newest segment. It does not move end, so that it may be done
// again.
func (w *writer) seal() error {
	synced := w.durable
	if w.j.noSync {
		synced = 0
	}
	w.mark.encode(w.sealHeader(kindSeal), appendIndex(nil, w.active.entries), [][]byte{appendFooter(nil, w.end)})
	w.mark.finish(synced)
	g := &w.gather
	g.start(w.file, w.end)
	g.add(w.mark.front)
	g.add(w.mark.body[0])
	err := g.flush()
	w.mark = encoder{} // it is as large as the index
	if err != nil {
		return err
	}
	// The file may be longer than what is known to be allocated: a write that
	// found no space has left a part of what it was to write.
	size, err := w.file.Size()
	if err == nil && size > g.end() {
		err = w.file.Truncate(g.end())
	}
	w.allocated = g.end()
	if err == nil && !w.j.noSync {
		err = w.file.Sync()
	}
	return err
}

// create makes a segment file. It has its name only when it is durable.
func (w *writer) create(number uint64) (_ vfs.File, err error) {
	j := w.j
	name := j.path(segmentName(number))
	f, err := j.fs.Create(name + temporarySuffix)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	h := fileHeader{
		segment:    number,
		first:      w.durable + 1,
		journal:    j.number,
		epoch:      w.epochs.Highest(),
		checkpoint: w.checkpoint,
	}
	if _, err := f.WriteAt(h.append(nil), 0); err != nil {
		return nil, err
	}
	if !j.noSync {
		if err := f.Sync(); err != nil {
			return nil, err
		}
	}
	if err := j.fs.Rename(name+temporarySuffix, name); err != nil {
		return nil, err
	}
	if !j.noSync {
		if err := j.fs.SyncDir(j.dir); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// withSpace does something until it does not fail for lack of space. Meanwhile
// the journal's status says so.
func (w *writer) withSpace(do func() error) error {
	wait := minSpaceWait
	for {
		err := do()
		if !isNoSpace(err) {
			w.setWaiting(nil)
			return err
		}
		if w.ballast.release() {
			continue
		}
		w.mu.Lock()
		closed := w.closed
		w.mu.Unlock()
		if closed {
			return fmt.Errorf("%w while it waited for space: %w", journal.ErrClosed, err)
		}
		w.setWaiting(err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-w.space:
		}
		timer.Stop()
		wait = min(2*wait, maxSpaceWait)
	}
}

// setWaiting changes what Status says.
func (w *writer) setWaiting(err error) {
	j := w.j
	j.mu.Lock()
	changed := (j.status.Waiting == nil) != (err == nil)
	j.status.Waiting = err
	j.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		j.log.Warn("journal: appends wait for space", "dir", j.dir, "err", err)
	default:
		j.log.Warn("journal: there is space again", "dir", j.dir)
	}
}

// spaceFreed makes an append that waits for space try again.
func (w *writer) spaceFreed() {
	select {
	case w.space <- struct{}{}:
	default:
	}
}
