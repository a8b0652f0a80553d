package broker

// insert puts publishes into their queues, in runs that share a route, and a
// producer or a window.
func (s *Session) insert(items []pubItem) {
	for len(items) > 0 {
		first, n := &items[0], 1
		for n < len(items) && items[n].follows(&items[n-1]) {
			n++
		}
		run := items[:n]
		items = items[n:]
		first.r.counts.in.Add(uint64(n))
		switch {
		case first.from != nil:
			s.insertOnce(first.from, first.r, run)
		case first.ext != nil:
			s.insertWindowed(first.r, run)
		default:
			s.insertRun(first.r, run)
		}
	}
}

// follows tells whether a publish can be in one run with the one before it.
func (it *pubItem) follows(last *pubItem) bool {
	switch {
	case it.r != last.r || it.from != last.from:
		return false
	case it.from != nil && it.id <= last.id:
		return false
	case it.ext == nil || last.ext == nil:
		return it.ext == last.ext
	default:
		return it.ext.window == last.ext.window && (it.ext.also == nil) == (last.ext.also == nil)
	}
}

// place is where publishes went.
type place uint8

const (
	nowhere  place = iota
	inMemory       // to queues, or a consumer of replies, that a restart forgets
	inLog          // to at least one queue that the log knows
)

func (s *Session) insertRun(r *path, run []pubItem) place {
	var where place
	switch {
	case r.reply != nil:
		s.b.deliverReplies(r.reply, run)
		s.accepted(run)
		return inMemory
	case len(r.queues) == 0:
		s.unroutable(run)
		return nowhere
	case len(r.queues) == 1:
		where = s.insertOne(r.queues[0], run)
	default:
		where = s.insertMany(r.queues, run)
	}
	if where != nowhere {
		s.pub.tally.routed(r, len(run))
	}
	return where
}

// insertOne is the common case: all go to one queue.
func (s *Session) insertOne(q *Queue, run []pubItem) place {
	q.mu.Lock()
	if q.deleted {
		q.mu.Unlock()
		s.unroutable(run)
		return nowhere
	}
	if q.mayRefuse() {
		where := s.insertAsFits([]*Queue{q}, run)
		q.mu.Unlock()
		return where
	}
	seqs := s.pub.seqs[:0]
	for i := range run {
		run[i].m.holders.Store(1)
		seqs = append(seqs, q.appendLocked(run[i].m, run[i].arrival(q)))
	}
	s.pub.seqs = seqs
	if q.logged {
		l := s.b.log
		l.mu.Lock()
		for i := range run {
			if m := run[i].m; m.persistent {
				m.logged, m.journaled = 1, true
				l.publishLocked(&run[i], q.num, seqs[i], q.publishAttrsLocked(&run[i], seqs[i]))
			}
		}
		l.unlockAndWake()
	}
	q.dispatchLocked()
	if q.ready > pressureHigh && len(q.consumers) > 0 {
		s.pub.pressure = q
	}
	where := inMemory
	if q.logged {
		where = inLog
	}
	q.mu.Unlock()
	if run[0].tag == 0 && !s.anyTag(run) {
		return where
	}
	if where == inLog {
		s.acceptedTransient(run)
	} else {
		s.accepted(run)
	}
	return where
}

func (s *Session) anyTag(run []pubItem) bool {
	for i := range run {
		if run[i].tag != 0 {
			return true
		}
	}
	return false
}

// insertMany puts each message into several queues. All logged ones are locked
// together, so that no settlement can come before its publish in the log; they
// are sorted by number, which is the order of their locks.
func (s *Session) insertMany(queues []*Queue, run []pubItem) place {
	alive := make([]*Queue, 0, len(queues))
	refusing := false
	for _, q := range queues {
		q.mu.Lock()
		if q.deleted {
			q.mu.Unlock()
			continue
		}
		refusing = refusing || q.mayRefuse()
		alive = append(alive, q)
	}
	if len(alive) == 0 {
		s.unroutable(run)
		return nowhere
	}
	var where place
	if refusing {
		where = s.insertAsFits(alive, run)
	} else {
		where, _ = s.enter(alive, run)
		s.dispatch(alive)
		s.answerEntered(where, run)
	}
	for _, q := range alive {
		q.mu.Unlock()
	}
	return where
}

// enter puts each message into all of these queues, which are locked, at least one,
// and tells the log. seqs are where, by message
// and queue, until the next call.
func (s *Session) enter(queues []*Queue, run []pubItem) (where place, seqs []uint64) {
	logged := 0
	for _, q := range queues {
		if q.logged {
			logged++
		}
	}
	if seqs = s.pub.seqs[:0]; cap(seqs) < len(queues)*len(run) {
		seqs = make([]uint64, 0, len(queues)*len(run))
	}
	for i := range run {
		m := run[i].m
		other := m.split(s.b, logged, len(queues)-logged) // of the queues that are not logged
		for _, q := range queues {
			held := m
			if !q.logged {
				held = other
			}
			seqs = append(seqs, q.appendLocked(held, run[i].arrival(q)))
		}
	}
	if s.pub.seqs = seqs; cap(seqs) > 4*flushMessages {
		s.pub.seqs = nil
	}
	if logged == 0 {
		return inMemory, seqs
	}
	l := s.b.log
	l.mu.Lock()
	for i := range run {
		m := run[i].m
		if !m.persistent {
			continue
		}
		m.logged, m.journaled = int32(logged), true
		targets := make([]target, 0, logged)
		var with []attrs
		for k, q := range queues {
			if q.logged {
				seq := seqs[i*len(queues)+k]
				targets = append(targets, target{q.num, seq})
				with = addAttrs(with, len(targets), q.publishAttrsLocked(&run[i], seq))
			}
		}
		l.publishToLocked(&run[i], targets, with)
	}
	l.unlockAndWake()
	return inLog, seqs
}

// dispatch has queues, which are locked, deliver what has entered them.
func (s *Session) dispatch(queues []*Queue) {
	for _, q := range queues {
		q.dispatchLocked()
		if q.ready > pressureHigh && len(q.consumers) > 0 {
			s.pub.pressure = q
		}
	}
}

// answerEntered confirms of what has entered its queues that which the journal will
// not.
func (s *Session) answerEntered(where place, run []pubItem) {
	if where == inLog {
		s.acceptedTransient(run)
	} else {
		s.accepted(run)
	}
}

// accepted confirms publishes that need no journal.
func (s *Session) accepted(run []pubItem) { s.answer(run, false) }

// answer confirms publishes, or tells that they were refused.
func (s *Session) answer(run []pubItem, refused bool) {
	told := false
	s.mu.Lock()
	for i := 0; i < len(run); {
		if run[i].tag == 0 {
			i++
			continue
		}
		j := i + 1
		for j < len(run) && run[j].ch == run[i].ch && run[j].tag == run[j-1].tag+1 {
			j++
		}
		if refused {
			run[i].ch.rejectLocked(run[i].tag, run[j-1].tag)
		} else {
			run[i].ch.confirmLocked(run[i].tag, run[j-1].tag)
		}
		told = true
		i = j
	}
	s.mu.Unlock()
	if told {
		s.signal()
	}
}

// acceptedTransient confirms those that the journal will not.
func (s *Session) acceptedTransient(run []pubItem) {
	for i := range run {
		if !run[i].m.persistent && run[i].tag != 0 {
			s.accepted(run[i : i+1])
		}
	}
}

// unroutable deals with publishes that no queue took: a mandatory one goes
// back, before its confirm.
func (s *Session) unroutable(run []pubItem) {
	if len(run) > 0 {
		s.pub.tally.unroutable(run)
	}
	freed := 0
	for i := range run {
		m := run[i].m
		freed += int(m.size)
		if run[i].mandatory {
			s.push(Event{Kind: EventReturn, Channel: run[i].ch, Tag: run[i].tag, Data: m.block()})
		}
	}
	s.b.evict.hot.Add(int64(-freed))
	s.accepted(run)
}
