// Package stomplink is a client's connection to one broker that speaks STOMP 1.0,
// 1.1 or 1.2: the link of Ferry, of RabbitMQ with its plugin, and of ActiveMQ
// Artemis.
//
// # Sessions
//
// STOMP has no channels, an ERROR ends a connection, and what is unsettled comes
// back to its queue only when the connection ends (RabbitMQ) or when the
// subscription does (Artemis), after which it cannot be settled. So each sender and
// each receiver, and declarations, have a STOMP connection of their own, here called
// a session: what a broker says against one ends that one alone, as package link
// promises. One more, the home, is idle: it tells whether the broker is there. When
// any of them is lost, or the broker says that it ends, all of them end.
//
// A session has a reader, a writer, and a pulse if heart-beats were agreed on. They
// do what amqplink's do.
//
// # Confirmations
//
// A receipt is asked for each message, and confirms that one: brokers may answer out
// of order. One that is missing holds nothing up here. STOMP has no mandatory flag:
// what no queue takes is confirmed and dropped, but for Artemis and ActiveMQ, which
// make the queue.
//
// Nor is there a word for a broker that takes no messages at present. While a write
// stands still and heart-beats come, Options.Blocked is told so.
//
// # Destinations
//
//	exchange   key   RabbitMQ, Ferry    Artemis                ActiveMQ
//	""         q     /amq/queue/q       q, ANYCAST             /queue/q
//	amq.topic  k     /topic/k           k, MULTICAST           /topic/k
//	e          k     /exchange/e/k      link.NotAllowed        link.NotAllowed
//
// A receiver without a queue, with one binding, subscribes to what stands in the
// last two lines. Its Arguments are headers of SUBSCRIBE.
//
// # Settling
//
// Prefetch is the header prefetch-count. Artemis counts bytes instead
// (consumer-window-size): it is given 1 KiB for each, so that of small messages about
// three times as many may be unsettled; with a Prefetch of 1 there is one at a time.
//
// To Artemis a NACK is an ACK, and to ActiveMQ a dead letter. There a delivery that
// is to be requeued is held until the application has settled all others, and no
// more are given to it meanwhile; then the subscription is made anew, and what was
// held comes again; Artemis does not always mark it as redelivered. A queue of a
// receiver's own would go with its subscription: what is requeued there is given
// again from memory, marked, as often as it takes and while the session lasts. A
// rejected message is discarded by Artemis; it has no way to ask over STOMP for its
// dead letter address.
//
// # Messages
//
// Properties and headers are translated as RabbitMQ's plugin does, so that they
// arrive as what they were by AMQP; values of headers become text, maps and slices
// JSON, and come as text. Headers that are named like one that STOMP uses itself are
// unsendable. RabbitMQ has escapes in STOMP 1.0, which has none: with version=1.0 a
// backslash does not arrive as it was. x-ferry-id and x-ferry-attempt are headers as with AMQP;
// Artemis and ActiveMQ get the id as _AMQ_DUPL_ID as well, unless the message has a
// header of that name.
package stomplink
