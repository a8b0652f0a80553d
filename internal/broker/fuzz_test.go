package broker

import (
	"context"
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
)

// batchKinds visits the kinds of the records of batches.
func batchKinds(visit func(kind string)) func(journal.Batch) error {
	return func(b journal.Batch) error {
		return DescribeHead(b.Head, func(r RecordInfo) { visit(r.Kind) })
	}
}

// heads are what a broker writes, for fuzzing to begin with.
func heads(f *testing.F) (all [][]byte) {
	s := &story{world: &world{t: f, fs: vfs.NewMem()}, ids: map[string]int{}}
	s.fs.Record()
	s.start(tiny)
	s.tell()
	s.start(tiny)
	err := s.j.Replay(context.Background(), 0, 0, false, func(b journal.Batch) error {
		all = append(all, append([]byte(nil), b.Head...))
		return nil
	})
	s.stop()
	if err != nil || len(all) == 0 {
		f.Fatalf("%d heads, %v", len(all), err)
	}
	return all
}

func newReplayer() *replayer {
	b := &Broker{vhosts: map[string]*VHost{}, settings: &settings{}, applier: newApplier()}
	b.evict = newEvictor(b, 1)
	b.log = &log{b: b, segs: map[uint64]*segment{}, large: map[*stored]struct{}{}}
	b.addVHost("/")
	return &replayer{
		b: b, spread: 1 << 10,
		queues: map[uint64]*Queue{}, stale: map[*VHost]struct{}{}, gone: map[uint64]struct{}{}, strays: map[uint64][]stray{},
	}
}

// FuzzReplay: any head is replayed, or refused by an error, and what it makes
// is in proportion to it.
func FuzzReplay(f *testing.F) {
	for _, h := range heads(f) {
		f.Add(h, h)
	}
	f.Add([]byte{recQueue, 1, 1, '/', 1, 'q', 1, 0}, []byte{recSettle, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	queue := []byte{recQueue, 1, 1, '/', 1, 'q', 1, 0}
	f.Add(queue, with(nums(recRunWith, 1, 1<<laneShift+5, 2, 40), attrs{due: 1000, over: 4}, 41, attrs{wake: 2002, count: 5}))
	f.Add(append(queue, nums(recRun, 1, 7, 2, 40, 41)...), append(with(nums(recAttrs, 1, 7, 2), attrs{wake: 300}, attrs{count: 2, due: 7}), nums(recSettle, 1, 7, 1)...))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		r := newReplayer()
		for i, h := range [][]byte{first, second} {
			if r.batch(journal.Batch{Position: uint64(i + 1), Epoch: 1, Segment: 1, Head: h}) != nil {
				return
			}
		}
		for _, v := range r.b.vhosts {
			for _, p := range v.producers.list() {
				p.all.sound(t)
			}
			v.windows.sound(t)
		}
		for _, q := range r.queues {
			live := 0
			size := int64(0)
			q.eachChunk(func(k *chunk) {
				live += k.live
				k = k.peek()
				for i := range k.entries {
					e := &k.entries[i]
					if e.state == gone {
						continue
					}
					size += e.body()
					if k.times != nil && k.timeOf(i) < k.times.next {
						t.Errorf("queue %d: message %d has a time before %d", q.num, k.first+uint64(i), k.times.next)
					}
				}
			})
			if live != q.ready+q.waiting || size != q.bytes {
				t.Errorf("queue %d counts %d ready messages, %d that wait, %d bytes, and has %d, %d bytes", q.num, q.ready, q.waiting, q.bytes, live, size)
			}
		}
	})
}
