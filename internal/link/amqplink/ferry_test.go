package amqplink

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ferrymq/ferry/internal/link"
)

func TestMessagesGoThroughFerry(t *testing.T) {
	c := mustOpen(t, link.Options{Endpoint: mustParse(t, startFerry(t)), Name: "test"})
	mustDeclare(t, c, link.Queue{Name: "q"})
	const n = 5000
	src := newSource()
	for i := range n {
		src.add(outgoing("q", fmt.Sprint("message ", i), uint64(i+1)))
	}
	s, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src)
	if err != nil {
		t.Fatal(err)
	}
	src.await(t, settledUpTo(n))
	in := newSink()
	r, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q", Prefetch: 100}, in)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		d := in.await(t, i+1)[i]
		if want := fmt.Sprint("message ", i); string(d.Message.Body) != want {
			t.Fatalf("delivery %d is %q", i, d.Message.Body)
		}
		if want := fmt.Sprint("p-", i+1); d.Message.ID != want || d.Message.Headers != nil || d.Message.Transient {
			t.Fatalf("delivery %d is %+v", i, d.Message)
		}
		if err := r.Ack(d.Tag); err != nil {
			t.Fatal(err)
		}
		if err := r.Ack(d.Tag); !errors.Is(err, link.ErrSettled) {
			t.Fatalf("a second ack says %v", err)
		}
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := mustDeclare(t, c, link.Queue{Name: "q", Passive: true}); got[0].Messages != 0 {
		t.Errorf("%d messages are left", got[0].Messages)
	}
	if err := in.awaitClosed(t); err != nil {
		t.Errorf("the sink was closed with %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Err(); err != nil {
		t.Error(err)
	}
	checkGoroutines(t)
}
