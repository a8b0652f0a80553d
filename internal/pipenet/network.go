package pipenet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// A Network is where listeners are found by name. Its methods may be called
// concurrently.
type Network struct {
	mu        sync.Mutex
	listeners map[Addr]*Listener
	silent    map[Addr]bool
	named     int // how many names were made up
}

// New returns a network that nobody listens on.
func New() *Network {
	return &Network{listeners: make(map[Addr]*Listener), silent: make(map[Addr]bool)}
}

// Listen takes a name; the empty one asks for a name, host-N:5672. A name that
// is taken is EADDRINUSE.
func (n *Network) Listen(addr string) (*Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if addr == "" {
		n.named++
		addr = fmt.Sprintf("host-%d:5672", n.named)
	}
	a := Addr(addr)
	if n.listeners[a] != nil {
		return nil, &net.OpError{Op: "listen", Net: "pipe", Addr: a, Err: syscall.EADDRINUSE}
	}
	l := &Listener{network: n, addr: a}
	l.changed.L = &l.mu
	n.listeners[a] = l
	return l, nil
}

// DialContext connects to who listens under the name, whatever the kind of
// network. Without a listener the error is ECONNREFUSED. As with TCP, the
// connection is there before it is accepted.
func (n *Network) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	a := Addr(addr)
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: a, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	n.mu.Lock()
	l, silent := n.listeners[a], n.silent[a]
	n.mu.Unlock()
	if silent {
		<-ctx.Done()
		return fail(ctx.Err())
	}
	if l == nil {
		return fail(syscall.ECONNREFUSED)
	}
	here, there := connect("client", a)
	if !l.enqueue(there) {
		return fail(syscall.ECONNREFUSED)
	}
	return here, nil
}

// Silence makes attempts to connect to the name neither succeed nor fail, as
// where packets are dropped: they end with their context. Connections that there
// are go on.
func (n *Network) Silence(addr string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent[Addr(addr)] = on
}

// A Listener is a net.Listener. What it accepts is *Conn.
type Listener struct {
	network *Network
	addr    Addr

	mu      sync.Mutex
	changed sync.Cond // anything below
	waiting []*Conn   // not yet accepted
	closed  bool
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) == 0 && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "pipe", Addr: l.addr, Err: net.ErrClosed}
	}
	c := l.waiting[0]
	l.waiting = l.waiting[1:]
	return c, nil
}

func (l *Listener) enqueue(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.waiting = append(l.waiting, c)
	l.changed.Signal()
	return true
}

// Close implements net.Listener. Connections that were not accepted are cut; the
// name can be taken again.
func (l *Listener) Close() error {
	l.mu.Lock()
	waiting, was := l.waiting, l.closed
	l.waiting, l.closed = nil, true
	l.changed.Broadcast()
	l.mu.Unlock()
	if was {
		return &net.OpError{Op: "close", Net: "pipe", Addr: l.addr, Err: net.ErrClosed}
	}
	for _, c := range waiting {
		c.Cut()
	}
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	delete(l.network.listeners, l.addr)
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }
