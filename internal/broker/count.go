package broker

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Stat is one of the things that are counted of messages.
type Stat uint8

// What is counted. A queue does not count what only channels do, and so on: it
// stays 0.
const (
	Published        Stat = iota // that clients sent; of a queue: that entered it
	PublishConfirm               // of those, with a confirm to come
	PublishIn                    // that an exchange got
	PublishOut                   // that an exchange passed on, once for each queue
	Confirmed                    // whose publisher was told that they are safe
	Refused                      // whose publisher was told that they were not taken
	ReturnUnroutable             // that went back to their publisher, because no queue took them
	DropUnroutable               // that were dropped, because no queue took them
	Delivered                    // to consumers, to be acknowledged
	DeliveredNoAck               // to consumers that do not acknowledge
	Got                          // one at a time, to be acknowledged
	GotNoAck
	GotEmpty    // requests for one message that found none
	Redelivered // of those delivered and got, not for the first time
	Acked
	Rejected       // refused by consumers, to be requeued or not
	DeadRejected   // that left the queue because a consumer refused them
	DeadExpired    // because their time was over
	DeadMaxlen     // because the queue was full
	DeadDeliveries // because they were delivered in vain too often
	DeadLettered   // that dead-letter targets have taken, of all those
	stats          // the number of them
)

var statNames = [stats]string{
	Published: "publish", PublishIn: "publish_in", PublishOut: "publish_out", Confirmed: "confirm",
	ReturnUnroutable: "return_unroutable", DropUnroutable: "drop_unroutable",
	Delivered: "deliver", DeliveredNoAck: "deliver_no_ack", Got: "get", GotNoAck: "get_no_ack", GotEmpty: "get_empty",
	Redelivered: "redeliver", Acked: "ack", Rejected: "reject",
}

// String is the name that RabbitMQ's management API has for it in message_stats;
// "" if it has none.
func (s Stat) String() string {
	if s < stats {
		return statNames[s]
	}
	return ""
}

// Stats lists every Stat.
func Stats() []Stat {
	all := make([]Stat, stats)
	for i := range all {
		all[i] = Stat(i)
	}
	return all
}

// Traffic counts messages since there is who counts them, at most since the broker
// was started.
type Traffic [stats]uint64

// DeliverGet is how many messages were delivered or got.
func (t *Traffic) DeliverGet() uint64 {
	return t[Delivered] + t[DeliveredNoAck] + t[Got] + t[GotNoAck]
}

// Add adds what another has counted.
func (t *Traffic) Add(o *Traffic) {
	for i := range t {
		t[i] += o[i]
	}
}

// Rates are what a Traffic grew by in a second lately.
type Rates [stats]float64

// DeliverGet is how many messages were delivered or got in a second.
func (r *Rates) DeliverGet() float64 {
	return r[Delivered] + r[DeliveredNoAck] + r[Got] + r[GotNoAck]
}

// rateEvery is the shortest time that rates are taken over: RabbitMQ's counters are
// collected as often.
const rateEvery = 5 * time.Second

// rated takes rates from two looks at a Traffic. Nothing happens between looks.
type rated struct {
	at    time.Time // of the last look that counts; zero: there was none
	seen  Traffic
	rates Rates
}

// look returns the rates between the last looks that were rateEvery apart, the
// newest of which is this one if it is so long after the last.
func (r *rated) look(now time.Time, t *Traffic) Rates {
	switch d := now.Sub(r.at); {
	case r.at.IsZero():
		r.at, r.seen = now, *t
	case d >= rateEvery:
		for i := range t {
			r.rates[i] = 0
			if t[i] > r.seen[i] { // what is counted may have become less: a connection of a sum has gone
				r.rates[i] = float64(t[i]-r.seen[i]) / d.Seconds()
			}
		}
		r.at, r.seen = now, *t
	}
	return r.rates
}

// Churn counts what came and went since the broker was started.
type Churn struct {
	ConnectionsOpened, ConnectionsClosed         uint64
	ChannelsOpened, ChannelsClosed               uint64
	QueuesDeclared, QueuesCreated, QueuesDeleted uint64 // declared: also those that were there
}

// churn is Churn while it grows.
type churn struct {
	connectionsOpened, connectionsClosed         atomic.Uint64
	channelsOpened, channelsClosed               atomic.Uint64
	queuesDeclared, queuesCreated, queuesDeleted atomic.Uint64
}

func (c *churn) view() Churn {
	return Churn{
		c.connectionsOpened.Load(), c.connectionsClosed.Load(),
		c.channelsOpened.Load(), c.channelsClosed.Load(),
		c.queuesDeclared.Load(), c.queuesCreated.Load(), c.queuesDeleted.Load(),
	}
}

// counts are those of channels: of the messages of classic queues, and of quorum
// queues. What no queue has to do with is in the first.
type counts [queueKinds]Traffic

func (c *counts) add(o *counts) {
	for i := range c {
		c[i].Add(&o[i])
	}
}

// all is the sum.
func (c *counts) all() Traffic {
	t := c[0]
	t.Add(&c[1])
	return t
}

// SizeBounds are the upper bounds of the classes that Sizes counts bodies in, bytes.
// The last class has none.
var SizeBounds = [...]int{100, 1e3, 1e4, 1e5, 1e6, 1e7, 5e7, 1e8}

// Sizes counts messages by the sizes of their bodies.
type Sizes struct {
	Counts [len(SizeBounds) + 1]uint64 // of each class
	Sum    uint64                      // bytes
}

// Add adds what another has counted.
func (s *Sizes) Add(o *Sizes) {
	for i := range s.Counts {
		s.Counts[i] += o.Counts[i]
	}
	s.Sum += o.Sum
}

// sizeClass is the class of a body of so many bytes.
func sizeClass(size int) int {
	i := 0
	for i < len(SizeBounds) && size > SizeBounds[i] {
		i++
	}
	return i
}

// sent is what a channel's publishes are counted in. Guarded by tally.mu of its
// session, but for fresh, which is the reader's.
type sent struct {
	published, withConfirm, returned, dropped uint64

	fresh uint32 // not in published yet
}

// tally counts what a session publishes. Its reader counts in what is its own, and
// brings that in once for each Flush.
type tally struct {
	fresh      [len(SizeBounds) + 1]uint32 // publishes not in sizes yet, by class
	freshBytes uint64
	freshOut   uint64     // not in out yet
	senders    []*Channel // with fresh publishes

	mu    sync.Mutex // innermost; guards what follows, and sent of the channels
	sizes Sizes
	out   uint64 // messages to queues, once for each
}

// publish counts a publish with a body of so many bytes.
func (t *tally) publish(ch *Channel, size int) {
	if ch.sent.fresh == 0 {
		t.senders = append(t.senders, ch)
	}
	ch.sent.fresh++
	t.fresh[sizeClass(size)]++
	t.freshBytes += uint64(size)
}

// routed counts n publishes that took a path.
func (t *tally) routed(r *path, n int) {
	n *= len(r.queues)
	t.freshOut += uint64(n)
	r.counts.out.Add(uint64(n))
}

// flush brings in what was counted since the last time.
func (t *tally) flush() {
	t.mu.Lock()
	for i, ch := range t.senders {
		n := uint64(ch.sent.fresh)
		ch.sent.fresh = 0
		ch.sent.published += n
		if ch.confirms {
			ch.sent.withConfirm += n
		}
		t.senders[i] = nil
	}
	for i, n := range t.fresh {
		t.sizes.Counts[i] += uint64(n)
	}
	t.sizes.Sum += t.freshBytes
	t.out += t.freshOut
	t.mu.Unlock()
	t.senders = t.senders[:0]
	t.fresh, t.freshBytes, t.freshOut = [len(SizeBounds) + 1]uint32{}, 0, 0
}

// unroutable counts publishes that no queue took.
func (t *tally) unroutable(run []pubItem) {
	t.mu.Lock()
	for i := range run {
		if run[i].mandatory {
			run[i].ch.sent.returned++
		} else {
			run[i].ch.sent.dropped++
		}
	}
	t.mu.Unlock()
}

// countLocked counts messages that the channel was sent, or settles; queue is the
// kind of their queue. s.mu is held.
func (ch *Channel) countLocked(queue uint8, s Stat, n int) {
	if ch.got[queue] == nil {
		ch.got[queue] = new(Traffic)
	}
	ch.got[queue][s] += uint64(n)
}

// addCountsLocked adds up what the channel has counted; s.mu is held.
func (ch *Channel) addCountsLocked(c *counts) {
	for i, t := range ch.got {
		if t != nil {
			c[i].Add(t)
		}
	}
	t := &ch.s.pub.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	c[0][Published] += ch.sent.published
	c[0][PublishConfirm] += ch.sent.withConfirm
	c[0][ReturnUnroutable] += ch.sent.returned
	c[0][DropUnroutable] += ch.sent.dropped
	c[0][Confirmed] += ch.conf.acks
	c[0][Refused] += ch.conf.nacks
}

// countOffLocked keeps what a channel that is being closed has counted; s.mu is
// held.
func (s *Session) countOffLocked(ch *Channel) {
	var c counts
	ch.addCountsLocked(&c)
	if c == (counts{}) {
		return
	}
	if s.past == nil {
		s.past = &counts{}
	}
	s.past.add(&c)
}

// countDeliveredLocked counts n messages that a consumer was sent, some of them
// again. The queue and s.mu are locked.
func (ch *Channel) countDeliveredLocked(q *Queue, noAck bool, n, again int) {
	s := Delivered
	if noAck {
		s = DeliveredNoAck
	}
	q.count(s, n)
	ch.countLocked(q.kind, s, n)
	if again > 0 {
		q.count(Redelivered, again)
		ch.countLocked(q.kind, Redelivered, again)
	}
}

// countGotLocked counts a message that was got. The queue and s.mu are locked.
func (ch *Channel) countGotLocked(q *Queue, noAck, again bool) {
	s := Got
	if noAck {
		s = GotNoAck
	}
	q.count(s, 1)
	ch.countLocked(q.kind, s, 1)
	if again {
		q.count(Redelivered, 1)
		ch.countLocked(q.kind, Redelivered, 1)
	}
}

// countSettledLocked counts what is settled of a channel; s.mu is held.
func (ch *Channel) countSettledLocked(list []delivered, how outcome) {
	s := Acked
	if how != acked {
		s = Rejected
	}
	for len(list) > 0 {
		q, n := list[0].q, 1
		for n < len(list) && list[n].q == q {
			n++
		}
		ch.countLocked(q.kind, s, n)
		list = list[n:]
	}
}

// unconfirmedLocked is how many publishes of the channel await their confirms; s.mu
// is held.
func (ch *Channel) unconfirmedLocked() int {
	t := &ch.s.pub.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	return int(max(int64(ch.sent.withConfirm-ch.conf.acks-ch.conf.nacks), 0))
}

// uncommittedLocked is how many publishes wait for the channel's transaction to
// commit; s.mu is held.
func (ch *Channel) uncommittedLocked() int {
	if ch.tx == nil {
		return 0
	}
	return int(ch.tx.waiting.Load())
}

// counts adds up what the session's channels count, and those that it had.
func (s *Session) counts() counts {
	var c counts
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.past != nil {
		c = *s.past
	}
	for _, ch := range s.channels {
		ch.addCountsLocked(&c)
	}
	t := &s.pub.tally
	t.mu.Lock()
	c[0][PublishOut] += t.out
	t.mu.Unlock()
	return c
}

// exchangeCounts are what went through an exchange.
type exchangeCounts struct {
	in, out atomic.Uint64
	looked  looker
}

// A looker takes rates for whoever looks.
type looker struct {
	mu sync.Mutex // guards r
	r  *rated     // nil: there was nothing to be seen yet
}

func (l *looker) look(now time.Time, t *Traffic) Rates {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		l.r = &rated{}
	}
	return l.r.look(now, t)
}

func (c *exchangeCounts) view(x *ExchangeView, now time.Time) {
	x.Traffic[PublishIn], x.Traffic[PublishOut] = c.in.Load(), c.out.Load()
	if x.Traffic == (Traffic{}) {
		return
	}
	x.Rates = c.looked.look(now, &x.Traffic)
}

// past is what was counted by what has gone. Guarded by Broker.mu.
type past struct {
	protocols      map[string]*protocolPast
	received, sent uint64 // bytes
}

type protocolPast struct {
	counts counts
	sizes  Sizes
}

// countOffLocked keeps what a session that is closed has counted. b.mu is held, and
// the session has no channels any more.
func (b *Broker) countOffLocked(s *Session) {
	if !s.cfg.Unlisted {
		b.churn.connectionsClosed.Add(1)
	}
	if s.cfg.Octets != nil {
		received, sent := s.cfg.Octets()
		b.past.received += received
		b.past.sent += sent
	}
	c := s.counts()
	if c == (counts{}) {
		return
	}
	of := b.past.protocols[s.cfg.Protocol]
	if of == nil {
		if b.past.protocols == nil {
			b.past.protocols = map[string]*protocolPast{}
		}
		of = &protocolPast{}
		b.past.protocols[s.cfg.Protocol] = of
	}
	of.counts.add(&c)
	of.sizes.Add(&s.pub.tally.sizes) // nobody counts there any more
	t := c.all()
	s.v.past.Add(&t)
}

// countOff keeps what a queue that is being deleted has counted. q.mu is held.
func (b *Broker) countOff(q *Queue) {
	b.churn.queuesDeleted.Add(1)
	if q.counts == nil {
		return
	}
	b.deleted.mu.Lock()
	b.deleted.counts[q.kind].Add(q.counts)
	b.deleted.mu.Unlock()
}

// deleted is what deleted queues have counted.
type deleted struct {
	mu     sync.Mutex // innermost; guards counts
	counts counts
}

func (d *deleted) view() counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts
}

// ProtocolView is what the clients that speak one protocol did since the broker was
// started, and what they have now.
type ProtocolView struct {
	Protocol              string // as in SessionConfig
	Publishers, Consumers int    // channels that have published, consumers
	Traffic               [len(QueueTypes)]Traffic
	Sizes                 Sizes
}

// Protocols lists what was done by each protocol, by name. Traffic is that of the
// messages of the queues of each of QueueTypes; what queues have nothing to do with
// is in the first.
func (b *Broker) Protocols() []ProtocolView {
	by := map[string]*ProtocolView{}
	of := func(protocol string) *ProtocolView {
		p := by[protocol]
		if p == nil {
			p = &ProtocolView{Protocol: protocol}
			by[protocol] = p
		}
		return p
	}
	b.mu.Lock()
	sessions := b.sessionsLocked()
	for protocol, past := range b.past.protocols {
		p := of(protocol)
		p.Traffic = past.counts
		p.Sizes = past.sizes
	}
	b.mu.Unlock()
	for _, s := range sessions {
		p := of(s.cfg.Protocol)
		c := s.counts()
		for i := range c {
			p.Traffic[i].Add(&c[i])
		}
		t := &s.pub.tally
		s.mu.Lock()
		t.mu.Lock()
		p.Sizes.Add(&t.sizes)
		for _, ch := range s.channels {
			p.Consumers += len(ch.consumers)
			if ch.sent.published > 0 {
				p.Publishers++
			}
		}
		t.mu.Unlock()
		s.mu.Unlock()
	}
	list := make([]ProtocolView, 0, len(by))
	for _, p := range by {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(x, y ProtocolView) int { return strings.Compare(x.Protocol, y.Protocol) })
	return list
}
