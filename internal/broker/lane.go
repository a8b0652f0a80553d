package broker

import "slices"

// A queue with priorities has a lane for each that is in use; one without has the
// lane 0 alone. The upper byte of a sequence number is its lane, so that whatever
// goes by sequence numbers, in memory and in the journal, goes by lanes too.
const laneShift = 56

// lane is a line of messages that are delivered in order.
type lane struct {
	chunks   chunks
	next     uint64  // no lower sequence number was never delivered, but those in requeued
	tail     uint64  // the next sequence number to be given
	requeued seqHeap // ready and below next
}

// priority is that of the lane's messages.
func (ln *lane) priority() uint8 { return uint8(ln.tail >> laneShift) }

// laneOf finds the lane of a sequence number that is in the queue.
func (q *Queue) laneOf(seq uint64) *lane {
	if p := uint8(seq >> laneShift); p != 0 {
		for _, ln := range q.more {
			if ln.priority() == p {
				return ln
			}
		}
	}
	return &q.lane
}

// makeLane returns the lane of a priority, which it makes if there is none yet.
func (q *Queue) makeLane(p uint8) *lane {
	if p == 0 {
		return &q.lane
	}
	i := 0
	for i < len(q.more) && q.more[i].priority() > p {
		i++
	}
	if i == len(q.more) || q.more[i].priority() != p {
		first := uint64(p) << laneShift
		q.more = slices.Insert(q.more, i, &lane{next: first, tail: first})
	}
	return q.more[i]
}

// lanes visits all of them, the highest priority first.
func (q *Queue) lanes(visit func(*lane)) {
	for _, ln := range q.more {
		visit(ln)
	}
	visit(&q.lane)
}

// eachChunk visits every chunk that has something in it. It may be packed.
func (q *Queue) eachChunk(visit func(*chunk)) {
	q.lanes(func(ln *lane) { ln.chunks.each(visit) })
}

// chunkOf returns the chunk of a sequence number, unpacked; nil if there is none.
func (q *Queue) chunkOf(seq uint64) *chunk { return q.laneOf(seq).chunks.at(seq) }

// entryLocked returns the entry of a sequence number, nil if there is none.
func (q *Queue) entryLocked(seq uint64) *entry { return q.laneOf(seq).chunks.entry(seq) }
