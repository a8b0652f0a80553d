package broker

// EventKind says what an Event tells the connection's writer.
type EventKind uint8

// The events that a session's outbox holds, in the order in which they must
// reach the peer.
const (
	EventDelivery      EventKind = iota + 1 // a message for Consumer: Tag, Redelivered, Data (block)
	EventGot                                // the answer to Get: Channel, Tag, Redelivered, Count (ready behind it), Data (block)
	EventReturn                             // a mandatory message that no queue took: Channel, Tag (of its publish, 0 without confirms), Data (block)
	EventConfirm                            // publishes of Channel are settled: Tag, Multiple, Nack
	EventCancelled                          // the broker ended Consumer (its queue is gone, or it kept a delivery for too long)
	EventChannelClosed                      // the broker closed Channel: Err. Not for those who are told EventCancelled
	EventReply                              // bytes of the server's own, in Data
	EventBlocked                            // publishing is blocked; Data is the reason in words
	EventUnblocked                          // it is no longer
	EventClosed                             // the broker closes the connection: Err
)

// Event is one thing for a connection's writer to say.
type Event struct {
	Kind        EventKind
	Redelivered bool
	Multiple    bool
	Nack        bool
	Count       uint32
	Tag         uint64
	Consumer    *Consumer
	Channel     *Channel
	Data        []byte // immutable
	Err         *Error
}
