package stomplink

import (
	"fmt"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// limits are those of what a broker sends.
var limits = stompwire.Limits{Line: 256 << 10, Headers: 4096, Head: 1 << 20, Body: transport.BodyMost}

// reportMost is how many bytes the body of a frame may have that is no message.
const reportMost = 1 << 20

// Read implements transport.Dialogue: it gives what arrives to whom it is for, in
// order.
func (s *session) Read() {
	if s.sender != nil {
		defer s.sender.receipts.close()
	}
	for !s.IsOver() {
		if err := s.frames(); err != nil {
			s.Lost(err)
			return
		}
		s.settleRun()
		s.deliverAll()
		if err := s.In.Fill(s.Line); err != nil {
			if e := s.HungUp(err); e != nil {
				s.Lost(e)
			}
			return
		}
		s.Pulse.Reads.Add(1)
	}
}

// frames handles what was read. An error is the peer's violation of the protocol.
func (s *session) frames() *link.Error {
	a := &s.found
	for {
		if a.within {
			whole, err := s.rest()
			if err != nil {
				return err
			}
			if !whole || a.decoder.Command == stompwire.Err { // behind which nothing counts
				return nil
			}
			continue
		}
		if !a.begun { // the decoder has not seen what stands here
			s.In.Take(stompwire.EOLs(s.In.Unread()))
		}
		n, err := a.decoder.Head(s.In.Unread())
		switch {
		case err != nil:
			return malformed("reading a frame", err)
		case n == 0:
			// Of a CR that may be the beginning of a heart-beat it keeps nothing.
			b := s.In.Unread()
			a.begun = len(b) > 1 || len(b) == 1 && b[0] != '\r'
			return nil
		}
		s.In.Take(n)
		a.begun, a.within = false, true
		a.size = n
		if err := s.head(); err != nil {
			return err
		}
	}
}

// head notes what the headers of a frame say: they are gone when the next bytes
// are read.
func (s *session) head() *link.Error {
	a := &s.found
	d := &a.decoder
	switch d.Command {
	case stompwire.Message:
		s.messageHead()
	case stompwire.Receipt:
		id, _ := d.Get(stompwire.HeaderReceiptID)
		a.receipt.read(id)
	case stompwire.Err:
		a.report.read(d)
	default:
		return violation(fmt.Sprintf("got %s", d.Command))
	}
	if d.Command != stompwire.Message && d.Length > reportMost {
		return violation(fmt.Sprintf("got %s of %d bytes", d.Command, d.Length))
	}
	return nil
}

// rest takes what there is of a frame's body, and handles the frame when that is
// all.
func (s *session) rest() (whole bool, err *link.Error) {
	a := &s.found
	d := &a.decoder
	if d.Command == stompwire.Message && d.Length >= 0 {
		return s.messageBody()
	}
	body, n, e := d.Body(s.In.Unread())
	switch {
	case e != nil:
		return false, malformed("reading a frame", e)
	case n == 0 && d.Command != stompwire.Message && len(s.In.Unread()) > reportMost:
		return false, violation(fmt.Sprintf("got %s without an end", d.Command))
	case n == 0:
		return false, nil
	}
	a.within = false
	switch d.Command {
	case stompwire.Message:
		if a.delivery != nil && len(body) > 0 {
			a.delivery.Message.Body = append(a.Room(len(body), len(s.In.Unread())), body...)
		}
		a.Size = a.size + n
		s.arrived()
	case stompwire.Receipt:
		s.received()
	case stompwire.Err:
		a.report.body = string(body)
		s.reported()
	}
	s.In.Take(n)
	return true, nil
}

// messageBody takes what there is of a body whose length is known, to its place.
func (s *session) messageBody() (whole bool, err *link.Error) {
	a := &s.found
	src := s.In.Unread()
	if n := min(a.left, len(src)); n > 0 {
		if m := a.delivery; m != nil {
			if m.Message.Body == nil {
				m.Message.Body = a.Room(a.left, len(src))
			}
			m.Message.Body = append(m.Message.Body, src[:n]...)
		}
		s.In.Take(n)
		a.left -= n
		src = src[n:]
	}
	if a.left > 0 || len(src) == 0 {
		return false, nil
	}
	if src[0] != 0 {
		return false, violation("got a MESSAGE that is longer than its content-length says")
	}
	s.In.Take(1)
	a.within = false
	s.arrived()
	return true, nil
}

// received handles a RECEIPT. One that nobody waits for, or waits for any more, is
// nobody's concern.
func (s *session) received() {
	r := s.found.receipt
	switch {
	case r.kind == ofMessage && s.sender != nil:
		s.deliverAll()
		s.confirmed(r.id)
	case r.kind == ofCall:
		s.settleRun()
		s.deliverAll()
		s.answered(r.id)
	default:
		s.Log.Debug("a receipt of nothing that was sent", "session", s.server)
	}
}

// reported handles an ERROR: the session has ended (STOMP 1.2, ERROR).
func (s *session) reported() {
	s.settleRun()
	s.deliverAll()
	r := &s.found.report
	err := r.error()
	if r.receipt.kind == ofMessage && s.sender != nil && r.receipt.id >= 1 && r.receipt.id <= s.sender.sent.Load() {
		err.Tag = r.receipt.id
	}
	s.Mu.Lock()
	leaving := s.Leaving
	s.Mu.Unlock()
	switch {
	case s.sender == nil && s.receiver == nil && !leaving && !s.errand, err.Kind == link.Forced:
		// It was asked for nothing that it could refuse, or the broker ends.
		s.Lost(err)
	default:
		s.End(err, false)
	}
}

// What a receipt is of.
type receiptKind uint8

const (
	ofNothing receiptKind = iota
	ofMessage             // "17", of a sender's message
	ofCall                // "r17"
)

// callPrefix tells the receipts of calls from those of messages.
const callPrefix = 'r'

type receipt struct {
	kind receiptKind
	id   uint64
}

// read reads a receipt-id as this package writes it.
func (r *receipt) read(id []byte) {
	*r = receipt{}
	kind := ofMessage
	if len(id) > 0 && id[0] == callPrefix {
		kind, id = ofCall, id[1:]
	}
	const digitsMost = 19 // that any uint64 has room for
	if len(id) == 0 || len(id) > digitsMost || id[0] == '0' {
		return
	}
	n := uint64(0)
	for _, c := range id {
		if c < '0' || c > '9' {
			return
		}
		n = n*10 + uint64(c-'0')
	}
	*r = receipt{kind, n}
}
