package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

func kindOf(rawURL string) string {
	scheme, _, _ := strings.Cut(rawURL, ":")
	return scheme
}

// refused opens a journal that cannot be opened, and checks what is said.
func refused(t *testing.T, rawURL string, want ...string) {
	t.Helper()
	j, err := sqldb.Open(t.Context(), rawURL, sqldb.Options{Lease: lease})
	if err == nil {
		_ = j.Close()
		t.Fatalf("it opens, want an error with %q", want)
	}
	if sqldb.IsTemporary(err) {
		t.Errorf("it is said to be temporary: %v", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got %v, want something with %q", err, w)
		}
	}
}

func TestNewerTablesAreRefused(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		mustAppend(t, mustOpen(t, url, sqldb.Options{}), batch(1, 1, "a"))
		db := client(t, url)
		mustExec(t, db, "UPDATE ferry_schema SET version = 1000, program = 'Ferry 77.7'")
		refused(t, url, "version 1000", "use Ferry 77.7 or newer")
	})
}

// TestInterruptedMigrationIsFinished begins with what MySQL may leave of a step that
// was interrupted: some of the tables, and a version that is still the old one.
func TestInterruptedMigrationIsFinished(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		db := client(t, url)
		for i, statement := range strings.SplitAfter(sqldb.Schema(kindOf(url)), ";\n") {
			if i < 3 {
				mustExec(t, db, statement)
			}
		}
		mustExec(t, db, "INSERT INTO ferry_schema (version, program) VALUES (0, 'an older one')")
		mustAppend(t, mustOpen(t, url, sqldb.Options{}), batch(1, 1, "a"))
		var version, rows int
		var program string
		if err := db.QueryRowContext(t.Context(), "SELECT MAX(version), MAX(program), count(*) FROM ferry_schema").Scan(&version, &program, &rows); err != nil {
			t.Fatal(err)
		}
		if version != 1 || rows != 1 || !strings.HasPrefix(program, "Ferry ") {
			t.Errorf("got version %d, %q, in %d rows", version, program, rows)
		}
	})
}

// TestManyOpenAtOnce has several processes make the tables and the journal.
func TestManyOpenAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				j, err := sqldb.Open(t.Context(), url, sqldb.Options{})
				if err != nil {
					t.Error(err)
					return
				}
				if err := j.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		var rows int
		db := client(t, url)
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM ferry_journal").Scan(&rows); err != nil || rows != 1 {
			t.Errorf("%d journals, %v, want 1", rows, err)
		}
	})
}

// TestUserWithFewRights is one who may not make tables: the message says what to
// grant, and with tables that were made beforehand everything works.
func TestUserWithFewRights(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, rawURL string) {
		admin := client(t, rawURL)
		u, err := url.Parse(rawURL)
		if err != nil {
			t.Fatal(err)
		}
		name := "few" + strings.TrimPrefix(u.Path, "/")
		whom := name
		if kindOf(rawURL) == "mysql" {
			whom = "'" + name + "'@'%'"
			mustExec(t, admin, "CREATE USER "+whom+" IDENTIFIED BY 'few-rights'")
			mustExec(t, admin, "GRANT USAGE ON *.* TO "+whom)
			mustExec(t, admin, "GRANT SHOW VIEW ON "+strings.TrimPrefix(u.Path, "/")+".* TO "+whom)
		} else {
			mustExec(t, admin, "CREATE ROLE "+name+" LOGIN PASSWORD 'few-rights'")
			mustExec(t, admin, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
		}
		t.Cleanup(func() {
			for _, statement := range []string{"DROP OWNED BY " + name, "DROP USER " + whom} {
				if kindOf(rawURL) == "mysql" && strings.HasPrefix(statement, "DROP OWNED") {
					continue
				}
				if _, err := admin.ExecContext(context.Background(), statement); err != nil {
					t.Error(err)
				}
			}
		})
		u.User = url.UserPassword(name, "few-rights")
		refused(t, u.String(), "GRANT ", name, "beforehand")

		for _, statement := range strings.SplitAfter(sqldb.Schema(kindOf(rawURL)), ";\n") {
			if statement != "" {
				mustExec(t, admin, statement)
			}
		}
		refused(t, u.String(), "SELECT, INSERT, UPDATE, DELETE")
		for _, table := range []string{"ferry_schema", "ferry_journal", "ferry_drop", "ferry_node", "ferry_batch"} {
			rights := "SELECT, INSERT, UPDATE, DELETE"
			if table == "ferry_batch" {
				rights = "SELECT, INSERT"
			}
			mustExec(t, admin, fmt.Sprintf("GRANT %s ON %s TO %s", rights, table, whom))
		}
		refused(t, u.String(), "GRANT ", "DELETE")
		mustExec(t, admin, "GRANT DELETE, UPDATE ON ferry_batch TO "+whom)
		j := mustOpen(t, u.String(), sqldb.Options{})
		mustAppend(t, j, batch(1, 1, "a"))
		if err := j.Announce(t.Context(), journal.Node{Name: "n"}); err != nil {
			t.Error(err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}

		u.User = url.UserPassword(name, "wrong-password")
		_, err = sqldb.Open(t.Context(), u.String(), sqldb.Options{Lease: lease})
		if err == nil || strings.Contains(err.Error(), "wrong-password") || sqldb.IsTemporary(err) ||
			!strings.Contains(err.Error(), "the user or the password is wrong") {
			t.Errorf("with a wrong password: %v", err)
		}
	})
}

// TestTablesThatAreGone is of tables that somebody dropped: what reads or appends
// then is told at once, and for good.
func TestTablesThatAreGone(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		j := mustOpen(t, url, sqldb.Options{})
		mustAppend(t, j, batch(1, 1, "a"))
		mustExec(t, client(t, url), "DROP TABLE ferry_journal")
		_, err := j.Head(t.Context())
		var final interface{ Final() bool }
		if !errors.As(err, &final) || !final.Final() {
			t.Errorf("head: got %v, want an error that is final", err)
		}
		if err := try(j, batch(2, 1, "a")); err == nil {
			t.Error("an append succeeds")
		}
	})
}

// TestNoDatabase is of URLs that lead nowhere.
func TestNoDatabase(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, rawURL string) {
		u, err := url.Parse(rawURL)
		if err != nil {
			t.Fatal(err)
		}
		noTLS := *u
		noTLS.RawQuery = "sslmode=require"
		if kindOf(rawURL) == "mysql" {
			noTLS.RawQuery = "tls=true"
		}
		refused(t, noTLS.String(), "speaks no TLS")
		u.Path = "/nowhere"
		refused(t, u.String(), `the database "nowhere" does not exist; create it`)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u.Host = ln.Addr().String()
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = sqldb.Open(t.Context(), u.String(), sqldb.Options{Lease: 10 * time.Millisecond})
		if err == nil || !sqldb.IsTemporary(err) || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "\n") {
			t.Errorf("nobody listens: %v", err)
		}
	})
}

func TestServerSettingsThatCannotWork(t *testing.T) {
	url := dbtest.MariaDB(t)
	mustAppend(t, mustOpen(t, url, sqldb.Options{}), batch(1, 1, "a"))
	db := client(t, url)

	mustExec(t, db, "SET GLOBAL max_allowed_packet = 4194304")
	refused(t, url, "max_allowed_packet")
	mustExec(t, db, "SET GLOBAL max_allowed_packet = 16777216")

	var d diary
	mustExec(t, db, "SET GLOBAL innodb_flush_log_at_trx_commit = 2")
	mustOpen(t, url, sqldb.Options{Logger: d.logger()})
	mustExec(t, db, "SET GLOBAL innodb_flush_log_at_trx_commit = 1")
	if !strings.Contains(d.String(), "innodb_flush_log_at_trx_commit = 2") {
		t.Errorf("nobody is warned: %s", &d)
	}

	mustExec(t, db, "ALTER TABLE ferry_batch ENGINE = Aria")
	refused(t, url, "ferry_batch", "ENGINE = InnoDB")
}

// TestCommitsAreDurable has a user whose commits are not, by his settings.
func TestCommitsAreDurable(t *testing.T) {
	rawURL := dbtest.Postgres(t)
	db := client(t, rawURL)
	var name string
	if err := db.QueryRowContext(t.Context(), "SELECT current_database()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "ALTER DATABASE "+name+" SET synchronous_commit = off")
	mustExec(t, db, "ALTER DATABASE "+name+" SET default_transaction_isolation = 'serializable'")
	mustAppend(t, mustOpen(t, rawURL, sqldb.Options{}), batch(1, 1, "a"))
	// What a session of ours has is what its own settings say: it notes them.
	mustExec(t, db, "CREATE TABLE seen AS SELECT ''::text AS setting WHERE false")
	mustExec(t, db, `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN INSERT INTO seen VALUES (current_setting(''synchronous_commit'') || '' '' || current_setting(''transaction_isolation'')); RETURN NEW; END'`)
	mustExec(t, db, "CREATE TRIGGER note BEFORE INSERT ON ferry_batch FOR EACH ROW EXECUTE FUNCTION note()")
	mustAppend(t, mustOpen(t, rawURL, sqldb.Options{}), batch(2, 2, "b"))
	var seen string
	if err := db.QueryRowContext(t.Context(), "SELECT setting FROM seen").Scan(&seen); err != nil || seen != "on read committed" {
		t.Errorf("got %q, %v", seen, err)
	}
}
