package stompserver

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// closeTimeout is how long a peer may take to read what is written to it last,
// and to close its side.
const closeTimeout = 5 * time.Second

// inputSlack is how much more than the largest frame may be buffered, bytes.
const inputSlack = 2 * directMin

// errDraining is what peers are told when the listeners stop; the words are
// RabbitMQ's.
var errDraining = kindFault(broker.Forced, "broker forced connection closure with reason 'shutdown'")

// conn is a connection of a peer, from its first byte to its last. Its methods
// are called by its reader but where they say otherwise.
type conn struct {
	srv *Server
	nc  *netserve.Conn
	log *slog.Logger

	version   stompwire.Version // 0 until it is negotiated
	beats     beats
	name      string // of the session, told to the peer
	clientID  string // of CONNECT, "" if there was none
	mechanism string // that the user logged in with

	session  *broker.Session                // nil until the peer has logged in
	opened   atomic.Pointer[broker.Session] // session, for other goroutines
	receipts receipts                       // of SENDs
	subs     subscribed                     // for the writer

	heldSince atomic.Pointer[time.Time] // from when on the reader waits for receipts; nil: it does not

	forcing sync.Once
	forced  chan struct{} // closed by force
	why     *fault        // given to force; there when forced is closed
}

// begin leads the connection to an open session, or ends it.
func (c *conn) begin() bool {
	ctx, cancel := context.WithDeadline(c.nc.Context(), c.nc.LoginDeadline())
	defer cancel()
	if err := c.handshake(ctx); err != nil {
		c.refuse(err)
		return false
	}
	return true
}

// serve serves an open connection until it has ended.
func (c *conn) serve() {
	h := c.halves()
	go h.writer.run()
	h.err = h.reader.run()
	h.end()
}

// halves are what serves an open connection.
type halves struct {
	*conn
	reader reader
	writer writer
	heart  *heart
	detach func() bool // the session from the connection's context
	err    error       // why the reader has ended
}

func (c *conn) halves() *halves {
	c.opened.Store(c.session)
	select {
	case <-c.forced: // before there was a session to interrupt
		c.session.Interrupt()
	default:
	}
	c.nc.In.SetMax(stompwire.DefaultHead + c.srv.cfg.Broker.MaxMessage() + inputSlack)
	h := &halves{
		conn:   c,
		reader: newReader(c),
		writer: writer{conn: c, out: &c.nc.Out, stop: make(chan struct{}), done: make(chan struct{})},
		heart:  c.startHeart(),
		detach: context.AfterFunc(c.nc.Context(), c.session.Interrupt),
	}
	return h
}

// refuse ends a connection whose session was never opened.
func (c *conn) refuse(err error) {
	if errors.Is(err, netserve.ErrDraining) {
		err = errDraining
	}
	f, ok := asFault(err)
	if !ok {
		c.log.Debug("connection ended before it was open", "error", err)
		return
	}
	level := slog.LevelWarn
	if f.ours {
		level = slog.LevelDebug
	}
	c.log.Log(context.Background(), level, "connection refused", "error", capped(f.Error()))
	c.tell(f)
}

// end ends an open connection. What it had at the broker is gone before the peer
// is told, so that a client that sees the last frame finds its exclusive queues
// deleted and its messages requeued.
func (h *halves) end() {
	h.heart.stop()
	defer h.detach()
	err := h.err
	if errors.Is(err, netserve.ErrDraining) {
		err = errDraining
	}
	f, ok := asFault(err)
	if !ok && !errors.Is(err, errClosed) {
		level := slog.LevelDebug
		if errors.Is(err, netserve.ErrIdle) {
			level = slog.LevelWarn // its heart-beats have stopped
		}
		h.log.Log(context.Background(), level, "connection lost", "error", err)
		h.session.Close()
		h.nc.Close() // the writer may be in a write
		h.writer.end()
		return
	}
	h.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	h.writer.end()
	h.session.Close()
	if f == nil {
		f = h.lastFault()
	}
	if f == nil {
		if h.write(h.reader.farewell) == nil {
			h.nc.Linger(closeTimeout)
		}
		return
	}
	level := slog.LevelWarn
	switch {
	case f.ours:
		level = slog.LevelDebug
	case f.message == names[broker.PreconditionFailed]:
		// Such as a declaration that is to be taken as it is if there is one: Ferry's
		// client pardons that.
		level = slog.LevelInfo
	}
	h.log.Log(context.Background(), level, "connection closed by the server", "error", capped(f.Error()))
	h.tell(f)
}

// lastFault is what the writer found to be wrong when the peer had disconnected
// already; nil if nothing was.
func (c *conn) lastFault() *fault {
	select {
	case <-c.forced:
		if !c.why.ours {
			return c.why
		}
	default:
	}
	return nil
}

// tell sends an ERROR, after which there is nothing (STOMP 1.2, ERROR), and waits
// for the peer to go.
func (c *conn) tell(f *fault) {
	c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	if c.write(appendError(nil, c.version, f)) == nil {
		c.nc.Linger(closeTimeout)
	}
}

// appendError appends an ERROR frame with the headers that RabbitMQ sends, and
// those of the specification.
func appendError(dst []byte, v stompwire.Version, f *fault) []byte {
	header := func(name, value string) {
		// What the version cannot express is left out: a peer's text, never ours.
		dst, _ = stompwire.AppendHeader(dst, v, name, value)
	}
	dst = stompwire.AppendCommand(dst, stompwire.Err)
	header(stompwire.HeaderMessage, f.message)
	header(stompwire.HeaderContentType, "text/plain")
	header(stompwire.HeaderVersion, supportedVersions)
	if f.receipt != nil {
		header(stompwire.HeaderReceiptID, string(f.receipt))
	}
	if f.subscription != "" {
		header(stompwire.HeaderSubscription, f.subscription)
	}
	dst = stompwire.AppendHeaderInt(dst, stompwire.HeaderContentLength, int64(len(f.detail)))
	dst = append(stompwire.AppendHeadEnd(dst), f.detail...)
	return append(dst, 0)
}

// force ends the connection: the peer is told why. Any goroutine may call it; the
// first call counts.
func (c *conn) force(f *fault) {
	c.nc.Interrupt(f)
	c.forcing.Do(func() {
		c.why = f
		close(c.forced)
	})
	if s := c.opened.Load(); s != nil {
		s.Interrupt()
	}
}

// cut ends the connection without a word. Any goroutine may call it.
func (c *conn) cut(err error) {
	c.log.Debug("connection cut", "error", err)
	c.nc.Close()
}

// write writes at once: while there is no writer yet, or any more.
func (c *conn) write(p []byte) error {
	c.nc.Out.SetBuf(append(c.nc.Out.Buf(), p...))
	return c.nc.Out.Flush()
}
