package stomplink

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// arrivals is what the reader keeps from one frame to the next.
type arrivals struct {
	transport.Arrivals

	decoder stompwire.Decoder
	begun   bool // the decoder has seen a part of what is unread
	within  bool // of a frame whose head was taken
	size    int  // bytes of that head

	// Of the frame at hand.
	receipt  receipt
	report   report
	delivery *link.Delivery // nil: nobody wants it
	ackID    []byte
	left     int // bytes of its body that are to come

	destination, kind                                 transport.Last
	exchange, key                                     string // of these
	contentType, encoding, replyTo, typ, user, origin transport.Last
}

// messageHead makes a delivery of the headers of a MESSAGE, if it is of the
// subscription that there is.
func (s *session) messageHead() {
	a := &s.found
	a.delivery, a.left = nil, int(max(a.decoder.Length, 0))
	if s.inbox == nil || !s.isMine() {
		return
	}
	d := a.Delivery(len(s.In.Unread()))
	a.delivery = d
	a.ackID = a.ackID[:0]
	s.readHeaders(d)
}

// isMine tells whether the MESSAGE at hand is of a subscription that goes on.
func (s *session) isMine() bool {
	if s.receiver == nil {
		return true // the replies' is the only one
	}
	id, ok := s.found.decoder.Get(stompwire.HeaderSubscription)
	if !ok {
		return true
	}
	n, err := strconv.ParseUint(string(id), 10, 64)
	return err == nil && s.receiver.ledger.isPresent(n)
}

// readHeaders reads the headers of a MESSAGE into a delivery. Of several of one
// name the first counts.
func (s *session) readHeaders(d *link.Delivery) {
	a, m := &s.found, &d.Message
	m.Transient = true
	var destination, kind []byte
	var t times
	for i := range a.decoder.Headers {
		name, v := a.decoder.Headers[i].Name, a.decoder.Headers[i].Value
		switch string(name) {
		case stompwire.HeaderDestination:
			first(&destination, v)
		case stompwire.HeaderDestinationType:
			if s.conn.dialect == artemis {
				first(&kind, v)
			} else {
				user(m, name, v)
			}
		case stompwire.HeaderAck:
			if s.version >= stompwire.V12 {
				a.ackID = append(a.ackID[:0], v...)
			}
		case stompwire.HeaderMessageID:
			if s.version < stompwire.V12 {
				a.ackID = append(a.ackID[:0], v...)
			}
		case stompwire.HeaderSubscription, stompwire.HeaderContentLength, stompwire.HeaderReceipt, stompwire.HeaderTransaction:
		case stompwire.HeaderRedelivered:
			d.Redelivered = string(v) == "true"
		case stompwire.HeaderPersistent:
			m.Transient = m.Transient && string(v) != "true"
		case link.HeaderID:
			if m.ID == "" {
				m.ID = string(v)
			}
		case link.HeaderAttempt:
			if n, ok := number(v); ok {
				d.Attempt = int(min(n, math.MaxInt32))
			}
		case headerDuplicateID:
			if !s.conn.dialect.hasDuplicateIDs() || string(v) != m.ID {
				user(m, name, v)
			}
		default:
			if !a.property(m, name, v, &t) {
				user(m, name, v)
			}
		}
	}
	t.set(m, s.conn.dialect)
	m.ReplyTo = replyName(m.ReplyTo)
	if s.conn.dialect.hasDuplicateIDs() && m.ID != "" {
		if text, ok := m.Headers[headerDuplicateID].(string); ok && text == m.ID { // it came before the other
			delete(m.Headers, headerDuplicateID)
		}
	}
	if m.Priority == defaultPriority && s.conn.dialect.hasDuplicateIDs() {
		m.Priority = 0
	}
	a.route(s.conn.dialect, destination, kind)
	m.Exchange, m.Key = a.exchange, a.key
}

// defaultPriority is what Artemis and ActiveMQ (JMS) give a message without one.
const defaultPriority = 4

func first(to *[]byte, v []byte) {
	if *to == nil {
		*to = v
	}
}

// user adds a header of the message's own.
func user(m *link.Message, name, v []byte) {
	if m.Headers == nil {
		m.Headers = make(map[string]any, 4)
	}
	if _, ok := m.Headers[string(name)]; !ok {
		m.Headers[string(name)] = string(v)
	}
}

// times are those of a message, as its headers have them.
type times struct {
	expiration, expires, timestamp, second moment
}

// A moment is a header that holds a number, 0 if it is none.
type moment struct {
	n     int64
	there bool
}

func (m *moment) read(v []byte) {
	if !m.there {
		m.n, _ = number(v)
		m.there = true
	}
}

// property reads a header that is a property of the message, and tells whether it
// is.
func (a *arrivals) property(m *link.Message, name, v []byte, t *times) bool {
	switch string(name) {
	case stompwire.HeaderContentType:
		set(&m.ContentType, &a.contentType, v)
	case stompwire.HeaderContentEncoding:
		set(&m.ContentEncoding, &a.encoding, v)
	case stompwire.HeaderPriority:
		if n, ok := number(v); ok && m.Priority == 0 {
			m.Priority = uint8(min(n, math.MaxUint8))
		}
	case stompwire.HeaderCorrelationID:
		setNew(&m.CorrelationID, v)
	case stompwire.HeaderReplyTo:
		set(&m.ReplyTo, &a.replyTo, v)
	case stompwire.HeaderAMQPMessageID:
		setNew(&m.MessageID, v)
	case stompwire.HeaderType:
		set(&m.Type, &a.typ, v)
	case stompwire.HeaderUserID:
		set(&m.UserID, &a.user, v)
	case stompwire.HeaderAppID:
		set(&m.AppID, &a.origin, v)
	case stompwire.HeaderExpiration:
		t.expiration.read(v)
	case stompwire.HeaderExpires:
		t.expires.read(v)
	case stompwire.HeaderTimestamp:
		if t.timestamp.there {
			t.second.read(v)
		} else {
			t.timestamp.read(v)
		}
	default:
		return false
	}
	return true
}

// set sets a text that is likely to be the last message's, too, and setNew one that
// is not.
func set(to *string, last *transport.Last, v []byte) {
	if *to == "" {
		*to = last.Of(v)
	}
}

func setNew(to *string, v []byte) {
	if *to == "" {
		*to = string(v)
	}
}

// set notes when a message was made and how long it is of use. Artemis and ActiveMQ
// write when they got it, in milliseconds, and then what the sender wrote; and until
// when it is of use, 0 for ever.
func (t *times) set(m *link.Message, d dialect) {
	switch own := d.hasDuplicateIDs(); {
	case !own && t.timestamp.n > 0:
		m.Timestamp = time.Unix(t.timestamp.n, 0).UTC()
	case own && t.second.n > 0:
		m.Timestamp = time.Unix(t.second.n, 0).UTC()
	case own && t.timestamp.n > 0:
		m.Timestamp = time.UnixMilli(t.timestamp.n).UTC()
	}
	ms := t.expiration.n
	if d.hasDuplicateIDs() && t.timestamp.there && t.expires.n > t.timestamp.n {
		ms = t.expires.n - t.timestamp.n
	}
	if ms > 0 {
		m.Expiration = time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
	}
}

// number reads decimal digits.
func number(v []byte) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 18 { // that any int64 has room for
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// replyName is the name of the queue that a reply-to means, as an AMQP client has
// it.
func replyName(text string) string {
	if text == "" || text[0] != '/' {
		return text
	}
	for _, prefix := range []string{"/reply-queue/", "/amq/queue/", "/queue/"} {
		if name, ok := strings.CutPrefix(text, prefix); ok && name != "" {
			if to, err := stompwire.ParseDestination(text); err == nil && to.Kind != stompwire.ReplyQueue {
				return to.Name
			}
			return name
		}
	}
	return text
}

// route notes where a message came from; mostly from where the last did.
func (a *arrivals) route(d dialect, destination, kind []byte) {
	before, beforeKind := a.destination, a.kind
	if a.destination.Of(destination); a.destination == before && a.key != "" {
		if a.kind.Of(kind); a.kind == beforeKind {
			return
		}
	}
	a.kind.Of(kind)
	a.exchange, a.key = d.source(destination, string(kind) == multicast)
}

// arrived handles a message that is there.
func (s *session) arrived() {
	a := &s.found
	d := a.delivery
	if d == nil {
		return
	}
	a.delivery = nil
	in := s.inbox
	if len(in.batch) == 0 {
		s.settleRun() // what came before it is before it
		in.batch = make([]*link.Delivery, 0, a.Expected(len(s.In.Unread())))
		in.ids, in.ends = in.ids[:0], in.ends[:0]
	}
	in.batch = append(in.batch, d)
	in.ids = append(in.ids, a.ackID...)
	in.ends = append(in.ends, len(in.ids))
}

// deliverAll gives the sink what one read brought, once the receiver is known to be
// open.
func (s *session) deliverAll() {
	in := s.inbox
	if in == nil || len(in.batch) == 0 || !s.isOpened() {
		return
	}
	batch := in.batch
	in.batch = nil
	if in.ledger == nil {
		// The broker counts these as done: they are given to the sink also while
		// the receiver closes, and the sink may hold the reader up.
		if in.gate.Passable() {
			s.Pulse.Held.Store(true)
			in.sink.Deliver(batch)
			s.Pulse.Held.Store(false)
		}
		return
	}
	if !in.taking.Enter() {
		return
	}
	defer in.taking.Leave()
	// What is not taken in goes back to the queue with the session.
	if in.ledger.add(batch, in.ids, in.ends) && in.gate.Enter() {
		in.sink.Deliver(batch)
		in.gate.Leave()
	}
}

func (s *session) isOpened() bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return s.Opened
}
