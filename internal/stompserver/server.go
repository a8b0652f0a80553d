package stompserver

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// DefaultMinHeartbeat is the shortest interval of heart-beats, as in Artemis.
const DefaultMinHeartbeat = 500 * time.Millisecond

// Config is what a server is made of.
type Config struct {
	Broker *broker.Broker
	Auth   *auth.Users
	Logger *slog.Logger // nil: nothing is logged

	// CertificateFrom says what in a client's certificate is its user's name, for those
	// that log in with nothing else. "": auth.FromCommonName.
	CertificateFrom auth.CertificateFrom

	Version string // of Ferry, told to peers

	// Node and Epoch tell peers who confirms: the process, and the time in which it
	// owns its store. "": neither is told.
	Node  string
	Epoch uint64

	MinHeartbeat time.Duration // shorter heart-beats are agreed on as this; 0: DefaultMinHeartbeat

	// Refuse, if it is not empty, lets nobody in: whoever connects is told this text
	// with an ERROR frame, whatever the credentials are. Broker and Auth are not
	// used.
	Refuse string
	// RefuseNow makes that connection_forced instead of not_implemented: it may be
	// otherwise soon, and is so elsewhere.
	RefuseNow bool
}

// Server speaks STOMP for a broker.
type Server struct {
	cfg Config

	mu       sync.Mutex // guards what follows
	conns    map[*conn]struct{}
	stopping bool
	serving  sync.WaitGroup // Add only while not stopping
}

// New returns a server that waits for Handle to be called.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MinHeartbeat == 0 {
		cfg.MinHeartbeat = DefaultMinHeartbeat
	}
	return &Server{cfg: cfg, conns: map[*conn]struct{}{}}
}

// Protocol recognises STOMP by its first frame, CONNECT or STOMP, and the line
// ends that may be before it.
func (s *Server) Protocol() netserve.Protocol {
	first := netserve.Prefix("CONNECT\n", "CONNECT\r", "STOMP\n", "STOMP\r")
	match := func(prefix []byte) (match, more bool) {
		rest := prefix[stompwire.EOLs(prefix):]
		if len(rest) == 0 || len(rest) == 1 && rest[0] == '\r' {
			return false, true
		}
		return first(rest)
	}
	return netserve.Protocol{Name: "stomp", Match: match, Handle: s.Handle}
}

// Handle serves a connection and returns when it has ended.
//
// It and what it calls up to reader.run are kept small: for as long as the
// connection is there they are on its goroutine's stack, and most connections
// are idle.
func (s *Server) Handle(nc *netserve.Conn) {
	c := s.accept(nc)
	if c == nil {
		return
	}
	defer s.remove(c)
	if c.begin() {
		c.serve()
	}
}

// accept returns nil when the server stops.
func (s *Server) accept(nc *netserve.Conn) *conn {
	c := &conn{srv: s, nc: nc, log: s.cfg.Logger.With("conn", nc), forced: make(chan struct{})}
	if !s.add(c) {
		return nil
	}
	c.log.Debug("connection accepted")
	return c
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.serving.Add(1)
		s.conns[c] = struct{}{}
	}
	return !s.stopping
}

// Shutdown closes all connections with an ERROR that gives the reason, and
// returns when they have ended; when ctx ends first the rest is cut, and the
// error says so. Connections that come meanwhile are closed.
func (s *Server) Shutdown(ctx context.Context, reason string) error {
	s.mu.Lock()
	s.stopping = true
	for c := range s.conns {
		c.force(kindFault(broker.Forced, reason))
	}
	s.mu.Unlock()
	cut := 0
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			cut++
			c.cut(context.Cause(ctx))
		}
	})
	s.serving.Wait()
	if stop() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if cut == 0 {
		return nil
	}
	return fmt.Errorf("close STOMP connections: %d did not end in time: %w", cut, context.Cause(ctx))
}

func (s *Server) remove(c *conn) {
	c.log.Debug("connection ended")
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.serving.Done()
}
