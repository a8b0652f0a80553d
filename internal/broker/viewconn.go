package broker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// ConnectionView is a connection as it is now.
type ConnectionView struct {
	Name, User, VHost, Protocol string
	Peer, Local                 netip.AddrPort
	TLS                         bool
	Mechanism                   string // that the user logged in with
	Client                      []byte // what the client told of itself: a header list
	Opened                      time.Time

	ChannelMax uint16        // channels that it may have; 0: no limit
	FrameMax   uint32        // bytes; 0: its protocol has no frames, or no limit
	Heartbeat  time.Duration // 0: none

	// State is "running"; "blocked" when it published under an alarm, "flow" when it
	// is held because it is faster than others.
	State          string
	Channels       int
	Unacked        int    // deliveries that await settlement
	Received, Sent uint64 // bytes, if its server tells
	Traffic        Traffic
	Rates          Rates
}

// ChannelView is a channel as it is now.
type ChannelView struct {
	Connection, User, VHost string
	Protocol                string
	Peer, Local             netip.AddrPort
	Number                  uint16

	Confirms       bool // it is in confirm mode
	Transactional  bool
	Consumers      int
	Prefetch       uint32 // of consumers to come; 0: no limit
	GlobalPrefetch uint32 // of all its consumers together; 0: no limit
	Unacked        int    // deliveries that await settlement
	Unconfirmed    int    // publishes that await confirms
	Uncommitted    int    // publishes of the open transaction
	State          string // that of the connection
	Traffic        Traffic
	Rates          Rates
}

// name is what the management API of RabbitMQ calls the channel.
func (ch *Channel) name() string { return fmt.Sprintf("%s (%d)", ch.s.cfg.Name, ch.id) }

// Name is what the management API of RabbitMQ calls the channel.
func (c *ChannelView) Name() string { return fmt.Sprintf("%s (%d)", c.Connection, c.Number) }

// ConsumerView is a consumer as it is now. Those of direct replies are not told of.
type ConsumerView struct {
	VHost, Queue, Tag string
	Connection, User  string
	Peer              netip.AddrPort
	Channel           uint16
	AckRequired       bool
	Exclusive         bool
	Active            bool // false: it waits for another to go, on a queue with a single active one
	Priority          int
	Prefetch          uint32        // 0: no limit
	Unacked           int           // deliveries that await settlement
	Timeout           time.Duration // that it may keep a delivery; 0: for ever
	Args              []byte        // header list
}

// ChannelName is what the management API of RabbitMQ calls its channel.
func (c *ConsumerView) ChannelName() string { return fmt.Sprintf("%s (%d)", c.Connection, c.Channel) }

// eachSession visits the listed sessions of the virtual hosts that a filter allows,
// with no lock held.
func (b *Broker) eachSession(f *Filter, visit func(*Session)) {
	b.mu.Lock()
	sessions := b.sessionsLocked()
	b.mu.Unlock()
	for _, s := range sessions {
		if !s.cfg.Unlisted && f.allows(s.v.name) {
			visit(s)
		}
	}
}

func (b *Broker) sessionsLocked() []*Session {
	sessions := make([]*Session, 0, len(b.sessions))
	for s := range b.sessions {
		sessions = append(sessions, s)
	}
	return sessions
}

// sessionSum is what the sessions of a virtual host have together, and (traffic)
// have had.
type sessionSum struct {
	connections, channels, consumers int
	unconfirmed, uncommitted         int
	received, sent                   uint64
	traffic                          Traffic
}

// sumSessions sums up the sessions of each virtual host; under nil is the traffic of
// all, also of virtual hosts that are gone, and the bytes of those that were closed.
func (b *Broker) sumSessions() map[*VHost]sessionSum {
	sums := map[*VHost]sessionSum{}
	b.mu.Lock()
	sessions := b.sessionsLocked()
	all := sessionSum{received: b.past.received, sent: b.past.sent}
	for _, past := range b.past.protocols {
		t := past.counts.all()
		all.traffic.Add(&t)
	}
	for _, v := range b.vhosts {
		sums[v] = sessionSum{traffic: v.past}
	}
	b.mu.Unlock()
	for _, s := range sessions {
		sum := sums[s.v]
		c := s.counts()
		t := c.all()
		sum.traffic.Add(&t)
		all.traffic.Add(&t)
		if !s.cfg.Unlisted {
			sum.connections++
			s.mu.Lock()
			sum.channels += len(s.channels)
			for _, ch := range s.channels {
				sum.consumers += len(ch.consumers)
				sum.unconfirmed += ch.unconfirmedLocked()
				sum.uncommitted += ch.uncommittedLocked()
			}
			s.mu.Unlock()
			if s.cfg.Octets != nil {
				received, sent := s.cfg.Octets()
				sum.received += received
				sum.sent += sent
			}
		}
		sums[s.v] = sum
	}
	sums[nil] = all
	return sums
}

var connectionColumns = columns[ConnectionView]{
	"vhost":        func(c *ConnectionView) sortKey { return textKey(c.VHost) },
	"name":         func(c *ConnectionView) sortKey { return textKey(c.Name) },
	"user":         func(c *ConnectionView) sortKey { return textKey(c.User) },
	"protocol":     func(c *ConnectionView) sortKey { return textKey(c.Protocol) },
	"state":        func(c *ConnectionView) sortKey { return textKey(c.State) },
	"peer_host":    func(c *ConnectionView) sortKey { return textKey(c.Peer.Addr().String()) },
	"peer_port":    func(c *ConnectionView) sortKey { return numberKey(int(c.Peer.Port())) },
	"ssl":          func(c *ConnectionView) sortKey { return boolKey(c.TLS) },
	"channels":     func(c *ConnectionView) sortKey { return numberKey(c.Channels) },
	"connected_at": func(c *ConnectionView) sortKey { return numberKey(c.Opened.UnixMilli()) },
	"recv_oct":     func(c *ConnectionView) sortKey { return numberKey(c.Received) },
	"send_oct":     func(c *ConnectionView) sortKey { return numberKey(c.Sent) },
}

// Connections lists connections. They can be sorted by vhost, name, user, protocol,
// state, peer_host, peer_port, ssl, channels, connected_at, recv_oct, send_oct.
// Errors: Invalid, *RangeError.
func (b *Broker) Connections(f Filter) (Page[ConnectionView], error) {
	var list []ConnectionView
	now := time.Now()
	b.eachSession(&f, func(s *Session) { list = append(list, s.view(now)) })
	slices.SortFunc(list, func(x, y ConnectionView) int {
		return cmp.Or(strings.Compare(x.VHost, y.VHost), strings.Compare(x.Name, y.Name))
	})
	return paged(&f, list, connectionColumns, func(c *ConnectionView) string { return c.Name })
}

// Connection tells of one connection; ok is whether there is one of that name.
func (b *Broker) Connection(name string) (view ConnectionView, ok bool) {
	if s := b.sessionNamed(name); s != nil {
		return s.view(time.Now()), true
	}
	return ConnectionView{}, false
}

func (b *Broker) sessionNamed(name string) *Session {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.sessions {
		if s.cfg.Name == name && !s.cfg.Unlisted {
			return s
		}
	}
	return nil
}

// CloseConnection asks a connection to close with a reason, which its peer is told,
// and tells whether there is one of that name. It does not wait.
func (b *Broker) CloseConnection(name, reason string) (found bool) {
	s := b.sessionNamed(name)
	if s == nil {
		return false
	}
	s.end(reason)
	return true
}

// CloseUser asks all connections of a user to close with a reason, and returns their
// number.
func (b *Broker) CloseUser(user, reason string) (closed int) {
	var sessions []*Session
	b.mu.Lock()
	for s := range b.sessions {
		if s.cfg.User == user && !s.cfg.Unlisted {
			sessions = append(sessions, s)
		}
	}
	b.mu.Unlock()
	for _, s := range sessions {
		s.end(reason)
	}
	return len(sessions)
}

// end asks the connection to close. Any goroutine may call it.
func (s *Session) end(reason string) {
	s.push(Event{Kind: EventClosed, Err: errorf(Forced, "%s", reason)})
	s.Interrupt()
}

func (s *Session) state() string {
	switch {
	case s.isBlocked():
		return "blocked"
	case s.throttled.Load():
		return "flow"
	default:
		return "running"
	}
}

func (s *Session) view(now time.Time) ConnectionView {
	c := &s.cfg
	view := ConnectionView{
		Name: c.Name, User: c.User, VHost: s.v.name, Protocol: c.Protocol,
		Peer: c.Peer, Local: c.Local, TLS: c.TLS, Mechanism: c.Mechanism, Client: c.Client,
		Opened: s.opened, ChannelMax: c.ChannelMax, FrameMax: c.FrameMax, Heartbeat: c.Heartbeat,
		State: s.state(),
	}
	if c.Octets != nil {
		view.Received, view.Sent = c.Octets()
	}
	counts := s.counts()
	view.Traffic = counts.all()
	s.mu.Lock()
	defer s.mu.Unlock()
	view.Channels, view.Unacked = len(s.channels), s.unacked
	if s.looked == nil {
		s.looked = &rated{}
	}
	view.Rates = s.looked.look(now, &view.Traffic)
	return view
}

var channelColumns = columns[ChannelView]{
	"vhost":                   func(c *ChannelView) sortKey { return textKey(c.VHost) },
	"name":                    func(c *ChannelView) sortKey { return textKey(c.Name()) },
	"user":                    func(c *ChannelView) sortKey { return textKey(c.User) },
	"number":                  func(c *ChannelView) sortKey { return numberKey(int(c.Number)) },
	"state":                   func(c *ChannelView) sortKey { return textKey(c.State) },
	"consumer_count":          func(c *ChannelView) sortKey { return numberKey(c.Consumers) },
	"prefetch_count":          func(c *ChannelView) sortKey { return numberKey(int64(c.Prefetch)) },
	"global_prefetch_count":   func(c *ChannelView) sortKey { return numberKey(int64(c.GlobalPrefetch)) },
	"messages_unacknowledged": func(c *ChannelView) sortKey { return numberKey(c.Unacked) },
	"messages_unconfirmed":    func(c *ChannelView) sortKey { return numberKey(c.Unconfirmed) },
	"messages_uncommitted":    func(c *ChannelView) sortKey { return numberKey(c.Uncommitted) },
	"confirm":                 func(c *ChannelView) sortKey { return boolKey(c.Confirms) },
	"transactional":           func(c *ChannelView) sortKey { return boolKey(c.Transactional) },
}

// Channels lists the channels of all connections. They can be sorted by vhost, name,
// user, number, state, consumer_count, prefetch_count, global_prefetch_count,
// messages_unacknowledged, messages_unconfirmed, messages_uncommitted, confirm,
// transactional. Errors: Invalid, *RangeError.
func (b *Broker) Channels(f Filter) (Page[ChannelView], error) {
	var list []ChannelView
	now := time.Now()
	b.eachSession(&f, func(s *Session) { list = append(list, s.channelViews(now)...) })
	slices.SortFunc(list, func(x, y ChannelView) int {
		return cmp.Or(strings.Compare(x.VHost, y.VHost), strings.Compare(x.Connection, y.Connection), cmp.Compare(x.Number, y.Number))
	})
	return paged(&f, list, channelColumns, func(c *ChannelView) string { return c.Name() })
}

// ConnectionChannels lists the channels of one connection by their numbers; ok is
// whether there is a connection of that name.
func (b *Broker) ConnectionChannels(name string) (list []ChannelView, ok bool) {
	s := b.sessionNamed(name)
	if s == nil {
		return nil, false
	}
	list = s.channelViews(time.Now())
	slices.SortFunc(list, func(x, y ChannelView) int { return cmp.Compare(x.Number, y.Number) })
	return list, true
}

func (s *Session) channelViews(now time.Time) []ChannelView {
	c, state := &s.cfg, s.state()
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]ChannelView, 0, len(s.channels))
	for _, ch := range s.channels {
		view := ChannelView{
			Connection: c.Name, User: c.User, VHost: s.v.name, Protocol: c.Protocol, Peer: c.Peer, Local: c.Local,
			Number: ch.id, Confirms: ch.confirms, Transactional: ch.tx != nil, State: state,
			Consumers: len(ch.consumers), Prefetch: ch.prefetch, GlobalPrefetch: ch.shared,
			Unacked: ch.unacked.held(),
		}
		view.Uncommitted, view.Unconfirmed = ch.uncommittedLocked(), ch.unconfirmedLocked()
		var counts counts
		ch.addCountsLocked(&counts)
		view.Traffic = counts.all()
		if ch.looked == nil {
			ch.looked = &rated{}
		}
		view.Rates = ch.looked.look(now, &view.Traffic)
		list = append(list, view)
	}
	return list
}

// Consumers lists the consumers of the queues of the virtual hosts that a filter
// allows, by virtual host, queue, connection, channel and tag.
func (b *Broker) Consumers(f Filter) []ConsumerView {
	var list []ConsumerView
	b.eachSession(&f, func(s *Session) {
		var consumers []*Consumer
		s.mu.Lock()
		for _, ch := range s.channels {
			for _, c := range ch.consumers {
				if c.q != nil {
					consumers = append(consumers, c)
				}
			}
		}
		s.mu.Unlock()
		for _, c := range consumers {
			if view, ok := c.view(); ok {
				list = append(list, view)
			}
		}
	})
	sortConsumers(list)
	return list
}

// QueueConsumers lists the consumers of one queue.
func (b *Broker) QueueConsumers(vhost, queue string) []ConsumerView {
	v := b.vhost(vhost)
	if v == nil {
		return nil
	}
	v.mu.RLock()
	q := v.queues[queue]
	v.mu.RUnlock()
	if q == nil {
		return nil
	}
	q.mu.Lock()
	consumers := slices.Clone(q.consumers)
	q.mu.Unlock()
	var list []ConsumerView
	for _, c := range consumers {
		if view, ok := c.view(); ok {
			list = append(list, view)
		}
	}
	sortConsumers(list)
	return list
}

func sortConsumers(list []ConsumerView) {
	slices.SortFunc(list, func(x, y ConsumerView) int {
		return cmp.Or(strings.Compare(x.VHost, y.VHost), strings.Compare(x.Queue, y.Queue),
			strings.Compare(x.Connection, y.Connection), cmp.Compare(x.Channel, y.Channel), strings.Compare(x.Tag, y.Tag))
	})
}

func (c *Consumer) view() (view ConsumerView, ok bool) {
	q, s := c.q, c.ch.s
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.gone {
		return ConsumerView{}, false
	}
	s.mu.Lock()
	prefetch, unacked := c.prefetch, int(c.inFlight)
	s.mu.Unlock()
	return ConsumerView{
		VHost: q.v.name, Queue: q.name, Tag: c.tag,
		Connection: s.cfg.Name, User: s.cfg.User, Peer: s.cfg.Peer, Channel: c.ch.id,
		AckRequired: !c.noAck, Exclusive: c.exclusive, Active: q.single == nil || q.single.active == c,
		Priority: c.priority, Prefetch: prefetch, Unacked: unacked, Timeout: q.rules.timeout, Args: c.args,
	}, true
}
