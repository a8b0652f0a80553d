package stompserver

import (
	"strconv"
	"sync"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// ackMode is how messages of a subscription are acknowledged.
type ackMode uint8

const (
	ackAuto       ackMode = iota
	ackClient             // an ACK is for all messages up to its own
	ackIndividual         // and here for its own alone
)

// What keys of subscriptions begin with, as RabbitMQ's consumer tags do: before an id,
// or before a destination where there is none.
const (
	keyOfID          = "T_"
	keyOfDestination = "Q_"
)

// separator stands between the parts of a message-id, as in RabbitMQ.
const separator = "@@"

// subscription is one SUBSCRIBE, or the replies that a temporary queue gathers.
// What the writer uses of it does not change.
type subscription struct {
	key         string // in subscriptions.byKey: keyOfID and its id, or keyOfDestination and that
	id          string // "" if it has none
	destination string // as it was written
	mode        ackMode
	durable     bool // in RabbitMQ's spelling: its queue stays

	channel  *broker.Channel
	consumer *broker.Consumer
	queue    string
	ownQueue bool // made for this subscription alone
	temp     bool // the replies that a temporary queue gathers

	// The id of a message is "T_sub@@session-abc@@1-" and its tag: the number tells
	// subscriptions of one id apart that come after each other. An id of the one
	// that has ended must not settle a message of another.
	prefix string

	// Of MESSAGE, encoded.
	head     []byte // up to the tag in message-id
	ackLine  []byte // up to the tag in ack; nil where there is none
	toLine   []byte // destination; nil where the message decides
	bareKeys bool   // the destination is the key without RabbitMQ's prefix
}

// encode makes what is the same in all of a subscription's frames. number tells
// it apart from others of the connection.
func (s *subscription) encode(c *conn, number uint32) error {
	s.prefix = s.key + separator + c.name + separator + strconv.FormatUint(uint64(number), 10) + "-"
	var err error
	b := stompwire.AppendCommand(nil, stompwire.Message)
	// "The id header of the subscription" is there where the SUBSCRIBE had one (STOMP
	// 1.0), and from 1.1 on always.
	id := s.id
	if id == "" && c.version >= stompwire.V11 {
		id = s.destination
	}
	if id != "" {
		if b, err = stompwire.AppendHeader(b, c.version, stompwire.HeaderSubscription, id); err != nil {
			return err
		}
	}
	if b, err = stompwire.AppendHeader(b, c.version, stompwire.HeaderMessageID, s.prefix); err != nil {
		return err
	}
	s.head = b[:len(b)-1]
	if s.mode != ackAuto && c.version >= stompwire.V12 {
		if b, err = stompwire.AppendHeader(nil, c.version, stompwire.HeaderAck, s.prefix); err != nil {
			return err
		}
		s.ackLine = b[:len(b)-1]
	}
	return nil
}

// fixDestination makes all messages say that they are for the destination that
// was subscribed to.
func (s *subscription) fixDestination(v stompwire.Version) (err error) {
	s.toLine, err = stompwire.AppendHeader(nil, v, stompwire.HeaderDestination, s.destination)
	return err
}

// subscribed finds the subscription of a delivery, for the writer. The reader
// adds; it forgets one by way of the outbox, behind all that is for it.
type subscribed struct {
	mu   sync.Mutex // guards what follows
	by   map[*broker.Consumer]*subscription
	gone []*broker.Consumer // to be forgotten, one for each marker in the outbox
}

// forgotten is the reply, of no bytes, that marks where in the outbox a
// subscription is forgotten.
var forgotten = []byte{}

func (l *subscribed) add(c *broker.Consumer, s *subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = make(map[*broker.Consumer]*subscription, 1)
	}
	l.by[c] = s
}

func (l *subscribed) find(c *broker.Consumer) *subscription {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[c]
}

func (l *subscribed) forget(c *broker.Consumer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = append(l.gone, c)
}

// forgetNext is for the writer at a marker.
func (l *subscribed) forgetNext() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.gone) > 0 {
		delete(l.by, l.gone[0])
		if l.gone = l.gone[1:]; len(l.gone) == 0 {
			l.gone = nil
		}
	}
}
