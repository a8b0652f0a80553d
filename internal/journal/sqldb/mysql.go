package sqldb

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// mysqlServer is a server that speaks MySQL's protocol: MySQL or MariaDB.
type mysqlServer struct {
	cfg     *mysql.Config // of the lanes
	db      *sql.DB
	time    timing
	mariadb bool
}

func newMySQL(t target, tm timing) (*mysqlServer, error) {
	cfg := t.my.Clone()
	if cfg.Timeout == 0 || cfg.Timeout > tm.dial {
		cfg.Timeout = tm.dial
	}
	cfg.Logger = log.New(io.Discard, "", 0) // what it says is in the errors, too
	cfg.MaxAllowedPacket = 0                // the server's
	cfg.ParseTime, cfg.ClientFoundRows = false, false
	pooled := cfg.Clone()
	pooled.InterpolateParams, pooled.MultiStatements = true, false
	// A server that has become a replica is left for the one that has not.
	pooled.RejectReadOnly = true
	connector, err := mysql.NewConnector(pooled)
	if err != nil {
		return nil, err
	}
	cfg.MultiStatements = true
	s := &mysqlServer{cfg: cfg, time: tm}
	s.db = sql.OpenDB(&mySession{connector, s.prepareSession})
	return s, nil
}

// mySession connects and sets the session up.
type mySession struct {
	driver.Connector
	prepare func(context.Context, driver.Conn) error
}

func (c *mySession) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.prepare(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// prepareSession makes a connection one that locks little and briefly, and whose
// text is read as it is written here. The settings of the server may say otherwise
// for others.
func (s *mysqlServer) prepareSession(ctx context.Context, conn driver.Conn) error {
	for _, query := range []string{
		// In others, such as GBK, a backslash may be half of a character: what is in
		// messages could end the text that they stand in. The server, too, may say
		// which one it is, behind the login.
		"SET NAMES utf8mb4",
		"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
		fmt.Sprintf("SET autocommit = 1, sql_mode = 'STRICT_ALL_TABLES', innodb_lock_wait_timeout = %d, lock_wait_timeout = %d",
			seconds(s.time.lock), seconds(s.time.lock)),
	} {
		if _, err := conn.(driver.ExecerContext).ExecContext(ctx, query, nil); err != nil {
			return fmt.Errorf("set up the session: %w", err)
		}
	}
	return nil
}

func (s *mysqlServer) kind() string {
	if s.mariadb {
		return "mariadb"
	}
	return "mysql"
}

func (s *mysqlServer) pool() *sql.DB { return s.db }

// escapeRoom is what an append takes beside the batch, of a packet.
const escapeRoom = 4 << 10

func (s *mysqlServer) inspect(ctx context.Context) (int, []string, error) {
	settings, err := s.settings(ctx)
	if err != nil {
		return 0, nil, err
	}
	s.mariadb = strings.Contains(settings["version"], "MariaDB")
	if settings["log_bin"] == "ON" && settings["binlog_format"] == "STATEMENT" {
		return 0, nil, finalf("the server writes its binary log by statements, which Ferry's tables cannot do; set binlog_format to ROW or MIXED")
	}
	packet, err := strconv.Atoi(settings["max_allowed_packet"])
	if err != nil {
		return 0, nil, fmt.Errorf("max_allowed_packet: %w", err)
	}
	// Each byte may have to be escaped.
	limit := min((packet-escapeRoom)/2, maxBatch)
	if limit < minBatch {
		return 0, nil, finalf("the server takes packets of %d bytes only; set max_allowed_packet to 16M or more", packet)
	}
	var warnings []string
	if flush := settings["innodb_flush_log_at_trx_commit"]; flush != "1" && flush != "3" {
		warnings = append(warnings, "the server runs with innodb_flush_log_at_trx_commit = "+flush+
			": what is confirmed does not survive a crash of its machine; set it to 1")
	}
	if settings["innodb_doublewrite"] == "OFF" {
		warnings = append(warnings, "the server runs with innodb_doublewrite = OFF: a power cut of it may damage the tables")
	}
	if settings["log_bin"] == "ON" && settings["sync_binlog"] == "0" {
		warnings = append(warnings, "the server runs with sync_binlog = 0: after a crash of its machine replicas may have what it has not, or lack what it has")
	}
	return limit, warnings, nil
}

func (s *mysqlServer) settings(ctx context.Context) (map[string]string, error) {
	rows, err := s.db.QueryContext(ctx, `SHOW VARIABLES WHERE Variable_name IN ('version', 'log_bin', 'binlog_format',
		'max_allowed_packet', 'innodb_flush_log_at_trx_commit', 'innodb_doublewrite', 'sync_binlog')`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	settings := map[string]string{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, err
		}
		settings[name] = value
	}
	return settings, rows.Err()
}

func (s *mysqlServer) statement(query string) string { return query }

func (s *mysqlServer) upsert() string {
	return `INSERT INTO ferry_node (journal, name, role, epoch, position, started, addresses, seen)
		VALUES (?, ?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6))
		ON DUPLICATE KEY UPDATE role = VALUES(role), epoch = VALUES(epoch),
			position = VALUES(position), started = VALUES(started), addresses = VALUES(addresses), seen = VALUES(seen)`
}

func (s *mysqlServer) silence(column string) string {
	return "TIMESTAMPDIFF(MICROSECOND, " + column + ", UTC_TIMESTAMP(6))"
}

// joinGap: InnoDB reads a value as a whole, so that what is saved is the way here.
func (s *mysqlServer) joinGap() uint64 { return 64 << 10 }

func (s *mysqlServer) bodies(journalID int64, runs []run) (string, []any) {
	var b strings.Builder
	b.WriteString("SELECT r.i, SUBSTRING(b.body, r.start + 1, r.length) FROM (")
	for i, r := range runs {
		if i == 0 {
			fmt.Fprintf(&b, "SELECT %d AS i, %d AS position, %d AS start, %d AS length", i, r.position, r.offset, r.length())
		} else {
			fmt.Fprintf(&b, " UNION ALL SELECT %d, %d, %d, %d", i, r.position, r.offset, r.length())
		}
	}
	fmt.Fprintf(&b, ") r STRAIGHT_JOIN ferry_batch b ON b.journal = %d AND b.position = r.position"+
		" WHERE b.segment NOT IN (SELECT d.segment FROM ferry_drop d WHERE d.journal = %d)", journalID, journalID)
	return b.String(), nil
}

func (s *mysqlServer) locked(ctx context.Context, f func(execer) error) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	// The names of such locks are the server's, not the database's, and short.
	sum := sha256.Sum256([]byte(s.cfg.DBName))
	name := "ferry-" + hex.EncodeToString(sum[:12])
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, ?)", name, seconds(s.time.lease)).Scan(&got); err != nil {
		return err
	}
	if got.Int64 != 1 {
		return errors.New("another process is at work on the tables")
	}
	return errors.Join(f(conn), func() error {
		_, err := conn.ExecContext(ctx, "DO RELEASE_LOCK(?)", name)
		return err
	}())
}

func (s *mysqlServer) checkTables(ctx context.Context) error {
	rows, err := s.db.QueryContext(ctx, `SELECT table_name, COALESCE(engine, '') FROM information_schema.tables
		WHERE table_schema = DATABASE() AND table_name IN ('ferry_journal', 'ferry_batch', 'ferry_drop')`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name, engine string
		if err := rows.Scan(&name, &engine); err != nil {
			return err
		}
		if !strings.EqualFold(engine, "InnoDB") {
			return finalf("the table %s is kept by %s, which has no transactions; run: ALTER TABLE %s ENGINE = InnoDB", name, engine, name)
		}
	}
	return rows.Err()
}

func (s *mysqlServer) advise(ctx context.Context, err error) error {
	var user sql.NullString
	_ = s.db.QueryRowContext(ctx, "SELECT CURRENT_USER()").Scan(&user) // without it the advice names less
	name, host, _ := strings.Cut(user.String, "@")
	return finalf("%w; run: GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX ON `%s`.* TO '%s'@'%s'; "+
		"or create the tables beforehand and grant the first four only", err, s.cfg.DBName, name, host)
}

// myLane appends by one packet of several statements. The server has it as a
// whole or not at all, and commits without hearing of us again. An error within
// leaves the transaction open, so that the connection is closed; were this process
// stopped just then, the server would close it by itself.
type myLane struct {
	conn driver.Conn
	buf  []byte
}

func (s *mysqlServer) dial(ctx context.Context) (lane, error) {
	connector, err := mysql.NewConnector(s.cfg)
	if err != nil {
		return nil, err
	}
	conn, err := (&mySession{connector, s.prepareSession}).Connect(ctx)
	if err != nil {
		return nil, err
	}
	timeout := fmt.Sprintf("SET wait_timeout = %d", seconds(s.time.idle))
	if s.mariadb {
		timeout = fmt.Sprintf("SET idle_transaction_timeout = %d", seconds(s.time.idle))
	}
	l := &myLane{conn: conn}
	if _, err := conn.(driver.ExecerContext).ExecContext(ctx, timeout, nil); err != nil {
		l.close()
		return nil, fmt.Errorf("set up the session: %w", err)
	}
	return l, nil
}

func (l *myLane) close() { _ = l.conn.Close() }

func (l *myLane) append(ctx context.Context, a *attempt) (bool, error) {
	l.buf = appendBatchStatements(l.buf[:0], a)
	result, err := l.conn.(driver.ExecerContext).ExecContext(ctx, string(l.buf), nil)
	if cap(l.buf) > keepBuffer {
		l.buf = nil
	}
	if err != nil {
		return false, fmt.Errorf("append a batch: %w", causeOr(ctx, err))
	}
	several, ok := result.(mysql.Result)
	if !ok {
		return false, finalf("the driver tells nothing of several statements")
	}
	rows := several.AllRowsAffected()
	if len(rows) != 4 || rows[1] != rows[2] {
		return false, finalf("the statements of an append changed %v rows", rows)
	}
	return rows[1] == 1, nil
}

// appendBatchStatements appends the statements of an append. The insert finds the
// journal's row only if the update has just changed it, or if this very batch is
// there already: then it fails as a duplicate.
func appendBatchStatements(dst []byte, a *attempt) []byte {
	b := &a.batch
	writer := "x'" + hex.EncodeToString(a.writer) + "'"
	whose := " AND writer = " + writer
	if a.first {
		whose = ""
	}
	dst = fmt.Appendf(dst, "START TRANSACTION;"+
		"UPDATE ferry_journal SET head = %d, epoch = %d, segment = %d, checkpoint = %d, writer = %s"+
		" WHERE id = %d AND head = %d AND epoch <= %d AND segment <= %d%s;",
		b.Position, b.Epoch, b.Segment, b.Checkpoint, writer,
		a.journalID, b.Position-1, b.Epoch, b.Segment, whose)
	dst = fmt.Appendf(dst, "INSERT INTO ferry_batch (journal, position, epoch, segment, checkpoint, writer, size, head, body)"+
		" SELECT id, %d, %d, %d, %d, %s, %d, _binary'",
		b.Position, b.Epoch, b.Segment, b.Checkpoint, writer, a.size())
	dst = appendEscaped(dst, b.Head)
	dst = append(dst, "', _binary'"...)
	for _, p := range b.Body {
		dst = appendEscaped(dst, p)
	}
	return fmt.Appendf(dst, "' FROM ferry_journal WHERE id = %d AND head = %d AND writer = %s;COMMIT",
		a.journalID, b.Position, writer)
}

// appendEscaped appends bytes as they stand between single quotes: "MySQL requires
// only that backslash and the quote character used to quote the string be
// escaped" (mysql_real_escape_string). prepareSession leaves NO_BACKSLASH_ESCAPES
// off, and says in which character set.
func appendEscaped(dst, src []byte) []byte {
	from := 0
	for i, c := range src {
		if c == '\'' || c == '\\' {
			dst = append(dst, src[from:i]...)
			dst = append(dst, '\\', c)
			from = i + 1
		}
	}
	return append(dst, src[from:]...)
}
