package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// A Dialogue is what a session's protocol adds to it.
type Dialogue interface {
	// LogIn tells the broker who calls, and notes in the session what is agreed on. It
	// waits in reads and writes of the transport only. doing is what to say of an error.
	LogIn(user, password string) (doing string, err *link.Error)

	// Read is the reader, and Write is the writer, which calls Session.Write. They
	// return when the session is over, or has been told by HungUp that it is.
	Read()
	Write()

	// Beat asks the writer for a sign of life.
	Beat()

	// LeaveLocked queues the last request. When it is answered, and so is all that came
	// before it, AwayLocked is called. Session.Mu is held.
	LeaveLocked()

	// Fail ends what waits for an answer. Nothing more comes.
	Fail(err *link.Error)
}

// A Session is one transport of a Group, logged in: what it has besides the language
// that is spoken on it, which embeds it. A session's life: it is opened by its group,
// its gates are opened, it leaves or fails, it has ended.
type Session struct {
	Line  *Line // from LogIn on
	Log   *slog.Logger
	In    Input // the reader's
	Pulse Pulse

	// Set before it runs.
	Send, Receive time.Duration // heart-beats, 0 for none
	Gates         []*Gate       // shut when it ends, in this order

	group    *Group
	dialogue Dialogue

	wake       chan struct{}  // for the writer, one slot
	goroutines sync.WaitGroup // reader, writer, pulse
	written    chan struct{}  // closed when the writer has ended
	left       chan struct{}  // closed when the broker has answered all that was asked
	ending     chan struct{}  // closed when Over is set
	done       chan struct{}  // closed when all is over

	Mu       sync.Mutex // guards the rest, and what the dialogue says
	Opened   bool       // the gates were
	Leaving  bool       // the last request was queued
	Over     bool
	Farewell bool        // what the writer has is still written; of use when Over
	Err      *link.Error // why it is over; does not change then
	gone     bool        // left was closed
	writeErr *link.Error // what ended the writer before the reader
}

// NewSession makes a session that Group.OpenHome or Group.Open opens.
func NewSession(g *Group, d Dialogue) *Session {
	return &Session{
		Log:      g.Options.Logger,
		In:       NewInput(),
		group:    g,
		dialogue: d,
		wake:     make(chan struct{}, 1),
		written:  make(chan struct{}),
		left:     make(chan struct{}),
		ending:   make(chan struct{}),
		done:     make(chan struct{}),
	}
}

// dial opens the transport and logs in.
func (s *Session) dial(ctx context.Context) error {
	user, password, err := Credentials(ctx, &s.group.Options)
	if err != nil {
		return err
	}
	if s.Line, err = Dial(ctx, &s.group.Options); err != nil {
		return err
	}
	// Each wait below is a read or a write of this transport: closing it ends
	// whichever is under way.
	stop := context.AfterFunc(ctx, s.Line.Cut)
	doing, failed := s.dialogue.LogIn(user, password)
	if failed != nil {
		stop()
		s.Line.Cut()
		return Ended(ctx, doing, failed)
	}
	if !stop() {
		return Ended(ctx, doing, nil)
	}
	return nil
}

// run starts the goroutines of a session that has logged in.
func (s *Session) run() {
	s.Line.Stream.Stall.Store(int64(StallTime(s.Receive)))
	if s.Send > 0 || s.Receive > 0 {
		s.goroutines.Go(func() { s.Pulse.Run(s.ending, s.Send, s.Receive, s.dialogue.Beat, s.dead) })
	}
	s.goroutines.Go(s.dialogue.Read)
	s.goroutines.Go(func() {
		defer close(s.written)
		s.dialogue.Write()
	})
	go s.finish() // done is closed by its end
}

// Go runs f, for whose return the end of the session waits. The reader or the writer
// may call it.
func (s *Session) Go(f func()) { s.goroutines.Go(f) }

// OpenGates lets calls to source and sinks begin, unless the session is over.
func (s *Session) OpenGates() error {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Over {
		return s.Err
	}
	s.OpenGatesLocked()
	return nil
}

// OpenGatesLocked is OpenGates where Mu is held.
func (s *Session) OpenGatesLocked() {
	for _, g := range s.Gates {
		g.Open()
	}
	s.Opened = true
}

func (s *Session) dead() {
	s.Lost(&link.Error{
		Kind: link.Dead,
		Text: fmt.Sprintf("nothing came for %v, which is two heart-beats", 2*s.Receive),
	})
}

// Signal wakes the writer.
func (s *Session) Signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Write is the frame of the writer. A turn gathers what is to be written and writes
// it; it tells whether it wrote something, and that nothing may follow. Between turns
// that find nothing it waits for Signal.
func (s *Session) Write(turn func() (wrote, over bool, err error)) {
	for {
		wrote, over, err := turn()
		switch {
		case err != nil:
			s.broken(err)
			return
		case over:
			return
		case wrote:
			continue
		}
		select {
		case <-s.wake:
		case <-s.ending:
		}
	}
}

// broken ends the group when the session cannot be written to. What the broker had
// said before may be why, and is read first.
func (s *Session) broken(err error) {
	if errors.Is(err, ErrStalled) {
		s.Lost(&link.Error{Kind: link.Dead, Text: "the broker does not read", Err: err})
		return
	}
	e := Lost("writing", err)
	s.Mu.Lock()
	s.writeErr = e
	s.Mu.Unlock()
	if err := s.Line.SetReadDeadline(time.Now().Add(FarewellTime)); err != nil {
		s.Lost(e)
	}
}

// HungUp handles the error of a read where it ends no more than a session that
// leaves; else it returns what to end the group for, with Lost.
func (s *Session) HungUp(err error) *link.Error {
	s.Mu.Lock()
	written := s.writeErr
	leaving, gone := s.Leaving, s.gone
	s.Mu.Unlock()
	switch {
	case gone: // whoever leaves ends the session
		return nil
	case leaving && errors.Is(err, io.EOF): // some brokers close where they should answer
		s.End(Lost("the broker closed the connection without its last answer", io.EOF), false)
		return nil
	case written != nil:
		return written
	case errors.Is(err, io.EOF):
		return Lost("the broker closed the connection without a word", io.EOF)
	}
	return Lost("reading", err)
}

// Lost ends the whole group for what ended this session: the others have the same
// broker.
func (s *Session) Lost(err *link.Error) {
	if s.IsOver() {
		return // what fails now fails because of that
	}
	s.group.fail(err, false)
	s.End(err, false)
}

// End ends the session, if it has not ended yet. With farewell what the writer has is
// still written, if that takes no longer than FarewellTime.
func (s *Session) End(err *link.Error, farewell bool) {
	s.Mu.Lock()
	if s.Over {
		s.Mu.Unlock()
		return
	}
	s.Over, s.Err, s.Farewell = true, err, farewell
	s.Mu.Unlock()
	close(s.ending)
	if !farewell {
		s.Line.Cut()
	}
	s.Signal()
}

// Ending is closed when the session is over, before it has ended.
func (s *Session) Ending() <-chan struct{} { return s.ending }

// IsOver tells whether the session is over.
func (s *Session) IsOver() bool {
	select {
	case <-s.ending:
		return true
	default:
		return false
	}
}

// finish ends what a session consists of, once it is over.
func (s *Session) finish() {
	<-s.ending
	s.dialogue.Fail(s.Err)
	var why error
	if s.Err.Kind != link.Closed || s.group.isClosing() {
		why = s.Err
	}
	for _, g := range s.Gates {
		g.Close(why)
	}
	timer := time.AfterFunc(FarewellTime, s.Line.Cut)
	<-s.written
	if s.Farewell {
		s.Line.EndTLS()
	}
	s.Line.Cut()
	timer.Stop()
	s.goroutines.Wait()
	close(s.done)
	s.group.forget(s)
}

// leave has the last request written behind all that is to be written, and left closed
// when it was answered.
func (s *Session) leave() {
	s.Mu.Lock()
	if !s.Leaving && !s.Over {
		s.Leaving = true
		s.dialogue.LeaveLocked()
	}
	s.Mu.Unlock()
	s.Signal()
}

// AwayLocked notes that the broker has done all that it was asked. Mu is held.
func (s *Session) AwayLocked() {
	if !s.gone {
		s.gone = true
		close(s.left)
	}
}

// Close ends a session in order, and waits until it has ended. It returns why that
// was, if it was not by this side. When ctx ends first it is cut.
func (s *Session) Close(ctx context.Context) error {
	s.leave()
	select {
	case <-s.left:
		s.End(Closed(), true)
	case <-s.ending:
	case <-ctx.Done():
		s.End(Closed(), false)
		<-s.done
		return context.Cause(ctx)
	}
	<-s.done
	if s.Err.Kind == link.Closed {
		return nil
	}
	return s.Err
}
