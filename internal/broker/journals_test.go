package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
	"github.com/ferrymq/ferry/internal/vfs"
)

// journals are those of one kind.
type journals struct {
	name string
	// prepare makes an empty medium and returns what opens the journal on it, as
	// often as the broker is started. nil: a file journal on fs.
	prepare func(t testing.TB) (open func() (journal.Journal, error))
}

// What is about durability is tested on each of these.
var (
	onFiles    = journals{name: "file"}
	onMemory   = journals{name: "memory", prepare: lastingMemory}
	onPostgres = journals{name: "postgres", prepare: inDatabase(dbtest.KindPostgres)}
	onMariaDB  = journals{name: "mariadb", prepare: inDatabase(dbtest.KindMariaDB)}
)

func everyJournal() []journals { return []journals{onMemory, onFiles, onPostgres, onMariaDB} }

// some is how often something is done: on files, which are fast, more often than
// where each time costs a commit.
func (on journals) some(onFiles, elsewhere int) int {
	if on.prepare == nil || long {
		return onFiles
	}
	return elsewhere
}

// inDatabase prepares a journal of a new name in a database of a kind.
func inDatabase(kind string) func(testing.TB) func() (journal.Journal, error) {
	return func(t testing.TB) func() (journal.Journal, error) {
		url, name := dbtest.Common(t, kind), fmt.Sprintf("journal %d", journalNumber.Add(1))
		return func() (journal.Journal, error) { return openDatabase(url, name) }
	}
}

var journalNumber atomic.Uint64

// openTimeout is for how long a database is tried, on a machine that is busy.
const openTimeout = 30 * time.Second

func openDatabase(url, name string) (journal.Journal, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	for {
		j, err := sqldb.Open(ctx, url, sqldb.Options{Name: name, Logger: discard})
		if err == nil {
			return j, nil
		}
		if !sqldb.IsTemporary(err) || ctx.Err() != nil {
			return nil, err
		}
	}
}

// eachJournal runs a test over every kind of journal.
func eachJournal(t *testing.T, run func(t *testing.T, on journals)) {
	for _, on := range everyJournal() {
		t.Run(on.name, func(t *testing.T) { run(t, on) })
	}
}

// world is a broker over such a journal, for a test.
func (on journals) world(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := on.empty(t)
	w.start(change...)
	t.Cleanup(w.stop)
	return w
}

// empty is a world that was not started.
func (on journals) empty(t testing.TB) *world {
	if on.prepare == nil {
		return &world{t: t, fs: vfs.NewMem(), wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
	}
	return &world{t: t, open: on.prepare(t)}
}

// A lasting journal in memory outlives its broker, not the process.
type lasting struct {
	*memory.Journal
	found journal.Info

	mu   sync.Mutex
	last journal.Batch // the last one that is not superseded
}

func lastingMemory(t testing.TB) func() (journal.Journal, error) {
	m := &lasting{Journal: memory.New(memory.Options{})}
	t.Cleanup(func() {
		if err := m.Journal.Close(); err != nil {
			t.Error(err)
		}
	})
	return func() (journal.Journal, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.found = m.Journal.Info()
		m.found.Head, m.found.Epoch, m.found.Segment, m.found.Checkpoint = m.last.Position, m.last.Epoch, m.last.Segment, m.last.Checkpoint
		return m, nil
	}
}

func (m *lasting) Info() journal.Info { return m.found }

func (m *lasting) Append(b journal.Batch, done func(error)) {
	m.mu.Lock()
	m.last = journal.Batch{Position: b.Position, Epoch: b.Epoch, Segment: b.Segment, Checkpoint: b.Checkpoint}
	m.mu.Unlock()
	m.Journal.Append(b, done)
}

func (m *lasting) Close() error { return nil }

// A tape is the history of a journal, by whatever brokers.
type tape struct {
	mu      sync.Mutex
	changes []step
}

// A step is a batch that was made durable, or a segment that was dropped.
type step struct {
	batch journal.Batch // position 0: none
	drop  uint64
}

func (p *tape) add(s step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes = append(p.changes, s)
}

func (p *tape) history() []step {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clip(p.changes)
}

func (p *tape) drops() (n int) {
	for _, s := range p.history() {
		if s.batch.Position == 0 {
			n++
		}
	}
	return n
}

// play does it all to another journal.
func (p *tape) play(j journal.Journal, until int) error {
	var appends sync.WaitGroup
	outcomes := make([]error, until)
	for i, s := range p.history()[:until] {
		if s.batch.Position > 0 {
			appends.Add(1)
			j.Append(s.batch, func(err error) {
				outcomes[i] = err
				appends.Done()
			})
			continue
		}
		appends.Wait()
		outcomes[i] = j.Drop(s.drop)
	}
	appends.Wait()
	return errors.Join(outcomes...)
}

// A taped journal writes down what becomes of it.
type taped struct {
	journal.Journal
	tape *tape
}

func (j *taped) Append(b journal.Batch, done func(error)) {
	kept := b
	kept.Head, kept.Body = bytes.Clone(b.Head), [][]byte{bytes.Join(b.Body, nil)}
	j.Journal.Append(b, func(err error) {
		if err == nil {
			j.tape.add(step{batch: kept})
		}
		done(err)
	})
}

func (j *taped) Drop(segment uint64) error {
	err := j.Journal.Drop(segment)
	if err == nil {
		j.tape.add(step{drop: segment})
	}
	return err
}

// TestCrashBetweenBatches starts brokers on what a crash leaves of a journal for
// which a batch is there or is not: any first part of its history.
func TestCrashBetweenBatches(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.empty(t)
		s := &story{world: w, tape: &tape{}, ids: map[string]int{}}
		plain := *w
		w.open = tapedBy(s.tape, plain.openJournal)
		s.start(tiny)
		s.tell()
		history := s.tape.history()
		if s.tape.drops() == 0 {
			t.Fatal("nothing was dropped in the story")
		}
		step := max(1, len(history)/on.some(30, 5))
		if long {
			step = 1
		}
		t.Logf("%d batches and drops", len(history))
		for at := len(history) % step; at <= len(history); at += step {
			if err := s.crashOn(on.empty(t), at); err != nil {
				t.Fatalf("crash after %d of %d batches and drops: %v", at, len(history), err)
			}
		}
	})
}

func tapedBy(p *tape, open func() (journal.Journal, error)) func() (journal.Journal, error) {
	return func() (journal.Journal, error) {
		j, err := open()
		if err != nil {
			return nil, err
		}
		return &taped{j, p}, nil
	}
}

// crashOn plays a story up to a time on an empty journal, checks what a broker has
// then, and goes on with it, twice.
func (s *story) crashOn(w *world, at int) error {
	j, err := w.openJournal()
	if err != nil {
		return err
	}
	if err := errors.Join(s.tape.play(j, at), j.Close()); err != nil {
		return err
	}
	if err := w.tryStart(tiny); err != nil {
		return err
	}
	if err := s.check(w, at); err != nil {
		return errors.Join(err, w.tryStop())
	}
	queue, texts, err := goOn(w, 0)
	if err := errors.Join(err, w.tryStop()); err != nil {
		return err
	}
	if err := w.tryStart(tiny); err != nil {
		return err
	}
	c := w.client()
	all, err := w.found(c)
	c.Close()
	if got := all[queue]; err == nil && !slices.Equal(got[max(len(got)-len(texts), 0):], texts) {
		err = errors.New("what was confirmed after the crash is not there")
	}
	return errors.Join(err, w.b.Close(context.Background()), w.j.Close())
}

// TestKilledWhileItWrites cuts a broker off from its database, for which it then is
// as good as dead, while appends are on their way. The next one has what was
// confirmed, and of what was not a part without a gap. When the first one is back it
// confirms nothing any more.
func TestKilledWhileItWrites(t *testing.T) {
	for _, kind := range []string{dbtest.KindPostgres, dbtest.KindMariaDB} {
		t.Run(kind, func(t *testing.T) {
			url, name := dbtest.Common(t, kind), fmt.Sprintf("journal %d", journalNumber.Add(1))
			wire := dbtest.NewWire(t, url)
			old := &world{t: t, open: func() (journal.Journal, error) { return openDatabase(wire.URL, name) }}
			old.start()
			c := old.client().confirming()
			c.queue("q", true)
			const n = 2000
			for i := range n {
				c.publish("", "q", noteText(i, 500), true)
			}
			for c.told() < n/4 {
				c.next(EventConfirm)
			}
			wire.Cut()
			c.publish("", "q", noteText(n, 500), true) // so that there is something to write
			next := &world{t: t, open: func() (journal.Journal, error) { return openDatabase(url, name) }}
			// What was on its way may land while the next one opens: it tries again then.
			err := next.tryStart()
			for conflict := (*journal.ConflictError)(nil); errors.As(err, &conflict); {
				err = next.tryStart()
			}
			if err != nil {
				t.Fatal(err)
			}
			defer next.stop()
			told := c.told() // nothing is behind the cut
			wire.Mend()
			select {
			case <-old.b.Failed():
			case <-time.After(openTimeout):
				t.Fatalf("the old broker, which was told of %d, does not fail; its journal is %+v", told, old.j.Status())
			}
			if !errors.Is(old.b.Cause(), journal.ErrFenced) {
				t.Errorf("the old broker ended with %v, want that it is fenced", old.b.Cause())
			}
			if more := c.told(); more != told {
				t.Errorf("the old broker confirmed %d, and %d when there was another", told, more)
			}
			c.Close()
			if err := old.b.Close(context.Background()); err == nil {
				t.Error("a broker that was fenced closes well")
			}
			if err := old.j.Close(); err != nil {
				t.Errorf("close: %v", err)
			}

			d := next.client().confirming()
			defer d.Close()
			d.publish("", "q", "next", true)
			d.confirmed()
			d.consume("q", "t", true)
			kept := 0
			for e := d.next(EventDelivery); body(e) != "next"; e = d.next(EventDelivery) {
				if got := body(e); got != noteText(kept, 500) || !e.Redelivered {
					t.Fatalf("got %.20q, want number %d", got, kept)
				}
				kept++
			}
			if uint64(kept) < told || kept > n {
				t.Errorf("%d messages are there, %d were confirmed, %d were sent before the cut", kept, told, n)
			}
			t.Logf("of %d messages %d were confirmed, %d are there", n, told, kept)
		})
	}
}
