package sqldb_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

// lease is short: what waits in the database waits for a part of it.
const lease = 2 * time.Second

func long() bool { return os.Getenv("FERRY_LONG") == "1" }

func mustOpen(t testing.TB, rawURL string, o sqldb.Options) *sqldb.Journal {
	t.Helper()
	if o.Lease == 0 {
		o.Lease = lease
	}
	j, err := sqldb.Open(context.Background(), rawURL, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return j
}

// client is a plain client of the database of a URL, for looking at the tables.
func client(t testing.TB, rawURL string) *sql.DB {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	var db *sql.DB
	if u.Scheme == "mysql" {
		c := mysql.NewConfig()
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
		c.Net, c.Addr, c.DBName, c.MultiStatements = "tcp", u.Host, strings.TrimPrefix(u.Path, "/"), true
		connector, err := mysql.NewConnector(c)
		if err != nil {
			t.Fatal(err)
		}
		db = sql.OpenDB(connector)
	} else if db, err = sql.Open("pgx", rawURL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func mustExec(t testing.TB, db interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}, query string,
) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// batch makes up a batch; who tells batches of one position apart.
func batch(position, epoch uint64, who string) journal.Batch {
	return journal.Batch{
		Position: position, Epoch: epoch, Segment: 1 + position/100,
		Head: fmt.Appendf(nil, "head %d of %s, it's \\ %d", position, who, epoch),
		Body: [][]byte{[]byte("body"), bytes.Repeat([]byte{byte(position), '\'', '\\', 0}, int(position%50))},
	}
}

// start begins an append; what becomes of it comes by the channel.
func start(j journal.Journal, b journal.Batch) <-chan error {
	done := make(chan error, 1)
	j.Append(b, func(err error) { done <- err })
	return done
}

func try(j journal.Journal, b journal.Batch) error { return <-start(j, b) }

func mustAppend(t testing.TB, j journal.Journal, batches ...journal.Batch) {
	t.Helper()
	for _, b := range batches {
		if err := try(j, b); err != nil {
			t.Fatalf("append at position %d: %v", b.Position, err)
		}
	}
}

// contents are the batches of a journal, with their bodies.
func contents(t testing.TB, j journal.Journal) []journal.Batch {
	t.Helper()
	var all []journal.Batch
	err := j.Replay(t.Context(), 0, 0, true, func(b journal.Batch) error {
		b.Head, b.Body = bytes.Clone(b.Head), [][]byte{bytes.Join(b.Body, nil)}
		all = append(all, b)
		return nil
	})
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	return all
}

// A diary is a log whose lines can be waited for.
type diary struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wrote != nil {
		close(d.wrote)
		d.wrote = nil
	}
	return d.text.Write(p)
}

func (d *diary) logger() *slog.Logger { return slog.New(slog.NewTextHandler(d, nil)) }

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

// await waits until something was written.
func (d *diary) await(t testing.TB, what string) {
	t.Helper()
	for {
		d.mu.Lock()
		if strings.Contains(d.text.String(), what) {
			d.mu.Unlock()
			return
		}
		if d.wrote == nil {
			d.wrote = make(chan struct{})
		}
		wrote := d.wrote
		d.mu.Unlock()
		select {
		case <-wrote:
		case <-t.Context().Done():
			t.Fatalf("%q was not written: %s", what, d)
		}
	}
}

// A wire is a way to a database that breaks where a test says.
type wire struct {
	url      string
	listener net.Listener
	to       string
	all      sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	// After so many bytes more that way all connections are cut, or stand still;
	// -1: never.
	up, down int
	sent     [2]int        // bytes passed up and down
	still    bool          // stand still rather than cut
	stopped  chan struct{} // closed by release; nil while nothing stands still
	hit      chan struct{} // closed when it happens
}

func newWire(t testing.TB, rawURL string) *wire {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{to: u.Host, conns: map[net.Conn]struct{}{}, up: -1, down: -1}
	if w.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u.Host = w.listener.Addr().String()
	w.url = u.String()
	w.all.Go(w.accept)
	t.Cleanup(func() {
		if err := w.listener.Close(); err != nil {
			t.Error(err)
		}
		w.release()
		w.cut()
		w.all.Wait()
	})
	return w
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		w.conns[near], w.conns[far] = struct{}{}, struct{}{}
		w.mu.Unlock()
		w.all.Go(func() { w.pump(far, near, &w.up, &w.sent[0]) })
		w.all.Go(func() { w.pump(near, far, &w.down, &w.sent[1]) })
	}
}

// pump passes bytes on until one of the two ends.
func (w *wire) pump(to, from net.Conn, left, sent *int) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for p := buf[:n]; len(p) > 0; {
			m, gate := w.pass(len(p), left, sent)
			if _, err := to.Write(p[:m]); err != nil && gate == nil {
				return
			}
			p = p[m:]
			if gate != nil {
				<-gate
			}
		}
		if err != nil {
			return
		}
	}
}

// pass takes up to n bytes, and tells what must be waited for behind them.
func (w *wire) pass(n int, left, sent *int) (taken int, gate <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { *sent += taken }()
	if w.stopped != nil {
		return 0, w.stopped
	}
	if *left < 0 || n < *left {
		if *left > 0 {
			*left -= n
		}
		return n, nil
	}
	n = *left
	w.up, w.down = -1, -1
	close(w.hit)
	if w.still {
		w.stopped = make(chan struct{})
		return n, w.stopped
	}
	// What is taken goes out before the end.
	ended := make(chan struct{})
	w.all.Go(func() {
		w.cut()
		close(ended)
	})
	return n, ended
}

// passed is how many bytes went to the server and came from it.
func (w *wire) passed() (up, down int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[0], w.sent[1]
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
	clear(w.conns)
}

// cutAfter lets so many bytes more through, -1 without limit, and cuts. The channel
// is closed then.
func (w *wire) cutAfter(up, down int) <-chan struct{} { return w.arm(up, down, false) }

// stopAfter lets so many bytes more through to the server, and nothing from then
// until release, in whichever connection. It is what others see of a client that is
// stopped.
func (w *wire) stopAfter(up int) <-chan struct{} { return w.arm(up, -1, true) }

func (w *wire) arm(up, down int, still bool) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up, w.down, w.still, w.hit = up, down, still, make(chan struct{})
	return w.hit
}

func (w *wire) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped != nil {
		close(w.stopped)
		w.stopped = nil
	}
	w.up, w.down = -1, -1
}

func isConflict(err error) bool {
	var conflict *journal.ConflictError
	return errors.As(err, &conflict)
}
