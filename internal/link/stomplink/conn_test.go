package stomplink

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

func TestConnectSaysWhoAndWhat(t *testing.T) {
	for _, c := range []struct {
		url       string
		heartbeat time.Duration
		want      string
	}{
		{"stomp://ada:lovelace@peer/v", 10 * time.Second, "accept-version=1.0,1.1,1.2 host=v login=ada passcode=lovelace heart-beat=10000,10000 client-id="},
		{"stomp://ada:love%3Alace%5C@peer", 0, "host=/ passcode=love:lace\\ heart-beat=0,0"},
		{"stomp://a%5Cda:love%5Clace@peer?dialect=rabbitmq", 0, "login=a\\\\da passcode=love\\\\lace"}, // which unescapes
		{"stomp://peer?heart-beat=500,1500&client-id=me&host=h&version=1.1", time.Second, "accept-version=1.1 host=h heart-beat=500,1500 client-id=me"},
	} {
		bubble(t, c.url, func(t *testing.T, p *peer) {
			p.options.Heartbeat = c.heartbeat
			p.connected = []string{"version:1.1", "server:RabbitMQ/3.10.8"}
			conn, home := p.open()
			for _, want := range strings.Fields(c.want) {
				name, value, _ := strings.Cut(want, "=")
				if got := home.connect.headers[name]; got != value {
					t.Errorf("%s: %s is %q, want %q", c.url, name, got, value)
				}
			}
			if product, version := conn.Peer(); product != "RabbitMQ" || version != "3.10.8" {
				t.Errorf("%s %s", product, version)
			}
		})
	}
}

func TestDialectIsFound(t *testing.T) {
	for server, want := range map[string]dialect{
		"RabbitMQ/3.10.8": rabbitmq, "Ferry/1.0": ferry, "ActiveMQ/5.18": activemq,
		"ActiveMQ-Artemis/2.56.0 ActiveMQ Artemis Messaging Engine": artemis,
		"apache-apollo/1.7": unknown, "": unknown,
	} {
		bubble(t, "stomp://peer", func(t *testing.T, p *peer) {
			p.connected = []string{"version:1.2", "server:" + server}
			go func() { _, _ = p.accept().next() }()
			c, err := open(t.Context(), p.options)
			if want == unknown {
				linktest.KindIs(t, err, link.Precondition)
				return
			}
			if err != nil || c.dialect != want {
				t.Fatalf("%s: %v", server, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = c.Close(ctx)
		})
	}
}

func TestWhatIsNoLogin(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		kind         link.Kind
		text         string
	}{
		{"RabbitMQ, password", "ERROR\nmessage:Bad CONNECT\ncontent-length:32\n\nAccess refused for user 'guest'\n\x00", link.AccessRefused, "Access refused"},
		{"RabbitMQ, virtual host", "ERROR\nmessage:Bad CONNECT\ncontent-length:34\n\nVirtual host 'nope' access denied\n\x00", link.AccessRefused, "nope"},
		{"Artemis, password", "ERROR\nmessage:Security Error occurred\\c User name [x] or password is invalid\n\n\x00", link.AccessRefused, "occurred: User"},
		{"version", "ERROR\nmessage:Version mismatch\n\nSupported versions are 1.0\n\x00", link.Protocol, "Version"},
		{"shutdown", "ERROR\nmessage:connection_forced\n\nCONNECTION_FORCED - shutdown\x00", link.Forced, "shutdown"},
		{"a version that was not offered", "CONNECTED\nversion:1.3\n\n\x00", link.Protocol, "1.3"},
		{"another frame", "RECEIPT\nreceipt-id:1\n\n\x00", link.Protocol, "RECEIPT"},
		{"a wrong heart-beat", "CONNECTED\nversion:1.2\nheart-beat:x\n\n\x00", link.Protocol, "heart-beat"},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", link.Protocol, "HTTP"},
		{"AMQP", "AMQP\x00\x00\x09\x01", link.Protocol, "AMQP"},
		{"TLS", "\x15\x03\x01\x00\x02\x02\x28", link.Protocol, "TLS"},
		{"garbage", "what is this?\n\n", link.Protocol, ""},
		{"an endless frame", "ERROR\n\n" + strings.Repeat("x", reportMost+2), link.Protocol, "without an end"},
		{"endless headers", "CONNECTED\n" + strings.Repeat("a:b\n", 5000), link.Protocol, "headers"},
		{"nothing", "", link.Network, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, rabbit, func(t *testing.T, p *peer) {
				go func() {
					s := p.raw()
					s.want(stompwire.Connect)
					_, _ = s.nc.Write([]byte(c.answer)) // all that the client wants of it
					s.nc.Close()
				}()
				_, err := Open(t.Context(), p.options)
				linktest.KindIs(t, err, c.kind)
				if err != nil && !strings.Contains(err.Error(), c.text) {
					t.Errorf("%v does not say %q", err, c.text)
				}
				if err != nil && strings.Contains(err.Error(), "lovelace") {
					t.Errorf("%v shows the password", err)
				}
			})
		})
	}
}

func TestSilenceEndsWithTheContext(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := Open(ctx, p.options)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		conn, _ := p.openSecond()
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := conn.OpenSender(ctx, link.SenderConfig{}, new(source)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended for the caller's context: %v", err)
		}
	})
}

// openSecond is open where a session was dialled before in vain.
func (p *peer) openSecond() (*conn, *side) {
	<-p.dialled
	return p.open()
}

func TestSessionThatIsRefusedEndsTheConnection(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		go func() {
			s := p.raw()
			s.want(stompwire.Connect)
			s.send("ERROR", "Access refused for user 'ada'", "message:Bad CONNECT")
		}()
		_, err := conn.OpenSender(t.Context(), link.SenderConfig{}, src)
		linktest.KindIs(t, err, link.AccessRefused)
		<-conn.Done()
		linktest.KindIs(t, conn.Err(), link.AccessRefused)
		src.Is(t)
	})
}

func TestCredentialsThatCannotBeSent(t *testing.T) {
	bubble(t, "stomp://ada:love%0Alogin%3Aroot@peer", func(t *testing.T, p *peer) {
		go func() { p.raw().ends() }()
		_, err := Open(t.Context(), p.options)
		linktest.KindIs(t, err, link.Precondition)
	})
}

func TestUnknownParametersAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"dialekt":    {"rabbitmq", "knows client-id, dialect, heart-beat, host, version"},
		"dialect":    {"x", "is one of activemq, artemis, ferry, rabbitmq"},
		"version":    {"2", "1.0, 1.1 or 1.2"},
		"heart-beat": {"x", "heart-beat"},
	} {
		e := endpoint.Endpoint{Scheme: "stomp", Host: "peer", Params: map[string]string{name: c.value}}
		_, err := Open(t.Context(), link.Options{Endpoint: e})
		linktest.KindIs(t, err, link.Precondition)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: %v", name, c.value, err)
		}
	}
}

// What package endpoint lets pass is understood here, and the other way round.
func TestParametersOfURLsAreUnderstood(t *testing.T) {
	good := map[string][]string{
		"heart-beat": {"0,0", "1000,2147483647"}, "dialect": slices.Collect(maps.Keys(dialects)),
		"version": {"1.0", "1.1", "1.2"}, "host": {"a"}, "client-id": {"a"},
	}
	for name := range parameters {
		if len(good[name]) == 0 {
			t.Errorf("no value for %s", name)
		}
		for _, value := range good[name] {
			list, err := endpoint.Parse("stomps://peer?" + name + "=" + value)
			if err != nil {
				t.Errorf("%s=%s: %v", name, value, err)
				continue
			}
			if _, err := settingsOf(list.Endpoints[0], 0); err != nil || len(list.Endpoints[0].Params) != 1 {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
}

func TestHeartBeatsAreAgreedOnAndKept(t *testing.T) {
	for _, c := range []struct {
		name, offered string
		own           time.Duration
		send, receive time.Duration
	}{
		{"the same", "10000,10000", 10 * time.Second, 10 * time.Second, 10 * time.Second},
		{"the longer counts", "30000,5000", 10 * time.Second, 10 * time.Second, 30 * time.Second},
		{"the peer has none", "0,0", 10 * time.Second, 0, 0},
		{"one way", "0,20000", 10 * time.Second, 20 * time.Second, 0},
		{"none wanted", "10000,10000", 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, rabbit, func(t *testing.T, p *peer) {
				p.options.Heartbeat = c.own
				p.connected = append(p.connected, "heart-beat:"+c.offered)
				conn, home := p.open()
				begin := time.Now()
				read := make(chan struct{})
				go func() {
					defer close(read)
					_, _ = home.next()
				}()
				if c.receive == 0 {
					time.Sleep(10 * time.Minute)
					if err := conn.Err(); err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(t.Context())
					cancel()
					_ = conn.Close(ctx)
				}
				<-conn.Done()
				took := time.Since(begin)
				<-read
				if c.receive > 0 {
					linktest.KindIs(t, conn.Err(), link.Dead)
					if took > 2*c.receive || took < 2*c.receive-c.receive/4 {
						t.Errorf("dead after %v", took)
					}
				}
				if c.send > 0 {
					if n := int(took / c.send); home.beats < n || home.beats > 4*n {
						t.Errorf("%d heart-beats in %v", home.beats, took)
					}
				} else if home.beats > 0 {
					t.Errorf("%d heart-beats", home.beats)
				}
			})
		})
	}
}

func TestPeerThatBeatsLivesOn(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		p.options.Heartbeat = 10 * time.Second
		p.connected = append(p.connected, "heart-beat:10000,10000")
		conn, home := p.open()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); home.breathe(ctx, 15*time.Second) }() // within the margin
		go func() { _, _ = home.next() }()
		time.Sleep(time.Hour)
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
		<-conn.Done()
		linktest.KindIs(t, conn.Err(), link.Dead)
	})
}

// RabbitMQ reads nothing while an alarm lasts, and has no way to say so.
func TestBrokerThatReadsNothingBlocks(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		var told record
		p.options.Blocked = func(_ string, ok bool) { told.Note("%v", ok) }
		p.options.Heartbeat = 10 * time.Second
		p.connected = append(p.connected, "heart-beat:10000,10000")
		conn, home := p.open()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go home.breathe(ctx, 10*time.Second)
		go func() { _, _ = home.next() }()
		src := new(source)
		sender, s := p.sender(conn, src)
		go s.breathe(ctx, 10*time.Second)
		src.Add(sender, linktest.Body(strings.Repeat("x", 1<<20)))
		time.Sleep(time.Hour)
		told.Is(t, "false")
		if err := conn.Err(); err != nil {
			t.Fatal(err)
		}
		s.want(stompwire.Send)
		told.Is(t, "true")
		cancel()
		<-conn.Done()
	})
}

func TestHalfOpenPeerWithoutHeartBeatsIsNoticedWhenWrittenTo(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, _ := p.sender(conn, src)
		src.Add(sender, linktest.Body(strings.Repeat("x", 1<<20)))
		begin := time.Now()
		<-conn.Done()
		linktest.KindIs(t, conn.Err(), link.Dead)
		if took := time.Since(begin); took < 30*time.Second || took > 40*time.Second {
			t.Errorf("it took %v", took)
		}
		src.Is(t, "closed peer does not answer")
	})
}

func TestGarbageEndsTheConnection(t *testing.T) {
	for name, raw := range map[string]string{
		"no frame":                "what is this?\n\n",
		"a client's frame":        "SEND\ndestination:q\n\n\x00",
		"a length that is a lie":  "MESSAGE\nsubscription:1\nmessage-id:1\nack:1\ndestination:/queue/q\ncontent-length:2\n\nabc\x00",
		"a negative length":       "MESSAGE\ncontent-length:-1\n\n\x00",
		"an enormous length":      "MESSAGE\ncontent-length:99999999999999999999\n\n\x00",
		"an enormous report":      "ERROR\ncontent-length:2000000\n\n\x00",
		"an escape that is wrong": "MESSAGE\na:\\t\n\n\x00",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, rabbit, func(t *testing.T, p *peer) {
				conn, _ := p.open()
				in := new(sink)
				_, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
				s.write(raw)
				<-conn.Done()
				linktest.KindIs(t, conn.Err(), link.Protocol)
				in.Is(t, "closed protocol error")
			})
		})
	}
}

func TestFramesComeInPieces(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		_, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
		raw := "\r\n\n\r\nMESSAGE\r\nsubscription:1\nmessage-id:1\nack:1\ndestination:/queue/q\ncontent-length:5\n\nwhole\x00\n\nMESSAGE\nsubscription:1\nack:2\ndestination:/queue/q\n\nno length\x00"
		for i := range len(raw) {
			s.write(raw[i : i+1])
			synctest.Wait()
		}
		in.Is(t, "whole", "no length")
	})
}

func TestCloseTellsTheBroker(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, home := p.open()
		src, in := new(source), new(sink)
		_, s1 := p.sender(conn, src)
		r, s2, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
		s2.deliver(1, "a", "1")
		in.Is(t, "1")
		if err := r.Ack(in.Tag(0)); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*side{home, s1} {
			go func() { s.receipt(s.want(stompwire.Disconnect)) }()
		}
		go func() {
			if got := s2.settles(1); got != "ACK a" {
				t.Error(got)
			}
			s2.receipt(s2.want(stompwire.Disconnect))
		}()
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
		<-conn.Done()
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
		src.Is(t, "closed closed")
		in.Is(t, "closed closed")
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
		linktest.KindIs(t, conn.Declare(t.Context(), []link.Item{link.Queue{Name: "q"}})[0].Err, link.Closed)
	})
}

func TestCloseIsCutShort(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := conn.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		<-conn.Done()
	})
}

// Whoever is told Closed knows by Err whether the connection goes on.
func TestErrIsKnownBeforeClosed(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, home := p.open()
		src := &watcher{conn: conn}
		_, _ = logIn(p, func() (link.Sender, error) { return conn.OpenSender(t.Context(), link.SenderConfig{}, src) })
		home.nc.Cut()
		<-conn.Done()
		if !src.knew {
			t.Error("Closed came while Err was nil")
		}
	})
}

type watcher struct {
	source
	conn link.Conn
	knew bool
}

func (w *watcher) Closed(error) { w.knew = w.conn.Err() != nil }

func TestDialThatFails(t *testing.T) {
	refused := errors.New("refused")
	_, err := Open(t.Context(), link.Options{
		Endpoint: endpoint.Endpoint{Scheme: "stomp", Host: "peer", Port: 1},
		Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, refused },
	})
	linktest.KindIs(t, err, link.Network)
	if !errors.Is(err, refused) {
		t.Error(err)
	}
}
