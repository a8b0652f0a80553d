package gmqlink

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
)

// conn is what the client takes for one connection: sessions with one server.
type conn struct {
	o                link.Options
	log              *slog.Logger
	product, version string // as the server said when it was first logged in to

	refusing atomic.Bool     // the server has said that it takes no messages
	ctx      context.Context // ends when over is set
	cancel   context.CancelFunc
	done     chan struct{} // closed when all is over

	mu       sync.Mutex // guards the rest
	sessions map[*session]struct{}
	open     sync.WaitGroup // sessions, and those that are being opened
	closing  bool           // Close was called
	over     bool
	err      *link.Error // why it is over
	blocked  int         // sessions whose publishes are not answered, and one if refusing
}

// Open connects to the server of o.Endpoint and logs in. It returns within 100 ms
// of the end of ctx, with what ended it, unless o.Dial or o.Credentials take
// longer. Other errors are *link.Error: Network if the server cannot be reached
// or closes without a word, Protocol if what answers does not speak GMQ as Ferry
// does, AccessRefused if it does not know the credentials, Unavailable if there are
// none to be had, Precondition for what is wrong with the endpoint.
func Open(ctx context.Context, o link.Options) (link.Conn, error) {
	c, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func open(ctx context.Context, o link.Options) (*conn, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &conn{o: o, log: o.Logger, done: make(chan struct{}), sessions: make(map[*session]struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.open.Add(1)
	defer c.open.Done()
	home, err := c.dial(ctx)
	if err != nil {
		c.cancel()
		return nil, err
	}
	c.product, c.version, _ = strings.Cut(home.server, "/")
	go c.finish() // done is closed by its end
	if err := c.start(home); err != nil {
		return nil, err
	}
	return c, nil
}

// Peer implements link.Conn.
func (c *conn) Peer() (product, version string) { return c.product, c.version }

// Done implements link.Conn. It is closed when the goroutines have returned and
// all Closed were called, not before.
func (c *conn) Done() <-chan struct{} { return c.done }

// Err implements link.Conn.
func (c *conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || c.closing {
		return nil
	}
	return c.err
}

// Close implements link.Conn. It returns nil if the server has answered or the
// connection had ended before, the cause of ctx's end if it was cut, else what
// went wrong.
func (c *conn) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		c.awaitDone(ctx)
		return nil
	}
	c.closing = true
	sessions := c.sessionsLocked()
	c.mu.Unlock()
	var leaving sync.WaitGroup
	for _, s := range sessions {
		leaving.Go(func() {
			s.leave()
			select {
			case <-s.left:
			case <-s.ending:
			case <-ctx.Done():
			}
		})
	}
	leaving.Wait()
	cut := ctx.Err() != nil
	c.fail(&link.Error{Kind: link.Closed, Text: "connection was closed"}, !cut)
	c.awaitDone(ctx)
	switch {
	case c.err.Kind != link.Closed:
		return c.err
	case cut:
		return fmt.Errorf("closing the connection: %w", context.Cause(ctx))
	}
	return nil
}

// awaitDone waits until all is over, with no farewell after the end of ctx.
func (c *conn) awaitDone(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.cut)
	defer stop()
	<-c.done
}

// cut closes the transports.
func (c *conn) cut() {
	c.mu.Lock()
	sessions := c.sessionsLocked()
	c.mu.Unlock()
	for _, s := range sessions {
		s.line.Cut()
	}
}

func (c *conn) sessionsLocked() []*session {
	all := make([]*session, 0, len(c.sessions))
	for s := range c.sessions {
		all = append(all, s)
	}
	return all
}

func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// fail ends the connection, if it has not ended yet: all its sessions. With
// farewell what they have queued is still written.
func (c *conn) fail(err *link.Error, farewell bool) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	c.over, c.err = true, err
	sessions := c.sessionsLocked()
	c.mu.Unlock()
	c.cancel()
	for _, s := range sessions {
		s.end(err, farewell)
	}
}

// finish ends the connection when its sessions have.
func (c *conn) finish() {
	<-c.ctx.Done()
	c.open.Wait()
	close(c.done)
}

// begin counts a session that is to be opened; c.open.Done is to be called when it
// was, or could not be.
func (c *conn) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
		return c.err
	case c.closing:
		return closed()
	}
	c.open.Add(1)
	return nil
}

// start has a session that is logged in run, unless the connection has ended
// meanwhile. Its end is waited for by that of the connection.
func (c *conn) start(s *session) error {
	c.mu.Lock()
	if c.over || c.closing {
		err := c.err
		c.mu.Unlock()
		s.line.Cut()
		if err == nil {
			return closed()
		}
		return err
	}
	c.sessions[s] = struct{}{}
	c.open.Add(1)
	c.mu.Unlock()
	s.run()
	return nil
}

// forget is called when a session has ended.
func (c *conn) forget(s *session) {
	c.mu.Lock()
	delete(c.sessions, s)
	c.mu.Unlock()
	c.open.Done()
}

// another opens a session more. What keeps it from being opened would keep others,
// and a server that takes no connections is of no use: it ends all of them, unless
// it was ctx.
func (c *conn) another(ctx context.Context, prepare func(*session)) (*session, error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.open.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(c.ctx, func() { cancel(c.err) })
	defer stop()
	s, err := c.dial(ctx)
	if err != nil {
		if e, ok := err.(*link.Error); ok { //nolint:errorlint // dial wraps nothing but the end of ctx
			c.fail(e, false)
			return nil, c.err
		}
		return nil, err
	}
	prepare(s)
	if err := c.start(s); err != nil {
		return nil, err
	}
	return s, nil
}

// dial opens a transport and logs in.
func (c *conn) dial(ctx context.Context) (*session, error) {
	user, password, err := transport.Credentials(ctx, &c.o)
	if err != nil {
		return nil, err
	}
	line, err := transport.Dial(ctx, &c.o)
	if err != nil {
		return nil, err
	}
	s := newSession(c, line)
	// Each wait below is a read or a write of this transport: closing it ends
	// whichever is under way.
	stop := context.AfterFunc(ctx, line.Cut)
	doing, failed := s.logIn(user, password)
	if failed != nil {
		stop()
		line.Cut()
		return nil, transport.Ended(ctx, doing, failed)
	}
	if !stop() {
		return nil, transport.Ended(ctx, doing, nil)
	}
	return s, nil
}

// refuses is told that the server takes no messages, for a reason, and takes that it
// does.
func (c *conn) refuses(reason string) {
	if c.refusing.CompareAndSwap(false, true) {
		c.setBlocked(true, reason)
	}
}

func (c *conn) takes() {
	if c.refusing.Load() && c.refusing.CompareAndSwap(true, false) {
		c.setBlocked(false, "")
	}
}

// silent is what there is to say of a server that answers nothing.
const silent = "the broker answers nothing that is published"

// setBlocked is told that publishes are not answered, or not taken, or are again.
func (c *conn) setBlocked(blocked bool, reason string) {
	c.mu.Lock()
	before := c.blocked
	if blocked {
		c.blocked++
	} else {
		c.blocked--
	}
	now := c.blocked
	c.mu.Unlock()
	if c.o.Blocked != nil && (before == 0) != (now == 0) {
		c.o.Blocked(reason, now == 0)
	}
}

// closed is the error of what this side has ended.
func closed() *link.Error {
	return &link.Error{Kind: link.Closed, Text: "connection was closed"}
}
