package dbtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"testing"

	"github.com/ferrymq/ferry/internal/dbtest"
)

// open connects to a database by the drivers that the package brings.
func open(t *testing.T, databaseURL string) *sql.DB {
	t.Helper()
	driver, source := "pgx", databaseURL
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if u.Scheme == "mysql" {
		driver, source = "mysql", fmt.Sprintf("%s@tcp(%s)%s", u.User, u.Host, u.Path)
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func mustExec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func count(ctx context.Context, db *sql.DB) (n int, err error) {
	err = db.QueryRowContext(ctx, "SELECT count(*) FROM kept").Scan(&n)
	return n, err
}

func TestEachTestHasAnEmptyDatabaseOfItsOwn(t *testing.T) {
	for range 2 {
		dbtest.Each(t, func(t *testing.T, url string) {
			mustExec(t, open(t, url), "CREATE TABLE kept (i int)")
		})
	}
}

func TestAConnectionThatIsCutEndsWhatItDoes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := dbtest.NewWire(t, url)
		direct, wired := open(t, url), open(t, w.URL)
		mustExec(t, direct, "CREATE TABLE kept (i int)")
		for _, cut := range []func(){w.Cut, func() { dbtest.Cut(t, url) }} {
			w.Mend()
			tx, err := wired.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.ExecContext(t.Context(), "INSERT INTO kept VALUES (1)"); err != nil {
				t.Fatal(err)
			}
			cut()
			if err := tx.Commit(); err == nil {
				t.Error("a transaction was committed by a connection that was cut")
			}
			if n, err := count(t.Context(), open(t, url)); err != nil || n != 0 {
				t.Errorf("%d rows, %v; want none", n, err)
			}
		}
		w.Cut()
		if err := wired.PingContext(t.Context()); err == nil {
			t.Error("a wire that is cut can be used")
		}
		w.Mend()
		if err := wired.PingContext(t.Context()); err != nil {
			t.Errorf("a wire that was mended: %v", err)
		}
	})
}

func TestAServerThatIsKilledHasWhatWasCommitted(t *testing.T) {
	for _, kind := range []string{dbtest.KindPostgres, dbtest.KindMariaDB} {
		t.Run(kind, func(t *testing.T) {
			s := dbtest.Start(t, kind)
			mustExec(t, open(t, s.URL), "CREATE TABLE kept (i int)")
			for want, again := range []func(){s.Restart, func() { s.Kill(); s.Up() }, s.Restart} {
				mustExec(t, open(t, s.URL), "INSERT INTO kept VALUES (1)")
				again()
				if n, err := count(t.Context(), open(t, s.URL)); err != nil || n != want+1 {
					t.Errorf("%d rows, %v; want %d", n, err, want+1)
				}
			}
		})
	}
}

func TestWhoHasNoServerIsTold(t *testing.T) {
	t.Chdir(t.TempDir())
	var why string
	r := recorder{TB: t, fatal: func(text string) { why = text }}
	func() {
		defer func() {
			if e, ok := recover().(error); !ok || !errors.Is(e, errEnded) {
				t.Error("the test went on")
			}
		}()
		dbtest.Start(r, dbtest.KindPostgres)
	}()
	if why == "" {
		t.Error("the test did not fail")
	}
	if _, err := os.Stat("scripts"); err == nil {
		t.Error("the test's directory has scripts")
	}
}

var errEnded = errors.New("the test ended")

// A recorder is a test that ends by a panic.
type recorder struct {
	testing.TB
	fatal func(string)
}

func (r recorder) Fatal(args ...any) {
	r.fatal(fmt.Sprint(args...))
	panic(errEnded)
}
