package journaltest

import (
	"bytes"
	"context"
	"errors"

	"github.com/ferrymq/ferry/internal/journal"
)

func testRange(f *fixture) {
	f.mustOpen()
	f.fill(1, 5)
	f.fill(2, 5)
	f.fill(3, 5)
	for _, r := range []struct{ from, to, first, last uint64 }{
		{0, 0, 1, 15},
		{1, 15, 1, 15},
		{5, 6, 5, 6},
		{3, 12, 3, 12},
		{15, 0, 15, 15},
		{16, 0, 1, 0},
		{7, 100, 7, 15},
		{9, 8, 1, 0},
	} {
		var want []uint64
		for p := r.first; p <= r.last; p++ {
			want = append(want, p)
		}
		f.same(f.replayed(r.from, r.to, true), want, true)
	}
}

func testVisitError(f *fixture) {
	j := f.mustOpen()
	f.fill(1, 5)
	stop := errors.New("stop")
	visited := 0
	err := j.Replay(f.Context(), 0, 0, false, func(journal.Batch) error {
		visited++
		if visited == 3 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || visited != 3 {
		f.Errorf("got %v after %d batches, want the visitor's error after 3", err, visited)
	}
}

func testReplayContext(f *fixture) {
	j := f.mustOpen()
	f.fill(1, 5)
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	err := j.Replay(ctx, 0, 0, false, func(journal.Batch) error { return nil })
	if !errors.Is(err, context.Canceled) {
		f.Errorf("replay: got %v, want context.Canceled", err)
	}
	if _, err := j.ReadRefs(ctx, []journal.Ref{{Position: 1, Length: 1}}); !errors.Is(err, context.Canceled) {
		f.Errorf("read: got %v, want context.Canceled", err)
	}
}

func testRefs(f *fixture) {
	f.mustOpen()
	for segment := uint64(1); segment <= 3; segment++ {
		f.fill(segment, 30)
	}
	var refs []journal.Ref
	for p := uint64(len(f.want)); p > 0; p-- {
		n := uint32(f.want[p-1].BodySize())
		refs = append(refs,
			journal.Ref{Position: p, Length: n},
			journal.Ref{Position: p, Offset: n / 2, Length: n - n/2},
			journal.Ref{Position: p, Offset: n / 3, Length: n / 4},
			journal.Ref{Position: p, Offset: n, Length: 0},
			journal.Ref{Position: 1 + p*31%90, Offset: 3, Length: 5},
			journal.Ref{Position: 1 + p*31%90, Offset: 3, Length: 5},
		)
	}
	for _, some := range [][]journal.Ref{nil, refs[:1], refs[4:5], refs} {
		got, err := f.read(some...)
		if err != nil {
			f.Fatalf("read: %v", err)
		}
		if len(got) != len(some) {
			f.Fatalf("%d results for %d refs", len(got), len(some))
		}
		for i, r := range some {
			want := f.want[r.Position-1].Body[0][r.Offset:][:r.Length]
			if !bytes.Equal(got[i], want) {
				f.Errorf("%+v: got %.30q, want %.30q", r, got[i], want)
			}
		}
		// They belong to the caller, each alone.
		for _, p := range got {
			_ = append(p, "overwritten"...)
			clear(p)
		}
	}
	f.expect()
	got, err := f.read(refs[0], refs[0])
	if err != nil {
		f.Fatalf("read: %v", err)
	}
	clear(got[0])
	if !bytes.Equal(got[1], f.want[len(f.want)-1].Body[0]) {
		f.Error("two results share their bytes")
	}
}

func testBadRefs(f *fixture) {
	f.mustOpen()
	f.fill(1, 3)
	n := uint32(f.want[1].BodySize())
	for _, r := range []journal.Ref{
		{Position: 0, Length: 1},
		{Position: 4, Length: 1},
		{Position: 2, Offset: n, Length: 1},
		{Position: 2, Offset: 0, Length: n + 1},
		{Position: 2, Offset: 1<<32 - 1, Length: 1<<32 - 1},
	} {
		if got, err := f.read(journal.Ref{Position: 1, Length: 1}, r); err == nil {
			f.Errorf("%+v: got %q, want an error", r, got)
		} else if errors.Is(err, journal.ErrDropped) {
			f.Errorf("%+v: got %v, but nothing was dropped", r, err)
		}
	}
}
