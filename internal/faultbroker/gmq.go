package faultbroker

import (
	"slices"
	"testing"

	"github.com/ferrymq/ferry/internal/pipenet"
)

// GMQOptions are how a broker that speaks GMQ is made. The zero value listens on a
// port of 127.0.0.1.
type GMQOptions struct {
	Network *pipenet.Network // where to listen; nil: TCP
	Addr    string           // the name on the network or host:port; "": any
	Faults  GMQFaults
}

// GMQFaults are what it does wrong. The zero value is nothing.
type GMQFaults struct {
	// HoldReplies keeps back those to publishes, which are stored at once, and all
	// that come behind them on their connection, until this is false again.
	HoldReplies bool

	// Poison is the body of messages that are refused, with the error_text Reason.
	Poison, Reason string

	// Odd is the body of messages that are stored, and answered with these bytes
	// instead. With Ends the connection is closed behind them.
	Odd, Answer string
	Ends        bool

	NoWait bool // a request for a message never waits for one
	Single bool // it does as the original: one request on each connection
}

// A GMQ is a small broker in memory that speaks GMQ as Ferry does and misbehaves on
// purpose: queues, replies, acknowledgements. What is not settled when its connection
// ends is delivered again. Every user may log in. Its methods may be called
// concurrently.
type GMQ struct {
	server
	faults    GMQFaults
	conns     []*gmqConn // all there ever were
	publishes []GMQPublish
}

// A GMQPublish is a message that a client sent.
type GMQPublish struct {
	Conn      int // from 1
	Queue     string
	Body      string
	MessageID string
	Attempt   int64 // 0: it is not marked
}

// StartGMQ runs a broker until the test ends, which it fails if it cannot. Settlements
// are "A body", "N body" and, of what is not to come again, "N body dropped".
func StartGMQ(t testing.TB, o GMQOptions) *GMQ {
	t.Helper()
	b := &GMQ{faults: o.Faults}
	b.scheme, b.accepted, b.dispatched = "gmq", b.acceptedLocked, b.dispatchLocked
	b.start(t, o.Network, o.Addr)
	return b
}

// Set changes the faults.
func (b *GMQ) Set(change func(*GMQFaults)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.faults)
	if b.faults.HoldReplies {
		return
	}
	for _, c := range b.conns {
		c.out, c.held = append(c.out, c.held...), nil
	}
	b.changed.Broadcast()
}

// Publishes returns what clients sent up to now, in its order.
func (b *GMQ) Publishes() []GMQPublish {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clip(b.publishes)
}

func (b *GMQ) acceptedLocked(s *socket) speaker {
	c := &gmqConn{b: b, socket: s}
	b.conns = append(b.conns, c)
	return c
}

// dispatchLocked answers requests that wait for a message that is there now.
func (b *GMQ) dispatchLocked() {
	for _, c := range b.conns {
		if r := c.waiting; r != nil && len(b.queues[r.Queue]) > 0 {
			c.wokenLocked()
			c.deliverLocked(r)
		}
	}
}
