package stomplink

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ferrymq/ferry/internal/link"
)

// record is what a source or a sink was told, in words.
type record struct {
	mu      sync.Mutex
	calls   []string
	err     error         // of Closed
	changed chan struct{} // closed with the next call, if not nil
}

func (r *record) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Closed is that of both.
func (r *record) Closed(err error) {
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
	r.note("closed %s", kindName(err))
}

func (r *record) Cancelled(reason *link.Error) { r.note("cancelled %v", reason.Kind) }

func kindName(err error) string {
	var e *link.Error
	if errors.As(err, &e) {
		return e.Kind.String()
	}
	return fmt.Sprint(err)
}

// is waits until nothing goes on in the bubble, and compares what was told since
// the last time.
func (r *record) is(t testing.TB, want ...string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.calls, want) {
		t.Errorf("told %q, want %q", r.calls, want)
	}
	r.calls = nil
}

// fault is the error of Closed.
func (r *record) fault() *link.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var e *link.Error
	if errors.As(r.err, &e) {
		return e
	}
	return new(link.Error)
}

// source is a link.Source.
type source struct {
	record
	waiting []link.Outgoing
}

func (s *source) add(sender link.Sender, messages ...*link.Message) {
	s.mu.Lock()
	for _, m := range messages {
		s.waiting = append(s.waiting, link.Outgoing{Message: m, Producer: "p", Seq: uint64(len(s.waiting) + 1), Attempt: 1})
	}
	s.mu.Unlock()
	sender.Wake()
}

func (s *source) Next(most int) []link.Outgoing {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(most, len(s.waiting))
	out := s.waiting[:n]
	s.waiting = s.waiting[n:]
	return out
}

func (s *source) Written(tag uint64) { s.note("written %d", tag) }

func (s *source) Settled(tag uint64, multiple, refused bool) {
	upTo := ""
	if multiple {
		upTo = "up to "
	}
	s.note("settled %s%d", upTo, tag)
}

func (s *source) Refused(tag uint64, err *link.Error) { s.note("refused %d: %v", tag, err.Kind) }

func (s *source) Returned(id string, _ *link.Error) { s.note("returned %s", id) }

func body(text string) *link.Message { return &link.Message{Key: "q", Body: []byte(text)} }

func bodies(texts ...string) []*link.Message {
	var all []*link.Message
	for _, text := range texts {
		all = append(all, body(text))
	}
	return all
}

// sink is a link.Sink.
type sink struct {
	record
	got  []*link.Delivery
	hold chan struct{} // Deliver waits for it, if not nil
}

func (s *sink) Deliver(batch []*link.Delivery) {
	if s.hold != nil {
		<-s.hold
	}
	s.mu.Lock()
	s.got = append(s.got, batch...)
	s.mu.Unlock()
	for _, d := range batch {
		s.note("%s", d.Message.Body)
	}
}

// tag is that of a delivery, by its place.
func (s *sink) tag(i int) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[i].Tag
}

func (s *sink) delivery(i int) *link.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[i]
}

func kindIs(t testing.TB, err error, kind link.Kind) {
	t.Helper()
	var e *link.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Errorf("got error %v, want one of kind %v", err, kind)
	}
}

// bubble runs a test with a peer, in time that is made up. What goroutines it leaves
// are a deadlock.
func bubble(t *testing.T, url string, f func(t *testing.T, p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newPeer(t, url)) })
}
