package broker

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// What follows is what the broker tells of itself: views, made when they are asked
// for, of what is so at some moment since. Any goroutine may ask, at any time;
// nothing that messages need is held up for longer than to look at one queue.
// Views belong to who asked; their Args and the like must not be changed.

// Depth is how many messages there are, and their size.
type Depth struct {
	Ready   int // to be delivered
	Unacked int // delivered, and not settled
	Leaving int // on their way to a dead-letter exchange
	Waiting int // to be ready, or routed, at a later time

	Bytes      int64 // of the bodies of all, as far as they are known, otherwise a little more
	ReadyBytes int64 // of those that are ready

	Persistent      int   // of all messages, those that are
	PersistentBytes int64 // likewise of Bytes
}

// Messages is how many there are in all.
func (d *Depth) Messages() int { return d.Ready + d.Unacked + d.Leaving + d.Waiting }

func (d *Depth) add(o *Depth) {
	d.Ready += o.Ready
	d.Unacked += o.Unacked
	d.Leaving += o.Leaving
	d.Waiting += o.Waiting
	d.Bytes += o.Bytes
	d.ReadyBytes += o.ReadyBytes
	d.Persistent += o.Persistent
	d.PersistentBytes += o.PersistentBytes
}

// VHostInfo is a virtual host as it is now.
type VHostInfo struct {
	Name                           string
	Queues, Exchanges, Connections int
	Depth                          Depth
	Traffic                        Traffic
	Rates                          Rates
}

// QueueView is a queue as it is now.
type QueueView struct {
	VHost, Name                    string
	Durable, Exclusive, AutoDelete bool
	Args                           []byte // header list
	Type                           string // "classic" or "quorum"
	Owner                          string // of an exclusive queue: its connection

	Policy, OperatorPolicy string // that apply to it; "": none
	EffectivePolicy        []byte // what they say together, a JSON object; nil: nothing

	Depth     Depth
	Consumers int
	// SingleActive is whether one consumer at a time is active, ActiveTag and
	// ActiveChannel which; ExclusiveTag is that of an exclusive consumer.
	SingleActive                  bool
	ActiveTag, ExclusiveTag       string
	ActiveChannel, ExclusiveOwner string

	// Capacity is the part of the time, 0 to 1, in which consumers would have taken
	// more messages than there were: of the moments since the last look at which the
	// queue changed. RabbitMQ calls it consumer_capacity and consumer_utilisation.
	Capacity float64
	Memory   int64     // bytes that it takes beside the bodies of messages: an estimate
	Idle     time.Time // since when nothing has happened to it; zero: something has just now

	Traffic Traffic
	Rates   Rates
}

// ExchangeView is an exchange as it is now.
type ExchangeView struct {
	VHost, Name, Type             string
	Durable, AutoDelete, Internal bool
	Args                          []byte // header list
	Policy                        string // that applies to it; "": none
	Delayed                       int    // messages that it keeps for later
	Traffic                       Traffic
	Rates                         Rates
}

// BindingView is a binding. Those of the default exchange, one for each queue, are
// among them.
type BindingView struct {
	VHost, Source, Destination string
	ToExchange                 bool // the destination is one, not a queue
	Key                        string
	Args                       []byte // header list
}

// DestinationType is "queue" or "exchange".
func (b *BindingView) DestinationType() string {
	if b.ToExchange {
		return "exchange"
	}
	return "queue"
}

// PropertiesKey names the binding among those of its source and its destination,
// in the form that RabbitMQ's management API uses in its paths: "~" for no key, the
// key, or the key and a hash of the arguments.
func (b *BindingView) PropertiesKey() string {
	key := strings.NewReplacer("_", "%5F", "~", "%7E").Replace(url.QueryEscape(b.Key))
	switch {
	case len(b.Args) > 0:
		hash := sha256.Sum256(b.Args)
		return key + "~" + base64.RawURLEncoding.EncodeToString(hash[:16])
	case key == "":
		return "~"
	default:
		return key
	}
}

// Totals are what there is in all.
type Totals struct {
	VHosts, Connections, Channels, Exchanges, Queues int
	Consumers                                        int // of channels, those of direct replies among them

	Depth   Depth
	Traffic Traffic // of channels
	Rates   Rates
	Churn   Churn // of the whole broker, whatever the filter allows

	QueueConsumers int                      // of queues
	QueueMemory    int64                    // bytes, as in QueueView
	QueueTraffic   [len(QueueTypes)]Traffic // of queues, by their types; without a filter also of those that were deleted

	Unconfirmed, Uncommitted int    // of channels
	Received, Sent           uint64 // bytes, of connections, also of those that were closed
}

// VHosts lists the virtual hosts by name.
func (b *Broker) VHosts() []VHostInfo {
	var list []VHostInfo
	sums := b.sumSessions()
	for _, v := range b.vhostsByName() {
		list = append(list, v.info(sums[v]))
	}
	return list
}

// VHost tells of one virtual host; ok is whether there is one of that name.
func (b *Broker) VHost(name string) (info VHostInfo, ok bool) {
	v := b.vhost(name)
	if v == nil {
		return VHostInfo{}, false
	}
	return v.info(b.sumSessions()[v]), true
}

// HasVHost tells whether there is a virtual host of that name.
func (b *Broker) HasVHost(name string) bool { return b.vhost(name) != nil }

// VHostNames are the names of the virtual hosts, sorted.
func (b *Broker) VHostNames() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.vhosts))
}

func (b *Broker) vhostsByName() []*VHost {
	list := b.allVHosts()
	slices.SortFunc(list, func(x, y *VHost) int { return strings.Compare(x.name, y.name) })
	return list
}

// queueSum is what queues have together.
type queueSum struct {
	depth     Depth
	consumers int
	memory    int64
	traffic   counts
}

// sumQueues sums up what the queues of the virtual host have.
func (v *VHost) sumQueues() (sum queueSum, queues int) {
	list := v.listing.snapshot(v)
	for _, q := range list {
		q.mu.Lock()
		if q.deleted { // what it has counted is with that of all that are
			q.mu.Unlock()
			continue
		}
		d := q.depthLocked()
		sum.depth.add(&d)
		sum.consumers += len(q.consumers)
		sum.memory += q.memoryLocked()
		if q.counts != nil {
			sum.traffic[q.kind].Add(q.counts)
		}
		q.mu.Unlock()
	}
	return sum, len(list)
}

func (v *VHost) info(sum sessionSum) VHostInfo {
	info, _ := v.sums(sum)
	return info
}

func (v *VHost) sums(sum sessionSum) (VHostInfo, queueSum) {
	info := VHostInfo{Name: v.name, Connections: sum.connections, Traffic: sum.traffic}
	v.mu.RLock()
	info.Exchanges = len(v.exchanges) + 1
	v.mu.RUnlock()
	var queues queueSum
	queues, info.Queues = v.sumQueues()
	info.Depth = queues.depth
	info.Rates = v.looked.look(time.Now(), &info.Traffic)
	return info, queues
}

// Queue tells of one queue; ok is whether there is one of that name.
func (b *Broker) Queue(vhost, name string) (view QueueView, ok bool) {
	v := b.vhost(vhost)
	if v == nil {
		return QueueView{}, false
	}
	v.mu.RLock()
	q := v.queues[name]
	v.mu.RUnlock()
	if q == nil {
		return QueueView{}, false
	}
	return q.view(time.Now())
}

// Queues lists queues. They can be sorted by vhost, name, durable, auto_delete,
// exclusive, type, policy, messages, messages_ready, messages_unacknowledged,
// message_bytes, message_bytes_ready, memory, consumers, consumer_utilisation,
// consumer_capacity, and each message_stats.X and message_stats.X_details.rate, X
// being a Stat's name or deliver_get. Errors: Invalid, *RangeError.
func (b *Broker) Queues(f Filter) (Page[QueueView], error) {
	list, total, err := b.findQueues(&f)
	if err != nil {
		return Page[QueueView]{}, err
	}
	filtered := len(list)
	from, to, pages, err := f.bounds(filtered)
	if err != nil {
		return Page[QueueView]{}, err
	}
	now := time.Now()
	items := make([]QueueView, 0, to-from)
	for _, q := range list[from:to] {
		if view, ok := q.view(now); ok {
			items = append(items, view)
		}
	}
	return makePage(&f, items, pages, filtered, total), nil
}

// EachQueue visits the queues that Queues would list, one at a time, until visit
// says no: a list of a million need not be made. A Page is of no effect.
func (b *Broker) EachQueue(f Filter, visit func(q *QueueView) bool) error {
	list, _, err := b.findQueues(&f)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, q := range list {
		if view, ok := q.view(now); ok && !visit(&view) {
			return nil
		}
	}
	return nil
}

// QueueCount is what is counted of a queue.
type QueueCount struct {
	VHost, Name string
	Depth       Depth
	Consumers   int
	Capacity    float64 // 1 if its consumers would take a message now, otherwise 0
	Memory      int64   // bytes, as in QueueView
	Published   uint64  // messages that entered it
}

// CountQueues visits the queues that Queues would list, one at a time, until visit
// says no. It leaves no trace in them, as looking at rates does. A Page is of no
// effect. The view is valid until visit returns.
func (b *Broker) CountQueues(f Filter, visit func(q *QueueCount) bool) error {
	list, _, err := b.findQueues(&f)
	if err != nil {
		return err
	}
	var c QueueCount
	for _, q := range list {
		q.mu.Lock()
		if q.deleted {
			q.mu.Unlock()
			continue
		}
		c = QueueCount{
			VHost: q.v.name, Name: q.name, Depth: q.depthLocked(), Consumers: len(q.consumers),
			Capacity: q.capacityNow(), Memory: q.memoryLocked(),
		}
		if q.counts != nil {
			c.Published = q.counts[Published]
		}
		q.mu.Unlock()
		if !visit(&c) {
			return nil
		}
	}
	return nil
}

// Exchange tells of one exchange; ok is whether there is one of that name.
func (b *Broker) Exchange(vhost, name string) (view ExchangeView, ok bool) {
	v := b.vhost(vhost)
	if v == nil {
		return ExchangeView{}, false
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if name == "" {
		return v.defaultExchange(), true
	}
	x := v.exchanges[name]
	if x == nil {
		return ExchangeView{}, false
	}
	return x.view(time.Now()), true
}

// defaultExchange is the exchange without a name, which routes to the queue that a
// key names.
func (v *VHost) defaultExchange() ExchangeView {
	view := ExchangeView{VHost: v.name, Type: "direct", Durable: true}
	v.defaultCounts.view(&view, time.Now())
	return view
}

func (x *exchange) view(now time.Time) ExchangeView {
	view := ExchangeView{
		VHost: x.v.name, Name: x.spec.Name, Type: x.spec.Type,
		Durable: x.spec.Durable, AutoDelete: x.spec.AutoDelete, Internal: x.spec.Internal, Args: x.spec.Args,
	}
	view.Policy, _ = x.policies.names()
	x.counts.view(&view, now)
	view.Delayed = x.delayed()
	return view
}

var exchangeColumns = columns[ExchangeView]{
	"vhost":       func(x *ExchangeView) sortKey { return textKey(x.VHost) },
	"name":        func(x *ExchangeView) sortKey { return textKey(x.Name) },
	"type":        func(x *ExchangeView) sortKey { return textKey(x.Type) },
	"durable":     func(x *ExchangeView) sortKey { return boolKey(x.Durable) },
	"auto_delete": func(x *ExchangeView) sortKey { return boolKey(x.AutoDelete) },
	"internal":    func(x *ExchangeView) sortKey { return boolKey(x.Internal) },
	"policy":      func(x *ExchangeView) sortKey { return textKey(x.Policy) },
}

// Exchanges lists exchanges, the default one of each virtual host among them. They
// can be sorted by vhost, name, type, durable, auto_delete, internal, policy,
// message_stats.publish_in, publish_out and the rates of these. Errors: Invalid,
// *RangeError.
func (b *Broker) Exchanges(f Filter) (Page[ExchangeView], error) {
	var list []ExchangeView
	now := time.Now()
	for _, v := range b.vhostsByName() {
		if !f.allows(v.name) {
			continue
		}
		first := len(list)
		v.mu.RLock()
		list = append(list, v.defaultExchange())
		for _, x := range v.exchanges {
			list = append(list, x.view(now))
		}
		v.mu.RUnlock()
		slices.SortFunc(list[first:], func(x, y ExchangeView) int { return strings.Compare(x.Name, y.Name) })
	}
	return paged(&f, list, exchangeColumns, func(x *ExchangeView) string { return x.Name })
}

// A BindingFilter says which bindings of a virtual host are wanted; nil in a field:
// whatever it is.
type BindingFilter struct {
	Source      *string
	Destination *string
	ToExchange  *bool // whether the destination is an exchange
}

// Bindings lists the bindings of a virtual host that a filter wants, by source,
// destination, key and arguments. With a source or a destination no others are
// looked at.
func (b *Broker) Bindings(vhost string, f BindingFilter) []BindingView {
	v := b.vhost(vhost)
	if v == nil {
		return nil
	}
	var list []BindingView
	queue := f.ToExchange == nil || !*f.ToExchange
	exchange := f.ToExchange == nil || *f.ToExchange
	implicit := func(name string) {
		if f.Source == nil || *f.Source == "" {
			list = append(list, BindingView{VHost: vhost, Destination: name, Key: name})
		}
	}
	add := func(x *binding) {
		view := BindingView{VHost: vhost, Source: x.from.spec.Name, Key: x.key.key, Args: []byte(x.key.args)}
		switch to := x.key.to.(type) {
		case *Queue:
			view.Destination = to.name
			if !queue {
				return
			}
		case interface{ exchangeName() string }:
			view.Destination, view.ToExchange = to.exchangeName(), true
			if !exchange {
				return
			}
		}
		if (f.Source == nil || *f.Source == view.Source) && (f.Destination == nil || *f.Destination == view.Destination) {
			list = append(list, view)
		}
	}
	switch {
	case f.Destination != nil:
		v.mu.RLock()
		if q := v.queues[*f.Destination]; q != nil && queue {
			implicit(q.name)
			for x := range q.bindings {
				add(x)
			}
		}
		if x := v.exchanges[*f.Destination]; x != nil && exchange {
			for in := range x.incoming {
				add(in)
			}
		}
		v.mu.RUnlock()
	case f.Source != nil && *f.Source != "":
		v.mu.RLock()
		if x := v.exchanges[*f.Source]; x != nil {
			for _, out := range x.bindings {
				add(out)
			}
		}
		v.mu.RUnlock()
	default:
		if queue {
			for _, q := range v.listing.snapshot(v) {
				implicit(q.name)
			}
		}
		if f.Source == nil {
			v.eachBinding(add)
		}
	}
	slices.SortFunc(list, func(x, y BindingView) int {
		return cmp.Or(strings.Compare(x.Source, y.Source), strings.Compare(x.Destination, y.Destination),
			strings.Compare(x.Key, y.Key), slices.Compare(x.Args, y.Args), cmp.Compare(boolKey(x.ToExchange).number, boolKey(y.ToExchange).number))
	})
	return list
}

func (x *exchange) exchangeName() string { return x.spec.Name }

// eachBinding visits all bindings, of one exchange at a time.
func (v *VHost) eachBinding(visit func(*binding)) {
	v.mu.RLock()
	sources := make([]*exchange, 0, len(v.exchanges))
	for _, x := range v.exchanges {
		sources = append(sources, x)
	}
	v.mu.RUnlock()
	for _, x := range sources {
		v.mu.RLock()
		for _, out := range x.bindings {
			visit(out)
		}
		v.mu.RUnlock()
	}
}

// Totals sums up the virtual hosts that a filter allows.
func (b *Broker) Totals(f Filter) Totals {
	var t Totals
	sums := b.sumSessions()
	for _, v := range b.allVHosts() {
		if !f.allows(v.name) {
			continue
		}
		sum := sums[v]
		info, queues := v.sums(sum)
		t.QueueConsumers += queues.consumers
		t.QueueMemory += queues.memory
		for i := range t.QueueTraffic {
			t.QueueTraffic[i].Add(&queues.traffic[i])
		}
		t.Unconfirmed += sum.unconfirmed
		t.Uncommitted += sum.uncommitted
		t.Received += sum.received
		t.Sent += sum.sent
		t.Connections += sum.connections
		t.Channels += sum.channels
		t.Consumers += sum.consumers
		t.VHosts++
		t.Queues += info.Queues
		t.Exchanges += info.Exchanges
		t.Depth.add(&info.Depth)
		t.Traffic.Add(&info.Traffic)
		for i := range t.Rates {
			t.Rates[i] += info.Rates[i]
		}
	}
	if f.VHost == "" && f.VHosts == nil {
		gone := b.deleted.view()
		for i := range t.QueueTraffic {
			t.QueueTraffic[i].Add(&gone[i])
		}
		t.Traffic = sums[nil].traffic
		t.Received += sums[nil].received
		t.Sent += sums[nil].sent
	}
	t.Churn = b.churn.view()
	return t
}
