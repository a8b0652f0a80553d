package stomplink

import (
	"context"
	"slices"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// A session is one STOMP connection: a sender's, a receiver's, that of
// declarations, or, where it has none of these, the one that tells whether the
// broker is there. It is a transport.Dialogue.
type session struct {
	*transport.Session
	conn *conn

	// What the broker said when it was logged in to.
	server  string
	version stompwire.Version

	sender   *sender
	receiver *receiver
	errand   bool   // it is that of declarations
	inbox    *inbox // of a receiver, or of a sender's replies

	found   arrivals // the reader's
	blocked bool     // the writer's: its write stands still

	// Guarded by Mu.
	control  []byte  // frames that go before messages
	beating  bool    // a heart-beat is among them
	dirty    bool    // the receiver has settled something
	calls    []*call // that wait for their receipts
	receipts uint64  // the number of the last
}

// A call is a request whose receipt is waited for.
type call struct {
	id    uint64
	opens bool          // the gates, when it is answered
	done  chan struct{} // closed when it was answered, or the session has ended
	err   error         // valid then
}

func newSession(c *conn) *session {
	s := &session{conn: c}
	s.Session = transport.NewSession(c.Group, s)
	s.found.decoder.Limits = limits
	return s
}

// readsNothing is what there is to say of a broker that reads nothing.
const readsNothing = "the broker reads nothing, as RabbitMQ does in an alarm"

// standsStill is asked while a write stands still. STOMP has no way to say that a
// broker takes no messages: one whose heart-beats come is alive, and the pulse ends
// the connection when they do not.
func (s *session) standsStill() bool {
	if s.Receive == 0 {
		return false
	}
	if !s.blocked {
		s.blocked = true
		s.conn.SetBlocked(true, readsNothing)
	}
	return true
}

// moved is called by the writer when a write has ended.
func (s *session) moved() {
	if s.blocked {
		s.blocked = false
		s.conn.SetBlocked(false, readsNothing)
	}
}

// Beat implements transport.Dialogue.
func (s *session) Beat() {
	s.Mu.Lock()
	if !s.beating && !s.Leaving {
		s.beating = true
		s.control = append(s.control, '\n')
	}
	s.Mu.Unlock()
	s.Signal()
}

// Fail implements transport.Dialogue.
func (s *session) Fail(err *link.Error) {
	if s.receiver != nil {
		s.receiver.ledger.close()
	}
	s.Mu.Lock()
	calls := s.calls
	s.calls = nil
	s.Mu.Unlock()
	for _, k := range calls {
		k.err = err
		close(k.done)
	}
}

// LeaveLocked implements transport.Dialogue.
func (s *session) LeaveLocked() {
	if s.receiver != nil {
		s.dirty = true
	}
	s.requestLocked(stompwire.Disconnect, nil)
}

// ask sends a request and waits for its receipt. extra are its headers, encoded.
// With opens the receipt opens the gates, and an error means that it did not.
func (s *session) ask(ctx context.Context, command stompwire.Command, extra []byte, opens bool) error {
	s.Mu.Lock()
	switch {
	case s.Over:
		s.Mu.Unlock()
		return s.Err
	case s.Leaving:
		s.Mu.Unlock()
		return transport.Closed()
	}
	k := s.requestLocked(command, extra)
	k.opens = opens
	s.Mu.Unlock()
	s.Signal()
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
	s.Mu.Lock()
	defer s.Mu.Unlock()
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
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if i := slices.IndexFunc(s.calls, func(k *call) bool { return k.id == id }); i >= 0 {
		k := s.calls[i]
		s.calls = slices.Delete(s.calls, i, i+1)
		if k.opens {
			s.OpenGatesLocked()
		}
		close(k.done)
	}
	if s.Leaving && id == s.receipts { // nothing is asked behind DISCONNECT
		s.AwayLocked()
	}
}
