// Package journaltest holds the tests that every journal passes.
package journaltest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
)

// A Harness tells how to open the journals under test.
type Harness struct {
	// New prepares an empty medium, and returns what opens the journal on it:
	// the first call finds nothing, a later one what was closed before.
	New func(t *testing.T) (open func() (journal.Journal, error))

	// Volatile says that nothing survives Close.
	Volatile bool
	// Exclusive says that a second Open of the same medium is ErrLocked.
	Exclusive bool
	// Shared says that open may be called while what it opened before is open.
	Shared bool
}

// Run runs all tests.
func Run(t *testing.T, h Harness) {
	tests := []struct {
		name    string
		durable bool // it opens the journal again
		run     func(f *fixture)
	}{
		{"an empty journal", false, testEmpty},
		{"positions, heads and bodies come back", false, testRoundTrip},
		{"done is called in order", false, testOrder},
		{"an append elsewhere conflicts and changes nothing", false, testConflict},
		{"a batch that is too large is refused alone", false, testTooLarge},
		{"the largest batch", false, testLargest},
		{"a segment does not go back", false, testSegmentBack},
		{"a replay leaves out superseded batches", true, testEpochs},
		{"a replay of a range", false, testRange},
		{"a replay ends with the visitor's error", false, testVisitError},
		{"a replay ends with its context", false, testReplayContext},
		{"refs in any order, twice, empty and whole", false, testRefs},
		{"refs outside of a body or of the log", false, testBadRefs},
		{"a dropped segment is gone, also after opening again", true, testDrop},
		{"the newest segment is not dropped", false, testDropNewest},
		{"positions go on after all else was dropped", true, testHeadStays},
		{"segments tell their positions", true, testSegments},
		{"opening again finds what was closed", true, testReopen},
		{"buffers belong to the caller after done", true, testBuffers},
		{"follow waits for a position", false, testFollow},
		{"close lets appends finish and refuses later ones", false, testClose},
		{"syncs are measured, if they are", false, testMeasures},
		{"append, read, replay, drop and follow at once", false, testTogether},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.durable && h.Volatile {
				// The part before opening again is what counts.
				test.run(&fixture{T: t, open: h.New(t), volatile: true})
				return
			}
			test.run(&fixture{T: t, open: h.New(t)})
		})
	}
	for _, test := range sharedTests {
		if h.Shared {
			t.Run(test.name, func(t *testing.T) { test.run(&fixture{T: t, open: h.New(t)}) })
		}
	}
	if h.Exclusive {
		t.Run("a second one is locked out", func(t *testing.T) { testLocked(&fixture{T: t, open: h.New(t)}) })
	}
}

// A fixture is one journal under test, and what should be in it.
type fixture struct {
	*testing.T
	open     func() (journal.Journal, error)
	volatile bool
	j        journal.Journal
	want     []journal.Batch // what was acknowledged
}

func (f *fixture) mustOpen() journal.Journal {
	f.Helper()
	j, err := f.open()
	if err != nil {
		f.Fatalf("open: %v", err)
	}
	f.j = j
	f.Cleanup(func() {
		if err := j.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	})
	return j
}

// reopen closes the journal and opens it again, if it can.
func (f *fixture) reopen() {
	f.Helper()
	if f.volatile {
		return
	}
	if err := f.j.Close(); err != nil {
		f.Fatalf("close: %v", err)
	}
	f.mustOpen()
}

// batch makes up the next batch; what is in it follows from its position.
func (f *fixture) batch(segment uint64) journal.Batch {
	position := uint64(len(f.want)) + 1
	return journal.Batch{
		Position:   position,
		Epoch:      7,
		Segment:    segment,
		Checkpoint: position / 2,
		Head:       fmt.Appendf(nil, "head of %d", position),
		Body:       [][]byte{fmt.Appendf(nil, "body of %d, ", position), bytes.Repeat([]byte{byte(position)}, int(position*97%9000))},
	}
}

// append appends batches and waits until they are durable.
func (f *fixture) append(batches ...journal.Batch) {
	f.Helper()
	done := make(chan error, len(batches))
	for _, b := range batches {
		f.want = append(f.want, clone(b))
		f.j.Append(b, func(err error) { done <- err })
	}
	for range batches {
		if err := <-done; err != nil {
			f.Fatalf("append: %v", err)
		}
	}
}

// fill appends count batches to a segment.
func (f *fixture) fill(segment uint64, count int) {
	f.Helper()
	for range count {
		f.append(f.batch(segment))
	}
}

// refused appends a batch that must fail, and returns the error.
func (f *fixture) refused(b journal.Batch) error {
	f.Helper()
	done := make(chan error, 1)
	f.j.Append(b, func(err error) { done <- err })
	err := <-done
	if err == nil {
		f.Fatalf("append at position %d succeeded", b.Position)
	}
	return err
}

func clone(b journal.Batch) journal.Batch {
	b.Head = slices.Clone(b.Head)
	b.Body = [][]byte{bytes.Join(b.Body, nil)}
	return b
}

// replayed returns what a replay shows.
func (f *fixture) replayed(from, to uint64, bodies bool) []journal.Batch {
	f.Helper()
	var got []journal.Batch
	err := f.j.Replay(f.Context(), from, to, bodies, func(b journal.Batch) error {
		if !bodies && b.Body != nil {
			f.Errorf("position %d: a body that was not asked for", b.Position)
		}
		got = append(got, clone(b))
		return nil
	})
	if err != nil {
		f.Fatalf("replay from %d to %d: %v", from, to, err)
	}
	return got
}

// expect checks that a replay shows the batches that were appended at the
// given positions, all from 1 on if there are none.
func (f *fixture) expect(positions ...uint64) {
	f.Helper()
	if positions == nil {
		for i := range f.want {
			positions = append(positions, uint64(i)+1)
		}
	}
	for _, bodies := range []bool{false, true} {
		f.same(f.replayed(0, 0, bodies), positions, bodies)
	}
}

func (f *fixture) same(got []journal.Batch, positions []uint64, bodies bool) {
	f.Helper()
	if len(got) != len(positions) {
		f.Fatalf("replay shows %d batches, want %d", len(got), len(positions))
	}
	for i, position := range positions {
		want := f.want[position-1]
		if !bodies {
			want.Body = [][]byte{nil}
		}
		if err := Same(got[i], want); err != nil {
			f.Fatalf("position %d: %v", position, err)
		}
	}
}

// Same compares two batches. Bodies may be in different pieces.
func Same(got, want journal.Batch) error {
	g, w := clone(got), clone(want)
	gotBody, wantBody := g.Body[0], w.Body[0]
	switch {
	case g.Position != w.Position, g.Epoch != w.Epoch, g.Segment != w.Segment, g.Checkpoint != w.Checkpoint:
		return fmt.Errorf("got position %d, epoch %d, segment %d, checkpoint %d; want %d, %d, %d, %d",
			g.Position, g.Epoch, g.Segment, g.Checkpoint, w.Position, w.Epoch, w.Segment, w.Checkpoint)
	case !bytes.Equal(g.Head, w.Head):
		return fmt.Errorf("got head %.40q, want %.40q", g.Head, w.Head)
	case !bytes.Equal(gotBody, wantBody):
		return fmt.Errorf("got body of %d bytes %.40q, want %d bytes %.40q", len(gotBody), gotBody, len(wantBody), wantBody)
	}
	return nil
}

// read is ReadRefs with the test's context.
func (f *fixture) read(refs ...journal.Ref) ([][]byte, error) {
	ctx, cancel := context.WithCancel(f.Context())
	defer cancel()
	return f.j.ReadRefs(ctx, refs)
}
