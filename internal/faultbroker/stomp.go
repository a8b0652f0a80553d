package faultbroker

import (
	"errors"
	"net"
	"slices"
	"sync"
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
	options StompOptions
	addr    string
	running sync.WaitGroup

	mu          sync.Mutex
	changed     sync.Cond // anything below
	faults      StompFaults
	listener    net.Listener // nil: down
	conns       []*stompConn // all there ever were
	queues      map[string][]*stompMessage
	sends       []Send
	settlements []string
}

// A Send is a message that a client sent.
type Send struct {
	Conn    int // from 1
	Headers map[string]string
	Body    string
}

type stompMessage struct {
	headers     map[string]string
	body        string
	redelivered bool
}

// StartStomp runs a broker until the test ends, which it fails if it cannot.
func StartStomp(t testing.TB, o StompOptions) *Stomp {
	t.Helper()
	if o.Server == "" {
		o.Server = "RabbitMQ/3.10.8"
	}
	b := &Stomp{options: o, addr: o.Addr, faults: o.Faults, queues: make(map[string][]*stompMessage)}
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
func (b *Stomp) Up() error {
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
func (b *Stomp) Down() {
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
func (b *Stomp) Cut() {
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

// Close ends the broker. StartStomp does so when the test ends.
func (b *Stomp) Close() {
	b.Down()
	b.running.Wait()
}

// URL is that of the broker, for the user guest.
func (b *Stomp) URL() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return "stomp://guest:guest@" + b.addr + "/"
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

// Settlements returns "ACK body" and "NACK body" of what clients settled, in order.
func (b *Stomp) Settlements() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clip(b.settlements)
}

// Bodies returns those of a queue's messages that are ready, in their order.
func (b *Stomp) Bodies(queue string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var bodies []string
	for _, m := range b.queues[queue] {
		bodies = append(bodies, m.body)
	}
	return bodies
}

// Enqueue puts messages with these bodies into a queue.
func (b *Stomp) Enqueue(queue string, bodies ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, body := range bodies {
		b.queues[queue] = append(b.queues[queue], &stompMessage{body: body})
	}
	b.dispatchLocked()
}

// Open is the number of connections that have not ended.
func (b *Stomp) Open() int {
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

func (b *Stomp) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a connection that was reset before it was accepted
		}
		b.mu.Lock()
		c := &stompConn{b: b, nc: nc, id: len(b.conns) + 1}
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

// dispatchLocked delivers what is ready to subscriptions that may have more.
func (b *Stomp) dispatchLocked() {
	for _, c := range b.conns {
		for _, s := range c.subscriptions {
			for !c.ended && len(b.queues[s.queue]) > 0 && (s.prefetch == 0 || len(s.unsettled) < s.prefetch) {
				m := b.queues[s.queue][0]
				b.queues[s.queue] = b.queues[s.queue][1:]
				c.deliverLocked(s, m)
			}
		}
	}
}
