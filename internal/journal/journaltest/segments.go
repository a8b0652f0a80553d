package journaltest

import (
	"context"
	"errors"
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
)

func (f *fixture) drop(segments ...uint64) {
	f.Helper()
	for _, s := range segments {
		if err := f.j.Drop(s); err != nil {
			f.Fatalf("drop segment %d: %v", s, err)
		}
	}
}

func testDrop(f *fixture) {
	f.mustOpen()
	for segment := uint64(1); segment <= 4; segment++ {
		f.fill(segment, 3)
	}
	f.drop(2, 2)
	rest := []uint64{1, 2, 3, 7, 8, 9, 10, 11, 12}
	f.expect(rest...)
	f.reopen()
	f.expect(rest...)
	f.same(f.replayed(5, 8, true), []uint64{7, 8}, true)
	f.same(f.replayed(4, 6, true), nil, true)
	_, err := f.read(journal.Ref{Position: 3, Length: 1}, journal.Ref{Position: 5, Length: 1})
	if !errors.Is(err, journal.ErrDropped) {
		f.Errorf("a ref into a dropped segment: got %v, want ErrDropped", err)
	}
	f.drop(1, 2, 3)
	f.expect(10, 11, 12)
	f.reopen()
	f.expect(10, 11, 12)
	if _, err := f.read(journal.Ref{Position: 1, Length: 1}); !errors.Is(err, journal.ErrDropped) {
		f.Errorf("a ref before the first segment: got %v, want ErrDropped", err)
	}
}

func testDropNewest(f *fixture) {
	f.mustOpen()
	f.fill(1, 1)
	f.fill(2, 1)
	for _, s := range []uint64{2, 3} {
		if err := f.j.Drop(s); err == nil {
			f.Errorf("segment %d was dropped", s)
		}
	}
	f.expect()
}

func testHeadStays(f *fixture) {
	f.mustOpen()
	f.fill(1, 3)
	f.fill(2, 1)
	f.drop(1)
	f.reopen()
	if head := f.j.Info().Head; !f.volatile && head != 4 {
		f.Errorf("got head %d, want 4", head)
	}
	b := f.batch(2)
	b.Position = 1
	var conflict *journal.ConflictError
	if err := f.refused(b); !errors.As(err, &conflict) {
		f.Errorf("append at position 1 after 4: got %v, want a ConflictError", err)
	}
	f.fill(3, 1)
	f.drop(2)
	f.reopen()
	f.fill(3, 1)
	f.expect(5, 6)
}

func testSegments(f *fixture) {
	f.mustOpen()
	f.fill(2, 3)
	f.fill(5, 1)
	f.fill(6, 2)
	check := func(want ...journal.SegmentInfo) {
		f.Helper()
		got, err := f.j.Segments(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		if len(got) != len(want) {
			f.Fatalf("got %v, want %v", got, want)
		}
		for i := range got {
			if got[i].Bytes <= 0 {
				f.Errorf("segment %d has %d bytes", got[i].Segment, got[i].Bytes)
			}
			got[i].Bytes = 0
			if got[i] != want[i] {
				f.Errorf("got %+v, want %+v", got[i], want[i])
			}
		}
	}
	all := []journal.SegmentInfo{{Segment: 2, First: 1, Last: 3}, {Segment: 5, First: 4, Last: 4}, {Segment: 6, First: 5, Last: 6}}
	check(all...)
	f.reopen()
	check(all...)
	f.drop(5)
	check(all[0], all[2])
	f.reopen()
	check(all[0], all[2])
}

func testReopen(f *fixture) {
	f.mustOpen()
	for round := range 4 {
		f.fill(uint64(1+round/2), 3)
		f.reopen()
		f.expect()
		info := f.j.Info()
		if f.volatile {
			continue
		}
		want := journal.Info{
			Head: uint64(len(f.want)), Epoch: 7, Segment: uint64(1 + round/2), Checkpoint: uint64(len(f.want)) / 2,
			MaxBatch: info.MaxBatch, InFlight: info.InFlight, Durability: info.Durability, Shared: info.Shared,
		}
		if info != want {
			f.Errorf("got %+v, want %+v", info, want)
		}
	}
	f.reopen()
	f.reopen()
	f.expect()
}

func testFollow(f *fixture) {
	j := f.mustOpen()
	f.fill(1, 2)
	if err := j.Follow(f.Context(), 1); err != nil {
		f.Errorf("follow what is there: %v", err)
	}
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 2)
	go func() { ended <- j.Follow(ctx, 2) }()
	go func() { ended <- j.Follow(ctx, 0) }()
	if err := <-ended; err != nil {
		f.Errorf("follow: %v", err)
	}
	f.fill(1, 1)
	if err := <-ended; err != nil {
		f.Errorf("follow: %v", err)
	}
	cancel()
	if err := j.Follow(ctx, 3); !errors.Is(err, context.Canceled) {
		f.Errorf("got %v, want context.Canceled", err)
	}
	go func() { ended <- j.Follow(f.Context(), 3) }()
	if err := j.Close(); err != nil {
		f.Errorf("close: %v", err)
	}
	if err := <-ended; !errors.Is(err, journal.ErrClosed) {
		f.Errorf("got %v, want ErrClosed", err)
	}
}

func testClose(f *fixture) {
	j := f.mustOpen()
	const count = 3
	done := make(chan error, count)
	for range count {
		b := f.batch(1)
		f.want = append(f.want, clone(b))
		j.Append(b, func(err error) { done <- err })
	}
	for range 2 {
		if err := j.Close(); err != nil {
			f.Fatalf("close: %v", err)
		}
	}
	for range count {
		select {
		case err := <-done:
			if err != nil {
				f.Errorf("an append before close: %v", err)
			}
		default:
			f.Fatal("close returned before done was called")
		}
	}
	for range 2 * max(j.Info().InFlight, 4) {
		if err := f.refused(f.batch(1)); !errors.Is(err, journal.ErrClosed) {
			f.Fatalf("append: got %v, want ErrClosed", err)
		}
	}
	if _, err := f.read(journal.Ref{Position: 1, Length: 1}); !errors.Is(err, journal.ErrClosed) {
		f.Errorf("read: got %v, want ErrClosed", err)
	}
	if err := j.Replay(f.Context(), 0, 0, false, func(journal.Batch) error { return nil }); !errors.Is(err, journal.ErrClosed) {
		f.Errorf("replay: got %v, want ErrClosed", err)
	}
	if err := j.Drop(0); !errors.Is(err, journal.ErrClosed) {
		f.Errorf("drop: got %v, want ErrClosed", err)
	}
}

func testLocked(f *fixture) {
	f.mustOpen()
	f.fill(1, 1)
	if _, err := f.open(); !errors.Is(err, journal.ErrLocked) {
		f.Errorf("got %v, want ErrLocked", err)
	}
	f.fill(1, 1)
	f.expect()
}

// testTogether is for the race detector: what each one sees is right, whatever
// the others do.
func testTogether(f *fixture) {
	j := f.mustOpen()
	const count, perSegment = 300, 20
	for range count {
		f.want = append(f.want, clone(f.batch(1+uint64(len(f.want))/perSegment)))
	}
	var all sync.WaitGroup
	all.Go(func() {
		for _, b := range f.want {
			j.Append(b, func(err error) {
				if err != nil {
					f.Errorf("append: %v", err)
				}
			})
		}
	})
	all.Go(func() {
		for head := uint64(0); head < count; head++ {
			if err := j.Follow(f.Context(), head); err != nil {
				f.Errorf("follow: %v", err)
				return
			}
			want := f.want[head]
			got, err := j.ReadRefs(f.Context(), []journal.Ref{{Position: head + 1, Length: uint32(want.BodySize())}})
			if errors.Is(err, journal.ErrDropped) {
				continue
			}
			if err != nil {
				f.Errorf("read: %v", err)
				return
			}
			want.Body = got
			if err := Same(want, f.want[head]); err != nil {
				f.Errorf("position %d: %v", head+1, err)
			}
		}
	})
	all.Go(func() {
		for from := uint64(0); from < count-1; {
			err := j.Replay(f.Context(), from, 0, from%2 == 0, func(b journal.Batch) error {
				if b.Body == nil {
					b.Body = f.want[b.Position-1].Body
				}
				from = b.Position
				return Same(b, f.want[b.Position-1])
			})
			if err != nil {
				f.Errorf("replay: %v", err)
				return
			}
			if err := j.Follow(f.Context(), max(from, 1)-1); err != nil {
				f.Errorf("follow: %v", err)
				return
			}
		}
	})
	all.Go(func() {
		const last = count / perSegment
		for s := uint64(1); s < last; s += 2 {
			if err := j.Follow(f.Context(), (s+1)*perSegment); err != nil {
				f.Errorf("follow: %v", err)
				return
			}
			if err := j.Drop(s); err != nil {
				f.Errorf("drop: %v", err)
			}
			if _, err := j.Segments(f.Context()); err != nil {
				f.Errorf("segments: %v", err)
			}
			j.Status()
		}
	})
	all.Wait()
}
