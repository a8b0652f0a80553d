package gmqserver

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// Config is what a server is made of.
type Config struct {
	Broker *broker.Broker
	Auth   *auth.Users
	Logger *slog.Logger // nil: nothing is logged

	Version string        // of Ferry, told to peers that ask
	Node    string        // name of this node, told to them too; "": it has none
	Epoch   func() uint64 // its epoch; nil: it has none

	// TokenAuth accepts users and passwords as GMQ's clients send them, as tokens
	// (see gmqwire.Token). Without it only plain ones are, which others send.
	TokenAuth bool

	Limits Limits

	// Refuse, if it is not empty, lets nobody in: whoever asks for something is told
	// this text, whatever the credentials are. Broker and Auth are not used.
	Refuse string
	// RefuseNow makes it CONNECTION_FORCED instead of NOT_IMPLEMENTED: it may be
	// otherwise soon, and is so elsewhere.
	RefuseNow bool
}

// Limits are those of GMQ's configuration, for what GMQ's clients do. A 0 is no
// limit.
type Limits struct {
	// Queues is how many queues clients may use, those that they make and those
	// that were there; counted since the server began.
	Queues int
	// QueueMessages is how many messages may wait in a queue that a client
	// publishes to. Clients that publish at the same moment may be over it by what
	// they have under way.
	QueueMessages int
	// Message is how large a message may be, bytes. The broker's limit is another.
	Message int
}

// Server speaks GMQ for a broker.
type Server struct {
	cfg    Config
	queues usedQueues

	mu       sync.Mutex // guards what follows
	conns    map[*conn]struct{}
	watching bool
	stopping bool
	stopped  chan struct{}  // closed when stopping
	serving  sync.WaitGroup // Add only while not stopping
}

// New returns a server that waits for Handle to be called.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, queues: usedQueues{most: cfg.Limits.Queues},
		conns: map[*conn]struct{}{}, stopped: make(chan struct{}),
	}
}

// Protocol recognises GMQ by the brace that a request begins with, and the white
// space that may be before it.
func (s *Server) Protocol() netserve.Protocol {
	match := func(prefix []byte) (match, more bool) {
		n := gmqwire.Blank(prefix)
		return n < len(prefix) && prefix[n] == '{', n == len(prefix)
	}
	return netserve.Protocol{Name: "gmq", Match: match, Handle: s.Handle}
}

// Handle serves a connection and returns when it has ended.
func (s *Server) Handle(nc *netserve.Conn) {
	c := s.accept(nc)
	if c == nil {
		return
	}
	defer s.remove(c)
	c.end(c.run())
}

// accept returns nil when the server stops.
func (s *Server) accept(nc *netserve.Conn) *conn {
	c := &conn{srv: s, nc: nc, log: s.cfg.Logger.With("conn", nc), forced: make(chan struct{})}
	c.scan.Max = preAuthRequest
	if !s.add(c) {
		return nil
	}
	c.log.Debug("connection accepted")
	return c
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.serving.Add(1)
	s.conns[c] = struct{}{}
	if b := s.cfg.Broker; b != nil && !s.watching {
		s.watching = true
		s.serving.Go(func() { s.watch(b) })
	}
	return true
}

// watch closes all connections when the broker fails: an idle one would not
// notice.
func (s *Server) watch(b *broker.Broker) {
	select {
	case <-s.stopped:
	case <-b.Failed():
		s.forceAll(lost(b))
	}
}

func (s *Server) forceAll(f *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.force(f)
	}
}

// Shutdown closes all connections, and returns when they have ended; when ctx
// ends first the rest is cut, and the error says so. What is being published is
// confirmed before, and a request that has begun to arrive is answered with the
// reason. Connections that come meanwhile are closed.
func (s *Server) Shutdown(ctx context.Context, reason string) error {
	s.mu.Lock()
	if !s.stopping {
		close(s.stopped)
	}
	s.stopping = true
	s.mu.Unlock()
	s.forceAll(kindFault(broker.Forced, reason))
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
	return fmt.Errorf("close GMQ connections: %d did not end in time: %w", cut, context.Cause(ctx))
}

func (s *Server) remove(c *conn) {
	c.log.Debug("connection ended")
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.serving.Done()
}

// usedQueues are the queues that clients have used, where their number is limited.
type usedQueues struct {
	most int // 0: any number

	mu    sync.Mutex // guards what follows
	names map[string]struct{}
}

// use notes that a queue is used. there tells whether a queue exists: those that
// do not any more make room for others.
func (u *usedQueues) use(name string, there func(name string) bool) bool {
	if u.most == 0 || u.note(name) {
		return true
	}
	for _, old := range u.list() {
		if !there(old) {
			u.forget(old)
		}
	}
	return u.note(name)
}

func (u *usedQueues) note(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.names == nil {
		u.names = map[string]struct{}{}
	}
	_, known := u.names[name]
	if known || len(u.names) < u.most {
		u.names[name] = struct{}{}
		return true
	}
	return false
}

func (u *usedQueues) list() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	names := make([]string, 0, len(u.names))
	for name := range u.names {
		names = append(names, name)
	}
	return names
}

func (u *usedQueues) forget(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.names, name)
}
