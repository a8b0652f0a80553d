package broker

// A queue may be limited by the number of its ready messages and the bytes of their
// bodies (x-max-length, x-max-length-bytes, and the policies of these names). What
// is delivered and not settled does not count. When there are more, the first ones
// are dropped, or new ones are refused: see overflow.

// trimMost is how many messages are dropped under a queue's lock at once: a limit
// may be set to a queue that is long already.
const trimMost = 4096

// mayRefuse tells whether the queue refuses messages when it is full.
func (q *Queue) mayRefuse() bool {
	return q.rules.dedup.on || q.rules.overflow != dropHead && (q.rules.maxLength != none || q.rules.maxBytes != none)
}

// refusesLocked tells whether the queue is too full for one more message, whose body
// has so many bytes. It never is where it drops messages instead.
func (q *Queue) refusesLocked(body int64) bool {
	r := q.rules
	return r.overflow != dropHead && (int64(q.ready) >= r.maxLength || body > r.maxBytes-q.readyBytes)
}

// overLocked tells whether the queue has more than it may, and is to drop it.
func (q *Queue) overLocked() bool {
	r := q.rules
	return (int64(q.ready) > r.maxLength || q.readyBytes > r.maxBytes) && r.overflow == dropHead
}

// trimLocked drops what is too much; of very much the rest in the background. The
// caller calls reportLocked.
func (q *Queue) trimLocked() {
	for range trimMost {
		seq, e := q.lowestLocked()
		if e == nil || !q.overLocked() { // what had expired in front of it made room
			return
		}
		q.expelLocked(seq, maxlen)
		if len(q.settled) >= settledMost {
			q.reportLocked()
		}
	}
	if q.trimming {
		return
	}
	select {
	case <-q.v.b.quit:
	default:
		q.trimming = true
		q.v.b.tasks.Go(q.trim)
	}
}

// trim goes on with trimLocked, and lets others to the queue between.
func (q *Queue) trim() {
	for {
		q.mu.Lock()
		if q.deleted || !q.overLocked() || q.v.b.ending() {
			q.trimming = false
			q.mu.Unlock()
			return
		}
		q.trimLocked()
		q.reportLocked()
		many := q.leavingLocked() >= leavingMost
		q.mu.Unlock()
		if many {
			_, _ = q.v.b.awaitMoves(q) // if that fails the broker is ending
		}
	}
}

// ending tells whether the broker is closed, or cannot go on.
func (b *Broker) ending() bool {
	select {
	case <-b.quit:
		return true
	case <-b.failed:
		return true
	default:
		return false
	}
}

// enforceLocked applies the queue's rules to what is in it, when they have changed or
// were not looked at, as in a replay.
func (q *Queue) enforceLocked() {
	if q.rules.timeout > 0 {
		for _, c := range q.consumers {
			if c.started {
				c.watchLocked()
			}
		}
	}
	q.dispatchLocked()
}

// enforceAll does this for all queues, whose clocks have been started. What expired
// while the broker was not there takes nobody's place.
func (b *Broker) enforceAll() {
	over := func(q *Queue, do func()) {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.overLocked() {
			do()
		}
	}
	for _, v := range b.allVHosts() {
		v.mu.RLock()
		for _, q := range v.queues {
			late := false
			over(q, func() { late = q.clock != nil })
			for late {
				late = q.tick()
			}
			over(q, q.enforceLocked)
		}
		v.mu.RUnlock()
	}
}

// insertAsFits puts messages into queues, which are locked, and of which some may
// refuse them: as many at once as all take. Between, the queues deliver, which makes
// room.
func (s *Session) insertAsFits(queues []*Queue, run []pubItem) place {
	all := nowhere
	for len(run) > 0 {
		n := fits(queues, run)
		if n == 0 {
			all = max(all, s.insertSome(queues, run[:1]))
			run = run[1:]
			continue
		}
		where, _ := s.enter(queues, run[:n])
		s.dispatch(queues)
		s.answerEntered(where, run[:n])
		all = max(all, where)
		run = run[n:]
	}
	return all
}

// fits is how many messages of a run all queues take.
func fits(queues []*Queue, run []pubItem) int {
	n := int64(len(run))
	for _, q := range queues {
		if q.rules.dedup.on {
			n = min(n, int64(q.freshLocked(run[:n])))
		}
		if q.rules.overflow == dropHead {
			continue
		}
		n = min(n, max(q.rules.maxLength-int64(q.ready), 0))
		if q.rules.maxBytes == none {
			continue
		}
		room := q.rules.maxBytes - q.readyBytes
		for i := range n {
			if room -= run[i].body(); room < 0 {
				n = i
				break
			}
		}
	}
	return int(n)
}

// insertRefused puts a message into those of its queues that do not refuse it. What
// they have of it is an ordinary message: whoever sends it again, because it was
// refused, sends it to all.
func (s *Session) insertRefused(queues []*Queue, it *pubItem) place {
	r := path{queues: queues}
	entering := [1]pubItem{*it}
	one := &entering[0]
	one.r = &r
	takers, dead := one.takersLocked()
	one.tag, one.from, one.ext = 0, nil, nil
	it.refused = true
	alive, handing := takers[:len(takers)-dead], takers[len(takers)-dead:]
	letter := it.m.unlogged(s.b, dead)
	where := nowhere
	if len(alive) > 0 {
		where, _ = s.enter(alive, entering[:])
		s.dispatch(alive)
	} else {
		s.b.evict.hot.Add(-int64(it.m.size))
	}
	for _, q := range handing {
		q.expelLocked(q.appendLocked(letter, one.arrival(q)), maxlen)
	}
	s.dispatch(handing)
	return where
}

// takersLocked finds the queues of a message, all locked, that it enters, and notes
// whether another one refuses it. The last of them, so many as dead, refuse it too,
// but hand it to their dead-letter exchanges: they must expel it at once, and have it
// as a message that the log does not know of. Otherwise a crash before it has left
// would have it back as one of theirs, which its publisher knows to be refused.
func (it *pubItem) takersLocked() (takers []*Queue, dead int) {
	refusing := false
	for _, q := range it.r.queues {
		refusing = refusing || q.mayRefuse()
	}
	if !refusing {
		return it.aliveLocked(), 0
	}
	body := it.body()
	var last []*Queue
	for _, q := range it.r.queues {
		switch {
		case q.deleted:
		case q.repeatsLocked(it):
			it.repeated = true
		case !q.refusesLocked(body):
			takers = append(takers, q)
		default:
			it.refused = true
			if q.rules.overflow == rejectPublishDLX && q.rules.deadTo != nil {
				last = append(last, q)
			}
		}
	}
	return append(takers, last...), len(last)
}

// body is how many bytes the body of a publish has.
func (it *pubItem) body() int64 { return int64(it.m.size) - int64(it.over) }

func (it *pubItem) aliveLocked() []*Queue {
	for i, q := range it.r.queues {
		if !q.deleted {
			continue
		}
		alive := append([]*Queue{}, it.r.queues[:i]...)
		for _, q := range it.r.queues[i:] {
			if !q.deleted {
				alive = append(alive, q)
			}
		}
		return alive
	}
	return it.r.queues
}
