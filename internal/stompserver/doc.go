// Package stompserver speaks STOMP 1.0, 1.1 and 1.2 as RabbitMQ's plugin speaks
// it, and takes what clients of ActiveMQ and Artemis say besides. It turns frames
// into calls of package broker and the broker's events into frames; of messages
// and queues it keeps nothing.
//
// # A connection
//
// Two goroutines serve a connection. The reader parses what the peer sends and
// calls the broker; the writer takes the broker's events and writes them. All
// that the peer is to be told goes through the session's outbox, so that its
// order is the broker's. Whatever ends a connection ends it in the reader: it
// closes the session, waits for the writer, and then writes the last frame
// itself. Another goroutine that wants the connection to end says why in
// conn.force and interrupts the reader.
//
// A connection that is idle holds no buffer.
//
// # The broker's channels
//
// One channel publishes what nobody waits for; one, in confirm mode, publishes
// what is persistent or has a receipt: the receipts go out with its confirms, see
// receipts. Each subscription has a channel, because an ACK of mode client is
// cumulative within its subscription, and each transaction has one in tx mode.
//
// # Receipts
//
// The receipt of a SEND says that the message is where its durability asks it to
// be: a persistent one is in the journal. Within a transaction it comes with the
// end of the transaction, also when that is ABORT, whose own receipt follows. All
// other receipts come when the frame has been carried out; that of a DISCONNECT
// after the receipts of everything before it.
//
// # Differences from RabbitMQ's plugin
//
// An ERROR always ends the connection, as the specification has it; RabbitMQ goes
// on after most. It names the frame at fault by its receipt-id.
//
// A message for a queue that is not there is an ERROR no_route and not lost. That
// is any of /queue/, /amq/queue/ and plain names, whose queue somebody deleted
// after the connection first used it. A transaction with such a message is rolled
// back by its COMMIT.
//
// On a SEND persistent is a property of the message alone; RabbitMQ also takes it
// for the durability of the queue, and refuses a SEND with persistent:false to a
// queue that is there.
//
// Receipts within a transaction that is aborted come; RabbitMQ forgets them, and
// its receipt of a COMMIT comes before what was committed is stored. BEGIN of a
// transaction that is open is an ERROR; RabbitMQ forgets what was in it.
//
// Messages of a subscription that has ended may still be acknowledged, as in
// AMQP; RabbitMQ keeps them until the connection ends, and refuses to be told.
//
// selector, no-local and exclusive consumers of ActiveMQ's (activemq.exclusive)
// are refused: there is nothing like them here, and to deliver other messages
// than were asked for would be worse. consumer-window-size, which is in bytes,
// means one message at a time where it is 0, and otherwise nothing;
// activemq.prefetchSize is a prefetch-count.
package stompserver
