package stompwire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// frame decodes a frame with these headers, name and value in turn.
func frame(t testing.TB, v stompwire.Version, c stompwire.Command, headers ...string) *stompwire.Decoder {
	t.Helper()
	src := stompwire.AppendCommand(nil, c)
	for i := 0; i < len(headers); i += 2 {
		var err error
		if src, err = stompwire.AppendHeader(src, v, headers[i], headers[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return decode(t, v, stompwire.AppendHeadEnd(src))
}

func decode(t testing.TB, v stompwire.Version, src []byte) *stompwire.Decoder {
	t.Helper()
	d := &stompwire.Decoder{Version: v, Limits: stompwire.Limits{Line: 1 << 20, Headers: 1000, Head: 1 << 20}}
	if n, err := d.Head(src); err != nil || n != len(src) {
		t.Fatalf("%q: %d of %d bytes, %v", src, n, len(src), err)
	}
	return d
}

func noTime() time.Time { panic("there is no expires") }

// properties is a property list as it can be compared.
func properties(t testing.TB, list []byte) map[string]string {
	t.Helper()
	names := [...]string{
		message.ContentType: "content-type", message.ContentEncoding: "content-encoding", message.Headers: "headers",
		message.Priority: "priority", message.CorrelationID: "correlation-id", message.ReplyTo: "reply-to",
		message.Expiration: "expiration", message.MessageID: "message-id", message.Timestamp: "timestamp",
		message.Type: "type", message.UserID: "user-id", message.AppID: "app-id",
	}
	out := map[string]string{}
	for last := message.FieldID(0); len(list) > 0; {
		id, v, rest, ok := message.NextField(list)
		if !ok || id <= last {
			t.Fatalf("damaged list at % x", list)
		}
		last, list = id, rest
		if id != message.Headers {
			out[names[id]] = string(v)
			continue
		}
		for len(v) > 0 {
			name, kind, value, rest, ok := message.NextHeader(v)
			if !ok {
				t.Fatalf("damaged header list at % x", v)
			}
			if _, ok := out["."+string(name)]; ok {
				t.Fatalf("header %q twice", name)
			}
			x, _ := message.Decode(kind, value, 0)
			out["."+string(name)] = fmt.Sprintf("%c %v", kind, x)
			v = rest
		}
	}
	return out
}

// What RabbitMQ 3.10.8 makes of these headers was seen there, with two
// exceptions: it makes headers of the message of receipt, transaction and
// content-length, and it keeps /reply-queue/.
func TestHeadersOfSendBecomeProperties(t *testing.T) {
	for _, v := range []stompwire.Version{stompwire.V10, stompwire.V11, stompwire.V12} {
		d := frame(t, v, stompwire.Send,
			"app-id", "app", "destination", "/queue/q", "foo", "bar", "persistent", "true", "content-type", "text/plain",
			"content-encoding", "gzip", "priority", " 5 ", "correlation-id", "cid", "reply-to", "/reply-queue/r",
			"expiration", "60000", "amqp-message-id", "mid", "timestamp", "17", "receipt", "r1", "transaction", "t",
			"content-length", "1", "type", "ty", "user-id", "guest", "empty", "", "foo", "second", "priority", "9",
			"JMSXGroupID", "g", "_AMQ_DUPL_ID", "p-1", "x-ferry-id", "p-1", "x-message-ttl", "5")
		list, persistent, err := d.AppendProperties([]byte("before"), noTime)
		if err != nil || !persistent || !bytes.HasPrefix(list, []byte("before")) {
			t.Fatalf("%s: %t, %v", v, persistent, err)
		}
		want := map[string]string{
			"content-type": "text/plain", "content-encoding": "gzip", "priority": "\x05", "correlation-id": "cid",
			"reply-to": "r", "expiration": "60000", "message-id": "mid", "timestamp": "\x00\x00\x00\x00\x00\x00\x00\x11",
			"type": "ty", "user-id": "guest", "app-id": "app",
			".foo": "S bar", ".empty": "S ", ".JMSXGroupID": "S g", "._AMQ_DUPL_ID": "S p-1", ".x-ferry-id": "S p-1",
			".x-message-ttl": "S 5",
		}
		if got := properties(t, list[len("before"):]); !maps.Equal(got, want) {
			t.Errorf("%s: got %v\nwant %v", v, got, want)
		}
	}
}

func TestSingleHeadersOfSend(t *testing.T) {
	now := func() time.Time { return time.UnixMilli(1_700_000_000_000) }
	long := strings.Repeat("n", 255)
	for _, test := range []struct {
		headers    []string
		want       map[string]string
		persistent bool
	}{
		{headers: []string{"persistent", "True"}, persistent: true},
		{headers: []string{"persistent", "false"}},
		{headers: []string{"persistent", "1"}},
		{headers: []string{"priority", "0"}, want: map[string]string{"priority": "\x00"}},
		{headers: []string{"priority", "255"}, want: map[string]string{"priority": "\xff"}},
		{headers: []string{"timestamp", "-1"}, want: map[string]string{"timestamp": "\xff\xff\xff\xff\xff\xff\xff\xff"}},
		{headers: []string{"correlation-id", ""}, want: map[string]string{"correlation-id": ""}},
		{headers: []string{"correlation-id", long}, want: map[string]string{"correlation-id": long}},
		{headers: []string{long, "v"}, want: map[string]string{"." + long: "S v"}},
		{headers: []string{"expiration", "soon"}, want: map[string]string{"expiration": "soon"}},
		{headers: []string{"expires", "0"}},
		{headers: []string{"expires", "1700000005000"}, want: map[string]string{"expiration": "5000"}},
		{headers: []string{"expires", "1700000000000"}, want: map[string]string{"expiration": "1"}},
		{headers: []string{"expires", "1"}, want: map[string]string{"expiration": "1"}},
		{headers: []string{"expires", "9223372036854775807"}, want: map[string]string{"expiration": "9223370336854775807"}},
		{headers: []string{"expires", "1", "expiration", "7"}, want: map[string]string{"expiration": "7"}},
		{
			headers: []string{"expires", "0", "timestamp", "1700000005999"},
			want:    map[string]string{"timestamp": "\x00\x00\x00\x00\x65\x53\xf1\x05"},
		},
		{
			headers: []string{"expires", "0", "timestamp", "17"},
			want:    map[string]string{"timestamp": "\x00\x00\x00\x00\x00\x00\x00\x11"},
		},
		{headers: []string{"x-ferry-attempt", "2"}, want: map[string]string{".x-ferry-attempt": "I 2"}},
		{headers: []string{"x-ferry-attempt", "two"}, want: map[string]string{".x-ferry-attempt": "S two"}},
		{headers: []string{"x-ferry-attempt", "2147483648"}, want: map[string]string{".x-ferry-attempt": "S 2147483648"}},
		{headers: []string{"reply-to", "replies"}, want: map[string]string{"reply-to": "replies"}},
		{headers: []string{"reply-to", "/queue/r"}, want: map[string]string{"reply-to": "/queue/r"}},
		{headers: []string{"reply-to", "/reply-queue/"}, want: map[string]string{"reply-to": "/reply-queue/"}},
		{headers: []string{"reply-to", "/reply-queue//queue/r"}, want: map[string]string{"reply-to": "/reply-queue//queue/r"}},
		{headers: []string{"destination-type", "ANYCAST"}, want: map[string]string{".destination-type": "S ANYCAST"}},
	} {
		list, persistent, err := frame(t, stompwire.V12, stompwire.Send, test.headers...).AppendProperties(nil, now)
		if err != nil || persistent != test.persistent {
			t.Errorf("%q: %t, %v", test.headers, persistent, err)
			continue
		}
		if got := properties(t, list); !maps.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.headers, got, test.want)
		}
	}
}

// RabbitMQ says "Processing error" to numbers that are none, and cuts off what is
// over 255.
func TestHeadersThatAMessageCannotHold(t *testing.T) {
	long := strings.Repeat("n", 256)
	for _, test := range []struct{ name, value, want string }{
		{"priority", "high", `header priority is "high": a number from 0 to 255 is expected`},
		{"priority", "", `header priority is "": a number from 0 to 255 is expected`},
		{"priority", "256", `header priority is "256": a number from 0 to 255 is expected`},
		{"priority", "-1", `header priority is "-1": a number from 0 to 255 is expected`},
		{"timestamp", "now", `header timestamp is "now": a number of seconds since 1970 is expected`},
		{"expires", "never", `header expires is "never": a number of milliseconds since 1970 is expected, 0 for never`},
		{"expires", "-1", `header expires is "-1": a number of milliseconds since 1970 is expected, 0 for never`},
		{"correlation-id", long, `header correlation-id has 256 bytes: at most 255 are allowed`},
		{"content-type", long, `header content-type has 256 bytes: at most 255 are allowed`},
		{"reply-to", long, `header reply-to has 256 bytes: at most 255 are allowed`},
		{"amqp-message-id", long, `header amqp-message-id has 256 bytes: at most 255 are allowed`},
		{long, "v", `header "` + long[:32] + `"... has a name of 256 bytes: at most 255 are allowed`},
	} {
		dst := []byte("before")
		list, _, err := frame(t, stompwire.V12, stompwire.Send, "a", "b", test.name, test.value).AppendProperties(dst, time.Now)
		var e *stompwire.Error
		if !errors.As(err, &e) || e.Text != test.want || string(list) != "before" {
			t.Errorf("%s: got %v, want %s; %q", test.name, err, test.want, list)
		}
	}
}

// header encodes one header of a list.
func header(name string, kind byte, value string) []byte {
	b := append([]byte{byte(len(name))}, name...)
	b = append(b, kind)
	switch kind {
	case 'S', 'x', 'A', 'F':
		b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	}
	return append(b, value...)
}

func list(headers ...[]byte) []byte {
	return message.AppendField(nil, message.Headers, bytes.Join(headers, nil))
}

func TestHeadersOfAMessageBecomeText(t *testing.T) {
	for _, test := range []struct {
		kind        byte
		value, want string
	}{
		{'S', "text", "text"},
		{'S', "a:b\n\r\\", `a\cb\n\r\\`},
		{'S', "", ""},
		{'x', "caf\xc3\xa9", "caf\xc3\xa9"},
		{'x', "\xff\x00", "/wA="},
		{'x', "a\n", "YQo="},
		{'x', "a\x7f", "YX8="},
		{'t', "\x01", "true"},
		{'t', "\x00", "false"},
		{'b', "\xff", "-1"},
		{'B', "\xff", "255"},
		{'s', "\xff\xfe", "-2"},
		{'u', "\xff\xfe", "65534"},
		{'I', "\xff\xff\xff\xfd", "-3"},
		{'i', "\xff\xff\xff\xfd", "4294967293"},
		{'l', "\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808"},
		{'T', "\x00\x00\x00\x00\x65\x53\xf1\x05", "1700000005"},
		{'f', string(binary.BigEndian.AppendUint32(nil, math.Float32bits(0.1))), "0.1"},
		{'d', string(binary.BigEndian.AppendUint64(nil, math.Float64bits(-1.5e300))), "-1.5e+300"},
		{'d', string(binary.BigEndian.AppendUint64(nil, math.Float64bits(math.Inf(1)))), "+Inf"},
		{'D', "\x00\x00\x00\x00\x07", "7"},
		{'D', "\x02\x00\x00\x00\x7b", "1.23"},
		{'D', "\x03\x00\x00\x00\x7b", "0.123"},
		{'D', "\x05\x80\x00\x00\x00", "-21474.83648"},
		{'D', "\x05\xff\xff\xff\xff", "-0.00001"},
		{'D', "\xff\xff\xff\xff\xff", "-1e-255"},
		{'V', "", ""},
		{'A', "t\x01b\x05", "[true,5]"},
		{'A', "", "[]"},
		{'F', "", "{}"},
	} {
		got, err := stompwire.AppendMessageHeaders(nil, stompwire.V12, list(header("h", test.kind, test.value)), false)
		// JSON has its own quoting, which the header's is on top of.
		if want := "h:" + test.want + "\n"; err != nil || string(got) != want {
			t.Errorf("%c % x: got %q, %v; want %q", test.kind, test.value, got, err, want)
		}
	}
}

func TestTablesBecomeJSON(t *testing.T) {
	table := string(header("queue", 'S', "a\"b\\c\n\x01\xff")) + string(header("count", 'l', "\x00\x00\x00\x00\x00\x00\x00\x02")) +
		string(header("nan", 'f', "\x7f\xc0\x00\x00")) + string(header("raw", 'x', "\x00\x01")) + string(header("nil", 'V', "")) +
		string(header("price", 'D', "\x02\x00\x00\x00\x7b")) + string(header("keys", 'A', "t\x00S\x00\x00\x00\x01k")) +
		string(header("time", 'T', "\x00\x00\x00\x00\x00\x00\x00\x09"))
	deaths := header("x-death", 'A', string(header("", 'F', table)[1:]))
	got, err := stompwire.AppendMessageHeaders(nil, stompwire.V12, list(deaths), false)
	if err != nil {
		t.Fatal(err)
	}
	d := decode(t, stompwire.V12, append([]byte("MESSAGE\n"), append(got, '\n')...))
	text, _ := d.Get("x-death")
	const want = `[{"queue":"a\"b\\c\u000a\u0001` + "\ufffd" +
		`","count":2,"nan":"NaN","raw":"AAE=","nil":null,"price":1.23,"keys":[false,"k"],"time":9}]`
	if string(text) != want || !json.Valid(text) {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func nested(depth int) []byte {
	value := ""
	for range depth - 1 {
		value = string(header("", 'A', value)[1:])
	}
	return list(header("deep", 'A', value))
}

func TestDamagedListsAreErrors(t *testing.T) {
	if _, err := stompwire.AppendMessageHeaders(nil, stompwire.V12, nested(message.MaxNesting), false); err != nil {
		t.Errorf("as deep as is allowed: %v", err)
	}
	for _, damaged := range [][]byte{
		{1},
		{1, 5, 'a'},
		list([]byte{3, 'a'}),
		list(header("a", 'Q', "")),
		list(header("a", 'A', "t")),
		list(header("a", 'F', "\x01a")),
		message.AppendField(nil, message.Priority, []byte{1, 2}),
		message.AppendField(nil, message.Timestamp, []byte{1}),
		nested(message.MaxNesting + 1),
	} {
		got, err := stompwire.AppendMessageHeaders([]byte("before"), stompwire.V12, damaged, true)
		var e *stompwire.Error
		if !errors.As(err, &e) || string(got) != "before" {
			t.Errorf("% x: got %q, %v", damaged, got, err)
		}
	}
}

// Every property, as RabbitMQ has them in a MESSAGE.
func TestPropertiesBecomeHeaders(t *testing.T) {
	b := message.AppendFieldString(nil, message.ContentType, "text/plain")
	b = message.AppendFieldString(b, message.ContentEncoding, "gzip")
	b = message.AppendField(b, message.Headers, header("foo", 'S', "bar"))
	b = message.AppendField(b, message.Priority, []byte{5})
	b = message.AppendFieldString(b, message.CorrelationID, "c:d")
	b = message.AppendFieldString(b, message.ReplyTo, "r:q")
	b = message.AppendFieldString(b, message.Expiration, "60000")
	b = message.AppendFieldString(b, message.MessageID, "mid")
	b = message.AppendField(b, message.Timestamp, []byte{0, 0, 0, 0, 0, 0, 0, 17})
	b = message.AppendFieldString(b, message.Type, "ty")
	b = message.AppendFieldString(b, message.UserID, "guest")
	b = message.AppendFieldString(b, message.AppID, "app")
	got, err := stompwire.AppendMessageHeaders(nil, stompwire.V12, b, true)
	want := "persistent:true\ncontent-type:text/plain\ncontent-encoding:gzip\nfoo:bar\npriority:5\ncorrelation-id:c\\cd\n" +
		"reply-to:/reply-queue/r\\cq\nexpiration:60000\namqp-message-id:mid\ntimestamp:17\ntype:ty\nuser-id:guest\napp-id:app\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
}

func TestReplyToIsADestinationInMessage(t *testing.T) {
	for queue, want := range map[string]string{
		"q":               "/reply-queue/q",
		"":                "", // RabbitMQ: /reply-queue/, which is no destination
		"/test/replies":   "/reply-queue//test/replies",
		"/temp-queue/x":   "/reply-queue//temp-queue/x",
		"/reply-queue":    "/reply-queue//reply-queue",
		"/queue/q":        "/queue/q",
		"/topic/q":        "/topic/q",
		"/exchange/x/k":   "/exchange/x/k",
		"/amq/queue/q":    "/amq/queue/q",
		"/reply-queue/q":  "/reply-queue/q",
		"/queuesandmore":  "/queuesandmore", // as RabbitMQ: it looks for "/queue"
		"amq.gen-a/b%25c": "/reply-queue/amq.gen-a/b%25c",
	} {
		b := message.AppendFieldString(nil, message.ReplyTo, queue)
		got, err := stompwire.AppendMessageHeaders(nil, stompwire.V12, b, false)
		if err != nil || string(got) != "reply-to:"+want+"\n" {
			t.Errorf("%q: got %q, %v; want %q", queue, got, err, want)
		}
	}
}

// A publisher by AMQP may give headers any name.
func TestHeadersOfAMessageNeverStandForOthers(t *testing.T) {
	var evil [][]byte
	for _, name := range []string{
		"destination", "message-id", "subscription", "ack", "content-length", "redelivered", "receipt", "transaction",
		"persistent", "priority", "reply-to", "expiration", "expires", "amqp-message-id", "timestamp", "user-id", "",
	} {
		evil = append(evil, header(name, 'S', "evil"), header(name, 'I', "\x00\x00\x00\x07"))
	}
	got, err := stompwire.AppendMessageHeaders(nil, stompwire.V12, list(evil...), false)
	if err != nil || len(got) != 0 {
		t.Errorf("got %q, %v", got, err)
	}

	// These mislead nobody, and keep their names as they do at RabbitMQ.
	opaque := list(header("type", 'S', "t"), header("app-id", 'S', "a"), header("correlation-id", 'S', "c"),
		header("content-type", 'S', "ct"), header("content-encoding", 'S', "ce"))
	got, err = stompwire.AppendMessageHeaders(nil, stompwire.V12, opaque, false)
	if want := "type:t\napp-id:a\ncorrelation-id:c\ncontent-type:ct\ncontent-encoding:ce\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	b := message.AppendFieldString(nil, message.ContentType, "own")
	b = message.AppendFieldString(append(b, opaque...), message.Type, "")
	got, err = stompwire.AppendMessageHeaders(nil, stompwire.V12, b, false)
	if want := "content-type:own\napp-id:a\ncorrelation-id:c\ncontent-encoding:ce\ntype:\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestWhatAVersionCannotExpressIsLeftOut(t *testing.T) {
	b := message.AppendFieldString(nil, message.ContentType, "a\nb")
	b = message.AppendField(b, message.Headers, bytes.Join([][]byte{
		header("lf", 'S', "a\nack:evil"), header("na\nme", 'I', "\x00\x00\x00\x01"), header("co:lon", 't', "\x01"),
		header("cr", 'S', "a\r"), header("nul", 'S', "\x00"), header("fine", 'S', "a:b\\"),
	}, nil))
	b = message.AppendFieldString(b, message.ReplyTo, "r\x00")
	b = message.AppendFieldString(b, message.AppID, "app")
	for v, want := range map[stompwire.Version]string{
		stompwire.V10: "fine:a:b\\\napp-id:app\n",
		stompwire.V11: "content-type:a\\nb\nlf:a\\nack\\cevil\nna\\nme:1\nco\\clon:true\nfine:a\\cb\\\\\napp-id:app\n",
		stompwire.V12: "content-type:a\\nb\nlf:a\\nack\\cevil\nna\\nme:1\nco\\clon:true\ncr:a\\r\nfine:a\\cb\\\\\napp-id:app\n",
	} {
		got, err := stompwire.AppendMessageHeaders(nil, v, b, false)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v\nwant %q", v, got, err, want)
		}
	}
}

// A MESSAGE is read by the same rules, so that a client gets what was published.
func TestMessageIsReadWithoutTheHeadersOfItsDelivery(t *testing.T) {
	d := frame(t, stompwire.V12, stompwire.Message, "subscription", "1", "destination", "/queue/q", "message-id", "T_1@@s@@1",
		"redelivered", "true", "ack", "T_1@@s@@1", "content-length", "0", "reply-to", "/reply-queue/r", "foo", "bar", "persistent", "1")
	list, persistent, err := d.AppendProperties(nil, noTime)
	if want := map[string]string{"reply-to": "r", ".foo": "S bar"}; err != nil || persistent || !maps.Equal(properties(t, list), want) {
		t.Errorf("got %v, %t, %v", properties(t, list), persistent, err)
	}
}

// The whole way round and back: what a header's type says is all that is lost.
func TestMessagesKeepTheirPropertiesFromAMQPToSTOMPToAMQP(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "x", "a:b\\c\r\nd", "caf\xc3\xa9", strings.Repeat("l", 255), "/queue/q", "/test/q", "12"}
	text := func() string { return texts[r.IntN(len(texts))] }
	for range 2000 {
		var b []byte
		var names []string
		for id := message.ContentType; id <= message.AppID; id++ {
			switch {
			case r.IntN(2) == 0:
			case id == message.Headers:
				var h []byte
				for i := range r.IntN(20) {
					name := fmt.Sprintf("h%d%.200s", i, text())
					names = append(names, name)
					h = append(h, header(name, 'S', text())...)
				}
				if len(h) > 0 {
					b = message.AppendField(b, id, h)
				}
			case id == message.Priority:
				b = message.AppendField(b, id, []byte{byte(r.Uint32())})
			case id == message.Timestamp:
				b = message.AppendField(b, id, binary.BigEndian.AppendUint64(nil, r.Uint64()))
			case id == message.ReplyTo:
				b = message.AppendFieldString(b, id, "/test/q"[r.IntN(7):])
			default:
				b = message.AppendFieldString(b, id, text())
			}
		}
		persistent := r.IntN(2) == 0
		src, err := stompwire.AppendMessageHeaders([]byte("SEND\n"), stompwire.V12, b, persistent)
		if err != nil {
			t.Fatal(err)
		}
		back, p, err := decode(t, stompwire.V12, append(src, '\n')).AppendProperties(nil, noTime)
		if err != nil || p != persistent || !bytes.Equal(back, b) {
			t.Fatalf("names %q: %v\n% x\n% x", names, err, b, back)
		}
	}
}

func TestMessagesKeepTheirHeadersFromSTOMPToAMQPToSTOMP(t *testing.T) {
	headers := []string{
		"persistent", "true", "content-type", "text/plain", "content-encoding", "gzip", "zeta", "1", "alpha", "a:b\nc",
		"priority", "4", "correlation-id", "c", "reply-to", "/queue/r", "expiration", "1", "amqp-message-id", "m",
		"timestamp", "3", "type", "t", "user-id", "u", "app-id", "a",
	}
	list, persistent, err := frame(t, stompwire.V12, stompwire.Send, headers...).AppendProperties(nil, noTime)
	if err != nil {
		t.Fatal(err)
	}
	got, err := stompwire.AppendMessageHeaders([]byte("MESSAGE\n"), stompwire.V12, list, persistent)
	if err != nil {
		t.Fatal(err)
	}
	var back []string
	for _, h := range decode(t, stompwire.V12, append(got, '\n')).Headers {
		back = append(back, string(h.Name), string(h.Value))
	}
	if !slices.Equal(back, headers) {
		t.Errorf("got %q\nwant %q", back, headers)
	}
}

func TestTranslationDoesNotAllocate(t *testing.T) {
	now := func() time.Time { return time.UnixMilli(1) }
	d := frame(t, stompwire.V12, stompwire.Send, "destination", "/queue/q", "persistent", "true", "receipt", "1", "priority", "4",
		"timestamp", "1700000000", "expires", "5", "x-ferry-id", strings.Repeat("p", 200)+"-1", "x-ferry-attempt", "2", "reply-to", "/reply-queue/r",
		"a header with a name that is somewhat long", "v", "type", "t", "foo", "bar")
	dst := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := d.AppendProperties(dst, now); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("SEND: %v allocations", n)
	}
	list, _, _ := d.AppendProperties(nil, now)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := stompwire.AppendMessageHeaders(dst, stompwire.V12, list, true); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("MESSAGE: %v allocations", n)
	}
}

func BenchmarkAppendProperties(b *testing.B) {
	d := frame(b, stompwire.V12, stompwire.Send, "destination", "/queue/q", "persistent", "true", "receipt", "1",
		"x-ferry-id", "0123456789abcdef-12345", "content-type", "text/plain", "content-length", "100")
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := d.AppendProperties(dst, time.Now); err != nil {
			b.Fatal(err)
		}
	}
}
