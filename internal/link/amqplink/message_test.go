package amqplink

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// full is a message with every field set.
func full() *link.Message {
	return &link.Message{
		Exchange: "x", Key: "k", Body: []byte("body"), ContentType: "text/plain", ContentEncoding: "gzip",
		Headers: map[string]any{
			"nil": nil, "bool": true, "i8": int8(-8), "u8": uint8(8), "i16": int16(-16), "u16": uint16(16),
			"i32": int32(-32), "u32": uint32(32), "i64": int64(-64), "f32": float32(1.5), "f64": 2.5,
			"decimal": amqpwire.Decimal{Scale: 2, Value: 314}, "text": "text", "bytes": []byte{0, 255},
			"time":  time.Unix(1e9, 0).UTC(),
			"array": []any{int32(1), "two", map[string]any{"three": int64(3)}},
			"table": map[string]any{"deep": map[string]any{"deeper": []any{map[string]any{}}}},
		},
		Priority: 9, CorrelationID: "c", ReplyTo: "r", Expiration: 1500 * time.Millisecond, MessageID: "m",
		Timestamp: time.Unix(1.7e9, 0).UTC(), Type: "t", UserID: "u", AppID: "a", ID: "producer-7",
	}
}

// decode reads what appendHead wrote.
func decode(t testing.TB, b []byte) *link.Delivery {
	t.Helper()
	_, n, err := amqpwire.ParseFrame(b, 0)
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	f, n2, err := amqpwire.ParseFrame(b[n:], amqpwire.DefaultFrameMax)
	if err != nil || n+n2 != len(b) {
		t.Fatal(n, n2, err)
	}
	h, err := amqpwire.ParseContentHeader(f.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := amqpwire.ParseProperties(h.Properties); err != nil {
		t.Fatalf("the properties are not sound: %v", err)
	}
	var d link.Delivery
	if err := new(arrivals).properties(h.Properties, &d, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return &d
}

func TestEveryFieldGoesThere(t *testing.T) {
	want := full()
	out, err := appendHead(nil, 1, &link.Outgoing{Message: want, Attempt: 3}, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := decode(t, out)
	got := d.Message
	got.Exchange, got.Key, got.Body = want.Exchange, want.Key, want.Body
	if !reflect.DeepEqual(&got, want) {
		t.Errorf("got  %+v\nwant %+v", got, *want)
	}
	if d.Attempt != 3 {
		t.Errorf("attempt %d", d.Attempt)
	}
	// The id is the first header, the attempt the second.
	at := bytes.Index(out, []byte("\x0ax-ferry-idS\x00\x00\x00\x0aproducer-7\x0fx-ferry-attemptI\x00\x00\x00\x03\x05array"))
	if at < 0 {
		t.Errorf("the headers are %q", out)
	}
}

func TestHeadersOfOurOwn(t *testing.T) {
	for _, c := range []struct {
		o       link.Outgoing
		id      string
		attempt int
		headers map[string]any
	}{
		{link.Outgoing{Message: &link.Message{}}, "", 0, nil},
		{link.Outgoing{Message: &link.Message{Headers: map[string]any{}}, Producer: "p", Seq: 12, Attempt: 1}, "p-12", 0, nil},
		{link.Outgoing{Message: &link.Message{ID: "mine"}, Producer: "p", Seq: 12, Attempt: 2}, "mine", 2, nil},
		{link.Outgoing{Message: &link.Message{}, Producer: "p", Seq: math.MaxUint64, Attempt: 2}, "p-18446744073709551615", 2, nil},
		{
			link.Outgoing{Message: &link.Message{Headers: map[string]any{link.HeaderID: "fake", link.HeaderAttempt: 9, "a": "b"}}, Producer: "p", Seq: 1},
			"p-1", 0,
			map[string]any{"a": "b"},
		},
		{link.Outgoing{Message: &link.Message{Headers: map[string]any{"a": int32(1)}}}, "", 0, map[string]any{"a": int32(1)}},
	} {
		out, err := appendHead(nil, 1, &c.o, 0)
		if err != nil {
			t.Fatal(err)
		}
		d := decode(t, out)
		if d.Message.ID != c.id || d.Attempt != c.attempt || !reflect.DeepEqual(d.Message.Headers, c.headers) {
			t.Errorf("%+v: id %q, attempt %d, headers %v", c.o.Message, d.Message.ID, d.Attempt, d.Message.Headers)
		}
	}
}

func TestForeignHeaders(t *testing.T) {
	read := func(t *testing.T, list []byte) *link.Delivery {
		var d link.Delivery
		readHeaders(list, &d, slog.New(slog.DiscardHandler))
		return &d
	}
	list, err := amqpwire.AppendHeadersFromTable(nil, amqpwire.Table{
		"a": int32(1), "x-ferry-attempt": int32(4), "x-ferry-id": "p-1", "z": "z",
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := read(t, list); d.Message.ID != "p-1" || d.Attempt != 4 || len(d.Message.Headers) != 2 {
		t.Errorf("anywhere among others: %+v", d)
	}
	if d := read(t, []byte("\x01a?")); d.Message.Headers != nil {
		t.Errorf("an unknown type: %+v", d)
	}
	if d := read(t, []byte("\x0ax-ferry-idS\xff\xff\xff\xff")); d.Message.ID != "" {
		t.Errorf("a length that lies: %+v", d)
	}
	if d := read(t, []byte("\x0ax-ferry-idI\x00\x00\x00\x01")); d.Message.ID != "" || d.Message.Headers != nil {
		t.Errorf("an id that is a number: %+v", d)
	}
}

func TestExpiration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "1": time.Millisecond, "60000": time.Minute, "": 0, "soon": 0, "-1": 0,
		"9223372036854775807": math.MaxInt64 / time.Millisecond * time.Millisecond,
	} {
		if got := milliseconds([]byte(text)); got != want {
			t.Errorf("%q is %v", text, got)
		}
	}
	m := &link.Message{Expiration: time.Microsecond}
	out, err := appendHead(nil, 1, &link.Outgoing{Message: m}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := decode(t, out).Message.Expiration; got != time.Millisecond {
		t.Errorf("a microsecond is %v", got)
	}
}

func TestPublishingDoesNotAllocate(t *testing.T) {
	o := outgoing("q", "body", 1)
	o.Message.ContentType = "text/plain"
	o.Attempt = 2
	dst := make([]byte, 0, 4096)
	n := testing.AllocsPerRun(100, func() {
		if _, err := appendHead(dst, 1, &o, amqpwire.DefaultFrameMax); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func TestLargeBodies(t *testing.T) {
	c := mustOpen(t, link.Options{Endpoint: mustParse(t, startFerry(t))})
	mustDeclare(t, c, link.Queue{Name: "q"})
	src := newSource()
	var bodies []string
	for i, size := range []int{0, 1, copyMost, copyMost + 1, 131064, 131065, 262128, 1 << 20, 3<<20 + 17, 10} {
		bodies = append(bodies, strings.Repeat(fmt.Sprint(i), size))
		src.add(outgoing("q", bodies[i], uint64(i+1)))
	}
	if _, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src); err != nil {
		t.Fatal(err)
	}
	src.await(t, settledUpTo(uint64(len(bodies))))
	in := newSink()
	if _, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q"}, in); err != nil {
		t.Fatal(err)
	}
	for i, d := range in.await(t, len(bodies)) {
		if string(d.Message.Body) != bodies[i] {
			t.Errorf("body %d of %d bytes came as %d", i, len(bodies[i]), len(d.Message.Body))
		}
	}
}

// answerer answers requests from the goroutine of the sink.
type answerer struct {
	*sink
	replies *source
	wake    func()
}

func (a *answerer) Deliver(batch []*link.Delivery) {
	for i, d := range batch {
		a.replies.add(link.Outgoing{Message: &link.Message{Key: d.Message.ReplyTo, Body: d.Message.Body, CorrelationID: d.Message.CorrelationID}, Producer: "r", Seq: uint64(i + 1)})
	}
	a.wake()
}

func TestDirectReplies(t *testing.T) {
	ep := mustParse(t, startFerry(t))
	server, client := mustOpen(t, link.Options{Endpoint: ep}), mustOpen(t, link.Options{Endpoint: ep})
	mustDeclare(t, server, link.Queue{Name: "rpc"})
	replies := newSource()
	back, err := server.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, replies)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "rpc"}, &answerer{newSink(), replies, back.Wake}); err != nil {
		t.Fatal(err)
	}
	requests, answers := newSource(), newSink()
	o := outgoing("rpc", "question", 1)
	o.Message.ReplyTo, o.Message.CorrelationID = link.DirectReplyTo, "7"
	requests.add(o)
	s, err := client.OpenSender(t.Context(), link.SenderConfig{Confirm: true, Replies: answers}, requests)
	if err != nil {
		t.Fatal(err)
	}
	if d := answers.await(t, 1)[0]; d.Message.CorrelationID != "7" || string(d.Message.Body) != "question" {
		t.Errorf("answered %+v", d.Message)
	}
	requests.await(t, settledUpTo(1))
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if err := answers.awaitClosed(t); err != nil {
		t.Errorf("closed with %v", err)
	}
}

// FuzzProperties compares what the reader of properties takes with the codec's.
func FuzzProperties(f *testing.F) {
	out, err := appendHead(nil, 1, &link.Outgoing{Message: full(), Attempt: 2}, 0)
	if err != nil {
		f.Fatal(err)
	}
	_, n, _ := amqpwire.ParseFrame(out, 0)
	f.Add(out[n+7+12 : len(out)-1])
	f.Add([]byte{0, 0})
	f.Add([]byte{0x20, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < 2 {
			return
		}
		var d link.Delivery
		err := new(arrivals).properties(raw, &d, slog.New(slog.DiscardHandler))
		p, want := amqpwire.ParseProperties(raw)
		if want == nil && raw[1]&1 == 0 && err != nil {
			t.Fatalf("refused: %v", err)
		}
		if err != nil || want != nil {
			return // headers that cannot be read are left out here
		}
		m := d.Message
		if m.ContentType != p.ContentType || m.MessageID != p.MessageID || m.AppID != p.AppID || m.Priority != p.Priority ||
			m.CorrelationID != p.CorrelationID || m.ReplyTo != p.ReplyTo || m.Type != p.Type || m.UserID != p.UserID ||
			m.Transient == (p.DeliveryMode == amqpwire.Persistent) || !m.Timestamp.Equal(p.Timestamp) {
			t.Errorf("%+v\n%+v", m, p)
		}
	})
}
