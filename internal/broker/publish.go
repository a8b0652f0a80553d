package broker

import (
	"bytes"
	"math"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

const (
	flushMessages = 512       // publishes gathered before they enter their queues
	flushBytes    = 256 << 10 // or so many bytes
	slabMax       = 64 << 10  // blocks are carved from slabs of at most this size
	ownBlock      = 8 << 10   // larger blocks get an allocation of their own
	announcedFree = 128 << 10 // bytes of a body that get memory when they are announced
	announcedMax  = 64 << 20  // and bytes beyond that, of all connections
	routeCacheMax = 4096      // routes a connection remembers
)

// Publish is a message that a client hands over. Nothing of it is kept: the
// broker copies what it needs.
type Publish struct {
	Exchange, Key []byte
	Persistent    bool
	Mandatory     bool   // return it if no queue takes it
	Properties    []byte // property list of package message
	Body          []byte
}

type pubItem struct {
	m         *stored
	r         *path
	ch        *Channel
	tag       uint64     // 0: no confirm is wanted
	from      *producer  // nil: the message has no identity
	id        uint64     // its number, by its producer
	ext       *recordExt // its window and its id there; nil: it has no duplicate id
	mandatory bool
	marked    bool   // it may repeat one that was accepted before
	refused   bool   // by one of its queues
	over      uint16 // as that of arrival
	ttl       int64  // likewise
	delay     int64  // ms for which an exchange that delays keeps it
	value     *dupID // of dedupHeader; nil: there is none, or it was not looked for
	looked    bool   // it was
	repeated  bool   // a queue did not take it, because it has its value
}

// arrival is what a queue is to know of a publish.
func (it *pubItem) arrival(q *Queue) arrival {
	if q.delay != nil {
		return arrival{over: it.over, wake: wakeTime(it.delay)}
	}
	a := arrival{resent: it.marked, priority: it.m.priority, over: it.over, ttl: it.ttl}
	if q.rules.dedup.on {
		a.value = it.valueID()
	}
	return a
}

// publisher gathers a connection's publishes, so that a queue's and the log's
// locks are taken once for many. It belongs to the reader's goroutine.
type publisher struct {
	s *Session

	items []pubItem
	bytes int

	slab     []byte
	slabNext int // size of the next slab
	pool     []stored

	lastRoute *path
	lastName  []byte // length of exchange, exchange, key of lastRoute
	routes    map[string]*path
	rkey      []byte
	checked   []byte // the last property list that was found good, and to route by key alone
	idAt      int    // where in checked the text of an identity is
	idLen     int    // its length, 0: there is none
	duplicate bool   // that is the value of duplicateHeader, not of idHeader
	direct    bool   // checked, or the list that was routed last, has a reply-to to be replaced
	id        []byte // the identity's text of what was routed last; empty: it has none
	timed     extent // where in checked the field of the expiration is; n is 0: there is none
	urgency   uint8  // the priority of checked
	ttl       int64  // the expiration of what was routed last, as in arrival
	priority  uint8  // its priority
	bare      []byte // the properties of what was routed last without its mark; nil: they had none
	marked    bool   // what was routed last was marked as a resend
	blind     bool   // it has a header BCC
	value     header // dedupHeader of what was routed last, while its properties are there
	valueAt   extent // where in checked it is
	valueKind byte   // of what kind
	age       int64  // dedupAgeHeader of that, as ageOf reads it
	delay     int64  // ms that what was routed last is to be delayed
	delayed   int64  // that of checked

	mayVersion uint64 // of the topology and of permissions when mayPublish last asked
	mayName    []byte // of which exchange
	mayAll     bool   // and it may be published to by all keys

	pressure *Queue // a queue that has more than it can deliver

	tally tally

	window *window     // of the last message that had one
	exts   []recordExt // to be carved from

	settling []delivered // scratch of Channel.settle
	repeats  []pubItem   // scratch of dropRepeats and insertNewLocked
	seqs     []uint64    // scratch of enter
}

func (p *publisher) message() *stored {
	if len(p.pool) == 0 {
		n := min(64, max(1, len(p.items)))
		p.pool = make([]stored, n)
	}
	m := &p.pool[0]
	p.pool = p.pool[1:]
	return m
}

// room returns an empty slice with capacity n.
func (p *publisher) room(n int) []byte {
	if n > ownBlock {
		return make([]byte, 0, n)
	}
	if len(p.slab) < n {
		p.slab = make([]byte, max(n, p.slabNext))
	}
	b := p.slab[:0:n]
	p.slab = p.slab[n:]
	return b
}

// Publish takes a message. It enters its queues at the latest with the next
// Flush, in order. Errors: NotFound (exchange), AccessRefused (an internal
// exchange), PreconditionFailed (reply-to without a consumer of replies),
// TooLarge.
func (ch *Channel) Publish(p *Publish) error {
	s := ch.s
	if len(p.Body) > s.b.cfg.MaxMessage {
		return s.b.tooLarge(uint64(len(p.Body)))
	}
	r, err := s.pub.route(p)
	if err != nil {
		return err
	}
	props, err := ch.ownProperties(p.Properties)
	if err != nil {
		return err
	}
	if r.delays && s.pub.delay > 0 {
		props = withoutDelay(props, s.pub.delay)
	}
	size := message.Overhead + len(p.Exchange) + len(p.Key) + len(props) + len(p.Body)
	block := message.AppendBlockHead(s.pub.room(size), p.Persistent, p.Exchange, p.Key, props)
	head := len(block)
	if s.pub.blind {
		message.MarkBlind(block)
	}
	block = append(block, p.Body...)
	s.pub.tally.publish(ch, len(p.Body))
	ch.enqueue(block, head, r, p, s.pub.marked)
	return nil
}

func (b *Broker) tooLarge(size uint64) *Error {
	return errorf(TooLarge, "message size %d is larger than configured max size %d", size, b.cfg.MaxMessage)
}

// Incoming is a message whose body arrives in pieces.
type Incoming struct {
	ch     *Channel
	p      Publish // its properties are those of the block
	head   int
	size   int
	claim  int64 // of Broker.announced
	block  []byte
	marked bool // as a resend
}

// unclaim gives back what was set aside for the body.
func (in *Incoming) unclaim() {
	in.ch.s.b.announced.Add(-in.claim)
	in.claim = 0
}

// PublishLarge begins a message whose body, of size bytes, comes in pieces. p's
// fields are copied. Errors as Publish.
func (ch *Channel) PublishLarge(p *Publish, size uint64) (*Incoming, error) {
	if size > uint64(ch.s.b.cfg.MaxMessage) || size > math.MaxInt32 {
		return nil, ch.s.b.tooLarge(size)
	}
	r, err := ch.s.pub.route(p)
	if err != nil {
		return nil, err
	}
	props, err := ch.ownProperties(p.Properties)
	if err != nil {
		return nil, err
	}
	in := &Incoming{ch: ch, p: *p, size: int(size), marked: ch.s.pub.marked}
	in.p.Exchange, in.p.Key = bytes.Clone(p.Exchange), bytes.Clone(p.Key)
	in.p.Properties, in.p.Body = bytes.Clone(props), nil // by which Finish finds its way
	if r.delays && ch.s.pub.delay > 0 {
		props = withoutDelay(props, ch.s.pub.delay)
	}
	head := message.Overhead + len(p.Exchange) + len(p.Key) + len(props)
	// Room for all of it at once saves copying; what is announced by all
	// connections together may claim no more than announcedMax.
	room := min(in.size, announcedFree)
	if in.size > announcedFree && ch.s.b.announced.Add(int64(in.size)) <= announcedMax {
		in.claim = int64(in.size)
		room = in.size
	} else if in.size > announcedFree {
		ch.s.b.announced.Add(-int64(in.size))
	}
	in.block = message.AppendBlockHead(make([]byte, 0, head+room), p.Persistent, p.Exchange, p.Key, props)
	in.head = len(in.block)
	if ch.s.pub.blind {
		message.MarkBlind(in.block)
	}
	ch.incoming = in
	return in, nil
}

// Left is the number of bytes of the body that have not come yet.
func (in *Incoming) Left() int { return in.size - (len(in.block) - in.head) }

// Room returns the next n bytes of the body, for the caller to fill; n must not
// be more than Left. Memory grows with what came, not with what was announced.
func (in *Incoming) Room(n int) []byte {
	at := len(in.block)
	if need := at + n; need > cap(in.block) {
		grown := make([]byte, at, min(max(need, 2*cap(in.block)), in.head+in.size))
		copy(grown, in.block)
		in.block = grown
	}
	in.block = in.block[:at+n]
	return in.block[at:]
}

// Finish publishes the message, whose body must be complete. Errors as Publish.
func (in *Incoming) Finish() error {
	in.unclaim()
	in.ch.incoming = nil
	r, err := in.ch.s.pub.route(&in.p)
	if err != nil {
		return err
	}
	in.ch.s.pub.tally.publish(in.ch, in.size)
	in.ch.enqueue(in.block, in.head, r, &in.p, in.marked)
	return nil
}

// enqueue takes a block, whose body begins at head.
func (ch *Channel) enqueue(block []byte, head int, r *path, p *Publish, marked bool) {
	pub := &ch.s.pub
	m := pub.message()
	m.setBlock(block)
	m.persistent, m.priority = p.Persistent, pub.priority
	it := pubItem{m: m, r: r, ch: ch, mandatory: p.Mandatory, marked: marked, over: headBytes(head), ttl: pub.ttl}
	switch {
	case len(pub.id) == 0:
	case pub.duplicate:
		it.ext = pub.remember(pub.id, r, p)
	default:
		it.from, it.id = ch.identify(pub.id)
	}
	if r.delays {
		it.delay = pub.delay
	}
	if len(r.filters) > 0 && pub.value.kind != 0 {
		it.ext = pub.filtered(r, it.ext)
	}
	if ch.tx != nil {
		ch.tx.pubs = append(ch.tx.pubs, it)
		ch.tx.waiting.Store(int64(len(ch.tx.pubs)))
		ch.tx.bytes += len(block)
		ch.s.countBlocked(len(block)) // it takes room from now on, not from its commit
		return
	}
	if ch.confirms {
		ch.published++
		it.tag = ch.published
	}
	pub.items = append(pub.items, it)
	pub.bytes += len(block)
	if len(pub.items) >= flushMessages || pub.bytes >= flushBytes {
		ch.s.Flush()
	}
}

// Flush puts what was published into its queues. The reader calls it before it
// waits for input.
func (s *Session) Flush() {
	p := &s.pub
	if len(p.items) == 0 {
		return
	}
	if p.slabNext = min(2*p.bytes, slabMax); len(p.items) < 4 {
		// A connection that publishes now and then keeps no slab.
		p.slab, p.slabNext, p.pool, p.exts = nil, 0, nil, nil
	}
	s.b.evict.hot.Add(int64(p.bytes))
	s.countBlocked(p.bytes)
	s.insert(p.items)
	p.tally.flush()
	clear(p.items)
	if p.items = p.items[:0]; cap(p.items) > 2*flushMessages {
		p.items = nil
	}
	p.bytes = 0
	if s.b.evict.over() {
		s.b.evict.poke()
	}
}

// waitLog holds the reader while too much waits for the journal, but not while
// publishers are blocked: the journal may then wait for what this connection
// settles.
func (s *Session) waitLog() {
	l := s.b.log
	for s.b.blocked.Load() == nil {
		l.mu.Lock()
		if l.bytes < logPending {
			l.mu.Unlock()
			return
		}
		w := l.waiterLocked()
		l.mu.Unlock()
		s.throttled.Store(true)
		select {
		case <-w.done:
		case <-time.After(pressureSlice):
		case <-s.stop:
		case <-s.b.failed:
		}
		s.throttled.Store(false)
		if s.stopped() {
			return
		}
	}
}

// stopped tells whether nothing should wait any more: the session was
// interrupted, or the broker failed.
func (s *Session) stopped() bool {
	select {
	case <-s.stop:
		return true
	case <-s.b.failed:
		return true
	default:
		return false
	}
}

// Throttle holds the reader while the broker cannot take more from this
// connection: briefly when it outruns the consumers of a queue, for as long as
// it lasts under an alarm, and while the peer does not read the answers to what
// it sent. It returns at once when the connection has
// deliveries of its own to settle (they would wait behind its publishes), and
// on Interrupt.
func (s *Session) Throttle() {
	if s.b.blocked.Load() != nil && s.isBlocked() {
		s.waitUnblocked()
	}
	s.waitLog()
	s.waitWritten()
	q := s.pub.pressure
	if q == nil {
		return
	}
	s.pub.pressure = nil
	s.mu.Lock()
	own := s.unacked
	s.mu.Unlock()
	if own > 0 {
		return
	}
	s.throttled.Store(true)
	defer s.throttled.Store(false)
	timer := time.NewTimer(pressureSlice)
	defer timer.Stop()
	before := uint64(math.MaxUint64)
	for {
		q.mu.Lock()
		if q.deleted || len(q.consumers) == 0 || q.ready <= pressureLow || q.taken == before {
			q.mu.Unlock()
			return
		}
		before = q.taken
		if q.drained == nil {
			q.drained = make(chan struct{})
		}
		w := q.drained
		q.mu.Unlock()
		select {
		case <-w:
			return
		case <-s.stop:
			return
		case <-timer.C:
			timer.Reset(pressureSlice)
		}
	}
}
