package amqpserver

import (
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// newReader is the reader of a connection that has no network.
func newReader(t testing.TB, b *broker.Broker) (*reader, *channel) {
	t.Helper()
	s, err := b.OpenSession(broker.SessionConfig{VHost: "/", User: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{session: s, nc: &netserve.Conn{}, peer: peer{frameMax: DefaultFrameMax}}
	ch := &channel{id: 1, broker: s.OpenChannel(1)}
	return &reader{conn: c, limit: DefaultFrameMax, channels: map[uint16]*channel{1: ch}}, ch
}

// What this package does for a message costs no allocation; what is left is the
// broker's: less than one for each message.
func TestPublishCostsNoAllocationHere(t *testing.T) {
	f := newFixture(t)
	r, _ := newReader(t, f.broker)
	defer r.session.Close()
	props := full()
	props.DeliveryMode = 0
	b := published(1, "amq.fanout", "key", props, "a body of a hundred bytes or so")
	per := testing.AllocsPerRun(2000, func() {
		frame, size, err := parseFrame(b, r.limit)
		if err != nil {
			t.Fatal(err)
		}
		used, _, err := r.publish(frame, b, size)
		if err != nil || used != len(b) {
			t.Fatalf("used %d of %d: %v", used, len(b), err)
		}
	})
	if per >= 1 {
		t.Errorf("%v allocations a publish", per)
	}
}

func TestPropertiesAreTranslatedWithoutAllocation(t *testing.T) {
	a, err := amqpwire.AppendProperties(nil, &amqpwire.Properties{MessageID: "1", Headers: amqpwire.Table{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := amqpwire.AppendProperties(nil, &amqpwire.Properties{MessageID: "2", Headers: amqpwire.Table{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	var in propertiesIn
	var out propertiesOut
	per := testing.AllocsPerRun(100, func() {
		for _, raw := range [][]byte{a, a, b, b} {
			if err := in.translate(raw); err != nil {
				t.Fatal(err)
			}
			got, err := out.translate(in.list, in.persistent)
			if err != nil || string(got) != string(raw) {
				t.Fatalf("got %q (%v), want %q", got, err, raw)
			}
		}
	})
	if per != 0 {
		t.Errorf("%v allocations", per)
	}
}

func TestDeliveryIsEncodedWithoutAllocation(t *testing.T) {
	f := newFixture(t)
	r, ch := newReader(t, f.broker)
	defer r.session.Close()
	if _, err := r.session.DeclareQueue(broker.QueueSpec{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	c, err := ch.broker.Consume(broker.ConsumeSpec{Queue: "q", Tag: "tag"})
	if err != nil {
		t.Fatal(err)
	}
	var in propertiesIn
	raw, err := amqpwire.AppendProperties(nil, &amqpwire.Properties{ContentType: "text/plain"})
	if err != nil {
		t.Fatal(err)
	}
	if err := in.translate(raw); err != nil {
		t.Fatal(err)
	}
	block := append(message.AppendBlockHead(nil, true, []byte("e"), []byte("k"), in.list), "body"...)
	message.Seal(block)
	w := &writer{conn: r.conn, out: &r.nc.Out, buf: make([]byte, 0, 1024)}
	events := []broker.Event{
		{Kind: broker.EventDelivery, Consumer: c, Tag: 7, Data: block},
		{Kind: broker.EventConfirm, Channel: ch.broker, Tag: 9, Multiple: true},
		{Kind: broker.EventReply, Data: heartbeatFrame},
	}
	per := testing.AllocsPerRun(100, func() {
		w.buf = w.buf[:0]
		for i := range events {
			if f := w.encode(&events[i]); f != nil {
				t.Fatal(f)
			}
		}
	})
	if per != 0 {
		t.Errorf("%v allocations", per)
	}
}

func TestAckCostsNoAllocation(t *testing.T) {
	f := newFixture(t)
	r, ch := newReader(t, f.broker)
	defer r.session.Close()
	if _, err := r.session.DeclareQueue(broker.QueueSpec{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	const n = 4000
	for range n {
		if err := ch.broker.Publish(&broker.Publish{Key: []byte("q")}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := ch.broker.Consume(broker.ConsumeSpec{Queue: "q", Tag: "tag"})
	if err != nil {
		t.Fatal(err)
	}
	c.Start()
	tag := uint64(0)
	per := testing.AllocsPerRun(n-100, func() {
		tag++
		b := amqpwire.AppendAck(r.props.raw[:0], 1, tag, false)
		r.props.raw = b
		frame, _, err := parseFrame(b, r.limit)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.frame(frame); err != nil {
			t.Fatal(err)
		}
	})
	if per >= 0.1 {
		t.Errorf("%v allocations an ack", per)
	}
	if ch.broker == nil {
		t.Error("an ack closed the channel")
	}
}
