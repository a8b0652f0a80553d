package netserve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// The causes with which a server interrupts and ends its connections.
var (
	// ErrDraining is what Fill returns when the server stops: the protocol tells
	// its peer, finishes what it has begun, and returns.
	ErrDraining = errors.New("the server is shutting down")
	// ErrClosed is the cause of a connection's context after it was closed.
	ErrClosed = errors.New("the connection is closed")
)

// Conn is a connection: a Reader and a Writer, each for one goroutine. Its own
// methods may be called by any goroutine.
type Conn struct {
	In  Reader
	Out Writer

	srv    *Server
	sock   *socket
	tls    *tls.Conn // nil if it is plain
	login  time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc
	authed atomic.Bool
}

// Peer is the address of the other side; not valid if the network has no IP
// addresses.
func (c *Conn) Peer() netip.Addr { return c.PeerPort().Addr() }

// PeerPort is Peer with the port.
func (c *Conn) PeerPort() netip.AddrPort { return addrPort(c.sock.RemoteAddr()) }

// LocalPort is the address of this side.
func (c *Conn) LocalPort() netip.AddrPort { return addrPort(c.sock.LocalAddr()) }

// Octets is how many bytes have come from the peer and gone to it. Any goroutine may
// ask.
func (c *Conn) Octets() (received, sent uint64) { return c.In.Received(), c.Out.Sent() }

// Name names the connection as RabbitMQ does: "peer:port -> local:port".
func (c *Conn) Name() string {
	return c.sock.RemoteAddr().String() + " -> " + c.sock.LocalAddr().String()
}

// TLS tells what was negotiated; nil if the connection is not encrypted. A
// certificate of the peer that is there was verified.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	s := c.tls.ConnectionState()
	return &s
}

// Certificate is the one that the peer showed, and that was verified; nil if it showed
// none.
func (c *Conn) Certificate() *x509.Certificate {
	if s := c.TLS(); s != nil && len(s.VerifiedChains) > 0 {
		return s.PeerCertificates[0]
	}
	return nil
}

// Context ends when the connection is closed, by either the handler's return,
// Close, or a server whose patience is over.
func (c *Conn) Context() context.Context { return c.ctx }

// LoginDeadline is by when the peer must have logged in. Up to Authenticated the
// Reader ends at it by itself.
func (c *Conn) LoginDeadline() time.Time { return c.login }

// Authenticated says that the peer has logged in: the time to log in is over,
// buffers may be large, and it counts as a connection like others. It is called
// by the goroutine that reads.
func (c *Conn) Authenticated() {
	if c.authed.Swap(true) {
		return
	}
	c.In.SetDeadline(time.Time{})
	c.In.size, c.In.max = BufferSize, max(c.In.max, BufferSize)
	c.srv.unauthenticated.Add(-1)
}

// Interrupt makes the Fill that waits, and all later ones, return cause, up to
// Reader.Resume. The first cause counts.
func (c *Conn) Interrupt(cause error) { c.In.interrupt(c.sock.Conn, cause) }

// SetWriteDeadline ends all writes at t for good, whether the peer is alive or
// not; zero takes that back.
func (c *Conn) SetWriteDeadline(t time.Time) { _ = c.sock.SetWriteDeadline(t) }

// Linger is for the end of a connection whose peer is still sending: it closes
// our direction, and reads and forgets what comes until the peer closes its own,
// or for d. Closing a socket with unread input would take from the peer what was
// written to it last. It is called by the goroutine that reads, when the one that
// writes has ended; no write may follow.
func (c *Conn) Linger(d time.Duration) {
	c.SetWriteDeadline(time.Now().Add(d))
	if c.tls != nil {
		_ = c.tls.CloseWrite() // fails when the peer is gone: so does reading
	}
	if half, ok := c.sock.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	c.In.close()
	err := os.ErrDeadlineExceeded
	for end := time.Now().Add(d); errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end); {
		_ = c.sock.Conn.SetReadDeadline(end)
		// An Interrupt, as of a server that stops, is not what it waits for.
		_, err = io.Copy(io.Discard, struct{ io.Reader }{c.sock.Conn})
	}
}

// Close closes the connection at once; whatever waits on it returns. With TLS
// the peer is told, unless a write is under way. The server closes a connection
// by itself when its handler returns.
func (c *Conn) Close() {
	c.cancel(ErrClosed)
	if c.tls == nil {
		_ = c.sock.Close()
		return
	}
	_ = c.tls.Close() // waits for at most 5 s, for its last record
}

// abort is Close without a last word.
func (c *Conn) abort(cause error) {
	c.cancel(cause)
	_ = c.sock.Close()
}

// NetConn returns the connection for those who want a net.Conn. It begins with
// what is buffered; In and Out must not be used any more. It also has SetAlive, as
// a Writer has.
func (c *Conn) NetConn() net.Conn {
	n := netConn{Conn: c.sock, c: c, first: append([]byte(nil), c.In.Buffered()...)}
	if c.tls != nil {
		n.Conn = c.tls
	}
	c.In.close()
	return &n
}

type netConn struct {
	net.Conn
	c     *Conn
	first []byte
}

func (n *netConn) Read(p []byte) (int, error) {
	if len(n.first) > 0 {
		m := copy(p, n.first)
		n.first = n.first[m:]
		return m, nil
	}
	return n.Conn.Read(p)
}

// SetAlive is Writer.SetAlive: without it a write to a peer that takes nothing
// for 10 s fails.
func (n *netConn) SetAlive(alive func() bool) { n.c.sock.alive.Store(&alive) }

func (n *netConn) Close() error {
	n.c.cancel(ErrClosed)
	return n.Conn.Close()
}

// LogValue is the connection's name, quoted by the log's handler.
func (c *Conn) LogValue() slog.Value { return slog.StringValue(c.Name()) }

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		p := tcp.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}
