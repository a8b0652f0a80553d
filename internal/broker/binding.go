package broker

import (
	"slices"

	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/route"
)

type bindingKey struct {
	to   any // *Queue or *exchange
	key  string
	args string
}

type binding struct {
	from    *exchange
	key     bindingKey
	durable bool
	match   route.HeadersMatcher
}

// attach adds a binding to what its exchange routes by.
func (x *exchange) attach(b *binding) {
	x.bindings[b.key] = b
	switch to := b.key.to.(type) {
	case *Queue:
		if to.bindings == nil {
			to.bindings = map[*binding]struct{}{}
		}
		to.bindings[b] = struct{}{}
	case *exchange:
		if to.incoming == nil {
			to.incoming = map[*binding]struct{}{}
		}
		to.incoming[b] = struct{}{}
	}
	x.choice.Store(nil)
	switch x.typ {
	case direct:
		if x.byKey == nil {
			x.byKey = map[string][]*binding{}
		}
		x.byKey[b.key.key] = append(x.byKey[b.key.key], b)
	case topic:
		x.topic.Add(b.key.key, b)
	case headers:
		x.headers = append(x.headers, b)
	}
}

func (x *exchange) detach(b *binding) {
	delete(x.bindings, b.key)
	switch to := b.key.to.(type) {
	case *Queue:
		delete(to.bindings, b)
	case *exchange:
		delete(to.incoming, b)
	}
	x.choice.Store(nil)
	switch x.typ {
	case direct:
		if rest := remove(x.byKey[b.key.key], b); len(rest) > 0 {
			x.byKey[b.key.key] = rest
		} else {
			delete(x.byKey, b.key.key)
		}
	case topic:
		x.topic.Remove(b.key.key, b)
	case headers:
		x.headers = remove(x.headers, b)
	}
}

func remove(list []*binding, b *binding) []*binding {
	if i := slices.Index(list, b); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// BindQueue sends to a queue what an exchange gets for this key. Errors:
// NotFound, AccessRefused (the default exchange), ResourceLocked,
// PreconditionFailed (arguments).
func (s *Session) BindQueue(queue, exchange, key string, args []byte) error {
	if err := s.mayBind(aQueue, queue, exchange, key); err != nil {
		return err
	}
	return s.bind(exchange, key, args, func() (any, bool, error) {
		q, err := s.queueLocked(queue)
		if err != nil {
			return nil, false, err
		}
		return q, q.logged, nil
	})
}

// UnbindQueue undoes BindQueue; what is not bound is no error.
func (s *Session) UnbindQueue(queue, exchange, key string, args []byte) error {
	if err := s.mayBind(aQueue, queue, exchange, key); err != nil {
		return err
	}
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
	if err := s.mayBind(anExchange, destination, source, key); err != nil {
		return err
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
	if err := s.mayBind(anExchange, destination, source, key); err != nil {
		return err
	}
	return s.unbind(source, key, args, func() (any, error) {
		if x := s.v.exchanges[destination]; x != nil {
			return x, nil
		}
		return nil, nil
	})
}

func (s *Session) bind(source, key string, args []byte, find func() (to any, durable bool, err error)) error {
	s.Flush()
	v := s.v
	if len(args) > argsMost {
		return errorf(PreconditionFailed, "the arguments of a binding may have %d bytes, not %d", argsMost, len(args))
	}
	v.mu.Lock()
	if v.gone.Load() {
		v.mu.Unlock()
		return v.isDeleted()
	}
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
		return s.await(v.b.log.caughtUp())
	}
	x.attach(b)
	v.changed()
	var w *waiter
	if b.durable {
		w = v.b.log.write(recBind, v.bindingRecord(b))
	}
	v.mu.Unlock()
	return s.await(w)
}

func (s *Session) unbind(source, key string, args []byte, find func() (to any, err error)) error {
	s.Flush()
	v := s.v
	v.mu.Lock()
	to, err := find()
	x := v.exchanges[source]
	if err != nil || to == nil || x == nil {
		v.mu.Unlock()
		if err != nil {
			return err
		}
		return s.await(v.b.log.caughtUp())
	}
	b := x.bindings[bindingKey{to, key, string(args)}]
	if b == nil {
		v.mu.Unlock()
		return s.await(v.b.log.caughtUp())
	}
	var w *waiter
	if b.durable {
		w = v.b.log.write(recUnbind, v.bindingRecord(b))
	}
	if w2 := v.unbind(b); w2 != nil {
		w = w2
	}
	v.mu.Unlock()
	return s.await(w)
}

// compile checks a binding, and prepares one of a headers exchange.
func (b *binding) compile() error {
	args, ok := message.DecodeHeaders([]byte(b.key.args))
	if !ok {
		return errorf(PreconditionFailed, "invalid arguments of a binding to exchange '%s'", b.from.spec.Name)
	}
	switch b.from.typ {
	case headers:
	case consistentHash:
		return checkWeight(b.key.key)
	case localRandom:
		return b.checkLocal()
	default:
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
