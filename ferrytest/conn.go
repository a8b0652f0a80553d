package ferrytest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

const (
	// chunk is how much is read from a socket at once, bytes.
	chunk = 32 << 10
	// passing is how much of one direction is in the proxy before it stops to
	// read, bytes.
	passing = 64 << 10
)

// A conn is a client's connection and the one to the broker that goes with it.
// In each direction one goroutine reads and one writes, with a stream between
// them.
type conn struct {
	p      *Proxy
	client *net.TCPConn
	up     *stream // to the broker
	down   *stream // to the client

	// Proxy.mu guards these.
	backend *net.TCPConn // nil: not connected yet
	frames  frames
	cutOff  bool // by a fault; what is left is to let one side read
}

// A stream is one direction of a connection. Proxy.mu guards it.
type stream struct {
	p       *Proxy
	changed sync.Cond // anything below, and the proxy's faults
	buf     []byte
	ended   bool  // nothing more comes
	broken  bool  // by a reset, not an end
	aborted bool  // the connection is to end at once
	drained bool  // the other direction was cut: what comes is thrown away
	left    int64 // bytes up to a cut; never: there is none
	toward  bool  // the broker
}

func newStream(p *Proxy, toward bool, left int64) *stream {
	s := &stream{p: p, toward: toward, left: left}
	s.changed.L = &p.mu
	return s
}

// newConn is called with Proxy.mu held.
func newConn(p *Proxy, client *net.TCPConn) *conn {
	return &conn{p: p, client: client, up: newStream(p, true, p.cutSent), down: newStream(p, false, p.cutReceived)}
}

// wake is called with Proxy.mu held.
func (c *conn) wake() {
	c.up.changed.Broadcast()
	c.down.changed.Broadcast()
}

// run serves the connection until both directions have ended.
func (c *conn) run() {
	defer c.abort() // what has not ended by itself
	backend := c.dial()
	if backend == nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.read(c.up, c.client) })
	both.Go(func() { c.read(c.down, backend) })
	both.Go(func() { c.write(c.up, backend) })
	both.Go(func() { c.write(c.down, c.client) })
	both.Wait()
	c.p.mu.Lock()
	aborted := c.up.aborted
	c.p.mu.Unlock()
	if !aborted { // an abort that is under way is not overtaken by an end in order
		_ = c.client.Close()
		_ = backend.Close()
	}
}

// dial connects to the broker, nil if that cannot be.
func (c *conn) dial() *net.TCPConn {
	addr, ok := c.mayDial()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.p.ctx, dialTimeout)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil // the client sees a reset
	}
	c.p.mu.Lock()
	aborted := c.up.aborted
	if !aborted {
		c.backend = nc.(*net.TCPConn)
	}
	c.p.mu.Unlock()
	if aborted {
		reset(nc) // which abort has not seen
		return nil
	}
	return c.backend
}

// mayDial waits while connections are not to be answered, and says where the
// broker is.
func (c *conn) mayDial() (backend string, ok bool) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for c.p.paused && !c.up.aborted {
		c.up.changed.Wait()
	}
	return c.p.backend, !c.up.aborted
}

// abort ends the connection at once, with a reset to both sides. What has ended
// already stays as it is.
func (c *conn) abort() {
	c.p.mu.Lock()
	c.up.aborted, c.down.aborted = true, true
	backend := c.backend
	delete(c.p.conns, c)
	c.wake()
	c.p.changed.Broadcast()
	c.p.mu.Unlock()
	reset(c.client)
	if backend != nil {
		reset(backend)
	}
}

// read takes what comes from one side.
func (c *conn) read(s *stream, from *net.TCPConn) {
	buf := make([]byte, chunk)
	for s.mayRead() {
		n, err := from.Read(buf)
		c.p.mu.Lock()
		c.pass(s, buf[:n])
		if err != nil {
			s.put(c.frames.rest(s.toward))
			s.ended, s.broken = true, !errors.Is(err, io.EOF)
			s.changed.Broadcast()
		}
		c.p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// pass puts bytes on their way. It is called with Proxy.mu held, so that what the
// proxy says itself is in its place among what the broker says: before the
// confirms of all that is passed on later.
func (c *conn) pass(s *stream, b []byte) {
	var up, down []byte
	if s.toward {
		up, down = c.frames.fromClient(b, c.p.nack)
	} else {
		up, down = c.frames.fromBroker(b)
	}
	c.up.put(up)
	c.down.put(down)
}

// nack says whether the next publish is to be refused. It is called with Proxy.mu
// held.
func (p *Proxy) nack() bool {
	if p.nacks == 0 {
		return false
	}
	p.nacks--
	p.changed.Broadcast()
	return true
}

func (s *stream) put(b []byte) {
	if len(b) == 0 || s.drained {
		return
	}
	s.buf = append(s.buf, b...)
	s.changed.Broadcast()
}

// held says whether a fault holds what passes. It is called with Proxy.mu held.
func (s *stream) held() bool { return s.p.paused || s.toward && s.p.deaf }

// mayRead waits until there may be more, and says whether to go on.
func (s *stream) mayRead() bool {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for !s.aborted && !s.drained && (s.held() || len(s.buf) >= passing) {
		s.changed.Wait()
	}
	return !s.aborted
}

// What take says of a stream.
type verdict int

const (
	more verdict = iota
	end
	breakOff // a reset came
	cut      // a fault's
	gone
)

// take returns what is to be written next.
func (s *stream) take() ([]byte, verdict) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for {
		switch {
		case s.aborted:
			return nil, gone
		case s.left == 0 && !s.drained:
			return nil, cut
		case s.held() && !s.drained:
		case len(s.buf) > 0:
			b := s.buf
			if s.left != never {
				b = b[:min(s.left, int64(len(b)))]
				s.left -= int64(len(b))
			}
			s.buf = nil // what is left behind a cut is of no use
			s.changed.Broadcast()
			return b, more
		case s.ended && s.broken:
			return nil, breakOff
		case s.ended:
			return nil, end
		}
		s.changed.Wait()
	}
}

// write gives what passes to the other side.
func (c *conn) write(s *stream, to *net.TCPConn) {
	for {
		b, v := s.take()
		switch v {
		case more:
			if _, err := to.Write(b); err != nil {
				c.fail(s)
				return
			}
		case end:
			_ = to.CloseWrite()
			return
		case breakOff:
			c.fail(s)
			return
		case cut:
			c.cut(s)
			return
		case gone:
			return
		}
	}
}

// fail passes a reset on, unless that is what a cut has made.
func (c *conn) fail(s *stream) {
	c.p.mu.Lock()
	drained := s.drained
	c.p.mu.Unlock()
	if !drained {
		c.abort()
	}
}

// cut ends the connection where a stream has come to its cut. Who was written to
// gets the end of the stream behind what it was to get, and the other a reset. A
// reset to both would take from the first what it has not read yet; for the same
// reason what it still sends is read and thrown away, until it closes.
func (c *conn) cut(s *stream) {
	c.p.mu.Lock()
	c.cutOff = true
	for _, s := range []*stream{c.up, c.down} {
		s.drained, s.buf = true, nil
	}
	c.wake()
	c.p.changed.Broadcast()
	c.p.mu.Unlock()
	if s.toward {
		_ = c.backend.CloseWrite()
		reset(c.client)
		return
	}
	_ = c.client.CloseWrite()
	reset(c.backend)
}
