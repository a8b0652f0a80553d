package faultbroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/ferrymq/ferry/internal/pipenet"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// defaultChannelMax is what RabbitMQ proposes.
const defaultChannelMax = 2047

// Options are how a broker is made. The zero value listens on a port of
// 127.0.0.1 and proposes no heartbeats.
type Options struct {
	Network *pipenet.Network // where to listen; nil: TCP
	Addr    string           // the name on the network or host:port; "": any

	Heartbeat        uint16         // to propose, seconds; 0: none
	FrameMax         uint32         // to propose, bytes; 0: amqpwire.DefaultFrameMax
	ChannelMax       uint16         // to propose; 0: 2047
	ServerProperties amqpwire.Table // nil: a product's name and RabbitMQ's capabilities

	Faults Faults // from the first connection on
}

// A Broker is a running broker. Its methods may be called concurrently.
type Broker struct {
	options Options
	addr    string
	running sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond // anything below
	version uint64    // of it
	faults  Faults

	listener net.Listener // nil: down
	conns    []*conn      // all there ever were
	paused   bool
	blocked  bool
	reason   string // of blocked

	queues    map[string]*queue
	exchanges map[string]*exchange
	named     int // how many queues and consumers got a name

	methods     []Received
	publishes   []Publish
	settlements []Settlement
	delivered   int
}

// Start runs a broker until the test ends, which it fails if it cannot.
func Start(t testing.TB, o Options) *Broker {
	t.Helper()
	if o.FrameMax == 0 {
		o.FrameMax = amqpwire.DefaultFrameMax
	}
	if o.ChannelMax == 0 {
		o.ChannelMax = defaultChannelMax
	}
	b := &Broker{
		options: o, addr: o.Addr, faults: o.Faults,
		queues: make(map[string]*queue), exchanges: make(map[string]*exchange),
	}
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
func (b *Broker) Up() error {
	ln, err := b.listen()
	if err != nil {
		return fmt.Errorf("faultbroker: listen: %w", err)
	}
	b.change(func() { b.listener, b.addr = ln, ln.Addr().String() })
	b.running.Go(func() { b.accept(ln) })
	return nil
}

func (b *Broker) listen() (net.Listener, error) {
	if b.options.Network != nil {
		return b.options.Network.Listen(b.Addr())
	}
	return net.Listen("tcp", b.Addr())
}

// Down closes the listener and cuts all connections, as when a broker's process
// is killed. What is not settled goes back to its queue.
func (b *Broker) Down() {
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
func (b *Broker) Cut() {
	var cut []*conn
	b.change(func() {
		for _, c := range b.conns {
			if !c.seen.Ended {
				c.broken = true
				c.end()
				cut = append(cut, c)
			}
		}
	})
	for _, c := range cut {
		c.cut()
	}
}

// Close ends the broker. Start does so when the test ends.
func (b *Broker) Close() {
	b.Down()
	b.running.Wait()
}

// Addr is where the broker listens, also while it is down.
func (b *Broker) Addr() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addr
}

// URL is that of the broker, for the user guest.
func (b *Broker) URL() string { return "amqp://guest:guest@" + b.Addr() + "/" }

// Dialer returns what connects to the broker, whatever address is asked for.
func (b *Broker) Dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		if b.options.Network != nil {
			return b.options.Network.DialContext(ctx, "pipe", b.Addr())
		}
		return new(net.Dialer).DialContext(ctx, "tcp", b.Addr())
	}
}

func (b *Broker) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a connection that was reset before it was accepted
		}
		b.mu.Lock()
		c := newConn(b, nc, len(b.conns)+1)
		up := b.listener == ln
		if up {
			b.conns = append(b.conns, c)
		}
		b.touch()
		b.mu.Unlock()
		if !up {
			c.cut()
			return
		}
		b.running.Go(c.read)
		b.running.Go(c.write)
	}
}

// change does f, and tells who waits for the state.
func (b *Broker) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	b.touch()
}

func (b *Broker) touch() {
	b.version++
	b.changed.Broadcast()
}

// Set changes the faults. Calls must follow one another.
func (b *Broker) Set(change func(*Faults)) {
	b.mu.Lock()
	f := b.faults
	b.mu.Unlock()
	change(&f)
	b.change(func() {
		b.faults = f
		if f.SwapEvery < 2 {
			for _, q := range b.queues {
				q.unhold()
				b.dispatch(q)
			}
		}
		if !f.HoldConfirms {
			b.release()
		}
	})
}

// Pause makes the broker neither read nor write, with its connections kept, as a
// process that is stopped. New ones are accepted and not answered.
func (b *Broker) Pause() { b.change(func() { b.paused = true }) }

// Resume ends Pause.
func (b *Broker) Resume() { b.change(func() { b.paused = false }) }

// Block tells all clients connection.blocked. From then on a connection is not
// read any further than its next publish.
func (b *Broker) Block(reason string) {
	b.change(func() {
		b.blocked, b.reason = true, reason
		b.tell(&amqpwire.ConnectionBlocked{Reason: reason})
	})
}

// Unblock ends Block.
func (b *Broker) Unblock() {
	b.change(func() {
		b.blocked = false
		b.tell(&amqpwire.ConnectionUnblocked{})
	})
}

func (b *Broker) tell(m amqpwire.Method) {
	for _, c := range b.conns {
		if c.stage == running {
			c.send(0, m)
		}
	}
}

// CancelConsumers sends basic.cancel to all consumers, as when their queues are
// deleted. What they hold stays unsettled.
func (b *Broker) CancelConsumers() {
	b.change(func() {
		for _, q := range b.queues {
			for _, cons := range q.consumers {
				cons.channel.conn.send(cons.channel.id, &amqpwire.BasicCancel{ConsumerTag: cons.tag, NoWait: true})
				delete(cons.channel.consumers, cons.tag)
			}
			q.consumers = nil
		}
	})
}

// CloseChannels sends channel.close on all channels.
func (b *Broker) CloseChannels(code uint16, text string) {
	b.change(func() {
		for _, c := range b.conns {
			for _, ch := range c.channels {
				ch.fail(code, text, 0, 0)
			}
		}
	})
}

// CloseConnections sends connection.close on all connections that are open.
func (b *Broker) CloseConnections(code uint16, text string) {
	b.change(func() {
		for _, c := range b.conns {
			if c.stage == running {
				c.fail(code, text, 0, 0)
			}
		}
	})
}

// Inject writes bytes to a connection, whatever they are, behind what the broker
// has written.
func (b *Broker) Inject(conn int, raw []byte) {
	b.change(func() { b.conns[conn-1].out = append(b.conns[conn-1].out, raw...) })
}

// Enqueue puts messages into a queue, which is made if there is none.
func (b *Broker) Enqueue(queue string, messages ...Message) {
	b.change(func() {
		q := b.declare(queue)
		for _, m := range messages {
			raw, err := amqpwire.AppendProperties(nil, &m.Properties)
			if err != nil {
				panic(fmt.Sprintf("faultbroker: properties that cannot be encoded: %v", err))
			}
			b.store(q, &message{key: queue, properties: raw, body: m.Body, redelivered: m.Redelivered})
		}
		b.dispatch(q)
	})
}

// A Message is what Enqueue stores.
type Message struct {
	Properties  amqpwire.Properties
	Body        []byte
	Redelivered bool
}
