// Package ferry is a client for message brokers that keeps senders and receivers
// working while brokers die: RabbitMQ, alone or as a cluster, and Ferry's own.
//
// A Client is given an ordered list of brokers. It holds a connection for
// publishing and one for consuming to the first of them that answers, opens them
// anew when they are lost, and declares its topology again each time.
//
//	client, err := ferry.Dial(ctx, "amqp://guest:guest@a:5672/,amqp://guest:guest@b:5672/")
//	err = client.Publish(ctx, ferry.Message{Key: "orders", Body: body})
//	err = client.Consume(ctx, ferry.ConsumerOptions{Queue: "orders"}, handle)
//
// # What becomes of a message that is published
//
// One of three things: the broker has confirmed it; the broker has refused it
// (ErrRefused: a nack, no queue that takes it, no such exchange); or that is
// unknown, because the connection was lost first. What is unknown is sent again
// on the next connection, first, in its order, with the id it had, and marked. So
// a message may arrive twice and is not lost. A broker of Ferry's recognises the
// id and stores it once; a consumer can drop repeats itself
// (ConsumerOptions.Dedup).
//
// A call that waits for the outcome gives up only when its context ends. Its
// error then says which of the two it is: ErrNotSent, the message never left;
// or ErrUnknown, it may be there.
//
// # What becomes of a delivery
//
// It belongs to the connection that it came on. After that is lost, the broker
// gives it to somebody else; acknowledging it is then ErrStale, nothing is sent,
// and the context of its handler has ended.
//
// # Nothing hangs
//
// Every call takes a context or does not wait. No channel has to be drained.
// Callbacks run on goroutines of their own: a slow one delays no heartbeat. After
// Client.Close has returned no goroutine of the client is left.
//
// All methods of all types may be called concurrently.
package ferry
