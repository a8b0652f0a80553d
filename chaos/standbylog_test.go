package chaos

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/ferrymq/ferry/internal/history"
	"github.com/ferrymq/ferry/internal/journal"
)

// A batchKeeper has a database keep the rows of ferry_batch that brokers delete, and
// refuse to change any. It works on the tables as docs/database.md tells of them, with
// none of Ferry's code between. Its methods end the test when they fail.
type batchKeeper struct {
	t    *testing.T
	db   *sql.DB
	name string // of the journal
	kind string
}

// What makes the database keep what is deleted: again does no harm.
var keeping = map[string][]string{
	postgres: {
		`CREATE TABLE IF NOT EXISTS deleted_batch (LIKE ferry_batch)`,
		`CREATE OR REPLACE FUNCTION keep_batch() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN INSERT INTO deleted_batch SELECT OLD.*; RETURN OLD; END $$`,
		`CREATE OR REPLACE TRIGGER keep_batch BEFORE DELETE ON ferry_batch FOR EACH ROW EXECUTE FUNCTION keep_batch()`,
		`CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN RAISE EXCEPTION 'a batch is changed'; END $$`,
		`CREATE OR REPLACE TRIGGER refuse_change BEFORE UPDATE ON ferry_batch FOR EACH ROW EXECUTE FUNCTION refuse_change()`,
	},
	mariadb: {
		`CREATE TABLE IF NOT EXISTS deleted_batch LIKE ferry_batch`,
		`CREATE OR REPLACE TRIGGER keep_batch BEFORE DELETE ON ferry_batch FOR EACH ROW
			INSERT INTO deleted_batch (journal, position, epoch, segment, checkpoint, writer, size, head, body)
			VALUES (OLD.journal, OLD.position, OLD.epoch, OLD.segment, OLD.checkpoint, OLD.writer, OLD.size, OLD.head, OLD.body)`,
		`CREATE OR REPLACE TRIGGER refuse_change BEFORE UPDATE ON ferry_batch FOR EACH ROW
			SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a batch is changed'`,
	},
}

// keepBatches begins to keep what is deleted from a database in which Ferry's tables
// are.
func keepBatches(t *testing.T, at space, d *database, name string) *batchKeeper {
	t.Helper()
	dial := func(_ context.Context, network, addr string) (net.Conn, error) { return at.dial(network, addr) }
	k := &batchKeeper{t: t, name: name, kind: d.kind}
	switch d.kind {
	case postgres:
		config, err := pgx.ParseConfig(d.url)
		if err != nil {
			t.Fatal(err)
		}
		config.DialFunc = dial
		k.db = stdlib.OpenDB(*config)
	case mariadb:
		config := mysql.NewConfig()
		config.User, config.Passwd, config.DBName = "ferry", "ferry", "ferry"
		config.Net, config.Addr, config.Logger = "tcp", d.host(), &mysql.NopLogger{}
		config.DialFunc = dial
		connector, err := mysql.NewConnector(config)
		if err != nil {
			t.Fatal(err)
		}
		k.db = sql.OpenDB(connector)
	}
	t.Cleanup(func() { _ = k.db.Close() })
	for _, statement := range keeping[d.kind] {
		if _, err := k.db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return k
}

// log is all that was ever in the journal.
func (k *batchKeeper) log() history.Log {
	k.t.Helper()
	const rows = `SELECT b.position, b.epoch, b.writer, b.head, b.body FROM %s b
		JOIN ferry_journal j ON j.id = b.journal WHERE j.name = '%s'`
	all := fmt.Sprintf(rows+" UNION ALL "+rows+" ORDER BY position", "ferry_batch", k.name, "deleted_batch", k.name)
	result, err := k.db.QueryContext(k.t.Context(), all)
	if err != nil {
		k.t.Fatalf("reading the log: %v", err)
	}
	defer result.Close()
	var log history.Log
	for result.Next() {
		var b journal.Batch
		var writer, body []byte
		if err := result.Scan(&b.Position, &b.Epoch, &writer, &b.Head, &body); err != nil {
			k.t.Fatalf("reading the log: %v", err)
		}
		b.Body = [][]byte{body}
		parsed, err := history.ParseBatch(b, fmt.Sprintf("%x", writer), historyID)
		if err != nil {
			k.t.Error(err)
		}
		log = append(log, parsed)
	}
	if err := result.Err(); err != nil {
		k.t.Fatalf("reading the log: %v", err)
	}
	return log
}
