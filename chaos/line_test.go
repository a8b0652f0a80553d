package chaos

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Lines are the transports of a client that can be cut so that the client alone
// notices: the broker takes them for connected until they are hung up, as when a
// machine has lost its power. Its dial is for ferry.WithNetDial.
type lines struct {
	mu   sync.Mutex
	open []*line // that were not cut
	held []*line // that were cut and not hung up
}

type line struct {
	*net.TCPConn
	of *lines
}

func (l *lines) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &line{TCPConn: conn.(*net.TCPConn), of: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, c)
	return c, nil
}

// cut ends all connections for the client.
func (l *lines) cut(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) == 0 {
		t.Error("there is no connection to cut")
	}
	for _, c := range l.open {
		if err := c.CloseRead(); err != nil { // the client reads an end, and nothing is sent
			t.Error(err)
		}
	}
	l.held = append(l.held, l.open...)
	l.open = nil
}

// hangUp ends for the broker what was cut.
func (l *lines) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.held {
		_ = c.TCPConn.Close()
	}
	l.held = nil
}

// cutLocked tells whether a line was cut.
func (c *line) cutLocked() bool {
	for _, open := range c.of.open {
		if open == c {
			return false
		}
	}
	return true
}

// Write fails on a line that was cut.
func (c *line) Write(b []byte) (int, error) {
	c.of.mu.Lock()
	cut := c.cutLocked()
	c.of.mu.Unlock()
	if cut {
		return 0, net.ErrClosed
	}
	return c.TCPConn.Write(b)
}

// Close leaves a line that was cut to hangUp.
func (c *line) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.cutLocked() {
		return c.SetDeadline(time.Now())
	}
	for i, open := range c.of.open {
		if open == c {
			c.of.open = append(c.of.open[:i], c.of.open[i+1:]...)
			break
		}
	}
	return c.TCPConn.Close()
}
