// Package netserve takes connections in: it listens, encrypts, recognises by the
// first bytes what a peer speaks, and bounds how many there are and how long they
// may take. It knows no protocol itself. A connection has one goroutine that
// reads and one that writes, and holds no buffer while it is idle.
package netserve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	LoginTimeout       = 10 * time.Second // RabbitMQ: handshake_timeout
	TLSTimeout         = 5 * time.Second  // RabbitMQ: ssl_handshake_timeout
	DrainTimeout       = 10 * time.Second
	MaxConns           = 64 << 10 // NATS: max_connections
	MaxUnauthenticated = 4096
)

// Config is what a server is made of. Zero limits stand for the defaults above.
type Config struct {
	Endpoints []Endpoint
	Protocols []Protocol    // recognised on every endpoint, the first that matches
	TLS       *Certificates // nil: no encryption
	Log       *slog.Logger  // nil: nothing is logged

	LoginTimeout time.Duration // from accept to Conn.Authenticated, TLS included
	TLSTimeout   time.Duration // for the handshake
	DrainTimeout time.Duration // for all connections to end when the server stops

	MaxConns           int // in all; one more is closed at once
	MaxUnauthenticated int // of them, those that have not logged in
}

// Endpoint is a listener and what is spoken on it when no protocol is
// recognised, or is recognised too late. The server closes the listener.
type Endpoint struct {
	Name     string // for logs
	Listener net.Listener
	Handle   Handler
}

// Handler serves a connection, whose first bytes are in its buffer, and returns
// when it has ended; it is then closed. Goroutines that use it have ended too.
type Handler func(*Conn)

// Protocol is something that a peer may speak, and how it begins.
type Protocol struct {
	Name string // for logs
	// Match tells whether a connection that begins with prefix (at least a byte) is
	// of this protocol; more says that more bytes are needed to tell. It is pure.
	Match  func(prefix []byte) (match, more bool)
	Handle Handler
}

// Prefix returns a Protocol.Match for connections that begin with one of some
// texts.
func Prefix(texts ...string) func([]byte) (match, more bool) {
	return func(prefix []byte) (match, more bool) {
		for _, t := range texts {
			n := min(len(t), len(prefix))
			if string(prefix[:n]) == t[:n] {
				match, more = match || n == len(t), more || n < len(t)
			}
		}
		return match, more && !match
	}
}

// Server serves connections.
type Server struct {
	cfg   Config
	log   *slog.Logger
	quiet quiet

	unauthenticated atomic.Int64
	serving         sync.WaitGroup

	mu       sync.Mutex // guards what follows
	conns    map[*Conn]struct{}
	draining bool
}

// New returns a server for a configuration. Several faults of it are reported
// together.
func New(cfg Config) (*Server, error) {
	var faults []error
	for i, e := range cfg.Endpoints {
		if e.Listener == nil || e.Handle == nil {
			faults = append(faults, fmt.Errorf("endpoint %d %q has no listener or no handler", i, e.Name))
		}
	}
	for i, p := range cfg.Protocols {
		if p.Match == nil || p.Handle == nil {
			faults = append(faults, fmt.Errorf("protocol %d %q has no matcher or no handler", i, p.Name))
		}
	}
	for _, n := range []int64{int64(cfg.LoginTimeout), int64(cfg.TLSTimeout), int64(cfg.DrainTimeout), int64(cfg.MaxConns), int64(cfg.MaxUnauthenticated)} {
		if n < 0 {
			faults = append(faults, errors.New("a limit is negative"))
			break
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("configure connections: %w", errors.Join(faults...))
	}
	orDefault(&cfg.LoginTimeout, LoginTimeout)
	orDefault(&cfg.TLSTimeout, TLSTimeout)
	orDefault(&cfg.DrainTimeout, DrainTimeout)
	orDefault(&cfg.MaxConns, MaxConns)
	orDefault(&cfg.MaxUnauthenticated, MaxUnauthenticated)
	orDefault(&cfg.Log, slog.New(slog.DiscardHandler))
	return &Server{cfg: cfg, log: cfg.Log, conns: map[*Conn]struct{}{}}, nil
}

func orDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Listen opens a TCP listener whose connections are probed when they are idle:
// after 60 s, every 10 s, 3 times. Small writes are sent at once, as always in
// Go. At 0.0.0.0 it listens for IPv4 alone, as elsewhere and not as in Go, at an empty
// host and at :: for both. Errors are those of package net.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 60 * time.Second, Interval: 10 * time.Second, Count: 3,
	}}
	network := "tcp"
	if host, _, err := net.SplitHostPort(addr); err == nil && host == net.IPv4zero.String() {
		network = "tcp4"
	}
	return lc.Listen(ctx, network, addr)
}

// Serve accepts connections until ctx ends. It then closes the listeners,
// interrupts each connection with ErrDraining, waits up to the drain timeout for
// their handlers to return, closes those that are left, and returns when all
// have ended; the error says how many had to be closed. It is called once.
func (s *Server) Serve(ctx context.Context) error {
	var accepting sync.WaitGroup
	for _, e := range s.cfg.Endpoints {
		accepting.Go(func() { s.accept(ctx, e) })
	}
	<-ctx.Done()
	for _, e := range s.cfg.Endpoints {
		_ = e.Listener.Close()
	}
	accepting.Wait()
	return s.drain()
}

// Conns is how many connections there are; unauthenticated ones of them have
// not logged in.
func (s *Server) Conns() (all, unauthenticated int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns), int(s.unauthenticated.Load())
}

func (s *Server) drain() error {
	for _, c := range s.drained() {
		c.Interrupt(ErrDraining)
	}
	left := 0
	patience := time.AfterFunc(s.cfg.DrainTimeout, func() {
		conns := s.drained()
		left = len(conns)
		for _, c := range conns {
			c.abort(ErrDraining)
		}
	})
	s.serving.Wait()
	if !patience.Stop() && left > 0 {
		return fmt.Errorf("stop serving: %d connections did not end within %v and were closed", left, s.cfg.DrainTimeout)
	}
	return nil
}

// drained makes that no connection is added any more, and returns those that
// are there.
func (s *Server) drained() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// add counts a connection in, or says why it may not be.
func (s *Server) add(c *Conn) (refused string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return "the server is shutting down"
	case len(s.conns) >= s.cfg.MaxConns:
		return "too many connections"
	case s.unauthenticated.Load() >= int64(s.cfg.MaxUnauthenticated):
		return "too many connections that have not logged in"
	}
	s.conns[c] = struct{}{}
	s.unauthenticated.Add(1)
	s.serving.Add(1)
	return ""
}

func (s *Server) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if !c.authed.Swap(true) {
		s.unauthenticated.Add(-1)
	}
	s.serving.Done()
}
