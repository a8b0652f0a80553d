package broker

import (
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/route"
)

// ExchangeSpec is an exchange as it is declared. Type is one of exchangeTypes.
type ExchangeSpec struct {
	Name, Type                    string
	Durable, AutoDelete, Internal bool
	Args                          []byte // header list
}

// exchange routes messages to what is bound to it. Guarded by its v.mu.
type exchange struct {
	v    *VHost
	spec ExchangeSpec
	typ  exchangeType

	counts exchangeCounts

	policies policies

	bindings map[bindingKey]*binding // where it is the source
	incoming map[*binding]struct{}   // where it is the destination

	byKey   map[string][]*binding // direct
	topic   route.Trie[*binding]
	headers []*binding
	choice  atomic.Pointer[choice] // of those that choose one of what is bound; nil: to be made anew
	seen    *window                // of one that drops repeats
	kept    *Queue                 // of what one that delays messages keeps for later
	keeps   *path                  // that leads there
}

// exchangeType is how an exchange routes.
type exchangeType uint8

const (
	nothing exchangeType = iota // of a type that this broker does not know
	direct
	fanout
	topic
	headers
	consistentHash
	modulusHash
	random
	localRandom
	deduplication
)

var exchangeTypes = map[string]exchangeType{
	"direct": direct, "fanout": fanout, "topic": topic, "headers": headers,
	"x-consistent-hash": consistentHash, "x-modulus-hash": modulusHash,
	"x-random": random, "x-local-random": localRandom,
	"x-message-deduplication": deduplication,
}

// chooses tells whether an exchange of a type sends a message to one of what is
// bound to it.
func (t exchangeType) chooses() bool { return consistentHash <= t && t <= localRandom }

var builtIn = map[string]string{
	"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic", "amq.headers": "headers", "amq.match": "headers",
}

func newExchange(v *VHost, spec ExchangeSpec) *exchange {
	x := &exchange{v: v, spec: spec, typ: spec.routes(), bindings: map[bindingKey]*binding{}}
	if x.typ == deduplication {
		x.seen = v.newSeen(x)
	}
	x.matchPolicies(v.policies.Load())
	return x
}

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
	if err := checkExchangeType(spec.Type); err != nil {
		return err
	}
	refused, asNew := s.mayDeclareExchange(&spec)
	if refused != nil {
		return refused
	}
	v.mu.Lock()
	if v.gone.Load() {
		v.mu.Unlock()
		return v.isDeleted()
	}
	if x := v.exchanges[spec.Name]; x != nil {
		err := x.check(&spec)
		v.mu.Unlock()
		if err != nil || !spec.Durable {
			return err
		}
		return s.await(v.b.log.caughtUp())
	}
	if reserved(spec.Name) {
		v.mu.Unlock()
		return errorf(AccessRefused, "exchange name '%s' contains reserved prefix 'amq.*'", spec.Name)
	}
	if err := spec.checkArgs(v.name); err != nil { // behind the comparison with what is there
		v.mu.Unlock()
		return err
	}
	if asNew != nil {
		v.mu.Unlock()
		return asNew
	}
	x := newExchange(v, spec)
	v.exchanges[spec.Name] = x
	v.changed()
	var w *waiter
	if spec.Durable {
		w = v.b.log.write(recExchange, x.record())
	}
	if spec.Type == delayedType {
		if q := x.keep(v.b.nextQueue.Add(1)); q.logged {
			w = v.b.log.write(recQueue, q.record())
		}
	}
	v.mu.Unlock()
	return s.await(w)
}

func checkExchangeType(name string) *Error {
	if exchangeTypes[name] != nothing || name == delayedType {
		return nil
	}
	if len(name) > 2 && name[:2] == "x-" {
		return errorf(Invalid, "unknown exchange type '%s'", name)
	}
	return errorf(Invalid, "invalid exchange type '%s'", name)
}

// checkArgs finds what is wrong with the arguments of a declaration, in RabbitMQ's
// words.
func (spec *ExchangeSpec) checkArgs(vhost string) *Error {
	if err := checkArgs(anExchange, spec.Name, vhost, spec.Args); err != nil {
		return err
	}
	if a, ok := findArg(spec.Args, "alternate-exchange"); ok && a.kind != 'S' {
		return errorf(PreconditionFailed, "invalid type '%s' for arg 'alternate-exchange' in exchange '%s' in vhost '%s'", a.typeName(), spec.Name, vhost)
	}
	if spec.Type == delayedType {
		if err := checkDelayedArgs(spec); err != nil {
			return err
		}
	}
	switch spec.routes() {
	case consistentHash:
		return checkHashArgs(spec, vhost)
	case deduplication:
		return checkDedupArgs(spec)
	}
	return nil
}

// alternate is the exchange that gets what this one has nobody for, if it has one.
// v.mu is held.
func (x *exchange) alternate() (name string, ok bool) {
	if a, ok := findArg(x.spec.Args, "alternate-exchange"); ok && a.kind == 'S' {
		return a.String(), true
	}
	return x.policyText("alternate-exchange")
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
	if err := s.may(Configure, anExchange, name); err != nil {
		return err
	}
	v.mu.Lock()
	x := v.exchanges[name]
	if x == nil {
		v.mu.Unlock()
		return s.await(v.b.log.caughtUp())
	}
	if ifUnused && len(x.bindings) > 0 {
		v.mu.Unlock()
		return errorf(PreconditionFailed, "exchange '%s' in vhost '%s' in use", name, v.name)
	}
	w := v.dropExchange(x)
	v.mu.Unlock()
	return s.await(w)
}

// dropExchange removes an exchange, and what goes with it. v.mu is held.
func (v *VHost) dropExchange(x *exchange) (w *waiter) {
	delete(v.exchanges, x.spec.Name)
	if x.seen != nil {
		x.seen.ended.Store(true) // before the record of that
	}
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
	if x.kept != nil {
		v.b.tasks.Go(x.dropKept)
	}
	return w
}
