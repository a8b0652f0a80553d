package broker

import "github.com/ferrymq/ferry/internal/message"

// A queue with the argument x-message-deduplication takes no message whose value of the
// header x-deduplication-header a message has that is in it, delivered or not: not
// before that one has left it. A repeat is dropped, and confirmed when what the log has
// pending is durable, and so its original; other queues take it. The values are
// attributes of the messages (attr.go), so that they are in the log, and go, with
// them. In memory each takes some 60 bytes.

// dupID reads an id.
func (r *reader) dupID() (id dupID) {
	if len(r.b) < len(id) {
		r.b, r.err = nil, errRecord
		return id
	}
	copy(id[:], r.b)
	r.b = r.b[len(id):]
	return id
}

// setValue notes the value of the i'th entry.
func (t *times) setValue(i int, v dupID) {
	if v == (dupID{}) && i >= len(t.value) {
		return
	}
	for len(t.value) <= i {
		t.value = append(t.value, dupID{})
	}
	t.value[i] = v
}

// forgetValue lets the value of the i'th entry come again, which is gone.
func (k *chunk) forgetValue(i int) {
	if k.times == nil || i >= len(k.times.value) {
		return
	}
	if v := &k.times.value[i]; *v != (dupID{}) {
		if k.q.values[*v] == k.first+uint64(i) {
			delete(k.q.values, *v)
		}
		*v = dupID{}
	}
}

// valueLocked notes that a message has a value.
func (q *Queue) valueLocked(v dupID, seq uint64) {
	if q.values == nil {
		q.values = map[dupID]uint64{}
	}
	q.values[v] = seq
}

// valueID is what the value of a message stands for; nil: it has none.
func (it *pubItem) valueID() *dupID {
	if it.looked {
		return it.value
	}
	it.looked = true
	v, err := message.Parse(it.m.block())
	if err != nil {
		return nil
	}
	if a, ok := findArg(message.Field(v.Properties, message.Headers), dedupHeader); ok {
		id := hashDedup(a.kind, a.value)
		it.value = &id
	}
	return it.value
}

// repeatsLocked tells whether the queue has the value of a message, and does not take
// it therefore.
func (q *Queue) repeatsLocked(it *pubItem) bool {
	if !q.rules.dedup.on {
		return false
	}
	v := it.valueID()
	if v == nil {
		return false
	}
	_, has := q.values[*v]
	return has
}

// freshLocked is how many of the first messages of a run have values that the queue
// does not have, nor another one of them.
func (q *Queue) freshLocked(run []pubItem) int {
	var among map[dupID]struct{}
	for i := range run {
		v := run[i].valueID()
		if v == nil {
			continue
		}
		if _, has := q.values[*v]; has {
			return i
		}
		if _, has := among[*v]; has {
			return i
		}
		if len(run) > 1 {
			if among == nil {
				among = map[dupID]struct{}{}
			}
			among[*v] = struct{}{}
		}
	}
	return len(run)
}

// insertSome puts a message into those of its queues, all locked, that take it: not all
// do, because they are full or have its value.
func (s *Session) insertSome(queues []*Queue, one []pubItem) place {
	it := &one[0]
	r := path{queues: queues}
	as := *it
	as.r = &r
	takers, _ := as.takersLocked()
	switch {
	case as.refused:
		where := s.insertRefused(queues, it)
		s.answer(one, true)
		return where
	case len(takers) == 0:
		s.dropSeen(append(s.pub.repeats[:0], *it))
		it.refused = true // what is noted of it was
		return nowhere
	}
	where, _ := s.enter(takers, one)
	s.dispatch(takers)
	s.answerEntered(where, one)
	return where
}
