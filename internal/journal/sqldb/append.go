package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// An op is an append that was asked for.
type op struct {
	batch journal.Batch
	done  func(error)
	err   error // it fails with this at its turn
}

// Append implements journal.Journal. A batch that is refused for its position,
// its segment or its size leaves the journal as it was; after any other error
// nothing is appended any more.
func (j *Journal) Append(b journal.Batch, done func(error)) {
	j.room <- struct{}{}
	o := &op{batch: b, done: done}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		o.err = fmt.Errorf("append at position %d: %w", b.Position, journal.ErrClosed)
	} else if size := len(b.Head) + b.BodySize(); size > j.info.MaxBatch {
		o.err = fmt.Errorf("append of %d bytes, limit %d: %w", size, j.info.MaxBatch, journal.ErrTooLarge)
	} else if b.Epoch > math.MaxInt64 || b.Segment > math.MaxInt64 || b.Checkpoint > math.MaxInt64 {
		o.err = fmt.Errorf("append of epoch %d, segment %d, checkpoint %d: a database takes no number above %d",
			b.Epoch, b.Segment, b.Checkpoint, int64(math.MaxInt64))
	}
	j.queue = append(j.queue, o)
	if !j.writing {
		j.writing = true
		go j.write()
	}
}

// write appends what is queued, in order, until there is nothing. Append starts it
// when it does not run, also in a closed journal; Close waits for it.
func (j *Journal) write() {
	for {
		j.mu.Lock()
		if len(j.queue) == 0 {
			j.writing = false
			j.idle.Broadcast()
			j.mu.Unlock()
			return
		}
		o := j.queue[0]
		j.queue = j.queue[1:]
		if o.err == nil {
			o.err = j.failure
		}
		owner := j.owner
		j.mu.Unlock()
		if o.err == nil {
			o.err = j.appendOne(o.batch, owner)
		}
		if o.err == nil {
			j.advance(o.batch.Position)
		}
		o.done(o.err)
		<-j.room
	}
}

// appendOne appends one batch, and notes what that means for those behind it.
func (j *Journal) appendOne(b journal.Batch, owner bool) error {
	began := time.Now()
	err := j.settle(&attempt{journalID: j.id, writer: j.writer, first: !owner, batch: b})
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		j.measures.Syncs.Count(time.Since(began))
		j.measures.Written += int64(len(b.Head) + b.BodySize())
	}
	j.waiting = nil
	var conflict *journal.ConflictError
	var refused *refusedError
	switch {
	case err == nil:
		j.owner, j.epoch, j.acked = true, b.Epoch, b.Position
		return nil
	case errors.As(err, &conflict), errors.As(err, &refused):
	case j.failure == nil:
		j.failure = fmt.Errorf("append at position %d: %w", b.Position, err)
		return j.failure
	}
	return err
}

// A refusedError is a refusal that leaves the journal usable.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// maxDuplicates is how often a batch may be in its own way: the connection on
// which it went out before may still be at work.
const maxDuplicates = 5

// settle sends a batch until its outcome is known: nil if it is durable.
func (j *Journal) settle(a *attempt) error {
	unknown := false // an attempt may have succeeded, or may yet
	duplicates := 0
	for delay := backoffMin; ; delay = min(2*delay, backoffMax) {
		err := j.try(a, &unknown)
		if err == nil {
			j.up()
			return nil
		}
		if j.appends.Err() != nil {
			return context.Cause(j.appends)
		}
		if duplicate(err) && duplicates < maxDuplicates {
			// It may be the batch itself that is in the way.
			duplicates++
		} else if !temporary(err) {
			return err
		}
		j.isDown(err)
		if !sleep(j.appends, delay) {
			return context.Cause(j.appends)
		}
	}
}

// try makes one attempt. An error that is temporary leaves the outcome as it says in
// unknown.
func (j *Journal) try(a *attempt, unknown *bool) error {
	before := *unknown
	if before {
		if landed, err := j.landed(a); landed || err != nil {
			return err
		}
	}
	if p := a.batch.Position; p == 0 || p > math.MaxInt64 || p <= j.ackedPosition() {
		return j.refused(a, false)
	}
	ctx, cancel := context.WithTimeout(j.appends, j.time.answer)
	defer cancel()
	if j.lane == nil {
		lane, err := j.server.dial(ctx)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		j.lane = lane
	}
	*unknown = true
	applied, err := j.lane.append(ctx, a)
	if err != nil {
		j.hangUp()
		return err
	}
	*unknown = before
	if applied {
		return nil
	}
	return j.refused(a, before)
}

// landed tells whether the last batch of the log is the one of this attempt, sent
// before. If so, it is durable: the commit of the update comes behind it.
func (j *Journal) landed(a *attempt) (bool, error) {
	ctx, cancel := context.WithTimeout(j.appends, j.time.answer)
	defer cancel()
	db := j.server.pool()
	result, err := db.ExecContext(ctx,
		j.server.statement("UPDATE ferry_journal SET resolved = resolved + 1 WHERE id = ? AND head = ? AND writer = ?"),
		j.id, int64(a.batch.Position), a.writer)
	if err != nil {
		return false, fmt.Errorf("look for the batch: %w", err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	var epoch, segment, checkpoint int64
	var writer, head, body []byte
	err = db.QueryRowContext(ctx, j.server.statement(
		"SELECT epoch, segment, checkpoint, writer, head, body FROM ferry_batch WHERE journal = ? AND position = ?"),
		j.id, int64(a.batch.Position)).Scan(&epoch, &segment, &checkpoint, &writer, &head, &body)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("look for the batch: %w", err)
	}
	b := &a.batch
	if err != nil || !bytes.Equal(writer, a.writer) || uint64(epoch) != b.Epoch || uint64(segment) != b.Segment ||
		uint64(checkpoint) != b.Checkpoint || !bytes.Equal(head, b.Head) || !bytes.Equal(body, bytes.Join(b.Body, nil)) {
		// Another one took over since, and has even dropped it; or else the
		// tables were changed.
		if s, err := j.readState(ctx); err != nil {
			return false, err
		} else if !s.of(a.writer) {
			return false, nil
		}
		return false, j.corrupt(b.Position, "the batch is not what was appended there")
	}
	return true, nil
}

// corrupt is the error for rows that no program of ours leaves.
func (j *Journal) corrupt(position uint64, reason string) error {
	return &journal.CorruptError{File: fmt.Sprintf("ferry_batch of journal %q, position %d", j.name, position), Reason: reason}
}

// refused finds out why a batch was not taken. Before says that an earlier attempt
// may have been.
func (j *Journal) refused(a *attempt, before bool) error {
	if before {
		if landed, err := j.landed(a); landed || err != nil {
			return err
		}
	}
	s, err := j.readState(j.appends)
	if err != nil {
		return err
	}
	b := &a.batch
	conflict := &journal.ConflictError{Position: b.Position, Head: s.head}
	elsewhere := s.head != b.Position-1 || b.Position == 0
	switch {
	case !a.first && s.head < j.ackedPosition():
		return finalf("%w: the last position in the database is %d, and %d was confirmed", journal.ErrLost, s.head, j.ackedPosition())
	case !a.first && !s.of(a.writer), !a.first && s.epoch > b.Epoch:
		return fmt.Errorf("epoch %d, but the last batch is %d of epoch %d: %w", b.Epoch, s.head, s.epoch, journal.ErrFenced)
	case before && s.head >= b.Position:
		// The first batch of a candidate, sent more than once.
		foreign, err := j.foreign(b.Position)
		if err != nil {
			return err
		}
		if !foreign {
			return fmt.Errorf("the log went on to position %d, beyond our batch: %w", s.head, journal.ErrFenced)
		}
		return conflict
	case elsewhere, s.epoch > b.Epoch:
		return conflict
	case s.segment > b.Segment:
		return &refusedError{fmt.Sprintf("append to segment %d, but the newest is %d", b.Segment, s.segment)}
	}
	return errors.New("the batch was refused, but nothing is in its way any more")
}

func (j *Journal) ackedPosition() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.acked
}

// foreign tells whether the batch at a position is there, and another writer's.
func (j *Journal) foreign(position uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(j.appends, j.time.answer)
	defer cancel()
	var writer []byte
	err := j.server.pool().QueryRowContext(ctx,
		j.server.statement("SELECT writer FROM ferry_batch WHERE journal = ? AND position = ?"), j.id, int64(position)).Scan(&writer)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the batch: %w", err)
	}
	return !bytes.Equal(writer, j.writer), nil
}

// hangUp closes the connection for appends. It is for the goroutine that appends,
// or when there is none.
func (j *Journal) hangUp() {
	if j.lane != nil {
		j.lane.close()
		j.lane = nil
	}
}

// isDown notes that an append has to wait.
func (j *Journal) isDown(err error) {
	err = inOneLine(err)
	j.mu.Lock()
	j.waiting = fmt.Errorf("waiting for the database: %w", err)
	j.mu.Unlock()
	if j.down.IsZero() {
		j.down = time.Now()
		j.logger.Warn("appends wait for the database", "database", j.shown, "error", err)
	}
}

// up notes that an append went through.
func (j *Journal) up() {
	if !j.down.IsZero() {
		j.logger.Info("appends go on", "database", j.shown, "waited", time.Since(j.down).Round(time.Millisecond))
		j.down = time.Time{}
	}
}
