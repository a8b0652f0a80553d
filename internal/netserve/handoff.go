package netserve

import (
	"context"
	"net"
	"sync"
)

// Handoff is a net.Listener that is fed with connections: by Handle with those
// that a Server has recognised, for a net/http server, or by Give with those that
// come out of something else, for an Endpoint.
type Handoff struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// NewHandoff returns a listener that says it listens on addr.
func NewHandoff(addr net.Addr) *Handoff {
	return &Handoff{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Handle is a Handler: it gives the connection to Accept and returns when it has
// been closed, or the listener is. Who accepts must have time limits of his own, for
// Handle takes the login's away: HTTP requests authenticate one by one.
func (h *Handoff) Handle(c *Conn) {
	c.Authenticated()
	if c.In.arm() != nil { // takes the deadline away
		return
	}
	select {
	case h.conns <- c.NetConn():
		<-c.Context().Done()
	case <-c.Context().Done():
	case <-h.done:
	}
}

// Give gives a connection to Accept, and returns when it was taken; net.ErrClosed
// after Close, or the cause of ctx.
func (h *Handoff) Give(ctx context.Context, nc net.Conn) error {
	select {
	case h.conns <- nc:
		return nil
	case <-h.done:
		return net.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Accept waits for the next connection; net.ErrClosed after Close.
func (h *Handoff) Accept() (net.Conn, error) {
	select {
	case nc := <-h.conns:
		return nc, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. Connections that it returned go on.
func (h *Handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr is what was given to NewHandoff.
func (h *Handoff) Addr() net.Addr { return h.addr }
