// Package gmqserver speaks GMQ: JSON requests to publish to queues and to take
// from them, as GMQ's own client sends them, and Ferry's additions, see package
// gmqwire. It turns requests into calls of package broker; of messages and queues
// it keeps nothing.
//
// # A connection
//
// One goroutine serves a connection: it reads, asks the broker, and writes. It
// takes all requests that are in its input buffer at once, publishes what they
// publish, and then waits for the confirms of all of them together; replies are
// in the order of the requests. So a client that sends many requests without
// waiting has its publishes in one write of the journal, and one that waits for
// each reply gets it as soon as there is one. What comes meanwhile waits in the
// socket: a client that sends without end and reads nothing is held up, and then
// cut, by its own replies.
//
// A connection that is idle holds no buffer.
//
// # When it closes
//
// GMQ's client sends one object without anything behind it, and reads until the
// connection ends. A client that wants to go on ends its requests with a newline.
// So a request with nothing behind it gets its reply, and the end of the
// connection with it. TCP may cut what was written in one piece between the object
// and its newline; then the newline is at most a moment behind. So where that is
// possible, because the request came in pieces or is too large to have come in one
// for certain, the server waits for splitTimeout before it closes; and for
// trailingTimeout on a connection that has had a newline before. What GMQ's client
// sends is mostly small, and is not held up at all.
//
// From the first newline on replies end with one. The reply to a request whose
// newline came late has gone without it: it follows.
//
// # Before it is known who asks
//
// Up to the first request with a user and a password that are right a connection
// holds at most 64 KiB of input and has 10 seconds, as everywhere. GMQ writes auth
// last, so that is also what such a request may have; who publishes more
// authenticates with a small request before.
//
// # Durability
//
// A publish is persistent, goes to a durable queue, which is made where there is
// none, and has the confirmation Y when it is in the journal. What S takes is
// settled when the reply was written to the socket, so that a connection that is
// broken then gives it back; with "ack":"manual" when A says so.
package gmqserver
