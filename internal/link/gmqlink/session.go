package gmqlink

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// A session is one connection of the server's: a sender's, a receiver's, one of
// declarations, or, where it has none of these, the one that tells whether the
// server is there.
type session struct {
	conn      *conn
	log       *slog.Logger
	line      *transport.Line
	heartbeat time.Duration // 0 is none
	server    string        // what the server said that it is

	sender   *sender
	receiver *receiver
	gates    []*transport.Gate // shut when it ends

	in      transport.Input // the reader's
	scanned int             // the reader's: bytes of what is unread that hold no end of a line
	reply   gmqwire.Reply   // the reader's: the last
	deaf    bool            // the reader's: what follows is of no interest

	pulse transport.Pulse
	wake  chan struct{} // for the writer, one slot

	goroutines sync.WaitGroup // reader, writer, pulse, watch
	written    chan struct{}  // closed when the writer has ended
	left       chan struct{}  // closed when the server has answered all that was asked
	ending     chan struct{}  // closed when over is set
	done       chan struct{}  // closed when all is over

	mu       sync.Mutex // guards the rest
	asked    []*call    // not written yet
	waiting  queue      // what was written and is not answered
	unproven int        // publishes among them
	beating  bool       // a heart-beat is among them
	opened   bool       // the gates were
	leaving  *call      // the last request, nil while there may be others
	gone     bool       // left was closed
	over     bool
	farewell bool        // what the writer has is written yet
	err      *link.Error // why it is over
	writeErr *link.Error // what ended the writer before the reader
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

func newSession(c *conn, line *transport.Line) *session {
	return &session{
		conn:      c,
		log:       c.log,
		line:      line,
		heartbeat: c.o.Heartbeat,
		in:        transport.NewInput(),
		wake:      make(chan struct{}, 1),
		written:   make(chan struct{}),
		left:      make(chan struct{}),
		ending:    make(chan struct{}),
		done:      make(chan struct{}),
	}
}

// run starts the goroutines of a session that has logged in.
func (s *session) run() {
	if s.heartbeat > 0 && s.sender != nil {
		s.line.Stream.Excused = func() bool { return true } // see watch
	}
	s.line.Stream.Stall.Store(int64(transport.StallTime(s.heartbeat)))
	if s.heartbeat > 0 {
		s.goroutines.Go(func() { s.pulse.Run(s.ending, s.heartbeat, s.heartbeat, s.beat, s.dead) })
		if s.sender != nil {
			s.goroutines.Go(s.watch)
		}
	}
	s.goroutines.Go(s.read)
	s.goroutines.Go(func() {
		defer close(s.written)
		(&writer{session: s}).run()
	})
	go s.finish() // done is closed by its end
}

// beat asks for a sign of life, unless that was done, or nothing may follow.
func (s *session) beat() {
	s.mu.Lock()
	if !s.beating && s.leaving == nil && !s.over {
		s.beating = true
		s.asked = append(s.asked, &call{operation: gmqwire.Sync, line: syncLine, beat: true, done: make(chan struct{})})
	}
	s.mu.Unlock()
	s.signal()
}

func (s *session) dead() {
	s.lost(&link.Error{
		Kind: link.Dead,
		Text: fmt.Sprintf("nothing came for %v, which is two heart-beats", 2*s.heartbeat),
	})
}

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
	t := time.NewTicker(max(s.heartbeat/looks, 1))
	defer t.Stop()
	reads, still, blocked := s.pulse.Reads.Load(), 0, false
	most := int(answerPatience/s.heartbeat+1) * looks
	for {
		select {
		case <-s.ending:
			if blocked {
				s.conn.setBlocked(false, "")
			}
			return
		case <-t.C:
		}
		now := s.pulse.Reads.Load()
		if now != reads || !s.pulse.Held.Load() {
			reads, still = now, 0
		} else {
			still++
		}
		if is := still >= looks; is != blocked {
			blocked = is
			s.conn.setBlocked(is, silent)
		}
		if still > most {
			s.end(&link.Error{Kind: link.Unavailable, Text: fmt.Sprintf("the broker has not answered a publish for %v", answerPatience)}, false)
		}
	}
}

// signal wakes the writer.
func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lost ends the whole connection for what ended this session: the others have the
// same server.
func (s *session) lost(err *link.Error) {
	if s.isOver() {
		return // what fails now fails because of that
	}
	s.conn.fail(err, false)
	s.end(err, false)
}

// end ends the session, if it has not ended yet. With farewell what the writer has
// taken is still written, if that takes no longer than transport.FarewellTime.
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
		s.receiver.close()
	}
	s.mu.Lock()
	calls := append(s.waiting.calls(), s.asked...)
	s.asked = nil
	s.waiting = queue{}
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
	close(s.done)
	s.conn.forget(s)
}

func (s *session) isOver() bool {
	select {
	case <-s.ending:
		return true
	default:
		return false
	}
}

// leave has a last request written behind all that is to be written, and left closed
// when it was answered: all that came before it has its answer then.
func (s *session) leave() {
	s.mu.Lock()
	if s.leaving == nil && !s.over {
		s.leaving = s.askLocked(gmqwire.Sync, syncLine)
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
		s.end(closed(), true)
	case <-s.ending:
	case <-ctx.Done():
		s.end(closed(), false)
		<-s.done
		return context.Cause(ctx)
	}
	<-s.done
	if s.err.Kind == link.Closed {
		return nil
	}
	return s.err
}

// ask sends a request and waits for its reply, whose payload it returns.
func (s *session) ask(ctx context.Context, operation string, line []byte) ([]byte, error) {
	s.mu.Lock()
	switch {
	case s.over:
		s.mu.Unlock()
		return nil, s.err
	case s.leaving != nil:
		s.mu.Unlock()
		return nil, closed()
	}
	k := s.askLocked(operation, line)
	s.mu.Unlock()
	s.signal()
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

// openGates lets calls to source and sinks begin.
func (s *session) openGates() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return s.err
	}
	for _, g := range s.gates {
		g.Open()
	}
	s.opened = true
	return nil
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
