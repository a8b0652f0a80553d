// Package memory keeps a journal in the process's memory: what it holds is
// gone when the process ends, and its Durability says "none". It is for
// brokers that need no durable state, and for tests.
package memory

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
)

// DefaultMaxBatch is the largest batch a journal takes unless told otherwise.
const DefaultMaxBatch = 8 << 20

// inFlight is how many appends may wait for their done functions. An append
// costs a copy, so that more gain nothing.
const inFlight = 4

// Options are the settings of a journal; the zero value is sensible.
type Options struct {
	// MaxBatch is the largest batch in bytes, 0 for DefaultMaxBatch.
	MaxBatch int
}

// A Journal implements journal.Journal in memory.
type Journal struct {
	maxBatch int
	tail     journal.Tail
	room     chan struct{} // one token for each append whose done has not returned

	mu        sync.Mutex
	closed    bool
	head      uint64 // last position appended
	epochs    journal.EpochFilter
	segments  []*segment // oldest first
	outcomes  []outcome
	reporting bool       // a goroutine runs report
	idle      *sync.Cond // reporting became false
}

// A segment is a run of batches; the batch at index i is at first+i.
type segment struct {
	number  uint64
	first   uint64
	bytes   int64
	batches []stored
}

type stored struct {
	batch      journal.Batch // Body has one piece
	superseded bool
}

type outcome struct {
	done     func(error)
	position uint64
	err      error
}

var _ journal.Journal = (*Journal)(nil)

// New returns an empty journal.
func New(opts Options) *Journal {
	if opts.MaxBatch == 0 {
		opts.MaxBatch = DefaultMaxBatch
	}
	j := &Journal{
		maxBatch: opts.MaxBatch,
		room:     make(chan struct{}, inFlight),
	}
	j.idle = sync.NewCond(&j.mu)
	return j
}

// Info implements journal.Journal.
func (j *Journal) Info() journal.Info {
	return journal.Info{MaxBatch: j.maxBatch, InFlight: inFlight, Durability: "none"}
}

// Append implements journal.Journal. It copies the batch. A batch that is
// refused (its position, its segment, its size) leaves the journal as it was.
func (j *Journal) Append(b journal.Batch, done func(error)) {
	j.room <- struct{}{}
	j.mu.Lock()
	err := j.appendLocked(b)
	j.outcomes = append(j.outcomes, outcome{done: done, position: b.Position, err: err})
	if !j.reporting {
		j.reporting = true
		go j.report()
	}
	j.mu.Unlock()
}

func (j *Journal) appendLocked(b journal.Batch) error {
	size := len(b.Head) + b.BodySize()
	switch {
	case j.closed:
		return fmt.Errorf("append to memory journal: %w", journal.ErrClosed)
	case b.Position != j.head+1:
		return &journal.ConflictError{Position: b.Position, Head: j.head}
	case size > j.maxBatch:
		return fmt.Errorf("append of %d bytes, limit %d: %w", size, j.maxBatch, journal.ErrTooLarge)
	}
	n := len(j.segments)
	if n > 0 && b.Segment < j.segments[n-1].number {
		return fmt.Errorf("append to segment %d, but the newest is %d", b.Segment, j.segments[n-1].number)
	}
	if n == 0 || b.Segment > j.segments[n-1].number {
		j.segments = append(j.segments, &segment{number: b.Segment, first: b.Position})
		n++
	}
	buf := make([]byte, 0, size)
	buf = append(buf, b.Head...)
	for _, p := range b.Body {
		buf = append(buf, p...)
	}
	h := len(b.Head)
	b.Head, b.Body = buf[:h:h], [][]byte{buf[h:]}
	s := j.segments[n-1]
	s.batches = append(s.batches, stored{b, j.epochs.Superseded(b.Epoch)})
	s.bytes += int64(size)
	j.head = b.Position
	return nil
}

// report calls the done functions in order until none is left. Append starts
// it when it does not run, also in a closed journal; Close waits for it.
func (j *Journal) report() {
	for {
		j.mu.Lock()
		outcomes := j.outcomes
		j.outcomes = nil
		if len(outcomes) == 0 {
			j.reporting = false
			j.idle.Broadcast()
			j.mu.Unlock()
			return
		}
		j.mu.Unlock()
		for _, o := range outcomes {
			if o.err == nil {
				j.tail.Move(o.position)
			}
			o.done(o.err)
			<-j.room
		}
	}
}

// Replay implements journal.Journal.
func (j *Journal) Replay(ctx context.Context, from, to uint64, bodies bool, visit func(journal.Batch) error) error {
	if to == 0 {
		to = j.tail.Head()
	}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("replay: %w", context.Cause(ctx))
		}
		j.mu.Lock()
		run, next := j.runLocked(from)
		closed := j.closed
		j.mu.Unlock()
		if closed {
			return fmt.Errorf("replay: %w", journal.ErrClosed)
		}
		for _, s := range run {
			if s.batch.Position > to {
				return nil
			}
			if s.superseded {
				continue
			}
			b := s.batch
			if !bodies {
				b.Body = nil
			}
			if err := visit(b); err != nil {
				return err
			}
		}
		if len(run) == 0 {
			return nil
		}
		from = next
	}
}

// replayRun is how many batches a replay takes at a time, so that a segment
// dropped meanwhile is soon noticed.
const replayRun = 256

// runLocked returns some batches from position from on, and the position
// behind them. Batches never change, so they may be read without the lock.
func (j *Journal) runLocked(from uint64) ([]stored, uint64) {
	i := sort.Search(len(j.segments), func(i int) bool {
		s := j.segments[i]
		return from < s.first+uint64(len(s.batches))
	})
	if i == len(j.segments) {
		return nil, 0
	}
	s := j.segments[i]
	at := 0
	if from > s.first {
		at = int(from - s.first)
	}
	end := min(at+replayRun, len(s.batches))
	return s.batches[at:end:end], s.first + uint64(end)
}

// ReadRefs implements journal.Journal.
func (j *Journal) ReadRefs(ctx context.Context, refs []journal.Ref) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read: %w", context.Cause(ctx))
	}
	found := make([][]byte, len(refs))
	size := 0
	if err := j.find(refs, found); err != nil {
		return nil, err
	}
	for _, b := range found {
		size += len(b)
	}
	slab := make([]byte, 0, size)
	for i, b := range found {
		at := len(slab)
		slab = append(slab, b...)
		found[i] = slab[at:len(slab):len(slab)]
	}
	return found, nil
}

// find fills found with the journal's own bytes.
func (j *Journal) find(refs []journal.Ref, found [][]byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fmt.Errorf("read: %w", journal.ErrClosed)
	}
	for i, r := range refs {
		run, _ := j.runLocked(r.Position)
		if r.Position == 0 || r.Position > j.head {
			return fmt.Errorf("read at position %d: the last position is %d", r.Position, j.head)
		}
		if len(run) == 0 || run[0].batch.Position != r.Position {
			return fmt.Errorf("read at position %d: %w", r.Position, journal.ErrDropped)
		}
		body := run[0].batch.Body[0]
		if uint64(r.Offset)+uint64(r.Length) > uint64(len(body)) {
			return fmt.Errorf("read at position %d: bytes %d to %d of a body of %d",
				r.Position, r.Offset, uint64(r.Offset)+uint64(r.Length), len(body))
		}
		found[i] = body[r.Offset:][:r.Length]
	}
	return nil
}

// Drop implements journal.Journal.
func (j *Journal) Drop(number uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fmt.Errorf("drop segment %d: %w", number, journal.ErrClosed)
	}
	n := len(j.segments)
	if n == 0 || number >= j.segments[n-1].number {
		return fmt.Errorf("drop segment %d: only segments before the newest can be dropped", number)
	}
	for i, s := range j.segments {
		if s.number == number {
			// A new slice: Replay and Segments may hold the old one.
			rest := append([]*segment(nil), j.segments[:i]...)
			j.segments = append(rest, j.segments[i+1:]...)
			break
		}
	}
	return nil
}

// Segments implements journal.Journal.
func (j *Journal) Segments(context.Context) ([]journal.SegmentInfo, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	infos := make([]journal.SegmentInfo, len(j.segments))
	for i, s := range j.segments {
		infos[i] = journal.SegmentInfo{
			Segment: s.number,
			First:   s.first,
			Last:    s.first + uint64(len(s.batches)) - 1,
			Bytes:   s.bytes,
		}
	}
	return infos, nil
}

// Status implements journal.Journal.
func (j *Journal) Status() journal.Status { return journal.Status{} }

// Head implements journal.Journal.
func (j *Journal) Head(context.Context) (uint64, error) { return j.tail.Head(), nil }

// Follow implements journal.Journal.
func (j *Journal) Follow(ctx context.Context, after uint64) error {
	if err := j.tail.Wait(ctx, after); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	return nil
}

// Close implements journal.Journal. Closing twice is no error.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	for j.reporting {
		j.idle.Wait()
	}
	j.segments = nil
	j.tail.Fail(journal.ErrClosed)
	return nil
}
