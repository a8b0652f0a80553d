package dbtest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// A Wire is a way to a database that a test can cut: who is at its far end then is,
// for the server, as one that was killed with connections open.
type Wire struct {
	// URL is the database's, by way of the wire.
	URL string

	server string // address
	l      net.Listener
	work   sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool // both ends
}

// NewWire makes a way to the database of a URL. It is gone after the test.
func NewWire(t testing.TB, databaseURL string) *Wire {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{server: u.Host, l: l, conns: make(map[net.Conn]bool)}
	u.Host = l.Addr().String()
	w.URL = u.String()
	w.work.Go(w.serve)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		w.Cut()
		w.work.Wait()
	})
	return w
}

// Cut ends all connections, as they are, and those that are made from now on.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for c := range w.conns {
		_ = c.Close() // it does not wait, and nothing is expected of the connection any more
	}
	clear(w.conns)
}

// Mend lets connections be made again.
func (w *Wire) Mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

func (w *Wire) serve() {
	for {
		near, err := w.l.Accept()
		if err != nil {
			return
		}
		if !w.take(near) {
			continue
		}
		w.work.Go(func() { w.pass(near) })
	}
}

// take says whether a connection may be used, and closes it if not.
func (w *Wire) take(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		_ = c.Close()
		return false
	}
	w.conns[c] = true
	return true
}

func (w *Wire) leave(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = c.Close() // again, if it was cut
	delete(w.conns, c)
}

// pass connects near with the server until one of them ends it.
func (w *Wire) pass(near net.Conn) {
	defer w.leave(near)
	far, err := new(net.Dialer).DialContext(context.Background(), "tcp", w.server)
	if err != nil || !w.take(far) {
		return
	}
	defer w.leave(far)
	var back sync.WaitGroup
	back.Go(func() { w.copy(near, far) })
	w.copy(far, near)
	back.Wait()
}

// copy passes on what comes from one, then its end. An error ends both.
func (w *Wire) copy(to, from net.Conn) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		_ = errors.Join(to.Close(), from.Close()) // the other copy ends with them
	}
}
