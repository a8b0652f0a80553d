package broker

import (
	"cmp"
	"strings"
	"sync"
	"sync/atomic"
)

// VHost is a name space of exchanges and queues.
type VHost struct {
	b    *Broker
	name string

	version atomic.Uint64 // changes with every change of what routes depend on

	producers producers // what was accepted of whom
	windows   windows   // the duplicate ids of what was accepted where

	listing       listing
	defaultCounts exchangeCounts // of the default exchange
	past          Traffic        // of connections that were closed; guarded by b.mu
	looked        looker

	mu        sync.RWMutex // guards what follows, and the bindings of what is in it
	exchanges map[string]*exchange
	queues    map[string]*Queue
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
	v.producers.vhost, v.producers.most = name, cmp.Or(b.cfg.producers, producersMax)
	v.windows.vhost, v.windows.most = name, b.cfg.windows.orDefault()
	for name, typ := range builtIn {
		v.exchanges[name] = newExchange(v, ExchangeSpec{Name: name, Type: typ, Durable: true})
	}
	b.vhosts[name] = v
	return v
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

func reserved(name string) bool { return strings.HasPrefix(name, "amq.") }
