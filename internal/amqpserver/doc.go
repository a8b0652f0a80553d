// Package amqpserver speaks AMQP 0-9-1 as RabbitMQ speaks it: the same
// extensions, the same reply codes, and texts that people have learnt to search
// for. It turns frames into calls of package broker and the broker's events into
// frames; of messages and queues it keeps nothing.
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
// # A channel
//
//	(not there) --channel.open--> open --channel.close--> (not there)
//	                               |
//	                               | an error of the channel: we send channel.close
//	                               v
//	                             closing: all but close and close-ok is ignored
//	                               |
//	                               +--channel.close-ok--> (not there)
//
// # Differences from RabbitMQ
//
// RabbitMQ 3.10 closes the TCP connection without a word where it meets a method
// or a field type that does not exist, and takes a body that is longer than
// announced, or announced to be longer than allowed; here these are 540, 502, 505
// and 406.
package amqpserver
