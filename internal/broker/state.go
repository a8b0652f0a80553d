package broker

import (
	"encoding/binary"
	"slices"
)

// state takes in a queue as a checkpoint describes it.
func (r *replayer) state(rd *reader, full bool) {
	num, vhost, spec := r.queueSpec(rd)
	tail, floor := rd.num(), rd.num()
	runs := make([]target, rd.count()) // from, to of what is settled above floor
	at := floor
	for i := range runs {
		at += rd.num()
		runs[i].queue = at
		at += rd.num()
		runs[i].seq = at
	}
	v := r.b.vhosts[vhost]
	if !full || v == nil || rd.err != nil {
		return
	}
	q := r.queues[num]
	if q == nil {
		q = v.addQueue(num, spec)
		r.queues[num] = q
	}
	r.b.nextQueue.Store(max(r.b.nextQueue.Load(), num))
	q.tail = max(q.tail, tail)
	settled := func(seq uint64) bool {
		if seq < floor {
			return true
		}
		i, _ := slices.BinarySearchFunc(runs, seq, func(t target, s uint64) int {
			if t.seq <= s {
				return -1
			}
			return 1
		})
		return i < len(runs) && runs[i].queue <= seq
	}
	for _, s := range r.strays[num] {
		if !settled(s.seq) {
			r.place(num, s.seq, s.m)
		}
	}
	delete(r.strays, num)
	for _, run := range append([]target{{0, floor}}, runs...) {
		r.settle(q, run.queue, run.seq-run.queue)
	}
	q.tail = max(q.tail, tail)
}

// stateRecord describes a queue for a checkpoint. q.mu is held.
func (q *Queue) stateRecordLocked() []byte {
	b := q.record()
	b = binary.AppendUvarint(b, q.tail)
	floor := q.tail
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
	q.chunks.each(func(k *chunk) {
		if k.packed != nil || k.live == len(k.entries) {
			live(k.first)
			at = k.first + uint64(k.live)
			return
		}
		for i := range k.entries {
			if k.entries[i].state != gone {
				live(k.first + uint64(i))
			}
		}
	})
	if !first && at < q.tail {
		runs = append(runs, at, q.tail)
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
