package amqplink

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const (
	// farewellTime is how long the last words of a connection may take: close-ok,
	// or the reason for which this side ends it. It is also how long what the
	// broker said before a write failed is read.
	farewellTime = time.Second

	// A write that stands still for two heartbeats, and at least stallLeast, ends
	// the connection; stallNoHeartbeat is for those that have none.
	stallLeast       = 10 * time.Second
	stallNoHeartbeat = 30 * time.Second
)

// conn is a connection that has logged in.
type conn struct {
	o   link.Options
	log *slog.Logger

	raw    net.Conn // what was dialled
	stream *stream  // around it
	nc     net.Conn // the stream, or TLS over it
	secure bool

	// Agreed on in the handshake.
	product, version string
	channelMax       uint16
	frameMax         uint32
	heartbeat        time.Duration

	in    input    // the reader's
	found arrivals // the reader's

	// What the pulse looks at.
	reads, writes atomic.Uint32 // calls of the transport that moved something
	held          atomic.Bool   // the reader waits for a sink
	blocked       atomic.Bool   // by connection.blocked

	wake     chan struct{} // for the writer, one slot
	declares chan struct{} // a slot for who declares
	admin    *channel      // of who has that slot; nil if there is none

	goroutines sync.WaitGroup // reader, writer, pulse
	written    chan struct{}  // closed when the writer has ended
	ending     chan struct{}  // closed when over is set
	done       chan struct{}  // closed when all is over

	mu       sync.Mutex // guards the rest
	channels map[uint16]*channel
	unused   []uint16 // numbers of channels that were closed
	highest  uint16   // number of a channel that was opened
	control  []byte   // frames that go before messages
	beating  bool     // one of them is a heartbeat
	dirty    []*receiver
	ready    []*sender
	closing  bool // Close was called
	over     bool
	farewell bool        // control is written yet
	err      *link.Error // why it is over
	writeErr *link.Error // what ended the writer before the reader
}

func newConn(raw net.Conn, o link.Options) *conn {
	c := &conn{
		o:        o,
		log:      o.Logger,
		raw:      raw,
		stream:   &stream{Conn: raw},
		in:       input{buf: make([]byte, readBuffer)},
		wake:     make(chan struct{}, 1),
		declares: make(chan struct{}, 1),
		written:  make(chan struct{}),
		ending:   make(chan struct{}),
		done:     make(chan struct{}),
		channels: make(map[uint16]*channel),
	}
	c.nc = c.stream
	// Only a heartbeat says that a broker that does not read is alive; the pulse
	// ends the connection when it stops.
	c.stream.excused = func() bool { return c.blocked.Load() && c.heartbeat > 0 }
	return c
}

// run starts the goroutines of a connection that has logged in.
func (c *conn) run() {
	stall := stallNoHeartbeat
	if c.heartbeat > 0 {
		stall = max(2*c.heartbeat, stallLeast)
		c.goroutines.Go(c.pulse)
	}
	c.stream.stall.Store(int64(stall))
	c.goroutines.Go(c.read)
	c.goroutines.Go(func() {
		defer close(c.written)
		(&writer{conn: c}).run()
	})
	go c.finish() // done is closed by its end
}

// Peer implements link.Conn.
func (c *conn) Peer() (product, version string) { return c.product, c.version }

// Done implements link.Conn. It is closed when the goroutines have returned and
// all Closed were called, not before: whoever waited for it may look at what the
// calls have left.
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

// Close implements link.Conn. It returns nil if the broker has answered or the
// connection had ended before, the cause of ctx's end if it was cut, else what
// went wrong.
func (c *conn) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		c.awaitDone(ctx)
		return nil
	}
	if !c.closing {
		c.closing = true
		c.queueLocked(0, &amqpwire.ConnectionClose{ReplyCode: amqpwire.ReplySuccess, ReplyText: "closed by the client"})
	}
	c.mu.Unlock()
	c.signal()
	select {
	case <-c.ending:
		c.awaitDone(ctx)
	case <-ctx.Done():
		c.fail(&link.Error{Kind: link.Closed, Text: "connection was closed"}, false)
		<-c.done
		return fmt.Errorf("closing the connection: %w", context.Cause(ctx))
	}
	if c.err.Kind != link.Closed {
		return c.err
	}
	return nil
}

// fail ends the connection, if it has not ended yet. With farewell what is in
// control is still written, if that takes no longer than farewellTime.
func (c *conn) fail(err *link.Error, farewell bool) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	c.over, c.err, c.farewell = true, err, farewell
	c.mu.Unlock()
	close(c.ending)
	if !farewell {
		c.cut()
	}
	c.signal()
}

// cut closes the transport, which ends reads and writes that are under way.
func (c *conn) cut() {
	if err := c.raw.Close(); err != nil {
		c.log.Debug("closing the transport", "error", err)
	}
}

// awaitDone waits until all is over, with no farewell after the end of ctx.
func (c *conn) awaitDone(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.cut)
	defer stop()
	<-c.done
}

// violated ends the connection for what the peer did, and tells it.
func (c *conn) violated(err *link.Error) {
	c.mu.Lock()
	if !c.over {
		code := wireCode(err)
		c.queueLocked(0, &amqpwire.ConnectionClose{ReplyCode: code, ReplyText: amqpwire.ReplyText(code, err.Error())})
	}
	c.mu.Unlock()
	c.fail(err, true)
}

// finish ends what a connection consists of, once it is over.
func (c *conn) finish() {
	<-c.ending
	for _, ch := range c.takeChannels() {
		c.end(ch, c.err)
	}
	timer := time.AfterFunc(farewellTime, c.cut)
	<-c.written
	if c.secure && c.farewell {
		// Nobody is left to see a stalled write through, but the timer.
		c.stream.stall.Store(0)
		if err := c.nc.(*tls.Conn).CloseWrite(); err != nil {
			c.log.Debug("ending TLS", "error", err)
		}
	}
	c.cut()
	timer.Stop()
	c.goroutines.Wait()
	close(c.done)
}

// takeChannels takes all channels out of the connection.
func (c *conn) takeChannels() []*channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*channel
	for _, ch := range c.channels {
		all = append(all, ch)
	}
	clear(c.channels)
	return all
}

// signal wakes the writer.
func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// queueLocked puts a method before messages. It is for methods that can be
// encoded whatever they hold, because this package made it.
func (c *conn) queueLocked(channel uint16, m amqpwire.Method) {
	out, err := amqpwire.AppendMethod(c.control, channel, m)
	if err != nil {
		c.log.Error("encoding a method", "method", methodName(m), "error", err)
		return
	}
	c.control = out
}

// queue is queueLocked for those who do not have the lock.
func (c *conn) queue(channel uint16, m amqpwire.Method) {
	c.mu.Lock()
	c.queueLocked(channel, m)
	c.mu.Unlock()
	c.signal()
}

// methodName is a method in Go's words, "BasicAck".
func methodName(m amqpwire.Method) string {
	return strings.TrimPrefix(fmt.Sprintf("%T", m), "*amqpwire.")
}
