package outbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/vfs"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func mustOpen(t testing.TB, dir string, o Options) *Outbox {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet
	}
	b, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustClose(t testing.TB, o *Outbox) {
	t.Helper()
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}

func text(n uint64, size int) string {
	s := fmt.Sprintf("message %d ", n)
	return s + strings.Repeat(string(rune('a'+n%26)), max(0, size-len(s)))
}

func note(s string) *link.Message { return &link.Message{Key: "q", Body: []byte(s)} }

func mustPut(t testing.TB, o *Outbox, texts ...string) (last uint64) {
	t.Helper()
	for _, s := range texts {
		seq, err := o.Put(t.Context(), note(s))
		if err != nil {
			t.Fatal(err)
		}
		last = seq
	}
	return last
}

// mustTake takes n messages.
func mustTake(t testing.TB, o *Outbox, n int) []Entry {
	t.Helper()
	var all []Entry
	for len(all) < n {
		some, err := o.Take(t.Context(), n-len(all))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	return all
}

func bodies(entries []Entry) (list []string) {
	for _, e := range entries {
		list = append(list, fmt.Sprintf("%d %s", e.Seq, e.Message.Body))
	}
	return list
}

func wantBodies(t testing.TB, got []Entry, want ...string) {
	t.Helper()
	if g, w := strings.Join(bodies(got), "\n"), strings.Join(want, "\n"); g != w {
		t.Fatalf("got\n%s\nwant\n%s", g, w)
	}
}

// empty fails if there is something to take.
func empty(t testing.TB, o *Outbox) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if seq, end, err := o.takeable(); err != nil || seq != end {
		t.Errorf("messages %d to %d can be taken (%v), want none", seq, end, err)
	}
	if e, err := o.Take(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("took %v, %v", bodies(e), err)
	}
}

func TestWhatIsPutIsTakenInOrderAndAgainUntilItIsSettled(t *testing.T) {
	dir := t.TempDir() + "/outbox"
	o := mustOpen(t, dir, Options{})
	producer := o.Producer()
	if len(producer) != 16 || strings.Trim(producer, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		t.Errorf("the producer is %q", producer)
	}
	if last := mustPut(t, o, "a", "b", "c", "d"); last != 4 {
		t.Errorf("the last is number %d", last)
	}
	got := mustTake(t, o, 4)
	wantBodies(t, got, "1 a", "2 b", "3 c", "4 d")
	if got[0].Recovered {
		t.Error("a new message is recovered")
	}
	empty(t, o)
	o.Settle(1)
	o.Settle(3)
	o.Settle(3)
	o.Settle(99)
	if s := o.Stats(); s.Messages != 2 || s.Bytes == 0 || s.MaxBytes != 1<<30 || time.Since(s.Oldest) > time.Minute {
		t.Errorf("%+v", s)
	}
	mustClose(t, o)

	o = mustOpen(t, dir, Options{})
	defer mustClose(t, o)
	if o.Producer() != producer {
		t.Errorf("the producer was %s and is %s", producer, o.Producer())
	}
	if s := o.Stats(); s.Messages != 2 || time.Since(s.Oldest) > time.Minute {
		t.Errorf("%+v", s)
	}
	if last := mustPut(t, o, "e"); last != 5 {
		t.Errorf("number %d, want 5", last)
	}
	got = mustTake(t, o, 3)
	wantBodies(t, got, "2 b", "4 d", "5 e")
	if !got[1].Recovered || got[2].Recovered {
		t.Error("recovered is not what was there at the start")
	}
}

func TestAnotherProcessIsTold(t *testing.T) {
	fs := vfs.NewMem()
	o := mustOpen(t, "/d", Options{FS: fs})
	defer mustClose(t, o)
	_, err := Open("/d", Options{FS: fs, Logger: quiet})
	if !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), "outbox /d is used by another process") {
		t.Errorf("got %v", err)
	}
}

func TestClosedOutbox(t *testing.T) {
	o := mustOpen(t, "/d", Options{FS: vfs.NewMem()})
	mustPut(t, o, "a")
	taken := make(chan error, 1)
	go func() {
		_, err := o.Take(context.Background(), 1)
		if err == nil {
			_, err = o.Take(context.Background(), 1)
		}
		taken <- err
	}()
	mustClose(t, o)
	if err := <-taken; !errors.Is(err, ErrClosed) {
		t.Errorf("take: %v", err)
	}
	if _, err := o.Put(t.Context(), note("b")); !errors.Is(err, ErrClosed) {
		t.Errorf("put: %v", err)
	}
	if err := o.Refuse(1, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("refuse: %v", err)
	}
	o.Settle(1)
	mustClose(t, o)
}

// TestLargeMessages spreads messages over batches, and takes them from memory
// and from disk.
func TestLargeMessages(t *testing.T) {
	dir := t.TempDir()
	o := mustOpen(t, dir, Options{})
	sizes := []int{0, 1, 100, partBytes - 20, partBytes + 1, 3*partBytes - 1, MaxBody, 5}
	var want []string
	for i, size := range sizes {
		s := text(uint64(i), size)[:size]
		want = append(want, fmt.Sprintf("%d %s", i+1, s))
		mustPut(t, o, s)
	}
	same := func(o *Outbox) {
		t.Helper()
		for i, got := range bodies(mustTake(t, o, len(want))) {
			if got != want[i] {
				t.Errorf("message %d has another body: %d bytes, want %d", i, len(got), len(want[i]))
			}
		}
	}
	same(o)
	if _, err := o.Put(t.Context(), &link.Message{Body: make([]byte, MaxBody+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if _, err := o.Put(t.Context(), &link.Message{Type: strings.Repeat("x", MaxFields)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	mustClose(t, o)
	o = mustOpen(t, dir, Options{})
	same(o)
	mustClose(t, o)
}

func TestPutAsyncReportsInOrder(t *testing.T) {
	o := mustOpen(t, t.TempDir(), Options{})
	const n = 5000
	done := make(chan uint64, n)
	for i := range uint64(n) {
		err := o.PutAsync(t.Context(), note(text(i, 50)), func(seq uint64, err error) {
			if err != nil {
				t.Error(err)
			}
			done <- seq
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, o)
	for i := range uint64(n) {
		if seq := <-done; seq != i+1 {
			t.Fatalf("%d was reported where %d must be", seq, i+1)
		}
	}
}

func TestWhatCannotBeEncodedIsRefusedByPut(t *testing.T) {
	o := mustOpen(t, "/d", Options{FS: vfs.NewMem()})
	defer mustClose(t, o)
	m := note("a")
	m.Headers = map[string]any{"n": uint64(1)}
	if _, err := o.Put(t.Context(), m); err == nil || !strings.Contains(err.Error(), `header "n": a header cannot hold a value of type uint64`) {
		t.Errorf("got %v", err)
	}
	if s := o.Stats(); s.Messages != 0 {
		t.Errorf("%+v", s)
	}
}
