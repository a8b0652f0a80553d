package outbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

func segmentSync(c vfs.Call) bool {
	return c.Op == vfs.OpSync && strings.Contains(c.Name, ".seg")
}

// TestFailedSyncIsFinal: nothing is acknowledged after a sync that failed, what
// was is still given out, and is there after the next start.
func TestFailedSyncIsFinal(t *testing.T) {
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(mem)
	o := mustOpen(t, "/d", Options{FS: faulty})
	mustPut(t, o, "a", "b")
	faulty.SetHook(vfs.FailNth(1, false, syscall.EIO, segmentSync))
	for i := range 3 {
		// The first one was written, and may be there.
		if _, err := o.Put(t.Context(), note("c")); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrUnknown) != (i == 0) {
			t.Errorf("put: %v", err)
		}
	}
	if err := o.PutAsync(t.Context(), note("d"), func(uint64, error) { t.Error("done") }); !errors.Is(err, syscall.EIO) {
		t.Errorf("put: %v", err)
	}
	if err := o.Err(); !errors.Is(err, syscall.EIO) {
		t.Errorf("err: %v", err)
	}
	wantBodies(t, mustTake(t, o, 2), "1 a", "2 b")
	if _, err := o.Take(t.Context(), 1); !errors.Is(err, syscall.EIO) {
		t.Errorf("take: %v", err)
	}
	o.Settle(1)
	mustClose(t, o)
	for _, percent := range []int{0, 100} {
		o := mustOpen(t, "/d", Options{FS: mem.CrashClone(percent, nil)})
		if got := mustTake(t, o, 2); string(got[0].Message.Body) != "a" || string(got[1].Message.Body) != "b" {
			t.Errorf("got %v", bodies(got))
		}
		mustClose(t, o)
	}
}

// TestPendingPutsFail holds a sync that then fails: all that wait behind it
// get its error.
func TestPendingPutsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem())
		o := mustOpen(t, "/d", Options{FS: faulty})
		release := make(chan struct{})
		faulty.SetHook(func(c vfs.Call) error {
			if segmentSync(c) {
				<-release
				return syscall.EIO
			}
			return nil
		})
		results := make(chan error, 2000)
		for range 2000 {
			go func() {
				_, err := o.Put(context.Background(), note("a"))
				results <- err
			}()
			synctest.Wait()
		}
		close(release)
		for range 2000 {
			if err := <-results; !errors.Is(err, syscall.EIO) {
				t.Fatalf("got %v", err)
			}
		}
		mustClose(t, o)
	})
}

// TestPutWhoseContextEnds tells what was not written from what may have been.
func TestPutWhoseContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		faulty := vfs.NewFaulty(mem)
		o := mustOpen(t, "/d", Options{FS: faulty})
		mustPut(t, o, "a")
		release := make(chan struct{})
		faulty.SetHook(func(c vfs.Call) error {
			if segmentSync(c) {
				<-release
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		const n = 12
		results := make(chan error, n)
		for i := range n {
			go func() {
				_, err := o.Put(ctx, note(fmt.Sprint(i)))
				results <- err
			}()
			synctest.Wait() // each is a batch, until as many are under way as may be
		}
		cancel()
		unknown, not := 0, 0
		for range n {
			switch err := <-results; {
			case errors.Is(err, ErrUnknown) && errors.Is(err, context.Canceled):
				unknown++
			case errors.Is(err, ErrFull) && errors.Is(err, context.Canceled):
				not++
			default:
				t.Errorf("got %v", err)
			}
		}
		close(release)
		mustClose(t, o)
		o = mustOpen(t, "/d", Options{FS: mem})
		if s := o.Stats(); unknown == 0 || not == 0 || s.Messages != int64(1+unknown) {
			t.Errorf("%d are unknown, %d are not stored, and %d are there", unknown, not, s.Messages-1)
		}
		mustClose(t, o)
	})
}

// TestMaxBytes fills an outbox, and makes room by settling.
func TestMaxBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := mustOpen(t, "/d", Options{FS: noBallast{vfs.NewMem()}, MaxBytes: 1 << 20})
		stored := 0
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := o.Put(ctx, note(text(1, 10_000)))
			cancel()
			if err != nil {
				if !errors.Is(err, ErrFull) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				break
			}
			stored++
		}
		if s := o.Stats(); s.Bytes > s.MaxBytes || stored < 95 || s.Messages != int64(stored) {
			t.Errorf("%d messages, %+v", stored, s)
		}
		waiting := make(chan error, 1)
		go func() {
			_, err := o.Put(t.Context(), note("behind"))
			for range 10 {
				if err == nil {
					_, err = o.Put(t.Context(), note(text(1, 10_000)))
				}
			}
			waiting <- err
		}()
		for _, e := range mustTake(t, o, stored) {
			o.Settle(e.Seq)
		}
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		if s := o.Stats(); s.Messages != 11 {
			t.Errorf("%+v", s)
		}
		if _, err := o.Put(t.Context(), note(text(1, 600_000))); !errors.Is(err, ErrTooLarge) {
			t.Errorf("got %v", err)
		}
		mustClose(t, o)
	})
}

// TestSettledSpaceIsFreed: what fills the outbox is in the newest segment, which
// cannot be dropped, and all of it is settled.
func TestSettledSpaceIsFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := mustOpen(t, "/d", Options{FS: noBallast{vfs.NewMem()}, MaxBytes: 1 << 20, segmentBytes: 1 << 30})
		for range 50 {
			o.Settle(mustPut(t, o, text(1, 200_000)))
		}
		if s := o.Stats(); s.Messages != 0 || s.Bytes > s.MaxBytes {
			t.Errorf("%+v", s)
		}
		mustClose(t, o)
	})
}

// TestStragglerKeepsItsSegmentOnly leaves the first message unsettled.
func TestStragglerKeepsItsSegmentOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		options := Options{FS: noBallast{mem}, MaxBytes: 1 << 20}
		o := mustOpen(t, "/d", options)
		mustPut(t, o, "first")
		for range 1000 {
			o.Settle(mustPut(t, o, text(1, 10_000)))
		}
		synctest.Wait()
		segments, err := o.journal.Segments(t.Context())
		if err != nil || len(segments) > 3 {
			t.Errorf("%d segments hold one message: %v", len(segments), err)
		}
		mustClose(t, o)
		o = mustOpen(t, "/d", options)
		wantBodies(t, mustTake(t, o, 1), "1 first")
		empty(t, o)
		mustClose(t, o)
	})
}

// TestFullDisk: Put waits and fails as its context says, settlements are
// written and free space, and then it goes on.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		o := mustOpen(t, "/d", Options{FS: mem, MaxBytes: 16 << 20})
		mem.SetSpace(6 << 20)
		stored := 0
		put := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := o.Put(ctx, note(text(1, 50_000)))
			return err
		}
		var err error
		for err == nil {
			if err = put(); err == nil {
				stored++
			}
		}
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrFull) {
			t.Errorf("got %v", err)
		}
		if err := put(); !errors.Is(err, ErrFull) {
			t.Errorf("got %v", err)
		}
		if o.Err() != nil {
			t.Errorf("a full disk is not a failure: %v", o.Err())
		}
		for _, e := range mustTake(t, o, stored) {
			o.Settle(e.Seq)
		}
		waited := time.Now()
		if _, err := o.Put(t.Context(), note("after")); err != nil {
			t.Error(err)
		}
		if d := time.Since(waited); d > time.Minute {
			t.Errorf("it took %v", d)
		}
		for range 20 {
			if err := put(); err != nil {
				t.Error(err)
			}
		}
		mustClose(t, o)
		mem.SetSpace(1 << 40)
		o = mustOpen(t, "/d", Options{FS: mem})
		if s := o.Stats(); s.Messages < 21 || s.Messages > 23 {
			t.Errorf("%+v", s)
		}
		mustClose(t, o)
	})
}

// TestCloseOnAFullDisk does not wait for space.
func TestCloseOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		o := mustOpen(t, "/d", Options{FS: mem})
		mustPut(t, o, "a")
		mem.SetSpace(0)
		failed := make(chan error, 10)
		for i := range 10 {
			go func() {
				_, err := o.Put(context.Background(), note(text(uint64(i), 100_000)))
				failed <- err
			}()
			synctest.Wait()
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		for range 10 {
			if err := <-failed; !errors.Is(err, ErrClosed) && !errors.Is(err, journal.ErrClosed) {
				t.Errorf("got %v", err)
			}
		}
	})
}

// TestDamageIsNotSkipped flips a byte of a message on disk.
func TestDamageIsNotSkipped(t *testing.T) {
	mem := vfs.NewMem()
	options := Options{FS: mem, segmentBytes: 5000, cacheBytes: 1}
	o := mustOpen(t, "/d", options)
	for i := range uint64(30) {
		mustPut(t, o, text(i, 1000))
	}
	f, err := mem.OpenWrite("/d/0000000000000002.seg")
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], 1500); err != nil {
		t.Fatal(err)
	}
	b[0]++
	if _, err := f.WriteAt(b[:], 1500); err != nil {
		t.Fatal(err)
	}
	for _, again := range []bool{false, true} {
		n := 0
		for err = nil; err == nil && n < 30; n++ {
			_, err = o.Take(t.Context(), 1)
		}
		var corrupt *journal.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(corrupt.File, "0000000000000002.seg") || again && n > 1 {
			t.Errorf("took %d, %v", n, err)
		}
	}
	if _, put := o.Put(t.Context(), note("a")); o.Err() == nil || !errors.Is(put, o.Err()) {
		t.Errorf("put: %v, err: %v", put, o.Err())
	}
	o.Settle(1)
	mustClose(t, o)
	o = mustOpen(t, "/d", options)
	if s := o.Stats(); s.Messages != 29 {
		t.Errorf("%+v", s)
	}
	mustClose(t, o)
}

func TestJournalOfSomethingElse(t *testing.T) {
	mem := vfs.NewMem()
	o := mustOpen(t, "/d", Options{FS: mem})
	done := make(chan error, 1)
	o.journal.Append(journal.Batch{Position: 1, Segment: 1, Checkpoint: 1, Head: []byte("\x09something")}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	mustClose(t, o)
	if _, err := Open("/d", Options{FS: mem, Logger: quiet}); !errors.Is(err, errRecord) {
		t.Errorf("got %v", err)
	}
	if n := mem.OpenFiles(); n != 0 {
		t.Errorf("%d files are open", n)
	}
	if _, err := mem.OpenRead("/d/" + refusedName); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestNothingIsTakenBeforeItIsStored holds the sync of what is being put.
func TestNothingIsTakenBeforeItIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := vfs.NewFaulty(vfs.NewMem())
		o := mustOpen(t, "/d", Options{FS: faulty})
		mustPut(t, o, "a")
		wantBodies(t, mustTake(t, o, 1), "1 a")
		release := make(chan struct{})
		faulty.SetHook(func(c vfs.Call) error {
			if segmentSync(c) {
				<-release
			}
			return nil
		})
		stored, taken := make(chan error, 1), make(chan []Entry, 1)
		go func() {
			_, err := o.Put(t.Context(), note("b"))
			stored <- err
		}()
		go func() {
			entries, err := o.Take(t.Context(), 1)
			if err != nil {
				t.Error(err)
			}
			taken <- entries
		}()
		synctest.Wait()
		select {
		case e := <-taken:
			t.Errorf("took %v", bodies(e))
		case err := <-stored:
			t.Errorf("stored: %v", err)
		default:
		}
		o.Settle(2) // nobody can have confirmed it
		close(release)
		if err := <-stored; err != nil {
			t.Error(err)
		}
		wantBodies(t, <-taken, "2 b")
		mustClose(t, o)
	})
}
