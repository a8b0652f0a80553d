package stompserver

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

const (
	// directMin is the size from which on a body is read straight to where the
	// broker keeps it, bytes.
	directMin = 16 << 10

	// keepMax is the most that an idle connection keeps of each of its buffers,
	// bytes.
	keepMax = 1 << 10

	// keepHeaders is how many headers of a frame an idle connection keeps room for.
	keepHeaders = 16
)

// reader is the receiving half of a connection whose session is open. All of it
// belongs to one goroutine.
type reader struct {
	*conn
	dec     stompwire.Decoder
	partial bool // of the frame at the input's beginning a part of the head was seen
	head    int  // bytes of its head, whose body has not all come; 0: none

	publishing
	subscriptions
	transactions

	farewell []byte // written when the peer has disconnected
}

// errClosed says that the peer has sent DISCONNECT.
var errClosed = errors.New("closed by the peer")

func newReader(c *conn) reader {
	return reader{conn: c, dec: stompwire.Decoder{Version: c.version}}
}

// run reads until the connection ends, and says why: a fault that the peer is to
// be told, errClosed, or what the network said.
func (r *reader) run() error {
	for {
		need, err := r.frames()
		if err != nil {
			return err
		}
		r.session.Flush()
		r.session.Throttle()
		if r.receipts.held() > receiptsMost {
			if err := r.awaitReceipts(receiptsMost / 2); err != nil {
				return err
			}
		}
		if len(r.nc.In.Buffered()) == 0 {
			r.idle()
		}
		if err := r.nc.In.Need(need); err != nil {
			return err
		}
	}
}

// idle gives up what is too large to keep.
func (r *reader) idle() {
	if cap(r.props) > keepMax {
		r.props = nil
	}
	// The headers of the last frame point into a buffer that is not ours any more.
	clear(r.dec.Headers[:cap(r.dec.Headers)])
	r.dec.Headers, r.sent, r.pub = r.dec.Headers[:0], sending{}, broker.Publish{}
	if cap(r.dec.Headers) > keepHeaders {
		r.dec = stompwire.Decoder{Version: r.version}
	}
	r.receipts.idle()
}

// awaitReceipts waits until no more than least is held for receipts, or the
// connection is to end.
func (r *reader) awaitReceipts(least int) error {
	r.session.Flush()
	drained := r.receipts.drained(least)
	if drained == nil {
		return nil
	}
	now := time.Now()
	r.heldSince.Store(&now)
	defer r.heldSince.Store(nil)
	select {
	case <-drained:
		return nil
	case <-r.forced:
		return r.nc.In.Fill() // the reason
	case <-r.nc.Context().Done():
		return r.nc.Context().Err()
	case <-r.srv.cfg.Broker.Failed():
		return r.srv.cfg.Broker.Err()
	}
}

// frames handles all frames that are complete. need is how many bytes the next
// one takes at least.
func (r *reader) frames() (need int, err error) {
	in := &r.nc.In
	for {
		b := in.Buffered()
		if !r.partial && r.head == 0 {
			n := stompwire.EOLs(b)
			in.Discard(n)
			b = b[n:]
		}
		if len(b) == 0 {
			return 1, nil
		}
		fresh := r.head == 0
		if fresh {
			if err := r.parseHead(b); err != nil {
				return 0, err
			}
			if r.head == 0 {
				return len(b) + 1, nil
			}
		}
		done, need, err := r.frame(b, fresh)
		if err != nil {
			return 0, r.withReceipt(err)
		}
		if !done {
			return need, nil
		}
	}
}

// parseHead parses the head at the beginning of b, if it is complete: then head
// is its size.
func (r *reader) parseHead(b []byte) error {
	r.dec.Limits.Body = math.MaxInt64 // judged below, when there is a receipt to name
	n, err := r.dec.Head(b)
	if err != nil {
		if command, ok := unknownCommand(b); ok {
			return badCommandFault(command)
		}
		return err
	}
	// Of a CR alone nothing is remembered: with its LF it is a heart-beat, to be
	// discarded.
	r.head, r.partial = n, n == 0 && !(len(b) == 1 && b[0] == '\r')
	if n > 0 && r.version == stompwire.V10 {
		trimHeaders(r.dec.Headers)
	}
	return nil
}

// unknownCommand is the command of the frame at the beginning of b, if there is
// none like it.
func unknownCommand(b []byte) (command []byte, ok bool) {
	command = b[stompwire.EOLs(b):]
	if i := bytes.IndexByte(command, '\n'); i >= 0 {
		command = bytes.TrimSuffix(command[:i], []byte{'\r'})
	}
	for c := stompwire.Connect; c.String() != ""; c++ {
		if string(command) == c.String() {
			return nil, false
		}
	}
	return command, true
}

func badCommandFault[T ~string | ~[]byte](command T) *fault {
	return faultf(badCommand, "Could not interpret command %s\n", quoted(command))
}

// frame handles the frame at the beginning of b, whose head is complete, if its
// body is. fresh is whether the headers were parsed where b is now.
func (r *reader) frame(b []byte, fresh bool) (done bool, need int, err error) {
	most := r.srv.cfg.Broker.MaxMessage()
	if r.dec.Length > int64(most) {
		return false, 0, r.tooLarge()
	}
	if n := int(r.dec.Length); n >= 0 {
		if size := r.head + n + 1; size > len(b) {
			if n > directMin && r.dec.Command == stompwire.Send {
				err := r.sendDirect(n)
				return true, 0, err
			}
			r.head = 0 // the buffer may move
			return false, size, nil
		}
	}
	r.dec.Limits.Body = int64(most)
	body, n, err := r.dec.Body(b[r.head:])
	if n == 0 && err == nil {
		return false, len(b) + 1, nil
	}
	head := r.head
	if !fresh {
		if err := r.parseHead(b); err != nil {
			return false, 0, err
		}
	}
	r.head = 0
	if err != nil {
		if we := (*stompwire.Error)(nil); errors.As(err, &we) && we.TooLarge && r.dec.Command == stompwire.Send {
			err = r.tooLarge()
		}
		return false, 0, err
	}
	if err := r.command(body); err != nil {
		return false, 0, err
	}
	r.nc.In.Discard(head + n)
	return true, 0, nil
}

// tooLarge is the fault of a body over the limit, in RabbitMQ's words.
func (r *reader) tooLarge() error {
	most := r.srv.cfg.Broker.MaxMessage()
	if n := r.dec.Length; n >= 0 {
		return kindFault(broker.TooLarge, fmt.Sprintf("message size %d is larger than configured max size %d", n, most))
	}
	return kindFault(broker.TooLarge, fmt.Sprintf("message size is larger than configured max size %d", most))
}

// command handles a frame. An error ends the connection.
func (r *reader) command(body []byte) error {
	switch r.dec.Command {
	case stompwire.Send:
		return r.send(body)
	case stompwire.Ack:
		return r.ack("ACK")
	case stompwire.Nack:
		return r.ack("NACK")
	}
	// A body of another frame is ignored, as in RabbitMQ and ActiveMQ: it "MUST NOT"
	// be there (STOMP 1.2, Body), but some clients end frames with one line more.

	// What was sent before comes before what this frame does.
	r.session.Flush()
	switch r.dec.Command {
	case stompwire.Subscribe:
		return r.subscribe()
	case stompwire.Unsubscribe:
		return r.unsubscribe()
	case stompwire.Begin:
		return r.beginTransaction()
	case stompwire.Commit:
		return r.commit()
	case stompwire.Abort:
		return r.abort()
	case stompwire.Disconnect:
		return r.disconnect()
	case stompwire.Connect, stompwire.Stomp:
		return faultf(alreadyConnected, "A connection is opened by one %s\n", r.dec.Command)
	}
	return badCommandFault(r.dec.Command.String())
}

// disconnect ends the connection as its peer asks. Its receipt says that
// everything before it is done (STOMP 1.2, Graceful Shutdown), so that waits
// until what was sent is confirmed.
func (r *reader) disconnect() error {
	r.log.Debug("closed by the peer")
	id, ok := r.dec.Get(stompwire.HeaderReceipt)
	if !ok {
		return errClosed
	}
	frame, err := appendReceipt(nil, r.version, id)
	if err != nil {
		return err
	}
	if err := r.awaitReceipts(0); err != nil {
		return err
	}
	r.farewell = frame
	return errClosed
}

// receipt queues the RECEIPT of the frame at hand, if it asked for one.
func (r *reader) receipt() error {
	id, ok := r.dec.Get(stompwire.HeaderReceipt)
	if !ok {
		return nil
	}
	frame, err := appendReceipt(nil, r.version, id)
	if err != nil {
		return err
	}
	r.session.Reply(frame)
	return nil
}

// withReceipt makes a fault of an error of the frame at hand, and gives it the
// receipt that the frame asked for (STOMP 1.2, ERROR).
func (r *reader) withReceipt(err error) error {
	f, ok := asFault(err)
	if !ok {
		return err
	}
	select {
	case <-r.forced:
		if f == r.why { // it was found elsewhere, while this frame waited
			return f
		}
	default:
	}
	if id, ok := r.dec.Get(stompwire.HeaderReceipt); ok && f.receipt == nil && !f.ours {
		g := *f
		g.receipt = append([]byte{}, id...)
		return &g
	}
	return f
}
