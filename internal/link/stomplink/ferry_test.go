package stomplink

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/app"
	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
)

// startFerry runs a broker in this process and returns where it speaks STOMP.
func startFerry(t testing.TB) (addr string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan []app.Address, 1)
	ended := make(chan error, 1)
	cfg := app.Config{
		Store: "memory:", AMQP: "127.0.0.1:0", STOMP: "127.0.0.1:0", HTTP: "127.0.0.1:0",
		User: "ada", Password: "lovelace", Logger: slog.New(slog.DiscardHandler),
	}
	go func() { ended <- app.Run(ctx, cfg, func(a []app.Address) { ready <- a }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the broker ended with: %v", err)
		}
	})
	select {
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	case all := <-ready:
		for _, a := range all {
			if a.Name == "stomp" {
				return a.Addr
			}
		}
		t.Fatalf("no stomp among %v", all)
	}
	return ""
}

func to(t testing.TB, url string) link.Options {
	t.Helper()
	list, err := endpoint.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return link.Options{Endpoint: list.Endpoints[0], Heartbeat: 10 * time.Second}
}

func TestMessagesGoThroughFerry(t *testing.T) {
	addr := startFerry(t)
	for name, url := range map[string]string{
		"plain": "stomp://ada:lovelace@" + addr,
		"TLS":   "stomps://ada:lovelace@" + linktest.TLSFront(t, addr) + "?verify=verify_none",
		"1.1":   "stomp://ada:lovelace@" + addr + "?version=1.1",
		"1.0":   "stomp://ada:lovelace@" + addr + "?version=1.0&dialect=ferry",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(t.Context(), to(t, url))
			if err != nil {
				t.Fatal(err)
			}
			queue := "q." + name
			if r := c.Declare(t.Context(), []link.Item{link.Queue{Name: queue}})[0]; r.Err != nil {
				t.Fatal(r.Err)
			}
			src, in := new(source), new(sink)
			sender, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src)
			if err != nil {
				t.Fatal(err)
			}
			bodies := []string{"small", strings.Repeat("large", 300_000), "", "NUL\x00", strings.Repeat("x", 65536)}
			for _, b := range bodies {
				src.Add(sender, &link.Message{Key: queue, Body: []byte(b)})
			}
			src.Until(t, "settled up to 5")
			r, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: queue, Prefetch: 10}, in)
			if err != nil {
				t.Fatal(err)
			}
			in.Until(t, bodies[4])
			for i, b := range bodies {
				if got := string(in.Got[i].Message.Body); got != b {
					t.Errorf("body %d of %d bytes came as %d", i, len(b), len(got))
				}
				if err := r.Ack(in.Tag(i)); err != nil {
					t.Error(err)
				}
			}
			if err := errors.Join(sender.Close(t.Context()), r.Close(t.Context())); err != nil {
				t.Error(err)
			}
			in.Until(t, "closed <nil>")
			again := new(sink)
			if r, err = c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: queue, Prefetch: 10}, again); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(r.Close(t.Context()), c.Close(t.Context())); err != nil {
				t.Error(err)
			}
			if len(again.Got) > 0 {
				t.Errorf("%d messages were not acknowledged", len(again.Got))
			}
		})
	}
}

func TestACertificateThatIsNotTrustedIsRefused(t *testing.T) {
	addr := startFerry(t)
	_, err := Open(t.Context(), to(t, "stomps://ada:lovelace@"+linktest.TLSFront(t, addr)))
	linktest.KindIs(t, err, link.AccessRefused)
	_, err = Open(t.Context(), to(t, "stomps://ada:lovelace@"+addr))
	linktest.KindIs(t, err, link.Protocol)
}

func TestFerryRefusesAWrongPassword(t *testing.T) {
	_, err := Open(t.Context(), to(t, "stomp://ada:wrong@"+startFerry(t)))
	linktest.KindIs(t, err, link.AccessRefused)
}
