package chaos

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/ferrymq/ferry/internal/history"
	"github.com/ferrymq/ferry/internal/journal"
)

const (
	// followPace is how often the log is looked at, much more often than a segment of
	// it can be written and forgotten.
	followPace = 50 * time.Millisecond
	followRows = 500 // at a time
)

// A logFollower reads a journal's rows while they are written, since what is settled
// is forgotten later. It reads the tables as docs/database.md tells of them, with
// none of Ferry's code between.
type logFollower struct {
	t       *testing.T
	db      *sql.DB
	query   string // rows after a position, in order
	journal string
	cancel  context.CancelFunc
	done    sync.WaitGroup

	log  history.Log // of the goroutine, then of who has waited for done
	err  error       // of what a row held; reading is tried again
	last error       // of the latest attempt to read
}

// followLog begins to read the log of a journal, which need not be there yet.
func followLog(t *testing.T, at space, d *database, name string) *logFollower {
	t.Helper()
	f := &logFollower{t: t, journal: name}
	const columns = `SELECT position, epoch, writer, head, body FROM ferry_batch `
	switch d.kind {
	case postgres:
		config, err := pgx.ParseConfig(d.url)
		if err != nil {
			t.Fatal(err)
		}
		config.DialFunc = func(_ context.Context, network, addr string) (net.Conn, error) { return at.dial(network, addr) }
		f.db = stdlib.OpenDB(*config)
		f.query = columns + `WHERE journal = (SELECT id FROM ferry_journal WHERE name = $1) AND position > $2 ORDER BY position LIMIT $3`
	case mariadb:
		config := mysql.NewConfig()
		config.User, config.Passwd, config.DBName = "ferry", "ferry", "ferry"
		config.Net, config.Addr, config.Logger = "tcp", d.host(), &mysql.NopLogger{}
		config.DialFunc = func(_ context.Context, network, addr string) (net.Conn, error) { return at.dial(network, addr) }
		connector, err := mysql.NewConnector(config)
		if err != nil {
			t.Fatal(err)
		}
		f.db = sql.OpenDB(connector)
		f.query = columns + `WHERE journal = (SELECT id FROM ferry_journal WHERE name = ?) AND position > ? ORDER BY position LIMIT ?`
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	f.done.Go(func() {
		tick := time.NewTicker(followPace)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				for f.read(ctx, f.position(), f.take) == followRows {
				}
			}
		}
	})
	t.Cleanup(func() {
		f.stop()
		_ = f.db.Close()
	})
	return f
}

func (f *logFollower) stop() {
	f.cancel()
	f.done.Wait()
}

// position is that of the last batch that was read.
func (f *logFollower) position() uint64 {
	if len(f.log) == 0 {
		return 0
	}
	return f.log[len(f.log)-1].Position
}

// A row is one of ferry_batch.
type row struct {
	position, epoch    uint64
	writer, head, body []byte
}

// read visits some of the rows after a position, and says how many.
func (f *logFollower) read(ctx context.Context, after uint64, visit func(*row)) (n int) {
	rows, err := f.db.QueryContext(ctx, f.query, f.journal, int64(after), followRows)
	if f.last = err; err != nil {
		return 0
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if f.last = rows.Scan(&r.position, &r.epoch, &r.writer, &r.head, &r.body); f.last != nil {
			return 0
		}
		visit(&r)
		n++
	}
	f.last = rows.Err()
	return n
}

func (f *logFollower) take(r *row) {
	b, err := history.ParseBatch(journal.Batch{Position: r.position, Epoch: r.epoch, Head: r.head, Body: [][]byte{r.body}},
		fmt.Sprintf("%x", r.writer), historyID)
	if err != nil && f.err == nil {
		f.err = err
	}
	f.log = append(f.log, b)
}

// complete reads what is left, and what is still there once more: a log's past does
// not change. Nobody writes any more.
func (f *logFollower) complete() history.Log {
	f.t.Helper()
	f.stop()
	ctx := f.t.Context()
	for f.read(ctx, f.position(), f.take) > 0 {
	}
	if f.last != nil {
		f.t.Errorf("reading the log: %v", f.last)
	}
	if f.err != nil {
		f.t.Error(f.err)
	}
	at := uint64(0)
	for n := followRows; n > 0; {
		n = f.read(ctx, at, func(r *row) {
			at = r.position
			i, ok := slices.BinarySearchFunc(f.log, r.position, func(b history.Batch, p uint64) int { return int(b.Position) - int(p) })
			if !ok || f.log[i].Epoch != r.epoch || f.log[i].Writer != fmt.Sprintf("%x", r.writer) {
				f.t.Errorf("position %d of the log is another batch now", r.position)
			}
		})
	}
	return f.log
}
