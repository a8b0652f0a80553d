package sqldb

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// Sizes of what is read at a time.
const (
	replayRows = 512     // rows of a query of Replay; they come as they are visited
	readRuns   = 128     // runs of a query of ReadRefs
	readBytes  = 8 << 20 // bytes of all of them, unless one is larger

	stallTime = 20 * time.Second // a query that sends nothing for so long is given up
)

// A visitError is what the visitor of a replay returned.
type visitError struct{ err error }

func (e *visitError) Error() string { return e.err.Error() }

// Replay implements journal.Journal.
func (j *Journal) Replay(ctx context.Context, from, to uint64, bodies bool, visit func(journal.Batch) error) error {
	r := &replay{j: j, next: max(from, 1), to: to, bodies: bodies, visit: visit}
	j.mu.Lock()
	r.before = j.visited
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		if r.last != 0 {
			j.visited = link{r.last, r.writer}
		}
		j.mu.Unlock()
	}()
	for {
		more := false
		err := j.retry(ctx, "replay", j.time.lease, func(ctx context.Context) error {
			var err error
			more, err = r.some(ctx)
			return err
		})
		var visited *finalError
		var by *visitError
		if errors.As(err, &visited) && errors.As(visited.err, &by) {
			return by.err
		}
		if err != nil || !more {
			return err
		}
	}
}

// A replay is one under way; it goes on behind the batch it visited last.
type replay struct {
	j      *Journal
	next   uint64
	to     uint64 // 0: the head, when the first query is made
	bodies bool
	visit  func(journal.Batch) error

	before  link  // where the replay before this one ended
	tail    state // of the journal, if to was 0
	epochs  journal.EpochFilter
	last    uint64 // position of the last row, 0 if there was none
	segment uint64 // its segment
	writer  string // and its writer
}

// some visits some batches, and tells whether there may be more.
func (r *replay) some(ctx context.Context) (bool, error) {
	if r.to == 0 {
		s, err := r.j.readState(ctx)
		if err != nil || s.head == 0 {
			return false, err
		}
		r.to, r.tail = s.head, s
	}
	if r.next > r.to || r.next > math.MaxInt64 {
		return false, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The timer runs while we wait for the server, not while the visitor is busy.
	stalled := time.AfterFunc(stallTime, func() { cancel(errors.New("the database has stopped sending")) })
	defer stalled.Stop()
	body := "NULL"
	if r.bodies {
		body = "body"
	}
	from := r.next
	if r.before.position != 0 && r.before.position+1 == from {
		from--
	}
	rows, err := r.j.server.pool().QueryContext(ctx, r.j.server.statement(
		"SELECT position, epoch, segment, checkpoint, writer, head, "+body+" FROM ferry_batch"+
			" WHERE journal = ? AND position >= ? AND position <= ?"+
			" AND segment NOT IN (SELECT d.segment FROM ferry_drop d WHERE d.journal = ?)"+
			" ORDER BY position LIMIT ?"),
		r.j.id, int64(from), int64(min(r.to, math.MaxInt64)), r.j.id, replayRows)
	if err != nil {
		return false, causeOr(ctx, err)
	}
	defer func() { _ = rows.Close() }()
	n, before := 0, r.last
	for rows.Next() {
		stalled.Stop()
		if err := r.row(rows); err != nil {
			return false, err
		}
		n++
		stalled.Reset(stallTime)
	}
	if err := rows.Err(); err != nil {
		err = causeOr(ctx, err)
		if r.last != before && temporary(err) {
			return true, nil // on from there, with as much time as before
		}
		return false, err
	}
	if n == replayRows {
		return true, nil
	}
	return false, r.complete(ctx)
}

// row visits one row.
func (r *replay) row(rows *sql.Rows) error {
	var position, epoch, segment, checkpoint int64
	var writer, head, body sql.RawBytes
	if err := rows.Scan(&position, &epoch, &segment, &checkpoint, &writer, &head, &body); err != nil {
		return err
	}
	if uint64(position) < r.next {
		if string(writer) != r.before.writer {
			return finalf("the database has lost batches that it had shown: at position %d another one is in place of the one that was read", position)
		}
		return nil
	}
	b := journal.Batch{
		Position: uint64(position), Epoch: uint64(epoch), Segment: uint64(segment), Checkpoint: uint64(checkpoint), Head: head,
	}
	if r.bodies {
		b.Body = [][]byte{body}
	}
	if r.last != 0 && b.Segment == r.segment && b.Position != r.last+1 {
		return r.j.corrupt(r.last+1, fmt.Sprintf("rows are missing up to position %d", position))
	}
	r.last, r.segment, r.writer = b.Position, b.Segment, string(writer)
	r.next = b.Position + 1
	if r.epochs.Superseded(b.Epoch) {
		return nil
	}
	if err := r.visit(b); err != nil {
		return &finalError{&visitError{err}}
	}
	return nil
}

// complete is at the end of a replay of everything: the newest segment cannot have
// been dropped.
func (r *replay) complete(ctx context.Context) error {
	if r.tail.head == 0 || r.last == r.tail.head {
		return nil
	}
	s, err := r.j.readState(ctx)
	if err != nil {
		return err
	}
	if s.segment == r.tail.segment {
		return r.j.corrupt(r.tail.head, "the row of the last batch is missing")
	}
	return nil
}

// A run is the bytes that some refs into one batch span, which are read at once.
type run struct {
	position    uint64
	offset, end uint64
	refs        []int // indices
}

func (r *run) length() uint64 { return r.end - r.offset }

// joinRuns puts refs that are near each other together.
func joinRuns(refs []journal.Ref, gap uint64) []run {
	order := make([]int, len(refs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(refs[a].Position, refs[b].Position), cmp.Compare(refs[a].Offset, refs[b].Offset))
	})
	var runs []run
	for _, i := range order {
		r := refs[i]
		begin, end := uint64(r.Offset), uint64(r.Offset)+uint64(r.Length)
		if n := len(runs); n > 0 && runs[n-1].position == r.Position && begin <= runs[n-1].end+gap {
			last := &runs[n-1]
			last.end = max(last.end, end)
			last.refs = append(last.refs, i)
			continue
		}
		runs = append(runs, run{position: r.Position, offset: begin, end: end, refs: []int{i}})
	}
	return runs
}

// ReadRefs implements journal.Journal. A connection that is lost does not fail it:
// it goes on when the database is back, until ctx ends or the journal is closed.
func (j *Journal) ReadRefs(ctx context.Context, refs []journal.Ref) ([][]byte, error) {
	found := make([][]byte, len(refs))
	runs := joinRuns(refs, j.server.joinGap())
	if len(runs) == 0 {
		runs = append(runs, run{}) // ask for nothing, but notice what has ended
	}
	for len(runs) > 0 {
		n, bytes := 0, uint64(0)
		for n < len(runs) && n < readRuns && (n == 0 || bytes+runs[n].length() <= readBytes) {
			bytes += runs[n].length()
			n++
		}
		some := runs[:n]
		err := j.retry(ctx, "read", 0, func(ctx context.Context) error {
			if len(some[0].refs) == 0 {
				return nil
			}
			return j.readRuns(ctx, some, refs, found)
		})
		if err != nil {
			return nil, err
		}
		runs = runs[n:]
	}
	return found, nil
}

func (j *Journal) readRuns(ctx context.Context, runs []run, refs []journal.Ref, found [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, stallTime)
	defer cancel()
	for _, r := range runs {
		if r.end > math.MaxInt32 { // no batch is as large
			return finalf("position %d: bytes %d to %d of a body that ends before", r.position, r.offset, r.end)
		}
	}
	query, args := j.server.bodies(j.id, runs)
	rows, err := j.server.pool().QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	seen := make([]bool, len(runs))
	for rows.Next() {
		var i int64
		var data sql.RawBytes
		if err := rows.Scan(&i, &data); err != nil {
			return err
		}
		if i < 0 || i >= int64(len(runs)) {
			return finalf("the database answers for run %d of %d", i, len(runs))
		}
		seen[i] = true
		if err := cutRun(runs[i], data, refs, found); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if i := slices.Index(seen, false); i >= 0 {
		return j.missing(ctx, runs[i].position)
	}
	return nil
}

// cutRun gives each ref of a run its bytes. They are copied, all refs' together.
func cutRun(r run, data []byte, refs []journal.Ref, found [][]byte) error {
	size := 0
	for _, i := range r.refs {
		size += int(refs[i].Length)
	}
	slab := make([]byte, 0, size)
	for _, i := range r.refs {
		begin := uint64(refs[i].Offset) - r.offset
		end := begin + uint64(refs[i].Length)
		if end > uint64(len(data)) && refs[i].Length > 0 {
			return finalf("position %d: bytes %d to %d of a body of %d", r.position, refs[i].Offset, r.offset+end, r.offset+uint64(len(data)))
		}
		at := len(slab)
		if refs[i].Length > 0 {
			slab = append(slab, data[begin:end]...)
		}
		found[i] = slab[at:len(slab):len(slab)]
	}
	return nil
}

// missing is why a position has no batch.
func (j *Journal) missing(ctx context.Context, position uint64) error {
	s, err := j.readState(ctx)
	if err != nil {
		return err
	}
	if position == 0 || position > s.head {
		return finalf("position %d: the last position is %d", position, s.head)
	}
	return fmt.Errorf("position %d: %w", position, journal.ErrDropped)
}

// Head implements journal.Journal. It tries for at most the lease.
func (j *Journal) Head(ctx context.Context) (uint64, error) {
	var s state
	err := j.retry(ctx, "read the last position", j.time.lease, func(ctx context.Context) error {
		var err error
		s, err = j.readState(ctx)
		return err
	})
	if err != nil {
		return 0, err
	}
	j.advance(s.head)
	return s.head, nil
}

// pollEvery is how often the database is asked for batches of other processes while
// somebody follows. Own ones are known at once.
const pollEvery = 25 * time.Millisecond

// Follow implements journal.Journal. While the database cannot be reached it goes
// on waiting.
func (j *Journal) Follow(ctx context.Context, after uint64) error {
	j.mu.Lock()
	if !j.closed {
		j.follower++
		defer func() {
			j.mu.Lock()
			j.follower--
			j.mu.Unlock()
		}()
		if !j.polling && j.head <= after {
			j.polling = true
			j.users++
			go j.poll()
		}
	}
	j.mu.Unlock()
	if err := j.tail.Wait(ctx, after); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	return nil
}

// poll moves the tail while somebody follows.
func (j *Journal) poll() {
	defer j.leave()
	for {
		j.mu.Lock()
		if j.follower == 0 || j.life.Err() != nil {
			j.polling = false
			j.mu.Unlock()
			return
		}
		wait := time.Until(j.polled.Add(pollEvery))
		j.mu.Unlock()
		if wait > 0 && !sleep(j.life, wait) {
			continue
		}
		s, err := j.readState(j.life)
		j.mu.Lock()
		j.polled = time.Now()
		j.mu.Unlock()
		if err == nil {
			j.advance(s.head)
		}
	}
}
