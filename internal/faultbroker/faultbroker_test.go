package faultbroker

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func TestItIsABroker(t *testing.T) {
	b := Start(t, Options{}) // on a real socket
	p := login(t, b)
	p.declare("q")
	p.confirms()
	long := strings.Repeat("x", 10000)
	p.publish("q", "one", long)
	for tag := uint64(1); tag <= 2; tag++ {
		if ack := expect[*amqpwire.BasicAck](p); *ack != (amqpwire.BasicAck{DeliveryTag: tag}) {
			t.Errorf("%+v, want the confirm of %d", ack, tag)
		}
	}
	p.publish("nowhere", "lost")
	if r := expect[*amqpwire.BasicReturn](p); r.ReplyCode != amqpwire.NoRoute || r.RoutingKey != "nowhere" || p.content() != "lost" {
		t.Errorf("%+v", r)
	}
	expect[*amqpwire.BasicAck](p)

	p.consume("q", 1)
	if got := p.delivery(); got != "1 one" {
		t.Error(got)
	}
	p.send(&amqpwire.BasicReject{DeliveryTag: 1, Requeue: true})
	if got := p.delivery(); got != "2 again one" {
		t.Error(got)
	}
	p.send(&amqpwire.BasicAck{DeliveryTag: 2})
	if got := p.delivery(); got != "3 "+long {
		t.Error(got[:10])
	}
	p.nc.Close()
	wait(t, b, func(s State) bool { return s.Conns[0].Ended && s.Queues["q"] == Queue{Ready: 1} })

	p = login(t, b)
	p.send(&amqpwire.BasicGet{Queue: "q"})
	if got := expect[*amqpwire.BasicGetOk](p); !got.Redelivered || p.content() != long {
		t.Errorf("%+v", got)
	}
	p.send(&amqpwire.BasicAck{DeliveryTag: 7})
	if c := expect[*amqpwire.ChannelClose](p); c.ReplyCode != amqpwire.PreconditionFailed {
		t.Errorf("a tag that is not outstanding: %+v", c)
	}
	p.send(&amqpwire.ChannelCloseOk{})
	p.send(&amqpwire.ChannelOpen{})
	expect[*amqpwire.ChannelOpenOk](p)
	p.send(&amqpwire.QueueDeclare{Queue: "missing", Passive: true})
	if c := expect[*amqpwire.ChannelClose](p); c.ReplyCode != amqpwire.NotFound {
		t.Errorf("a queue that is not there: %+v", c)
	}
	p.sendOn(0, &amqpwire.ConnectionClose{ReplyCode: amqpwire.ReplySuccess})
	expect[*amqpwire.ConnectionCloseOk](p)
	if _, err := p.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after close-ok: %v", err)
	}
}

func TestBindingsRoute(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, b *Broker) {
		p := login(t, b)
		p.declare("a")
		p.declare("b")
		for _, m := range []amqpwire.Method{
			&amqpwire.ExchangeDeclare{Exchange: "fan", Type: "fanout"}, &amqpwire.ExchangeDeclare{Exchange: "x", Type: "direct"},
			&amqpwire.QueueBind{Queue: "a", Exchange: "fan"}, &amqpwire.QueueBind{Queue: "b", Exchange: "fan"},
			&amqpwire.QueueBind{Queue: "b", Exchange: "x", RoutingKey: "k"},
		} {
			p.send(m)
			p.method()
		}
		for _, to := range [][2]string{{"fan", "any"}, {"x", "k"}, {"x", "other"}} {
			out, err := amqpwire.AppendPublish(nil, 1, to[0], to[1], false)
			if err != nil {
				t.Fatal(err)
			}
			p.write(amqpwire.AppendContentHeader(out, 1, 0, nil))
		}
		wait(t, b, func(s State) bool { return len(s.Publishes) == 3 })
		if s := b.Snapshot(); s.Queues["a"].Ready != 1 || s.Queues["b"].Ready != 2 || s.Publishes[2].Fate != Unroutable {
			t.Errorf("%+v", s)
		}
	})
}

// Every n-th publish meets its fault, and is confirmed or refused as it says.
func TestPublishesMeetTheirFate(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults Faults
		stored string
		acked  string // what comes for each publish
		fates  []Fate
	}{
		{"none", Faults{}, "1 2 3 4", "a a a a", []Fate{Stored, Stored, Stored, Stored}},
		{"lose", Faults{LoseEvery: 2}, "1 3", "a a a a", []Fate{Stored, Lost, Stored, Lost}},
		{"double", Faults{DoubleEvery: 3}, "1 2 3 3 4", "a a a a", []Fate{Stored, Stored, Doubled, Stored}},
		{"nack", Faults{NackEvery: 2}, "1 3", "a n a n", []Fate{Stored, Nacked, Stored, Nacked}},
		{"return", Faults{ReturnEvery: 4}, "1 2 3", "r a a a a", []Fate{Stored, Stored, Stored, Returned}},
		{"swap", Faults{SwapEvery: 2}, "2 1 4 3", "a a a a", []Fate{Stored, Stored, Stored, Stored}},
		{"swap of four", Faults{SwapEvery: 4}, "1 2 4 3", "a a a a", []Fate{Stored, Stored, Stored, Stored}},
		{"lose before double", Faults{LoseEvery: 2, DoubleEvery: 2}, "1 3", "a a a a", []Fate{Stored, Lost, Stored, Lost}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{Faults: c.faults}, func(t *testing.T, b *Broker) {
				p := login(t, b)
				p.declare("q")
				p.confirms()
				p.publish("q", "1", "2", "3", "4")
				var acked []string
				for range strings.Fields(c.acked) {
					switch p.method().(type) {
					case *amqpwire.BasicAck:
						acked = append(acked, "a")
					case *amqpwire.BasicNack:
						acked = append(acked, "n")
					case *amqpwire.BasicReturn:
						acked = append(acked, "r")
						p.content()
					}
				}
				if got := strings.Join(acked, " "); got != c.acked {
					t.Errorf("answers %q, want %q", got, c.acked)
				}
				if got := strings.Join(b.Bodies("q"), " "); got != c.stored {
					t.Errorf("stored %q, want %q", got, c.stored)
				}
				for i, publish := range b.Publishes() {
					if publish.Fate != c.fates[i] || publish.Tag != uint64(i+1) || publish.Header("x-ferry-id") != "p-"+string(publish.Body) {
						t.Errorf("publish %d: %+v, want it %s", i+1, publish, c.fates[i])
					}
				}
				p.consume("q", 0)
				for _, body := range strings.Fields(c.stored) {
					if got := strings.Fields(p.delivery()); got[len(got)-1] != body || len(got) != 2 {
						t.Errorf("delivered %q, want %s for the first time", got, body)
					}
				}
			})
		})
	}
}

func TestASwapThatIsGivenUpReleasesItsMessage(t *testing.T) {
	bubble(t, Options{Faults: Faults{SwapEvery: 2}}, func(t *testing.T, b *Broker) {
		p := login(t, b)
		p.declare("q")
		p.consume("q", 0)
		p.publish("q", "held")
		p.quiet()
		b.Set(func(f *Faults) { f.SwapEvery = 0 })
		if got := p.delivery(); got != "1 held" {
			t.Error(got)
		}
	})
}

func TestHeldConfirmsComeInAnyOrder(t *testing.T) {
	bubble(t, Options{Faults: Faults{HoldConfirms: true, ReturnEvery: 2}}, func(t *testing.T, b *Broker) {
		p := login(t, b)
		p.declare("q")
		p.confirms()
		p.publish("q", "1", "2", "3", "4", "5", "6")
		for range 3 {
			expect[*amqpwire.BasicReturn](p)
			p.content()
		}
		p.quiet()
		sent := b.Publishes()
		b.Ack(sent[4], false)
		b.Nack(sent[1], true)
		b.Set(func(f *Faults) { f.ConfirmMultiple = true })
		if held := b.Snapshot().Held; held != 3 {
			t.Errorf("%d confirms are held, want those of 3, 4 and 6", held)
		}
		b.ReleaseConfirms()
		if ack := expect[*amqpwire.BasicAck](p); *ack != (amqpwire.BasicAck{DeliveryTag: 5}) {
			t.Errorf("%+v", ack)
		}
		if nack := expect[*amqpwire.BasicNack](p); *nack != (amqpwire.BasicNack{DeliveryTag: 2, Multiple: true}) {
			t.Errorf("%+v", nack)
		}
		if ack := expect[*amqpwire.BasicAck](p); *ack != (amqpwire.BasicAck{DeliveryTag: 6, Multiple: true}) {
			t.Errorf("%+v", ack)
		}
		p.quiet()
	})
}

// A multiple confirm covers no publish of the other kind.
func TestMultipleConfirmsEndWhereTheKindChanges(t *testing.T) {
	bubble(t, Options{Faults: Faults{ConfirmMultiple: true, NackEvery: 3}}, func(t *testing.T, b *Broker) {
		p := login(t, b)
		p.declare("q")
		p.confirms()
		p.publish("q", "1", "2", "3", "4")
		if ack := expect[*amqpwire.BasicAck](p); *ack != (amqpwire.BasicAck{DeliveryTag: 2, Multiple: true}) {
			t.Errorf("%+v", ack)
		}
		if nack := expect[*amqpwire.BasicNack](p); *nack != (amqpwire.BasicNack{DeliveryTag: 3}) {
			t.Errorf("%+v", nack)
		}
		if ack := expect[*amqpwire.BasicAck](p); *ack != (amqpwire.BasicAck{DeliveryTag: 4}) {
			t.Errorf("%+v", ack)
		}
	})
}

func TestItCancelsClosesAndBlocks(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, b *Broker) {
		p := login(t, b)
		p.declare("q")
		p.consume("q", 0)
		b.Enqueue("q", Message{Body: []byte("one")})
		if got := p.delivery(); got != "1 one" {
			t.Error(got)
		}
		b.CancelConsumers()
		if c := expect[*amqpwire.BasicCancel](p); c.ConsumerTag != "c" {
			t.Errorf("%+v", c)
		}
		if s := b.Snapshot(); s.Queues["q"] != (Queue{Unsettled: 1}) {
			t.Errorf("%+v", s.Queues)
		}
		b.CloseChannels(amqpwire.PreconditionFailed, "because")
		if c := expect[*amqpwire.ChannelClose](p); c.ReplyCode != amqpwire.PreconditionFailed || c.ReplyText != "because" {
			t.Errorf("%+v", c)
		}
		p.send(&amqpwire.BasicAck{DeliveryTag: 1}) // too late: it is ignored
		p.send(&amqpwire.ChannelCloseOk{})
		p.send(&amqpwire.ChannelOpen{})
		expect[*amqpwire.ChannelOpenOk](p)
		if s := b.Snapshot(); s.Queues["q"] != (Queue{Ready: 1}) || len(s.Settlements) != 0 {
			t.Errorf("%+v", s)
		}

		b.Block("memory")
		if m := expect[*amqpwire.ConnectionBlocked](p); m.Reason != "memory" {
			t.Errorf("%+v", m)
		}
		late := dial(t, b)
		late.open(0)
		expect[*amqpwire.ConnectionBlocked](late)
		if p.declare("q") != 1 {
			t.Error("a connection is read until it publishes")
		}
		p.publish("q", "waits")
		p.quiet()
		if n := len(b.Publishes()); n != 0 {
			t.Errorf("%d publishes were taken while blocked", n)
		}
		b.Unblock()
		expect[*amqpwire.ConnectionUnblocked](p)
		expect[*amqpwire.ConnectionUnblocked](late)
		wait(t, b, func(s State) bool { return len(s.Publishes) == 1 })

		b.CloseConnections(amqpwire.ConnectionForced, "CONNECTION_FORCED - bye")
		if c := expect[*amqpwire.ConnectionClose](p); c.ReplyCode != amqpwire.ConnectionForced {
			t.Errorf("%+v", c)
		}
		p.sendOn(0, &amqpwire.ConnectionCloseOk{})
		if _, err := p.next(); !errors.Is(err, io.EOF) {
			t.Errorf("after close-ok: %v", err)
		}
	})
}

// Whatever step it is silent at, what comes before is answered and nothing
// after, and in the other case the answer is no frame.
func TestItIsSilentOrTalksGarbageAtAStep(t *testing.T) {
	steps := []struct {
		step    Step
		channel uint16
		asks    amqpwire.Method
		answers bool // false: nothing is expected of this one
	}{
		{StepHeader, 0, nil, true},
		{StepStartOk, 0, &amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00a\x00b")}, true},
		{0, 0, &amqpwire.ConnectionTuneOk{}, false},
		{StepOpen, 0, &amqpwire.ConnectionOpen{VirtualHost: "/"}, true},
		{StepChannelOpen, 1, &amqpwire.ChannelOpen{}, true},
		{StepConfirmSelect, 1, &amqpwire.ConfirmSelect{}, true},
		{StepDeclare, 1, &amqpwire.QueueDeclare{Queue: "q"}, true},
		{StepQos, 1, &amqpwire.BasicQos{}, true},
		{StepConsume, 1, &amqpwire.BasicConsume{Queue: "q", ConsumerTag: "c"}, true},
		{StepCancel, 1, &amqpwire.BasicCancel{ConsumerTag: "c"}, true},
		{StepGet, 1, &amqpwire.BasicGet{Queue: "q"}, true},
		{StepChannelClose, 1, &amqpwire.ChannelClose{}, true},
		{StepClose, 0, &amqpwire.ConnectionClose{}, true},
	}
	for _, at := range steps {
		for _, faults := range []Faults{{Silent: at.step}, {Garbage: at.step}} {
			bubble(t, Options{Faults: faults}, func(t *testing.T, b *Broker) {
				p := dial(t, b)
				for _, s := range steps {
					if s.asks == nil {
						p.write(amqpwire.ProtocolHeader[:])
					} else {
						p.sendOn(s.channel, s.asks)
					}
					if s.step == at.step && at.step != 0 {
						break
					}
					if s.answers {
						p.method()
					}
				}
				switch {
				case at.step == 0:
				case faults.Silent != 0:
					p.quiet()
				default:
					if f, err := p.next(); err == nil {
						t.Errorf("step %b: %+v, want garbage", at.step, f)
					}
				}
			})
		}
	}
}

func TestALoginCanBeRefused(t *testing.T) {
	bubble(t, Options{Faults: Faults{RefuseLogin: true}}, func(t *testing.T, b *Broker) {
		p := dial(t, b)
		p.write(amqpwire.ProtocolHeader[:])
		expect[*amqpwire.ConnectionStart](p)
		p.sendOn(0, &amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00ada\x00x")})
		if c := expect[*amqpwire.ConnectionClose](p); c.ReplyCode != amqpwire.AccessRefused {
			t.Errorf("%+v", c)
		}
		if user := b.Snapshot().Conns[0].User; user != "ada" {
			t.Errorf("user %q", user)
		}
	})
}

func TestHeartbeatsAreSentUnlessTheyAreNot(t *testing.T) {
	bubble(t, Options{Heartbeat: 10}, func(t *testing.T, b *Broker) {
		p := dial(t, b)
		p.open(10)
		begun := time.Now()
		for range 2 {
			if f := p.frame(); f.Type != amqpwire.FrameHeartbeat {
				t.Fatalf("%+v", f)
			}
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("two heartbeats took %v, want one each half interval", took)
		}
		b.Set(func(f *Faults) { f.NoHeartbeats = true })
		p.quiet()
		p.write(amqpwire.AppendHeartbeat(nil))
		wait(t, b, func(s State) bool { return s.Conns[0].Heartbeats == 1 })
	})
}

func TestPauseAnswersNothingAndLosesNothing(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, b *Broker) {
		p := login(t, b)
		b.Pause()
		p.send(&amqpwire.QueueDeclare{Queue: "q"})
		late := dial(t, b)
		late.write(amqpwire.ProtocolHeader[:])
		p.quiet()
		late.quiet()
		b.Resume()
		expect[*amqpwire.QueueDeclareOk](p)
		expect[*amqpwire.ConnectionStart](late)
	})
}

func TestDownAndUpKeepsQueues(t *testing.T) {
	for name, start := range map[string]func(*testing.T, func(*testing.T, *Broker)){
		"in a bubble": func(t *testing.T, f func(*testing.T, *Broker)) { bubble(t, Options{}, f) },
		"TCP":         func(t *testing.T, f func(*testing.T, *Broker)) { f(t, Start(t, Options{})) },
	} {
		t.Run(name, func(t *testing.T) {
			start(t, func(t *testing.T, b *Broker) {
				p := login(t, b)
				p.declare("q")
				b.Enqueue("q", Message{Body: []byte("one")})
				p.consume("q", 0)
				p.delivery()
				addr := b.Addr()
				b.Down()
				if _, err := p.next(); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the connection: %v, want that it is reset", err)
				}
				if _, err := b.Dialer()(t.Context(), "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a new one: %v, want that it is refused", err)
				}
				if err := b.Up(); err != nil || b.Addr() != addr {
					t.Fatalf("%v; %s, want %s", err, b.Addr(), addr)
				}
				p = login(t, b)
				p.consume("q", 0)
				if got := p.delivery(); got != "1 again one" {
					t.Error(got)
				}
				if s := b.Snapshot(); s.Open() != 1 || len(s.Conns) != 2 {
					t.Errorf("%+v", s.Conns)
				}
			})
		})
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, b *Broker) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Wait(ctx, func(State) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestEverythingIsRecordedInTheOrderOfTheWire(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, b *Broker) {
		p := login(t, b)
		p.declare("q")
		b.Enqueue("q", Message{Body: []byte("1")}, Message{Body: []byte("2")}, Message{Body: []byte("3")})
		p.consume("q", 0)
		for range 3 {
			p.delivery()
		}
		p.send(&amqpwire.BasicAck{DeliveryTag: 2, Multiple: true})
		p.send(&amqpwire.BasicNack{DeliveryTag: 3, Requeue: false})
		wait(t, b, func(s State) bool { return len(s.Settlements) == 2 })
		s := b.Snapshot()
		want := []Settlement{{Conn: 1, Channel: 1, Tag: 2, Ack: true, Multiple: true}, {Conn: 1, Channel: 1, Tag: 3}}
		if !slices.Equal(s.Settlements, want) {
			t.Errorf("%+v, want %+v", s.Settlements, want)
		}
		if s.Delivered != 3 || s.Queues["q"] != (Queue{Consumers: 1}) {
			t.Errorf("%+v", s)
		}
		if c := s.Conns[0]; c.VHost != "/v" || c.Tuned.FrameMax != 4096 || !c.Open || c.Channels != 1 {
			t.Errorf("%+v", c)
		}
		last := s.Methods[len(s.Methods)-1]
		if nack, ok := last.Method.(*amqpwire.BasicNack); !ok || nack.DeliveryTag != 3 || last.Channel != 1 {
			t.Errorf("%+v", last)
		}
		b.Inject(1, []byte("not a frame"))
		if _, err := p.next(); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("what was injected: %v", err)
		}
	})
}
