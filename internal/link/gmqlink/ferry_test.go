package gmqlink

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/ferrytest"
	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
)

func to(t testing.TB, url string) link.Options {
	t.Helper()
	list, err := endpoint.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return link.Options{Endpoint: list.Endpoints[0], Heartbeat: 10 * time.Second}
}

func TestMessagesGoThroughFerry(t *testing.T) {
	fb := ferrytest.Start(t)
	c, err := Open(t.Context(), to(t, fb.GMQURL()))
	if err != nil {
		t.Fatal(err)
	}
	if product, _ := c.Peer(); product != "Ferry" {
		t.Errorf("the server says that it is %q", product)
	}
	results := c.Declare(t.Context(), []link.Item{link.Queue{Name: "q"}, link.Queue{Name: "none", Passive: true}})
	if results[0].Err != nil {
		t.Fatal(results[0].Err)
	}
	kindIs(t, results[1].Err, link.NotFound)
	src, in := new(source), new(sink)
	sender, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src)
	if err != nil {
		t.Fatal(err)
	}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	all := []string{"small", strings.Repeat("large", 300_000), "", string(every), "line\n", strings.Repeat("x", 65536)}
	for _, b := range all {
		src.add(sender, body(b))
	}
	src.until(t, "settled up to 6")
	r, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q", Prefetch: 10}, in)
	if err != nil {
		t.Fatal(err)
	}
	in.until(t, all[5])
	for i, b := range all {
		if got := string(in.delivery(i).Message.Body); got != b {
			t.Errorf("body %d of %d bytes came as %d", i, len(b), len(got))
		}
		if id := in.delivery(i).Message.ID; !strings.HasPrefix(id, "p-") {
			t.Errorf("body %d has the id %q", i, id)
		}
	}
	for i := 1; i < 6; i++ {
		if err := r.Ack(in.tag(i)); err != nil {
			t.Error(err)
		}
	}
	src.add(sender, body("new")) // a receiver that waits gets it at once
	in.until(t, "new")
	in.forget()
	if err := r.Nack(in.tag(0), true); err != nil {
		t.Error(err)
	}
	in.until(t, "small")
	if !in.delivery(7).Redelivered {
		t.Error("what was given back is not marked")
	}
	if err := errors.Join(r.Ack(in.tag(6)), r.Ack(in.tag(7))); err != nil {
		t.Error(err)
	}
	if err := errors.Join(sender.Close(t.Context()), r.Close(t.Context())); err != nil {
		t.Error(err)
	}
	in.until(t, "closed <nil>")
	if r := c.Declare(t.Context(), []link.Item{link.Queue{Name: "q", Passive: true}})[0]; r.Err != nil || r.Messages != 0 {
		t.Errorf("%+v: not all were acknowledged", r)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is sent again, marked, is stored once.
func TestFerryDropsRepeats(t *testing.T) {
	fb := ferrytest.Start(t)
	c, err := Open(t.Context(), to(t, fb.GMQURL()))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		src := new(source)
		src.waiting = []link.Outgoing{{Message: body("1"), Producer: "once", Seq: 1, Attempt: 2}}
		if _, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src); err != nil {
			t.Fatal(err)
		}
		src.until(t, "settled up to 1")
	}
	if r := c.Declare(t.Context(), []link.Item{link.Queue{Name: "q", Passive: true}})[0]; r.Err != nil || r.Messages != 1 {
		t.Errorf("%+v", r)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWithoutAcksFerryForgetsWhatItSends(t *testing.T) {
	fb := ferrytest.Start(t)
	c, err := Open(t.Context(), to(t, fb.GMQURL()))
	if err != nil {
		t.Fatal(err)
	}
	src, in := new(source), new(sink)
	sender, err := c.OpenSender(t.Context(), link.SenderConfig{}, src)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q", NoAck: true}, in); err != nil {
		t.Fatal(err)
	}
	src.add(sender, bodies("1", "", "3")...)
	in.until(t, "3")
	if len(in.got) != 3 {
		t.Errorf("%d messages came", len(in.got))
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFerryRefusesAWrongPassword(t *testing.T) {
	fb := ferrytest.Start(t)
	_, err := Open(t.Context(), to(t, strings.Replace(fb.GMQURL(), ":guest@", ":wrong@", 1)))
	kindIs(t, err, link.AccessRefused)
}

// tlsFront accepts TLS and hands on what is within to an address.
func tlsFront(t *testing.T, to string) string {
	t.Helper()
	server := httptest.NewTLSServer(nil) // for its certificate
	certificates := server.TLS.Certificates
	server.Close()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				return
			}
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1]) // until one side ends
					near.Close()
					far.Close()
				})
			}
		}
	})
	return ln.Addr().String()
}

func TestMessagesGoThroughTLS(t *testing.T) {
	fb := ferrytest.Start(t)
	addr := tlsFront(t, fb.Addr())
	_, err := Open(t.Context(), to(t, "gmqs://guest:guest@"+addr))
	kindIs(t, err, link.AccessRefused) // nobody vouches for the certificate
	c, err := Open(t.Context(), to(t, "gmqs://guest:guest@"+addr+"?verify=verify_none"))
	if err != nil {
		t.Fatal(err)
	}
	src, in := new(source), new(sink)
	sender, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src)
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("large", 300_000)
	src.add(sender, bodies("1", large)...)
	src.until(t, "settled up to 2")
	if _, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q", Prefetch: 5}, in); err != nil {
		t.Fatal(err)
	}
	in.until(t, large)
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
