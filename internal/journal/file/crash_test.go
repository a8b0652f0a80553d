package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
	"github.com/ferrymq/ferry/internal/vfs"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// small keeps tests fast.
var small = Options{Logger: quiet, ballast: 512, ahead: 256}

const testDir = "/d/journal"

func newMem(t testing.TB) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	m.Record()
	if err := m.MkdirAll(path.Dir(testDir)); err != nil {
		t.Fatal(err)
	}
	return m
}

func mustOpen(t testing.TB, fs vfs.FS) *Journal {
	t.Helper()
	j, err := Open(fs, testDir, small)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return j
}

// makeBatch makes up a batch; all follows from its position and salt.
func makeBatch(position, segment uint64, salt byte) journal.Batch {
	return journal.Batch{
		Position:   position,
		Epoch:      3 + position/4,
		Segment:    segment,
		Checkpoint: position / 2,
		Head:       fmt.Appendf(nil, "head of %d, %c", position, salt),
		Body:       [][]byte{bytes.Repeat([]byte{salt, byte(position)}, int(position*37%90)), []byte("end")},
	}
}

func appendAll(j *Journal, batches ...journal.Batch) error {
	done := make(chan error, len(batches))
	for _, b := range batches {
		j.Append(b, func(err error) { done <- err })
	}
	var first error
	for range batches {
		if err := <-done; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// A story is what was done to a file system, and after how many changes of it
// what was true.
type story struct {
	fs       *vfs.Mem
	batches  []journal.Batch // by position
	acked    []int           // by position: changes when done was called
	dropping map[uint64]int  // by segment: changes when Drop was called
	dropped  map[uint64]int  // and when it had returned
	least    uint64          // head that was told before
}

func (s *story) append(t *testing.T, j *Journal, segment uint64, count int) {
	t.Helper()
	at := len(s.batches)
	done := make(chan error, count)
	for range count {
		b := makeBatch(uint64(len(s.batches))+1, segment, 'a')
		s.batches = append(s.batches, b)
	}
	for _, b := range s.batches[at:] {
		j.Append(b, func(err error) {
			s.acked = append(s.acked, len(s.fs.History()))
			done <- err
		})
	}
	for range count {
		if err := <-done; err != nil {
			t.Fatalf("append: %v", err)
		}
	}
}

func (s *story) drop(t *testing.T, j *Journal, segment uint64) {
	t.Helper()
	s.dropping[segment] = len(s.fs.History())
	if err := j.Drop(segment); err != nil {
		t.Fatalf("drop: %v", err)
	}
	s.dropped[segment] = len(s.fs.History())
}

// tell does all that a journal can do, in a small way.
func tell(t *testing.T) *story {
	s := &story{fs: newMem(t), dropping: map[uint64]int{}, dropped: map[uint64]int{}}
	j := mustOpen(t, s.fs)
	s.append(t, j, 1, 1)
	s.append(t, j, 1, 3)
	s.append(t, j, 2, 2)
	s.append(t, j, 2, 1)
	if err := j.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	j = mustOpen(t, s.fs)
	s.append(t, j, 2, 1)
	s.append(t, j, 4, 1)
	s.drop(t, j, 1)
	s.append(t, j, 4, 2)
	s.append(t, j, 5, 1)
	s.drop(t, j, 4)
	s.append(t, j, 5, 1)
	if err := j.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	return s
}

// check opens what a crash during change n left, and compares.
func (s *story) check(fs vfs.FS, n int) error {
	j, err := Open(fs, testDir, small)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	head, err := s.compare(j, n)
	if err != nil {
		return errors.Join(err, j.Close())
	}
	segment := max(j.Info().Segment, 1)
	more := []journal.Batch{makeBatch(head+1, segment, 'b'), makeBatch(head+2, segment+1, 'b')}
	if err := appendAll(j, more...); err != nil {
		return errors.Join(fmt.Errorf("append after the crash: %w", err), j.Close())
	}
	if err := j.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	j, err = Open(fs, testDir, small)
	if err != nil {
		return fmt.Errorf("open once more: %w", err)
	}
	again := &story{batches: append(s.batches[:head:head], more...), acked: s.acked, dropping: s.dropping, dropped: s.dropped}
	last, err := again.compare(j, n)
	if err == nil && (last != head+2 || j.Info().Cut != 0) {
		err = fmt.Errorf("the head is %d after %d and two more; %d bytes were cut", last, head, j.Info().Cut)
	}
	return errors.Join(err, j.Close())
}

// compare checks a journal against the story up to change n; what came later
// may be there or not.
func (s *story) compare(j *Journal, n int) (head uint64, err error) {
	head = j.Info().Head
	if head > uint64(len(s.batches)) {
		return 0, fmt.Errorf("head is %d, only %d batches were appended", head, len(s.batches))
	}
	if head < s.least {
		return 0, fmt.Errorf("head is %d, it was %d when the journal was opened before", head, s.least)
	}
	found := make(map[uint64]bool)
	var refs []journal.Ref
	err = j.Replay(context.Background(), 0, 0, true, func(b journal.Batch) error {
		found[b.Position] = true
		want := s.batches[b.Position-1]
		refs = append(refs, journal.Ref{Position: b.Position, Length: uint32(want.BodySize())})
		return journaltest.Same(b, want)
	})
	if err != nil {
		return 0, fmt.Errorf("replay: %w", err)
	}
	bodies, err := j.ReadRefs(context.Background(), refs)
	if err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	for i, p := range bodies {
		if want := bytes.Join(s.batches[refs[i].Position-1].Body, nil); !bytes.Equal(p, want) {
			return 0, fmt.Errorf("position %d: another body was read", refs[i].Position)
		}
	}
	for i, b := range s.batches {
		acked := i < len(s.acked) && s.acked[i] <= n
		dropping, may := s.dropping[b.Segment]
		may = may && dropping <= n
		dropped, must := s.dropped[b.Segment]
		must = must && dropped <= n
		switch {
		case acked && b.Position > head:
			return 0, fmt.Errorf("position %d was acknowledged, but the head is %d", b.Position, head)
		case b.Position <= head && !found[b.Position] && !may:
			return 0, fmt.Errorf("position %d is missing", b.Position)
		case found[b.Position] && must:
			return 0, fmt.Errorf("position %d was dropped, but is there", b.Position)
		}
	}
	return head, nil
}

func TestPowerCut(t *testing.T) {
	s := tell(t)
	cuts := 0
	for n, c := range s.fs.History() {
		for keep := 0; keep <= len(c.Data); keep++ {
			// Zeros that are written ahead are all alike.
			if rest := c.Data[keep:]; keep > 0 && len(rest) > 0 && isZero(c.Data[keep-1:]) {
				continue
			}
			percents := []int{100}
			if keep == 0 || keep == len(c.Data) || keep%64 == 1 {
				percents = []int{0, 20, 50, 80, 100}
			}
			for _, percent := range percents {
				cuts++
				rng := rand.New(rand.NewPCG(uint64(n), uint64(keep*100+percent)))
				if err := s.check(s.fs.Cut(n, keep, percent, rng), n); err != nil {
					t.Fatalf("cut in change %d (%s %s at %d), after %d of %d bytes, %d %% of the unsynced kept: %v",
						n, c.Op, c.Name, c.Offset, keep, len(c.Data), percent, err)
				}
			}
		}
	}
	t.Logf("%d cuts in %d changes", cuts, len(s.fs.History()))
}

// TestPowerCutTwice cuts the recovery itself.
func TestPowerCutTwice(t *testing.T) {
	s := tell(t)
	for n, c := range s.fs.History() {
		for percent := range 5 {
			rng := rand.New(rand.NewPCG(uint64(n), uint64(percent)))
			left := s.fs.Cut(n, len(c.Data)/2, percent*25, rng)
			left.Record()
			j, err := Open(left, testDir, small)
			if err != nil {
				t.Fatalf("cut in change %d: %v", n, err)
			}
			head := j.Info().Head
			again := left.CrashClone(percent*25, rng)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			s.least = head
			if err := s.check(again, n); err != nil {
				t.Fatalf("cut in change %d, then after opening with head %d, %d %% kept: %v", n, head, percent*25, err)
			}
		}
	}
}

// TestKilledThenPowerCut is a process that is killed, one that opens the
// journal and tells what it found, and then a power cut.
func TestKilledThenPowerCut(t *testing.T) {
	s := tell(t)
	for n, c := range s.fs.History() {
		for keep := 0; keep <= min(len(c.Data), 700); keep += 100 {
			killed := s.fs.Killed(n, keep)
			j, err := Open(killed, testDir, small)
			if err != nil {
				t.Fatalf("killed in change %d: %v", n, err)
			}
			s.least = j.Info().Head
			if _, err := s.compare(j, n); err != nil {
				t.Fatalf("killed in change %d: %v", n, err)
			}
			left := killed.CrashClone(0, nil)
			mustClose(t, j)
			if err := s.check(left, n); err != nil {
				t.Fatalf("killed in change %d (%s %s), after %d bytes, opened with head %d, then without power: %v",
					n, c.Op, c.Name, keep, s.least, err)
			}
		}
	}
}

// TestEmptySegmentStaysAway kills the process when a segment was made and not
// used: what takes its place must not meet it again.
func TestEmptySegmentStaysAway(t *testing.T) {
	s := tell(t)
	for n, c := range s.fs.History() {
		if c.Op != vfs.OpSyncDir {
			continue
		}
		killed := s.fs.Killed(n+1, 0)
		j := mustOpen(t, killed)
		head, segment := j.Info().Head, max(j.Info().Segment, 1)
		if err := appendAll(j, makeBatch(head+1, segment, 'b')); err != nil {
			t.Fatal(err)
		}
		left := killed.CrashClone(0, nil)
		mustClose(t, j)
		j, err := Open(left, testDir, small)
		if err != nil {
			t.Fatalf("after change %d: %v", n, err)
		}
		if j.Info().Head != head+1 {
			t.Errorf("after change %d: the head is %d, want %d", n, j.Info().Head, head+1)
		}
		mustClose(t, j)
	}
}
