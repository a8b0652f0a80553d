// Package link is the seam between the client and a protocol: one connection to
// one broker. A link never retries, never sleeps and knows of no other broker;
// what is to be done when it fails is decided above it.
//
// # Goroutines
//
// A connection has one reader and one writer, or, where the protocol has no
// channels, one of each for every sender and receiver. The writer pulls messages
// from the sources of its senders, so that a message that was not taken was never on
// the wire. The reader calls sources and sinks as things arrive, in the order
// of the wire; none of these calls may block, but for Sink.Deliver of a receiver
// that does not acknowledge. Heartbeats depend on neither.
//
// When a connection ends, Err says why, then Closed is called once on each source
// and sink that was open, and nothing of that connection is called or taken
// afterwards; then Done is closed. So whoever is told Closed while Err is nil knows
// that the connection goes on.
package link

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/ferrymq/ferry/internal/endpoint"
)

// Options are what opening a connection needs.
type Options struct {
	Endpoint endpoint.Endpoint

	// Name is told to the broker, for its operators (connection_name).
	Name string

	// Heartbeat is what is asked for, 0 for none; the broker may ask for less.
	// A peer from which nothing came for two of them is dead.
	Heartbeat time.Duration

	// Dial opens the transport; nil is a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Credentials gives user and password for this attempt; nil takes those of
	// the endpoint.
	Credentials func(ctx context.Context, e endpoint.Endpoint) (user, password string, err error)

	// Blocked is called by the reader when the broker says that it takes no
	// messages at present, with its reason, and with ok when it does again. It
	// must not block. nil leaves it out.
	Blocked func(reason string, ok bool)

	// Logger gets what is nobody's error; nil discards it.
	Logger *slog.Logger
}

// Conn is one open connection. All methods may be called concurrently. A method
// that waits for the broker returns early when its context or the connection
// ends.
type Conn interface {
	// OpenSender opens a way for messages from src to the broker. What the
	// broker says against one message ends that sender alone. When opening
	// fails, no method of src was called, nor is one afterwards; so with
	// OpenReceiver and its sink.
	OpenSender(ctx context.Context, cfg SenderConfig, src Source) (Sender, error)

	// OpenReceiver begins to take messages from a queue.
	OpenReceiver(ctx context.Context, cfg ReceiverConfig, sink Sink) (Receiver, error)

	// Declare does the items in order, several in flight, and gives one result
	// for each. An item that the broker refuses fails alone. When ctx or the
	// connection ends, the results of those that were not answered say so.
	Declare(ctx context.Context, items []Item) []Result

	// Done is closed when the connection has ended, every Closed was called and
	// no goroutine is left; Err says why then: nil after Close, else an *Error.
	// Calls that wait return before that, as soon as the end is known.
	Done() <-chan struct{}
	Err() error

	// Peer is what the broker says of itself: product and version, "" if unknown.
	Peer() (product, version string)

	// Close ends the connection in order: what was written is flushed, the
	// broker is told and answers. When ctx ends first it is cut. After Close
	// has returned no goroutine of the connection is left.
	Close(ctx context.Context) error
}

// SenderConfig says how messages are sent.
type SenderConfig struct {
	// Confirm asks the broker to confirm each message. Without it a message is
	// done when it was written, and may be lost.
	Confirm bool

	// Replies, if not nil, gets the direct replies to messages whose ReplyTo is
	// DirectReplyTo.
	Replies Sink
}

// DirectReplyTo is the queue whose messages come back to the channel that sent
// the request (RabbitMQ, "Direct Reply-to").
const DirectReplyTo = "amq.rabbitmq.reply-to"

// Outgoing is one message on its way.
type Outgoing struct {
	Message *Message // not to be changed until it was written

	// Producer and Seq make the id of the message, unless Message.ID holds one
	// already. An empty Producer sends no id.
	Producer string
	Seq      uint64

	// Attempt is 1 the first time; a higher one is marked on the message.
	Attempt int

	// Mandatory asks the broker to return what no queue takes. STOMP has no way to
	// ask: there it is ignored.
	Mandatory bool
}

// Source is where a sender takes messages from. Messages are numbered from 1 in
// the order in which they are taken; the calls about them use that tag.
type Source interface {
	// Next gives messages to send, at most max, in order; none if there are
	// none now. It is called by the writer, after Sender.Wake and after each
	// time it gave some. What it returns is valid until its next call.
	Next(max int) []Outgoing

	// Written says that everything up to tag was handed to the transport. It is
	// called only if the sender does not confirm.
	Written(tag uint64)

	// Settled says that the broker has confirmed (or, with refused, not taken)
	// a message, or, with multiple, all up to it that were not settled yet.
	Settled(tag uint64, multiple, refused bool)

	// Refused says that the broker has not taken a message, and why.
	Refused(tag uint64, err *Error)

	// Returned says that no queue took the message with this id; its
	// confirmation follows.
	Returned(id string, err *Error)

	// Closed says that the sender has ended: with an *Error, or nil after
	// Sender.Close. Nothing follows.
	Closed(err error)
}

// Sender is the handle of a source's way to the broker.
type Sender interface {
	// Wake says that the source has messages. It never blocks.
	Wake()

	// Close ends the sender once what was taken is written. Whoever needs the
	// confirmations waits for them first.
	Close(ctx context.Context) error
}

// ReceiverConfig says what is taken and how.
type ReceiverConfig struct {
	// Queue is where messages come from. An empty name asks for a queue of this
	// receiver's own: named by the broker, exclusive, deleted with it, and bound
	// as Bindings say (their Queue is left empty).
	Queue    string
	Bindings []Binding

	Prefetch  int  // unsettled messages at most, about as many where a broker counts bytes; 0 is no limit
	NoAck     bool // the broker settles when it sends
	Exclusive bool // no other consumer
	Tag       string
	Arguments map[string]any
}

// Delivery is a message as it came.
type Delivery struct {
	Message     Message
	Tag         uint64 // names it to the receiver that it came by
	Redelivered bool
	Attempt     int // of the sender: over 1 for a marked resend, else 1 or unknown (0)
}

// Sink is where a receiver puts what arrives.
type Sink interface {
	// Deliver gives deliveries, in order; they belong to the sink. It must not
	// block, but for a receiver with NoAck: nothing is read from the connection
	// until it returns, and the peer is not taken for dead meanwhile. A delivery that
	// was given back may come again beside another call.
	Deliver([]*Delivery)

	// Cancelled says that the broker has ended the consumer, as it does when the
	// queue is gone. What was delivered can still be settled. Closed follows
	// when the receiver is closed.
	Cancelled(reason *Error)

	// Closed says that the receiver has ended, with an *Error, or nil after
	// Receiver.Close. What was delivered cannot be settled any more. Nothing
	// follows. It may be called beside a Deliver of a receiver with NoAck, which
	// then returns at once: the end of the connection waits for it.
	Closed(err error)
}

// Receiver is the handle of a sink's way from the broker. Ack, Nack and Reject
// never wait: they are written in order, several at once. They fail with
// ErrClosed when the receiver has ended, and with ErrSettled for a tag that was
// settled before or never given.
type Receiver interface {
	// Queue is the name of the queue, as the broker gave it; "" if it does not tell
	// how it named one of the receiver's own.
	Queue() string

	Ack(tag uint64) error
	Nack(tag uint64, requeue bool) error
	Reject(tag uint64, requeue bool) error

	// Cancel tells the broker to send no more and waits for its answer: after
	// it nothing more is delivered, and what was can still be settled.
	Cancel(ctx context.Context) error

	// Close writes what was settled, waits until the broker has taken it, and
	// ends the receiver; the broker requeues what is unsettled.
	Close(ctx context.Context) error
}

// Item is one thing to declare or delete: an Exchange, a Queue, a Binding, an
// Unbinding, a QueueDelete, an ExchangeDelete or a QueuePurge. One that the protocol
// has no way to ask for is NotAllowed.
type Item interface{ item() }

// Result is what became of an Item.
type Result struct {
	Name      string // of a queue: as the broker named it
	Messages  int    // ready in a declared queue; purged or deleted ones
	Consumers int
	Err       error // an *Error, or what ended the context
}

// Exchange declares an exchange.
type Exchange struct {
	Name       string
	Kind       string // "direct", "fanout", "topic", "headers", or what the broker knows
	Transient  bool   // does not survive a restart of the broker
	AutoDelete bool
	Internal   bool
	Passive    bool // only ask whether it is there
	Arguments  map[string]any
}

// Queue declares a queue.
type Queue struct {
	Name       string // "" asks the broker for one
	Transient  bool
	AutoDelete bool
	Exclusive  bool // of this connection
	Passive    bool // only ask whether it is there
	IfAbsent   bool // one of this name that is there is taken as it is
	Arguments  map[string]any
}

// Binding binds a queue, or the exchange Destination, to an exchange.
type Binding struct {
	Exchange    string
	Key         string
	Queue       string
	Destination string // an exchange; Queue is then empty
	Arguments   map[string]any
}

// Unbinding removes a binding.
type Unbinding Binding

// QueueDelete deletes a queue.
type QueueDelete struct {
	Name              string
	IfEmpty, IfUnused bool
}

// ExchangeDelete deletes an exchange.
type ExchangeDelete struct {
	Name     string
	IfUnused bool
}

// QueuePurge removes the ready messages of a queue.
type QueuePurge struct{ Name string }

func (Exchange) item()       {}
func (Queue) item()          {}
func (Binding) item()        {}
func (Unbinding) item()      {}
func (QueueDelete) item()    {}
func (ExchangeDelete) item() {}
func (QueuePurge) item()     {}
