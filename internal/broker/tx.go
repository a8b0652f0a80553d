package broker

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// transaction gathers what a channel publishes and settles until it commits. What
// it settles may have been delivered on other channels of the session.
type transaction struct {
	ch      *Channel
	pubs    []pubItem
	bytes   int
	settles []txSettle
	waiting atomic.Int64 // len(pubs), of any goroutine
}

type txSettle struct {
	of   *Channel // that it was delivered on
	list []delivered
	how  outcome
}

// TxSelect makes the channel transactional. PreconditionFailed in confirm mode.
func (ch *Channel) TxSelect() error {
	if ch.confirms {
		return errorf(PreconditionFailed, "cannot switch from confirm to tx mode")
	}
	ch.s.Flush()
	if ch.tx == nil {
		ch.begin()
	}
	return nil
}

// begin begins a transaction. Others look at ch.tx.
func (ch *Channel) begin() {
	ch.s.mu.Lock()
	defer ch.s.mu.Unlock()
	ch.tx = &transaction{ch: ch}
}

// TxAck settles, with the channel's next commit, the delivery with this tag of
// another channel of the session, or (multiple) all up to it; tag 0 with multiple
// means all. They leave that channel now, so that nothing else settles them, and
// take its room until the commit. TxRollback gives them back to it. Either channel
// may be closed first: a commit still settles them, and without one they are
// requeued. PreconditionFailed: this channel is not transactional, or no such
// delivery awaits it.
func (ch *Channel) TxAck(of *Channel, tag uint64, multiple bool) error {
	return ch.txSettle(of, tag, multiple, acked)
}

// TxNack refuses deliveries of another channel as TxAck settles them: with the
// commit they go back to their place in the queue, or away.
func (ch *Channel) TxNack(of *Channel, tag uint64, multiple, back bool) error {
	if back {
		return ch.txSettle(of, tag, multiple, requeue)
	}
	return ch.txSettle(of, tag, multiple, discarded)
}

func (ch *Channel) txSettle(of *Channel, tag uint64, multiple bool, how outcome) error {
	switch {
	case ch.tx == nil:
		return errorf(PreconditionFailed, "channel is not transactional")
	case of.s != ch.s:
		return errorf(PreconditionFailed, "the delivery is of another connection")
	}
	return ch.tx.settle(of, tag, multiple, how)
}

// settle notes a settlement; the deliveries leave their channel now, so that an
// unknown tag is found out at once, and take effect with the commit.
func (t *transaction) settle(of *Channel, tag uint64, multiple bool, how outcome) error {
	s := t.ch.s
	s.mu.Lock()
	list, err := of.takeUnackedLocked(nil, tag, multiple)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if len(list) > 0 {
		t.settles = append(t.settles, txSettle{of, list, how})
	}
	return nil
}

// TxCommit makes everything since the last commit take effect at once, and
// returns when it is durable. PreconditionFailed: the channel is not transactional,
// or a queue refused what was published to it, being full; the rest did take effect,
// as in RabbitMQ.
func (ch *Channel) TxCommit() error {
	t := ch.tx
	if t == nil {
		return errorf(PreconditionFailed, "channel is not transactional")
	}
	s := ch.s
	s.Flush()
	ch.begin()
	if len(t.pubs) == 0 && len(t.settles) == 0 {
		return nil
	}

	producers := s.v.producers.lockMany(t.pubs)
	windows := s.v.windows.lockMany(t.pubs)
	// All queues are locked together, in the order of their numbers, so that
	// the records of the transaction stand together in the log.
	var queues []*Queue
	for i := range t.pubs {
		queues = append(queues, t.pubs[i].r.queues...)
	}
	var resume []*Consumer
	s.mu.Lock()
	for _, st := range t.settles {
		resume = append(resume, st.of.creditLocked(st.list)...)
		st.of.countSettledLocked(st.list, st.how)
		for _, d := range st.list {
			queues = append(queues, d.q)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(queues, byNumber)
	queues = slices.Compact(queues)
	for _, q := range queues {
		q.mu.Lock()
	}
	l := s.b.log
	l.mu.Lock()
	l.markLocked(recTxBegin)
	var back []pubItem
	repeats, refused := 0, 0 // bytes of what no queue took because of that
	partial := false
	fresh := t.pubs[:0]
	for _, it := range t.pubs {
		if it.repeatsLocked() {
			repeats += int(it.m.size)
			continue
		}
		it.r.counts.in.Add(1)
		where := t.insertLocked(&it)
		partial = partial || it.refused
		if where != nowhere {
			s.pub.tally.routed(it.r, 1)
		}
		switch {
		case it.refused:
			if where == nowhere {
				refused += int(it.m.size)
			}
		case where == nowhere && it.repeated:
			repeats += int(it.m.size)
			if it.from != nil {
				it.from.acceptLocked(&it, true)
				l.recs = append(l.recs, record{n: it.id, ext: it.from.ext})
			}
		case where == nowhere:
			back = append(back, it)
		default:
			if it.from != nil {
				it.from.acceptLocked(&it, where == inLog)
			}
			it.rememberLocked(where)
		}
		fresh = append(fresh, it)
	}
	for _, st := range t.settles {
		slices.SortFunc(st.list, byQueue)
		for _, d := range st.list {
			d.q.countSettled(st.how, 1)
			switch {
			case d.q.deleted:
			case st.how >= requeue:
				d.q.returnLocked(d.seq, st.how)
			case st.how == discarded:
				d.q.expelLocked(d.seq, rejected)
			default:
				d.q.removeLocked(d.seq)
			}
			if d.q.single != nil {
				d.q.settledLocked(d)
			}
		}
	}
	for _, q := range queues {
		if q.logged {
			q.logLocked(true)
		}
	}
	l.markLocked(recTxEnd)
	w := l.waiterLocked()
	l.unlockAndWake()
	for _, q := range queues {
		q.forgetLocked()
		if !q.deleted {
			q.dispatchLocked()
		}
		q.mu.Unlock()
	}
	for _, w := range windows {
		w.mu.Unlock()
	}
	for _, p := range producers {
		p.mu.Unlock()
	}
	s.v.windows.trim()
	s.b.evict.hot.Add(int64(t.bytes - repeats - refused))
	s.unroutable(back)
	s.pub.tally.flush()
	resumeConsumers(resume)
	for i := range fresh {
		if r := fresh[i].r; r.reply != nil {
			s.b.deliverReplies(r.reply, fresh[i:i+1])
		}
	}
	err := w.wait(s.b)
	if s.b.evict.over() {
		s.b.evict.poke()
	}
	if err == nil {
		err = t.awaitMoves()
	}
	if err == nil && partial {
		return errorf(PreconditionFailed, "partial tx completion")
	}
	return err
}

// awaitMoves returns when what the transaction refused is where it goes, if it goes
// to other queues, and durably so.
func (t *transaction) awaitMoves() error {
	b := t.ch.s.b
	var last *Queue
	some := false
	for _, st := range t.settles {
		for _, d := range st.list {
			if st.how != discarded || d.q == last {
				continue
			}
			last = d.q
			left, err := b.awaitMoves(d.q)
			if err != nil {
				return err
			}
			some = some || left
		}
	}
	if !some {
		return nil
	}
	return b.await(b.log.caughtUp())
}

// repeatsLocked tells whether a message repeats one that was accepted, or leaves it
// the way that it has not gone yet. Its producer and its windows are locked.
func (it *pubItem) repeatsLocked() bool {
	if it.from != nil && it.from.repeatsLocked(it) {
		return true
	}
	if it.ext == nil {
		return false
	}
	r := it.seenLocked()
	if r != nil {
		it.r = r
	}
	return r == nil
}

// insertLocked puts one message into its queues, which are locked as the log is,
// and tells where it is.
func (t *transaction) insertLocked(it *pubItem) place {
	if it.r.reply != nil {
		return inMemory
	}
	m := it.m
	var targets []target
	var with []attrs
	logged, others := 0, 0
	takers, dead := it.takersLocked()
	takers, handing := takers[:len(takers)-dead], takers[len(takers)-dead:]
	letter := it.m.unlogged(t.ch.s.b, dead)
	for _, q := range handing {
		q.expelLocked(q.appendLocked(letter, it.arrival(q)), maxlen)
	}
	for _, q := range takers {
		if q.logged {
			logged++
		} else {
			others++
		}
	}
	if logged+others == 0 {
		return nowhere
	}
	entering := *it
	if it.refused {
		entering.from, entering.ext = nil, nil
	}
	other := m.split(t.ch.s.b, logged, others)
	for _, q := range takers {
		held := m
		if !q.logged {
			held = other
		}
		seq := q.appendLocked(held, it.arrival(q))
		if q.logged && m.persistent {
			targets = append(targets, target{q.num, seq})
			with = addAttrs(with, len(targets), q.publishAttrsLocked(it, seq))
		}
	}
	if len(targets) == 0 {
		return inMemory
	}
	l := t.ch.s.b.log
	m.logged, m.journaled = int32(len(targets)), true
	l.publishToLocked(&entering, targets, with)
	return inLog
}

// TxRollback drops what was published since the last commit; what was settled
// since is unsettled again, and is not redelivered by that, unless the channel
// that it was delivered on is closed: then it is requeued.
func (ch *Channel) TxRollback() error {
	t := ch.tx
	if t == nil {
		return errorf(PreconditionFailed, "channel is not transactional")
	}
	ch.begin()
	var back []delivered
	var resume []*Consumer
	returned := map[*Channel][]delivered{}
	s := ch.s
	s.mu.Lock()
	for _, st := range t.settles {
		if st.of.closed {
			resume = append(resume, st.of.creditLocked(st.list)...)
			back = append(back, st.list...)
		} else {
			returned[st.of] = append(returned[st.of], st.list...)
		}
	}
	for of, list := range returned {
		of.unsettleLocked(list)
	}
	s.mu.Unlock()
	settleAll(back, requeue)
	resumeConsumers(resume)
	return nil
}

// unsettleLocked puts deliveries back that were taken off the channel, whose room
// they still have. s.mu is held.
func (ch *Channel) unsettleLocked(list []delivered) {
	ch.unacked.all(func(d delivered) { list = append(list, d) })
	slices.SortFunc(list, func(a, b delivered) int { return cmp.Compare(a.tag, b.tag) })
	ch.unacked = unackedRing{}
	for _, d := range list {
		ch.unacked.push(d)
	}
}
