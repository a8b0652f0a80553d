package amqplink

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// giveBack returns a message as a broker does.
func (p *peer) giveBack(channel uint16, code uint16, props amqpwire.Properties, body string) {
	out, err := amqpwire.AppendMethod(nil, channel, &amqpwire.BasicReturn{ReplyCode: code, ReplyText: "NO_ROUTE", RoutingKey: "q"})
	if err != nil {
		p.t.Error(err)
	}
	raw, err := amqpwire.AppendProperties(nil, &props)
	if err != nil {
		p.t.Error(err)
	}
	out = amqpwire.AppendContentHeader(out, channel, uint64(len(body)), raw)
	p.write(amqpwire.AppendBody(out, channel, []byte(body), 4096))
}

func TestReturnsAndConfirmationsComeInTheOrderOfTheWire(t *testing.T) {
	p, c := connect(t)
	src := newSource()
	for i := range 5 {
		src.add(outgoing("q", "body", uint64(i+1)))
	}
	_, id := openSender(t, p, c, src)
	for range 5 {
		p.publish()
	}
	p.giveBack(id, 312, amqpwire.Properties{Headers: amqpwire.Table{link.HeaderID: "p-2"}}, strings.Repeat("x", 9000))
	p.giveBack(id, 312, amqpwire.Properties{MessageID: "mine", Headers: amqpwire.Table{"a": "b"}}, "")
	p.send(id, &amqpwire.BasicAck{DeliveryTag: 3, Multiple: true})
	p.send(id, &amqpwire.BasicNack{DeliveryTag: 4})
	p.send(id, &amqpwire.BasicNack{DeliveryTag: 5, Multiple: true})
	got := src.await(t, func(all []event) bool { return len(all) >= 5 })
	for i := range got {
		if got[i].what == "returned" {
			kindIs(t, got[i].err, link.Unroutable)
			got[i].err = nil
		}
	}
	want := []event{
		{what: "returned", id: "p-2"},
		{what: "returned", id: "mine"},
		{what: "settled", tag: 3, multiple: true},
		{what: "settled", tag: 4, refused: true},
		{what: "settled", tag: 5, multiple: true, refused: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestAConfirmationOfWhatWasNotSentEndsTheConnection(t *testing.T) {
	for _, tag := range []uint64{0, 2, 1 << 63} {
		p, c := connect(t)
		src := newSource()
		src.add(outgoing("q", "body", 1))
		_, id := openSender(t, p, c, src)
		p.publish()
		p.send(id, &amqpwire.BasicAck{DeliveryTag: tag, Multiple: true})
		if m := get[*amqpwire.ConnectionClose](p); !amqpwire.IsHard(m.ReplyCode) {
			t.Errorf("the broker was told %+v", m)
		}
		<-c.Done()
		kindIs(t, c.Err(), link.Protocol)
		got := src.await(t, has("closed"))
		if len(got) != 1 {
			t.Errorf("got %+v", got)
		}
	}
}

func TestACloseOfOneChannelLeavesTheOthers(t *testing.T) {
	p, c := connect(t)
	bad, good, in := newSource(), newSource(), newSink()
	s, id := openSender(t, p, c, bad)
	s2, id2 := openSender(t, p, c, good)
	r, id3 := openReceiver(t, p, c, in, false)
	p.send(id, &amqpwire.ChannelClose{ReplyCode: 404, ReplyText: "NOT_FOUND - no exchange 'x' in vhost 'v'"})
	get[*amqpwire.ChannelCloseOk](p)
	if e := mustBe(t, bad.await(t, has("closed"))[0].err, link.NotFound); e.Code != 404 {
		t.Errorf("code %d", e.Code)
	}
	if err := s.Close(t.Context()); err == nil {
		t.Error("closing a sender that the broker closed says nothing of it")
	}
	s.Wake() // nothing is taken from it
	bad.add(outgoing("q", "bad", 1))
	good.add(outgoing("q", "good", 1))
	s2.Wake()
	if _, body := p.publish(); body != "good" || p.channel != id2 {
		t.Errorf("got %q on channel %d", body, p.channel)
	}
	p.send(id2, &amqpwire.BasicAck{DeliveryTag: 1})
	good.await(t, settledUpTo(1))
	p.send(id3, &amqpwire.ChannelClose{ReplyCode: 406, ReplyText: "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"})
	get[*amqpwire.ChannelCloseOk](p)
	in.closedWith(t, link.Unavailable)
	if err := r.Ack(1); !errors.Is(err, link.ErrClosed) {
		t.Errorf("settling after the end says %v", err)
	}
	// The number is free, because both sides are done with it.
	if _, again := openSender(t, p, c, newSource()); again != id3 {
		t.Errorf("the next channel is %d", again)
	}
	if bad.taken != 0 || len(bad.events) != 1 {
		t.Errorf("taken %d, told %+v", bad.taken, bad.events)
	}
}

func TestTheNumberOfAChannelIsUsedAgainOnlyAfterCloseOk(t *testing.T) {
	p, c := connect(t)
	src := newSource()
	s, id := openSender(t, p, c, src)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close says %v", err)
	}
	get[*amqpwire.ChannelClose](p)
	_, second := openSender(t, p, c, newSource())
	if second == id {
		t.Fatalf("channel %d is used again before close-ok", id)
	}
	// The broker closes it too, before it has seen ours.
	p.send(id, &amqpwire.ChannelClose{ReplyCode: 404})
	get[*amqpwire.ChannelCloseOk](p)
	src.await(t, has("closed"))
	_, third := openSender(t, p, c, newSource())
	if third == id {
		t.Fatalf("channel %d is used again before close-ok", id)
	}
	p.send(id, &amqpwire.ChannelCloseOk{})
	// What is answered behind it shows that it was read.
	p.send(second, &amqpwire.ChannelFlow{Active: true})
	get[*amqpwire.ChannelFlowOk](p)
	if _, fourth := openSender(t, p, c, newSource()); fourth != id {
		t.Errorf("channel %d, want %d", fourth, id)
	}
	if len(src.events) != 1 {
		t.Errorf("told %+v", src.events)
	}
}

func TestAllChannelsInUse(t *testing.T) {
	p, c := connect(t, func(p *peer, _ *link.Options) { p.tune.ChannelMax = 1 })
	openSender(t, p, c, newSource())
	_, err := c.OpenSender(t.Context(), link.SenderConfig{}, newSource())
	kindIs(t, err, link.NotAllowed)
}

func TestAMessageThatCannotBeSentIsNotBegun(t *testing.T) {
	long := strings.Repeat("x", 256)
	for name, m := range map[string]link.Message{
		"exchange":   {Exchange: long},
		"key":        {Key: long},
		"property":   {ReplyTo: long},
		"header":     {Headers: map[string]any{"a": struct{}{}}},
		"name":       {Headers: map[string]any{long: 1}},
		"too much":   {Headers: map[string]any{"a": strings.Repeat("x", 1<<17)}},
		"expiration": {Expiration: -1},
	} {
		t.Run(name, func(t *testing.T) {
			p, c := connect(t)
			src := newSource()
			bad := outgoing("q", "bad", 2)
			bad.Message = &m
			src.add(outgoing("q", "one", 1), bad, outgoing("q", "three", 3))
			openSender(t, p, c, src)
			if _, body := p.publish(); body != "one" {
				t.Errorf("got %q", body)
			}
			get[*amqpwire.ChannelClose](p)
			got := src.await(t, has("closed"))
			if e := mustBe(t, got[len(got)-1].err, link.Unsendable); e.Tag != 2 {
				t.Errorf("the tag is %d", e.Tag)
			}
		})
	}
}

func TestFlowOfAChannelStopsItsMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t)
		src := newSource()
		s, id := openSender(t, p, c, src)
		p.send(id, &amqpwire.ChannelFlow{})
		if m := get[*amqpwire.ChannelFlowOk](p); m.Active {
			t.Error("flow-ok says that it is active")
		}
		src.add(outgoing("q", "one", 1))
		s.Wake()
		synctest.Wait()
		if src.taken != 0 {
			t.Error("a message was taken")
		}
		p.send(id, &amqpwire.ChannelFlow{Active: true})
		get[*amqpwire.ChannelFlowOk](p)
		p.publish()
	})
}

func TestConfirmationsAreHeardUntilCloseOk(t *testing.T) {
	p, c := connect(t)
	src := newSource()
	src.add(outgoing("q", "one", 1))
	s, id := openSender(t, p, c, src)
	p.publish()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get[*amqpwire.ChannelClose](p)
		p.send(id, &amqpwire.BasicAck{DeliveryTag: 1})
		p.send(id, &amqpwire.ChannelCloseOk{})
	}()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	<-ended
	want := []event{{what: "settled", tag: 1}, {what: "closed"}}
	if got := src.await(t, has("closed")); !slices.Equal(got, want) {
		t.Errorf("told %+v", got)
	}
}

func TestOpeningEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		src, in := newSource(), newSink()
		if _, err := c.OpenSender(ctx, link.SenderConfig{Confirm: true}, src); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("OpenSender says %v", err)
		}
		if _, err := c.OpenReceiver(ctx, link.ReceiverConfig{}, in); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("OpenReceiver says %v", err)
		}
		for _, r := range c.Declare(ctx, []link.Item{link.Queue{}, link.Exchange{}}) {
			if !errors.Is(r.Err, context.DeadlineExceeded) {
				t.Errorf("Declare says %v", r.Err)
			}
		}
		if took := time.Since(begin); took > 1100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		// The broker answers late: nothing comes of it.
		get[*amqpwire.ChannelOpen](p)
		id := p.channel
		get[*amqpwire.ConfirmSelect](p)
		get[*amqpwire.ChannelClose](p)
		p.send(id, &amqpwire.ChannelOpenOk{})
		p.send(id, &amqpwire.ConfirmSelectOk{})
		p.send(id, &amqpwire.ChannelCloseOk{})
		synctest.Wait()
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		if len(src.events) != 0 || len(in.closed) != 0 {
			t.Error("what was not opened was closed")
		}
	})
}

func TestWithoutConfirmationsTheSourceHearsWhatWasWritten(t *testing.T) {
	p, c := connect(t)
	src := newSource()
	for i := range 3 {
		src.add(outgoing("q", "body", uint64(i+1)))
	}
	during(func() bool {
		get[*amqpwire.ChannelOpen](p)
		p.send(p.channel, &amqpwire.ChannelOpenOk{})
		return true
	}, func() {
		if _, err := c.OpenSender(t.Context(), link.SenderConfig{}, src); err != nil {
			t.Error(err)
		}
	})
	for range 3 {
		p.publish()
	}
	src.await(t, func(all []event) bool {
		return len(all) > 0 && all[len(all)-1] == event{what: "written", tag: 3}
	})
}
