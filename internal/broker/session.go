package broker

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of a session.
const (
	// outboxLimit is how many bytes may wait for one connection's writer, or be
	// in its hands, before the connection's consumers are assigned nothing more.
	outboxLimit = 1 << 20
	// answersLimit is how many bytes of what the peer asked for (replies, returns,
	// got messages) may wait, before its requests are not read any more. Direct
	// replies beyond it are lost, as they are for a requester that has gone.
	answersLimit = 32 << 20
	// eventOverhead is what an event counts beside its block.
	eventOverhead = 64
	// blockedAllowance is how much a blocked connection may still publish, so
	// that the settlements it sent behind its publishes get through.
	blockedAllowance = 1 << 20
	// pressureSlice is how long a publisher is paused at a time; the pause is
	// prolonged only while the queue's consumers are taking.
	pressureSlice = 20 * time.Millisecond
)

// SessionConfig describes a connection to the broker.
type SessionConfig struct {
	VHost string
	User  string
	Peer  netip.AddrPort
	Name  string // for people: "127.0.0.1:5555 -> 127.0.0.1:5672"

	// Access is what the user may do in the virtual host; nil: everything.
	Access Access
	// Impersonator is whether the user may publish in others' names: with a user-id
	// that is not User.
	Impersonator bool
	// Protocol is what the client speaks, for people and metrics: "AMQP 0-9-1",
	// "STOMP 1.2", "GMQ", "HTTP".
	Protocol string
	// Client is what the client told of itself: a header list.
	Client []byte
	// TLS is whether the connection is encrypted.
	TLS bool

	// What follows is told of the connection, and means nothing to the broker.
	Local      netip.AddrPort
	Mechanism  string                         // that the user logged in with: "PLAIN"
	ChannelMax uint16                         // channels that it may have; 0: no limit
	FrameMax   uint32                         // bytes; 0: no limit
	Heartbeat  time.Duration                  // 0: none
	Octets     func() (received, sent uint64) // bytes, of any goroutine; nil: not known
	// Unlisted is whether it is none of the connections that are told of: it is the
	// server's own.
	Unlisted bool

	// NotifyBlocked is whether the peer wants EventBlocked and EventUnblocked.
	NotifyBlocked bool
	// NotifyCancelled is whether the peer wants EventCancelled.
	NotifyCancelled bool
}

// A Session is one client connection. Its methods, and those of its channels,
// are called by one goroutine, the connection's reader, unless they say
// otherwise; events are taken by another, the connection's writer.
type Session struct {
	b   *Broker
	v   *VHost
	cfg SessionConfig

	wake chan struct{} // one slot: the outbox has something

	opened time.Time

	// Of the reader's goroutine, which changes channels, and of theirs consumers,
	// under mu alone: others look at them.
	channels map[uint16]*Channel
	pub      publisher
	bulk     bool          // within Bulk
	stop     chan struct{} // closed by Interrupt
	stopOnce sync.Once

	throttled    atomic.Bool
	blockedBytes int // published since the connection was told that it is blocked

	mu          sync.Mutex // guards what follows, and what channel.go says it guards
	events      []Event
	confirming  []*Channel    // channels with confirms to be told of
	outBytes    int           // in events, or taken and not yet Flushed
	answers     int           // of outBytes, what no consumer's prefetch bounds
	written     chan struct{} // closed when answers have drained, nil if nobody waits
	stalled     []*Consumer
	closed      bool
	unacked     int // deliveries of all channels that await settlement
	toldBlocked bool
	past        *counts // of channels that were closed
	looked      *rated

	exclusive map[*Queue]struct{} // guarded by v.mu
}

// OpenSession begins a connection to a virtual host. The error is NotAllowed
// when there is no such virtual host, or too many connections are there.
func (b *Broker) OpenSession(cfg SessionConfig) (*Session, error) {
	v := b.vhost(cfg.VHost)
	if v == nil {
		return nil, errorf(NotAllowed, "vhost %s not found", cfg.VHost)
	}
	s := &Session{
		b: b, v: v, cfg: cfg,
		opened:    time.Now(),
		wake:      make(chan struct{}, 1),
		stop:      make(chan struct{}),
		channels:  map[uint16]*Channel{},
		exclusive: map[*Queue]struct{}{},
	}
	s.pub.s = s
	count := b.admit(&cfg)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure != nil {
		return nil, b.failure
	}
	if b.closing != nil {
		return nil, b.closing
	}
	if v.gone.Load() {
		return nil, errorf(NotAllowed, "vhost %s not found", cfg.VHost)
	}
	if err := count(v); err != nil {
		return nil, err
	}
	b.sessions[s] = struct{}{}
	if !cfg.Unlisted {
		b.churn.connectionsOpened.Add(1)
	}
	return s, nil
}

// Wake returns the channel that gets a signal when the outbox is not empty.
// It is never closed.
func (s *Session) Wake() <-chan struct{} { return s.wake }

func (s *Session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Take moves what the outbox holds into buf[:0] and returns it. What was taken
// counts as waiting until Flushed. Called by the writer. Once the messages are, or
// may be, another node's, all that is left to be told is that the connection ends.
func (s *Session) Take(buf []Event) []Event {
	if s.b.lease != nil && !s.b.owns() {
		return s.takeEnd(buf)
	}
	clear(buf)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range s.confirming {
		ch.tellConfirms()
	}
	clear(s.confirming)
	s.confirming = s.confirming[:0]
	events := s.events
	s.events = buf[:0]
	return events
}

// takeEnd is Take without what only an owner may tell.
func (s *Session) takeEnd(buf []Event) []Event {
	clear(buf)
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.events
	s.events = buf[:0]
	return slices.DeleteFunc(events, func(e Event) bool { return e.Kind != EventClosed })
}

// Flushed says that the events were written, so that consumers that waited
// for the connection to drain get more. Called by the writer.
func (s *Session) Flushed(events []Event) {
	n, answers := 0, 0
	for i := range events {
		size := eventOverhead + len(events[i].Data)
		n += size
		if events[i].isAnswer() {
			answers += size
		}
	}
	s.mu.Lock()
	s.outBytes -= n
	s.answers -= answers
	if s.written != nil && s.answers <= answersLimit/2 {
		close(s.written)
		s.written = nil
	}
	s.mu.Unlock()
	s.unstall()
}

// unstall gives those that waited for the outbox to drain their turns, if it has:
// until it is full again, so that the next time begins with those that got none.
func (s *Session) unstall() {
	s.mu.Lock()
	left := len(s.stalled)
	if s.outBytes > outboxLimit/2 {
		left = 0
	}
	for ; left > 0 && len(s.stalled) > 0 && s.outBytes < outboxLimit; left-- {
		c := s.stalled[0]
		s.stalled[0] = nil
		s.stalled = s.stalled[1:]
		c.parked, c.stalled = false, false
		s.mu.Unlock()
		c.resume()
		s.mu.Lock()
	}
	s.mu.Unlock()
}

// push appends an event; s.mu is held.
func (s *Session) pushLocked(e Event) {
	if s.closed {
		return
	}
	size := eventOverhead + len(e.Data)
	s.outBytes += size
	if e.isAnswer() {
		s.answers += size
	}
	s.events = append(s.events, e)
}

// isAnswer tells whether an event is not one of those that a consumer's prefetch
// and the outbox limit bound.
func (e *Event) isAnswer() bool { return e.Kind != EventDelivery || e.Consumer.q == nil }

// waitWritten holds the reader while the peer does not read what it asked for.
func (s *Session) waitWritten() {
	s.mu.Lock()
	if s.answers <= answersLimit {
		s.mu.Unlock()
		return
	}
	if s.written == nil {
		s.written = make(chan struct{})
	}
	w := s.written
	s.mu.Unlock()
	s.throttled.Store(true)
	defer s.throttled.Store(false)
	select {
	case <-w:
	case <-s.stop:
	case <-s.b.failed:
	}
}

func (s *Session) push(e Event) {
	s.mu.Lock()
	s.pushLocked(e)
	s.mu.Unlock()
	s.signal()
}

// Reply queues bytes of the server's own behind all events before it. data
// must not be changed afterwards. It may be called by any goroutine.
func (s *Session) Reply(data []byte) { s.push(Event{Kind: EventReply, Data: data}) }

// VHostName is the name of the session's virtual host.
func (s *Session) VHostName() string { return s.v.name }

// Throttled tells whether the reader is being held in Throttle. Any goroutine
// may ask: a peer that is not read must not be taken for dead.
func (s *Session) Throttled() bool { return s.throttled.Load() }

// Interrupt makes Throttle and every other wait of the session's reader
// return. Any goroutine may call it, more than once.
func (s *Session) Interrupt() { s.stopOnce.Do(func() { close(s.stop) }) }

// Close ends the connection: its channels, their consumers, its exclusive
// queues; what it had not settled is requeued. It must be called by the reader
// when it is done, and waits for nothing but locks and, with exclusive durable
// queues, the journal.
func (s *Session) Close() {
	s.Interrupt()
	s.Flush()
	s.mu.Lock()
	s.closed = true
	s.noteUnsentLocked()
	s.events = nil
	s.mu.Unlock()
	for _, ch := range s.channels {
		ch.close()
	}
	s.pub.tally.flush()
	s.deleteExclusive()
	s.b.forget(s)
}
