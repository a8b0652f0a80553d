// Package gmqlink is a client's connection to a server of Ferry's that speaks GMQ.
//
// # Sessions
//
// GMQ has no channels, its replies come in the order of the requests, and what was
// taken and not acknowledged comes back to its queue when the connection ends. So each
// sender and each receiver, and declarations, have a connection of their own, here
// called a session. One more, the home, is idle: it tells whether the server is there.
// When any of them is lost, or the server says that it ends, all of them end. A
// session has a reader and a writer, and a pulse if heart-beats are asked for: there
// are none in GMQ, so that they are requests for nothing (SYNC).
//
// # Requests
//
// Each is a line, and so is its reply. A session begins with a SYNC, whose reply names
// the server: the original GMQ server gives no name, answers one request on each
// connection and knows no acknowledgements. It is refused (link.Protocol).
//
//	SYNC -> Y "server":"Ferry/1"      or N "error_text":"ACCESS_REFUSED - ..."
//	P P P P ...                       each is answered when it is stored
//	S S S ...                         each is answered with a message, or with none
//
// # Confirmations
//
// Publishes are pipelined, and the replies confirm them in their order. One that is
// refused refuses that message alone, and says why. While publishes have no answer,
// their session's heart-beats have none either: the home then tells whether the server
// lives, and Options.Blocked is told that it takes no messages.
//
// A message's id travels as message_id, with attempt where it is sent again, so that
// the broker drops what it has.
//
// # Receiving
//
// A receiver asks for as many messages as may be unsettled, and for few while there
// are few: a request for one waits at the server (wait_msec) until a message comes,
// or until something is written behind it, as an acknowledgement, and is made again. A
// server that answers at once that there is no message is asked after pauses of 5 to
// 250 ms.
//
// # What there is not
//
// Exchanges, bindings, topics; queues that are exclusive, transient or have arguments;
// consumers with a queue of their own; replies to requests; to purge or delete a queue;
// virtual hosts. Items and receivers of that kind are
// link.NotAllowed, messages link.Unsendable. A queue is made when it is first named.
// Headers are texts, integers and truth values.
package gmqlink
