// Package sqldb keeps a journal in a database: PostgreSQL, MySQL or MariaDB. The
// journal is Shared: several processes may have it open, each may follow it, and
// the appends alone decide who writes.
//
// # What is in the database
//
//	ferry_schema   version and program: one row, which tables these are
//	ferry_journal  a row for each journal by its name: the position, epoch, segment,
//	               checkpoint and writer of its last batch. It is what appends
//	               compare with and move; head never goes back. resolved counts the
//	               appends whose outcome had to be looked up.
//	ferry_batch    a row for each batch, by journal and position. It is inserted and
//	               deleted, never updated. size is of head and body together.
//	ferry_drop     segments that are dropped, while their rows are still being deleted
//	ferry_node     what the nodes tell of themselves; nothing depends on it
//
// # How a batch is appended
//
// One transaction moves the journal's row from position n-1 to n and inserts batch
// n. It asks that the row is at n-1, that its epoch and segment are not above the
// batch's, and, once this Journal has appended, that the last batch is its own: who
// was superseded appends nothing more, wherever the log is. The server gets the
// transaction in one piece and ends it by itself, so that a process that is stopped,
// killed or cut off at any moment leaves no lock behind.
//
// Each Journal has a random number, its writer, which stands with each of its
// batches. If the answer to an append is lost, the row of the journal is asked
// whether its last batch is this writer's; if not, the same append is sent again,
// and meets whatever became of the first. What was found by looking is confirmed
// only after a further commit behind it: not every database has on its disk what
// it shows.
//
// # What was read and is not there any more
//
// A database that crashes or fails over may lose what it has shown but not
// confirmed. Its writer appends it again, or it never was; but who follows has taken
// it in. Therefore a replay that goes on where the last one ended looks at that batch
// once more, and fails if another writer's is in its place: what was made of the log
// then is of no use any more.
//
// # Limits
//
// The connection must be to the server itself, or by a proxy that keeps a session:
// not PgBouncer's transaction or statement mode. A transaction of another client that stays
// open for hours keeps Postgres from reusing the old versions of the journal's
// row, and appends become slower until it ends.
package sqldb

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// Defaults and limits.
const (
	DefaultLease = 5 * time.Second

	// inFlight is one: a database works on the batches of one connection one after
	// the other. Measured by a broker's publishes, two made batches smaller, not more.
	inFlight = 1
	// queued is how many appends may wait for their done functions.
	queued = 4

	closeWait = 2 * time.Second // how long Close tries to find out the outcome of appends

	backoffMin = 20 * time.Millisecond
	backoffMax = 500 * time.Millisecond
)

// Options are the settings of a journal; the zero value is sensible.
type Options struct {
	// Name is that of the journal within the database; "" for what the URL says,
	// or else "ferry".
	Name string
	// Lease is for how long an owner that is silent stays the owner; 0 for
	// DefaultLease. Whatever is waited for in the database takes less.
	Lease  time.Duration
	Logger *slog.Logger // nil: nothing is logged
}

// A Journal implements journal.Journal and journal.Roster in a database.
type Journal struct {
	server server
	time   timing
	logger *slog.Logger
	info   journal.Info
	id     int64
	name   string
	shown  string // the database, for messages
	writer []byte

	life    context.Context // ends with ErrClosed
	end     context.CancelCauseFunc
	appends context.Context // ends when Close gives up
	giveUp  context.CancelCauseFunc

	tail journal.Tail
	room chan struct{} // one token for each append whose done has not returned

	// Of the goroutine that appends.
	lane lane
	down time.Time // since when appends fail, zero if they do not

	mu       sync.Mutex
	idle     *sync.Cond // writing became false, or users 0
	closed   bool
	failure  error
	waiting  error
	measures journal.Measures
	queue    []*op
	writing  bool // a goroutine runs write
	owner    bool // an append has succeeded
	epoch    uint64
	acked    uint64 // the last position that was confirmed
	head     uint64 // the highest that the tail was moved to
	visited  link   // the last batch of the last replay
	users    int    // calls under way that Close waits for, and the poller
	follower int
	polling  bool
	polled   time.Time
}

var (
	_ journal.Journal = (*Journal)(nil)
	_ journal.Roster  = (*Journal)(nil)
)

// Open opens the journal that a URL names, and makes it and its tables if they are
// not there:
//
//	postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full&journal=NAME
//	mysql://USER:PASSWORD@HOST:PORT/DATABASE?tls=true&journal=NAME
//
// The parameters are those of pgx and of the driver for MySQL, and journal, whose
// name Options overrules; connections, how many there are at most (default 5); and
// for MySQL tls-ca, tls-cert and tls-key, which name files in PEM, and socket.
//
// While the database cannot be reached, Open tries for the lease, or until ctx ends;
// whether trying again may help, IsTemporary tells.
func Open(ctx context.Context, rawURL string, o Options) (*Journal, error) {
	t, err := parseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	j := &Journal{
		time:   newTiming(o.Lease),
		logger: o.Logger,
		name:   defaultName,
		shown:  Redact(rawURL),
		writer: make([]byte, 16),
		room:   make(chan struct{}, queued),
	}
	if t.journal != "" {
		j.name = t.journal
	}
	if o.Name != "" {
		j.name = o.Name
	}
	if err := checkName(j.name); err != nil {
		return nil, fmt.Errorf("open journal %q: %w", j.name, err)
	}
	if _, err := rand.Read(j.writer); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j.idle = sync.NewCond(&j.mu)
	if t.pg != nil {
		j.server = newPostgres(t, j.time)
	} else if j.server, err = newMySQL(t, j.time); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	pool := j.server.pool()
	pool.SetMaxOpenConns(t.connections - 1)
	pool.SetMaxIdleConns(t.connections - 1)
	pool.SetConnMaxIdleTime(time.Minute)
	began := time.Now()
	for delay := backoffMin; ; delay = min(2*delay, backoffMax) {
		if err = j.open(ctx); !IsTemporary(err) || refusesTLS(err, t) || time.Since(began) > o.Lease || !sleep(ctx, delay) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %q in %s: %w", j.name, j.shown, explain(err, t)), pool.Close())
	}
	j.life, j.end = context.WithCancelCause(context.Background())
	j.appends, j.giveUp = context.WithCancelCause(context.Background())
	return j, nil
}

func (j *Journal) open(ctx context.Context) error {
	maxBatch, warnings, err := j.server.inspect(ctx)
	if err != nil {
		return err
	}
	if err := prepareSchema(ctx, j.server); err != nil {
		return err
	}
	if err := j.server.checkTables(ctx); err != nil {
		return err
	}
	if err := checkPrivileges(ctx, j.server); err != nil {
		return err
	}
	if err := j.findJournal(ctx); err != nil {
		return err
	}
	s, err := j.readState(ctx)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		j.logger.Warn(w, "database", j.shown)
	}
	j.info = journal.Info{
		Head: s.head, Epoch: s.epoch, Segment: s.segment, Checkpoint: s.checkpoint,
		MaxBatch: maxBatch, InFlight: inFlight, Durability: j.server.kind(), Shared: true,
	}
	j.head = s.head
	j.tail.Move(s.head)
	return nil
}

// findJournal finds the row of the journal, or makes it.
func (j *Journal) findJournal(ctx context.Context) error {
	db := j.server.pool()
	for {
		err := db.QueryRowContext(ctx, j.server.statement("SELECT id FROM ferry_journal WHERE name = ?"), j.name).Scan(&j.id)
		if err == nil {
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("read ferry_journal: %w", err)
		}
		_, err = db.ExecContext(ctx, j.server.statement("INSERT INTO ferry_journal (name) VALUES (?)"), j.name)
		switch {
		case denied(err):
			return j.server.advise(ctx, err)
		case err != nil && !duplicate(err): // another process may have been faster
			return fmt.Errorf("make the journal: %w", err)
		}
	}
}

// A link is who wrote a batch, to see whether another one is in its place later.
type link struct {
	position uint64
	writer   string
}

// A state is the row of a journal.
type state struct {
	head, epoch, segment, checkpoint uint64
	writer                           []byte
}

func (j *Journal) readState(ctx context.Context) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, j.time.answer)
	defer cancel()
	var head, epoch, segment, checkpoint int64
	var s state
	err := j.server.pool().QueryRowContext(ctx,
		j.server.statement("SELECT head, epoch, segment, checkpoint, writer FROM ferry_journal WHERE id = ?"), j.id).
		Scan(&head, &epoch, &segment, &checkpoint, &s.writer)
	if errors.Is(err, sql.ErrNoRows) {
		return state{}, finalf("the journal %q is not in the database any more", j.name)
	}
	if err != nil {
		return state{}, fmt.Errorf("read ferry_journal: %w", err)
	}
	s.head, s.epoch, s.segment, s.checkpoint = uint64(head), uint64(epoch), uint64(segment), uint64(checkpoint)
	return s, nil
}

func (s *state) of(writer []byte) bool { return bytes.Equal(s.writer, writer) }

// Info implements journal.Journal.
func (j *Journal) Info() journal.Info { return j.info }

// Status implements journal.Journal: an append waits while the database cannot be
// reached, is full, or cannot write for other reasons that may pass.
func (j *Journal) Status() journal.Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	return journal.Status{Waiting: j.waiting}
}

// Measures implements journal.Meter: a sync is a commit, with the way to the
// database and back.
func (j *Journal) Measures() journal.Measures {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.measures
}

// Close implements journal.Journal. Closing twice is no error. If the database
// does not answer, it takes two seconds.
func (j *Journal) Close() error {
	j.mu.Lock()
	again := j.closed
	j.closed = true
	j.mu.Unlock()
	timer := time.AfterFunc(closeWait, func() {
		j.giveUp(fmt.Errorf("%w before the database answered, so that the outcome is not known", journal.ErrClosed))
	})
	defer timer.Stop()
	j.mu.Lock()
	for j.writing {
		j.idle.Wait()
	}
	j.mu.Unlock()
	j.end(journal.ErrClosed)
	j.tail.Fail(journal.ErrClosed)
	j.mu.Lock()
	for j.users > 0 {
		j.idle.Wait()
	}
	j.waiting = nil
	j.mu.Unlock()
	if again {
		return nil
	}
	j.giveUp(journal.ErrClosed)
	j.hangUp()
	if err := j.server.pool().Close(); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// enter begins a call that Close waits for.
func (j *Journal) enter() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return journal.ErrClosed
	}
	j.users++
	return nil
}

func (j *Journal) leave() {
	j.mu.Lock()
	j.users--
	if j.users == 0 {
		j.idle.Broadcast()
	}
	j.mu.Unlock()
}

// advance moves the tail, which never goes back.
func (j *Journal) advance(head uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if head > j.head {
		j.head = head
		j.tail.Move(head)
	}
}

// sleep waits, and tells whether ctx has not ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retry calls try until it succeeds, fails for good, or ctx or the journal ends;
// for at most the given time, 0 without limit.
func (j *Journal) retry(ctx context.Context, what string, limit time.Duration, try func(ctx context.Context) error) error {
	if err := j.enter(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer j.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(j.life, func() { cancel(context.Cause(j.life)) })
	defer stop()
	began := time.Now()
	for delay := backoffMin; ; delay = min(2*delay, backoffMax) {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && (!temporary(err) || limit > 0 && time.Since(began) > limit) {
			if serverRefuses(err) {
				err = &finalError{err}
			}
			return fmt.Errorf("%s: %w", what, err)
		}
		sleep(ctx, delay)
	}
}
