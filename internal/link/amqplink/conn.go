package amqplink

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// conn is a connection that has logged in.
type conn struct {
	o   link.Options
	log *slog.Logger

	line *transport.Line

	// Agreed on in the handshake.
	product, version string
	channelMax       uint16
	frameMax         uint32
	heartbeat        time.Duration

	in    transport.Input // the reader's
	found arrivals        // the reader's

	pulse   transport.Pulse
	blocked atomic.Bool // by connection.blocked

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

func newConn(line *transport.Line, o link.Options) *conn {
	c := &conn{
		o:        o,
		log:      o.Logger,
		line:     line,
		in:       transport.NewInput(),
		wake:     make(chan struct{}, 1),
		declares: make(chan struct{}, 1),
		written:  make(chan struct{}),
		ending:   make(chan struct{}),
		done:     make(chan struct{}),
		channels: make(map[uint16]*channel),
	}
	// Only a heartbeat says that a broker that does not read is alive; the pulse
	// ends the connection when it stops.
	line.Stream.Excused = func() bool { return c.blocked.Load() && c.heartbeat > 0 }
	return c
}

// run starts the goroutines of a connection that has logged in.
func (c *conn) run() {
	c.line.Stream.Stall.Store(int64(transport.StallTime(c.heartbeat)))
	if c.heartbeat > 0 {
		c.goroutines.Go(func() { c.pulse.Run(c.ending, c.heartbeat, c.heartbeat, c.beat, c.dead) })
	}
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
// control is still written, if that takes no longer than transport.FarewellTime.
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
		c.line.Cut()
	}
	c.signal()
}

// awaitDone waits until all is over, with no farewell after the end of ctx.
func (c *conn) awaitDone(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.line.Cut)
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
	timer := time.AfterFunc(transport.FarewellTime, c.line.Cut)
	<-c.written
	if c.farewell {
		c.line.EndTLS()
	}
	c.line.Cut()
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
