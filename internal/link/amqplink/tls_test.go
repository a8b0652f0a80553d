package amqplink

import (
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
)

func TestMessagesGoThroughTLS(t *testing.T) {
	plain := mustParse(t, startFerry(t))
	e := mustParse(t, "amqps://ada:lovelace@"+linktest.TLSFront(t, plain.Address())+"?verify=verify_none")
	c := mustOpen(t, link.Options{Endpoint: e, Heartbeat: 10 * time.Second})
	mustDeclare(t, c, link.Queue{Name: "q"})
	src, in := newSource(), newSink()
	bodies := []string{"small", strings.Repeat("large", 300_000), "", strings.Repeat("x", 131065)}
	for i, b := range bodies {
		src.add(outgoing("q", b, uint64(i+1)))
	}
	if _, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src); err != nil {
		t.Fatal(err)
	}
	src.await(t, settledUpTo(uint64(len(bodies))))
	if _, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q"}, in); err != nil {
		t.Fatal(err)
	}
	for i, d := range in.await(t, len(bodies)) {
		if string(d.Message.Body) != bodies[i] {
			t.Errorf("body %d of %d bytes came as %d", i, len(bodies[i]), len(d.Message.Body))
		}
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	checkGoroutines(t)
}

func TestACertificateThatIsNotTrustedIsRefused(t *testing.T) {
	plain := mustParse(t, startFerry(t))
	_, err := Open(t.Context(), link.Options{Endpoint: mustParse(t, "amqps://ada:lovelace@"+linktest.TLSFront(t, plain.Address()))})
	kindIs(t, err, link.AccessRefused)
	_, err = Open(t.Context(), link.Options{Endpoint: mustParse(t, "amqps://ada:lovelace@"+plain.Address())})
	kindIs(t, err, link.Protocol)
}
