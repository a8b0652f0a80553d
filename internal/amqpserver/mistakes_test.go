package amqpserver

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// recorded are RabbitMQ 3.10's answers to wrong uses, by the names of the cases.
func recorded(t *testing.T) map[string]closed {
	t.Helper()
	f, err := os.Open("../../conformance/testdata/rabbitmq-3.10/errors.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]closed{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var c struct {
			Case    string `json:"case"`
			Replies []struct {
				Method  string `json:"method"`
				Code    uint16 `json:"reply_code"`
				Text    string `json:"reply_text"`
				Class   uint16 `json:"class_id"`
				MethodN uint16 `json:"method_id"`
			} `json:"replies"`
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.Replies {
			if strings.HasSuffix(r.Method, ".close") {
				all[c.Case] = closed{r.Code, r.Text, r.Class, r.MethodN}
			}
		}
	}
	return all
}

// mistake is a row of the hostile-peer table: bytes in, the reply out. Whether
// the channel or the connection is closed follows from the code.
type mistake struct {
	name string // RabbitMQ's recorded answer is the one of this case, where there is one
	b    []byte
	want closed // the answer where none is recorded, or ours is another
}

func publishMethod(flags ...string) *amqpwire.BasicPublish {
	m := &amqpwire.BasicPublish{RoutingKey: "nowhere"}
	for _, f := range flags {
		switch f {
		case "immediate":
			m.Immediate = true
		case "mandatory":
			m.Mandatory = true
		}
	}
	return m
}

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func header(channel uint16, size uint64) []byte {
	return amqpwire.AppendContentHeader(nil, channel, size, nil)
}

func mistakes() []mistake {
	start := frames(1, publishMethod())
	nested := amqpwire.Table{}
	for range amqpwire.MaxNesting {
		nested = amqpwire.Table{"t": nested}
	}
	deep := nestedHeaders(amqpwire.MaxNesting + 1)
	return []mistake{
		// Frames.
		{name: "frame_too_large", b: amqpwire.AppendFrameHeader(nil, 3, 1, 200000)},
		{name: "frame_end_wrong", b: []byte{1, 0, 1, 0, 0, 0, 4, 0, 10, 0, 50, 0}},
		{name: "frame_kind_unknown", b: rawFrame(5, 1, "")},
		{name: "frame_empty_method", b: rawFrame(1, 1, "")},
		{name: "frame_method_cut", b: rawFrame(1, 1, "\x00\x32\x00\x0a\x00\x00\x20abc")},
		{name: "frame_method_too_long", b: rawFrame(1, 1, "\x00\x14\x00\x0a\x00rest")},
		{name: "frame_heartbeat_on_channel", b: rawFrame(8, 1, "")},
		{name: "frame_heartbeat_with_content", b: rawFrame(8, 0, "xx")},
		{
			name: "unknown class", b: rawFrame(1, 1, "\x00\x63\x00\x0a"),
			want: closed{540, "NOT_IMPLEMENTED - unknown method 99.10", 99, 10},
		},
		{
			name: "unknown method", b: rawFrame(1, 1, "\x00\x32\x00\x63"),
			want: closed{540, "NOT_IMPLEMENTED - unknown method 50.99", 50, 99},
		},
		{
			name: "frame of 4 GiB", b: amqpwire.AppendFrameHeader(nil, 1, 1, 1<<32-1),
			want: closed{501, "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4294967295,131064}", 0, 0},
		},
		{
			name: "header frame of 3 bytes", b: join(start, rawFrame(2, 1, "\x00\x3c\x00")),
			want: closed{501, "FRAME_ERROR - type 2, all octets = <<0,60,0>>: unknown_frame", 0, 0},
		},
		{
			name: "ack cut", b: rawFrame(1, 1, "\x00\x3c\x00\x50\x00"),
			want: closed{501, "FRAME_ERROR - cannot decode <<0>>", 60, 80},
		},
		{
			name: "publish cut", b: rawFrame(1, 1, "\x00\x3c\x00\x28\x00\x00\x05ab"),
			want: closed{501, "FRAME_ERROR - cannot decode <<0,0,5,97,98>>", 60, 40},
		},
		{
			name: "table of an unknown type", b: rawFrame(1, 1, "\x00\x32\x00\x0a\x00\x00\x01q\x00\x00\x00\x00\x04\x01a?\x00"),
			want: closed{502, "SYNTAX_ERROR - unknown type 0x3F of a table's value", 50, 10},
		},
		{
			name: "table cut", b: rawFrame(1, 1, "\x00\x32\x00\x0a\x00\x00\x01q\x00\x00\x00\x00\xff\x01a"),
			want: closed{501, "FRAME_ERROR - cannot decode <<0,0,1,113,0,0,0,0,255,1,97>>", 50, 10},
		},
		{name: "queue_name_not_utf8", b: rawFrame(1, 1, "\x00\x32\x00\x0a\x00\x00\x07conf.\xff\xfe\x04\x00\x00\x00\x00")},

		// Content.
		{name: "content_header_without_method", b: header(1, 1)},
		{name: "content_body_without_method", b: rawFrame(3, 1, "x")},
		{name: "content_body_without_header", b: join(start, rawFrame(3, 1, "x"))},
		{name: "content_method_instead_of_header", b: join(start, frames(1, &amqpwire.BasicQos{}))},
		{name: "content_method_instead_of_header", b: join(start, start)},
		{name: "content_method_instead_of_body", b: join(start, header(1, 10), frames(1, &amqpwire.BasicQos{}))},
		{name: "content_header_of_other_class", b: join(start, rawFrame(2, 1, "\x00\x32\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00"))},
		{name: "content_method_instead_of_body", b: join(start, header(1, 10), rawFrame(3, 1, "123"), header(1, 7))},
		{
			name: "weight", b: join(start, rawFrame(2, 1, "\x00\x3c\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00")),
			want: closed{505, "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead", 60, 40},
		},
		{
			name: "no property flags", b: join(start, rawFrame(2, 1, "\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01")),
			want: closed{501, "FRAME_ERROR - content header runs past the end of what holds it", 60, 40},
		},
		{
			name: "body longer than announced", b: join(start, header(1, 1), rawFrame(3, 1, "xx")),
			want: closed{505, "UNEXPECTED_FRAME - content body is longer than announced: 2 bytes where 1 are left", 60, 40},
		},
		{
			name: "second body longer than announced", b: join(start, header(1, 5), rawFrame(3, 1, "1234"), rawFrame(3, 1, "56")),
			want: closed{505, "UNEXPECTED_FRAME - content body is longer than announced: 2 bytes where 1 are left", 60, 40},
		},
		{
			name: "large body longer than announced", b: join(start, header(1, 20000), rawFrame(3, 1, strings.Repeat("x", 30000))),
			want: closed{505, "UNEXPECTED_FRAME - content body is longer than announced: 30000 bytes where 20000 are left", 60, 40},
		},
		{
			name: "body for an empty message", b: join(start, header(1, 0), rawFrame(3, 1, "x")),
			want: closed{505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", 0, 0},
		},
		{
			name: "announced 16 MiB and a byte", b: join(start, header(1, broker.DefaultMaxMessage+1)),
			want: closed{406, "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216", 60, 40},
		},
		{
			name: "announced 2^63", b: join(start, header(1, 1<<63)),
			want: closed{406, "PRECONDITION_FAILED - message size 9223372036854775808 is larger than configured max size 16777216", 60, 40},
		},
		{
			name: "announced 2^64-1", b: join(start, header(1, 1<<64-1)),
			want: closed{406, "PRECONDITION_FAILED - message size 18446744073709551615 is larger than configured max size 16777216", 60, 40},
		},
		{
			name: "properties cut", b: join(start, rawFrame(2, 1, "\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x00\x05ab")),
			want: closed{501, "FRAME_ERROR - property runs past the end of what holds it", 60, 40},
		},
		{
			name: "headers nested too deep", b: join(start, rawFrame(2, 1, "\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00"+deep)),
			want: closed{502, "SYNTAX_ERROR - table nested deeper than 32", 60, 40},
		},
		{
			name: "arguments nested too deep", b: rawFrame(1, 1, "\x00\x32\x00\x0a\x00\x00\x01q\x00"+deep),
			want: closed{502, "SYNTAX_ERROR - table nested deeper than 32", 50, 10},
		},
		{
			name: "exchange name not UTF-8", b: join(rawFrame(1, 1, "\x00\x3c\x00\x28\x00\x00\x01\xff\x00\x00"), header(1, 0)),
			want: closed{501, "FRAME_ERROR - Malformed UTF-8 in shortstr", 0, 0},
		},

		// Publishing.
		{name: "publish_immediate", b: contentFrames(1, publishMethod("immediate"), amqpwire.Properties{}, "x")},
		{name: "publish_immediate", b: contentFrames(1, publishMethod("immediate"), amqpwire.Properties{}, strings.Repeat("x", 50000))},
		{name: "publish_wrong_user_id", b: published(1, "", "nowhere", amqpwire.Properties{UserID: "somebody"}, "x")},
		{name: "publish_expiration_to_nowhere", b: published(1, "", "nowhere", amqpwire.Properties{Expiration: "soon"}, "x")},
		{name: "publish_expiration_text", b: published(1, "", "nowhere", amqpwire.Properties{Expiration: "soon"}, strings.Repeat("x", 200000))},
		{name: "publish_expiration_negative", b: published(1, "", "nowhere", amqpwire.Properties{Expiration: "-1"}, "x")},
		{name: "publish_expiration_huge", b: published(1, "", "nowhere", amqpwire.Properties{Expiration: "99999999999999"}, "x")},
		{
			name: "missing exchange, body in frames", b: published(1, "none", "k", amqpwire.Properties{}, strings.Repeat("x", 200000)),
			want: closed{404, "NOT_FOUND - no exchange 'none' in vhost '/'", 60, 40},
		},

		// Channels.
		{name: "channel_open_twice", b: frames(1, &amqpwire.ChannelOpen{})},
		{name: "channel_not_open", b: frames(5, &amqpwire.QueueDeclare{Queue: "q"})},
		{name: "channel_close_not_open", b: frames(5, &amqpwire.ChannelClose{})},
		{name: "channel_used_after_close", b: frames(1, &amqpwire.ChannelClose{ReplyCode: 200}, &amqpwire.QueueDeclare{Queue: "q"})},
		{name: "channel_close_ok_alone", b: frames(1, &amqpwire.ChannelCloseOk{})},
		{name: "channel_flow_off", b: frames(1, &amqpwire.ChannelFlow{})},
		{name: "channel_zero_queue_declare", b: frames(0, &amqpwire.QueueDeclare{Queue: "q"})},
		{name: "channel_connection_method", b: frames(1, &amqpwire.ConnectionClose{ReplyCode: 200})},
		{name: "method_for_clients_only", b: frames(1, &amqpwire.QueueDeclareOk{Queue: "q"})},
		{
			name: "publish on a channel that is not open", b: published(9, "", "q", amqpwire.Properties{}, "x"),
			want: closed{504, "CHANNEL_ERROR - expected 'channel.open'", 60, 40},
		},
		{
			name: "publish on channel 0", b: published(0, "", "q", amqpwire.Properties{}, "x"),
			want: closed{504, "CHANNEL_ERROR - unexpected method in connection state running", 60, 40},
		},
		{
			name: "body on channel 0", b: rawFrame(3, 0, "x"),
			want: closed{505, `UNEXPECTED_FRAME - type 3, all octets = <<"x">>`, 0, 0},
		},
		{
			name: "header on a channel that is not open", b: header(9, 1),
			want: closed{505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", 0, 0},
		},

		// Connections.
		{name: "connection_open_twice", b: frames(0, &amqpwire.ConnectionOpen{VirtualHost: "/"})},
		{name: "connection_start_ok_twice", b: frames(0, startOk("guest", "guest"))},
		{
			name: "close-ok to no close", b: frames(0, &amqpwire.ConnectionCloseOk{}),
			want: closed{504, "CHANNEL_ERROR - unexpected method in connection state running", 10, 51},
		},

		// Names that were not given.
		{name: "queue_last_declared_without_any", b: frames(1, &amqpwire.QueueBind{Exchange: "amq.direct", RoutingKey: "k"})},
		{name: "queue_purge_last_declared_without_any", b: frames(1, &amqpwire.QueuePurge{})},
		{name: "consume_last_declared_without_any", b: frames(1, &amqpwire.BasicConsume{})},
		{name: "get_last_declared_without_any", b: frames(1, &amqpwire.BasicGet{})},

		// The rest.
		{name: "qos_prefetch_size", b: frames(1, &amqpwire.BasicQos{PrefetchSize: 1})},
		{name: "ack_unknown_tag", b: frames(1, &amqpwire.BasicAck{DeliveryTag: 7})},
		{name: "ack_unknown_tag_multiple", b: frames(1, &amqpwire.BasicAck{DeliveryTag: 7, Multiple: true})},
		{name: "ack_zero", b: frames(1, &amqpwire.BasicAck{})},
		{name: "nack_unknown_tag", b: frames(1, &amqpwire.BasicNack{DeliveryTag: 7})},
		{name: "reject_unknown_tag", b: frames(1, &amqpwire.BasicReject{DeliveryTag: 7})},
		{name: "recover_without_requeue", b: frames(1, &amqpwire.BasicRecover{})},
		{name: "recover_async_without_requeue", b: frames(1, &amqpwire.BasicRecoverAsync{})},
		{name: "confirm_on_tx", b: frames(1, &amqpwire.TxSelect{}, &amqpwire.ConfirmSelect{})},
		{name: "tx_on_confirm", b: frames(1, &amqpwire.ConfirmSelect{}, &amqpwire.TxSelect{})},
		{name: "commit_without_select", b: frames(1, &amqpwire.TxCommit{})},
		{name: "rollback_without_select", b: frames(1, &amqpwire.TxRollback{})},
		{name: "exchange_unknown_type", b: frames(1, &amqpwire.ExchangeDeclare{Exchange: "e", Type: "round"})},
		{name: "exchange_declare_default", b: frames(1, &amqpwire.ExchangeDeclare{Type: "direct", Durable: true})},
		{name: "exchange_delete_built_in", b: frames(1, &amqpwire.ExchangeDelete{Exchange: "amq.direct"})},
		{name: "queue_reserved_name", b: frames(1, &amqpwire.QueueDeclare{Queue: "amq.mine"})},
		{
			name: "missing queue", b: frames(1, &amqpwire.QueueDeclare{Queue: "none", Passive: true}),
			want: closed{404, "NOT_FOUND - no queue 'none' in vhost '/'", 50, 10},
		},
		{
			name: "nested as deep as allowed", b: frames(1, &amqpwire.QueueDeclare{Queue: "none", Passive: true, Arguments: nested}),
			want: closed{404, "NOT_FOUND - no queue 'none' in vhost '/'", 50, 10},
		},
	}
}

// nestedHeaders is a field table with depth tables in it, one within the other.
func nestedHeaders(depth int) string {
	inside := ""
	for range depth {
		inside = "\x01tF" + sized(inside)
	}
	return sized(inside)
}

func sized(s string) string {
	n := len(s)
	return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + s
}

func TestMistakesAreAnsweredAsRabbitMQAnswersThem(t *testing.T) {
	records := recorded(t)
	f := newFixture(t)
	for _, row := range mistakes() {
		t.Run(row.name, func(t *testing.T) {
			want := row.want
			if want == (closed{}) {
				var ok bool
				if want, ok = records[row.name]; !ok {
					t.Fatal("no answer is recorded")
				}
			}
			p := f.open()
			p.t = t
			p.write(row.b)
			skipOks(p)
			if amqpwire.IsHard(want.Code) {
				checkConnectionClosed(p, want)
			} else {
				checkChannelClosed(p, want)
			}
			f.mustServe(t)
		})
	}
}

// skipOks reads answers to what led up to a mistake.
func skipOks(p *testPeer) {
	for {
		f, err := p.read()
		if err != nil {
			p.t.Fatal("the connection ended")
		}
		c, m, _ := amqpwire.MethodID(f.Payload)
		switch {
		case c == amqpwire.ClassTx && m == amqpwire.MethodTxSelectOk:
			continue
		case c == amqpwire.ClassConfirm && m == amqpwire.MethodConfirmSelectOk:
			continue
		case c == amqpwire.ClassChannel && m == amqpwire.MethodChannelCloseOk:
			continue
		}
		p.buf = append(rawFrame(f.Type, f.Channel, string(f.Payload)), p.buf...)
		return
	}
}

// checkConnectionClosed checks the close, and that everything but close-ok is
// ignored until that has come.
func checkConnectionClosed(p *testPeer, want closed) {
	p.t.Helper()
	if got := p.expectConnectionClose(); got != want {
		p.t.Errorf("got %+v, want %+v", got, want)
	}
	p.send(1, &amqpwire.BasicQos{})
	p.send(0, &amqpwire.ConnectionCloseOk{})
	p.closeWrite()
	p.expectEnd()
}

// checkChannelClosed checks the close, that the channel ignores everything until
// close-ok, and that it can be opened again then while the connection serves on.
func checkChannelClosed(p *testPeer, want closed) {
	p.t.Helper()
	if got := p.expectChannelClose(1); got != want {
		p.t.Errorf("got %+v, want %+v", got, want)
	}
	p.send(1, &amqpwire.QueueDeclare{Queue: "ignored"})
	p.write(published(1, "", "ignored", amqpwire.Properties{}, "ignored"))
	p.write(rawFrame(3, 1, "ignored"))
	p.call(2, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
	p.send(1, &amqpwire.ChannelCloseOk{}, &amqpwire.ChannelOpen{})
	p.expect(1, &amqpwire.ChannelOpenOk{})
	p.send(1, &amqpwire.QueueDeclare{Queue: "ignored", Passive: true})
	if got := p.expectChannelClose(1); got.Code != amqpwire.NotFound {
		p.t.Errorf("a closed channel was served: %+v", got)
	}
	p.send(0, &amqpwire.ConnectionClose{ReplyCode: 200})
	p.expect(0, &amqpwire.ConnectionCloseOk{})
	p.expectEnd()
}

// mustServe checks that the server is well.
func (f *fixture) mustServe(t *testing.T) {
	t.Helper()
	p := f.open()
	p.t = t
	p.publish("", "nowhere", "x")
	p.ping(1)
	p.nc.Close()
}
