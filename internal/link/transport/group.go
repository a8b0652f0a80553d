package transport

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ferrymq/ferry/internal/link"
)

// A Group is the sessions with one broker that the client takes for one connection,
// where a protocol has nothing like channels. The first is home: it tells whether the
// broker is there. What shows that the broker is not ends all of them. Its methods
// may be called concurrently.
type Group struct {
	Options link.Options // with a Logger

	ctx    context.Context // ends when over is set
	cancel context.CancelFunc
	done   chan struct{} // closed when all is over

	mu       sync.Mutex // guards the rest
	sessions map[*Session]struct{}
	open     sync.WaitGroup // sessions, and those that are being opened
	closing  bool           // Close was called
	over     bool
	err      *link.Error // why it is over
	blocked  int         // reasons why messages are not taken
}

// NewGroup makes one without sessions. OpenHome is called next.
func NewGroup(o link.Options) *Group {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Group{Options: o, done: make(chan struct{}), sessions: make(map[*Session]struct{})}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// OpenHome opens the first session. introduce is called when it has logged in, and may
// refuse the broker. When it fails the group has ended.
func (g *Group) OpenHome(ctx context.Context, home *Session, introduce func() error) error {
	g.open.Add(1)
	defer g.open.Done()
	if err := home.dial(ctx); err != nil {
		g.cancel()
		return err
	}
	if err := introduce(); err != nil {
		g.cancel()
		home.Line.Cut()
		return err
	}
	go g.finish() // done is closed by its end
	return g.start(home)
}

// Open opens a session more. What keeps it from being opened would keep others, and a
// broker that takes no sessions is of no use: it ends all of them, unless it was ctx.
func (g *Group) Open(ctx context.Context, s *Session) error {
	if err := g.begin(); err != nil {
		return err
	}
	defer g.open.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(g.ctx, func() { cancel(g.err) })
	defer stop()
	if err := s.dial(ctx); err != nil {
		if e, ok := err.(*link.Error); ok { //nolint:errorlint // dial wraps nothing but the end of ctx
			g.fail(e, false)
			return g.err
		}
		return err
	}
	return g.start(s)
}

// Failed is closed when the group has failed or is closed: see Reason.
func (g *Group) Failed() <-chan struct{} { return g.ctx.Done() }

// Reason is why the group has ended, valid once Failed is closed.
func (g *Group) Reason() *link.Error { return g.err }

// Done implements link.Conn. It is closed when the goroutines have returned and
// all Closed were called, not before.
func (g *Group) Done() <-chan struct{} { return g.done }

// Err implements link.Conn.
func (g *Group) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil || g.closing {
		return nil
	}
	return g.err
}

// Close implements link.Conn. It returns nil if the broker has answered or the
// connection had ended before, the cause of ctx's end if it was cut, else what
// went wrong.
func (g *Group) Close(ctx context.Context) error {
	g.mu.Lock()
	if g.over {
		g.mu.Unlock()
		g.awaitDone(ctx)
		return nil
	}
	g.closing = true
	sessions := g.sessionsLocked()
	g.mu.Unlock()
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
	g.fail(Closed(), !cut)
	g.awaitDone(ctx)
	switch {
	case g.err.Kind != link.Closed:
		return g.err
	case cut:
		return fmt.Errorf("closing the connection: %w", context.Cause(ctx))
	}
	return nil
}

// SetBlocked notes one reason more why the broker takes no messages, or one less. The
// client is told of the first and of the end of the last.
func (g *Group) SetBlocked(blocked bool, reason string) {
	g.mu.Lock()
	before := g.blocked
	if blocked {
		g.blocked++
	} else {
		g.blocked--
	}
	now := g.blocked
	g.mu.Unlock()
	if g.Options.Blocked != nil && (before == 0) != (now == 0) {
		g.Options.Blocked(reason, now == 0)
	}
}

// Closed is the error of what this side has ended.
func Closed() *link.Error {
	return &link.Error{Kind: link.Closed, Text: "connection was closed"}
}

// awaitDone waits until all is over, with no farewell after the end of ctx.
func (g *Group) awaitDone(ctx context.Context) {
	stop := context.AfterFunc(ctx, g.cut)
	defer stop()
	<-g.done
}

// cut closes the transports.
func (g *Group) cut() {
	g.mu.Lock()
	sessions := g.sessionsLocked()
	g.mu.Unlock()
	for _, s := range sessions {
		s.Line.Cut()
	}
}

func (g *Group) sessionsLocked() []*Session {
	all := make([]*Session, 0, len(g.sessions))
	for s := range g.sessions {
		all = append(all, s)
	}
	return all
}

func (g *Group) isClosing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closing
}

// fail ends the group, if it has not ended yet: all its sessions. With farewell what
// they have queued is still written.
func (g *Group) fail(err *link.Error, farewell bool) {
	g.mu.Lock()
	if g.over {
		g.mu.Unlock()
		return
	}
	g.over, g.err = true, err
	sessions := g.sessionsLocked()
	g.mu.Unlock()
	g.cancel()
	for _, s := range sessions {
		s.End(err, farewell)
	}
}

// finish ends the group when its sessions have.
func (g *Group) finish() {
	<-g.ctx.Done()
	g.open.Wait()
	close(g.done)
}

// begin counts a session that is to be opened; open.Done is to be called when it
// was, or could not be.
func (g *Group) begin() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.over:
		return g.err
	case g.closing:
		return Closed()
	}
	g.open.Add(1)
	return nil
}

// start has a session that is logged in run, unless the group has ended meanwhile.
// Its end is waited for by that of the group.
func (g *Group) start(s *Session) error {
	g.mu.Lock()
	if g.over || g.closing {
		err := g.err
		g.mu.Unlock()
		s.Line.Cut()
		if err == nil {
			return Closed()
		}
		return err
	}
	g.sessions[s] = struct{}{}
	g.open.Add(1)
	g.mu.Unlock()
	s.run()
	return nil
}

// forget is called when a session has ended.
func (g *Group) forget(s *Session) {
	g.mu.Lock()
	delete(g.sessions, s)
	g.mu.Unlock()
	g.open.Done()
}
