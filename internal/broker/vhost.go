package broker

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/route"
)

// VHost is a name space of exchanges and queues.
type VHost struct {
	b    *Broker
	name string

	version atomic.Uint64 // changes with every change of what routes depend on

	mu        sync.RWMutex // guards what follows, and the bindings of what is in it
	exchanges map[string]*exchange
	queues    map[string]*Queue
}

// ExchangeSpec is an exchange as it is declared. Type is direct, fanout, topic
// or headers.
type ExchangeSpec struct {
	Name, Type                    string
	Durable, AutoDelete, Internal bool
	Args                          []byte // header list
}

// QueueSpec is a queue as it is declared. An exclusive one belongs to its
// connection and goes with it.
type QueueSpec struct {
	Name                           string
	Durable, Exclusive, AutoDelete bool
	Args                           []byte // header list
}

// QueueInfo is what a declaration tells.
type QueueInfo struct {
	Name      string
	Messages  int // ready
	Consumers int
}

// exchange routes messages to what is bound to it. Guarded by its v.mu.
type exchange struct {
	v    *VHost
	spec ExchangeSpec

	bindings map[bindingKey]*binding // where it is the source
	incoming map[*binding]struct{}   // where it is the destination

	byKey   map[string][]*binding // direct
	topic   route.Trie[*binding]
	headers []*binding
}

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

// AddVHost makes a virtual host with its built-in exchanges. One that is there
// already is no error.
func (b *Broker) AddVHost(name string) error {
	b.mu.Lock()
	if b.vhosts[name] != nil {
		b.mu.Unlock()
		return nil
	}
	b.addVHost(name)
	w := b.log.write(recVHost, appendText(nil, name))
	b.mu.Unlock()
	return w.wait(b)
}

// addVHost adds it without a record. b.mu is held, or nobody else is there.
func (b *Broker) addVHost(name string) *VHost {
	v := &VHost{b: b, name: name, exchanges: map[string]*exchange{}, queues: map[string]*Queue{}}
	for name, typ := range builtIn {
		v.exchanges[name] = newExchange(v, ExchangeSpec{Name: name, Type: typ, Durable: true})
	}
	b.vhosts[name] = v
	return v
}

var builtIn = map[string]string{
	"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic", "amq.headers": "headers", "amq.match": "headers",
}

func newExchange(v *VHost, spec ExchangeSpec) *exchange {
	return &exchange{v: v, spec: spec, bindings: map[bindingKey]*binding{}}
}

func (v *VHost) noQueue(name string) *Error {
	return errorf(NotFound, "no queue '%s' in vhost '%s'", name, v.name)
}

func (v *VHost) noExchange(name string) *Error {
	return errorf(NotFound, "no exchange '%s' in vhost '%s'", name, v.name)
}

func (v *VHost) locked(name string) *Error {
	return errorf(ResourceLocked, "cannot obtain exclusive access to locked queue '%s' in vhost '%s'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.", name, v.name)
}

// queue finds a queue that the session may use.
func (v *VHost) queue(name string, s *Session) (*Queue, error) {
	v.mu.RLock()
	q := v.queues[name]
	v.mu.RUnlock()
	if q == nil {
		return nil, v.noQueue(name)
	}
	if q.owner != nil && q.owner != s {
		return nil, v.locked(name)
	}
	return q, nil
}

// changed makes every remembered route stale. v.mu is held.
func (v *VHost) changed() { v.version.Add(1) }

// path is where messages of one exchange and key go.
type path struct {
	version uint64
	queues  []*Queue // by number, each once
	reply   *Consumer
}

// route finds where a message goes. Routes that depend on nothing but exchange
// and key are remembered until the topology changes.
func (p *publisher) route(m *Publish) (*path, error) {
	v := p.s.v
	special := false
	if len(m.Properties) > 0 && !p.isPlain(m.Properties) {
		if err := checkProperties(m.Properties, p.s.cfg.User); err != nil {
			return nil, err
		}
		if headers := message.Field(m.Properties, message.Headers); headers != nil {
			_, cc := findArg(headers, "CC")
			_, bcc := findArg(headers, "BCC")
			special = cc || bcc
		}
		if !special {
			p.checked = append(p.checked[:0], m.Properties...)
		}
	}
	version := v.version.Load()
	if !special && p.lastRoute != nil && p.lastRoute.version == version && p.sameName(m) {
		return p.lastRoute, nil
	}
	p.rkey = append(append(append(p.rkey[:0], byte(len(m.Exchange))), m.Exchange...), m.Key...)
	if !special {
		if r := p.routes[string(p.rkey)]; r != nil && r.version == version {
			p.lastRoute, p.lastName = r, append(p.lastName[:0], p.rkey...)
			return r, nil
		}
	}
	r, keep, err := v.findRoute(m, version, special)
	if err != nil {
		return nil, err
	}
	if keep {
		if p.routes == nil || len(p.routes) >= routeCacheMax {
			p.routes = map[string]*path{}
		}
		p.routes[string(p.rkey)] = r
		p.lastRoute, p.lastName = r, append(p.lastName[:0], p.rkey...)
	}
	return r, nil
}

// isPlain tells whether a property list was found to need nothing special.
func (p *publisher) isPlain(props []byte) bool { return string(props) == string(p.checked) }

func (p *publisher) sameName(m *Publish) bool {
	n := len(m.Exchange)
	return len(p.lastName) == 1+n+len(m.Key) && p.lastName[0] == byte(n) &&
		string(p.lastName[1:1+n]) == string(m.Exchange) && string(p.lastName[1+n:]) == string(m.Key)
}

func (v *VHost) findRoute(m *Publish, version uint64, special bool) (r *path, keep bool, err error) {
	r = &path{version: version}
	if len(m.Exchange) == 0 && isReplyKey(m.Key) {
		r.reply = v.b.replies.find(m.Key)
		return r, false, nil
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	keys := [][]byte{m.Key}
	if special {
		ccKeys(m.Properties, func(k []byte) { keys = append(keys, k) })
	}
	if len(m.Exchange) == 0 {
		for _, k := range keys {
			if q := v.queues[string(k)]; q != nil {
				r.queues = append(r.queues, q)
			}
		}
		r.sort()
		return r, !special, nil
	}
	x := v.exchanges[string(m.Exchange)]
	if x == nil {
		return nil, false, v.noExchange(string(m.Exchange))
	}
	if x.spec.Internal {
		return nil, false, errorf(AccessRefused, "cannot publish to internal exchange '%s' in vhost '%s'", x.spec.Name, v.name)
	}
	keep = !special
	for _, k := range keys {
		keep = x.collect(r, k, m.Properties, map[*exchange]bool{}) && keep
	}
	r.sort()
	return r, keep, nil
}

func (r *path) sort() {
	slices.SortFunc(r.queues, byNumber)
	r.queues = slices.Compact(r.queues)
}

// collect gathers the queues that an exchange sends a message to, through other
// exchanges too. It tells whether that depends on nothing but the key.
func (x *exchange) collect(r *path, key, props []byte, seen map[*exchange]bool) (keep bool) {
	seen[x] = true
	keep = true
	visit := func(b *binding) {
		switch to := b.key.to.(type) {
		case *Queue:
			r.queues = append(r.queues, to)
		case *exchange:
			if !seen[to] {
				keep = to.collect(r, key, props, seen) && keep
			}
		}
	}
	switch x.spec.Type {
	case "direct":
		for _, b := range x.byKey[string(key)] {
			visit(b)
		}
	case "fanout":
		for _, b := range x.bindings {
			visit(b)
		}
	case "topic":
		x.topic.Match(key, visit)
	case "headers":
		keep = false
		headers := message.Field(props, message.Headers)
		for _, b := range x.headers {
			if b.match.Match(headers) {
				visit(b)
			}
		}
	}
	return keep
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
	switch x.spec.Type {
	case "direct":
		if x.byKey == nil {
			x.byKey = map[string][]*binding{}
		}
		x.byKey[b.key.key] = append(x.byKey[b.key.key], b)
	case "topic":
		x.topic.Add(b.key.key, b)
	case "headers":
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
	switch x.spec.Type {
	case "direct":
		if rest := remove(x.byKey[b.key.key], b); len(rest) > 0 {
			x.byKey[b.key.key] = rest
		} else {
			delete(x.byKey, b.key.key)
		}
	case "topic":
		x.topic.Remove(b.key.key, b)
	case "headers":
		x.headers = remove(x.headers, b)
	}
}

func remove(list []*binding, b *binding) []*binding {
	if i := slices.Index(list, b); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

func reserved(name string) bool { return strings.HasPrefix(name, "amq.") }
