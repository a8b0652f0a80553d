package gmqlink

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// A session is one connection of the server's: a sender's, a receiver's, one of
// declarations, or, where it has none of these, the one that tells whether the
// server is there. It is a transport.Dialogue.
type session struct {
	*transport.Session
	conn   *conn
	server string // what the server said that it is

	sender   *sender
	receiver *receiver

	scanned int           // the reader's: bytes of what is unread that hold no end of a line
	reply   gmqwire.Reply // the reader's: the last
	deaf    bool          // the reader's: what follows is of no interest

	// Guarded by Mu.
	asked    []*call // not written yet
	waiting  queue   // what was written and is not answered
	unproven int     // publishes among them
	beating  bool    // a heart-beat is among them
	last     *call   // the last request, when leaving
}

// A call is a request whose reply is waited for.
type call struct {
	operation string
	line      []byte
	beat      bool
	done      chan struct{} // closed when it was answered, or the session has ended
	payload   []byte        // of the reply; valid then
	err       error         // valid then
}

func newSession(c *conn) *session {
	s := &session{conn: c}
	s.Session = transport.NewSession(c.Group, s)
	s.Send, s.Receive = c.Options.Heartbeat, c.Options.Heartbeat
	return s
}

// Beat implements transport.Dialogue: it asks for nothing, whose answer is a sign of
// life of the server's.
func (s *session) Beat() {
	s.Mu.Lock()
	if !s.beating && !s.Leaving && !s.Over {
		s.beating = true
		s.asked = append(s.asked, &call{operation: gmqwire.Sync, line: syncLine, beat: true, done: make(chan struct{})})
	}
	s.Mu.Unlock()
	s.Signal()
}

// watched tells whether the session is that of a sender from which heart-beats come:
// watch tells why a write, too, may stand still on it.
func (s *session) watched() bool { return s.sender != nil && s.Receive > 0 }

// answerPatience is how long the server may leave what is published without an
// answer while it is known to live.
const answerPatience = 5 * time.Minute

// watch tells whether the server answers what a sender publishes. GMQ has no way to
// say that it takes no messages at present: replies come in the order of requests, so
// that heart-beats are not answered either. So while publishes are without an answer
// the home tells whether the server lives; one that takes nothing for answerPatience
// is left, since this connection alone may be broken.
func (s *session) watch() {
	const looks = 4 // in a heart-beat
	t := time.NewTicker(max(s.Receive/looks, 1))
	defer t.Stop()
	reads, still, blocked := s.Pulse.Reads.Load(), 0, false
	most := int(answerPatience/s.Receive+1) * looks
	for {
		select {
		case <-s.Ending():
			if blocked {
				s.conn.SetBlocked(false, "")
			}
			return
		case <-t.C:
		}
		now := s.Pulse.Reads.Load()
		if now != reads || !s.Pulse.Held.Load() {
			reads, still = now, 0
		} else {
			still++
		}
		if is := still >= looks; is != blocked {
			blocked = is
			s.conn.SetBlocked(is, silent)
		}
		if still > most {
			s.End(&link.Error{Kind: link.Unavailable, Text: fmt.Sprintf("the broker has not answered a publish for %v", answerPatience)}, false)
		}
	}
}

// Fail implements transport.Dialogue.
func (s *session) Fail(err *link.Error) {
	if s.receiver != nil {
		s.receiver.close()
	}
	s.Mu.Lock()
	calls := append(s.waiting.calls(), s.asked...)
	s.asked = nil
	s.waiting = queue{}
	s.Mu.Unlock()
	for _, k := range calls {
		k.err = err
		close(k.done)
	}
}

// LeaveLocked implements transport.Dialogue.
func (s *session) LeaveLocked() { s.last = s.askLocked(gmqwire.Sync, syncLine) }

// ask sends a request and waits for its reply, whose payload it returns.
func (s *session) ask(ctx context.Context, operation string, line []byte) ([]byte, error) {
	s.Mu.Lock()
	switch {
	case s.Over:
		s.Mu.Unlock()
		return nil, s.Err
	case s.Leaving:
		s.Mu.Unlock()
		return nil, transport.Closed()
	}
	k := s.askLocked(operation, line)
	s.Mu.Unlock()
	s.Signal()
	return k.wait(ctx)
}

func (k *call) wait(ctx context.Context) ([]byte, error) {
	select {
	case <-k.done:
		return k.payload, k.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// askLocked queues a request.
func (s *session) askLocked(operation string, line []byte) *call {
	k := &call{operation: operation, line: line, done: make(chan struct{})}
	s.asked = append(s.asked, k)
	return k
}

var syncLine = append(gmqwire.AppendRequest(nil, &gmqwire.Request{Operation: gmqwire.Sync}), '\n')

// A kind is what a request is.
type kind uint8

const (
	ofPublish kind = iota + 1
	ofFetch        // S
	ofSettle       // A or N
	ofCall
)

// An entry is so many requests of one kind in a row.
type entry struct {
	kind kind
	n    int
	call *call // of ofCall
}

// A queue is what was written and has no answer yet, in its order.
type queue struct {
	entries []entry
	first   int
}

func (q *queue) push(k kind, n int, c *call) {
	if last := len(q.entries) - 1; last >= q.first && k != ofCall && q.entries[last].kind == k {
		q.entries[last].n += n
		return
	}
	if q.first > 0 && len(q.entries) == cap(q.entries) {
		q.entries = slices.Delete(q.entries, 0, q.first)
		q.first = 0
	}
	q.entries = append(q.entries, entry{k, n, c})
}

// pop takes the oldest; its kind is 0 if there is none.
func (q *queue) pop() entry {
	if q.isEmpty() {
		return entry{}
	}
	e := &q.entries[q.first]
	e.n--
	found := *e
	if e.n == 0 {
		e.call = nil
		q.first++
	}
	if q.isEmpty() {
		q.entries, q.first = q.entries[:0], 0
	}
	return found
}

// next is the kind of the oldest, and last that of the newest; 0 if there is none.
func (q *queue) next() kind {
	if q.isEmpty() {
		return 0
	}
	return q.entries[q.first].kind
}

func (q *queue) last() kind {
	if q.isEmpty() {
		return 0
	}
	return q.entries[len(q.entries)-1].kind
}

func (q *queue) isEmpty() bool { return q.first == len(q.entries) }

// calls are those that wait.
func (q *queue) calls() []*call {
	var all []*call
	for _, e := range q.entries[q.first:] {
		if e.kind == ofCall {
			all = append(all, e.call)
		}
	}
	return all
}
