package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"math"

	"github.com/ferrymq/ferry/internal/journal"
)

// dropRows is how many rows one statement deletes at most, so that no transaction
// is long.
const dropRows = 256

// Drop implements journal.Journal. A segment of more rows than are deleted at once
// is noted in ferry_drop first, from when on nobody reads it; what a process that
// died left of it is deleted with the next Drop.
func (j *Journal) Drop(segment uint64) error {
	what := fmt.Sprintf("drop segment %d", segment)
	return j.retry(context.Background(), what, 2*j.time.lease, func(ctx context.Context) error {
		s, err := j.readState(ctx)
		if err != nil {
			return err
		}
		j.mu.Lock()
		owner, epoch := j.owner, j.epoch
		j.mu.Unlock()
		if owner && s.epoch > epoch && !s.of(j.writer) {
			return fmt.Errorf("epoch %d, but the last batch is %d of epoch %d: %w", epoch, s.head, s.epoch, journal.ErrFenced)
		}
		if s.head == 0 || segment >= s.segment || segment > math.MaxInt64 {
			return finalf("only segments before the newest can be dropped")
		}
		return j.drop(ctx, int64(segment))
	})
}

func (j *Journal) drop(ctx context.Context, segment int64) error {
	db := j.server.pool()
	first, last, err := j.span(ctx, segment)
	if err != nil {
		return err
	}
	if last-first >= dropRows {
		_, err := db.ExecContext(ctx, j.server.statement("INSERT INTO ferry_drop (journal, segment) VALUES (?, ?)"), j.id, segment)
		if err != nil && !duplicate(err) {
			return err
		}
	} else if err := j.deleteRows(ctx, segment, first, last); err != nil {
		return err
	}
	return j.finishDrops(ctx)
}

// finishDrops deletes the rows of all segments that ferry_drop says.
func (j *Journal) finishDrops(ctx context.Context) error {
	db := j.server.pool()
	for {
		var segment int64
		err := db.QueryRowContext(ctx, j.server.statement("SELECT COALESCE(MIN(segment), -1) FROM ferry_drop WHERE journal = ?"), j.id).Scan(&segment)
		if err != nil || segment < 0 {
			return err
		}
		first, last, err := j.span(ctx, segment)
		if err != nil {
			return err
		}
		if err := j.deleteRows(ctx, segment, first, last); err != nil {
			return err
		}
		if _, err := db.ExecContext(ctx, j.server.statement("DELETE FROM ferry_drop WHERE journal = ? AND segment = ?"), j.id, segment); err != nil {
			return err
		}
	}
}

// span is between which positions the rows of a segment are; last is before first
// if there are none.
func (j *Journal) span(ctx context.Context, segment int64) (first, last int64, err error) {
	err = j.server.pool().QueryRowContext(ctx, j.server.statement(
		"SELECT COALESCE(MIN(position), 0), COALESCE(MAX(position), -1) FROM ferry_batch WHERE journal = ? AND segment = ?"),
		j.id, segment).Scan(&first, &last)
	return first, last, err
}

// deleteRows deletes the rows of a segment between two positions.
func (j *Journal) deleteRows(ctx context.Context, segment, first, last int64) error {
	for ; first <= last; first += dropRows {
		_, err := j.server.pool().ExecContext(ctx,
			j.server.statement("DELETE FROM ferry_batch WHERE journal = ? AND position >= ? AND position < ? AND segment = ?"),
			j.id, first, first+dropRows, segment)
		if err != nil {
			return err
		}
	}
	return nil
}

// Segments implements journal.Journal. It reads no bodies.
func (j *Journal) Segments(ctx context.Context) ([]journal.SegmentInfo, error) {
	var infos []journal.SegmentInfo
	err := j.retry(ctx, "list the segments", j.time.lease, func(ctx context.Context) error {
		infos = infos[:0]
		rows, err := j.server.pool().QueryContext(ctx, j.server.statement(
			"SELECT segment, MIN(position), MAX(position), SUM(size) FROM ferry_batch WHERE journal = ?"+
				" AND segment NOT IN (SELECT d.segment FROM ferry_drop d WHERE d.journal = ?)"+
				" GROUP BY segment ORDER BY segment"), j.id, j.id)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var segment, first, last int64
			var size sql.NullInt64
			if err := rows.Scan(&segment, &first, &last, &size); err != nil {
				return err
			}
			infos = append(infos, journal.SegmentInfo{
				Segment: uint64(segment), First: uint64(first), Last: uint64(last), Bytes: size.Int64 + (last-first+1)*rowBytes,
			})
		}
		return rows.Err()
	})
	return infos, err
}

// rowBytes is about what a row takes beside its head and body.
const rowBytes = 128
