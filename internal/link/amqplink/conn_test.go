package amqplink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func TestTheBrokerClosesTheConnection(t *testing.T) {
	p, c := connect(t)
	src, in := newSource(), newSink()
	src.add(outgoing("q", "one", 1))
	_, id := openSender(t, p, c, src)
	p.publish()
	r, id2 := openReceiver(t, p, c, in, false)
	// What came before it in the same read counts.
	out := amqpwire.AppendAck(nil, id, 1, false)
	out = appendDelivery(out, id2, 1, "last")
	out, err := amqpwire.AppendMethod(out, 0, &amqpwire.ConnectionClose{ReplyCode: 320, ReplyText: "CONNECTION_FORCED - shutdown"})
	if err != nil {
		t.Fatal(err)
	}
	p.write(out)
	get[*amqpwire.ConnectionCloseOk](p)
	if p.method() != nil {
		t.Error("something follows close-ok")
	}
	<-c.Done()
	kindIs(t, c.Err(), link.Forced)
	got := src.await(t, has("closed"))
	if len(got) != 2 || got[0].what != "settled" {
		t.Errorf("the source was told %+v", got)
	}
	in.closedWith(t, link.Forced)
	if len(in.got) != 1 {
		t.Errorf("%d deliveries", len(in.got))
	}
	if err := r.Ack(1); !errors.Is(err, link.ErrClosed) {
		t.Errorf("settling says %v", err)
	}
	checkGoroutines(t)
	for range 2 {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.OpenSender(t.Context(), link.SenderConfig{}, newSource()); err == nil {
		t.Error("a sender was opened after the end")
	}
	if _, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{}, newSink()); err == nil {
		t.Error("a receiver was opened after the end")
	}
	for _, r := range c.Declare(t.Context(), []link.Item{link.Queue{}, link.Queue{}}) {
		kindIs(t, r.Err, link.Forced)
	}
}

func TestALostConnectionEndsEverythingOnce(t *testing.T) {
	p, c := connect(t)
	var sources []*source
	var sinks []*sink
	for range 3 {
		src, in := newSource(), newSink()
		openSender(t, p, c, src)
		openReceiver(t, p, c, in, false)
		sources, sinks = append(sources, src), append(sinks, in)
	}
	opening := make(chan error)
	late := newSource()
	go func() {
		_, err := c.OpenSender(context.Background(), link.SenderConfig{Confirm: true}, late)
		opening <- err
	}()
	get[*amqpwire.ChannelOpen](p)
	p.nc.Cut()
	kindIs(t, <-opening, link.Network)
	<-c.Done()
	checkGoroutines(t)
	kindIs(t, c.Err(), link.Network)
	for i := range sources {
		if len(sources[i].events) != 1 || len(sinks[i].closed) != 1 {
			t.Errorf("told %+v and %v", sources[i].events, sinks[i].closed)
		}
		kindIs(t, sources[i].events[0].err, link.Network)
	}
	if len(late.events) != 0 {
		t.Errorf("one that was not opened was told %+v", late.events)
	}
}

func TestCloseWritesWhatWasSettledAndTellsTheBroker(t *testing.T) {
	p, c := connect(t)
	src, in := newSource(), newSink()
	src.add(outgoing("q", "one", 1))
	_, id := openSender(t, p, c, src)
	p.publish()
	r, id2 := openReceiver(t, p, c, in, false)
	p.deliver(id2, 1, "body")
	in.await(t, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get[*amqpwire.BasicAck](p)
		get[*amqpwire.ConnectionClose](p)
		p.send(id, &amqpwire.BasicAck{DeliveryTag: 1})
		p.send(0, &amqpwire.ConnectionCloseOk{})
	}()
	if err := r.Ack(1); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := c.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	<-ended
	checkGoroutines(t)
	if err := c.Err(); err != nil {
		t.Errorf("Err after Close is %v", err)
	}
	got := src.await(t, has("closed"))
	if len(got) != 2 || got[0].what != "settled" {
		t.Errorf("told %+v", got)
	}
	kindIs(t, got[1].err, link.Closed)
	in.closedWith(t, link.Closed)
}

func TestCloseIsCutWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t)
		src := newSource()
		s, _ := openSender(t, p, c, src)
		for i := range 100 { // more than the network holds
			src.add(outgoing("q", string(make([]byte, 10000)), uint64(i+1)))
		}
		s.Wake()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close says %v", err)
		}
		if took := time.Since(begin); took > 1100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		kindIs(t, src.await(t, has("closed"))[0].err, link.Closed)
	})
}

func TestWhatIsNoProtocolEndsTheConnection(t *testing.T) {
	header := amqpwire.AppendContentHeader
	for name, frames := range map[string]func(sender, receiver uint16) []byte{
		"garbage":          func(_, _ uint16) []byte { return []byte("garbage, garbage") },
		"unknown channel":  func(_, _ uint16) []byte { return amqpwire.AppendAck(nil, 77, 1, false) },
		"body alone":       func(_, r uint16) []byte { return amqpwire.AppendBody(nil, r, []byte("x"), 0) },
		"header alone":     func(_, r uint16) []byte { return header(nil, r, 1, nil) },
		"confirmation":     func(_, r uint16) []byte { return amqpwire.AppendAck(nil, r, 1, false) },
		"delivery":         func(s, _ uint16) []byte { return appendDelivery(nil, s, 1, "x") },
		"content on 0":     func(_, _ uint16) []byte { return amqpwire.AppendBody(nil, 0, []byte("x"), 0) },
		"answer":           func(s, _ uint16) []byte { return mustAppend(s, &amqpwire.QueueDeclareOk{}) },
		"close-ok":         func(s, _ uint16) []byte { return mustAppend(s, &amqpwire.ChannelCloseOk{}) },
		"connection":       func(_, _ uint16) []byte { return mustAppend(0, &amqpwire.ConnectionOpenOk{}) },
		"unasked close-ok": func(_, _ uint16) []byte { return mustAppend(0, &amqpwire.ConnectionCloseOk{}) },
		"return":           func(_, r uint16) []byte { return mustAppend(r, &amqpwire.BasicReturn{}) },
		"within a message": func(_, r uint16) []byte {
			return amqpwire.AppendAck(appendDelivery(nil, r, 1, "body")[:38], r, 1, false)
		},
		"too large": func(_, r uint16) []byte {
			out, _ := amqpwire.AppendDeliver(nil, r, "t", 1, false, nil, nil)
			return header(out, r, transport.BodyMost+1, nil)
		},
		"more than it said": func(_, r uint16) []byte {
			out, _ := amqpwire.AppendDeliver(nil, r, "t", 1, false, nil, nil)
			return amqpwire.AppendBody(header(out, r, 1, nil), r, []byte("xx"), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, c := connect(t)
			src, in := newSource(), newSink()
			_, id := openSender(t, p, c, src)
			_, id2 := openReceiver(t, p, c, in, false)
			p.write(frames(id, id2))
			get[*amqpwire.ConnectionClose](p)
			<-c.Done()
			kindIs(t, c.Err(), link.Protocol)
			checkGoroutines(t)
		})
	}
}

func mustAppend(channel uint16, m amqpwire.Method) []byte {
	out, err := amqpwire.AppendMethod(nil, channel, m)
	if err != nil {
		panic(err)
	}
	return out
}

func TestAnItemThatIsRefusedFailsAlone(t *testing.T) {
	p, c := connect(t)
	items := []link.Item{
		link.Exchange{Name: "x", Kind: "topic", AutoDelete: true},
		link.Queue{Name: "a"},
		link.Queue{Name: "refused"},
		link.Binding{Exchange: "x", Key: "k", Queue: "a"},
		link.Queue{Name: string(make([]byte, 256))},
		link.Unbinding{Exchange: "x", Destination: "y"},
		link.QueuePurge{Name: "a"},
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get[*amqpwire.ChannelOpen](p)
		p.send(p.channel, &amqpwire.ChannelOpenOk{})
		if m := get[*amqpwire.ExchangeDeclare](p); m.Type != "topic" || !m.Durable || !m.AutoDelete {
			t.Errorf("declared %+v", m)
		}
		if m := get[*amqpwire.QueueDeclare](p); !m.Durable {
			t.Errorf("declared %+v", m)
		}
		get[*amqpwire.QueueDeclare](p) // it is sent before the answers
		get[*amqpwire.QueueBind](p)
		p.send(p.channel, &amqpwire.ExchangeDeclareOk{})
		p.send(p.channel, &amqpwire.QueueDeclareOk{Queue: "a", MessageCount: 3, ConsumerCount: 2})
		p.send(p.channel, &amqpwire.ChannelClose{ReplyCode: 406, ReplyText: "PRECONDITION_FAILED - inequivalent arg 'durable'"})
		get[*amqpwire.ChannelCloseOk](p)
		get[*amqpwire.ChannelOpen](p)
		p.send(p.channel, &amqpwire.ChannelOpenOk{})
		get[*amqpwire.QueueBind](p)
		p.send(p.channel, &amqpwire.QueueBindOk{})
		get[*amqpwire.ExchangeUnbind](p)
		get[*amqpwire.QueuePurge](p)
		p.send(p.channel, &amqpwire.ExchangeUnbindOk{})
		p.send(p.channel, &amqpwire.QueuePurgeOk{MessageCount: 3})
	}()
	results := c.Declare(t.Context(), items)
	<-ended
	kindIs(t, results[2].Err, link.Precondition)
	kindIs(t, results[4].Err, link.Precondition)
	results[2].Err, results[4].Err = nil, nil
	want := []link.Result{{}, {Name: "a", Messages: 3, Consumers: 2}, {}, {}, {}, {}, {Messages: 3}}
	for i := range want {
		if results[i] != want[i] {
			t.Errorf("item %d: %+v", i, results[i])
		}
	}
}

func TestDeclareEndsWithTheConnection(t *testing.T) {
	p, c := connect(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get[*amqpwire.ChannelOpen](p)
		p.send(p.channel, &amqpwire.ChannelOpenOk{})
		get[*amqpwire.QueueDeclare](p)
		get[*amqpwire.ExchangeDeclare](p)
		p.send(p.channel, &amqpwire.QueueDeclareOk{Queue: "a"})
		p.send(0, &amqpwire.ConnectionClose{ReplyCode: 503, ReplyText: "COMMAND_INVALID - unknown exchange type 'x'"})
	}()
	results := c.Declare(t.Context(), []link.Item{link.Queue{Name: "a"}, link.Exchange{Kind: "x"}, link.Queue{Name: "b"}})
	<-ended
	if results[0].Err != nil {
		t.Error(results[0].Err)
	}
	kindIs(t, results[1].Err, link.NotAllowed)
	kindIs(t, results[2].Err, link.NotAllowed)
}

// What is there is taken as it is; what is not is declared in its place in the
// order.
func TestQueueIsDeclaredIfItIsAbsent(t *testing.T) {
	c := mustOpen(t, link.Options{Endpoint: mustParse(t, startFerry(t))})
	for _, r := range c.Declare(t.Context(), []link.Item{link.Queue{Name: "there", Transient: true}}) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	results := c.Declare(t.Context(), []link.Item{
		link.Queue{Name: "there", IfAbsent: true},
		link.Queue{Name: "new", IfAbsent: true},
		link.Binding{Exchange: "amq.fanout", Queue: "new"},
		link.Queue{Name: "there"},
		link.Queue{Name: "another", IfAbsent: true},
	})
	for i, r := range results {
		if refused := i == 3; refused != (r.Err != nil) {
			t.Errorf("%d: %v", i, r.Err)
		}
	}
	kindIs(t, results[3].Err, link.Precondition)
}

func TestDeclaringAtTheSameTime(t *testing.T) {
	c := mustOpen(t, link.Options{Endpoint: mustParse(t, startFerry(t))})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			var items []link.Item
			for i := range 100 {
				items = append(items,
					link.Queue{Name: fmt.Sprintf("q-%d-%d", g, i)},
					link.Queue{Name: fmt.Sprintf("none-%d-%d", g, i), Passive: i%10 == 0})
			}
			for i, r := range c.Declare(context.Background(), items) {
				refused := i%20 == 1
				var e *link.Error
				if refused != (errors.As(r.Err, &e) && e.Kind == link.NotFound) || !refused && r.Err != nil {
					t.Errorf("%+v: %v", items[i], r.Err)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzPeer lets a peer say anything once the connection is open: it ends, and
// nothing panics or hangs.
func FuzzPeer(f *testing.F) {
	f.Add([]byte("garbage"))
	f.Add(appendDelivery(nil, 2, 1, "body"))
	f.Add(mustAppend(1, &amqpwire.ChannelClose{ReplyCode: 404}))
	f.Add(mustAppend(0, &amqpwire.ConnectionClose{ReplyCode: 320}))
	f.Add(append(amqpwire.AppendAck(nil, 1, 1, true), mustAppend(2, &amqpwire.BasicCancel{ConsumerTag: "tag"})...))
	f.Add(append(mustAppend(1, &amqpwire.BasicReturn{ReplyCode: 312}), amqpwire.AppendContentHeader(nil, 1, 0, nil)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			p, c := connect(t)
			src, in := newSource(), newSink()
			src.add(outgoing("q", "one", 1))
			openSender(t, p, c, src)
			p.publish()
			openReceiver(t, p, c, in, false)
			go func() { // what the client says does not matter
				buf := make([]byte, 4096)
				for {
					if _, err := p.nc.Read(buf); err != nil {
						return
					}
				}
			}()
			for len(b) > 0 { // in pieces, as a network would have it
				n := 1 + rand.IntN(min(len(b), 100))
				if _, err := p.nc.Write(b[:n]); err != nil {
					break
				}
				b = b[n:]
			}
			if err := p.nc.CloseWrite(); err != nil {
				t.Log(err) // the client has cut it
			}
			<-c.Done()
			src.await(t, has("closed"))
			_ = in.awaitClosed(t) // that it was
		})
	})
}
