// Package dbtest gives tests databases on real servers, which scripts/database
// starts. It is for tests only.
//
// A test process starts at most one server of a kind for all its tests, when the
// first of them asks, and the server ends with the process. What Debian has not
// installed fails the test with CI=true; elsewhere it is named and the test is
// skipped.
package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// The kinds of servers, as scripts/database names them.
const (
	KindPostgres = "postgres"
	KindMariaDB  = "mariadb"
)

// statementTimeout is for what a test's set-up and clean-up ask of a server.
const statementTimeout = 30 * time.Second

// Postgres is the URL of an empty database that is the test's own, and is gone after
// it with whatever is connected to it.
func Postgres(t testing.TB) string {
	t.Helper()
	return shared(t, KindPostgres).database(t)
}

// MariaDB does what Postgres does. The URL begins with mysql://.
func MariaDB(t testing.TB) string {
	t.Helper()
	return shared(t, KindMariaDB).database(t)
}

// Common is the URL of a database of a kind that all tests of the process have in
// common, for those that find what is theirs in it by name: it costs them no database
// of their own.
func Common(t testing.TB, kind string) string {
	t.Helper()
	return shared(t, kind).url
}

// Each runs a test on every kind of database, each time on an empty one.
func Each(t *testing.T, run func(t *testing.T, url string)) {
	t.Helper()
	t.Run(KindPostgres, func(t *testing.T) { run(t, Postgres(t)) })
	t.Run(KindMariaDB, func(t *testing.T) { run(t, MariaDB(t)) })
}

// Cut ends, on the server, every connection to the database of a URL. Who was
// connected may connect again.
func Cut(t testing.TB, databaseURL string) {
	t.Helper()
	kind, admin, name := administer(t, databaseURL)
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	if err := cut(ctx, kind, admin, name); err != nil {
		t.Fatal(err)
	}
	if err := admin.Close(); err != nil {
		t.Fatal(err)
	}
}

// servers are those that all tests of the process share.
var servers = map[string]func() (*server, error){
	KindPostgres: sync.OnceValues(func() (*server, error) { return serve(KindPostgres) }),
	KindMariaDB:  sync.OnceValues(func() (*server, error) { return serve(KindMariaDB) }),
}

// A server is a running one and how databases are made on it.
type server struct {
	running
	admin *sql.DB
	made  atomic.Uint64 // databases
}

func serve(kind string) (*server, error) {
	r, err := start(kind)
	if err != nil {
		return nil, err
	}
	admin, err := open(kind, r.url)
	return &server{running: r, admin: admin}, err
}

func shared(t testing.TB, kind string) *server {
	t.Helper()
	s, err := servers[kind]()
	if err != nil {
		missing(t, err)
	}
	return s
}

// database makes an empty database and returns its URL.
func (s *server) database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("ferry_%d", s.made.Add(1))
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	if _, err := s.admin.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("make a database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
		defer cancel()
		if err := cut(ctx, s.kind, s.admin, name); err != nil {
			t.Error(err)
		}
		drop := "DROP DATABASE " + name
		if s.kind == KindPostgres {
			drop += " WITH (FORCE)" // somebody may have connected again
		}
		if _, err := s.admin.ExecContext(ctx, drop); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// open makes a pool of connections; it connects when it is first used.
func open(kind, databaseURL string) (*sql.DB, error) {
	if kind == KindPostgres {
		return sql.Open("pgx", databaseURL)
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		return nil, err
	}
	c := mysql.NewConfig()
	c.User = u.User.Username()
	c.Passwd, _ = u.User.Password()
	c.Net, c.Addr = "tcp", u.Host
	c.DBName = strings.TrimPrefix(u.Path, "/")
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// administer opens the server's own first database beside that of the URL, which is
// returned by its name.
func administer(t testing.TB, databaseURL string) (kind string, admin *sql.DB, name string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	kind, first := KindPostgres, "postgres"
	if u.Scheme == "mysql" {
		kind, first = KindMariaDB, "information_schema"
	}
	name = strings.TrimPrefix(u.Path, "/")
	u.Path, u.RawQuery = "/"+first, ""
	admin, err = open(kind, u.String())
	if err != nil {
		t.Fatal(err)
	}
	return kind, admin, name
}

// cut ends the connections to a database.
func cut(ctx context.Context, kind string, admin *sql.DB, name string) error {
	list, end := "SELECT id FROM information_schema.processlist WHERE db = ?", "KILL CONNECTION ?"
	if kind == KindPostgres {
		list, end = "SELECT pid FROM pg_stat_activity WHERE datname = $1", "SELECT pg_terminate_backend($1)"
	}
	ids, err := numbers(ctx, admin, list, name)
	if err != nil {
		return fmt.Errorf("list the connections to %s: %w", name, err)
	}
	for _, id := range ids {
		if _, err := admin.ExecContext(ctx, end, id); err != nil && !gone(err) {
			return fmt.Errorf("end a connection to %s: %w", name, err)
		}
	}
	return nil
}

// gone says that a connection ended by itself meanwhile.
func gone(err error) bool {
	const noSuchThread = 1094
	e := (*mysql.MySQLError)(nil)
	return errors.As(err, &e) && e.Number == noSuchThread
}

func numbers(ctx context.Context, db *sql.DB, query, argument string) (found []int64, err error) {
	rows, err := db.QueryContext(ctx, query, argument)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		found = append(found, n)
	}
	return found, rows.Err()
}
