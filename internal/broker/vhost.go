package broker

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// VHost is a name space of exchanges and queues.
type VHost struct {
	b    *Broker
	name string

	version atomic.Uint64 // changes with every change of what routes depend on

	gone  atomic.Bool            // it is being deleted; set with b.mu held
	ended chan struct{}          // closed when it is
	kind  atomic.Pointer[string] // of queues that are declared without one

	policies atomic.Pointer[policySet]
	policyMu sync.Mutex // held by who replaces them; before settings.mu

	producers producers // what was accepted of whom
	windows   windows   // the duplicate ids of what was accepted where

	listing       listing
	defaultCounts exchangeCounts // of the default exchange
	connections   int            // guarded by b.mu
	past          Traffic        // of connections that were closed; guarded by b.mu
	looked        looker

	mu        sync.RWMutex // guards what follows, and the bindings of what is in it
	exchanges map[string]*exchange
	queues    map[string]*Queue
}

// AddVHost makes a virtual host with its built-in exchanges, and returns when that
// is durable. One that is there already is no error. Invalid: a name that is empty
// or longer than 255 bytes.
func (b *Broker) AddVHost(name string) error { return b.AddVHosts(name) }

// AddVHosts makes many, and returns when all are durable, or with the error of the
// first that could not be made: those before it are made.
func (b *Broker) AddVHosts(names ...string) error {
	var w *waiter
	for _, name := range names {
		next, err := b.makeVHost(name)
		if err != nil {
			return errors.Join(err, b.await(w))
		}
		if next != nil {
			w = next
		}
	}
	return b.await(w)
}

// nameMost is how long the name of a virtual host may be, bytes, as other names.
const nameMost = 255

func (b *Broker) makeVHost(name string) (*waiter, error) {
	if name == "" || len(name) > nameMost {
		return nil, errorf(Invalid, "a virtual host's name has 1 to %d bytes", nameMost)
	}
	for {
		b.mu.Lock()
		old := b.vhosts[name]
		if old == nil {
			break
		}
		b.mu.Unlock()
		if !old.gone.Load() {
			return b.log.caughtUp(), nil
		}
		<-old.ended // of the same name, being deleted: that takes no longer than its queues
	}
	defer b.mu.Unlock()
	b.addVHost(name)
	return b.log.write(recVHost, appendText(nil, name)), nil
}

// addVHost adds it without a record. b.mu is held, or nobody else is there.
func (b *Broker) addVHost(name string) *VHost {
	v := &VHost{b: b, name: name, ended: make(chan struct{}), exchanges: map[string]*exchange{}, queues: map[string]*Queue{}}
	v.producers.vhost, v.producers.most = name, cmp.Or(b.cfg.producers, producersMax)
	v.windows.vhost, v.windows.most = name, b.cfg.windows.orDefault()
	v.readMetadata()
	v.readPolicies()
	for name, typ := range builtIn {
		v.exchanges[name] = newExchange(v, ExchangeSpec{Name: name, Type: typ, Durable: true})
	}
	b.vhosts[name] = v
	return v
}

// DeleteVHost removes a virtual host with all that is in it: queues and their
// messages, exchanges, and the settings that have it as their VHost. Its connections
// are closed, with the reason. It returns when that is durable. NotFound: there is
// none of that name.
func (b *Broker) DeleteVHost(name string) error {
	b.mu.Lock()
	v := b.vhosts[name]
	if v == nil || v.gone.Load() {
		b.mu.Unlock()
		return errorf(NotFound, "vhost '%s' not found", name)
	}
	v.gone.Store(true) // nobody comes in any more
	sessions := slices.DeleteFunc(b.sessionsLocked(), func(s *Session) bool { return s.v != v })
	b.mu.Unlock()
	closeAll(sessions, v.isDeleted())

	v.mu.Lock()
	b.settings.mu.Lock()
	dropped := b.settings.dropVHostLocked(name)
	w := b.log.write(recVHostGone, appendText(nil, name))
	b.settings.mu.Unlock()
	// All that follows in the log is of nobody any more.
	queues := v.allQueues()
	for _, x := range v.exchanges {
		if x.seen != nil {
			x.seen.ended.Store(true)
		}
	}
	clear(v.exchanges)
	for _, q := range queues {
		q.bindings = nil
		q.mu.Lock()
		v.dropQueueLocked(q)
		q.mu.Unlock()
	}
	v.changed()
	v.mu.Unlock()

	b.mu.Lock()
	delete(b.vhosts, name)
	close(v.ended)
	b.mu.Unlock()
	for _, s := range dropped {
		b.settings.tell(s)
	}
	return b.await(w)
}

// vhostGone takes in that a virtual host was deleted.
func (r *replayer) vhostGone(name string) {
	v := r.b.vhosts[name]
	if v == nil {
		return
	}
	for num, q := range r.queues {
		if q.v == v {
			r.forgetQueue(num)
			r.dropQueue(q)
		}
	}
	delete(r.b.vhosts, name)
	delete(r.stale, v)
	t := r.b.settings
	t.mu.Lock()
	dropped := t.dropVHostLocked(name)
	t.mu.Unlock()
	for _, s := range dropped {
		t.tell(s)
	}
}

// isDeleted is what its connections are told.
func (v *VHost) isDeleted() *Error { return errorf(Forced, "vhost '%s' is deleted", v.name) }

// readMetadata takes in what is set of the virtual host: a SettingVHost.
func (v *VHost) readMetadata() {
	var set struct {
		Kind string `json:"default_queue_type"`
	}
	if value, ok := v.b.settings.one(SettingVHost, "", v.name); ok && json.Unmarshal(value, &set) != nil {
		set.Kind = ""
	}
	kind := queueClassic
	if set.Kind == queueQuorum || set.Kind == "rabbit_quorum_queue" {
		kind = queueQuorum
	}
	v.kind.Store(&kind)
}

// defaultKind is the kind of queue that is meant where none is said.
func (v *VHost) defaultKind() string { return *v.kind.Load() }

// ofDefaultKind makes a queue that is declared without a kind one of the virtual
// host's, if it may be one, as RabbitMQ does.
func (v *VHost) ofDefaultKind(spec *QueueSpec) {
	if v.defaultKind() == queueClassic || !spec.Durable || spec.Exclusive || spec.AutoDelete || spec.kind() != "" {
		return
	}
	list := append(slices.Clip(spec.Args), "\x0cx-queue-typeS"...)
	spec.Args = append(binary.BigEndian.AppendUint32(list, uint32(len(v.defaultKind()))), v.defaultKind()...)
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
