package gmqlink

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/ferrytest"
	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
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
	linktest.KindIs(t, results[1].Err, link.NotFound)
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
		src.Add(sender, linktest.Body(b))
	}
	src.Until(t, "settled up to 6")
	r, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q", Prefetch: 10}, in)
	if err != nil {
		t.Fatal(err)
	}
	in.Until(t, all[5])
	for i, b := range all {
		if got := string(in.Delivery(i).Message.Body); got != b {
			t.Errorf("body %d of %d bytes came as %d", i, len(b), len(got))
		}
		if id := in.Delivery(i).Message.ID; !strings.HasPrefix(id, "p-") {
			t.Errorf("body %d has the id %q", i, id)
		}
	}
	for i := 1; i < 6; i++ {
		if err := r.Ack(in.Tag(i)); err != nil {
			t.Error(err)
		}
	}
	src.Add(sender, linktest.Body("new")) // a receiver that waits gets it at once
	in.Until(t, "new")
	in.Forget()
	if err := r.Nack(in.Tag(0), true); err != nil {
		t.Error(err)
	}
	in.Until(t, "small")
	if !in.Delivery(7).Redelivered {
		t.Error("what was given back is not marked")
	}
	if err := errors.Join(r.Ack(in.Tag(6)), r.Ack(in.Tag(7))); err != nil {
		t.Error(err)
	}
	if err := errors.Join(sender.Close(t.Context()), r.Close(t.Context())); err != nil {
		t.Error(err)
	}
	in.Until(t, "closed <nil>")
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
		src.Waiting = []link.Outgoing{{Message: linktest.Body("1"), Producer: "once", Seq: 1, Attempt: 2}}
		if _, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src); err != nil {
			t.Fatal(err)
		}
		src.Until(t, "settled up to 1")
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
	src.Add(sender, linktest.Bodies("1", "", "3")...)
	in.Until(t, "3")
	if len(in.Got) != 3 {
		t.Errorf("%d messages came", len(in.Got))
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFerryRefusesAWrongPassword(t *testing.T) {
	fb := ferrytest.Start(t)
	_, err := Open(t.Context(), to(t, strings.Replace(fb.GMQURL(), ":guest@", ":wrong@", 1)))
	linktest.KindIs(t, err, link.AccessRefused)
}

func TestMessagesGoThroughTLS(t *testing.T) {
	fb := ferrytest.Start(t)
	addr := linktest.TLSFront(t, fb.Addr())
	_, err := Open(t.Context(), to(t, "gmqs://guest:guest@"+addr))
	linktest.KindIs(t, err, link.AccessRefused) // nobody vouches for the certificate
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
	src.Add(sender, linktest.Bodies("1", large)...)
	src.Until(t, "settled up to 2")
	if _, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q", Prefetch: 5}, in); err != nil {
		t.Fatal(err)
	}
	in.Until(t, large)
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
