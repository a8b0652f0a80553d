// Package linktest is what the tests of links have in common: a source and a sink that
// note what they are told, and a front that ends TLS.
package linktest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// A Record is what a source or a sink was told, in words. The methods of it, and of
// what embeds it, may be called concurrently; fields are for when nothing goes on.
type Record struct {
	mu      sync.Mutex // guards all, and what embeds it
	Calls   []string
	err     error         // of Closed
	changed chan struct{} // closed with the next call, if not nil
}

// Note notes a call.
func (r *Record) Note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Calls = append(r.Calls, fmt.Sprintf(format, args...))
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Closed is that of both.
func (r *Record) Closed(err error) {
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
	r.Note("closed %s", kindName(err))
}

// Cancelled implements link.Sink.
func (r *Record) Cancelled(reason *link.Error) { r.Note("cancelled %v", reason.Kind) }

func kindName(err error) string {
	var e *link.Error
	if errors.As(err, &e) {
		return e.Kind.String()
	}
	return fmt.Sprint(err)
}

// Is waits until nothing goes on in the bubble, and compares what was told since
// the last time.
func (r *Record) Is(t testing.TB, want ...string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.Calls, want) {
		t.Errorf("told %q, want %q", r.Calls, want)
	}
	r.Calls = nil
}

// Until waits for what is told, outside of bubbles.
func (r *Record) Until(t testing.TB, want string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		told := slices.Contains(r.Calls, want)
		all := strings.Join(r.Calls, ", ")
		changed := make(chan struct{})
		r.changed = changed
		r.mu.Unlock()
		if told {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%.100q was not told: %.500s", want, all)
		}
	}
}

// Forget drops what was told.
func (r *Record) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Calls = nil
}

// Fault is the error of Closed.
func (r *Record) Fault() *link.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var e *link.Error
	if errors.As(r.err, &e) {
		return e
	}
	return new(link.Error)
}

// A Source is a link.Source.
type Source struct {
	Record
	Waiting []link.Outgoing
	added   uint64
}

// Add has messages sent, numbered from 1 on.
func (s *Source) Add(sender link.Sender, messages ...*link.Message) {
	s.mu.Lock()
	for _, m := range messages {
		s.added++
		s.Waiting = append(s.Waiting, link.Outgoing{Message: m, Producer: "p", Seq: s.added, Attempt: 1})
	}
	s.mu.Unlock()
	sender.Wake()
}

// Next implements link.Source.
func (s *Source) Next(most int) []link.Outgoing {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(most, len(s.Waiting))
	out := s.Waiting[:n]
	s.Waiting = s.Waiting[n:]
	return out
}

// Written implements link.Source.
func (s *Source) Written(tag uint64) { s.Note("written %d", tag) }

// Settled implements link.Source.
func (s *Source) Settled(tag uint64, multiple, refused bool) {
	what := "settled "
	if refused {
		what = "nacked "
	}
	if multiple {
		what += "up to "
	}
	s.Note("%s%d", what, tag)
}

// Refused implements link.Source.
func (s *Source) Refused(tag uint64, err *link.Error) { s.Note("refused %d: %v", tag, err.Kind) }

// Returned implements link.Source.
func (s *Source) Returned(id string, _ *link.Error) { s.Note("returned %s", id) }

// Body is a message for the queue q.
func Body(text string) *link.Message { return &link.Message{Key: "q", Body: []byte(text)} }

// Bodies are messages for the queue q.
func Bodies(texts ...string) []*link.Message {
	var all []*link.Message
	for _, text := range texts {
		all = append(all, Body(text))
	}
	return all
}

// A Sink is a link.Sink.
type Sink struct {
	Record
	Got  []*link.Delivery
	Hold chan struct{} // Deliver waits for it, if not nil
}

// Deliver implements link.Sink.
func (s *Sink) Deliver(batch []*link.Delivery) {
	if s.Hold != nil {
		<-s.Hold
	}
	s.mu.Lock()
	s.Got = append(s.Got, batch...)
	s.mu.Unlock()
	for _, d := range batch {
		s.Note("%s", d.Message.Body)
	}
}

// Tag is that of a delivery, by its place.
func (s *Sink) Tag(i int) uint64 { return s.Delivery(i).Tag }

// Delivery is one that came, by its place.
func (s *Sink) Delivery(i int) *link.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Got[i]
}

// KindIs fails a test whose error is not a *link.Error of a kind.
func KindIs(t testing.TB, err error, kind link.Kind) {
	t.Helper()
	var e *link.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Errorf("got error %v, want one of kind %v", err, kind)
	}
}
