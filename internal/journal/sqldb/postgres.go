package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgres is a server that speaks PostgreSQL's protocol.
type postgres struct {
	cfg  *pgx.ConnConfig
	db   *sql.DB
	time timing
}

func newPostgres(t target, tm timing) *postgres {
	cfg := t.pg.Copy()
	if cfg.ConnectTimeout == 0 || cfg.ConnectTimeout > tm.dial {
		cfg.ConnectTimeout = tm.dial
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "ferry"
	}
	if cfg.ValidateConnect == nil {
		// A standby shows a log that may have gone on elsewhere.
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	p := &postgres{cfg: cfg, time: tm}
	cfg.AfterConnect = p.prepareSession
	p.db = stdlib.OpenDB(*cfg)
	return p
}

func (p *postgres) kind() string  { return "postgres" }
func (p *postgres) pool() *sql.DB { return p.db }

// prepareSession makes a connection one on which a commit is durable, and that
// lets go of what it holds when nobody is at its other end. The settings of the
// user or the database may say otherwise for others.
func (p *postgres) prepareSession(ctx context.Context, conn *pgconn.PgConn) error {
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
		SET default_transaction_isolation = 'read committed';
		SET lock_timeout = %d;
		SET idle_in_transaction_session_timeout = %d;
		SET tcp_keepalives_idle = %d;
		SET tcp_keepalives_interval = 1;
		SET tcp_keepalives_count = 2`,
		p.time.lock.Milliseconds(), p.time.idle.Milliseconds(), seconds(p.time.idle))).ReadAll()
	if err != nil {
		return fmt.Errorf("set up the session: %w", err)
	}
	return nil
}

func (p *postgres) inspect(ctx context.Context) (int, []string, error) {
	var fsync, pages string
	err := p.db.QueryRowContext(ctx, "SELECT current_setting('fsync'), current_setting('full_page_writes')").Scan(&fsync, &pages)
	if err != nil {
		return 0, nil, err
	}
	var warnings []string
	if fsync == "off" {
		warnings = append(warnings, "the server runs with fsync = off: what is confirmed does not survive a power cut of it")
	}
	if pages == "off" {
		warnings = append(warnings, "the server runs with full_page_writes = off: a power cut of it may damage the tables")
	}
	return maxBatch, warnings, nil
}

func (p *postgres) statement(query string) string {
	var b strings.Builder
	n := 0
	for {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		n++
		b.WriteString("$" + strconv.Itoa(n))
		query = after
	}
}

func (p *postgres) upsert() string {
	return `INSERT INTO ferry_node (journal, name, role, epoch, position, started, addresses, seen)
		VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp())
		ON CONFLICT (journal, name) DO UPDATE SET role = excluded.role, epoch = excluded.epoch,
			position = excluded.position, started = excluded.started, addresses = excluded.addresses, seen = excluded.seen`
}

func (p *postgres) silence(column string) string {
	return "CAST(EXTRACT(EPOCH FROM clock_timestamp() - " + column + ") * 1000000 AS bigint)"
}

// joinGap is two chunks of the table in which Postgres keeps large values: less
// costs more to find than to read.
func (p *postgres) joinGap() uint64 { return 4 << 10 }

// bodies reads substrings. As the column is not compressed, no more than they
// need is read of it.
func (p *postgres) bodies(journalID int64, runs []run) (string, []any) {
	positions, offsets, lengths := make([]int64, len(runs)), make([]int64, len(runs)), make([]int64, len(runs))
	for i, r := range runs {
		positions[i], offsets[i], lengths[i] = int64(r.position), int64(r.offset), int64(r.length())
	}
	return `SELECT r.i - 1, substr(b.body, CAST(r.start + 1 AS integer), CAST(r.length AS integer))
		FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS r (position, start, length, i)
		JOIN ferry_batch b ON b.journal = $1 AND b.position = r.position
		WHERE b.segment NOT IN (SELECT d.segment FROM ferry_drop d WHERE d.journal = $1)`,
		[]any{journalID, positions, offsets, lengths}
}

// advisoryLock is the lock under which the schema is made: "ferry" in ASCII.
const advisoryLock = 0x6665727279

func (p *postgres) locked(ctx context.Context, f func(execer) error) error {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", int64(advisoryLock)); err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func (p *postgres) checkTables(context.Context) error { return nil }

func (p *postgres) advise(ctx context.Context, err error) error {
	var user, database, schema sql.NullString
	// Without an answer the advice names less.
	_ = p.db.QueryRowContext(ctx, "SELECT quote_ident(current_user), quote_ident(current_database()), quote_ident(current_schema())").
		Scan(&user, &database, &schema)
	if !schema.Valid {
		schema.String = "public"
	}
	return finalf("%w; as the owner of the database %s run: GRANT CREATE, USAGE ON SCHEMA %s TO %s; "+
		"or create the tables beforehand and GRANT SELECT, INSERT, UPDATE, DELETE ON ferry_schema, ferry_journal, ferry_batch, ferry_drop, ferry_node TO %s",
		err, database.String, schema.String, user.String, user.String)
}

// pgLane appends with messages of its own making, because a lock must never wait
// for more from here. A batch is one Bind of a prepared statement to a named
// portal, which runs nothing yet, and one simple Query that fetches from it: the
// server has that message as a whole or not at all, and commits at its end
// without hearing of us again. (After an Execute it would keep the locks until
// the Sync came.)
type pgLane struct {
	conn *pgconn.HijackedConn
	buf  []byte
}

const (
	pgAppend = "ferry_append"
	pgPortal = "ferry_portal"
)

const pgAppendQuery = `WITH moved AS (
		UPDATE ferry_journal SET head = $2, epoch = $3, segment = $4, checkpoint = $5, writer = $6
		WHERE id = $1 AND head = $2 - 1 AND epoch <= $3 AND segment <= $4 AND (writer = $6 OR $7)
		RETURNING id)
	INSERT INTO ferry_batch (journal, position, epoch, segment, checkpoint, writer, size, head, body)
	SELECT id, $2, $3, $4, $5, $6, $8, $9, $10 FROM moved
	RETURNING position`

// The types of its parameters.
var pgAppendTypes = []uint32{
	oidInt8, oidInt8, oidInt8, oidInt8, oidInt8, oidBytea, oidBool, oidInt4, oidBytea, oidBytea,
}

// Types of Postgres, as pg_type numbers them.
const (
	oidBool  = 16
	oidBytea = 17
	oidInt8  = 20
	oidInt4  = 23
)

func (p *postgres) dial(ctx context.Context) (lane, error) {
	conn, err := pgconn.ConnectConfig(ctx, &p.cfg.Config)
	if err != nil {
		return nil, err
	}
	// The second one would end a replay whose visitor takes its time, too.
	_, err = conn.Exec(ctx, fmt.Sprintf("SET statement_timeout = %d; SET tcp_user_timeout = %d",
		p.time.statement.Milliseconds(), p.time.idle.Milliseconds())).ReadAll()
	if err == nil {
		_, err = conn.Prepare(ctx, pgAppend, pgAppendQuery, pgAppendTypes)
	}
	if err == nil {
		var hijacked *pgconn.HijackedConn
		if hijacked, err = conn.Hijack(); err == nil {
			return &pgLane{conn: hijacked}, nil
		}
	}
	return nil, errors.Join(err, conn.Close(ctx))
}

func (l *pgLane) append(ctx context.Context, a *attempt) (bool, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.conn.Conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	l.buf = appendBatchMessages(l.buf[:0], a)
	if _, err := l.conn.Conn.Write(l.buf); err != nil {
		return false, fmt.Errorf("send a batch: %w", causeOr(ctx, err))
	}
	if cap(l.buf) > keepBuffer {
		l.buf = nil
	}
	applied, err := l.receive()
	if err != nil {
		return false, fmt.Errorf("append a batch: %w", causeOr(ctx, err))
	}
	return applied, nil
}

// keepBuffer is how large a buffer may be that is kept for the next batch.
const keepBuffer = 1 << 20

func (l *pgLane) close() { _ = l.conn.Conn.Close() }

// causeOr is why ctx ended, err if it has not.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
