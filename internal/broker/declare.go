package broker

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"slices"
)

// QueueSpec is a queue as it is declared. An exclusive one belongs to its
// connection and goes with it.
type QueueSpec struct {
	Name                           string
	Durable, Exclusive, AutoDelete bool
	Args                           []byte // header list

	delays bool // it is what an exchange of this name keeps for later
}

// QueueInfo is what a declaration tells.
type QueueInfo struct {
	Name      string
	Messages  int // ready
	Consumers int
}

func (b *Broker) await(w *waiter) error {
	if w == nil {
		return nil
	}
	return w.wait(b)
}

// queueLocked finds a queue that the session may use. v.mu is held.
func (s *Session) queueLocked(name string) (*Queue, error) {
	q := s.v.queues[name]
	if q == nil {
		return nil, s.v.noQueue(name)
	}
	if q.owner != nil && q.owner != s {
		return nil, s.v.locked(name)
	}
	return q, nil
}

// CheckQueue tells how a queue is, if it is there and the session may use it.
func (s *Session) CheckQueue(name string) (QueueInfo, error) {
	s.Flush()
	if info, ok := s.b.replyQueue(name); ok {
		return info, nil
	}
	q, err := s.v.queue(name, s)
	if err != nil {
		return QueueInfo{}, err
	}
	return q.info(), nil
}

// info is for who declares the queue, or asks for it.
func (q *Queue) info() QueueInfo {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.usedLocked()
	return QueueInfo{Name: q.name, Messages: q.ready, Consumers: len(q.consumers)}
}

// DeclareQueue makes a queue, or checks that the one of this name has the same
// properties. An empty name stands for a new one that nobody else has. It
// returns when a durable queue is in the journal.
func (s *Session) DeclareQueue(spec QueueSpec) (QueueInfo, error) {
	s.Flush()
	v := s.v
	if info, ok := s.b.replyQueue(spec.Name); ok {
		return info, nil
	}
	named := spec.Name != ""
	if !named {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		spec.Name = "amq.gen-" + base64.RawURLEncoding.EncodeToString(id[:])
	}
	said := spec.Args
	v.ofDefaultKind(&spec)
	refused, asNew := s.mayDeclareQueue(&spec)
	if refused != nil && !(named && reserved(spec.Name)) { // of which is told below that it is
		return QueueInfo{}, refused
	}
	if err := checkQueueArgs(v.name, spec.Name, spec.Args); err != nil && asNew == nil {
		asNew = err
	}
	most, limited := v.b.limit(SettingVHostLimit, v.name, limitQueues)
	v.mu.Lock()
	if v.gone.Load() {
		v.mu.Unlock()
		return QueueInfo{}, v.isDeleted()
	}
	v.b.churn.queuesDeclared.Add(1)
	if q := v.queues[spec.Name]; q != nil {
		v.mu.Unlock()
		if refused != nil {
			return QueueInfo{}, refused
		}
		spec.Args = said
		if err := q.check(&spec, s); err != nil { // before its arguments are
			return QueueInfo{}, err
		}
		if !q.logged {
			return q.info(), nil
		}
		return q.info(), s.await(v.b.log.caughtUp())
	}
	if named && reserved(spec.Name) {
		v.mu.Unlock()
		return QueueInfo{}, errorf(AccessRefused, "queue name '%s' contains reserved prefix 'amq.*'", spec.Name)
	}
	if asNew == nil {
		asNew = spec.checkKind(v.name)
	}
	if asNew == nil {
		asNew = v.checkQuota(spec.Name, most, limited)
	}
	if asNew != nil {
		v.mu.Unlock()
		return QueueInfo{}, asNew
	}
	v.b.churn.queuesCreated.Add(1)
	q := v.addQueue(v.b.nextQueue.Add(1), spec)
	if spec.Exclusive {
		q.owner, q.logged = s, false
		s.exclusive[q] = struct{}{}
	}
	v.changed()
	var w *waiter
	if q.logged {
		w = v.b.log.write(recQueue, q.record())
	}
	q.mu.Lock()
	q.usedLocked()
	q.mu.Unlock()
	v.mu.Unlock()
	return QueueInfo{Name: spec.Name}, s.await(w)
}

// addQueue adds a queue without a record. v.mu is held, or nobody else is there.
func (v *VHost) addQueue(num uint64, spec QueueSpec) *Queue {
	q := &Queue{v: v, name: spec.Name, num: num, spec: spec, logged: spec.Durable && !spec.Exclusive}
	set := v.policies.Load()
	q.policies = set.ofQueue(&spec)
	q.rules = set.rulesOf(spec.Args, q.policies)
	if q.rules.quorum {
		q.kind = 1
	}
	q.used = v.b.clock.Load()
	v.queues[spec.Name] = q
	v.listing.add(q)
	return q
}

func (q *Queue) record() []byte {
	b := binary.AppendUvarint(nil, q.num)
	b = appendText(b, q.v.name)
	b = appendText(b, q.name)
	f := flags(q.spec.Durable, q.spec.AutoDelete, false)
	if q.spec.delays {
		f |= flagDelays
	}
	b = append(b, f)
	return appendText(b, q.spec.Args)
}

func (q *Queue) check(spec *QueueSpec, s *Session) error {
	cur, vhost := &q.spec, q.v.name
	switch {
	case q.owner != nil && q.owner != s, cur.Exclusive != spec.Exclusive:
		return q.v.locked(q.name)
	case cur.Durable != spec.Durable:
		return inequivalent("durable", "queue", q.name, vhost, spec.Durable, cur.Durable)
	case cur.AutoDelete != spec.AutoDelete:
		return inequivalent("auto_delete", "queue", q.name, vhost, spec.AutoDelete, cur.AutoDelete)
	}
	if bytes.Equal(spec.Args, cur.Args) {
		return nil
	}
	for _, a := range queueArgs {
		if _, ok := findArg(spec.Args, a.name); !ok && a.name == "x-queue-type" && cur.kind() == q.v.defaultKind() {
			continue // it is meant where nothing is said
		}
		if err := equivalent(a.name, "queue", q.name, vhost, spec.Args, cur.Args); err != nil {
			return err
		}
	}
	return nil
}

// PurgeQueue removes the ready messages of a queue and returns their number.
func (s *Session) PurgeQueue(name string) (int, error) {
	s.Flush()
	if err := s.may(Read, aQueue, name); err != nil {
		return 0, err
	}
	q, err := s.v.queue(name, s)
	if err != nil {
		return 0, err
	}
	q.mu.Lock()
	n := 0
	for {
		seq, e := q.peekLocked()
		if e == nil {
			break
		}
		q.removeLocked(seq)
		if n++; len(q.settled) >= settledMost {
			q.reportLocked()
		}
	}
	q.reportLocked()
	q.mu.Unlock()
	if !q.logged || n == 0 {
		return n, nil
	}
	l := s.b.log
	l.mu.Lock()
	w := l.waiterLocked()
	l.unlockAndWake()
	return n, w.wait(s.b)
}

// DeleteQueue removes a queue and all that is in it, and returns the number of
// its ready messages; one that is not there is no error. PreconditionFailed:
// ifUnused and it has consumers, or ifEmpty and it has messages.
func (s *Session) DeleteQueue(name string, ifUnused, ifEmpty bool) (int, error) {
	s.Flush()
	v := s.v
	if err := s.may(Configure, aQueue, name); err != nil {
		return 0, err
	}
	if q, err := v.queue(name, s); err == nil {
		if _, err := v.b.awaitMoves(q); err != nil {
			return 0, err
		}
	}
	v.mu.Lock()
	q := v.queues[name]
	if q == nil {
		v.mu.Unlock()
		return 0, s.await(v.b.log.caughtUp())
	}
	if q.owner != nil && q.owner != s {
		v.mu.Unlock()
		return 0, v.locked(name)
	}
	q.mu.Lock()
	ready, consumers := q.ready, len(q.consumers)
	switch {
	case ifEmpty && ready > 0:
		q.mu.Unlock()
		v.mu.Unlock()
		return 0, errorf(PreconditionFailed, "queue '%s' in vhost '%s' not empty", name, v.name)
	case ifUnused && consumers > 0:
		q.mu.Unlock()
		v.mu.Unlock()
		return 0, errorf(PreconditionFailed, "queue '%s' in vhost '%s' in use", name, v.name)
	}
	w := v.dropQueueLocked(q)
	q.mu.Unlock()
	v.mu.Unlock()
	return ready, s.await(w)
}

// deleteUnused removes an auto-delete queue that lost its last consumer.
func (v *VHost) deleteUnused(q *Queue) {
	_, _ = v.b.awaitMoves(q) // if that fails the broker does
	v.mu.Lock()
	q.mu.Lock()
	if !q.deleted && len(q.consumers) == 0 && q.hadOne {
		v.dropQueueLocked(q)
	}
	q.mu.Unlock()
	v.mu.Unlock()
}

// deleteExclusive removes the queues that belong to the session.
func (s *Session) deleteExclusive() {
	v := s.v
	v.mu.RLock()
	queues := slices.Collect(maps.Keys(s.exclusive))
	v.mu.RUnlock()
	for _, q := range queues {
		_, _ = v.b.awaitMoves(q) // if that fails the broker does
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for q := range s.exclusive {
		q.mu.Lock()
		v.dropQueueLocked(q)
		q.mu.Unlock()
	}
}

// dropQueueLocked removes a queue; v.mu and q.mu are held. Its consumers are
// told, its messages forgotten. A publish that found the queue before finds it
// deleted now; one that finds a new queue of the same name finds another number.
func (v *VHost) dropQueueLocked(q *Queue) (w *waiter) {
	if q.deleted {
		return nil
	}
	q.deleted = true
	if q.delay == nil {
		delete(v.queues, q.name)
		v.listing.remove(q)
	}
	v.b.countOff(q)
	if q.owner != nil {
		delete(q.owner.exclusive, q)
	}
	for _, c := range q.consumers {
		c.gone = true
		c.unwatchLocked()
		q.ring.remove(c)
		c.ch.s.cancelled(c)
	}
	q.consumers = nil
	// The record comes first: a segment is dropped when nothing in it is alive and
	// all that was appended by then is durable.
	if q.logged && !v.gone.Load() { // whose own record says it
		l := v.b.log
		l.mu.Lock()
		l.blobLocked(recQueueGone, binary.AppendUvarint(nil, q.num))
		w = l.waiterLocked()
		l.mu.Unlock() // dropSettledLocked wakes
	}
	q.eachChunk(func(k *chunk) {
		if k.packed != nil {
			k.unpack()
		}
		for i := range k.entries {
			if m := k.entries[i].msg; m != nil {
				q.settled = append(q.settled, settledItem{k.first + uint64(i), m})
				k.entries[i] = entry{}
			}
		}
		k.live, k.entries = 0, nil
		v.b.evict.remove(k)
		if len(q.settled) >= settledMost {
			q.dropSettledLocked()
		}
	})
	q.lane, q.more, q.values = lane{}, nil, nil
	q.ready, q.unacked, q.waiting, q.readyBytes, q.bytes = 0, 0, 0, 0, 0
	q.lasting.messages, q.lasting.bytes = 0, 0
	if q.clock != nil {
		v.b.timers.remove(q.clock)
		q.clock = nil
	}
	if q.exit != nil {
		q.exit.dropLocked()
	}
	q.dropSettledLocked()
	q.releaseLocked()
	for b := range q.bindings {
		if w2 := v.unbind(b); w2 != nil {
			w = w2
		}
	}
	v.changed()
	return w
}

// dropSettledLocked forgets messages of a queue that is being deleted.
func (q *Queue) dropSettledLocked() {
	if q.logged {
		l := q.v.b.log
		l.mu.Lock()
		l.dropLocked(q.num, q.settled)
		l.unlockAndWake()
	}
	q.forgetLocked()
}

// cancelled tells the peer that the broker ended a consumer.
func (s *Session) cancelled(c *Consumer) {
	if s.cfg.NotifyCancelled {
		s.push(Event{Kind: EventCancelled, Consumer: c, Channel: c.ch})
	}
}
