package broker

import (
	"bytes"
	"slices"
	"time"
)

// ConsumeSpec is what a client asks of a new consumer.
type ConsumeSpec struct {
	Queue     string
	Tag       string // unique in its channel, not empty
	NoAck     bool   // what is delivered is settled
	Exclusive bool   // no other consumer may be on the queue
	Args      []byte // header list; x-priority and x-consumer-timeout (ms) are honoured
}

// A Consumer takes messages from one queue for one channel.
type Consumer struct {
	tag       string
	ch        *Channel
	q         *Queue // nil for direct reply-to
	token     string // of direct reply-to
	noAck     bool
	exclusive bool
	priority  int

	ownTimeout bool
	timeout    time.Duration // for which it may keep a delivery, 0: for ever; if ownTimeout
	args       []byte        // header list

	// Guarded by q.mu.
	started bool
	gone    bool
	ringed  bool
	slot    int    // in the ring
	place   int    // in q.consumers
	arrival uint64 // in q.single; 0: it never was there
	waitAt  int    // 1 and more: its place in q.single.waiting
	held    int    // deliveries of it that are not settled, if the queue has q.single
	watch   *watch // nil: it may keep deliveries for ever

	// Guarded by the session's mutex.
	prefetch uint32
	inFlight uint32
	parked   bool
	stalled  bool // it is in the session's list of those
	shares   bool // it is in the channel's list of those that wait for its room
}

// Tag is the consumer's name in its channel.
func (c *Consumer) Tag() string { return c.tag }

// Channel is the channel that the consumer belongs to.
func (c *Consumer) Channel() *Channel { return c.ch }

type verdict uint8

const (
	assigned  verdict = iota
	noRoom            // the consumer is parked until it has room
	notLoaded         // the next message is being read back
)

// assignLocked moves up to most messages from the head of the queue to the
// consumer, as far as it has room. q.mu is held.
func (c *Consumer) assignLocked(most int) verdict {
	q, ch, s := c.q, c.ch, c.ch.s
	did, again := 0, 0
	result := assigned
	s.mu.Lock()
	for ; most > 0; most-- {
		if s.outBytes >= outboxLimit {
			c.parked = true
			if !c.stalled {
				c.stalled = true
				s.stalled = append(s.stalled, c)
			}
			result = noRoom
			break
		}
		if !ch.roomLocked(c) {
			result = noRoom
			break
		}
		seq, e := q.peekLocked()
		if e == nil {
			break
		}
		block := e.msg.block()
		if block == nil {
			q.loadLocked(seq)
			result = notLoaded
			break
		}
		if seq&(chunkSize-1) == 0 {
			q.readAheadLocked(seq)
		}
		redelivered := e.redelivered
		if redelivered {
			again++
		}
		if e.count != 0 {
			block = q.shownLocked(e, block, false)
		}
		q.takeLocked(seq, e)
		ch.lastTag++
		if c.noAck {
			q.removeLocked(seq)
		} else {
			ch.unacked.push(delivered{q, c, seq, ch.lastTag})
			if q.single != nil {
				c.held++
			}
			c.inFlight++
			ch.inFlight++
			s.unacked++
		}
		s.pushLocked(Event{
			Kind: EventDelivery, Redelivered: redelivered,
			Tag: ch.lastTag, Consumer: c, Data: block,
		})
		did++
	}
	if did > 0 {
		ch.countDeliveredLocked(q, c.noAck, did, again)
	}
	s.mu.Unlock()
	if did > 0 {
		s.signal()
	}
	return result
}

// resumeConsumers gives consumers that were parked, and are no longer, their
// turns again.
func resumeConsumers(list []*Consumer) {
	for _, c := range list {
		c.resume()
	}
}

func (c *Consumer) resume() {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if !c.gone && c.started {
		q.joinLocked(c)
		q.dispatchLocked()
	}
}

// Consume registers a consumer; it gets nothing before Start. Errors: NotFound,
// ResourceLocked (exclusive to another connection), AccessRefused (an exclusive
// consumer is in the way, or the queue is in use), NotAllowed (tag in use),
// PreconditionFailed (an argument).
func (ch *Channel) Consume(spec ConsumeSpec) (*Consumer, error) {
	s := ch.s
	s.Flush()
	if old := ch.consumers[spec.Tag]; old != nil {
		if !old.ended() {
			return nil, errorf(NotAllowed, "attempt to reuse consumer tag '%s'", spec.Tag)
		}
		s.mu.Lock()
		ch.forgetLocked(old)
		s.mu.Unlock()
	}
	c := &Consumer{tag: spec.Tag, ch: ch, noAck: spec.NoAck, exclusive: spec.Exclusive, prefetch: ch.prefetch, args: bytes.Clone(spec.Args)}
	if spec.Queue == ReplyTo {
		return ch.consumeReplies(c)
	}
	if err := s.may(Read, aQueue, spec.Queue); err != nil {
		return nil, err
	}
	if a, ok := findArg(spec.Args, "x-priority"); ok {
		n, ok := a.decoded().(int64)
		if !ok {
			return nil, errorf(PreconditionFailed, "invalid arg 'x-priority' for queue '%s' in vhost '%s': \"expected integer, got %s\"", spec.Queue, s.v.name, a.typeName())
		}
		c.priority = int(n)
	}
	if a, ok := findArg(spec.Args, "x-consumer-timeout"); ok {
		if wrong := duration(a, spec.Args); wrong != "" {
			return nil, errorf(PreconditionFailed, "invalid arg 'x-consumer-timeout' for queue '%s' in vhost '%s': %s", spec.Queue, s.v.name, wrong)
		}
		c.ownTimeout, c.timeout = true, time.Duration(a.decoded().(int64))*time.Millisecond
	}
	q, err := s.v.queue(spec.Queue, s)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.deleted:
		return nil, s.v.noQueue(spec.Queue)
	case q.exclusive != nil || spec.Exclusive && (len(q.consumers) > 0 || q.rules.single):
		return nil, errorf(AccessRefused, "queue '%s' in vhost '%s' in exclusive use", q.name, s.v.name)
	}
	if spec.Exclusive {
		q.exclusive = c
	}
	c.q = q
	c.place = len(q.consumers)
	q.consumers = append(q.consumers, c)
	q.hadOne = true
	ch.remember(c)
	return c, nil
}

// ended tells whether the broker ended the consumer, with its queue.
func (c *Consumer) ended() bool {
	if c.q == nil {
		return false
	}
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	return c.gone
}

// Start lets the consumer's deliveries begin.
func (c *Consumer) Start() {
	if c.q == nil {
		return
	}
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if c.gone || c.started {
		return
	}
	c.started = true
	c.q.joinLocked(c)
	c.watchLocked()
	c.q.dispatchLocked()
}

// Cancel ends a consumer: when it returns nothing more is queued for it. What
// was delivered stays unsettled. An unknown tag is no error.
func (ch *Channel) Cancel(tag string) {
	ch.s.Flush()
	c := ch.consumers[tag]
	if c == nil {
		return
	}
	ch.forget(c)
	ch.endConsumer(c)
}

// remember and forget keep the channel's list of consumers.
func (ch *Channel) remember(c *Consumer) {
	ch.s.mu.Lock()
	defer ch.s.mu.Unlock()
	if ch.consumers == nil {
		ch.consumers = map[string]*Consumer{}
	}
	ch.consumers[c.tag] = c
}

func (ch *Channel) forget(c *Consumer) {
	ch.s.mu.Lock()
	defer ch.s.mu.Unlock()
	delete(ch.consumers, c.tag)
}

// endConsumer takes a consumer off its queue, which goes with it if it is
// auto-delete and this was the last.
func (ch *Channel) endConsumer(c *Consumer) {
	if c.q == nil {
		ch.s.b.replies.remove(c)
		return
	}
	q := c.q
	q.mu.Lock()
	last := q.dropConsumerLocked(c)
	if q.single != nil && !q.deleted {
		q.dispatchLocked()
	}
	q.mu.Unlock()
	ch.s.mu.Lock()
	if !ch.s.closed {
		ch.forgetLocked(c)
	}
	ch.s.mu.Unlock()
	if last && q.spec.AutoDelete {
		q.v.deleteUnused(q)
	}
}

// forgetLocked takes a consumer that has ended off the lists of those that wait for
// room: a peer may begin and end any number while it makes none. s.mu is held.
func (ch *Channel) forgetLocked(c *Consumer) {
	same := func(x *Consumer) bool { return x == c }
	if c.stalled {
		ch.s.stalled = slices.DeleteFunc(ch.s.stalled, same)
	}
	if c.shares {
		ch.parked = slices.DeleteFunc(ch.parked, same)
	}
}

// dropConsumerLocked forgets a consumer and tells whether it was the last.
func (q *Queue) dropConsumerLocked(c *Consumer) bool {
	if c.gone {
		return false
	}
	c.gone = true
	last := len(q.consumers) - 1 // it takes the place of c: there may be thousands
	q.consumers[c.place] = q.consumers[last]
	q.consumers[c.place].place = c.place
	q.consumers[last] = nil
	q.consumers = q.consumers[:last]
	if q.exclusive == c {
		q.exclusive = nil
	}
	q.leaveLocked(c)
	if c.watch != nil {
		c.ch.s.mu.Lock()
		held := c.inFlight
		c.ch.s.mu.Unlock()
		if held == 0 { // else they are watched on
			c.unwatchLocked()
		}
	}
	if len(q.consumers) == 0 {
		q.releaseLocked()
		q.usedLocked()
	}
	return len(q.consumers) == 0
}

// Get takes the first ready message of a queue. found is whether an EventGot
// was queued. Errors: NotFound, ResourceLocked (the queue is exclusive to another
// connection, or a quorum queue with a single active consumer).
func (ch *Channel) Get(queue string, noAck bool) (found bool, err error) {
	s := ch.s
	s.Flush()
	s.waitWritten() // a request takes less room than what it asks for
	if err := s.may(Read, aQueue, queue); err != nil {
		return false, err
	}
	q, err := s.v.queue(queue, s)
	if err != nil {
		return false, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.usedLocked()
	for {
		switch {
		case q.deleted:
			return false, s.v.noQueue(queue)
		case q.rules.quorum && q.rules.single:
			return false, errorf(ResourceLocked, "cannot obtain access to locked queue '%s' in vhost '%s'. basic.get operations are not supported by quorum queues with single active consumer", queue, s.v.name)
		}
		seq, e := q.peekLocked()
		q.reportLocked() // what had expired
		if e == nil {
			q.count(GotEmpty, 1)
			s.mu.Lock()
			ch.countLocked(q.kind, GotEmpty, 1)
			s.mu.Unlock()
			return false, nil
		}
		block := e.msg.block()
		if block == nil {
			loaded := q.loadLocked(seq)
			q.mu.Unlock()
			select {
			case <-loaded:
			case <-s.b.failed:
			case <-s.stop:
			}
			err := s.b.Err()
			q.mu.Lock()
			if err != nil {
				return false, err
			}
			select {
			case <-s.stop:
				return false, nil
			default:
			}
			continue
		}
		redelivered := e.redelivered
		block = q.shownLocked(e, block, true)
		q.takeLocked(seq, e)
		s.mu.Lock()
		ch.lastTag++
		tag := ch.lastTag
		if !noAck {
			ch.unacked.push(delivered{q, nil, seq, tag})
			s.unacked++
		}
		s.pushLocked(Event{
			Kind: EventGot, Channel: ch, Tag: tag, Redelivered: redelivered,
			Count: uint32(q.ready), Data: block,
		})
		ch.countGotLocked(q, noAck, redelivered)
		s.mu.Unlock()
		s.signal()
		if noAck {
			q.removeLocked(seq)
			q.reportLocked()
		}
		q.touch()
		return true, nil
	}
}
