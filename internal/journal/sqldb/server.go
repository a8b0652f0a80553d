package sqldb

import (
	"context"
	"database/sql"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// A server is what the two kinds of database do in their own ways.
type server interface {
	// kind is "postgres", "mysql" or "mariadb"; known once inspect returned.
	kind() string

	// pool is for everything but appends.
	pool() *sql.DB

	// dial connects for appends.
	dial(ctx context.Context) (lane, error)

	// inspect looks at the server's settings: how large a batch may be, and what
	// its owner should be warned of. It refuses a server that cannot be safe.
	inspect(ctx context.Context) (maxBatch int, warnings []string, err error)

	// statement puts the server's placeholders for question marks.
	statement(query string) string

	// upsert is the statement that announces a node, with the arguments of
	// announceColumns.
	upsert() string

	// silence is the expression for the microseconds since a column's time.
	silence(column string) string

	// bodies is the query for runs of bytes: a row for each run with its index, and
	// with the bytes from the run's offset on, at most its length.
	bodies(journalID int64, runs []run) (string, []any)

	// joinGap is how many bytes between two refs of a batch are read for nothing
	// rather than asking twice.
	joinGap() uint64

	// schema are the statements of a step from a version of the schema to the next;
	// that they are run again after they were interrupted does no harm.
	schema(step int) []string

	// locked calls f with what executes statements while nobody else migrates.
	locked(ctx context.Context, f func(execer) error) error

	// advise says what to do about an error of privileges.
	advise(ctx context.Context, err error) error

	// checkTables refuses tables that cannot be safe.
	checkTables(ctx context.Context) error
}

// An execer is a connection or a transaction.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// A lane is one connection on which batches are appended, one after the other.
// After an error it can only be closed.
type lane interface {
	// append moves the log's head from the position before the batch's to its
	// own and inserts it, all or nothing, and tells whether it did. The server
	// gets all of it in one go, so that nothing that happens to this process or
	// to the way between leaves a lock behind. After an error the outcome is not
	// known.
	append(ctx context.Context, a *attempt) (bool, error)
	close()
}

// An attempt is what an append is made of.
type attempt struct {
	journalID int64
	writer    []byte
	first     bool // whoever wrote the last batch; otherwise it was this writer
	batch     journal.Batch
}

func (a *attempt) size() int { return len(a.batch.Head) + a.batch.BodySize() }

// Limits of what the two kinds have in common.
const (
	maxBatch = 8 << 20 // bytes; what is read as a whole now and then must fit into memory many times
	minBatch = 7 << 19 // bytes: what the broker makes of parts of 2 MiB, with their heads
)

// timing is how long things may take, all of it shorter than the lease.
type timing struct {
	lease     time.Duration
	dial      time.Duration
	lock      time.Duration // waiting for a row's lock, on the server
	statement time.Duration // an append, on the server
	answer    time.Duration // an append, here: then the connection is given up
	idle      time.Duration // a transaction that nothing happens in, and a peer that is silent
}

func newTiming(lease time.Duration) timing {
	return timing{
		lease:     lease,
		dial:      min(max(lease/3, time.Second), 5*time.Second),
		lock:      lease / 5,
		statement: lease / 2,
		answer:    lease * 3 / 5,
		idle:      lease / 2,
	}
}

// seconds is for settings that take whole seconds: at least one.
func seconds(d time.Duration) int { return max(1, int(d/time.Second)) }
