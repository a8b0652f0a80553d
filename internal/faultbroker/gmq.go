package faultbroker

import (
	"errors"
	"net"
	"slices"
	"sync"
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
	options GMQOptions
	running sync.WaitGroup

	mu          sync.Mutex
	changed     sync.Cond // anything below
	addr        string
	faults      GMQFaults
	listener    net.Listener // nil: down
	conns       []*gmqConn   // all there ever were
	queues      map[string][]*gmqMessage
	publishes   []GMQPublish
	settlements []string
}

// A GMQPublish is a message that a client sent.
type GMQPublish struct {
	Conn      int // from 1
	Queue     string
	Body      string
	MessageID string
	Attempt   int64 // 0: it is not marked
}

type gmqMessage struct {
	body, id    string
	redelivered bool
}

// StartGMQ runs a broker until the test ends, which it fails if it cannot.
func StartGMQ(t testing.TB, o GMQOptions) *GMQ {
	t.Helper()
	b := &GMQ{options: o, addr: o.Addr, faults: o.Faults, queues: make(map[string][]*gmqMessage)}
	b.changed.L = &b.mu
	if b.addr == "" && o.Network == nil {
		b.addr = "127.0.0.1:0"
	}
	if err := b.Up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// Up lets clients in again after Down, at the same address. What queues hold was
// kept.
func (b *GMQ) Up() error {
	b.mu.Lock()
	addr := b.addr
	b.mu.Unlock()
	var ln net.Listener
	var err error
	if b.options.Network != nil {
		ln, err = b.options.Network.Listen(addr)
	} else {
		ln, err = net.Listen("tcp", addr)
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.listener, b.addr = ln, ln.Addr().String()
	b.mu.Unlock()
	b.running.Go(func() { b.accept(ln) })
	return nil
}

// Down closes the listener and cuts all connections, as when a broker's process
// is killed.
func (b *GMQ) Down() {
	b.mu.Lock()
	ln := b.listener
	b.listener = nil
	b.mu.Unlock()
	if ln != nil {
		_ = ln.Close()
	}
	b.Cut()
}

// Cut breaks all connections, without a word to the clients.
func (b *GMQ) Cut() {
	b.mu.Lock()
	conns := slices.Clone(b.conns)
	for _, c := range conns {
		c.endLocked()
	}
	b.mu.Unlock()
	for _, c := range conns {
		_ = c.nc.Close()
	}
}

// Close ends the broker. StartGMQ does so when the test ends.
func (b *GMQ) Close() {
	b.Down()
	b.running.Wait()
}

// URL is that of the broker, for the user guest.
func (b *GMQ) URL() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return "gmq://guest:guest@" + b.addr + "/"
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

// Settlements returns "A body", "N body" and, of what is not to come again, "N body
// dropped" of what clients settled, in order.
func (b *GMQ) Settlements() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clip(b.settlements)
}

// Bodies returns those of a queue's messages that are ready, in their order.
func (b *GMQ) Bodies(queue string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var bodies []string
	for _, m := range b.queues[queue] {
		bodies = append(bodies, m.body)
	}
	return bodies
}

// Enqueue puts messages with these bodies into a queue.
func (b *GMQ) Enqueue(queue string, bodies ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, body := range bodies {
		b.queues[queue] = append(b.queues[queue], &gmqMessage{body: body})
	}
	b.dispatchLocked()
}

// Open is the number of connections that have not ended.
func (b *GMQ) Open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, c := range b.conns {
		if !c.ended {
			n++
		}
	}
	return n
}

func (b *GMQ) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a connection that was reset before it was accepted
		}
		b.mu.Lock()
		c := &gmqConn{b: b, nc: nc, id: len(b.conns) + 1}
		up := b.listener == ln
		if up {
			b.conns = append(b.conns, c)
		}
		b.mu.Unlock()
		if !up {
			_ = nc.Close()
			return
		}
		b.running.Go(c.read)
		b.running.Go(c.write)
	}
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
