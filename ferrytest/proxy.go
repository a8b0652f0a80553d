package ferrytest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// dialTimeout is how long a broker may take to accept a connection.
	dialTimeout = 10 * time.Second
	// listenTimeout is how long Heal tries to get its port back, which somebody
	// else may have been given for a moment, and listenPause is between attempts.
	listenTimeout = 10 * time.Second
	listenPause   = 10 * time.Millisecond

	// never is a cut that is not to come.
	never int64 = -1
)

// A Proxy stands between clients and a broker and breaks what passes, as a test
// tells it. Without a fault, bytes pass as they are. The faults are in force when
// the method that asks for them returns, concern connections that there are and
// those that come, and last until Heal; several can be in force at once. Its
// methods may be called concurrently, those that can fail the test (Heal) from its
// goroutine.
//
// Bytes that are on their way, in the proxy or in sockets, when a fault begins may
// still arrive.
type Proxy struct {
	t       testing.TB
	addr    string
	ctx     context.Context //nolint:containedctx // the proxy's life; dialling ends with it
	cancel  context.CancelFunc
	running sync.WaitGroup // listeners and connections

	mu       sync.Mutex
	changed  sync.Cond // conns, accepted and the faults
	backend  string
	listener net.Listener // nil: nobody is let in
	conns    map[*conn]bool
	accepted int
	closed   bool

	faults
}

// faults are those in force. Proxy.mu guards them.
type faults struct {
	away        bool // the broker is stopped; not for Heal
	refused     bool
	paused      bool
	deaf        bool
	cutSent     int64 // what a new connection begins with; never, or bytes
	cutReceived int64
	nacks       int // publishes that are to be refused
}

var sound = faults{cutSent: never, cutReceived: never}

// NewProxy puts a proxy on a free port of 127.0.0.1 in front of the broker at
// host:port, until the test ends. The broker need not run yet: while it does not,
// connections are reset. Any broker will do, and, but for Nack, any protocol.
func NewProxy(t testing.TB, backend string) *Proxy {
	t.Helper()
	p := &Proxy{t: t, addr: "127.0.0.1:0", backend: backend, conns: make(map[*conn]bool), faults: sound}
	p.changed.L = &p.mu
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if err := p.listen(); err != nil {
		t.Fatalf("ferrytest: start a proxy: %v", err)
	}
	t.Cleanup(p.close)
	return p
}

// Addr is where the proxy listens, host:port, also while it refuses connections.
func (p *Proxy) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// Refuse makes new connections be refused, as where nothing listens. Those that
// there are go on.
func (p *Proxy) Refuse() {
	p.change(func() { p.refused = true })
	p.unlisten()
}

// Drop cuts all connections that there are now: both sides see a reset. It
// returns when the proxy has forgotten them; new ones are served.
func (p *Proxy) Drop() {
	p.mu.Lock()
	cut := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		cut = append(cut, c)
	}
	p.mu.Unlock()
	for _, c := range cut {
		c.abort()
	}
}

// Pause makes bytes stop flowing, in both directions, and so do ends: a peer that
// is dead, and nobody has noticed. New connections are accepted and never
// answered. What was sent meanwhile arrives after Resume.
func (p *Proxy) Pause() { p.change(func() { p.paused = true }) }

// Resume ends Pause.
func (p *Proxy) Resume() { p.change(func() { p.paused = false }) }

// StopReading makes the peer not read any more what clients send, which fills
// their buffers, while what it sends still arrives.
func (p *Proxy) StopReading() { p.change(func() { p.deaf = true }) }

// CutAfter cuts each connection when n more bytes of the client's (for a new one:
// its first n) were passed on: the broker gets exactly these and the end of the
// stream, the client sees a reset.
func (p *Proxy) CutAfter(n int) {
	p.change(func() {
		p.cutSent = int64(n)
		for c := range p.conns {
			c.up.left = int64(n)
		}
	})
}

// CutAfterReceived cuts each connection when n more bytes (for a new one: its
// first n) were passed on to the client, which gets exactly these and the end of
// the stream; the broker sees a reset.
func (p *Proxy) CutAfterReceived(n int) {
	p.change(func() {
		p.cutReceived = int64(n)
		for c := range p.conns {
			c.down.left = int64(n)
		}
	})
}

// Nack makes the next n publishes on channels in confirm mode, of whichever
// connection, be refused with basic.nack. The broker does not get them. All
// confirms of others on the same channel keep to their publishes. It works for
// AMQP 0-9-1 without TLS; what else passes, STOMP among it, is not touched.
func (p *Proxy) Nack(n int) { p.change(func() { p.nacks = n }) }

// Heal ends all faults: connections are let in, at the same address, and what was
// held flows. What was cut stays so.
func (p *Proxy) Heal() {
	p.t.Helper()
	p.change(func() {
		away := p.away
		p.faults = sound
		p.away = away
		for c := range p.conns {
			c.up.left, c.down.left = never, never
		}
	})
	if err := p.listen(); err != nil {
		p.t.Fatalf("ferrytest: let connections in again: %v", err)
	}
}

// Connections is how many clients are connected. One that was cut is not, nor is
// one whose both directions have ended.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connected()
}

func (p *Proxy) connected() int {
	n := 0
	for c := range p.conns {
		if !c.cutOff {
			n++
		}
	}
	return n
}

// Accepted is how many clients have ever connected.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// WaitConnections returns when exactly n clients are connected. The error is that
// ctx has ended first, with how many there are.
func (p *Proxy) WaitConnections(ctx context.Context, n int) error {
	return p.wait(ctx, func() (bool, string) {
		now := p.connected()
		return now == n, fmt.Sprintf("%d clients are connected, %d were waited for", now, n)
	})
}

// WaitAccepted returns when n clients at least have connected since the test
// began, the first included: for the reconnects of a client that was cut. The
// error is that ctx has ended first, with how many did.
func (p *Proxy) WaitAccepted(ctx context.Context, n int) error {
	return p.wait(ctx, func() (bool, string) {
		return p.accepted >= n, fmt.Sprintf("%d clients have connected, %d were waited for", p.accepted, n)
	})
}

// WaitNacked returns when all publishes that Nack announced were refused. The
// error is that ctx has ended first, with how many are left.
func (p *Proxy) WaitNacked(ctx context.Context) error {
	return p.wait(ctx, func() (bool, string) {
		return p.nacks == 0, fmt.Sprintf("%d publishes are still to be refused", p.nacks)
	})
}

// wait returns when the condition, which is asked with p.mu held, is met.
func (p *Proxy) wait(ctx context.Context, met func() (ok bool, now string)) error {
	defer context.AfterFunc(ctx, func() { p.change(func() {}) })()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		ok, now := met()
		if ok {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("ferrytest: %s: %w", now, context.Cause(ctx))
		}
		p.changed.Wait()
	}
}

// change does f, and tells everyone.
func (p *Proxy) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.changed.Broadcast()
	for c := range p.conns {
		c.wake()
	}
}

// setAway says whether the broker is stopped: nobody is let in, whatever Heal
// says. It is for the goroutine of the test.
func (p *Proxy) setAway(away bool) {
	p.t.Helper()
	p.change(func() { p.away = away })
	if away {
		p.unlisten()
		return
	}
	if err := p.listen(); err != nil {
		p.t.Fatalf("ferrytest: let connections in again: %v", err)
	}
}

func (p *Proxy) setBackend(addr string) { p.change(func() { p.backend = addr }) }

// listen lets clients in, if that is not done and no fault forbids it.
func (p *Proxy) listen() error {
	p.mu.Lock()
	addr, idle := p.addr, p.listener != nil || p.refused || p.away || p.closed
	p.mu.Unlock()
	if idle {
		return nil
	}
	ln, err := listenAgain(p.ctx, addr)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.listener, p.addr = ln, ln.Addr().String()
	p.mu.Unlock()
	p.running.Go(func() { p.accept(ln) })
	return nil
}

// listenAgain waits for an address that is taken.
func listenAgain(ctx context.Context, addr string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	retry := time.NewTicker(listenPause)
	defer retry.Stop()
	for {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return ln, err
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// unlisten lets nobody in any more.
func (p *Proxy) unlisten() {
	p.mu.Lock()
	ln := p.listener
	p.listener = nil
	p.mu.Unlock()
	if ln != nil {
		_ = ln.Close()
	}
}

func (p *Proxy) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a connection that was reset before it was accepted
		}
		p.mu.Lock()
		let := p.listener == ln
		var c *conn
		if let {
			c = newConn(p, nc.(*net.TCPConn))
			p.conns[c] = true
			p.accepted++
			p.changed.Broadcast()
		}
		p.mu.Unlock()
		if !let {
			reset(nc)
			continue
		}
		p.running.Go(c.run)
	}
}

// close ends the proxy, with what passes it.
func (p *Proxy) close() {
	p.change(func() { p.closed = true })
	p.cancel()
	p.unlisten()
	p.Drop()
	p.running.Wait()
}
