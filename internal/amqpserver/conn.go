package amqpserver

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// closeTimeout is how long a peer may take to answer connection.close, and to
// take what is written to it before.
const closeTimeout = 5 * time.Second

// conn is a connection of a peer, from its first byte to its last. Its methods
// are called by its reader but where they say otherwise.
type conn struct {
	srv     *Server
	nc      *source
	log     *slog.Logger
	in      input
	peer    peer
	session *broker.Session // nil until connection.open

	forced atomic.Pointer[fault]          // why the connection must end, first word wins
	opened atomic.Pointer[broker.Session] // session, for other goroutines
}

// serve serves the connection until it has ended.
func (c *conn) serve(ctx context.Context) {
	defer c.nc.Close()
	defer c.in.release()
	if err := c.handshake(ctx); err != nil {
		c.refuse(err)
		return
	}
	c.opened.Store(c.session)
	_ = c.nc.SetDeadline(time.Time{}) // of the login; run looks at forced before it waits
	w := &writer{
		conn: c,
		out:  output{src: c.nc},
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	go w.run()
	heart := c.startHeart()
	r := &reader{conn: c, limit: c.peer.frameMax}
	err := r.run()
	heart.stop()
	if f := c.forced.Load(); f != nil {
		err = f
	}
	c.end(r, w, err)
}

// refuse ends a connection whose session was never opened.
func (c *conn) refuse(err error) {
	f := (*fault)(nil)
	switch {
	case c.forced.Load() != nil:
		return
	case errors.Is(err, errQuiet):
		c.log.Warn("connection refused", "error", err)
	case errors.As(err, &f):
		c.log.Warn("connection refused", "code", f.code, "error", quoted(f.Error()))
		c.tell(f)
	default:
		c.log.Debug("connection lost before it was open", "error", err)
	}
}

// end ends an open connection. What it had at the broker is gone before the peer
// is told, so that a client that sees close-ok finds its exclusive queues deleted
// and its messages requeued.
func (c *conn) end(r *reader, w *writer, err error) {
	f := (*fault)(nil)
	if !errors.Is(err, errClosed) && !errors.As(err, &f) {
		c.log.Debug("connection lost", "error", err)
		c.session.Close()
		c.nc.Close() // the writer may be in a write
		close(w.stop)
		<-w.done
		return
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	for _, ch := range r.channels {
		if ch.broker != nil {
			ch.end()
		}
	}
	close(w.stop)
	<-w.done
	c.session.Close()
	if f == nil {
		_ = c.writeMethod(0, &amqpwire.ConnectionCloseOk{})
		return
	}
	c.log.Warn("connection closed by an error", "code", f.code, "error", quoted(f.Error()))
	c.in.lost = c.in.lost || f.lost
	c.tell(f)
}

// tell sends connection.close and waits for the peer to go, or to answer.
func (c *conn) tell(f *fault) {
	_ = c.nc.SetDeadline(time.Now().Add(closeTimeout))
	err := c.writeMethod(0, &amqpwire.ConnectionClose{
		ReplyCode: f.code,
		ReplyText: amqpwire.ReplyText(f.code, f.text),
		ClassID:   f.class,
		MethodID:  f.method,
	})
	for err == nil && !c.in.lost {
		var g amqpwire.Frame
		if g, err = c.in.frame(max(c.peer.frameMax, amqpwire.PreAuthFrameMax)); err != nil {
			break
		}
		switch class, method, _ := amqpwire.MethodID(g.Payload); {
		case g.Type != amqpwire.FrameMethod || g.Channel != 0 || class != amqpwire.ClassConnection:
		case method == amqpwire.MethodConnectionCloseOk:
			return
		case method == amqpwire.MethodConnectionClose:
			// Both closed at once: each answers the other (AMQP 0-9-1 §1.4.2.9).
			err = c.writeMethod(0, &amqpwire.ConnectionCloseOk{})
		}
	}
	// What comes is no frame any more: read on, because closing a socket with
	// unread input would take our close away from the peer.
	for err == nil || errors.As(err, new(*fault)) {
		c.in.skip(len(c.in.bytes()))
		err = c.in.fill(1)
	}
}

// force ends the connection: the peer is told why, if its session is open. Any
// goroutine may call it; the first call counts.
func (c *conn) force(f *fault) {
	if c.forced.CompareAndSwap(nil, f) {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	c.interrupt()
}

// cut ends the connection without a word. Any goroutine may call it.
func (c *conn) cut(err error) {
	c.log.Debug("connection cut", "error", err)
	c.nc.Close()
	c.interrupt()
}

func (c *conn) interrupt() {
	if s := c.opened.Load(); s != nil {
		s.Interrupt()
	}
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

func (c *conn) write(p []byte) error { return c.nc.write(p) }
