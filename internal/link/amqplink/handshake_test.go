package amqplink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func TestOpenEndsWithItsContextWhereverThePeerFallsSilent(t *testing.T) {
	start := &amqpwire.ConnectionStart{VersionMinor: 9, Mechanisms: "PLAIN", Locales: "en_US"}
	for _, c := range []struct {
		name   string
		script func(*peer)
	}{
		{"at once", func(*peer) {}},
		{"after the header", func(p *peer) { p.header() }},
		{"within start", func(p *peer) { p.header(); p.write([]byte{1, 0, 0, 0, 0, 1}) }},
		{"after start-ok", func(p *peer) {
			p.header()
			p.send(0, start)
			get[*amqpwire.ConnectionStartOk](p)
		}},
		{"after tune-ok", func(p *peer) {
			p.header()
			p.send(0, start)
			get[*amqpwire.ConnectionStartOk](p)
			p.send(0, &amqpwire.ConnectionTune{FrameMax: 4096})
			get[*amqpwire.ConnectionTuneOk](p)
			get[*amqpwire.ConnectionOpen](p)
		}},
	} {
		for _, scheme := range []string{"amqp", "amqps"} {
			if scheme == "amqps" && c.name != "at once" {
				continue
			}
			t.Run(c.name+" "+scheme, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, o := newPeer(t)
					o.Endpoint.Scheme = scheme
					ctx, cancel := context.WithCancelCause(t.Context())
					why := errors.New("the test is over")
					time.AfterFunc(time.Second, func() { cancel(why) })
					begin := time.Now()
					go c.script(p)
					_, err := Open(ctx, o)
					if !errors.Is(err, why) {
						t.Errorf("Open says %v", err)
					}
					if took := time.Since(begin); took > time.Second+100*time.Millisecond {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}

func TestWhatDoesNotSpeakAMQPIsNamed(t *testing.T) {
	for _, c := range []struct{ answer, want string }{
		{"AMQP\x00\x01\x00\x00", "0.1.0.0"},
		{"AMQP\x03\x01\x00\x00", "AMQP 1.0.0"},
		{"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"},
		{"\x15\x03\x01\x00\x02\x02\x46", "TLS"},
		{"SSH-2.0-OpenSSH\r\n", "unknown frame type"},
		{"", "EOF"},
	} {
		t.Run(c.answer, func(t *testing.T) {
			p, o := newPeer(t)
			go func() { p.header(); p.write([]byte(c.answer)); p.nc.Close() }()
			_, err := Open(t.Context(), o)
			kind := link.Protocol
			if c.answer == "" {
				kind = link.Network
			}
			kindIs(t, err, kind)
			if !strings.Contains(err.Error(), strings.TrimPrefix(c.want, "0.1.")) {
				t.Errorf("the error is %q, want %q in it", err, c.want)
			}
		})
	}
}

func TestRefusedLogin(t *testing.T) {
	closing := func(code uint16, text string) func(*peer) {
		return func(p *peer) {
			p.send(0, &amqpwire.ConnectionClose{ReplyCode: code, ReplyText: text})
			get[*amqpwire.ConnectionCloseOk](p)
		}
	}
	for _, c := range []struct {
		name string
		tune bool // it fails after that
		do   func(*peer)
		kind link.Kind
	}{
		{"password", false, closing(403, "ACCESS_REFUSED - Login was refused"), link.AccessRefused},
		{"old broker", false, func(p *peer) { p.nc.Close() }, link.AccessRefused},
		{"no virtual host", true, closing(530, "NOT_ALLOWED - vhost 'v' not found"), link.NotFound},
		{"virtual host refused", true, closing(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'ada'"), link.AccessRefused},
		{"virtual host down", true, closing(541, "INTERNAL_ERROR - access to vhost '/' refused for user 'ada': vhost '/' is down"), link.Unavailable},
		{"limit", true, closing(530, "NOT_ALLOWED - access to vhost '/' refused for user 'ada': connection limit (1) is reached"), link.AccessRefused},
		{"shutdown", true, closing(320, "CONNECTION_FORCED - broker forced connection closure"), link.Forced},
		{"frame", true, func(p *peer) { p.write(amqpwire.AppendBody(nil, 1, []byte("x"), 0)) }, link.Protocol},
		{"method", true, func(p *peer) { p.send(0, &amqpwire.ConnectionCloseOk{}) }, link.Protocol},
		{"end", true, func(p *peer) { p.nc.Close() }, link.Network},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, o := newPeer(t)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				p.header()
				p.send(0, &amqpwire.ConnectionStart{VersionMinor: 9, Mechanisms: "PLAIN", Locales: "en_US"})
				get[*amqpwire.ConnectionStartOk](p)
				if c.tune {
					p.send(0, &amqpwire.ConnectionTune{})
					get[*amqpwire.ConnectionTuneOk](p)
					get[*amqpwire.ConnectionOpen](p)
				}
				c.do(p)
			}()
			_, err := Open(t.Context(), o)
			kindIs(t, err, c.kind)
			<-ended
		})
	}
}

func TestMechanisms(t *testing.T) {
	plain := "\x00ada\x00lovelace"
	for _, c := range []struct {
		offered string
		allowed []string
		want    string
		says    string
	}{
		{"PLAIN AMQPLAIN", nil, "PLAIN", plain},
		{"AMQPLAIN PLAIN", nil, "PLAIN", plain},
		{"AMQPLAIN", nil, "AMQPLAIN", "\x05LOGINS\x00\x00\x00\x03ada\x08PASSWORDS\x00\x00\x00\x08lovelace"},
		{"EXTERNAL PLAIN", []string{"EXTERNAL", "PLAIN"}, "EXTERNAL", ""},
		{"PLAIN", []string{"EXTERNAL", "PLAIN"}, "PLAIN", plain},
		{"EXTERNAL", nil, "", ""},
		{"RABBIT-CR-DEMO", []string{"RABBIT-CR-DEMO"}, "", ""},
	} {
		t.Run(c.offered+" "+strings.Join(c.allowed, " "), func(t *testing.T) {
			p, o := newPeer(t)
			p.mech = c.offered
			o.Endpoint.AuthMechanisms = c.allowed
			if c.want == "" {
				go func() {
					p.header()
					p.send(0, &amqpwire.ConnectionStart{VersionMinor: 9, Mechanisms: p.mech, Locales: "en_US"})
				}()
				_, err := Open(t.Context(), o)
				kindIs(t, err, link.AccessRefused)
				return
			}
			ended := make(chan struct{})
			go func() { defer close(ended); p.handshake() }()
			mustOpen(t, o)
			<-ended
			if p.start.Mechanism != c.want || string(p.start.Response) != c.says {
				t.Errorf("logged in by %s with %q", p.start.Mechanism, p.start.Response)
			}
		})
	}
}

func TestLimitsAreTheLesserOfBothSides(t *testing.T) {
	for _, c := range []struct {
		ours, theirs, want amqpwire.ConnectionTune // heartbeat in seconds
	}{
		{
			amqpwire.ConnectionTune{ChannelMax: 10, FrameMax: 5000, Heartbeat: 10},
			amqpwire.ConnectionTune{ChannelMax: 0, FrameMax: 0, Heartbeat: 0},
			amqpwire.ConnectionTune{ChannelMax: 10, FrameMax: 5000, Heartbeat: 10},
		},
		{
			amqpwire.ConnectionTune{},
			amqpwire.ConnectionTune{ChannelMax: 100, FrameMax: 4096, Heartbeat: 60},
			amqpwire.ConnectionTune{ChannelMax: 100, FrameMax: 4096},
		},
		{
			amqpwire.ConnectionTune{ChannelMax: 10, FrameMax: 1 << 20, Heartbeat: 10},
			amqpwire.ConnectionTune{ChannelMax: 9, FrameMax: 1 << 19, Heartbeat: 5},
			amqpwire.ConnectionTune{ChannelMax: 9, FrameMax: 1 << 19, Heartbeat: 5},
		},
		{
			amqpwire.ConnectionTune{},
			amqpwire.ConnectionTune{},
			amqpwire.ConnectionTune{ChannelMax: 2047, FrameMax: 131072},
		},
	} {
		t.Run(fmt.Sprint(c.ours, c.theirs), func(t *testing.T) {
			p, conn := connect(t, func(p *peer, o *link.Options) {
				p.tune = c.theirs
				o.Endpoint.ChannelMax, o.Endpoint.FrameMax = c.ours.ChannelMax, c.ours.FrameMax
				o.Heartbeat = time.Duration(c.ours.Heartbeat) * time.Second
				o.Name = "a name"
			})
			if amqpwire.ConnectionTune(*p.tuned) != c.want {
				t.Errorf("agreed on %+v, want %+v", *p.tuned, c.want)
			}
			if p.opened.VirtualHost != "v" {
				t.Errorf("opened %q", p.opened.VirtualHost)
			}
			props := p.start.ClientProperties
			if props["product"] != "Ferry" || props["connection_name"] != "a name" {
				t.Errorf("properties %v", props)
			}
			if can, _ := props["capabilities"].(amqpwire.Table); can["connection.blocked"] != true || can["consumer_cancel_notify"] != true {
				t.Errorf("capabilities %v", can)
			}
			if product, version := conn.Peer(); product != "Peer" || version != "1.2" {
				t.Errorf("the peer is %s %s", product, version)
			}
		})
	}
}

func TestCredentialsAreAskedForAtEachOpen(t *testing.T) {
	for _, password := range []string{"one", "two"} {
		p, _ := connect(t, func(_ *peer, o *link.Options) {
			o.Credentials = func(context.Context, endpoint.Endpoint) (string, string, error) { return "bob", password, nil }
		})
		if want := "\x00bob\x00" + password; string(p.start.Response) != want {
			t.Errorf("logged in with %q", p.start.Response)
		}
	}
	_, o := newPeer(t)
	o.Credentials = func(context.Context, endpoint.Endpoint) (string, string, error) {
		return "", "", errors.New("the vault is closed")
	}
	_, err := Open(t.Context(), o)
	kindIs(t, err, link.Unavailable)
}

func TestNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	_, err = Open(t.Context(), link.Options{Endpoint: mustParse(t, "amqp://"+addr)})
	kindIs(t, err, link.Network)
}
