package amqpserver

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// Defaults of Config, as in RabbitMQ.
const (
	DefaultFrameMax   = amqpwire.DefaultFrameMax // bytes
	DefaultChannelMax = 2047
	DefaultHeartbeat  = 60 * time.Second
)

// Config is what a server is made of.
type Config struct {
	Broker *broker.Broker
	Auth   *auth.Users
	Logger *slog.Logger // nil: nothing is logged

	// CertificateFrom says what in a client's certificate is its user's name, for those
	// that log in with nothing else. "": auth.FromCommonName.
	CertificateFrom auth.CertificateFrom

	Version     string // of Ferry, told to peers
	ClusterName string // told to peers; "": ferry

	// Node and Epoch tell peers who confirms: the process, and the time in which it
	// owns its store. "": neither is told.
	Node  string
	Epoch uint64

	FrameMax   uint32        // bytes, overhead included; 0: DefaultFrameMax
	ChannelMax uint16        // channels of a connection; 0: DefaultChannelMax
	Heartbeat  time.Duration // proposed to peers, whole seconds; 0: DefaultHeartbeat; negative: none

	// Refuse, if it is not empty, lets nobody in: whoever connects is led up to
	// connection.open, whatever the credentials are, because no earlier do clients
	// listen to a reason, and is told this text with 540 NOT_IMPLEMENTED. Broker and
	// Auth are not used.
	Refuse string
	// RefuseNow makes it 320 CONNECTION_FORCED: it may be otherwise soon, and is so
	// elsewhere.
	RefuseNow bool
}

// Server speaks AMQP 0-9-1 for a broker.
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
	if cfg.FrameMax == 0 {
		cfg.FrameMax = DefaultFrameMax
	}
	if cfg.ChannelMax == 0 {
		cfg.ChannelMax = DefaultChannelMax
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	cfg.Heartbeat = max(cfg.Heartbeat, 0)
	if cfg.ClusterName == "" {
		cfg.ClusterName = "ferry"
	}
	return &Server{cfg: cfg, conns: map[*conn]struct{}{}}
}

// Protocol recognises AMQP by its protocol header, of any version: others than
// ours are answered with ours.
func (s *Server) Protocol() netserve.Protocol {
	return netserve.Protocol{Name: "amqp", Match: netserve.Prefix("AMQP"), Handle: s.Handle}
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
	c := &conn{srv: s, nc: nc, log: s.cfg.Logger.With("conn", nc)}
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

// Shutdown closes all connections with a reason, CONNECTION_FORCED, and returns
// when they have ended; when ctx ends first the rest is cut, and the error says
// so. Connections that come meanwhile are closed.
func (s *Server) Shutdown(ctx context.Context, reason string) error {
	s.mu.Lock()
	s.stopping = true
	for c := range s.conns {
		c.force(faultf(amqpwire.ConnectionForced, "%s", reason))
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
	return fmt.Errorf("close AMQP connections: %d did not end in time: %w", cut, context.Cause(ctx))
}

func (s *Server) remove(c *conn) {
	c.log.Debug("connection ended")
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.serving.Done()
}
