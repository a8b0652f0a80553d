package journaltest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
)

// sharedTests are those of journals that several processes may have open.
var sharedTests = []struct {
	name string
	run  func(f *fixture)
}{
	{"of several writers one succeeds at a position", testOneWins},
	{"of identical batches of several writers one succeeds", testOneOfIdentical},
	{"a position that was dropped is not written again", testDroppedPositions},
	{"who lost a race follows, and may win the next", testLoserGoesOn},
	{"an epoch below the log's is refused at the next position", testLowerEpoch},
	{"who was superseded is fenced for good", testFenced},
	{"a superseded writer's appends in flight are not confirmed behind the newer epoch", testFencedInFlight},
	{"others see what one writes and drops", testOthersSee},
	{"others are woken", testOthersWake},
	{"a follower reads on while another writes and drops", testFollower},
}

// with opens the medium once more. The fixture's own journal stays the one that
// its methods use.
func (f *fixture) with() journal.Journal {
	f.Helper()
	own := f.j
	j := f.mustOpen()
	if own != nil {
		f.j = own
	}
	if !j.Info().Shared {
		f.Fatal("the journal does not say that it is shared")
	}
	return j
}

// try appends a batch and waits for what becomes of it.
func try(j journal.Journal, b journal.Batch) error {
	done := make(chan error, 1)
	j.Append(b, func(err error) { done <- err })
	return <-done
}

// mustHead is the head as the medium has it.
func (f *fixture) mustHead(j journal.Journal) uint64 {
	f.Helper()
	head, err := j.Head(f.Context())
	if err != nil {
		f.Fatalf("head: %v", err)
	}
	return head
}

// conflicts checks that an append was refused because the journal moved on, which
// changes nothing.
func (f *fixture) conflicts(err error, b journal.Batch) {
	f.Helper()
	var conflict *journal.ConflictError
	switch {
	case !errors.As(err, &conflict):
		f.Errorf("append at position %d: got %v, want a ConflictError", b.Position, err)
	case conflict.Position != b.Position:
		f.Errorf("append at position %d: the conflict is at %d", b.Position, conflict.Position)
	}
}

// race opens the medium several times, has all append at once, and checks that one
// succeeds and the others learn that they did not.
func (f *fixture) race(batches ...journal.Batch) {
	f.Helper()
	outcomes := make([]error, len(batches))
	journals := make([]journal.Journal, len(batches))
	for i := range batches {
		journals[i] = f.with()
	}
	var all sync.WaitGroup
	for i, b := range batches {
		all.Go(func() { outcomes[i] = try(journals[i], b) })
	}
	all.Wait()
	won := 0
	for i, err := range outcomes {
		if err == nil {
			won++
			f.want = append(f.want, clone(batches[i]))
			continue
		}
		f.conflicts(err, batches[i])
	}
	if won != 1 {
		f.Fatalf("position %d: %d of %d appends succeeded", batches[0].Position, won, len(batches))
	}
	for _, j := range journals {
		if head := f.mustHead(j); head != batches[0].Position {
			f.Errorf("head is %d, want %d", head, batches[0].Position)
		}
		if err := j.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	}
}

const races = 5

func testOneWins(f *fixture) {
	f.j = f.with()
	for range races {
		var batches []journal.Batch
		for writer := range 3 {
			b := f.batch(1)
			b.Head = append(b.Head, byte('a'+writer))
			batches = append(batches, b)
		}
		f.race(batches...)
	}
	f.expect()
}

func testOneOfIdentical(f *fixture) {
	f.j = f.with()
	for range races {
		f.race(f.batch(1), f.batch(1), f.batch(1))
	}
	f.expect()
}

func testDroppedPositions(f *fixture) {
	f.j = f.with()
	before := f.with()
	for segment := uint64(1); segment <= 3; segment++ {
		f.fill(segment, 2)
	}
	f.drop(1, 2)
	after := f.with()
	for _, j := range []journal.Journal{before, after} {
		for position := uint64(1); position <= 6; position++ {
			b := clone(f.want[position-1])
			b.Segment = 3
			f.conflicts(try(j, b), b)
			b.Epoch++ // a newer owner may not either
			f.conflicts(try(j, b), b)
		}
	}
	f.race(f.batch(3), f.batch(3))
	f.race(f.batch(4), f.batch(4))
	f.drop(3)
	f.race(f.batch(4), f.batch(4))
	f.expect(8, 9)
	if head := f.mustHead(before); head != 9 {
		f.Errorf("got head %d, want 9", head)
	}
}

func testLoserGoesOn(f *fixture) {
	f.j = f.with()
	loser := f.with()
	f.fill(1, 2)
	b := f.batch(1)
	b.Position = 1
	f.conflicts(try(loser, b), b)
	if err := loser.Follow(f.Context(), 1); err != nil {
		f.Errorf("follow: %v", err)
	}
	f.fill(1, 1)
	if err := loser.Follow(f.Context(), 2); err != nil {
		f.Errorf("follow: %v", err)
	}
	b = f.batch(1)
	b.Position = 2
	f.conflicts(try(loser, b), b)
	f.j = loser
	f.expect()
	for range 3 {
		b := f.batch(2)
		b.Epoch = 8
		f.append(b)
	}
	f.expect()
}

func testLowerEpoch(f *fixture) {
	f.j = f.with()
	f.fill(1, 2)
	b := f.batch(1)
	b.Epoch = 9
	f.append(b)
	for _, epoch := range []uint64{1, 8} {
		late := f.with()
		b := f.batch(1)
		b.Epoch = epoch
		f.conflicts(try(late, b), b)
		// The log's own is none that is too low.
		for _, b.Epoch = range []uint64{9, 9} {
			b.Position = f.mustHead(late) + 1
			if err := try(late, b); err != nil {
				f.Fatalf("append of epoch 9 after a refusal: %v", err)
			}
			f.want = append(f.want, clone(b))
		}
	}
	f.expect()
}

// fenced checks that a journal neither appends any more nor stops being readable.
func (f *fixture) fenced(j journal.Journal, epoch uint64) {
	f.Helper()
	for range 2 {
		b := f.batch(2)
		b.Position, b.Epoch = f.mustHead(j)+1, epoch
		if err := try(j, b); !errors.Is(err, journal.ErrFenced) {
			f.Errorf("append of epoch %d: got %v, want ErrFenced", epoch, err)
		}
		if err := try(j, f.batch(2)); !errors.Is(err, journal.ErrFenced) {
			f.Errorf("append behind one that was fenced: got %v, want ErrFenced", err)
		}
	}
	own := f.j
	f.j = j
	f.expect()
	f.j = own
}

func testFenced(f *fixture) {
	first := f.with()
	f.j = first
	f.fill(1, 3)
	f.j = f.with()
	b := f.batch(1)
	b.Epoch = 8
	f.append(b)
	f.fenced(first, 7)
	f.append(journal.Batch{Position: 5, Epoch: 8, Segment: 1})
	// Another one of the same epoch has taken the place.
	second := f.j
	f.j = f.with()
	f.append(journal.Batch{Position: 6, Epoch: 8, Segment: 1})
	b = journal.Batch{Position: 6, Epoch: 8, Segment: 1}
	if err := try(second, b); !errors.Is(err, journal.ErrFenced) {
		f.Errorf("an identical batch where another owner's is: got %v, want ErrFenced", err)
	}
	for _, j := range []journal.Journal{first, second} {
		if err := j.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	}
	f.expect()
}

// takeOver appends a batch behind whatever others append meanwhile.
func (f *fixture) takeOver(j journal.Journal, b journal.Batch) journal.Batch {
	f.Helper()
	for {
		b.Position = f.mustHead(j) + 1
		err := try(j, b)
		if err == nil {
			return b
		}
		if conflict := (*journal.ConflictError)(nil); !errors.As(err, &conflict) {
			f.Fatalf("the newer one: %v", err)
		}
	}
}

// testFencedInFlight has one write as fast as it can, with several appends in
// flight, until another takes the log over between two of them.
func testFencedInFlight(f *fixture) {
	for round := range uint64(3) {
		older, newer := f.with(), f.with()
		at := f.mustHead(newer)
		var mu sync.Mutex
		var acked []journal.Batch
		var failed error
		ended := make(chan struct{})
		var writing sync.WaitGroup
		writing.Go(func() {
			for position := at + 1; ; position++ {
				select {
				case <-ended:
					return
				default:
				}
				b := journal.Batch{Position: position, Epoch: 10 + 2*round, Segment: 1, Head: []byte{1, byte(position)}}
				older.Append(b, func(err error) {
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil && failed != nil:
						f.Errorf("position %d is acknowledged behind one that failed: %v", position, failed)
					case err == nil:
						acked = append(acked, b)
					case failed == nil:
						failed = err
						close(ended)
					}
				})
			}
		})
		if err := newer.Follow(f.Context(), at); err != nil {
			f.Fatalf("follow: %v", err)
		}
		b := f.takeOver(newer, journal.Batch{Epoch: 11 + 2*round, Segment: 1, Head: []byte{2}})
		writing.Wait()
		if err := older.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
		if !errors.Is(failed, journal.ErrFenced) {
			f.Errorf("the older one ended with %v, want ErrFenced", failed)
		}
		own := f.j
		f.j = newer
		log := f.replayed(at+1, 0, true)
		f.j = own
		if n := len(log); n == 0 || Same(log[n-1], b) != nil {
			f.Fatalf("the log ends otherwise than with the newer one's batch: %d batches from %d on", n, at+1)
		}
		// What is before it is of the older one. All that it acknowledged is there.
		for i, got := range log[:len(log)-1] {
			want := journal.Batch{Position: at + 1 + uint64(i), Epoch: 10 + 2*round, Segment: 1, Head: []byte{1, byte(at + 1 + uint64(i))}}
			if err := Same(got, want); err != nil {
				f.Fatalf("before the newer one: %v", err)
			}
		}
		if len(acked) > len(log)-1 {
			f.Errorf("%d appends are acknowledged, %d are in the log before the newer one's", len(acked), len(log)-1)
		}
		f.Logf("%d acknowledged, %d in the log, then the newer epoch", len(acked), len(log)-1)
	}
}

func testOthersSee(f *fixture) {
	owner := f.with()
	f.j = owner
	reader := f.with() // of the empty log
	for segment := uint64(1); segment <= 3; segment++ {
		f.fill(segment, 3)
	}
	if head := f.mustHead(reader); head != 9 {
		f.Errorf("got head %d, want 9", head)
	}
	if info := reader.Info(); info.Head != 0 || info.Segment != 0 {
		f.Errorf("info is not as at open: %+v", info)
	}
	if info := f.with().Info(); info.Head != 9 || info.Epoch != 7 || info.Segment != 3 || info.Checkpoint != 4 {
		f.Errorf("a later open says %+v", info)
	}
	f.j = reader
	f.expect()
	ref := journal.Ref{Position: 5, Offset: 2, Length: 4}
	got, err := f.read(ref)
	if err != nil || !bytes.Equal(got[0], f.want[4].Body[0][2:6]) {
		f.Errorf("read: got %q, %v", got, err)
	}
	f.j = owner
	f.drop(2)
	f.j = reader
	f.expect(1, 2, 3, 7, 8, 9)
	if _, err := f.read(ref); !errors.Is(err, journal.ErrDropped) {
		f.Errorf("a ref into what the owner dropped: got %v, want ErrDropped", err)
	}
	segments, err := reader.Segments(f.Context())
	if err != nil {
		f.Fatalf("segments: %v", err)
	}
	var numbers []uint64
	for _, s := range segments {
		numbers = append(numbers, s.Segment)
	}
	if !slices.Equal(numbers, []uint64{1, 3}) {
		f.Errorf("got segments %v, want 1 and 3", numbers)
	}
	// One that was dropped by another is none that fails.
	f.drop(2)
}

func testOthersWake(f *fixture) {
	owner := f.with()
	reader := f.with()
	f.j = owner
	for after := range uint64(4) {
		woken := make(chan error, 2)
		go func() { woken <- reader.Follow(f.Context(), after) }()
		go func() { woken <- owner.Follow(f.Context(), after) }()
		f.fill(1, 1)
		for range 2 {
			if err := <-woken; err != nil {
				f.Fatalf("follow: %v", err)
			}
		}
		if head := f.mustHead(reader); head != after+1 {
			f.Errorf("got head %d, want %d", head, after+1)
		}
	}
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 2)
	go func() { ended <- reader.Follow(ctx, 4) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		f.Errorf("got %v, want context.Canceled", err)
	}
	go func() { ended <- reader.Follow(f.Context(), 4) }()
	if err := reader.Close(); err != nil {
		f.Errorf("close: %v", err)
	}
	if err := <-ended; !errors.Is(err, journal.ErrClosed) {
		f.Errorf("got %v, want ErrClosed", err)
	}
	f.fill(1, 1)
}

// testFollower is for the race detector, and for readers that trust a position
// that they were told.
func testFollower(f *fixture) {
	owner := f.with()
	reader := f.with()
	const count, perSegment = 120, 10
	for range count {
		f.want = append(f.want, clone(f.batch(1+uint64(len(f.want))/perSegment)))
	}
	var all sync.WaitGroup
	all.Go(func() {
		for _, b := range f.want {
			owner.Append(b, func(err error) {
				if err != nil {
					f.Errorf("append: %v", err)
				}
			})
		}
	})
	all.Go(func() {
		for segment := uint64(1); segment < count/perSegment; segment += 2 {
			if err := owner.Follow(f.Context(), segment*perSegment); err != nil {
				f.Errorf("follow: %v", err)
				return
			}
			if err := owner.Drop(segment); err != nil {
				f.Errorf("drop: %v", err)
			}
		}
	})
	all.Go(func() {
		for at := uint64(0); at < count; {
			if err := reader.Follow(f.Context(), at); err != nil {
				f.Errorf("follow: %v", err)
				return
			}
			seen := at
			err := reader.Replay(f.Context(), at+1, 0, true, func(b journal.Batch) error {
				for seen++; seen < b.Position; seen++ {
					if f.want[seen-1].Segment%2 == 0 {
						f.Errorf("position %d is left out, of a segment that is not dropped", seen)
					}
				}
				return Same(b, f.want[b.Position-1])
			})
			if err != nil {
				f.Errorf("replay: %v", err)
				return
			}
			if head, err := reader.Head(f.Context()); err != nil || head < seen {
				f.Errorf("head %d, %v, after a replay to %d", head, err, seen)
				return
			}
			if seen == at {
				// It was durable, so it was dropped between.
				segment := f.want[at].Segment
				if segment%2 == 0 {
					f.Errorf("replay from %d on shows nothing, and nothing was dropped there", at+1)
					return
				}
				seen = segment * perSegment
			}
			at = seen
		}
	})
	all.Wait()
}
