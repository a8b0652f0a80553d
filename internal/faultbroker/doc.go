// Package faultbroker is a small AMQP 0-9-1 broker in memory that misbehaves on
// purpose, for tests of clients and of what judges brokers. It loses, doubles,
// swaps, refuses and returns messages, holds confirms, falls silent, talks
// garbage, and records everything that clients sent.
//
//	fb := faultbroker.Start(t, faultbroker.Options{})
//	fb.Set(func(f *faultbroker.Faults) { f.LoseEvery = 10 })
//	... a client publishes to fb.URL() ...
//	err := fb.Wait(t.Context(), func(s faultbroker.State) bool { return len(s.Publishes) == 100 })
//
// Without a fault it does what RabbitMQ does, as far as it goes: exchanges that
// match the routing key exactly or, of type fanout, always; queues; publishes with
// confirms and mandatory returns; consumers with a prefetch limit; acks, nacks and
// rejects. Whatever is not settled when its channel ends is delivered again,
// marked so. Every user may log in. Transactions, limits, expiry and
// dead-lettering do not exist.
//
// Smaller ones speak STOMP and GMQ, see Stomp and GMQ.
//
// With Options.Network it listens on a network within the process, and works in
// a testing/synctest bubble.
package faultbroker
