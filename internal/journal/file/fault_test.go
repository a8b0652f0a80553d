package file

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

// TestFailedWriteIsFinal makes each kind of operation fail, once and for ever.
func TestFailedWriteIsFinal(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpCreate, vfs.OpRename, vfs.OpSyncDir} {
		for _, forever := range []bool{false, true} {
			for n := 1; n <= 3; n++ {
				failOnce(t, op, forever, n)
			}
		}
	}
}

func failOnce(t *testing.T, op vfs.Op, forever bool, n int) {
	t.Helper()
	mem := newMem(t)
	faulty := vfs.NewFaulty(mem)
	j := mustOpen(t, faulty)
	faulty.SetHook(vfs.FailNth(n, forever, syscall.EIO, func(c vfs.Call) bool { return c.Op == op }))
	acked := uint64(0)
	var first error
	for p := uint64(1); p <= 12; p++ {
		err := appendAll(j, makeBatch(p, 1+p/4, 'a'))
		switch {
		case err == nil && first != nil:
			t.Fatalf("%s %d: position %d was acknowledged after %v", op, n, p, first)
		case err == nil:
			acked = p
		case first == nil:
			first = err
		case !errors.Is(err, first) || !errors.Is(err, syscall.EIO):
			t.Errorf("%s %d: got %v after %v", op, n, err, first)
		}
	}
	if first == nil {
		t.Fatalf("%s %d: nothing failed", op, n)
	}
	if err := j.Follow(context.Background(), acked); !errors.Is(err, syscall.EIO) {
		t.Errorf("%s %d: follow: got %v", op, n, err)
	}
	err := j.Close()
	if forever && op == vfs.OpSync && err != nil {
		t.Errorf("%s %d: close synced again: %v", op, n, err)
	}
	// The next start finds what was acknowledged.
	for _, percent := range []int{0, 100} {
		got, _, err := readAll(mem.CrashClone(percent, nil))
		if err != nil || uint64(len(got)) < acked {
			t.Errorf("%s %d: %d batches, %d were acknowledged, %v", op, n, len(got), acked, err)
		}
	}
}

// TestPendingAppendsFail holds a sync that then fails, with others behind it.
func TestPendingAppendsFail(t *testing.T) {
	faulty := vfs.NewFaulty(newMem(t))
	j := mustOpen(t, faulty)
	if err := appendAll(j, makeBatch(1, 1, 'a')); err != nil {
		t.Fatal(err)
	}
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	faulty.SetHook(func(c vfs.Call) error {
		if c.Op != vfs.OpSync {
			return nil
		}
		once.Do(func() { close(reached); <-release })
		return syscall.EIO
	})
	done := make(chan error, inFlight)
	for p := uint64(2); p < 2+inFlight; p++ {
		j.Append(makeBatch(p, 1, 'a'), func(err error) { done <- err })
	}
	<-reached
	select {
	case err := <-done:
		t.Fatalf("done before the sync returned: %v", err)
	default:
	}
	if head := j.tail.Head(); head != 1 {
		t.Errorf("the head is %d before the sync returned", head)
	}
	err := j.Replay(t.Context(), 0, 0, false, func(b journal.Batch) error {
		if b.Position > 1 {
			t.Errorf("position %d is shown before it is durable", b.Position)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	close(release)
	first := <-done
	for range inFlight - 1 {
		if err := <-done; !errors.Is(err, syscall.EIO) || !errors.Is(err, first) {
			t.Errorf("got %v and %v", first, err)
		}
	}
	mustClose(t, j)
}

// TestGroupCommit counts syncs: those who wait for one share the next.
func TestGroupCommit(t *testing.T) {
	faulty := vfs.NewFaulty(newMem(t))
	j := mustOpen(t, faulty)
	defer mustClose(t, j)
	if err := appendAll(j, makeBatch(1, 1, 'a')); err != nil {
		t.Fatal(err)
	}
	reached, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	syncs, writes := 0, 0
	faulty.SetHook(func(c vfs.Call) error {
		mu.Lock()
		defer mu.Unlock()
		switch c.Op {
		case vfs.OpWrite:
			writes++
		case vfs.OpSync:
			syncs++
			if syncs == 1 {
				close(reached)
				<-release
			}
		}
		return nil
	})
	done := make(chan error, inFlight)
	ack := func(err error) { done <- err }
	j.Append(makeBatch(2, 1, 'a'), ack)
	<-reached
	for p := uint64(3); p < 2+inFlight; p++ {
		j.Append(makeBatch(p, 1, 'a'), ack)
	}
	close(release)
	for range inFlight {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if syncs != 2 || writes != 2 {
		t.Errorf("%d appends took %d writes and %d syncs, want 2 of each", inFlight, writes, syncs)
	}
}

// TestNoSpace fills the medium, also in the middle of a write and while a
// segment is made, and then makes room.
func TestNoSpace(t *testing.T) {
	for _, lack := range []int64{0, 1, 100, 600} {
		for _, segment := range []uint64{1, 2} {
			synctest.Test(t, func(t *testing.T) { noSpace(t, lack, segment) })
		}
	}
}

func noSpace(t *testing.T, lack int64, segment uint64) {
	mem := newMem(t)
	j := mustOpen(t, mem)
	if err := appendAll(j, makeBatch(1, 1, 'a')); err != nil {
		t.Fatal(err)
	}
	free, total, err := mem.Free(testDir)
	if err != nil {
		t.Fatal(err)
	}
	used := total - free
	mem.SetSpace(used + lack)
	want := []journal.Batch{makeBatch(1, 1, 'a')}
	done := make(chan error, 10)
	// Large ones, so that what was written ahead is soon used up.
	for p := uint64(2); p <= 4; p++ {
		b := makeBatch(p, segment, 'a')
		b.Body = [][]byte{make([]byte, 40<<10), b.Body[0]}
		b.Body[0][0] = byte(p)
		want = append(want, b)
		j.Append(b, func(err error) { done <- err })
	}
	synctest.Wait()
	if s := j.Status(); !errors.Is(s.Waiting, syscall.ENOSPC) || s.Low == nil {
		t.Errorf("status is %+v while an append waits", s)
	}
	time.Sleep(time.Minute) // of the bubble: it goes on trying
	if s := j.Status(); s.Waiting == nil {
		t.Error("an append does not wait any more")
	}
	mem.SetSpace(used + 1<<20)
	for range 3 {
		if err := <-done; err != nil {
			t.Errorf("append: %v", err)
		}
	}
	if s := j.Status(); s.Waiting != nil {
		t.Errorf("status is %+v after the appends", s)
	}
	time.Sleep(ballastPause)
	b := makeBatch(5, segment, 'a')
	want = append(want, b)
	if err := appendAll(j, b); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if s := j.Status(); s.Low != nil {
		t.Errorf("status is %+v when there is room again", s)
	}
	mustClose(t, j)
	got, cut, err := readAll(mem.CrashClone(0, nil))
	if err == nil {
		err = compareAll(got, want)
	}
	if err != nil || cut != 0 {
		t.Errorf("%d bytes cut, %v", cut, err)
	}
}

// A reserve for which there is no room leaves what room there is to the journal.
func TestBallastThatDoesNotFitIsNotLeftBehind(t *testing.T) {
	mem := newMem(t)
	mem.SetSpace(64 << 10)
	j, err := Open(mem, testDir, Options{Logger: quiet, ballast: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if free, _, err := mem.Free(testDir); err != nil || free < 32<<10 {
		t.Errorf("%d bytes are free, %v", free, err)
	}
	if j.Status().Low == nil {
		t.Error("the medium is not called low")
	}
	mustClose(t, j)
}

// TestBallast is what the reserve is for: the small batch that leads to a
// segment being dropped.
func TestBallast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMem(t)
		j, err := Open(mem, testDir, Options{Logger: quiet, ballast: 4096})
		if err != nil {
			t.Fatal(err)
		}
		big := makeBatch(1, 1, 'a')
		big.Body = [][]byte{make([]byte, 100<<10)}
		if err := appendAll(j, big); err != nil {
			t.Fatal(err)
		}
		free, total, err := mem.Free(testDir)
		if err != nil {
			t.Fatal(err)
		}
		mem.SetSpace(total - free)
		if err := appendAll(j, makeBatch(2, 2, 'a')); err != nil {
			t.Fatalf("a small batch on a full medium: %v", err)
		}
		if s := j.Status(); s.Waiting != nil || s.Low == nil {
			t.Errorf("status is %+v on the reserve", s)
		}
		done := make(chan error, 1)
		big = makeBatch(3, 2, 'a')
		big.Body = [][]byte{make([]byte, 50<<10)}
		j.Append(big, func(err error) { done <- err })
		synctest.Wait()
		if s := j.Status(); s.Waiting == nil {
			t.Errorf("status is %+v while a large batch waits", s)
		}
		before := time.Now()
		if err := j.Drop(1); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("append after a drop: %v", err)
		}
		if waited := time.Since(before); waited != 0 {
			t.Errorf("the append waited %v after the drop", waited)
		}
		mustClose(t, j)
	})
}

func TestCloseEndsWaitForSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMem(t)
		j := mustOpen(t, mem)
		mem.SetSpace(0)
		done := make(chan error, 2)
		for p := uint64(1); p <= 2; p++ {
			j.Append(makeBatch(p, 1, 'a'), func(err error) { done <- err })
		}
		synctest.Wait()
		mustClose(t, j)
		for range 2 {
			if err := <-done; !errors.Is(err, journal.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
	})
}

// TestPartialWrite leaves a part of a group behind before there is no space,
// and power is lost then.
func TestPartialWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMem(t)
		faulty := vfs.NewFaulty(mem)
		j := mustOpen(t, faulty)
		if err := appendAll(j, makeBatch(1, 1, 'a')); err != nil {
			t.Fatal(err)
		}
		faulty.SetHook(func(c vfs.Call) error {
			if c.Op == vfs.OpWrite && c.Offset > 0 {
				return &vfs.ShortWrite{N: 100, Err: syscall.ENOSPC}
			}
			return nil
		})
		done := make(chan error, 1)
		j.Append(makeBatch(2, 1, 'a'), func(err error) { done <- err })
		synctest.Wait()
		left := mem.CrashClone(100, nil)
		got, cut, err := readAll(left)
		if err != nil || cut != 100 {
			t.Errorf("%d bytes cut, %v; want the 100 that were written", cut, err)
		}
		if err := compareAll(got, []journal.Batch{makeBatch(1, 1, 'a')}); err != nil {
			t.Error(err)
		}
		faulty.SetHook(nil)
		if err := <-done; err != nil {
			t.Error(err)
		}
		mustClose(t, j)
		got, cut, err = readAll(mem.CrashClone(0, nil))
		if err == nil {
			err = compareAll(got, []journal.Batch{makeBatch(1, 1, 'a'), makeBatch(2, 1, 'a')})
		}
		if err != nil || cut != 0 {
			t.Errorf("%d bytes cut, %v", cut, err)
		}
	})
}

// TestSealAfterAPartialWrite fills the medium so that a group is written, but
// only a part of the zeros behind it: the segment still ends with its seal.
func TestSealAfterAPartialWrite(t *testing.T) {
	mem := newMem(t)
	faulty := vfs.NewFaulty(mem)
	j := mustOpen(t, faulty)
	want := []journal.Batch{makeBatch(1, 1, 'a'), makeBatch(2, 2, 'a'), makeBatch(3, 2, 'a')}
	if err := appendAll(j, want[0]); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	faulty.SetHook(func(c vfs.Call) (err error) {
		if c.Op == vfs.OpWrite && c.Offset == fileHeaderSize {
			once.Do(func() { err = &vfs.ShortWrite{N: c.Length - 8, Err: syscall.ENOSPC} })
		}
		return err
	})
	if err := appendAll(j, want[1:]...); err != nil {
		t.Fatal(err)
	}
	next := makeBatch(4, 3, 'a')
	want = append(want, next)
	if err := appendAll(j, next); err != nil {
		t.Fatal(err)
	}
	err := j.Replay(t.Context(), 0, 0, false, func(journal.Batch) error { return nil })
	if err != nil {
		t.Errorf("read by the one that wrote it: %v", err)
	}
	mustClose(t, j)
	got, cut, err := readAll(mem.CrashClone(0, nil))
	if err == nil {
		err = compareAll(got, want)
	}
	if err != nil || cut != 0 {
		t.Errorf("%d bytes cut, %v", cut, err)
	}
}

// TestFailedDrop may be tried again, and counts only then.
func TestFailedDrop(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpRemove, vfs.OpSyncDir} {
		mem := newMem(t)
		faulty := vfs.NewFaulty(mem)
		j := mustOpen(t, faulty)
		if err := appendAll(j, makeBatch(1, 1, 'a'), makeBatch(2, 2, 'a')); err != nil {
			t.Fatal(err)
		}
		faulty.SetHook(vfs.FailNth(1, false, syscall.EIO, func(c vfs.Call) bool { return c.Op == op }))
		if err := j.Drop(1); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: got %v", op, err)
		}
		if s, _ := j.Segments(t.Context()); len(s) != 2 {
			t.Errorf("%s: %d segments after a drop that failed", op, len(s))
		}
		if err := j.Drop(1); err != nil {
			t.Errorf("%s: %v", op, err)
		}
		if s, _ := j.Segments(t.Context()); len(s) != 1 {
			t.Errorf("%s: %d segments after the drop", op, len(s))
		}
		got, _, err := readAll(mem.CrashClone(0, nil))
		if err == nil {
			err = compareAll(got, []journal.Batch{makeBatch(2, 2, 'a')})
		}
		if err != nil {
			t.Errorf("%s: %v", op, err)
		}
		mustClose(t, j)
	}
}
