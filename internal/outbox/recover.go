package outbox

import (
	"context"
	"fmt"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/link"
)

// recover makes the book from what the journal holds.
func (o *Outbox) recover() error {
	info := o.journal.Info()
	o.epoch = info.Epoch + 1
	if info.Head == 0 {
		o.producer = link.NewProducer()
		o.book.next, o.book.stored, o.book.settled.floor = 1, 1, 1
		return nil
	}
	if info.Checkpoint == 0 {
		return fmt.Errorf("the directory holds a journal, but not that of an outbox")
	}
	r := recovery{o: o}
	err := o.journal.Replay(context.Background(), info.Checkpoint, 0, false, r.batch)
	if err != nil {
		return err
	}
	if r.newest == nil || r.newest.number != info.Segment {
		return fmt.Errorf("the newest segment, %d, does not begin with a state", info.Segment)
	}
	segments, err := o.journal.Segments(context.Background())
	if err != nil {
		return err
	}
	r.finish(info, segments)
	return nil
}

// A recovery replays the newest segment.
type recovery struct {
	o       *Outbox
	records records
	older   []segmentState
	newest  *segment
	parts   uint64 // bytes of a message that has no end yet
}

func (r *recovery) batch(b journal.Batch) error {
	if err := r.records.parse(b.Head); err != nil {
		return fmt.Errorf("batch at position %d: %w", b.Position, err)
	}
	if err := r.apply(&b); err != nil {
		return fmt.Errorf("batch at position %d: %w", b.Position, err)
	}
	return nil
}

func (r *recovery) apply(batch *journal.Batch) error {
	book := &r.o.book
	if s := r.records.state; (s != nil) != (r.newest == nil) {
		return fmt.Errorf("a segment must begin with a state, and nothing else")
	} else if s != nil {
		r.o.producer = s.producer
		r.older = s.segments
		book.next, book.refused, book.settled = s.next, s.refused, s.settled
		r.newest = &segment{number: batch.Segment, messages: seqRun{s.next, s.next}}
	}
	for _, run := range r.records.settled {
		if run.end > book.next {
			return fmt.Errorf("message %d is settled, the next one is %d", run.end-1, book.next)
		}
		book.settled.add(run)
	}
	for _, seq := range r.records.refused {
		if seq >= book.next {
			return fmt.Errorf("message %d is refused, the next one is %d", seq, book.next)
		}
		book.settled.add(seqRun{seq, seq + 1})
		book.refused++
	}
	return r.content(batch, r.records.content)
}

func (r *recovery) content(batch *journal.Batch, c content) error {
	book, s := &r.o.book, r.newest
	if c.messages == (seqRun{}) {
		return nil
	}
	if c.messages.first != book.next {
		return fmt.Errorf("message %d, the next one is %d", c.messages.first, book.next)
	}
	if c.offset == 0 {
		r.parts = 0
		s.mark(mark{c.messages.first, batch.Position, c.time})
	}
	s.marked += c.length
	if c.size > 0 {
		if c.offset != r.parts {
			return fmt.Errorf("a part of message %d from byte %d on, where %d must be", c.messages.first, c.offset, r.parts)
		}
		if r.parts += c.length; r.parts < c.size {
			return nil
		}
	}
	r.parts = 0
	s.messages.end = c.messages.end
	book.next = c.messages.end
	return nil
}

// finish puts together what the newest segment says of the older ones, and
// which of them are there. What is in none is settled: a segment may be dropped
// before the settlements are written.
func (r *recovery) finish(info journal.Info, segments []journal.SegmentInfo) {
	book := &r.o.book
	known := make(map[uint64]segmentState)
	for _, s := range r.older {
		known[s.number] = s
	}
	end := uint64(1)
	for _, i := range segments {
		s := r.newest
		if i.Segment != s.number {
			k, ok := known[i.Segment]
			if !ok {
				k.messages = seqRun{end, end} // dropping it did not succeed
			}
			s = &segment{number: i.Segment, messages: k.messages, since: k.since}
			s.mark(mark{k.messages.first, i.First, k.since})
		}
		s.bytes = i.Bytes
		book.segments = append(book.segments, s)
		book.bytes += s.bytes
		book.settled.add(seqRun{end, s.messages.first})
		end = s.messages.end
	}
	book.settled.add(seqRun{end, book.next})
	for _, s := range book.segments {
		s.unsettled = s.messages.end - s.messages.first - book.settled.count(s.messages)
		book.messages += int64(s.unsettled)
	}
	book.stored, book.head, book.segment = book.next, info.Head, info.Segment
}
