package gmqserver

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// Limits of a connection.
const (
	// closeTimeout is how long a peer may take to read what is written to it last,
	// and to close its side.
	closeTimeout = 5 * time.Second
	// partTimeout is how long nothing may come of a request that has begun.
	partTimeout = 30 * time.Second
	// trailingTimeout is how long a newline may be behind its object, on a
	// connection that has had one.
	trailingTimeout = 250 * time.Millisecond
	// splitTimeout is that of any other connection, if the request came in several
	// pieces, or may have: it has more bytes than come in one.
	splitTimeout = 2 * time.Millisecond
	// Up to wholeSize bytes come in one piece: a TCP segment over IPv6 has room for so
	// many (RFC 8200 §5, and its headers), and hardly any over IPv4 has less. Of a TLS
	// record netserve takes less than wholeSizeTLS at first.
	wholeSize, wholeSizeTLS = 1200, 512

	// preAuthRequest is the most that a request may have before it is known whom it
	// is from, bytes: what netserve buffers of such a peer.
	preAuthRequest = 64 << 10
	// requestSlack is what a request may have beside its payload, bytes.
	requestSlack = 64 << 10
)

// conn is a connection of a peer, from its first byte to its last. Its methods
// are called by the goroutine that serves it but where they say otherwise.
type conn struct {
	srv *Server
	nc  *netserve.Conn
	log *slog.Logger

	scan   gmqwire.Scanner
	stream bool // a request ended with a newline
	pieces bool // a part of the request at hand came alone
	timed  bool // partTimeout runs

	user, token, password string // who has authenticated, and with what
	session               *broker.Session
	opened                atomic.Pointer[broker.Session] // session, for other goroutines
	ch                    *broker.Channel                // in confirm mode
	ending                *fault                         // the broker closes the session
	cancelled             bool                           // the queue that S waits at is gone

	req   gmqwire.Request     // the request at hand
	known map[string]struct{} // queues that are there
	waits bool                // the request at hand is S, and waits for a message
	replies
	scratch

	forcing sync.Once
	forced  chan struct{} // closed by force
	why     *fault        // given to force; there when forced is closed
}

// scratch is memory that is used again.
type scratch struct {
	body   []byte // of a publish
	props  []byte
	events []broker.Event
}

// What an idle connection keeps of what is used again, at most.
const (
	keepMax   = 1 << 10 // bytes of a buffer
	keepItems = 12      // of lists
)

// errAnswered says that a request with nothing behind it was answered.
var errAnswered = errors.New("the request was answered")

// run serves the connection until it ends, and says why: errAnswered, a fault
// that the peer is to be told, or what the network said.
func (c *conn) run() error {
	in := &c.nc.In
	for {
		b := in.Buffered()
		used, open, err := c.requests(b)
		if e := c.answer(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
		in.Discard(used)
		if c.ending != nil {
			return c.ending
		}
		if c.waits {
			if err := c.awaitMessage(); err != nil {
				return err
			}
			continue
		}
		if open {
			if err := c.awaitMore(used); err != nil {
				return err
			}
			continue
		}
		if c.session != nil {
			c.session.Throttle()
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// fill waits for more to come.
func (c *conn) fill() error {
	in := &c.nc.In
	part := len(in.Buffered()) > 0
	if !part {
		c.idle()
	}
	c.timePart(part && c.session != nil)
	err := in.Fill()
	part = len(in.Buffered()) > 0
	switch {
	case err == nil:
		return nil
	case errors.Is(err, netserve.ErrFull):
		return faultf(contentTooLarge, "the request has more than %d bytes", c.scan.Max).finally()
	case part && errors.Is(err, io.EOF):
		return faultf(syntaxError, "the connection ended within a request").finally()
	case part && (errors.Is(err, netserve.ErrLogin) || errors.Is(err, netserve.ErrIdle)):
		return faultf(syntaxError, "the request was not complete in time").finally()
	}
	if f, ok := asFault(err); ok && !part {
		g := *f
		g.silent = true // nothing was asked
		return &g
	}
	return err
}

// timePart begins to watch that a request goes on to come, or ends it.
func (c *conn) timePart(part bool) {
	if part == c.timed {
		return
	}
	c.timed = part
	timeout := time.Duration(0)
	if part {
		timeout = partTimeout
	}
	c.nc.In.SetIdleTimeout(timeout)
}

// idle gives up what is too large to keep.
func (c *conn) idle() {
	if cap(c.body) > keepMax {
		c.body = nil
	}
	if cap(c.props) > keepMax {
		c.props = nil
	}
	if cap(c.list)+cap(c.waitFor)+cap(c.events) > keepItems {
		c.list, c.waitFor, c.events = nil, nil, nil
	}
	if cap(c.settles) > keepItems {
		c.settles = nil
	}
	kept := gmqwire.Request{Operation: c.req.Operation, Queue: c.req.Queue, User: c.req.User, Password: c.req.Password, Ack: c.req.Ack}
	if len(kept.Operation)+len(kept.Queue)+len(kept.User)+len(kept.Password)+len(kept.Ack) > keepMax {
		kept = gmqwire.Request{}
	}
	c.req = kept
}

// requests carries out all requests that b has whole. used is how many bytes they
// take, and open whether b ends with the last of them. An error ends the
// connection, behind the answers to those before it.
func (c *conn) requests(b []byte) (used int, open bool, err error) {
	for {
		if blank := gmqwire.Blank(b[used:]); blank > 0 {
			used += blank // the scanner has seen nothing yet: an object begins with {
		}
		rest := b[used:]
		if len(rest) == 0 {
			return used, false, nil
		}
		n, err := c.scan.Scan(rest)
		if err != nil {
			return used, false, err
		}
		if n == 0 {
			c.pieces = true
			return used, false, nil
		}
		end, next := behind(rest, n)
		if next == garbage {
			return used, false, faultf(syntaxError, "found %q behind the request, where a newline or nothing is expected", rest[end:end+1]).finally()
		}
		c.scan.Reset()
		c.stream = c.stream || next == newline
		if err := c.request(rest[:n], ending{next: next, more: gmqwire.Blank(rest[end:]) < len(rest)-end}); err != nil {
			return used, false, err
		}
		used += end
		if next == nothing {
			return used, true, nil
		}
		c.pieces = false
		if c.full() {
			if err := c.answer(); err != nil {
				return used, false, err
			}
		}
	}
}

// ending is what is behind a request.
type ending struct {
	next uint8
	more bool // another has begun behind it
}

// What is behind an object.
const (
	nothing uint8 = iota
	newline
	another // object
	garbage
)

// behind tells what is behind the object that takes n bytes of b, and where what
// belongs to it ends.
func behind(b []byte, n int) (end int, what uint8) {
	for ; n < len(b); n++ {
		switch b[n] {
		case ' ', '\t', '\r':
		case '\n':
			return n + 1, newline
		case '{':
			return n, another
		default:
			return n, garbage
		}
	}
	return n, nothing
}

// awaitMore decides whether the connection goes on behind a request of size bytes,
// in whose place nothing came, and was answered. See the package's comment.
func (c *conn) awaitMore(size int) error {
	timeout := splitTimeout
	whole := wholeSize
	if c.nc.TLS() != nil {
		whole = wholeSizeTLS
	}
	switch {
	case c.stream:
		timeout = trailingTimeout
	case size < whole && !c.pieces:
		return errAnswered
	}
	c.pieces = false
	in := &c.nc.In
	c.timePart(false)
	in.SetDeadline(time.Now().Add(timeout))
	defer in.SetDeadline(time.Time{})
	for {
		if err := in.Fill(); err != nil {
			if f, ok := asFault(err); ok && f.ours {
				return errAnswered
			}
			if errors.Is(err, netserve.ErrLogin) {
				return errAnswered
			}
			return err
		}
		b := in.Buffered()
		end, next := behind(b, 0)
		switch next {
		case newline:
			in.Discard(end)
			if c.stream {
				return nil
			}
			c.stream = true
			c.nc.Out.SetBuf(append(c.nc.Out.Buf(), '\n')) // which the reply did not have
			return c.nc.Out.Flush()
		case another:
			return nil
		case garbage:
			return errAnswered // which was done already
		}
		in.Discard(end)
	}
}

// end ends the connection. What it had at the broker is gone before the peer is
// told, so that a client that sees the end finds its messages back in their
// queues.
func (c *conn) end(err error) {
	f, ok := asFault(err)
	if !ok && !errors.Is(err, errAnswered) {
		level := slog.LevelDebug
		if errors.Is(err, netserve.ErrIdle) {
			level = slog.LevelWarn
		}
		c.log.Log(context.Background(), level, "connection ended by the peer or the network", "error", err)
		c.closeSession()
		return
	}
	c.closeSession()
	if f != nil && f.silent {
		return
	}
	c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	if f != nil {
		level := slog.LevelWarn
		if f.ours {
			level = slog.LevelDebug
		}
		c.log.Log(context.Background(), level, "connection closed by the server", "error", capped(f.Error()))
		reply := gmqwire.Reply{ErrorText: f.Error()}
		if c.write(&reply, c.stream) != nil || c.nc.Out.Flush() != nil {
			return
		}
	}
	c.nc.Linger(closeTimeout)
}

func (c *conn) closeSession() {
	if c.session != nil {
		c.session.Close()
	}
}

// force ends the connection. Any goroutine may call it; the first call counts.
func (c *conn) force(f *fault) {
	c.forcing.Do(func() {
		c.why = f
		close(c.forced)
	})
	c.nc.Interrupt(f) // behind forced: see awaitNews
	c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	if s := c.opened.Load(); s != nil {
		s.Interrupt()
	}
}

// cut ends the connection without a word. Any goroutine may call it.
func (c *conn) cut(err error) {
	c.log.Debug("connection cut", "error", err)
	c.nc.Close()
}

// encodePiece is how much of a large body is encoded before it is written, bytes:
// a multiple of three, so that the pieces of base64 fit together.
const encodePiece = 48 << 10

// write appends a reply to the output, and writes when there is much of it.
func (c *conn) write(r *gmqwire.Reply, line bool) error {
	out := &c.nc.Out
	if len(r.Body) <= encodePiece {
		out.SetBuf(gmqwire.AppendReply(out.Buf(), r))
	} else {
		out.SetBuf(append(gmqwire.AppendReplyHead(out.Buf(), r), '"'))
		for body := r.Body; len(body) > 0; {
			n := min(len(body), encodePiece)
			out.SetBuf(base64.StdEncoding.AppendEncode(out.Buf(), body[:n]))
			if err := out.Flush(); err != nil {
				return err
			}
			body = body[n:]
		}
		out.SetBuf(gmqwire.AppendReplyTail(append(out.Buf(), '"'), r))
	}
	if line {
		out.SetBuf(append(out.Buf(), '\n'))
	}
	return nil
}
