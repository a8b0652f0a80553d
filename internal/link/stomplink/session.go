package stomplink

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// A session is one STOMP connection: a sender's, a receiver's, that of
// declarations, or, where it has none of these, the one that tells whether the
// broker is there.
type session struct {
	conn *conn
	log  *slog.Logger
	line *transport.Line

	// Agreed on in the handshake, and what the broker said that it is.
	server        string
	version       stompwire.Version
	send, receive time.Duration // heart-beats, 0 for none

	sender   *sender
	receiver *receiver
	errand   bool              // it is that of declarations
	inbox    *inbox            // of a receiver, or of a sender's replies
	gates    []*transport.Gate // shut when it ends

	in    transport.Input // the reader's
	found arrivals        // the reader's

	pulse   transport.Pulse
	blocked bool // the writer's: its write stands still

	wake chan struct{} // for the writer, one slot

	goroutines sync.WaitGroup // reader, writer, pulse
	written    chan struct{}  // closed when the writer has ended
	left       chan struct{}  // closed when the broker has answered DISCONNECT, or closed
	ending     chan struct{}  // closed when over is set
	done       chan struct{}  // closed when all is over

	mu       sync.Mutex // guards the rest
	control  []byte     // frames that go before messages
	beating  bool       // a heart-beat is among them
	dirty    bool       // the receiver has settled something
	calls    []*call    // that wait for their receipts
	receipts uint64     // the number of the last
	opened   bool       // the gates were
	leaving  bool       // DISCONNECT was queued
	gone     bool       // left was closed
	over     bool
	farewell bool        // control is written yet
	err      *link.Error // why it is over
	writeErr *link.Error // what ended the writer before the reader
}

// A call is a request whose receipt is waited for.
type call struct {
	id    uint64
	opens bool          // the gates, when it is answered
	done  chan struct{} // closed when it was answered, or the session has ended
	err   error         // valid then
}

func newSession(c *conn, line *transport.Line) *session {
	s := &session{
		conn:    c,
		log:     c.log,
		line:    line,
		in:      transport.NewInput(),
		wake:    make(chan struct{}, 1),
		written: make(chan struct{}),
		left:    make(chan struct{}),
		ending:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	s.found.decoder.Limits = limits
	return s
}

// run starts the goroutines of a session that has logged in.
func (s *session) run() {
	s.line.Stream.Excused = s.standsStill
	s.line.Stream.Stall.Store(int64(transport.StallTime(s.receive)))
	if s.send > 0 || s.receive > 0 {
		s.goroutines.Go(func() { s.pulse.Run(s.ending, s.send, s.receive, s.beat, s.dead) })
	}
	s.goroutines.Go(s.read)
	s.goroutines.Go(func() {
		defer close(s.written)
		(&writer{session: s}).run()
	})
	go s.finish() // done is closed by its end
}

// standsStill is asked while a write stands still. STOMP has no way to say that a
// broker takes no messages: one whose heart-beats come is alive, and the pulse ends
// the connection when they do not.
func (s *session) standsStill() bool {
	if s.receive == 0 {
		return false
	}
	if !s.blocked {
		s.blocked = true
		s.conn.setBlocked(true)
	}
	return true
}

// moved is called by the writer when a write has ended.
func (s *session) moved() {
	if s.blocked {
		s.blocked = false
		s.conn.setBlocked(false)
	}
}

// beat queues a heart-beat, unless there is one, or nothing may follow.
func (s *session) beat() {
	s.mu.Lock()
	if !s.beating && !s.leaving {
		s.beating = true
		s.control = append(s.control, '\n')
	}
	s.mu.Unlock()
	s.signal()
}

func (s *session) dead() {
	s.lost(&link.Error{
		Kind: link.Dead,
		Text: fmt.Sprintf("nothing came for %v, which is two heart-beats", 2*s.receive),
	})
}

// signal wakes the writer.
func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lost ends the whole connection for what ended this session: the others have the
// same broker.
func (s *session) lost(err *link.Error) {
	if s.isOver() {
		return // what fails now fails because of that
	}
	s.conn.fail(err, false)
	s.end(err, false)
}

// end ends the session, if it has not ended yet. With farewell what is in control
// is still written, if that takes no longer than transport.FarewellTime.
func (s *session) end(err *link.Error, farewell bool) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over, s.err, s.farewell = true, err, farewell
	s.mu.Unlock()
	close(s.ending)
	if !farewell {
		s.line.Cut()
	}
	s.signal()
}

// finish ends what a session consists of, once it is over.
func (s *session) finish() {
	<-s.ending
	if s.receiver != nil {
		s.receiver.ledger.close()
	}
	s.mu.Lock()
	calls := s.calls
	s.calls = nil
	s.mu.Unlock()
	for _, k := range calls {
		k.err = s.err
		close(k.done)
	}
	var why error
	if s.err.Kind != link.Closed || s.conn.isClosing() {
		why = s.err
	}
	for _, g := range s.gates {
		g.Close(why)
	}
	timer := time.AfterFunc(transport.FarewellTime, s.line.Cut)
	<-s.written
	if s.farewell {
		s.line.EndTLS()
	}
	s.line.Cut()
	timer.Stop()
	s.goroutines.Wait()
	if s.sender != nil {
		s.sender.receipts.close()
	}
	close(s.done)
	s.conn.forget(s)
}

func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

func (s *session) isOver() bool {
	select {
	case <-s.ending:
		return true
	default:
		return false
	}
}

// leave has DISCONNECT written behind all that is to be written, and left closed
// when it was answered.
func (s *session) leave() {
	s.mu.Lock()
	if !s.leaving && !s.over {
		s.leaving = true
		if s.receiver != nil {
			s.dirty = true
		}
		s.requestLocked(stompwire.Disconnect, nil)
	}
	s.mu.Unlock()
	s.signal()
}

// close ends a session in order, and waits until it has ended. It returns why that
// was, if it was not by this side. When ctx ends first it is cut.
func (s *session) close(ctx context.Context) error {
	s.leave()
	select {
	case <-s.left:
		s.end(&link.Error{Kind: link.Closed, Text: "was closed"}, true)
	case <-s.ending:
	case <-ctx.Done():
		s.end(&link.Error{Kind: link.Closed, Text: "was closed"}, false)
		<-s.done
		return context.Cause(ctx)
	}
	<-s.done
	if s.err.Kind == link.Closed {
		return nil
	}
	return s.err
}

// ask sends a request and waits for its receipt. extra are its headers, encoded.
// With opens the receipt opens the gates, and an error means that it did not.
func (s *session) ask(ctx context.Context, command stompwire.Command, extra []byte, opens bool) error {
	s.mu.Lock()
	switch {
	case s.over:
		s.mu.Unlock()
		return s.err
	case s.leaving:
		s.mu.Unlock()
		return &link.Error{Kind: link.Closed, Text: "was closed"}
	}
	k := s.requestLocked(command, extra)
	k.opens = opens
	s.mu.Unlock()
	s.signal()
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
	}
	if s.forsake(k) {
		return context.Cause(ctx)
	}
	<-k.done
	return k.err
}

// forsake gives up waiting for a call, unless it was answered meanwhile.
func (s *session) forsake(k *call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.calls, k)
	if i >= 0 {
		s.calls = slices.Delete(s.calls, i, i+1)
	}
	return i >= 0
}

// requestLocked queues a frame with a receipt.
func (s *session) requestLocked(command stompwire.Command, extra []byte) *call {
	s.receipts++
	k := &call{id: s.receipts, done: make(chan struct{})}
	s.calls = append(s.calls, k)
	s.control = stompwire.AppendCommand(s.control, command)
	s.control = append(append(s.control, stompwire.HeaderReceipt...), ':')
	s.control = appendCallID(s.control, k.id)
	s.control = append(append(s.control, '\n'), extra...)
	s.control = append(stompwire.AppendHeadEnd(s.control), 0)
	return k
}

// answered is for the reader: the receipt of a call came.
func (s *session) answered(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.calls, func(k *call) bool { return k.id == id }); i >= 0 {
		k := s.calls[i]
		s.calls = slices.Delete(s.calls, i, i+1)
		if k.opens {
			s.openLocked()
		}
		close(k.done)
	}
	if s.leaving && id == s.receipts { // nothing is asked behind DISCONNECT
		s.awayLocked()
	}
}

// openLocked opens the gates.
func (s *session) openLocked() {
	for _, g := range s.gates {
		g.Open()
	}
	s.opened = true
}

// awayLocked notes that the broker has done all that it was asked.
func (s *session) awayLocked() {
	if !s.gone {
		s.gone = true
		close(s.left)
	}
}
