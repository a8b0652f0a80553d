package faultbroker

import (
	"slices"
	"testing"

	"github.com/ferrymq/ferry/internal/pipenet"
)

// StompOptions are how a broker that speaks STOMP is made. The zero value listens on
// a port of 127.0.0.1.
type StompOptions struct {
	Network *pipenet.Network // where to listen; nil: TCP
	Addr    string           // the name on the network or host:port; "": any
	Server  string           // what it says that it is; "": RabbitMQ
	Faults  StompFaults
}

// StompFaults are what it does wrong. The zero value is nothing.
type StompFaults struct {
	HoldReceipts bool   // of messages, until this is false again; they are stored at once
	LoseReceipt  string // the body of messages whose receipt never comes

	// Poison is the body of messages that are answered with an ERROR, whose header
	// message is Reason. With Named it has the receipt-id.
	Poison, Reason string
	Named          bool
}

// A Stomp is a small STOMP broker in memory that misbehaves on purpose: queues,
// receipts, subscriptions with a prefetch limit, ACK and NACK. What is not settled
// when its connection ends is delivered again. Its methods may be called
// concurrently.
type Stomp struct {
	server
	says   string // what it says that it is
	faults StompFaults
	conns  []*stompConn // all there ever were
	sends  []Send
}

// A Send is a message that a client sent.
type Send struct {
	Conn    int // from 1
	Headers map[string]string
	Body    string
}

// StartStomp runs a broker until the test ends, which it fails if it cannot.
// Settlements are "ACK body" and "NACK body".
func StartStomp(t testing.TB, o StompOptions) *Stomp {
	t.Helper()
	b := &Stomp{says: o.Server, faults: o.Faults}
	if b.says == "" {
		b.says = "RabbitMQ/3.10.8"
	}
	b.scheme, b.accepted, b.dispatched = "stomp", b.acceptedLocked, b.dispatchLocked
	b.start(t, o.Network, o.Addr)
	return b
}

// Set changes the faults.
func (b *Stomp) Set(change func(*StompFaults)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.faults)
	if b.faults.HoldReceipts {
		return
	}
	for _, c := range b.conns {
		for _, id := range c.held {
			c.sendLocked("RECEIPT", map[string]string{"receipt-id": id}, "")
		}
		c.held = nil
	}
}

// Sends returns what clients sent up to now, in its order.
func (b *Stomp) Sends() []Send {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clip(b.sends)
}

func (b *Stomp) acceptedLocked(s *socket) speaker {
	c := &stompConn{b: b, socket: s}
	b.conns = append(b.conns, c)
	return c
}

// dispatchLocked delivers what is ready to subscriptions that may have more.
func (b *Stomp) dispatchLocked() {
	for _, c := range b.conns {
		for _, s := range c.subscriptions {
			for !c.ended && len(b.queues[s.queue]) > 0 && (s.prefetch == 0 || len(s.unsettled) < s.prefetch) {
				c.deliverLocked(s, b.popLocked(s.queue))
			}
		}
	}
}
