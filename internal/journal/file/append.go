package file

import (
	"fmt"

	"github.com/ferrymq/ferry/internal/journal"
)

// A request is an append on its way.
type request struct {
	record   encoder
	segment  uint64
	position uint64
	err      error // it is refused, nothing is written
	done     func(error)
}

// Append implements journal.Journal. The checksums are computed here, while
// the writer waits for the medium.
func (j *Journal) Append(b journal.Batch, done func(error)) {
	w := j.writer
	w.room <- struct{}{}
	r := w.spareRequest()
	r.segment, r.position, r.done = b.Segment, b.Position, done
	r.err = w.admit(&b)
	if r.err == nil {
		r.record.encode(recordHeader{
			position:   b.Position,
			epoch:      b.Epoch,
			segment:    b.Segment,
			checkpoint: b.Checkpoint,
			kind:       kindBatch,
			journal:    uint32(j.number),
		}, b.Head, b.Body)
	}
	w.submit(r)
}

// admit decides whether a batch may be appended. Callers take turns.
func (w *writer) admit(b *journal.Batch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return w.failed // the same one for all
	}
	if err := w.admitLocked(b); err != nil {
		return fmt.Errorf("append to journal %s: %w", w.j.dir, err)
	}
	return nil
}

func (w *writer) admitLocked(b *journal.Batch) error {
	size := int64(len(b.Head)) + int64(b.BodySize())
	switch {
	case w.closed:
		return journal.ErrClosed
	case b.Position != w.admitted+1:
		return &journal.ConflictError{Position: b.Position, Head: w.admitted}
	case size > MaxBatch:
		return fmt.Errorf("%d bytes, limit %d: %w", size, MaxBatch, journal.ErrTooLarge)
	case b.Segment < w.admittedSegment:
		return fmt.Errorf("segment %d, but the newest is %d", b.Segment, w.admittedSegment)
	}
	// Twice the size of what is written is more than it can take with all
	// that is around it.
	room := 2*size + 4*recordHeaderSize + entrySize
	if b.Segment > w.admittedSegment {
		w.admittedBytes = 0
	}
	if w.admittedBytes+room > maxSegment {
		return fmt.Errorf("segment %d is full with %d bytes: %w", b.Segment, w.admittedBytes, journal.ErrTooLarge)
	}
	w.admittedBytes += size + 2*recordHeaderSize + entrySize
	w.admitted, w.admittedSegment = b.Position, b.Segment
	return nil
}

// submit hands a request to the writer, or, once that has gone, to a goroutine
// of its own, so that done is never called by Append.
func (w *writer) submit(r *request) {
	w.mu.Lock()
	w.queue = append(w.queue, r)
	started := !w.running
	w.running = true
	w.mu.Unlock()
	if started {
		go w.run()
		return
	}
	select {
	case w.work <- struct{}{}:
	default:
	}
}

// spareRequest returns a request whose memory is no longer in use.
func (w *writer) spareRequest() *request {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.spare)
	if n == 0 {
		return new(request)
	}
	r := w.spare[n-1]
	w.spare = w.spare[:n-1]
	return r
}

// maxSpareFront is the memory that a spare request may keep, in bytes.
const maxSpareFront = 256 << 10

// finish reports the outcome of requests, in order.
func (w *writer) finish(requests []*request, err error) {
	for _, r := range requests {
		done, outcome := r.done, err
		if r.err != nil {
			outcome = r.err
		}
		front := r.record.front
		if cap(front) > maxSpareFront {
			front = nil
		}
		*r = request{record: encoder{front: front}}
		w.mu.Lock()
		w.spare = append(w.spare, r)
		w.mu.Unlock()
		done(outcome)
		<-w.room
	}
}
