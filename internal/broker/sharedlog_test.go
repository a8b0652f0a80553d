package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// A sharedLog is a log that several journals have open, as a database is.
type sharedLog struct {
	mu      sync.Mutex
	head    uint64
	epoch   uint64
	batches []sharedBatch // those that were not dropped
	landed  int           // appends that succeeded, also of batches dropped since
	drops   []uint64
	moved   chan struct{}
}

type sharedBatch struct {
	journal.Batch
	by *sharedJournal
}

func newSharedLog() *sharedLog { return &sharedLog{moved: make(chan struct{})} }

// A sharedJournal is a process's view of a sharedLog. It has a connection that can
// be cut: reads fail, and appends wait, before they are carried out or behind that.
type sharedJournal struct {
	log     *sharedLog
	info    journal.Info
	latency time.Duration
	work    chan func()
	slots   chan struct{}
	closed  chan struct{}
	ended   chan struct{}
	waiting atomic.Bool // an append does

	mu      sync.Mutex
	away    chan struct{} // not nil while the connection is cut; closed when it is mended
	replies bool          // only replies are lost: appends are carried out
	owner   bool          // an append succeeded
	failed  error
	broken  error // what reads end with, if it is not nil
	shut    bool
}

var (
	errAway = errors.New("the medium cannot be reached")

	_ journal.Journal = (*sharedJournal)(nil)
)

const sharedInFlight = 4

func (l *sharedLog) open() *sharedJournal {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := &sharedJournal{
		log: l, work: make(chan func(), 2*sharedInFlight), slots: make(chan struct{}, sharedInFlight),
		closed: make(chan struct{}), ended: make(chan struct{}),
		info: journal.Info{Head: l.head, Epoch: l.epoch, MaxBatch: 8 << 20, InFlight: sharedInFlight, Durability: "memory", Shared: true},
	}
	if n := len(l.batches); n > 0 {
		j.info.Segment, j.info.Checkpoint = l.batches[n-1].Segment, l.batches[n-1].Checkpoint
	}
	go func() {
		defer close(j.ended)
		for f := range j.work {
			f()
		}
	}()
	return j
}

// cut ends the connection until mend is called, or (replies) only its way back.
func (j *sharedJournal) cut(replies bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.away, j.replies = make(chan struct{}), replies
}

func (j *sharedJournal) mend() {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.away)
	j.away, j.replies = nil, false
}

// breakWith lets all reads fail from here on.
func (j *sharedJournal) breakWith(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = err
}

// connected waits for the connection, or with back for its way back.
func (j *sharedJournal) connected(back bool) error {
	j.mu.Lock()
	away := j.away
	if !back && j.replies {
		away = nil
	}
	j.mu.Unlock()
	if away == nil {
		return nil
	}
	select {
	case <-away:
		return nil
	case <-j.closed:
		return fmt.Errorf("append: %w", journal.ErrClosed)
	}
}

func (j *sharedJournal) reach() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.shut:
		return journal.ErrClosed
	case j.broken != nil:
		return j.broken
	case j.away != nil:
		return errAway
	}
	return nil
}

func (j *sharedJournal) Info() journal.Info { return j.info }

func (j *sharedJournal) Append(b journal.Batch, done func(error)) {
	b.Head = slices.Clone(b.Head)
	b.Body = [][]byte{slices.Concat(b.Body...)}
	j.slots <- struct{}{}
	j.work <- func() {
		done(j.append(b))
		<-j.slots
	}
}

func (j *sharedJournal) append(b journal.Batch) error {
	if j.failed != nil {
		return j.failed
	}
	time.Sleep(j.latency)
	err := j.connected(false)
	if err == nil {
		err = j.log.append(b, j)
	}
	if backErr := j.connected(true); err == nil {
		err = backErr
	}
	if err == nil {
		j.owner = true
		return nil
	}
	var conflict *journal.ConflictError
	if errors.As(err, &conflict) && !j.owner {
		return err
	}
	if errors.As(err, &conflict) {
		err = fmt.Errorf("append at position %d: %w", b.Position, journal.ErrFenced)
	}
	j.failed = err
	return err
}

func (l *sharedLog) append(b journal.Batch, by *sharedJournal) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.Position != l.head+1 || b.Epoch < l.epoch {
		return &journal.ConflictError{Position: b.Position, Head: l.head}
	}
	if n := len(l.batches); n > 0 && b.Segment < l.batches[n-1].Segment {
		return fmt.Errorf("segment %d is lower than the newest", b.Segment)
	}
	l.batches = append(l.batches, sharedBatch{b, by})
	l.head, l.epoch = b.Position, b.Epoch
	l.landed++
	close(l.moved)
	l.moved = make(chan struct{})
	return nil
}

func (l *sharedLog) from(pos uint64) []sharedBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.batches, pos, func(b sharedBatch, pos uint64) int {
		return int(int64(b.Position) - int64(pos))
	})
	return l.batches[i:min(len(l.batches), i+64)]
}

func (j *sharedJournal) Replay(ctx context.Context, from, to uint64, bodies bool, visit func(journal.Batch) error) error {
	if to == 0 {
		to, _ = j.Head(ctx)
	}
	for {
		if err := errors.Join(j.reach(), ctx.Err()); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		run := j.log.from(from)
		for _, b := range run {
			if b.Position > to {
				return nil
			}
			batch := b.Batch
			if !bodies {
				batch.Body = nil
			}
			if err := visit(batch); err != nil {
				return err
			}
			from = b.Position + 1
		}
		if len(run) == 0 {
			return nil
		}
	}
}

func (j *sharedJournal) ReadRefs(_ context.Context, refs []journal.Ref) ([][]byte, error) {
	out := make([][]byte, len(refs))
	for i, r := range refs {
		if err := j.reach(); err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		run := j.log.from(r.Position)
		if len(run) == 0 || run[0].Position != r.Position {
			return nil, fmt.Errorf("read at position %d: %w", r.Position, journal.ErrDropped)
		}
		out[i] = slices.Clone(run[0].Body[0][r.Offset:][:r.Length])
	}
	return out, nil
}

func (j *sharedJournal) Drop(segment uint64) error {
	if err := j.reach(); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	l := j.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.batches); n > 0 && l.batches[n-1].Segment == segment {
		return errors.New("the newest segment cannot be dropped")
	}
	l.batches = slices.DeleteFunc(slices.Clone(l.batches), func(b sharedBatch) bool { return b.Segment == segment })
	l.drops = append(l.drops, segment)
	return nil
}

func (j *sharedJournal) Segments(context.Context) (list []journal.SegmentInfo, err error) {
	if err := j.reach(); err != nil {
		return nil, fmt.Errorf("segments: %w", err)
	}
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	for _, b := range j.log.batches {
		if n := len(list); n == 0 || list[n-1].Segment != b.Segment {
			list = append(list, journal.SegmentInfo{Segment: b.Segment, First: b.Position})
		}
		s := &list[len(list)-1]
		s.Last = b.Position
		s.Bytes += int64(len(b.Head) + b.BodySize())
	}
	return list, nil
}

func (j *sharedJournal) Status() journal.Status {
	if j.waiting.Load() {
		return journal.Status{Waiting: errAway}
	}
	return journal.Status{}
}

func (j *sharedJournal) Head(context.Context) (uint64, error) {
	if err := j.reach(); err != nil {
		return 0, fmt.Errorf("head: %w", err)
	}
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	return j.log.head, nil
}

func (j *sharedJournal) Follow(ctx context.Context, after uint64) error {
	for {
		j.log.mu.Lock()
		head, moved := j.log.head, j.log.moved
		j.log.mu.Unlock()
		if err := j.reach(); err != nil || head > after {
			return err
		}
		select {
		case <-moved:
		case <-j.closed:
			return journal.ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (j *sharedJournal) Close() error {
	j.mu.Lock()
	shut := j.shut
	j.shut = true
	j.mu.Unlock()
	if !shut {
		close(j.closed)
		close(j.work)
	}
	<-j.ended
	return nil
}
