package amqplink

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func TestSettlementsAreJoinedWhereItMeansTheSame(t *testing.T) {
	p, c := connect(t)
	in := newSink()
	r, id := openReceiver(t, p, c, in, false)
	for tag := uint64(1); tag <= 10; tag++ {
		p.deliver(id, tag, "body")
	}
	in.await(t, 10)
	// The writer sees them at once: none of these waits for it.
	c.mu.Lock()
	l := r.(*receiver).ledger
	l.mu.Lock()
	l.queued = true
	l.mu.Unlock()
	c.mu.Unlock()
	settle := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	settle(r.Ack(2))
	settle(r.Ack(1))
	settle(r.Ack(3))
	settle(r.Nack(4, true))
	settle(r.Nack(5, true))
	settle(r.Reject(6, false))
	settle(r.Nack(7, false))
	settle(r.Ack(10)) // 8 and 9 are outstanding
	for _, tag := range []uint64{0, 1, 6, 10, 11, 1 << 63} {
		if err := r.Ack(tag); !errors.Is(err, link.ErrSettled) {
			t.Errorf("settling %d says %v", tag, err)
		}
	}
	c.mu.Lock()
	c.dirty = append(c.dirty, r.(*receiver))
	c.mu.Unlock()
	c.signal()
	for _, want := range []amqpwire.Method{
		&amqpwire.BasicAck{DeliveryTag: 3, Multiple: true},
		&amqpwire.BasicNack{DeliveryTag: 5, Multiple: true, Requeue: true},
		&amqpwire.BasicReject{DeliveryTag: 6},
		&amqpwire.BasicNack{DeliveryTag: 7},
		&amqpwire.BasicAck{DeliveryTag: 10},
	} {
		if got := p.method(); !reflect.DeepEqual(got, want) {
			t.Errorf("got %T %+v, want %T %+v", got, got, want, want)
		}
	}
	settle(r.Ack(9))
	settle(r.Ack(8))
	seen := map[uint64]bool{}
	for !seen[8] || !seen[9] {
		m := get[*amqpwire.BasicAck](p)
		seen[m.DeliveryTag] = true
		if m.Multiple {
			seen[8], seen[9] = true, true
		}
	}
}

// TestLedgerSettlesExactlyWhatWasSettled plays a broker against the ledger: what
// frames settle is what was settled, each tag once, whatever the order.
func TestLedgerSettlesExactlyWhatWasSettled(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		l := newLedger()
		atBroker := map[uint64]bool{} // unsettled
		settledAs := map[uint64]standing{}
		var held []uint64
		next := uint64(1)
		for range 150 {
			switch rnd.IntN(4) {
			case 0, 1:
				var batch []*link.Delivery
				for range rnd.IntN(40) {
					if rnd.IntN(50) == 0 {
						next++ // a broker that counts oddly
					}
					batch = append(batch, &link.Delivery{Tag: next})
					held = append(held, next)
					atBroker[next] = true
					next++
				}
				if ok, err := l.add(batch); !ok || err != nil {
					t.Fatal(ok, err)
				}
			case 2:
				for range rnd.IntN(40) {
					if len(held) == 0 {
						break
					}
					i := rnd.IntN(min(len(held), 1+rnd.IntN(50)))
					tag := held[i]
					held = append(held[:i], held[i+1:]...)
					how := acked
					if rnd.IntN(4) == 0 {
						how = acked + standing(rnd.IntN(5))
					}
					settledAs[tag] = how
					if _, err := l.settle(tag, how); err != nil {
						t.Fatalf("seed %d: settling %d: %v", seed, tag, err)
					}
					if _, err := l.settle(tag, acked); !errors.Is(err, link.ErrSettled) {
						t.Fatalf("seed %d: settling %d again: %v", seed, tag, err)
					}
				}
			default:
				apply(t, l.appendFrames(nil, 1), atBroker, settledAs)
				if len(settledAs) != 0 {
					t.Fatalf("seed %d: not written: %v", seed, settledAs)
				}
			}
		}
		if len(l.ring) > 1<<14 {
			t.Errorf("seed %d: a ring of %d for %d held", seed, len(l.ring), len(held))
		}
	}
}

// apply does to the broker's side what frames say.
func apply(t *testing.T, frames []byte, atBroker map[uint64]bool, settledAs map[uint64]standing) {
	t.Helper()
	for len(frames) > 0 {
		f, n, err := amqpwire.ParseFrame(frames, 0)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		frames = frames[n:]
		m, err := amqpwire.ParseMethod(f.Payload)
		if err != nil {
			t.Fatal(err)
		}
		var tag uint64
		var multiple bool
		how := acked
		switch m := m.(type) {
		case *amqpwire.BasicAck:
			tag, multiple = m.DeliveryTag, m.Multiple
		case *amqpwire.BasicNack:
			if tag, multiple, how = m.DeliveryTag, m.Multiple, nackedDrop; m.Requeue {
				how = nackedRequeue
			}
		case *amqpwire.BasicReject:
			if tag, how = m.DeliveryTag, rejectedDrop; m.Requeue {
				how = rejectedRequeue
			}
		}
		if !atBroker[tag] {
			t.Fatalf("%T of %d, which is not outstanding", m, tag)
		}
		for one := range atBroker {
			if one == tag || multiple && one < tag {
				if settledAs[one] != how {
					t.Fatalf("%T %+v settles %d, which was settled as %d", m, m, one, settledAs[one])
				}
				delete(atBroker, one)
				delete(settledAs, one)
			}
		}
	}
}

func TestADeliveryTagThatCameBeforeEndsTheConnection(t *testing.T) {
	p, c := connect(t)
	_, id := openReceiver(t, p, c, newSink(), false)
	p.write(appendDelivery(appendDelivery(nil, id, 2, "a"), id, 2, "b"))
	get[*amqpwire.ConnectionClose](p)
	<-c.Done()
	kindIs(t, c.Err(), link.Protocol)
}

func TestOneReadIsOneCall(t *testing.T) {
	p, c := connect(t)
	in := newSink()
	_, id := openReceiver(t, p, c, in, false)
	var out []byte
	for tag := uint64(1); tag <= 100; tag++ {
		out = appendDelivery(out, id, tag, "body")
	}
	p.write(out)
	for i, d := range in.await(t, 100) {
		if d.Tag != uint64(i+1) || string(d.Message.Body) != "body" || d.Message.Exchange != "x" || d.Message.Key != "k" {
			t.Fatalf("delivery %d is %+v", i, d)
		}
	}
	if in.batches != 1 {
		t.Errorf("%d calls", in.batches)
	}
}

func TestCancelWaitsAndLeavesWhatWasDelivered(t *testing.T) {
	p, c := connect(t)
	in := newSink()
	r, id := openReceiver(t, p, c, in, false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get[*amqpwire.BasicCancel](p)
		p.deliver(id, 1, "late")
		p.send(id, &amqpwire.BasicCancelOk{ConsumerTag: "tag"})
	}()
	if err := r.Cancel(t.Context()); err != nil {
		t.Error(err)
	}
	if len(in.got) != 1 {
		t.Errorf("%d deliveries when Cancel returns", len(in.got))
	}
	<-ended
	if err := r.Ack(1); err != nil {
		t.Error(err)
	}
	get[*amqpwire.BasicAck](p)
}

func TestTheBrokerEndsAConsumer(t *testing.T) {
	for _, noWait := range []bool{true, false} {
		p, c := connect(t)
		in := newSink()
		r, id := openReceiver(t, p, c, in, false)
		p.deliver(id, 1, "one")
		p.send(id, &amqpwire.BasicCancel{ConsumerTag: "tag", NoWait: noWait})
		if !noWait {
			get[*amqpwire.BasicCancelOk](p)
		}
		kindIs(t, in.awaitCancelled(t), link.Unavailable)
		if len(in.got) != 1 {
			t.Errorf("%d deliveries came before", len(in.got))
		}
		if err := r.Cancel(t.Context()); err != nil {
			t.Error(err)
		}
		if err := r.Ack(1); err != nil {
			t.Error(err)
		}
		get[*amqpwire.BasicAck](p)
	}
}

func TestCloseWritesWhatWasSettledFirst(t *testing.T) {
	for range 20 {
		p, c := connect(t)
		in := newSink()
		r, id := openReceiver(t, p, c, in, false)
		for tag := uint64(1); tag <= 4; tag++ {
			p.deliver(id, tag, "body")
		}
		in.await(t, 4)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			var last uint64
			for {
				switch m := p.method().(type) {
				case *amqpwire.BasicAck:
					last = m.DeliveryTag
					continue
				case *amqpwire.ChannelClose:
					if last != 4 {
						t.Errorf("acknowledged up to %d before the close", last)
					}
					p.deliver(id, 5, "late") // it goes back with the channel
					p.send(id, &amqpwire.ChannelCloseOk{})
				default:
					t.Errorf("got %T", m)
				}
				return
			}
		}()
		for tag := uint64(1); tag <= 4; tag++ {
			if err := r.Ack(tag); err != nil {
				t.Error(err)
			}
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
		<-ended
		if err := in.awaitClosed(t); err != nil {
			t.Errorf("closed with %v", err)
		}
		if len(in.got) != 4 {
			t.Errorf("%d deliveries", len(in.got))
		}
		if err := r.Ack(4); !errors.Is(err, link.ErrClosed) {
			t.Errorf("settling after Close says %v", err)
		}
	}
}

func TestMessagesWithoutAcknowledgementAreTakenUntilCloseOk(t *testing.T) {
	p, c := connect(t)
	in := newSink()
	r, id := openReceiver(t, p, c, in, true)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get[*amqpwire.ChannelClose](p)
		p.deliver(id, 1, "late")
		p.send(id, &amqpwire.ChannelCloseOk{})
	}()
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	<-ended
	in.await(t, 1)
	_ = in.awaitClosed(t) // that it was
}

func TestAQueueOfItsOwn(t *testing.T) {
	p, c := connect(t)
	in := newSink()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get[*amqpwire.ChannelOpen](p)
		id := p.channel
		p.send(id, &amqpwire.ChannelOpenOk{})
		get[*amqpwire.BasicQos](p)
		p.send(id, &amqpwire.BasicQosOk{})
		if m := get[*amqpwire.QueueDeclare](p); !m.Exclusive || !m.AutoDelete || m.Durable || m.Queue != "" {
			t.Errorf("declared %+v", m)
		}
		p.send(id, &amqpwire.QueueDeclareOk{Queue: "amq.gen-1"})
		for _, key := range []string{"a", "b"} {
			if m := get[*amqpwire.QueueBind](p); m.Queue != "amq.gen-1" || m.Exchange != "x" || m.RoutingKey != key {
				t.Errorf("bound %+v", m)
			}
			p.send(id, &amqpwire.QueueBindOk{})
		}
		if m := get[*amqpwire.BasicConsume](p); m.Queue != "amq.gen-1" {
			t.Errorf("consumes %+v", m)
		}
		p.send(id, &amqpwire.BasicConsumeOk{ConsumerTag: "tag"})
	}()
	r, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{
		Prefetch: 5, Bindings: []link.Binding{{Exchange: "x", Key: "a"}, {Exchange: "x", Key: "b"}},
	}, in)
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	if r.Queue() != "amq.gen-1" {
		t.Errorf("the queue is %q", r.Queue())
	}
}

func TestAReceiverThatIsRefusedIsNotClosed(t *testing.T) {
	p, c := connect(t)
	in := newSink()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get[*amqpwire.ChannelOpen](p)
		p.send(p.channel, &amqpwire.ChannelOpenOk{})
		get[*amqpwire.BasicConsume](p)
		p.send(p.channel, &amqpwire.ChannelClose{ReplyCode: 404, ReplyText: "NOT_FOUND - no queue 'is down' in vhost 'v'"})
		get[*amqpwire.ChannelCloseOk](p)
	}()
	_, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "is down"}, in)
	kindIs(t, err, link.NotFound)
	<-ended
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = c.Close(ctx)
	if len(in.closed) != 0 {
		t.Error("the sink was closed")
	}
}

func TestReceiversCallsEndWithTheirContextOrTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t)
		in := newSink()
		r, _ := openReceiver(t, p, c, in, false)
		for _, call := range []func(context.Context) error{r.Cancel, r.Close} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			begin := time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it says %v", err)
			}
			if took := time.Since(begin); took > 1100*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			cancel()
		}
		time.AfterFunc(time.Second, p.nc.Cut)
		begin := time.Now()
		err := r.Close(t.Context())
		kindIs(t, err, link.Network)
		if took := time.Since(begin); took > 1100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		<-c.Done()
		in.closedWith(t, link.Network)
	})
}
