// Package amqplink is a client's connection to one broker that speaks AMQP
// 0-9-1: the link of RabbitMQ, LavinMQ and Ferry.
//
// # How it runs
//
// A reader, a writer, and a pulse if heartbeats were agreed. The writer takes
// from sources what fits into one write, never more than it is about to write;
// settlements, methods and heartbeats go ahead of it. The reader gives each sink
// what one read brought in one call.
//
// Every sender, every receiver and the declarations have a channel of their own,
// so that what a broker says against one ends that one alone. The number of a
// channel is used again only after close-ok.
//
// A call to a source or a sink passes its gate, which is shut once: Closed is
// called when the calls that were in it have returned. Sink.Deliver of a
// receiver with NoAck may block and is not waited for: there Closed may be called
// beside it, and it must then return, because Done and Close wait for it.
//
// Closed is not called for a sender or receiver whose opening failed.
//
// # Messages
//
// Message.ID and Delivery.Attempt are the headers x-ferry-id and
// x-ferry-attempt. The values of other headers are what package amqpwire says,
// but a nested table is a map[string]any: nil, bool, int8 to int64, uint8 to
// uint32, float32, float64, amqpwire.Decimal, string, []byte, time.Time (whole
// seconds), []any. Headers that a peer wrote in types that nobody knows are left
// out, with a warning, rather than losing the connection over them.
//
// Expiration is whole milliseconds, rounded up when written; a text that is not
// a number is read as none. Timestamps are whole seconds. The property cluster-id
// is not carried.
package amqplink
