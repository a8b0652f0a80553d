package broker

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"

	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/route"
)

// CheckExchange tells whether an exchange is there: nil, or NotFound.
func (s *Session) CheckExchange(name string) error {
	if name == "" {
		return errDefaultExchange()
	}
	s.v.mu.RLock()
	defer s.v.mu.RUnlock()
	if s.v.exchanges[name] == nil {
		return s.v.noExchange(name)
	}
	return nil
}

func errDefaultExchange() *Error {
	return errorf(AccessRefused, "operation not permitted on the default exchange")
}

// DeclareExchange makes an exchange, or checks that the one of this name has
// the same properties. It returns when a durable one is in the journal.
func (s *Session) DeclareExchange(spec ExchangeSpec) error {
	s.Flush()
	v := s.v
	if spec.Name == "" {
		return errDefaultExchange()
	}
	switch spec.Type {
	case "direct", "fanout", "topic", "headers":
	default:
		if len(spec.Type) > 2 && spec.Type[:2] == "x-" {
			return errorf(Invalid, "unknown exchange type '%s'", spec.Type)
		}
		return errorf(Invalid, "invalid exchange type '%s'", spec.Type)
	}
	if a, ok := findArg(spec.Args, "alternate-exchange"); ok && a.kind != 'S' {
		return errorf(PreconditionFailed, "invalid type '%s' for arg 'alternate-exchange' in exchange '%s' in vhost '%s'", a.typeName(), spec.Name, v.name)
	}
	if _, ok := message.DecodeHeaders(spec.Args); !ok {
		return errorf(PreconditionFailed, "invalid arguments for exchange '%s' in vhost '%s'", spec.Name, v.name)
	}
	v.mu.Lock()
	if x := v.exchanges[spec.Name]; x != nil {
		err := x.check(&spec)
		v.mu.Unlock()
		if err != nil || !spec.Durable {
			return err
		}
		return v.b.await(v.b.log.caughtUp())
	}
	if reserved(spec.Name) {
		v.mu.Unlock()
		return errorf(AccessRefused, "exchange name '%s' contains reserved prefix 'amq.*'", spec.Name)
	}
	x := newExchange(v, spec)
	v.exchanges[spec.Name] = x
	v.changed()
	var w *waiter
	if spec.Durable {
		w = v.b.log.write(recExchange, x.record())
	}
	v.mu.Unlock()
	if _, ok := findArg(spec.Args, "alternate-exchange"); ok {
		v.b.logger.Warn("an argument is kept, but has no effect yet", "exchange", spec.Name, "argument", "alternate-exchange")
	}
	return v.b.await(w)
}

func (b *Broker) await(w *waiter) error {
	if w == nil {
		return nil
	}
	return w.wait(b)
}

func (x *exchange) record() []byte {
	b := appendText(nil, x.v.name)
	b = appendText(b, x.spec.Name)
	b = appendText(b, x.spec.Type)
	b = append(b, flags(x.spec.Durable, x.spec.AutoDelete, x.spec.Internal))
	return appendText(b, x.spec.Args)
}

func flags(durable, autoDelete, internal bool) byte {
	f := byte(0)
	if durable {
		f |= flagDurable
	}
	if autoDelete {
		f |= flagAutoDelete
	}
	if internal {
		f |= flagInternal
	}
	return f
}

func (x *exchange) check(spec *ExchangeSpec) error {
	cur, name, vhost := &x.spec, spec.Name, x.v.name
	switch {
	case cur.Type != spec.Type:
		return inequivalent("type", "exchange", name, vhost, spec.Type, cur.Type)
	case cur.Durable != spec.Durable:
		return inequivalent("durable", "exchange", name, vhost, spec.Durable, cur.Durable)
	case cur.AutoDelete != spec.AutoDelete:
		return inequivalent("auto_delete", "exchange", name, vhost, spec.AutoDelete, cur.AutoDelete)
	case cur.Internal != spec.Internal:
		return inequivalent("internal", "exchange", name, vhost, spec.Internal, cur.Internal)
	}
	if err := equivalent("alternate-exchange", "exchange", name, vhost, spec.Args, cur.Args); err != nil {
		return err
	}
	return nil
}

// DeleteExchange removes an exchange and its bindings; one that is not there is
// no error. ifUnused: PreconditionFailed while something is bound to it.
func (s *Session) DeleteExchange(name string, ifUnused bool) error {
	s.Flush()
	v := s.v
	if name == "" {
		return errDefaultExchange()
	}
	if reserved(name) {
		return errorf(AccessRefused, "deletion of system exchange '%s' in vhost '%s' not allowed", name, v.name)
	}
	v.mu.Lock()
	x := v.exchanges[name]
	if x == nil {
		v.mu.Unlock()
		return v.b.await(v.b.log.caughtUp())
	}
	if ifUnused && len(x.bindings) > 0 {
		v.mu.Unlock()
		return errorf(PreconditionFailed, "exchange '%s' in vhost '%s' in use", name, v.name)
	}
	w := v.dropExchange(x)
	v.mu.Unlock()
	return v.b.await(w)
}

// dropExchange removes an exchange, and what goes with it. v.mu is held.
func (v *VHost) dropExchange(x *exchange) (w *waiter) {
	delete(v.exchanges, x.spec.Name)
	for _, b := range x.bindings {
		x.detach(b)
	}
	if x.spec.Durable {
		w = v.b.log.write(recExchangeGone, appendText(appendText(nil, v.name), x.spec.Name))
	}
	for b := range x.incoming {
		if w2 := v.unbind(b); w2 != nil {
			w = w2
		}
	}
	v.changed()
	return w
}

// unbind removes a binding, and its source if it is auto-delete and this was
// its last. v.mu is held. The record is left to the destination's.
func (v *VHost) unbind(b *binding) (w *waiter) {
	x := b.from
	x.detach(b)
	v.changed()
	if x.spec.AutoDelete && len(x.bindings) == 0 && v.exchanges[x.spec.Name] == x {
		w = v.dropExchange(x)
	}
	return w
}

func (v *VHost) bindingRecord(b *binding) []byte {
	r := appendText(nil, v.name)
	r = appendText(r, b.from.spec.Name)
	switch to := b.key.to.(type) {
	case *Queue:
		r = append(r, 0)
		r = appendText(r, to.name)
	case *exchange:
		r = append(r, 1)
		r = appendText(r, to.spec.Name)
	}
	r = appendText(r, b.key.key)
	return appendText(r, b.key.args)
}

func (s *Session) bind(source, key string, args []byte, find func() (to any, durable bool, err error)) error {
	s.Flush()
	v := s.v
	if source == "" {
		return errDefaultExchange()
	}
	v.mu.Lock()
	x := v.exchanges[source]
	if x == nil {
		v.mu.Unlock()
		return v.noExchange(source)
	}
	to, durable, err := find()
	if err != nil {
		v.mu.Unlock()
		return err
	}
	b := &binding{from: x, key: bindingKey{to, key, string(args)}, durable: durable && x.spec.Durable}
	if err := b.compile(); err != nil {
		v.mu.Unlock()
		return err
	}
	if x.bindings[b.key] != nil {
		v.mu.Unlock()
		if !b.durable {
			return nil
		}
		return v.b.await(v.b.log.caughtUp())
	}
	x.attach(b)
	v.changed()
	var w *waiter
	if b.durable {
		w = v.b.log.write(recBind, v.bindingRecord(b))
	}
	v.mu.Unlock()
	return v.b.await(w)
}

// compile prepares a binding of a headers exchange.
func (b *binding) compile() error {
	args, ok := message.DecodeHeaders([]byte(b.key.args))
	if !ok {
		return errorf(PreconditionFailed, "invalid arguments of a binding to exchange '%s'", b.from.spec.Name)
	}
	if b.from.spec.Type != "headers" {
		return nil
	}
	if a, ok := findArg([]byte(b.key.args), "x-match"); ok {
		if a.kind != 'S' {
			return errorf(PreconditionFailed, "Invalid x-match field type %s (value %s); expected longstr", a.typeName(), a)
		}
	}
	m, err := route.ParseHeadersArgs(args)
	if err != nil {
		x, _ := findArg([]byte(b.key.args), "x-match")
		return errorf(PreconditionFailed, "Invalid x-match field value <<\"%s\">>; expected all, any, all-with-x, or any-with-x", x)
	}
	b.match = m
	return nil
}

func (s *Session) unbind(source, key string, args []byte, find func() (to any, err error)) error {
	s.Flush()
	v := s.v
	if source == "" {
		return errDefaultExchange()
	}
	v.mu.Lock()
	to, err := find()
	x := v.exchanges[source]
	if err != nil || to == nil || x == nil {
		v.mu.Unlock()
		if err != nil {
			return err
		}
		return v.b.await(v.b.log.caughtUp())
	}
	b := x.bindings[bindingKey{to, key, string(args)}]
	if b == nil {
		v.mu.Unlock()
		return v.b.await(v.b.log.caughtUp())
	}
	var w *waiter
	if b.durable {
		w = v.b.log.write(recUnbind, v.bindingRecord(b))
	}
	if w2 := v.unbind(b); w2 != nil {
		w = w2
	}
	v.mu.Unlock()
	return v.b.await(w)
}

// BindQueue sends to a queue what an exchange gets for this key. Errors:
// NotFound, AccessRefused (the default exchange), ResourceLocked,
// PreconditionFailed (arguments).
func (s *Session) BindQueue(queue, exchange, key string, args []byte) error {
	return s.bind(exchange, key, args, func() (any, bool, error) {
		q, err := s.queueLocked(queue)
		if err != nil {
			return nil, false, err
		}
		return q, q.logged, nil
	})
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

// UnbindQueue undoes BindQueue; what is not bound is no error.
func (s *Session) UnbindQueue(queue, exchange, key string, args []byte) error {
	return s.unbind(exchange, key, args, func() (any, error) {
		q := s.v.queues[queue]
		if q == nil {
			return nil, nil
		}
		if q.owner != nil && q.owner != s {
			return nil, s.v.locked(queue)
		}
		return q, nil
	})
}

// BindExchange sends to an exchange what another gets for this key.
func (s *Session) BindExchange(destination, source, key string, args []byte) error {
	if destination == "" {
		return errDefaultExchange()
	}
	return s.bind(source, key, args, func() (any, bool, error) {
		x := s.v.exchanges[destination]
		if x == nil {
			return nil, false, s.v.noExchange(destination)
		}
		return x, x.spec.Durable, nil
	})
}

// UnbindExchange undoes BindExchange; what is not bound is no error.
func (s *Session) UnbindExchange(destination, source, key string, args []byte) error {
	if destination == "" {
		return errDefaultExchange()
	}
	return s.unbind(source, key, args, func() (any, error) {
		if x := s.v.exchanges[destination]; x != nil {
			return x, nil
		}
		return nil, nil
	})
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

func (q *Queue) info() QueueInfo {
	q.mu.Lock()
	defer q.mu.Unlock()
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
	if err := checkQueueArgs(v.name, spec.Name, spec.Args); err != nil {
		// What is there already is compared first.
		if q, err := v.queue(spec.Name, s); err == nil && q.check(&spec, s) == nil {
			return q.info(), nil
		}
		return QueueInfo{}, err
	}
	named := spec.Name != ""
	if !named {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		spec.Name = "amq.gen-" + base64.RawURLEncoding.EncodeToString(id[:])
	}
	v.mu.Lock()
	if q := v.queues[spec.Name]; q != nil {
		v.mu.Unlock()
		if err := q.check(&spec, s); err != nil {
			return QueueInfo{}, err
		}
		if !q.logged {
			return q.info(), nil
		}
		return q.info(), v.b.await(v.b.log.caughtUp())
	}
	if named && reserved(spec.Name) {
		v.mu.Unlock()
		return QueueInfo{}, errorf(AccessRefused, "queue name '%s' contains reserved prefix 'amq.*'", spec.Name)
	}
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
	v.mu.Unlock()
	for _, name := range withoutEffect {
		if _, ok := findArg(spec.Args, name); ok {
			v.b.logger.Warn("an argument is kept, but has no effect yet", "queue", spec.Name, "argument", name)
		}
	}
	return QueueInfo{Name: spec.Name}, v.b.await(w)
}

// addQueue adds a queue without a record. v.mu is held, or nobody else is there.
func (v *VHost) addQueue(num uint64, spec QueueSpec) *Queue {
	q := &Queue{v: v, name: spec.Name, num: num, spec: spec, logged: spec.Durable && !spec.Exclusive}
	v.queues[spec.Name] = q
	return q
}

func (q *Queue) record() []byte {
	b := binary.AppendUvarint(nil, q.num)
	b = appendText(b, q.v.name)
	b = appendText(b, q.name)
	b = append(b, flags(q.spec.Durable, q.spec.AutoDelete, false))
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
	for _, a := range queueArgs {
		if err := equivalent(a.name, "queue", q.name, vhost, spec.Args, cur.Args); err != nil {
			return err
		}
	}
	return nil
}

// PurgeQueue removes the ready messages of a queue and returns their number.
func (s *Session) PurgeQueue(name string) (int, error) {
	s.Flush()
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
		n++
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
	v.mu.Lock()
	q := v.queues[name]
	if q == nil {
		v.mu.Unlock()
		return 0, v.b.await(v.b.log.caughtUp())
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
	return ready, v.b.await(w)
}

// deleteUnused removes an auto-delete queue that lost its last consumer.
func (v *VHost) deleteUnused(q *Queue) {
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
	delete(v.queues, q.name)
	if q.owner != nil {
		delete(q.owner.exclusive, q)
	}
	for _, c := range q.consumers {
		c.gone = true
		q.ring.remove(c)
		c.ch.s.cancelled(c)
	}
	q.consumers = nil
	q.chunks.each(func(k *chunk) {
		for i := range k.entries {
			if m := k.entries[i].msg; m != nil {
				q.settled = append(q.settled, settledItem{k.first + uint64(i), m})
				k.entries[i] = entry{}
			}
		}
		k.live = 0
		v.b.evict.remove(k)
	})
	q.chunks = chunks{}
	q.ready, q.unacked = 0, 0
	if q.logged {
		l := v.b.log
		l.mu.Lock()
		l.dropLocked(q.num, q.settled)
		l.blobLocked(recQueueGone, binary.AppendUvarint(nil, q.num))
		w = l.waiterLocked()
		l.unlockAndWake()
	}
	q.forgetLocked()
	q.releaseLocked()
	for b := range q.bindings {
		if w2 := v.unbind(b); w2 != nil {
			w = w2
		}
	}
	v.changed()
	return w
}

// cancelled tells the peer that the broker ended a consumer.
func (s *Session) cancelled(c *Consumer) {
	if s.cfg.NotifyCancelled {
		s.push(Event{Kind: EventCancelled, Consumer: c, Channel: c.ch})
	}
}
