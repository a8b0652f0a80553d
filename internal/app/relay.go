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
	// relayLinger is how long a client may stay whose connection the broker has
	// closed. Brokers wait for less.
	relayLinger = 10 * time.Second
	// relayCircle is how long a target that has led back to the listener is not tried
	// again: what came back meanwhile must not go round once more.
	relayCircle = time.Second
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

	mu       sync.Mutex // guards what follows, passages' live included
	passages map[*passage]struct{}
	count    int       // of clients
	noted    silence   // of the log
	circle   string    // target that has led back to the listener
	circles  time.Time // up to which it is not tried again
}

// A passage is a connection that is passed through.
type passage struct {
	target string
	client net.Conn
	live   net.Conn // nil until the broker is reached
}

// close ends both halves.
func (p *passage) close() {
	_ = p.client.Close()
	if p.live != nil {
		_ = p.live.Close()
	}
}

// startRelay begins to serve who comes by a listener. stop ends it.
func startRelay(name string, ln net.Listener, target func() string, log *slog.Logger) *relay {
	r := &relay{name: name, log: log, listener: ln, target: target, passages: map[*passage]struct{}{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.running.Go(r.accept)
	return r
}

// stop closes the listener and all connections, and returns when they have ended.
func (r *relay) stop() {
	r.cancel()
	_ = r.listener.Close()
	r.end(func(*passage) bool { return true })
	r.running.Wait()
}

// follow ends the connections to brokers that are not the target any more: they may
// be of a machine that is gone without a word. It also ends those that the broker has
// broken off while a client takes nothing of what there is for it: nobody reads there,
// and would see it.
func (r *relay) follow() {
	now := r.target()
	r.end(func(p *passage) bool { return now != "" && p.target != now || p.live != nil && broken(p.live) })
}

// end closes the connections that are to be.
func (r *relay) end(which func(*passage) bool) {
	r.mu.Lock()
	all := make([]passage, 0, len(r.passages))
	for p := range r.passages {
		all = append(all, *p)
	}
	r.mu.Unlock()
	for i := range all {
		if p := &all[i]; which(p) {
			p.close()
		}
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
	r.mu.Lock()
	skipped, ok := r.noted.may(time.Now(), refuseLog)
	r.mu.Unlock()
	if ok {
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

// hold keeps a connection to be ended, with the broker's half once there is one. It
// is closed at once if the relay has stopped.
func (r *relay) hold(p *passage, live net.Conn) {
	r.mu.Lock()
	p.live = live
	r.passages[p] = struct{}{}
	r.mu.Unlock()
	if r.ctx.Err() != nil {
		p.close()
	}
}

func (r *relay) release(p *passage) {
	p.close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.passages, p)
}

// serve passes a client's connection through, and returns when it has ended. While
// nobody is known to be live it is closed: the client tries its next broker.
func (r *relay) serve(client net.Conn) {
	p := &passage{target: r.target(), client: client}
	r.hold(p, nil)
	defer r.release(p)
	if p.target == "" || r.leadsBack(p.target) {
		r.log.Debug("connection closed: no broker is known to be live", "peer", client.RemoteAddr().String())
		return
	}
	live, err := r.dial(p.target, client)
	if err != nil {
		r.log.Debug("connection closed: the broker that is live is not reached", "peer", client.RemoteAddr().String(), "error", err)
		return
	}
	r.hold(p, live)
	if isListener(r.listener.Addr(), live) {
		r.mu.Lock()
		r.circle, r.circles = p.target, time.Now().Add(relayCircle)
		r.mu.Unlock()
		r.note("connection closed: what is told to be the address of the broker that is live is this one's own", "address", p.target)
		return
	}
	p.through()
}

// leadsBack tells whether a target has just led back to the listener.
func (r *relay) leadsBack(target string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return target == r.circle && time.Now().Before(r.circles)
}

// through passes both directions through up to their ends.
func (p *passage) through() {
	var back sync.WaitGroup
	back.Go(func() {
		pass(p.client, p.live)
		// The broker has nothing further to say, and its time limits are over: a client
		// that stayed would be here for ever.
		_ = p.client.SetReadDeadline(time.Now().Add(relayLinger))
	})
	pass(p.live, p.client)
	back.Wait()
}

// isListener tells whether a connection has led back to the listener, which would
// pass it through to itself once more, and so on. A listener at all addresses is at
// that which the connection has at both ends.
func isListener(at net.Addr, c net.Conn) bool {
	listener, ok := at.(*net.TCPAddr)
	here, ok2 := c.LocalAddr().(*net.TCPAddr)
	there, ok3 := c.RemoteAddr().(*net.TCPAddr)
	if !ok || !ok2 || !ok3 || there.Port != listener.Port {
		return false
	}
	return there.IP.Equal(listener.IP) || listener.IP.IsUnspecified() && (there.IP.Equal(here.IP) || there.IP.IsLoopback())
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
