package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// relayConns is how many connections a standby passes through for each of its
	// listeners, at most; one more is closed at once.
	relayConns = 4096
	// relayDial is how long the broker that is live may take to answer.
	relayDial = 2 * time.Second
	// relayPause is how long a relay waits when the process has no file descriptor
	// left: connections that end make room.
	relayPause = 50 * time.Millisecond
)

// A relay passes the connections of a listener through to another broker, byte by
// byte: what is in them, TLS included, is between the client and that broker, which
// also bounds the time to log in. It ends them when its target is another one.
type relay struct {
	name     string // of its listener
	log      *slog.Logger
	listener net.Listener
	target   func() string // host:port of the broker that is live; "": it is not known
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	noted    silence // of the accepting goroutine

	mu    sync.Mutex          // guards what follows
	conns map[net.Conn]string // both halves of each connection, and its target
	count int                 // of clients
}

// startRelay begins to serve who comes by a listener. stop ends it.
func startRelay(name string, ln net.Listener, target func() string, log *slog.Logger) *relay {
	r := &relay{name: name, log: log, listener: ln, target: target, conns: map[net.Conn]string{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.running.Go(r.accept)
	return r
}

// stop closes the listener and all connections, and returns when they have ended.
func (r *relay) stop() {
	r.cancel()
	_ = r.listener.Close()
	r.cut("")
	r.running.Wait()
}

// follow ends the connections to brokers that are not the target any more: they may
// be of a machine that is gone without a word.
func (r *relay) follow() {
	if now := r.target(); now != "" {
		r.cut(now)
	}
}

// cut closes all connections but those to one target.
func (r *relay) cut(but string) {
	r.mu.Lock()
	var gone []net.Conn
	for c, target := range r.conns {
		if target != but {
			gone = append(gone, c)
		}
	}
	r.mu.Unlock()
	for _, c := range gone {
		_ = c.Close()
	}
}

func (r *relay) accept() {
	for {
		c, err := r.listener.Accept()
		switch {
		case err == nil:
			if !r.enter() {
				r.note("connection refused: too many are passed through", "peer", c.RemoteAddr().String(), "limit", relayConns)
				_ = c.Close()
				continue
			}
			r.running.Go(func() {
				defer r.leave()
				r.serve(c)
			})
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		r.note("cannot accept connections, trying again", "error", err)
		select {
		case <-time.After(relayPause):
		case <-r.ctx.Done():
			return
		}
	}
}

// note logs a line, at most one in refuseLog.
func (r *relay) note(text string, args ...any) {
	if skipped, ok := r.noted.may(time.Now(), refuseLog); ok {
		r.log.Warn(text, append(args, "listener", r.listener.Addr().String(), "unreported", skipped)...)
	}
}

func (r *relay) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == relayConns {
		return false
	}
	r.count++
	return true
}

func (r *relay) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count--
}

// hold keeps a connection for cut. It is closed at once if the relay has stopped.
func (r *relay) hold(c net.Conn, target string) {
	r.mu.Lock()
	r.conns[c] = target
	r.mu.Unlock()
	if r.ctx.Err() != nil {
		_ = c.Close()
	}
}

func (r *relay) release(c net.Conn) {
	_ = c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// serve passes a client's connection through, and returns when it has ended. While
// nobody is known to be live it is closed: the client tries its next broker.
func (r *relay) serve(client net.Conn) {
	target := r.target()
	r.hold(client, target)
	defer r.release(client)
	if target == "" {
		r.log.Debug("connection closed: no broker is known to be live", "peer", client.RemoteAddr().String())
		return
	}
	live, err := r.dial(target, client)
	if err != nil {
		r.log.Debug("connection closed: the broker that is live is not reached", "peer", client.RemoteAddr().String(), "error", err)
		return
	}
	r.hold(live, target)
	defer r.release(live)
	var back sync.WaitGroup
	back.Go(func() { pass(client, live) })
	pass(live, client)
	back.Wait()
}

// dial connects to the target for a client. Who is not on this machine must not look
// as if: guest may connect from loopback only.
func (r *relay) dial(target string, client net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(r.ctx, relayDial)
	defer cancel()
	var d net.Dialer
	live, err := d.DialContext(ctx, "tcp", target)
	if err != nil || !onLoopback(live.RemoteAddr()) || onLoopback(client.RemoteAddr()) {
		return live, err
	}
	_ = live.Close()
	at, ok := client.LocalAddr().(*net.TCPAddr)
	if !ok {
		return nil, errors.New("the client is not on this machine, and its address is not known")
	}
	d.LocalAddr = &net.TCPAddr{IP: at.IP, Zone: at.Zone}
	return d.DialContext(ctx, "tcp", target)
}

func onLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// pass copies one direction up to its end, which it passes on, or to an error, which
// ends both.
func pass(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		_ = from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
