package broker

import (
	"cmp"
	"math"
	"slices"
)

// A Channel is a client's line of work within a connection: it owns consumers,
// unsettled deliveries, the confirms of its publishes, and a transaction. Its
// methods are called by the connection's reader.
type Channel struct {
	s  *Session
	id uint16

	// Of the reader's goroutine.
	consumers map[string]*Consumer
	prefetch  uint32 // for consumers to come
	confirms  bool
	published uint64 // tag of the last publish in confirm mode
	tx        *transaction
	replies   *Consumer // of direct replies
	incoming  *Incoming // that is not complete
	producer  *producer // of the last message that had one
	brought   brought   // of that producer

	sent sent

	// Guarded by s.mu.
	got      [queueKinds]*Traffic // what the channel was sent, and settled; nil: nothing
	looked   *rated
	closed   bool
	lastTag  uint64
	unacked  unackedRing
	unsent   uint64 // tag of the first delivery that was not written when the session was closed, and one; 0: none
	shared   uint32 // prefetch of the whole channel
	inFlight uint32
	parked   []*Consumer // waiting for the channel's room
	conf     confirms
	late     []uint64 // tags of what its consumers had for too long, in their order
	failed   bool     // the broker has closed it
}

// OpenChannel begins a channel. id must not be in use in the session.
func (s *Session) OpenChannel(id uint16) *Channel {
	ch := &Channel{s: s, id: id}
	s.mu.Lock()
	s.channels[id] = ch
	s.mu.Unlock()
	if !s.cfg.Unlisted {
		s.b.churn.channelsOpened.Add(1)
		s.countChannel(1)
	}
	return ch
}

// ID is the number that the channel was opened with.
func (ch *Channel) ID() uint16 { return ch.id }

// Close ends the channel: consumers end, what was not settled is requeued, an
// open transaction is rolled back. Deliveries that would have to be settled and
// were not written yet are not written; the channel's other events are, and
// nothing is queued behind them.
func (ch *Channel) Close() {
	ch.s.Flush()
	ch.close()
}

func (ch *Channel) close() {
	s := ch.s
	if ch.incoming != nil {
		ch.incoming.unclaim()
	}
	if ch.tx != nil {
		_ = ch.TxRollback() // cannot fail
	}
	s.mu.Lock()
	ch.tellConfirms()
	ch.closed = true
	s.mu.Unlock()
	for _, c := range ch.consumers {
		ch.forget(c)
		ch.endConsumer(c)
	}
	s.pub.tally.flush()
	if !s.cfg.Unlisted {
		s.b.churn.channelsClosed.Add(1)
		s.countChannel(-1)
	}
	s.mu.Lock()
	s.countOffLocked(ch)
	delete(s.channels, ch.id)
	var back []delivered
	ch.unacked.all(func(d delivered) { back = append(back, d) })
	ch.unacked = unackedRing{}
	s.unacked -= len(back)
	from := min(ch.firstUnsentLocked(), ch.unsent-1) // without unsent, that is more than any
	s.dropDeliveriesLocked(func(c *Consumer) bool { return c.ch == ch })
	s.mu.Unlock()
	settleSent(back, failed, from)
	s.unstall()
}

// delivered is one delivery that awaits settlement.
type delivered struct {
	q   *Queue    // nil: a hole
	c   *Consumer // nil: it was got, not consumed
	seq uint64
	tag uint64
}

// roomLocked tells whether the consumer may be given one more delivery, and
// parks it if not. s.mu is held.
func (ch *Channel) roomLocked(c *Consumer) bool {
	if ch.closed || ch.s.closed {
		return false
	}
	if ch.shared > 0 && ch.inFlight >= ch.shared && !c.noAck {
		c.parked = true
		if !c.shares { // the active consumer of a queue is asked whenever another comes or goes
			c.shares = true
			ch.parked = append(ch.parked, c)
		}
		return false
	}
	if c.prefetch > 0 && c.inFlight >= c.prefetch && !c.noAck {
		c.parked = true
		return false
	}
	return true
}

// Qos limits the deliveries that await settlement: of each consumer started
// from now on, or (global) of the whole channel at once. 0 is no limit.
func (ch *Channel) Qos(prefetch uint32, global bool) {
	s := ch.s
	s.mu.Lock()
	if !global {
		ch.prefetch = prefetch
		s.mu.Unlock()
		return
	}
	ch.shared = prefetch
	resume := ch.unparkLocked()
	s.mu.Unlock()
	resumeConsumers(resume)
}

func (ch *Channel) unparkLocked() []*Consumer {
	resume := ch.parked
	ch.parked = nil
	for _, c := range resume {
		c.parked, c.shares = false, false
	}
	return resume
}

type outcome uint8

const (
	acked     outcome = iota
	discarded         // refused, and not to come back
	requeue           // given back
	failed            // given back by a consumer that failed, or could do nothing more
	unsent            // taken back: it was never written to the consumer
)

// Ack settles the delivery with this tag, or (multiple) all up to it; tag 0
// with multiple means all. PreconditionFailed: no such delivery awaits it.
func (ch *Channel) Ack(tag uint64, multiple bool) error { return ch.settle(tag, multiple, acked) }

// Nack refuses deliveries: they go back to their place in the queue, or away.
func (ch *Channel) Nack(tag uint64, multiple, back bool) error {
	if back {
		return ch.settle(tag, multiple, requeue)
	}
	return ch.settle(tag, multiple, discarded)
}

// Reject refuses one delivery. It is as Nack, but that a message that goes back to its
// place is taken to have failed: queues with a limit of deliveries count that.
func (ch *Channel) Reject(tag uint64, back bool) error {
	if back {
		return ch.settle(tag, false, failed)
	}
	return ch.settle(tag, false, discarded)
}

func (ch *Channel) settle(tag uint64, multiple bool, how outcome) error {
	s := ch.s
	if ch.tx != nil {
		return ch.tx.settle(ch, tag, multiple, how)
	}
	list := s.pub.settling[:0]
	s.mu.Lock()
	list, err := ch.takeUnackedLocked(list, tag, multiple)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	resume := ch.creditLocked(list)
	ch.countSettledLocked(list, how)
	s.mu.Unlock()
	settleAll(list, how)
	resumeConsumers(resume)
	clear(list)
	if s.pub.settling = list[:0]; cap(list) > 4096 {
		s.pub.settling = nil
	}
	return nil
}

func (ch *Channel) takeUnackedLocked(list []delivered, tag uint64, multiple bool) ([]delivered, error) {
	u := &ch.unacked
	if multiple && tag == 0 {
		u.all(func(d delivered) { list = append(list, d) })
		*u = unackedRing{}
		ch.late = nil
		return list, nil
	}
	p := u.find(tag)
	late := len(ch.late) > 0 && ch.forgiveLocked(tag, multiple)
	switch {
	case late && multiple:
		return u.takeUpTo(tag, list), nil
	case late:
		return list, nil
	case p == nil:
		return nil, errorf(PreconditionFailed, "unknown delivery tag %d", tag)
	case multiple:
		return u.takeUpTo(tag, list), nil
	default:
		return append(list, u.take(p)), nil
	}
}

// creditLocked gives room back for deliveries that were taken off the channel,
// and returns the consumers that may go on because of it.
func (ch *Channel) creditLocked(list []delivered) (resume []*Consumer) {
	ch.s.unacked -= len(list)
	for i := range list {
		c := list[i].c
		if c == nil {
			continue
		}
		c.inFlight--
		ch.inFlight--
		if c.parked && c.prefetch > 0 && c.inFlight == c.prefetch-1 {
			c.parked = false
			resume = append(resume, c)
		}
	}
	if len(ch.parked) > 0 && ch.inFlight < ch.shared {
		resume = append(resume, ch.unparkLocked()...)
	}
	return resume
}

// settleAll carries out settlements queue by queue.
func settleAll(list []delivered, how outcome) { settleSent(list, how, math.MaxUint64) }

// settleSent is settleAll for deliveries of which those from a tag on are unsent.
func settleSent(list []delivered, how outcome, from uint64) {
	if how >= requeue {
		slices.SortFunc(list, byQueue) // nothing is given out again before what was in front of it is back
	}
	for len(list) > 0 {
		q := list[0].q
		n := 1
		for n < len(list) && list[n].q == q {
			n++
		}
		q.mu.Lock()
		if !q.deleted {
			q.countSettled(how, n)
			for i := range list[:n] {
				switch {
				case how == acked:
					q.removeLocked(list[i].seq)
				case how == discarded:
					q.expelLocked(list[i].seq, rejected)
				case list[i].tag >= from:
					q.returnLocked(list[i].seq, unsent)
				default:
					q.returnLocked(list[i].seq, how)
				}
				if q.single != nil {
					q.settledLocked(list[i])
				}
			}
			q.reportLocked()
			q.dispatchLocked()
		}
		q.mu.Unlock()
		list = list[n:]
	}
}

// Recover requeues all that the channel has not settled. Without requeue it
// would be redelivered to the same consumers, which no broker does any more:
// NotImplemented.
func (ch *Channel) Recover(back bool) error {
	if !back {
		return errorf(NotImplemented, "requeue=false")
	}
	ch.s.mu.Lock()
	held := ch.unacked.held()
	ch.s.mu.Unlock()
	if held == 0 {
		return nil
	}
	s := ch.s
	s.mu.Lock()
	list, err := ch.takeUnackedLocked(nil, 0, true)
	var resume []*Consumer
	if err == nil {
		resume = ch.creditLocked(list)
	}
	s.mu.Unlock()
	settleAll(list, requeue)
	resumeConsumers(resume)
	return err
}

func byNumber(a, b *Queue) int { return cmp.Compare(a.num, b.num) }

// byQueue orders deliveries so that settleAll takes each queue once.
func byQueue(a, b delivered) int {
	return cmp.Or(cmp.Compare(a.q.num, b.q.num), cmp.Compare(a.seq, b.seq))
}
