package netserve

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// How long accept waits after an error, which is mostly that the process has no
// file descriptor left: connections that end make room.
const (
	acceptPause    = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// maxPrefix is how many bytes a protocol is recognised by, at most.
const maxPrefix = 64

// tlsHandshake is the first byte of a TLS connection: the content type of its
// first record (RFC 8446 §5.1). No protocol in plain begins with it.
const tlsHandshake = 0x16

func (s *Server) accept(ctx context.Context, e Endpoint) {
	pause := acceptPause
	for {
		nc, err := e.Listener.Accept()
		switch {
		case err == nil:
			pause = acceptPause
			s.start(nc, e)
			continue
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return
		}
		if n, ok := s.quiet.may("accept"); ok {
			s.log.Warn("cannot accept connections, trying again", "listener", e.Name, "error", err, "pause", pause, "unreported", n)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, acceptPauseMax)
	}
}

// start serves a new connection in a goroutine that drain waits for.
func (s *Server) start(nc net.Conn, e Endpoint) {
	now := time.Now()
	c := &Conn{srv: s, sock: &socket{Conn: nc}, login: now.Add(s.cfg.LoginTimeout)}
	if refused := s.add(c); refused != "" {
		_ = nc.Close()
		if n, ok := s.quiet.may(refused); ok {
			s.log.Warn("connection refused", "listener", e.Name, "peer", nc.RemoteAddr().String(), "reason", refused, "unreported", n)
		}
		return
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.In.open(nc, now)
	c.In.SetDeadline(c.login)
	c.Out.open(c.sock, now)
	go func() {
		defer s.remove(c)
		defer c.In.close()
		defer c.Close()
		// The handler does not stand on what it took to find it, so that the stack
		// of an idle connection is small.
		if handle := s.handler(c, e); handle != nil {
			handle(c)
		}
	}()
}

// handler secures a connection, if it begins with TLS, and finds out who serves
// it; nil if it ended before that.
func (s *Server) handler(c *Conn, e Endpoint) Handler {
	if err := c.In.Fill(); err != nil {
		s.log.Debug("connection ended before it began", "listener", e.Name, "conn", c, "error", err)
		return nil
	}
	if s.cfg.TLS != nil && c.In.Buffered()[0] == tlsHandshake {
		if err := s.encrypt(c); err != nil {
			if n, ok := s.quiet.may("tls"); ok {
				s.log.Info("TLS handshake failed", "listener", e.Name, "conn", c, "error", err, "unreported", n)
			}
			return nil
		}
		if err := c.In.Fill(); err != nil {
			s.log.Debug("connection ended after the TLS handshake", "listener", e.Name, "conn", c, "error", err)
			return nil
		}
	}
	handle, err := s.recognise(c, e)
	if err != nil {
		s.log.Debug("connection ended before its protocol was known", "listener", e.Name, "conn", c, "error", err)
		return nil
	}
	return handle
}

// recognise finds the handler for what has come, waiting for more as long as
// that may change the answer.
func (s *Server) recognise(c *Conn, e Endpoint) (Handler, error) {
	for {
		prefix := c.In.Buffered()
		undecided := false
		for _, p := range s.cfg.Protocols {
			match, more := p.Match(prefix)
			if match {
				return p.Handle, nil
			}
			undecided = undecided || more
		}
		if !undecided || len(prefix) >= maxPrefix {
			if len(s.cfg.Protocols) > 0 {
				s.log.Debug("connection of no protocol that is known, taken for the listener's own", "listener", e.Name, "conn", c)
			}
			return e.Handle, nil
		}
		if err := c.In.Fill(); err != nil {
			return nil, err
		}
	}
}

// encrypt puts TLS on top of a connection whose first bytes are buffered.
func (s *Server) encrypt(c *Conn) error {
	ctx, cancel := context.WithTimeoutCause(c.ctx, s.cfg.TLSTimeout, errors.New("the TLS handshake took too long"))
	defer cancel()
	c.sock.first = append([]byte(nil), c.In.Buffered()...)
	c.In.close()
	if err := c.In.arm(); err != nil { // the handshake reads without the Reader
		return err
	}
	conn := tls.Server(c.sock, s.cfg.TLS.config())
	if err := conn.HandshakeContext(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return err
	}
	c.tls = conn
	c.In.secure(conn)
	c.Out.secure(conn)
	return nil
}

// quiet keeps a flood of connections from being a flood of log lines: one line
// a second for each kind, with how many were left out.
type quiet struct {
	mu   sync.Mutex
	kind map[string]*spell
}

type spell struct {
	until   time.Time
	skipped int
}

func (q *quiet) may(kind string) (skipped int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.kind[kind]
	if s == nil {
		s = &spell{}
		if q.kind == nil {
			q.kind = map[string]*spell{}
		}
		q.kind[kind] = s
	}
	now := time.Now()
	if now.Before(s.until) {
		s.skipped++
		return 0, false
	}
	skipped, s.skipped, s.until = s.skipped, 0, now.Add(time.Second)
	return skipped, true
}
