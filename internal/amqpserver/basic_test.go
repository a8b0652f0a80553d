package amqpserver

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// full has every property and a header of every type.
func full() amqpwire.Properties {
	return amqpwire.Properties{
		ContentType: "text/plain", ContentEncoding: "gzip", DeliveryMode: amqpwire.Persistent, Priority: 7,
		CorrelationID: "c", ReplyTo: "r", Expiration: "60000", MessageID: "m", Type: "t", UserID: "guest", AppID: "a",
		Timestamp: time.Unix(1_700_000_000, 0).UTC(),
		Headers: amqpwire.Table{
			"nil": nil, "bool": true, "int8": int8(-1), "uint8": uint8(2), "int16": int16(-3), "uint16": uint16(4),
			"int32": int32(-5), "uint32": uint32(6), "int64": int64(-7), "float32": float32(0.5), "float64": 0.25,
			"decimal": amqpwire.Decimal{Scale: 2, Value: 314}, "text": "text", "bytes": []byte{1, 2},
			"time": time.Unix(1_600_000_000, 0).UTC(), "array": []any{int32(1), "two"},
			"table": amqpwire.Table{"in": amqpwire.Table{"deep": true}},
		},
	}
}

func TestMessagesCrossUnchanged(t *testing.T) {
	for name, props := range map[string]amqpwire.Properties{"none": {}, "all": full()} {
		// Sizes around those where the way of a body changes.
		for _, size := range []int{0, 1, 1000, directMin - 1, directMin, directMin + 1, 60_000, 131_063, 131_064, 131_065, 300_000} {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				f := newFixture(t)
				p := f.open()
				p.declare(&amqpwire.QueueDeclare{Queue: "q"})
				p.send(1, &amqpwire.QueueBind{Queue: "q", Exchange: "amq.topic", RoutingKey: "a.#"})
				p.expect(1, &amqpwire.QueueBindOk{})
				body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
				for i := range 3 {
					p.write(published(1, "amq.topic", fmt.Sprint("a.", i), props, body))
				}
				p.send(1, &amqpwire.BasicConsume{Queue: "q", ConsumerTag: "tag", NoAck: true})
				p.expect(1, &amqpwire.BasicConsumeOk{})
				for i := range 3 {
					m := expect[*amqpwire.BasicDeliver](p, 1)
					want := &amqpwire.BasicDeliver{ConsumerTag: "tag", DeliveryTag: uint64(i + 1), Exchange: "amq.topic", RoutingKey: fmt.Sprint("a.", i)}
					if !reflect.DeepEqual(m, want) {
						t.Errorf("got %+v, want %+v", m, want)
					}
					gotProps, gotBody := p.body(1)
					if !reflect.DeepEqual(gotProps, props) {
						t.Errorf("got %+v, want %+v", gotProps, props)
					}
					if gotBody != body {
						t.Errorf("got a body of %d bytes, want %d", len(gotBody), len(body))
					}
				}
			})
		}
	}
}

// The peer's frame_max bounds each frame that is sent to it, however large the
// message.
func TestFramesAreNoLargerThanNegotiated(t *testing.T) {
	f := newFixture(t)
	big := f.open()
	big.declare(&amqpwire.QueueDeclare{Queue: "q"})
	body := strings.Repeat("x", 100_000)
	big.publish("", "q", body)
	big.ping(1)

	p := f.dial()
	p.start()
	p.send(0, startOk("guest", "guest"), &amqpwire.ConnectionTuneOk{ChannelMax: 1, FrameMax: 4096}, &amqpwire.ConnectionOpen{VirtualHost: "/"})
	p.expect(0, &amqpwire.ConnectionTune{})
	p.expect(0, &amqpwire.ConnectionOpenOk{})
	p.call(1, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
	p.send(1, &amqpwire.BasicGet{Queue: "q"})
	p.expect(1, &amqpwire.BasicGetOk{})
	if _, err := p.read(); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < len(body); {
		frame, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		if n := len(frame.Payload); n > 4088 || n < 4088 && got+n < len(body) {
			t.Fatalf("a body frame with %d bytes of payload", n)
		}
		got += len(frame.Payload)
	}
	// The number of channels is negotiated too.
	p.send(2, &amqpwire.ChannelOpen{})
	want := closed{530, "NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (1)", 0, 0}
	if got := p.expectConnectionClose(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Frames of several channels and heartbeats may come between those of a content.
func TestContentsOfSeveralChannelsInterleave(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.call(2, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
	p.declare(&amqpwire.QueueDeclare{Queue: "q"})
	publish := &amqpwire.BasicPublish{RoutingKey: "q"}
	beat := rawFrame(8, 0, "")
	p.write(join(
		frames(1, publish), frames(2, publish), beat,
		header(2, 6), header(1, 40_000), beat,
		rawFrame(3, 1, strings.Repeat("a", 20_000)),
		rawFrame(3, 2, "two"), frames(0, &amqpwire.ConnectionUpdateSecret{}),
		rawFrame(3, 1, strings.Repeat("b", 20_000)), // complete: the first in the queue
		rawFrame(3, 2, ""), rawFrame(3, 2, "2nd"),
	))
	p.expect(0, &amqpwire.ConnectionUpdateSecretOk{})
	p.ping(2)
	for _, want := range []string{strings.Repeat("a", 20_000) + strings.Repeat("b", 20_000), "two2nd"} {
		p.send(1, &amqpwire.BasicGet{Queue: "q", NoAck: true})
		p.expect(1, &amqpwire.BasicGetOk{})
		if _, body := p.body(1); body != want {
			t.Errorf("got %.20q… of %d bytes, want %.20q… of %d", body, len(body), want, len(want))
		}
	}
}

func TestConfirmsComeAfterReturns(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.call(1, &amqpwire.ConfirmSelect{}, &amqpwire.ConfirmSelectOk{})
	p.write(contentFrames(1, &amqpwire.BasicPublish{Exchange: "amq.direct", RoutingKey: "nowhere", Mandatory: true}, full(), "back"))
	want := &amqpwire.BasicReturn{ReplyCode: 312, ReplyText: "NO_ROUTE", Exchange: "amq.direct", RoutingKey: "nowhere"}
	if m := expect[*amqpwire.BasicReturn](p, 1); !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v, want %+v", m, want)
	}
	if props, body := p.body(1); body != "back" || !reflect.DeepEqual(props, full()) {
		t.Errorf("got %+v %q", props, body)
	}
	if m := expect[*amqpwire.BasicAck](p, 1); *m != (amqpwire.BasicAck{DeliveryTag: 1}) {
		t.Errorf("got %+v", m)
	}
}

func TestEveryPublishIsConfirmedOnce(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.declare(&amqpwire.QueueDeclare{Queue: "q", Durable: true})
	p.call(1, &amqpwire.ConfirmSelect{}, &amqpwire.ConfirmSelectOk{})
	const n = 1000
	var b []byte
	for i := range n {
		mode := amqpwire.Persistent
		if i%3 == 0 {
			mode = amqpwire.Transient
		}
		b = append(b, published(1, "", "q", amqpwire.Properties{DeliveryMode: mode}, "x")...)
	}
	p.write(b)
	seen := make([]bool, n+1)
	for left, low := n, uint64(1); left > 0; {
		m := expect[*amqpwire.BasicAck](p, 1)
		from := m.DeliveryTag
		if m.Multiple {
			from = low
		}
		for tag := from; tag <= m.DeliveryTag; tag++ {
			if !seen[tag] {
				left--
			} else if !m.Multiple {
				t.Fatalf("tag %d is confirmed twice", tag)
			}
			seen[tag] = true
		}
		for low <= n && seen[low] {
			low++
		}
	}
	p.ping(1) // and nothing more comes
}

// A message with an identity is stored once, however often its publisher sends
// it, and confirmed each time. The mark of a resend is not delivered, so that
// who publishes what it received does not send it again, but another message.
func TestMessagesWithAnIdentityAreStoredOnce(t *testing.T) {
	f := newFixture(t)
	bodies := []string{"", "small", strings.Repeat("x", directMin+1), strings.Repeat("y", 300_000)}
	for i := range 2 {
		p := f.open()
		p.declare(&amqpwire.QueueDeclare{Queue: "q", Durable: true})
		p.call(1, &amqpwire.ConfirmSelect{}, &amqpwire.ConfirmSelectOk{})
		for n, body := range bodies {
			props := amqpwire.Properties{DeliveryMode: amqpwire.Persistent, Headers: amqpwire.Table{
				"x-ferry-id": fmt.Sprintf("p0-%d", n+1), "x-ferry-attempt": int32(i + 2),
			}}
			p.write(published(1, "", "q", props, body))
			if m := expect[*amqpwire.BasicAck](p, 1); *m != (amqpwire.BasicAck{DeliveryTag: uint64(n + 1)}) {
				t.Errorf("got %+v", m)
			}
		}
	}
	p := f.open()
	p.send(1, &amqpwire.BasicConsume{Queue: "q", ConsumerTag: "tag", NoAck: true})
	p.expect(1, &amqpwire.BasicConsumeOk{})
	check := func(n int, props amqpwire.Properties, body string) {
		t.Helper()
		if want := (amqpwire.Table{"x-ferry-id": fmt.Sprintf("p0-%d", n+1)}); body != bodies[n] || !reflect.DeepEqual(props.Headers, want) {
			t.Errorf("message %d: got %d bytes, %v", n+1, len(body), props.Headers)
		}
	}
	for n := range bodies {
		expect[*amqpwire.BasicDeliver](p, 1)
		props, body := p.body(1)
		check(n, props, body)
	}
	for n, body := range bodies {
		props := amqpwire.Properties{DeliveryMode: amqpwire.Persistent, Headers: amqpwire.Table{"x-ferry-id": fmt.Sprintf("p0-%d", n+1)}}
		p.write(published(1, "", "q", props, body))
		expect[*amqpwire.BasicDeliver](p, 1)
		props, body := p.body(1)
		check(n, props, body)
	}
	p.ping(1) // and nothing more comes
}

func TestNoWaitIsNotAnswered(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.send(1,
		&amqpwire.ExchangeDeclare{Exchange: "e", Type: "direct", NoWait: true},
		&amqpwire.ExchangeDeclare{Exchange: "f", Type: "direct", NoWait: true},
		&amqpwire.ExchangeBind{Destination: "f", Source: "e", RoutingKey: "k", NoWait: true},
		&amqpwire.QueueDeclare{Queue: "q", NoWait: true},
		&amqpwire.QueueBind{Queue: "q", Exchange: "f", RoutingKey: "k", NoWait: true},
		&amqpwire.ConfirmSelect{NoWait: true})
	p.publish("e", "k", "through both")
	p.expect(1, &amqpwire.BasicAck{})
	p.send(1, &amqpwire.BasicConsume{Queue: "q", ConsumerTag: "tag", NoWait: true})
	p.expect(1, &amqpwire.BasicDeliver{})
	if _, body := p.body(1); body != "through both" {
		t.Errorf("got %q", body)
	}
	p.send(1,
		&amqpwire.BasicCancel{ConsumerTag: "tag", NoWait: true},
		&amqpwire.QueuePurge{Queue: "q", NoWait: true},
		&amqpwire.QueueDelete{Queue: "q", NoWait: true},
		&amqpwire.ExchangeUnbind{Destination: "f", Source: "e", RoutingKey: "k", NoWait: true},
		&amqpwire.ExchangeDelete{Exchange: "e", NoWait: true})
	p.ping(1)
}

// An empty name is the last queue declared on the channel; an empty key with it
// is that queue's name.
func TestEmptyQueueNameIsTheLastDeclared(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	name := p.declare(&amqpwire.QueueDeclare{Exclusive: true})
	if !strings.HasPrefix(name, "amq.gen-") {
		t.Errorf("the server named it %q", name)
	}
	p.call(1, &amqpwire.QueueBind{Exchange: "amq.direct"}, &amqpwire.QueueBindOk{})
	p.publish("amq.direct", name, "one")
	p.publish("amq.direct", "", "elsewhere")
	p.send(1, &amqpwire.BasicGet{})
	p.expect(1, &amqpwire.BasicGetOk{})
	p.body(1)
	p.call(1, &amqpwire.BasicGet{}, &amqpwire.BasicGetEmpty{})
	p.call(1, &amqpwire.QueueUnbind{Exchange: "amq.direct"}, &amqpwire.QueueUnbindOk{})
	p.publish("", name, "two")
	p.send(1, &amqpwire.QueuePurge{})
	if m := expect[*amqpwire.QueuePurgeOk](p, 1); m.MessageCount != 1 {
		t.Errorf("got %+v", m)
	}
	p.send(1, &amqpwire.BasicConsume{})
	if m := expect[*amqpwire.BasicConsumeOk](p, 1); !strings.HasPrefix(m.ConsumerTag, "amq.ctag-") {
		t.Errorf("got %+v", m)
	}
	p.call(1, &amqpwire.QueueDelete{}, &amqpwire.BasicCancel{}) // its consumer is told
	p.expect(1, &amqpwire.QueueDeleteOk{})
}

func TestGetTellsHowManyAreLeft(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.declare(&amqpwire.QueueDeclare{Queue: "q"})
	for _, b := range []string{"a", "b", "c"} {
		p.publish("", "q", b)
	}
	p.send(1, &amqpwire.BasicGet{Queue: "q"})
	want := &amqpwire.BasicGetOk{DeliveryTag: 1, RoutingKey: "q", MessageCount: 2}
	if m := expect[*amqpwire.BasicGetOk](p, 1); !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v, want %+v", m, want)
	}
	p.body(1)
	p.send(1, &amqpwire.BasicReject{DeliveryTag: 1, Requeue: true}, &amqpwire.BasicGet{Queue: "q"})
	want = &amqpwire.BasicGetOk{DeliveryTag: 2, Redelivered: true, RoutingKey: "q", MessageCount: 2}
	if m := expect[*amqpwire.BasicGetOk](p, 1); !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v, want %+v", m, want)
	}
	if _, body := p.body(1); body != "a" {
		t.Errorf("got %q", body)
	}
}

func TestTransactionsAndRecover(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.declare(&amqpwire.QueueDeclare{Queue: "q"})
	p.call(1, &amqpwire.TxSelect{}, &amqpwire.TxSelectOk{})
	p.publish("", "q", "rolled back")
	p.call(1, &amqpwire.TxRollback{}, &amqpwire.TxRollbackOk{})
	p.publish("", "q", strings.Repeat("committed", 10_000))
	p.call(1, &amqpwire.BasicGet{Queue: "q"}, &amqpwire.BasicGetEmpty{})
	p.call(1, &amqpwire.TxCommit{}, &amqpwire.TxCommitOk{})
	p.call(2, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
	p.call(2, &amqpwire.BasicConsume{Queue: "q"}, &amqpwire.BasicConsumeOk{})
	for _, redelivered := range []bool{false, true} {
		if m := expect[*amqpwire.BasicDeliver](p, 2); m.Redelivered != redelivered {
			t.Errorf("got %+v", m)
		}
		if _, body := p.body(2); !strings.HasPrefix(body, "committed") {
			t.Errorf("got %q", body)
		}
		if redelivered {
			break
		}
		p.send(2, &amqpwire.BasicRecoverAsync{Requeue: true})
	}
	p.send(2, &amqpwire.BasicAck{Multiple: true})
	p.call(2, &amqpwire.BasicRecover{Requeue: true}, &amqpwire.BasicRecoverOk{})
}

func TestWhatOldClientsAskFor(t *testing.T) {
	p := newFixture(t).open()
	p.call(1, &amqpwire.ChannelFlow{Active: true}, &amqpwire.ChannelFlowOk{})
	p.call(1, &amqpwire.AccessRequest{Realm: "/data", Active: true}, &amqpwire.AccessRequestOk{})
}
