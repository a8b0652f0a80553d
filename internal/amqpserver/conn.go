package amqpserver

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// closeTimeout is how long a peer may take to answer connection.close, and to
// take what is written to it before.
const closeTimeout = 5 * time.Second

// inputSlack is how much more than the largest frame may be buffered, bytes: a
// publish and its small body around a content header.
const inputSlack = 2 * directMin

// errDraining is what peers are told when the listeners stop; the words are
// RabbitMQ's.
var errDraining = faultf(amqpwire.ConnectionForced, "broker forced connection closure with reason 'shutdown'")

// conn is a connection of a peer, from its first byte to its last. Its methods
// are called by its reader but where they say otherwise.
type conn struct {
	srv     *Server
	nc      *netserve.Conn
	log     *slog.Logger
	peer    peer
	session *broker.Session                // nil until connection.open
	opened  atomic.Pointer[broker.Session] // session, for other goroutines
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
	c.nc.In.SetMax(int(c.peer.frameMax) + inputSlack)
	return &halves{
		conn:   c,
		reader: reader{conn: c, limit: c.peer.frameMax},
		writer: writer{conn: c, out: &c.nc.Out, stop: make(chan struct{}), done: make(chan struct{})},
		heart:  c.startHeart(),
		detach: context.AfterFunc(c.nc.Context(), c.session.Interrupt),
	}
}

// refuse ends a connection whose session was never opened.
func (c *conn) refuse(err error) {
	f := (*fault)(nil)
	switch {
	case errors.Is(err, errQuiet):
		c.log.Warn("connection refused", "error", err)
	case errors.As(err, &f) && (f.code != amqpwire.ConnectionForced || c.srv.cfg.RefuseNow):
		c.log.Warn("connection refused", "code", f.code, "error", capped(f.Error()))
		c.tell(f, false)
	default:
		c.log.Debug("connection ended before it was open", "error", err)
	}
}

// end ends an open connection. What it had at the broker is gone before the peer
// is told, so that a client that sees close-ok finds its exclusive queues deleted
// and its messages requeued.
func (h *halves) end() {
	h.heart.stop()
	defer h.detach()
	err := h.err
	if errors.Is(err, netserve.ErrDraining) {
		err = errDraining
	}
	f := (*fault)(nil)
	if !errors.Is(err, errClosed) && !errors.As(err, &f) {
		level := slog.LevelDebug
		if errors.Is(err, netserve.ErrIdle) {
			level = slog.LevelWarn // its heartbeats have stopped
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
		if h.writeMethod(0, &amqpwire.ConnectionCloseOk{}) == nil {
			h.nc.Linger(closeTimeout)
		}
		return
	}
	level := slog.LevelWarn
	if f.code == amqpwire.ConnectionForced {
		level = slog.LevelDebug // nobody's mistake
	}
	h.log.Log(context.Background(), level, "connection closed by the server", "code", f.code, "error", capped(f.Error()))
	h.tell(f, h.reader.within)
}

// tell sends connection.close and waits for the peer to answer, or to go. within
// is whether the input stands within a frame.
func (c *conn) tell(f *fault, within bool) {
	c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.nc.In.Resume()
	c.nc.In.SetDeadline(time.Now().Add(closeTimeout))
	err := c.writeMethod(0, &amqpwire.ConnectionClose{
		ReplyCode: f.code,
		ReplyText: amqpwire.ReplyText(f.code, f.text),
		ClassID:   f.class,
		MethodID:  f.method,
	})
	if err != nil {
		return
	}
	if !within && !f.lost {
		err = c.awaitCloseOk()
	}
	if err == nil || errors.As(err, new(*fault)) {
		c.nc.Linger(closeTimeout)
	}
}

// awaitCloseOk drops everything up to connection.close-ok (AMQP 0-9-1
// §1.4.2.9).
func (c *conn) awaitCloseOk() error {
	for {
		f, err := readFrame(&c.nc.In, max(c.peer.frameMax, amqpwire.PreAuthFrameMax))
		if err != nil {
			return err
		}
		if f.Type != amqpwire.FrameMethod || f.Channel != 0 {
			continue
		}
		switch class, method, _ := amqpwire.MethodID(f.Payload); {
		case class != amqpwire.ClassConnection:
		case method == amqpwire.MethodConnectionCloseOk:
			return nil
		case method == amqpwire.MethodConnectionClose: // both closed at once
			if err := c.writeMethod(0, &amqpwire.ConnectionCloseOk{}); err != nil {
				return err
			}
		}
	}
}

// force ends the connection: the peer is told why, if its session is open. Any
// goroutine may call it; the first call counts.
func (c *conn) force(f *fault) {
	c.nc.Interrupt(f)
	if s := c.opened.Load(); s != nil {
		s.Interrupt()
	}
}

// cut ends the connection without a word. Any goroutine may call it.
func (c *conn) cut(err error) {
	c.log.Debug("connection cut", "error", err)
	c.nc.Close()
}

// reply queues a method for the writer.
func (c *conn) reply(channel uint16, m amqpwire.Method) {
	data, err := amqpwire.AppendMethod(nil, channel, m)
	if err != nil {
		c.force(unwritable(err))
		return
	}
	c.session.Reply(data)
}

// writeMethod writes a method at once: while there is no writer yet, or any more.
func (c *conn) writeMethod(channel uint16, m amqpwire.Method) error {
	data, err := amqpwire.AppendMethod(nil, channel, m)
	if err != nil {
		return unwritable(err)
	}
	return c.write(data)
}

func (c *conn) write(p []byte) error {
	c.nc.Out.SetBuf(append(c.nc.Out.Buf(), p...))
	return c.nc.Out.Flush()
}
