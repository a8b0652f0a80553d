package amqpserver

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func TestStartNamesTheProductAndTheNineCapabilities(t *testing.T) {
	p := newFixture(t, func(c *Config, _ *broker.Config) { c.Node, c.Epoch = "a:5672", 7 }).dial()
	m := p.start()
	if m.ServerProperties["node"] != "a:5672" || m.ServerProperties["epoch"] != int64(7) {
		t.Errorf("node %v, epoch %v; want a:5672, 7", m.ServerProperties["node"], m.ServerProperties["epoch"])
	}
	if m.VersionMajor != 0 || m.VersionMinor != 9 {
		t.Errorf("version %d-%d, want 0-9", m.VersionMajor, m.VersionMinor)
	}
	if m.Mechanisms != "PLAIN AMQPLAIN" || m.Locales != "en_US" {
		t.Errorf("mechanisms %q, locales %q", m.Mechanisms, m.Locales)
	}
	for _, name := range []string{"product", "version", "platform", "copyright", "information", "cluster_name"} {
		if s, ok := m.ServerProperties[name].(string); !ok || s == "" {
			t.Errorf("property %s is %v", name, m.ServerProperties[name])
		}
	}
	caps := m.ServerProperties["capabilities"].(amqpwire.Table)
	if len(caps) != 9 {
		t.Errorf("%d capabilities, want 9: %v", len(caps), caps)
	}
	for name, v := range caps {
		if v != true {
			t.Errorf("capability %s is %v", name, v)
		}
	}
}

func TestOtherProtocolHeadersAreAnsweredWithOurs(t *testing.T) {
	for name, header := range map[string]string{
		"AMQP 1.0":   "AMQP\x00\x01\x00\x00",
		"AMQP 0-10":  "AMQP\x01\x01\x00\x0a",
		"SASL":       "AMQP\x03\x01\x00\x00",
		"one octet":  "X",
		"text":       "HELO\r\n\r\n",
		"fifth only": "AMQP\x05",
	} {
		t.Run(name, func(t *testing.T) {
			p := newFixture(t).dial()
			p.write([]byte(header))
			var got [8]byte
			if _, err := readAll(p, got[:]); err != nil {
				t.Fatal(err)
			}
			if got != amqpwire.ProtocolHeader {
				t.Errorf("answer %q", got)
			}
			p.expectEnd()
		})
	}
}

func readAll(p *testPeer, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = p.nc.Read(b[n:])
		n += m
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}

func TestLoginWithAMQPlain(t *testing.T) {
	p := newFixture(t).dial()
	p.start()
	response, err := amqpwire.AppendHeadersFromTable(nil, amqpwire.Table{"LOGIN": "guest", "PASSWORD": "guest"})
	if err != nil {
		t.Fatal(err)
	}
	p.send(0, &amqpwire.ConnectionStartOk{Mechanism: "AMQPLAIN", Response: response})
	p.expect(0, &amqpwire.ConnectionTune{})
}

func TestLoginIsRefused(t *testing.T) {
	const text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."
	for name, m := range map[string]*amqpwire.ConnectionStartOk{
		"wrong password": startOk("guest", "s3cret-wrong"),
		"unknown user":   startOk("nobody", "s3cret-wrong"),
		"no name":        startOk("", ""),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := f.dial()
			p.start()
			p.send(0, m)
			if got, want := p.expectConnectionClose(), (closed{403, text, 0, 0}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			p.send(0, &amqpwire.ConnectionCloseOk{})
			p.expectEnd()
			if log := f.log.String(); strings.Contains(log, "s3cret") || !strings.Contains(log, "login refused") {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

// Most mistakes before the connection is open end it without a word, as in
// RabbitMQ.
func TestMistakesOfTheHandshakeAreNotExplained(t *testing.T) {
	plain := startOk("guest", "guest")
	without := startOk("guest", "wrong")
	without.ClientProperties = nil
	unknown := startOk("guest", "guest")
	unknown.Mechanism = "MAGIC"
	malformed := startOk("guest", "guest")
	malformed.Response = []byte("guest")
	authz := startOk("guest", "guest")
	authz.Response = []byte("other\x00guest\x00guest")
	for name, b := range map[string][]byte{
		"no capability":         frames(0, without),
		"unknown mechanism":     frames(0, unknown),
		"malformed response":    frames(0, malformed),
		"authorization id":      frames(0, authz),
		"open first":            frames(0, &amqpwire.ConnectionOpen{VirtualHost: "/"}),
		"channel first":         frames(1, &amqpwire.ChannelOpen{}),
		"publish first":         published(1, "", "q", amqpwire.Properties{}, "x"),
		"class channel on 0":    frames(0, &amqpwire.ChannelOpen{}),
		"unknown method":        rawFrame(1, 0, "\x00\x0a\x00\x63"),
		"unknown frame type":    rawFrame(7, 0, ""),
		"empty method":          rawFrame(1, 0, ""),
		"body":                  rawFrame(3, 0, "x"),
		"heartbeat with text":   rawFrame(8, 0, "x"),
		"no end":                {1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 11, 0},
		"frame of 9000 bytes":   amqpwire.AppendFrameHeader(nil, 1, 0, 9000),
		"frame of 4 GiB":        amqpwire.AppendFrameHeader(nil, 1, 0, 1<<32-1),
		"tune-ok before tune":   frames(0, &amqpwire.ConnectionTuneOk{}),
		"start-ok cut":          rawFrame(1, 0, "\x00\x0a\x00\x0b\x00\x00"),
		"channel_max 0":         frames(0, plain, &amqpwire.ConnectionTuneOk{FrameMax: 131072}),
		"channel_max over ours": frames(0, plain, &amqpwire.ConnectionTuneOk{FrameMax: 131072, ChannelMax: 4000}),
		"frame_max 0":           frames(0, plain, &amqpwire.ConnectionTuneOk{ChannelMax: 2047}),
		"frame_max over ours":   frames(0, plain, &amqpwire.ConnectionTuneOk{ChannelMax: 2047, FrameMax: 1 << 20}),
		"frame_max 4095":        frames(0, plain, &amqpwire.ConnectionTuneOk{ChannelMax: 2047, FrameMax: 4095}),
		"open before tune-ok":   frames(0, plain, &amqpwire.ConnectionOpen{VirtualHost: "/"}),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := f.dial()
			p.start()
			p.write(b)
			if login := frames(0, plain); bytes.HasPrefix(b, login) && len(b) > len(login) {
				p.expect(0, &amqpwire.ConnectionTune{})
			}
			p.expectEnd()
			if log := f.log.String(); !strings.Contains(log, "refused") {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

func TestOpenIsExplained(t *testing.T) {
	for name, row := range map[string]struct {
		b    []byte
		want closed
	}{
		"unknown vhost": {
			frames(0, &amqpwire.ConnectionOpen{VirtualHost: "/unknown"}),
			closed{530, "NOT_ALLOWED - vhost /unknown not found", 10, 40},
		},
		"channel before open": {
			frames(1, &amqpwire.ChannelOpen{}),
			closed{505, "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>", 0, 0},
		},
		"tune-ok twice": {
			frames(0, &amqpwire.ConnectionTuneOk{}),
			closed{504, "CHANNEL_ERROR - unexpected method in connection state opening", 10, 31},
		},
		"large frame": {
			amqpwire.AppendFrameHeader(nil, 1, 0, 8193),
			closed{501, "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,8193,8184}", 0, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newFixture(t).dial()
			p.start()
			p.send(0, startOk("guest", "guest"), &amqpwire.ConnectionTuneOk{ChannelMax: 7, FrameMax: 4096})
			p.expect(0, &amqpwire.ConnectionTune{})
			p.write(row.b)
			if got := p.expectConnectionClose(); got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
			p.send(0, &amqpwire.ConnectionCloseOk{})
			p.closeWrite()
			p.expectEnd()
		})
	}
}

func TestNobodyIsLetIn(t *testing.T) {
	f := newFixture(t, func(c *Config, _ *broker.Config) { c.Refuse = "AMQP is off" })
	for name, m := range map[string]*amqpwire.ConnectionStartOk{
		"a user":                        startOk("guest", "guest"),
		"a wrong password":              startOk("guest", "wrong"),
		"a mechanism that is not there": {Mechanism: "EXTERNAL"},
	} {
		t.Run(name, func(t *testing.T) {
			p := f.dial()
			p.start()
			p.send(0, m)
			p.expect(0, &amqpwire.ConnectionTune{})
			p.send(0, &amqpwire.ConnectionTuneOk{ChannelMax: 7, FrameMax: 4096}, &amqpwire.ConnectionOpen{VirtualHost: "/"})
			if got, want := p.expectConnectionClose(), (closed{540, "NOT_IMPLEMENTED - AMQP is off", 10, 40}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			p.send(0, &amqpwire.ConnectionCloseOk{})
			p.closeWrite()
			p.expectEnd()
		})
	}
}

// A client may send all of its handshake, and more, before it has read a byte.
func TestHandshakeInOneSegmentAndInSingleBytes(t *testing.T) {
	all := append([]byte{}, amqpwire.ProtocolHeader[:]...)
	all = append(all, frames(0, startOk("guest", "guest"),
		&amqpwire.ConnectionTuneOk{ChannelMax: 2047, FrameMax: 131072},
		&amqpwire.ConnectionOpen{VirtualHost: "/"})...)
	all = append(all, frames(1, &amqpwire.ChannelOpen{}, &amqpwire.QueueDeclare{Queue: "q"})...)
	all = append(all, published(1, "", "q", amqpwire.Properties{MessageID: "m"}, "body")...)
	all = append(all, published(1, "", "q", amqpwire.Properties{}, "")...)
	all = append(all, frames(1, &amqpwire.BasicGet{Queue: "q", NoAck: true})...)
	all = append(all, frames(0, &amqpwire.ConnectionClose{ReplyCode: 200})...)
	for name, step := range map[string]int{"one segment": len(all), "bytes": 1, "sevens": 7} {
		t.Run(name, func(t *testing.T) {
			p := newFixture(t).dial()
			for b := all; len(b) > 0; b = b[min(step, len(b)):] {
				p.write(b[:min(step, len(b))])
			}
			p.expect(0, &amqpwire.ConnectionStart{})
			p.expect(0, &amqpwire.ConnectionTune{})
			p.expect(0, &amqpwire.ConnectionOpenOk{})
			p.expect(1, &amqpwire.ChannelOpenOk{})
			p.expect(1, &amqpwire.QueueDeclareOk{})
			if m := expect[*amqpwire.BasicGetOk](p, 1); m.MessageCount != 1 {
				t.Errorf("got %+v", m)
			}
			if props, body := p.body(1); body != "body" || props.MessageID != "m" {
				t.Errorf("got %+v %q", props, body)
			}
			p.expect(0, &amqpwire.ConnectionCloseOk{})
			p.expectEnd()
		})
	}
}
