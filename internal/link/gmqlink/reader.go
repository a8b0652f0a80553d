package gmqlink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

const (
	// reportMost is how many bytes a reply may have that brings no message.
	reportMost = 1 << 20

	// messageMost is how many one may have that does: the payload is base64.
	messageMost = transport.BodyMost/3*4 + reportMost

	// roomMost is how large the memory for what was read may stay.
	roomMost = 1 << 20
)

// Read implements transport.Dialogue: it gives the replies to whom they are for, in
// order.
func (s *session) Read() {
	for !s.IsOver() {
		violated := s.lines()
		s.settleRun()
		s.deliverAll()
		if violated != nil {
			s.Lost(violated)
			return
		}
		if err := s.In.Fill(s.Line); err != nil {
			s.hungUp(err)
			return
		}
		s.Pulse.Reads.Add(1)
	}
}

// lines handles the replies that were read. An error is the peer's violation of the
// protocol.
func (s *session) lines() *link.Error {
	for !s.deaf {
		b := s.In.Unread()
		end := bytes.IndexByte(b[s.scanned:], '\n')
		if end < 0 {
			s.scanned = len(b)
			return s.bounded(len(b))
		}
		end += s.scanned
		s.scanned = 0
		if err := s.bounded(end); err != nil {
			return err
		}
		if err := s.replied(b[:end]); err != nil {
			return err
		}
		s.In.Take(end + 1)
		if end > roomMost && len(b) == end+1 {
			s.In = transport.NewInput()
		}
	}
	return nil
}

// bounded tells whether a reply may be so long, and longer.
func (s *session) bounded(n int) *link.Error {
	if n <= reportMost {
		return nil
	}
	s.Mu.Lock()
	next := s.waiting.next()
	s.Mu.Unlock()
	if next != ofFetch || n > messageMost {
		return violation(fmt.Sprintf("got a reply of more than %d bytes", n))
	}
	return nil
}

// replied handles a reply.
func (s *session) replied(line []byte) *link.Error {
	s.Mu.Lock()
	e := s.waiting.pop()
	if e.kind == ofPublish {
		s.unproven--
		if s.unproven == 0 {
			s.Pulse.Held.Store(false)
		}
	}
	s.Mu.Unlock()
	switch e.kind {
	case ofPublish:
		return s.published(line)
	case ofFetch:
		return s.fetched(line)
	case ofSettle:
		return s.accounted(line)
	case ofCall:
		return s.answered(e.call, line)
	default:
		if foreign(line) != nil {
			return foreign(line)
		}
		return violation("got a reply to nothing")
	}
}

// parse reads a reply, to a request of one of some operations.
func (s *session) parse(line []byte, operations ...string) *link.Error {
	r := &s.reply
	if err := gmqwire.ParseReply(line, r); err != nil {
		if e := foreign(line); e != nil {
			return e
		}
		return malformed("reading a reply", err)
	}
	if r.Operation == "" && isRefusal(r) {
		return nil // of a request that the server could not read
	}
	for _, o := range operations {
		if strings.EqualFold(r.Operation, o) {
			return nil
		}
	}
	return violation(fmt.Sprintf("got a reply to %.16q, and %s is to be answered", r.Operation, strings.Join(operations, " or ")))
}

// isRefusal tells whether a reply says no.
func isRefusal(r *gmqwire.Reply) bool { return !r.Confirmed || r.ErrorText != "" }

// published handles the reply to a publish.
func (s *session) published(line []byte) *link.Error {
	k := s.sender
	// Replies are mostly what the last was.
	if len(k.yes) > 0 && bytes.Equal(line, k.yes) {
		k.answered++
		k.refusing = false
		return nil
	}
	if err := s.parse(line, gmqwire.Publish); err != nil {
		return err
	}
	if !isRefusal(&s.reply) {
		k.yes = append(k.yes[:0], line...)
		k.answered++
		k.refusing = false
		return nil
	}
	return s.refused()
}

// refused handles the reply to a publish that was not taken.
func (s *session) refused() *link.Error {
	k := s.sender
	if !k.confirm {
		s.Log.Warn("a message was refused", "queue", s.reply.Queue, "reason", s.reply.ErrorText)
		k.answered++
		return nil
	}
	s.settleRun()
	tag := k.answered + 1
	err := refusal(s.reply.ErrorText)
	err.Tag = tag
	switch {
	case isNack(s.reply.ErrorText):
		k.tell(tag, false, true)
	case isOfOne(err):
		k.giveBack(tag, err)
	default: // it says nothing of the message, which can be sent again
		if isBlocked(s.reply.ErrorText) {
			s.conn.refuses(s.reply.ErrorText)
		}
		s.dismissed(err)
		return nil
	}
	k.refusing = true
	k.answered, k.settled = tag, tag
	return nil
}

// dismissed ends the session for what the server said, and all of them if it says that
// it ends.
func (s *session) dismissed(err *link.Error) {
	s.deaf = true
	if err.Kind == link.Forced {
		s.Lost(err)
		return
	}
	s.End(err, false)
}

// accounted handles the reply to A or N. That the server does not know what was
// settled is nobody's concern: it comes again.
func (s *session) accounted(line []byte) *link.Error {
	if err := s.parse(line, gmqwire.Ack, gmqwire.Return); err != nil {
		return err
	}
	if isRefusal(&s.reply) {
		s.Log.Debug("what was settled is not known to the broker", "reason", s.reply.ErrorText)
	}
	return nil
}

// answered handles the reply to a call. What came before it was given to whom it is
// for.
func (s *session) answered(k *call, line []byte) *link.Error {
	s.settleRun()
	s.deliverAll()
	err := s.parse(line, k.operation)
	switch {
	case err != nil:
		k.err = err
	case isRefusal(&s.reply):
		k.err = refusal(s.reply.ErrorText)
	default:
		k.payload = bytes.Clone(s.reply.Payload)
	}
	close(k.done)
	if err != nil {
		return err
	}
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if k.beat {
		s.beating = false
	}
	if k == s.last {
		s.AwayLocked()
	}
	return nil
}

// hungUp ends the connection when nothing more can be read.
func (s *session) hungUp(err error) {
	e := s.HungUp(err)
	switch {
	case e == nil:
		return
	case s.sender != nil && s.sender.refusing:
		// Behind what is too large to be read at all it closes.
		s.End(&link.Error{Kind: link.Unavailable, Text: "the broker closed the connection behind a refusal"}, false)
		return
	case errors.Is(e, io.EOF) && len(s.In.Unread()) > 0:
		e = transport.Lost("the broker closed the connection within a reply", io.ErrUnexpectedEOF)
	}
	s.Lost(e)
}
