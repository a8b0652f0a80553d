package sqldb_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

// steps are after how many bytes something happens: with FERRY_LONG after each,
// otherwise after some, always the last ones of what count bytes are.
func steps(count int) []int {
	var all []int
	for n := range count + 1 {
		if long() || n%41 == 0 || n >= count-3 {
			all = append(all, n)
		}
	}
	return all
}

// appendSize is how many bytes an append takes on the way to the server, and its
// answer on the way back. The connection must be there.
func appendSize(t *testing.T, w *wire, j journal.Journal, b journal.Batch) (up, down int) {
	t.Helper()
	up, down = w.passed()
	mustAppend(t, j, b)
	upAfter, downAfter := w.passed()
	return upAfter - up, downAfter - down
}

// TestConnectionCutAtEachStep cuts the connection while a batch is sent and while the
// answer comes: whatever became of it is found out, and the batch is there once.
func TestConnectionCutAtEachStep(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWire(t, url)
		j := mustOpen(t, w.url, sqldb.Options{})
		var want []journal.Batch
		next := func() journal.Batch {
			b := batch(uint64(len(want))+1, 1, "the writer")
			want = append(want, b)
			return b
		}
		mustAppend(t, j, next())
		up, down := appendSize(t, w, j, next())
		reached := func(hit <-chan struct{}) bool {
			select {
			case <-hit:
				return true
			default:
				return false
			}
		}
		for _, n := range steps(up) {
			hit := w.cutAfter(n, -1)
			mustAppend(t, j, next())
			if !reached(hit) && n < up {
				t.Errorf("the connection was not cut after %d bytes sent", n)
			}
		}
		for _, n := range steps(down) {
			hit := w.cutAfter(-1, n)
			mustAppend(t, j, next())
			if !reached(hit) && n < down {
				t.Errorf("the connection was not cut after %d bytes received", n)
			}
		}
		w.release()
		got := contents(t, j)
		if len(got) != len(want) {
			t.Fatalf("%d batches are there, want %d", len(got), len(want))
		}
		for i := range got {
			if err := journaltest.Same(got[i], want[i]); err != nil {
				t.Errorf("position %d: %v", i+1, err)
			}
		}
	})
}

// TestStoppedWriterHoldsNobodyUp stops a writer in the middle of an append, at each
// step. Another one takes over without waiting, and the first is fenced when it goes
// on, whatever was still on its way.
func TestStoppedWriterHoldsNobodyUp(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWire(t, url)
		j := mustOpen(t, w.url, sqldb.Options{Name: "measured"})
		mustAppend(t, j, batch(1, 1, "a"))
		count, _ := appendSize(t, w, j, batch(2, 1, "a"))
		all := []int{0, 1, count / 4, count / 2, count - 35, count - 20, count - 5, count - 1, count}
		if long() {
			all = steps(count)
		}
		for len(all) > 0 {
			var rounds sync.WaitGroup
			some := all[:min(len(all), 10)]
			all = all[len(some):]
			for _, n := range some {
				rounds.Go(func() { stopWriter(t, url, n) })
			}
			rounds.Wait()
		}
	})
}

func stopWriter(t *testing.T, url string, n int) {
	name := fmt.Sprintf("stopped after %d", n)
	w := newWire(t, url)
	a := mustOpen(t, w.url, sqldb.Options{Name: name})
	defer w.cut() // there may be hundreds of these
	defer func() { _ = a.Close() }()
	mustAppend(t, a, batch(1, 1, "a"))
	hit := w.stopAfter(n)
	outcome := start(a, batch(2, 1, "a"))
	<-hit

	var d diary
	b := mustOpen(t, url, sqldb.Options{Name: name, Logger: d.logger()})
	defer func() { _ = b.Close() }()
	took := b.Info().Head // the batch may be there already
	mustAppend(t, b, batch(took+1, 2, "b"), batch(took+2, 2, "b"))
	if s := d.String(); s != "" {
		t.Errorf("stopped after %d bytes: the other one was held up: %s", n, s)
	}

	w.release()
	// If the whole batch was there before the other one's, it is confirmed or not.
	if err := <-outcome; !errors.Is(err, journal.ErrFenced) && (err != nil || took != 2) {
		t.Errorf("stopped after %d bytes: got %v, want ErrFenced", n, err)
	}
	if err := try(a, batch(took+1, 1, "a")); err == nil {
		t.Errorf("stopped after %d bytes: a superseded writer's batch was taken", n)
	}
	mustAppend(t, b, batch(took+3, 2, "b"))
	got := contents(t, b)
	if len(got) != int(took)+3 {
		t.Errorf("stopped after %d bytes: %d batches are there, want %d", n, len(got), took+3)
	}
	for i, g := range got {
		if want := uint64(1); g.Epoch != want && i < int(took) || g.Epoch == want && i >= int(took) {
			t.Errorf("stopped after %d bytes: position %d has epoch %d", n, i+1, g.Epoch)
		}
	}
}

// TestConnectionsEndedByTheServer is what an administrator or a load balancer does.
func TestConnectionsEndedByTheServer(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		j := mustOpen(t, url, sqldb.Options{})
		for position := uint64(1); position <= 5; position++ {
			mustAppend(t, j, batch(position, 1, "the writer"))
			dbtest.Cut(t, url)
			if head, err := j.Head(t.Context()); err != nil || head != position {
				t.Errorf("got %d, %v, want %d", head, err, position)
			}
		}
		if got := contents(t, j); len(got) != 5 {
			t.Errorf("%d batches are there, want 5", len(got))
		}
	})
}

// TestCloseGivesUp is of a database that does not answer any more.
func TestCloseGivesUp(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWire(t, url)
		j, err := sqldb.Open(t.Context(), w.url, sqldb.Options{Lease: lease})
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, j, batch(1, 1, "the writer"))
		hit := w.stopAfter(0)
		first, second := start(j, batch(2, 1, "the writer")), start(j, batch(3, 1, "the writer"))
		<-hit
		began := time.Now()
		if err := j.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if took := time.Since(began); took < time.Second || took > 5*time.Second {
			t.Errorf("close took %v", took)
		}
		for _, outcome := range []<-chan error{first, second} {
			if err := <-outcome; !errors.Is(err, journal.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
	})
}

// TestLockedRowIsWaitedFor has somebody else hold the row that appends move.
func TestLockedRowIsWaitedFor(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		var d diary
		j := mustOpen(t, url, sqldb.Options{Logger: d.logger()})
		mustAppend(t, j, batch(1, 1, "the writer"))
		tx, err := client(t, url).BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, tx, "UPDATE ferry_journal SET resolved = resolved")
		outcome := start(j, batch(2, 1, "the writer"))
		d.await(t, "appends wait")
		if s := j.Status(); s.Waiting == nil {
			t.Error("nothing says that appends wait")
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		if err := <-outcome; err != nil {
			t.Error(err)
		}
		if s := j.Status(); s.Waiting != nil {
			t.Errorf("appends still wait: %v", s.Waiting)
		}
		if got := contents(t, j); len(got) != 2 {
			t.Errorf("%d batches are there, want 2", len(got))
		}
	})
}

// TestReadOnlyServerIsWaitedFor is what is left of a primary after a failover.
func TestReadOnlyServerIsWaitedFor(t *testing.T) {
	url := dbtest.Postgres(t)
	var d diary
	j := mustOpen(t, url, sqldb.Options{Logger: d.logger()})
	mustAppend(t, j, batch(1, 1, "the writer"))
	db := client(t, url)
	var name string
	if err := db.QueryRowContext(t.Context(), "SELECT current_database()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "ALTER DATABASE "+name+" SET default_transaction_read_only = on")
	dbtest.Cut(t, url)
	outcome := start(j, batch(2, 1, "the writer"))
	d.await(t, "appends wait")
	tx, err := client(t, url).BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "SET TRANSACTION READ WRITE")
	mustExec(t, tx, "ALTER DATABASE "+name+" RESET default_transaction_read_only")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-outcome; err != nil {
		t.Error(err)
	}
}
