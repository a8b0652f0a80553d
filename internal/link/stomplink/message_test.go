package stomplink

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

func full() *link.Message {
	return &link.Message{
		Exchange: "amq.topic", Key: "a.b",
		Body:        []byte("body"),
		Headers:     map[string]any{"text": "a:b\n\\", "number": -5, "flag": true, "bytes": []byte("raw"), "name:x": 1.5, "price": message.Decimal{Scale: 2, Value: 150}},
		ContentType: "text/plain", ContentEncoding: "gzip", Priority: 7,
		CorrelationID: "c", ReplyTo: "r", Expiration: 90 * time.Second, MessageID: "m",
		Timestamp: time.Unix(1700000000, 0).UTC(), Type: "t", UserID: "ada", AppID: "app", ID: "id-1",
	}
}

func encoded(t *testing.T, d dialect, o link.Outgoing) string {
	t.Helper()
	s := &sender{confirm: true, session: &session{version: stompwire.V12, conn: &conn{dialect: d}}}
	e := encoder{now: func() time.Time { return time.UnixMilli(1000) }}
	out, err := e.appendHead(nil, s, &o, 17)
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + string(o.Message.Body) + "\x00"
}

func TestSendHasAllOfAMessage(t *testing.T) {
	common := `receipt:17
persistent:true
x-ferry-id:id-1
%sx-ferry-attempt:3
content-type:text/plain
content-encoding:gzip
priority:7
correlation-id:c
reply-to:r
%s
amqp-message-id:m
timestamp:1700000000
type:t
user-id:ada
app-id:app
bytes:raw
flag:true
name\cx:1.5
number:-5
price:150e-2
text:a\cb\n\\
content-length:4

body` + "\x00"
	rabbitFrame := strings.Replace(strings.Replace(common, "%s", "", 1), "%s", "expiration:90000", 1)
	for d, want := range map[dialect]string{
		rabbitmq: "SEND\ndestination:/topic/a.b\n" + rabbitFrame,
		ferry:    "SEND\ndestination:/topic/a.b\n" + rabbitFrame,
		artemis: "SEND\ndestination:a.b\ndestination-type:MULTICAST\n" +
			strings.Replace(strings.Replace(common, "%s", "_AMQ_DUPL_ID:id-1\n", 1), "%s", "expires:91000", 1),
	} {
		if got := encoded(t, d, link.Outgoing{Message: full(), Producer: "p", Seq: 9, Attempt: 3}); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", d.name(), got, want)
		}
	}
}

func TestNestedHeadersAreJSON(t *testing.T) {
	m := &link.Message{Key: "q", Headers: map[string]any{"x-death": []any{map[string]any{
		"count": int64(2), "queue": "a\"b", "time": time.Unix(5, 0), "raw": []byte("x"), "price": message.Decimal{Scale: 1, Value: 5}, "none": nil,
	}}}}
	got := encoded(t, ferry, link.Outgoing{Message: m})
	if want := `x-death:[{"count"\c2,"none"\cnull,"price"\c5e-1,"queue"\c"a\\"b","raw"\c"x","time"\c5}]` + "\n"; !strings.Contains(got, want) {
		t.Errorf("%q has no %q", got, want)
	}
}

func TestIDsAreMadeOfProducerAndNumber(t *testing.T) {
	got := encoded(t, artemis, link.Outgoing{Message: &link.Message{Key: "q"}, Producer: "p", Seq: 9, Attempt: 1})
	if want := "SEND\ndestination:q\ndestination-type:ANYCAST\nreceipt:17\npersistent:true\nx-ferry-id:p-9\n_AMQ_DUPL_ID:p-9\ncontent-length:0\n\n\x00"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	got = encoded(t, artemis, link.Outgoing{Message: &link.Message{Key: "q", Headers: map[string]any{"_AMQ_DUPL_ID": "mine"}}, Producer: "p", Seq: 9})
	if strings.Contains(got, "_AMQ_DUPL_ID:p-9") || !strings.Contains(got, "_AMQ_DUPL_ID:mine") {
		t.Errorf("%q", got)
	}
}

// received is what a sink gets of a MESSAGE.
func received(t *testing.T, url string, headers ...string) link.Delivery {
	t.Helper()
	var got link.Delivery
	bubble(t, url, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		_, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
		s.send("MESSAGE", "body", append([]string{"subscription:1", "message-id:1", "ack:1"}, headers...)...)
		synctest.Wait()
		if len(in.Got) == 1 {
			got = *in.Got[0]
		}
	})
	return got
}

func TestMessageIsWhatWasSent(t *testing.T) {
	lines := func(frame string) []string {
		head, _, _ := strings.Cut(frame, "\n\n")
		return strings.Split(head, "\n")[1:]
	}
	want := link.Delivery{Message: *full(), Tag: 1, Attempt: 3, Redelivered: true}
	want.Message.Headers = map[string]any{"text": "a:b\n\\", "number": "-5", "flag": "true", "bytes": "raw", "name:x": "1.5", "price": "150e-2"}
	got := received(t, rabbit, append(lines(encoded(t, rabbitmq, link.Outgoing{Message: full(), Attempt: 3})), "redelivered:true")...)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n%+v, want\n%+v", got, want)
	}
	// Artemis writes some headers of its own in front.
	own := []string{"redelivered:true", "expires:1795316784926", "timestamp:1795316724940", "destination-type:MULTICAST"}
	want.Message.Expiration = 59986 * time.Millisecond
	got = received(t, art, append(own, lines(encoded(t, artemis, link.Outgoing{Message: full(), Attempt: 3}))...)...)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n%+v, want\n%+v", got, want)
	}
}

func TestHeadersOfDeliveries(t *testing.T) {
	for _, c := range []struct {
		url, header string
		is          func(m link.Delivery) bool
	}{
		{rabbit, "destination:/queue/a%2Fb%25", func(d link.Delivery) bool { return d.Message.Exchange == "" && d.Message.Key == "a/b%" }},
		{rabbit, "destination:/exchange/e/k", func(d link.Delivery) bool { return d.Message.Exchange == "e" && d.Message.Key == "k" }},
		{rabbit, "reply-to:/reply-queue/amq.gen-x", func(d link.Delivery) bool { return d.Message.ReplyTo == "amq.gen-x" }},
		{rabbit, "reply-to:/queue/a%2Fb", func(d link.Delivery) bool { return d.Message.ReplyTo == "a/b" }},
		{rabbit, "reply-to:/topic/x", func(d link.Delivery) bool { return d.Message.ReplyTo == "/topic/x" }},
		{rabbit, "timestamp:x", func(d link.Delivery) bool { return d.Message.Timestamp.IsZero() }},
		{rabbit, "priority:999", func(d link.Delivery) bool { return d.Message.Priority == 255 }},
		{rabbit, "priority:4", func(d link.Delivery) bool { return d.Message.Priority == 4 }},
		{rabbit, "receipt:17", func(d link.Delivery) bool { return d.Message.Headers == nil && d.Message.Transient }},
		{rabbit, "destination-type:x", func(d link.Delivery) bool { return d.Message.Headers["destination-type"] == "x" }},
		{rabbit, "a:1\na:2", func(d link.Delivery) bool { return d.Message.Headers["a"] == "1" }},
		{art, "priority:4", func(d link.Delivery) bool { return d.Message.Priority == 0 }},
		{art, "expires:0", func(d link.Delivery) bool { return d.Message.Expiration == 0 }},
		{art, "timestamp:1700000000123", func(d link.Delivery) bool { return d.Message.Timestamp.UnixMilli() == 1700000000123 }},
		{art, "_AMQ_DUPL_ID:x\nx-ferry-id:x", func(d link.Delivery) bool { return d.Message.ID == "x" && len(d.Message.Headers) == 0 }},
		{art, "_AMQ_DUPL_ID:y\nx-ferry-id:x", func(d link.Delivery) bool { return d.Message.Headers["_AMQ_DUPL_ID"] == "y" }},
	} {
		if d := received(t, c.url, c.header); !c.is(d) || string(d.Message.Body) != "body" {
			t.Errorf("%q: %+v", c.header, d)
		}
	}
}

func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		d             dialect
		exchange, key string
		want          string // "" is none
	}{
		{rabbitmq, "", "q", "/amq/queue/q"},
		{rabbitmq, "", "a/b é%x", "/amq/queue/a%2Fb é%x"},
		{rabbitmq, "", "a%2Fb", ""},
		{ferry, "", "a/b é%x", "/amq/queue/a%2Fb %C3%A9%25x"},
		{rabbitmq, "amq.topic", "a.*", "/topic/a.*"},
		{rabbitmq, "amq.topic", "", "/exchange/amq.topic"},
		{rabbitmq, "e", "a/b", "/exchange/e/a%2Fb"},
		{rabbitmq, "e", "", "/exchange/e"},
		{rabbitmq, "", "", ""},
		{artemis, "", "a/b", "a/b ANYCAST"},
		{artemis, "amq.topic", "t", "t MULTICAST"},
		{artemis, "e", "t", ""},
		{artemis, "amq.topic", "", ""},
		{activemq, "", "q", "/queue/q"},
		{activemq, "amq.topic", "t", "/topic/t"},
	} {
		got, err := c.d.place(c.exchange, c.key)
		if text := strings.TrimSpace(got.destination + " " + got.kind); text != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s %q %q: %q, %v", c.d.name(), c.exchange, c.key, text, err)
		}
		if err != nil {
			linktest.KindIs(t, err, link.NotAllowed)
		}
	}
}

func TestReportsAreClassified(t *testing.T) {
	for _, c := range []struct {
		message, body string
		kind          link.Kind
	}{
		{"not_found", "NOT_FOUND - no exchange 'nope' in vhost '/'", link.NotFound},
		{"not_found", "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible", link.Unavailable},
		{"no_route", "NO_ROUTE - no queue 'q' in vhost '/'", link.Unroutable},
		{"precondition_failed", "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'decl' in vhost '/'", link.Precondition},
		{"precondition_failed", "PRECONDITION_FAILED - message size 2 is larger than configured max size 1", link.TooLarge},
		{"resource_locked", "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'", link.Locked},
		{"access_refused", "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'ada'", link.AccessRefused},
		{"connection_forced", "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", link.Forced},
		{"AMQP channel died", "Reason: {shutdown,{connection_closing,{server_initiated_close,320,<<\"bye\">>}}}", link.Forced},
		{"AMQP channel died", "Reason: {shutdown,{server_initiated_close,404,<<\"NOT_FOUND - no queue\">>}}", link.NotFound},
		{"Bad CONNECT", "Access refused for user 'guest'\n", link.AccessRefused},
		{"Subscription not found", "Message with id \"x\" has no subscription", link.Unavailable},
		{"Server cancelled subscription", "The server has canceled a subscription.", link.Unavailable},
		{"Invalid destination", "'/a/b/c' is not a valid queue destination", link.Precondition},
		{"AMQ229032: User: ada does not have permission='SEND' on address q", "", link.AccessRefused},
		{"AMQ229102: Address \"q\" is full.", "", link.Unavailable},
		{"AMQ339001: Destination does not exist: q", "", link.NotFound},
		{"User ada is not authorized to write to: queue://q", "java.lang.SecurityException\n\tat ...", link.AccessRefused},
		{"", "", link.Internal},
		{"what nobody has said before", "", link.Internal},
	} {
		r := report{message: c.message, body: c.body}
		if e := r.error(); e.Kind != c.kind || !e.Said {
			t.Errorf("%s %s: %v, want %v", c.message, c.body, e.Kind, c.kind)
		}
	}
	long := report{message: "x", body: strings.Repeat("é", 1<<20)}
	if e := long.error(); len(e.Text) > 2000 {
		t.Errorf("%d bytes", len(e.Text))
	}
}

// FuzzPeer lets a broker say anything once a receiver and its session are open: it
// ends, and nothing panics or hangs.
func FuzzPeer(f *testing.F) {
	for _, raw := range []string{
		"MESSAGE\nsubscription:1\nmessage-id:1\nack:1\ndestination:/queue/q\ncontent-length:5\n\nwhole\x00\nRECEIPT\nreceipt-id:1\n\n\x00",
		"ERROR\nmessage:not_found\nreceipt-id:1\n\nwhy\x00",
		"MESSAGE\ncontent-length:10\n\nshort", "\n\r\n\n", "RECEIPT\nreceipt-id:r1\n\n\x00",
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 32<<10 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, rabbit)
			conn, home := p.open()
			src, in := new(source), new(sink)
			sender, s := p.sender(conn, src)
			_, s2, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
			src.Add(sender, linktest.Bodies("1", "2")...)
			for _, s := range []*side{s, s2} {
				_, _ = s.nc.Write(raw)
				s.nc.Close()
			}
			synctest.Wait()
			home.nc.Close()
			<-conn.Done()
			if len(src.Calls) == 0 || !strings.HasPrefix(src.Calls[len(src.Calls)-1], "closed") || !strings.HasPrefix(in.Calls[len(in.Calls)-1], "closed") {
				t.Errorf("%q, %q", src.Calls, in.Calls)
			}
		})
	})
}

func TestSendingDoesNotAllocate(t *testing.T) {
	s := &sender{confirm: true, session: &session{version: stompwire.V12, conn: &conn{dialect: artemis}}}
	var e encoder
	o := link.Outgoing{Message: &link.Message{Key: "q", ContentType: "text/plain", Headers: map[string]any{"b": "1", "a": "2"}}, Producer: "p", Attempt: 2}
	dst := make([]byte, 0, 1<<10)
	if n := testing.AllocsPerRun(100, func() {
		o.Seq++
		if _, err := e.appendHead(dst, s, &o, o.Seq); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for each message", n)
	}
}
