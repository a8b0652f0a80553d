package pipenet

import (
	"errors"
	"io"
	"net"
	"time"
)

// An Addr is the name of an end. Names need no meaning; those of listeners
// usually look like host:port, because clients take them apart.
type Addr string

// Network implements net.Addr.
func (Addr) Network() string { return "pipe" }

// String implements net.Addr.
func (a Addr) String() string { return string(a) }

// A Conn is one end of a connection. It is a net.Conn: its methods may be called
// concurrently, its errors are *net.OpError around what a socket's are around
// (net.ErrClosed, os.ErrDeadlineExceeded, ECONNRESET, EPIPE), and io.EOF.
type Conn struct {
	in, out       *half
	local, remote Addr
}

// Pipe returns the two ends of a connection.
func Pipe() (a, b *Conn) { return connect("a", "b") }

func connect(a, b Addr) (*Conn, *Conn) {
	there, back := newHalf(), newHalf()
	return &Conn{in: back, out: there, local: a, remote: b}, &Conn{in: there, out: back, local: b, remote: a}
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write implements net.Conn. It returns when the bytes are in the buffer, which
// holds 64 KiB that the other end has not read.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

// Close implements net.Conn. The other end reads what is on its way to it, then
// io.EOF; its writes fail.
func (c *Conn) Close() error {
	c.out.closeWriter()
	c.in.closeReader()
	return nil
}

// CloseWrite makes the other end read io.EOF behind what is on its way to it.
func (c *Conn) CloseWrite() error {
	c.out.closeWriter()
	return nil
}

// Cut breaks the connection: what is on its way is lost, and what both ends do
// from now on fails with ECONNRESET.
func (c *Conn) Cut() {
	c.in.cutOff()
	c.out.cutOff()
}

// Pause makes bytes, and the ends of streams, stay on their way in both
// directions, as between hosts whose network has gone: writes succeed while
// there is room in the buffer, reads wait for their deadline.
func (c *Conn) Pause() {
	c.in.pause(true)
	c.out.pause(true)
}

// Resume ends Pause. Nothing was lost.
func (c *Conn) Resume() {
	c.in.pause(false)
	c.out.pause(false)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.wrap("set", c.in.setDeadline(&c.in.reading, t))
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.wrap("set", c.out.setDeadline(&c.out.writing, t))
}

func (c *Conn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "pipe", Source: c.local, Addr: c.remote, Err: err}
}
