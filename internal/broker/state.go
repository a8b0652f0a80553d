package broker

import (
	"encoding/binary"
	"slices"
)

// laneState is what a checkpoint says of a lane.
type laneState struct {
	tail, floor uint64
	runs        []seqRun
}

// seqRun is a run of sequence numbers, without its end.
type seqRun struct{ from, to uint64 }

func (r *reader) laneState() laneState {
	s := laneState{tail: r.num(), floor: r.num()}
	s.runs = make([]seqRun, r.count())
	at := s.floor
	for i := range s.runs {
		at += r.num()
		s.runs[i].from = at
		at += r.num()
		s.runs[i].to = at
	}
	return s
}

// settled tells whether a message is.
func (s *laneState) settled(seq uint64) bool {
	if seq < s.floor {
		return true
	}
	i, _ := slices.BinarySearchFunc(s.runs, seq, func(t seqRun, s uint64) int {
		if t.to <= s {
			return -1
		}
		return 1
	})
	return i < len(s.runs) && s.runs[i].from <= seq
}

// state takes in a queue as a checkpoint describes it.
func (r *replayer) state(rd *reader, full, withLanes bool) {
	num, vhost, spec := r.queueSpec(rd)
	list := make([]laneState, 1)
	if withLanes {
		list = make([]laneState, rd.count())
	}
	for i := range list {
		list[i] = rd.laneState()
	}
	v := r.b.vhosts[vhost]
	if !full || v == nil || rd.err != nil {
		return
	}
	q := r.queues[num]
	if q == nil {
		if q = r.addQueue(v, num, spec); q == nil {
			return
		}
	}
	r.b.nextQueue.Store(max(r.b.nextQueue.Load(), num))
	var by [1 << (64 - laneShift)]*laneState
	for i := range list {
		s := &list[i]
		p := uint8(s.tail >> laneShift)
		by[p] = s
		ln := q.makeLane(p)
		ln.tail = max(ln.tail, s.tail)
	}
	for _, s := range r.strays[num] {
		if l := by[s.seq>>laneShift]; l == nil || !l.settled(s.seq) {
			r.place(num, s.seq, s.m, s.at)
		}
	}
	delete(r.strays, num)
	for i := range list {
		s := &list[i]
		first := s.tail >> laneShift << laneShift
		r.settle(q, first, s.floor-first)
		for _, run := range s.runs {
			r.settle(q, run.from, run.to-run.from)
		}
		ln := q.makeLane(uint8(s.tail >> laneShift))
		ln.tail = max(ln.tail, s.tail)
	}
}

// statesLocked describes a queue for a checkpoint, in records. q.mu is held.
func (q *Queue) statesLocked(put func(kind recordKind, blob []byte)) {
	b := q.record()
	if q.more == nil {
		put(recState, q.lane.appendState(b))
	} else {
		b = binary.AppendUvarint(b, uint64(len(q.more)+1))
		q.lanes(func(ln *lane) { b = ln.appendState(b) })
		put(recLanes, b)
	}
	// What the messages' own records say of their attributes may not be so any more.
	q.eachChunk(func(k *chunk) {
		if !k.changed {
			return
		}
		k = k.peek()
		for i := 0; i < len(k.entries); i++ {
			n := 0
			for i+n < len(k.entries) && (k.entries[i+n].count != 0 || k.entries[i+n].state == waiting) {
				n++
			}
			if n > 0 {
				put(recAttrs, k.attrsRecord(q, i, n))
				i += n
			}
		}
	})
}

func (ln *lane) appendState(b []byte) []byte {
	b = binary.AppendUvarint(b, ln.tail)
	floor := ln.tail
	first := true
	var runs []uint64
	at := uint64(0) // end of what has been described
	n := 0
	live := func(seq uint64) {
		switch {
		case first:
			floor, first = seq, false
		case seq > at:
			runs = append(runs, 0, 0)
			runs[2*n], runs[2*n+1] = at, seq
			n++
		}
		at = seq + 1
	}
	ln.chunks.each(func(k *chunk) {
		if k.packed != nil && k.live == k.span || k.packed == nil && k.live == len(k.entries) {
			live(k.first)
			at = k.first + uint64(k.live)
			return
		}
		if k.packed != nil { // not unpacked: the queue is locked, and there may be thousands
			for i := range k.span {
				if k.there.has(i) {
					live(k.first + uint64(i))
				}
			}
			return
		}
		for i := range k.entries {
			if k.entries[i].state != gone {
				live(k.first + uint64(i))
			}
		}
	})
	if !first && at < ln.tail {
		runs = append(runs, at, ln.tail)
		n++
	}
	b = binary.AppendUvarint(b, floor)
	b = binary.AppendUvarint(b, uint64(n))
	end := floor
	for i := range n {
		b = binary.AppendUvarint(b, runs[2*i]-end)
		b = binary.AppendUvarint(b, runs[2*i+1]-runs[2*i])
		end = runs[2*i+1]
	}
	return b
}
