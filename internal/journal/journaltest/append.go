package journaltest

import (
	"bytes"
	"errors"
	"sync"

	"github.com/ferrymq/ferry/internal/journal"
)

func testEmpty(f *fixture) {
	j := f.mustOpen()
	info := j.Info()
	if info.Head != 0 || info.Epoch != 0 || info.Segment != 0 || info.Checkpoint != 0 || info.Cut != 0 {
		f.Errorf("an empty journal says %+v", info)
	}
	if info.MaxBatch <= 0 || info.InFlight < 1 || info.Durability == "" {
		f.Errorf("limits are missing: %+v", info)
	}
	if s, err := j.Segments(f.Context()); err != nil || len(s) != 0 {
		f.Errorf("an empty journal has segments %v, %v", s, err)
	}
	if s := j.Status(); s.Waiting != nil {
		f.Errorf("an empty journal waits: %v", s.Waiting)
	}
	f.expect()
}

func testRoundTrip(f *fixture) {
	f.mustOpen()
	f.fill(3, 20)
	f.fill(4, 1)
	f.fill(9, 20)
	f.append(
		journal.Batch{Position: 42, Epoch: 7, Segment: 9},
		journal.Batch{Position: 43, Epoch: 7, Segment: 9, Head: []byte("only a head")},
		journal.Batch{Position: 44, Epoch: 8, Segment: 9, Body: [][]byte{nil, []byte("only"), {}, []byte(" a body")}},
	)
	f.expect()
}

func testMeasures(f *fixture) {
	j := f.mustOpen()
	m, ok := j.(journal.Meter)
	if !ok || j.Info().Durability == "none" {
		return
	}
	if got := m.Measures(); got != (journal.Measures{}) {
		f.Errorf("before the first append: %+v", got)
	}
	const each = 3
	f.fill(1, each)
	f.fill(2, each)
	got := m.Measures()
	if n := got.Syncs.Total(); n == 0 || n > 2*each || got.Syncs.Sum <= 0 {
		f.Errorf("%d batches took %d syncs and %v", 2*each, n, got.Syncs.Sum)
	}
	least := int64(0)
	for _, b := range f.want {
		least += int64(len(b.Head) + b.BodySize())
	}
	if got.Written < least {
		f.Errorf("%d bytes were written, of %d", got.Written, least)
	}
}

func testOrder(f *fixture) {
	j := f.mustOpen()
	const count = 200
	var mu sync.Mutex
	var order []uint64
	var finished sync.WaitGroup
	finished.Add(count)
	for range count {
		b := f.batch(1 + uint64(len(f.want))/50)
		f.want = append(f.want, clone(b))
		j.Append(b, func(err error) {
			defer finished.Done()
			if err != nil {
				f.Errorf("append at position %d: %v", b.Position, err)
			}
			mu.Lock()
			order = append(order, b.Position)
			mu.Unlock()
		})
	}
	finished.Wait()
	for i, position := range order {
		if position != uint64(i)+1 {
			f.Fatalf("done was called for position %d after %d others", position, i)
		}
	}
	f.expect()
}

func testConflict(f *fixture) {
	f.mustOpen()
	f.fill(1, 3)
	for _, position := range []uint64{0, 1, 3, 5, 1 << 63} {
		b := f.batch(1)
		b.Position = position
		err := f.refused(b)
		var conflict *journal.ConflictError
		if !errors.As(err, &conflict) {
			f.Fatalf("append at position %d: got %v, want a ConflictError", position, err)
		}
		if conflict.Position != position || conflict.Head != 3 {
			f.Errorf("append at position %d after 3: %v", position, conflict)
		}
	}
	f.fill(1, 1)
	f.expect()
}

func testTooLarge(f *fixture) {
	j := f.mustOpen()
	f.fill(1, 1)
	limit := j.Info().MaxBatch
	b := f.batch(1)
	b.Head, b.Body = []byte("h"), [][]byte{make([]byte, limit/2), make([]byte, limit-limit/2)}
	if err := f.refused(b); !errors.Is(err, journal.ErrTooLarge) {
		f.Errorf("got %v, want ErrTooLarge", err)
	}
	f.fill(1, 1)
	f.expect()
}

func testLargest(f *fixture) {
	j := f.mustOpen()
	f.fill(1, 1)
	limit := j.Info().MaxBatch
	for _, head := range []int{100, limit} {
		b := f.batch(1)
		b.Head = bytes.Repeat([]byte("0123456789abcdef"), head/16+1)[:head]
		b.Body = [][]byte{
			bytes.Repeat([]byte("x"), (limit-head)/3),
			bytes.Repeat([]byte("y"), limit-head-(limit-head)/3),
		}
		f.append(b)
		f.fill(1, 1)
	}
	f.expect()
	whole, err := f.read(journal.Ref{Position: 2, Length: uint32(limit - 100)})
	if err != nil {
		f.Fatalf("read: %v", err)
	}
	if !bytes.Equal(whole[0], f.want[1].Body[0]) {
		f.Errorf("a body of %d bytes came back otherwise", limit-100)
	}
}

func testSegmentBack(f *fixture) {
	f.mustOpen()
	f.fill(5, 1)
	_ = f.refused(f.batch(4)) // with any error
	f.fill(5, 1)
	f.expect()
}

func testEpochs(f *fixture) {
	if f.mustOpen().Info().Shared {
		f.Skip("a shared journal takes no batch of an older epoch")
	}
	for i, epoch := range []uint64{3, 3, 5, 3, 4, 5, 6, 5, 6, 2} {
		b := f.batch(1 + uint64(i)/4)
		b.Epoch = epoch
		b.Checkpoint = 100 + b.Position
		f.append(b)
	}
	valid := []uint64{1, 2, 3, 6, 7, 9}
	f.expect(valid...)
	f.reopen()
	f.expect(valid...)
	f.same(f.replayed(4, 8, false), []uint64{6, 7}, false)
	f.same(f.replayed(8, 8, false), nil, false)
	if info := f.j.Info(); !f.volatile && (info.Epoch != 6 || info.Checkpoint != 109 || info.Head != 10) {
		f.Errorf("got epoch %d, checkpoint %d, head %d, want 6, 109, 10", info.Epoch, info.Checkpoint, info.Head)
	}
	b := f.batch(3)
	b.Epoch = 5
	f.append(b)
	f.expect(valid...)
}

func testBuffers(f *fixture) {
	f.mustOpen()
	b := f.batch(1)
	f.append(b)
	clear(b.Head)
	for _, p := range b.Body {
		clear(p)
	}
	f.fill(1, 1)
	f.expect()
	f.reopen()
	f.expect()
}
