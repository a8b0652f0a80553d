package gmqlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
)

func TestOpenLogsIn(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, home := p.open()
		if a := home.login.Auth; a.User != "ada" || a.Password != "lovelace" {
			t.Errorf("%+v", a)
		}
		if product, version := conn.Peer(); product != "Peer" || version != "1.0" {
			t.Errorf("%q %q", product, version)
		}
	})
}

// What does not log a client in, and what that says.
func TestOpenTellsWhatIsWrong(t *testing.T) {
	const old = `{"operation":"SYNC","queue":"","payload":"","confirmation":"Y","error":null,"auth":{"user":"","password":""}}`
	for _, c := range []struct {
		name, answer string
		ends         bool // the peer closes behind it
		kind         link.Kind
		words        string
	}{
		{"refused", refuse("SYNC", "ACCESS_REFUSED - wrong user or password"), false, link.AccessRefused, "wrong user"},
		{"refused in words of its own", refuse("SYNC", "no"), false, link.AccessRefused, "no"},
		{"refused and closed", strings.TrimSpace(refuse("SYNC", "ACCESS_REFUSED - wrong user or password")), true, link.AccessRefused, "wrong user"},
		{"the end", refuse("SYNC", "CONNECTION_FORCED - broker shutdown"), true, link.Forced, "shutdown"},
		{"the original server", old, true, link.Protocol, "original GMQ server"},
		{"the original server with a line", old + "\n", false, link.Protocol, "original GMQ server"},
		{"the original server refuses", `{"operation":"SYNC","queue":"","payload":"","confirmation":"N","error":{},"auth":{"user":"","password":""}}`, true, link.AccessRefused, "without a word"},
		{"nothing", "", true, link.Network, "waiting for the answer"},
		{"a half", `{"operation":"SY`, true, link.Network, "waiting for the answer"},
		{"AMQP", "AMQP\x00\x00\x09\x01", true, link.Protocol, "speaks AMQP"},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", true, link.Protocol, "speaks HTTP"},
		{"STOMP", "ERROR\nmessage:no\n\n\x00", true, link.Protocol, "speaks STOMP"},
		{"TLS", "\x15\x03\x03\x00\x02\x02\x28", true, link.Protocol, "expects TLS"},
		{"garbage", "\xff\xfe\n", false, link.Protocol, ""},
		{"another thing of JSON", "[1]\n", false, link.Protocol, ""},
		{"without an end", strings.Repeat("x", reportMost+1), false, link.Protocol, "without an end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *peer) {
				go func() {
					s := p.raw()
					s.want("SYNC")
					_, _ = s.nc.Write([]byte(c.answer)) // who is refused may be gone
					if c.ends {
						s.nc.Close()
					}
				}()
				_, err := Open(t.Context(), p.options)
				linktest.KindIs(t, err, c.kind)
				if err != nil && (!strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "lovelace")) {
					t.Errorf("%v does not say %q", err, c.words)
				}
			})
		})
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := Open(ctx, p.options); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestOpenWithoutABroker(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		p.options.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
		_, err := Open(t.Context(), p.options)
		linktest.KindIs(t, err, link.Network)
	})
}

func TestPasswordThatIsNoTextIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		p.options.Endpoint.Password = "\xff"
		go func() { p.raw().ends() }()
		_, err := Open(t.Context(), p.options)
		linktest.KindIs(t, err, link.Precondition)
	})
}

// What the server says that breaks the protocol ends all, and nothing that was sent
// counts as confirmed by it.
func TestViolationsEndAll(t *testing.T) {
	for name, c := range map[string]struct {
		said string
		told []string
	}{
		"garbage":               {"nothing of JSON\n", nil},
		"zeros":                 {"\x00\x00\n", nil},
		"an empty line":         {"\n", nil},
		"a reply to another":    {yes("S", ""), nil},
		"replies swapped":       {yes("P", "") + yes("A", ""), []string{"settled up to 1"}},
		"one too many":          {strings.Repeat(yes("P", ""), 3) + yes("P", ""), []string{"settled up to 3"}},
		"HTTP":                  {"HTTP/1.1 400 Bad Request\r\n\r\n", nil},
		"a line without an end": {yes("P", "") + strings.Repeat("x", reportMost+1), nil},
		"a long line":           {yes("P", `,"payload":"`+strings.Repeat("A", reportMost)+`"`), nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *peer) {
				conn, home := p.open()
				src := new(source)
				sender, s := p.sender(conn, src)
				src.Add(sender, linktest.Bodies("1", "2", "3")...)
				for range 3 {
					s.want("P")
				}
				_, _ = s.nc.Write([]byte(c.said)) // who is refused may be gone
				if name == "a line without an end" || name == "a long line" {
					<-conn.Done()
					src.Calls = src.Calls[len(src.Calls)-1:] // what was before may have been told at once
				}
				src.Is(t, append(c.told, "closed protocol error")...)
				linktest.KindIs(t, conn.Err(), link.Protocol)
				home.ends()
			})
		})
	}
}

func TestServerThatClosesEndsAll(t *testing.T) {
	for name, said := range map[string]string{"without a word": "", "within a reply": `{"operation":"P","que`} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *peer) {
				conn, home := p.open()
				src, in := new(source), new(sink)
				sender, s := p.sender(conn, src)
				_, other := p.receiver(conn, link.ReceiverConfig{}, in)
				other.want("S")
				src.Add(sender, linktest.Bodies("1", "2")...)
				s.want("P")
				s.want("P")
				s.write(yes("P", "") + said)
				s.nc.Close()
				<-conn.Done()
				src.Is(t, "settled up to 1", "closed connection lost")
				in.Is(t, "closed connection lost")
				linktest.KindIs(t, conn.Err(), link.Network)
				home.ends()
				if _, err := conn.OpenSender(t.Context(), link.SenderConfig{}, src); err == nil {
					t.Error("a sender was opened")
				}
				if r := conn.Declare(t.Context(), []link.Item{link.Queue{Name: "q"}})[0]; r.Err == nil {
					t.Error("a queue was declared")
				}
			})
		})
	}
}

func TestServerThatFallsSilentIsDead(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		p.options.Heartbeat = 10 * time.Second
		conn, home := p.open()
		begin := time.Now()
		for range 6 {
			home.want("SYNC")
			home.write(yes("SYNC", ""))
		}
		if took := time.Since(begin); took < 25*time.Second || took > 40*time.Second {
			t.Errorf("6 signs of life were asked for within %v", took)
		}
		go func() {
			for {
				if _, ok := home.next(); !ok {
					return
				}
			}
		}()
		begin = time.Now()
		<-conn.Done()
		linktest.KindIs(t, conn.Err(), link.Dead)
		if took := time.Since(begin); took < 15*time.Second || took > 20*time.Second {
			t.Errorf("it was noticed after %v", took)
		}
	})
}

// An idle receiver's requests are its signs of life.
func TestIdleReceiverNeedsNoHeartbeats(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		p.options.Heartbeat = 10 * time.Second
		conn, home := p.open()
		home.live()
		in := new(sink)
		_, s := p.receiver(conn, link.ReceiverConfig{}, in)
		for range 20 {
			r := s.want("S")
			time.Sleep(time.Duration(r.WaitMsec) * time.Millisecond)
			s.write(none())
		}
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
		in.Is(t)
		<-conn.Done() // it falls silent
		linktest.KindIs(t, conn.Err(), link.Dead)
		in.Is(t, "closed peer does not answer")
	})
}

func TestCloseLeavesInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, home := p.open()
		src, in := new(source), new(sink)
		sender, s := p.sender(conn, src)
		_, other := p.receiver(conn, link.ReceiverConfig{}, in)
		src.Add(sender, linktest.Body("1"))
		s.want("P")
		other.want("S")
		ended := make(chan error, 1)
		go func() { ended <- conn.Close(t.Context()) }()
		home.want("SYNC")
		home.write(yes("SYNC", ""))
		s.want("SYNC")
		s.write(yes("P", "") + yes("SYNC", ""))
		other.want("SYNC")
		other.write(none() + yes("SYNC", ""))
		if err := <-ended; err != nil {
			t.Error(err)
		}
		src.Is(t, "settled up to 1", "closed closed")
		in.Is(t, "closed closed")
		for _, s := range []*side{home, s, other} {
			s.ends()
		}
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseThatNobodyAnswersIsCutInTime(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if err := conn.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestRefusalsAreClassified(t *testing.T) {
	for text, want := range map[string]link.Kind{
		"NOT_FOUND - no queue 'q' in vhost '/'":                      link.NotFound,
		"ACCESS_REFUSED - no":                                        link.AccessRefused,
		"RESOURCE_LOCKED - no":                                       link.Locked,
		"PRECONDITION_FAILED - message size 9 is larger":             link.TooLarge,
		"CONTENT_TOO_LARGE - no":                                     link.TooLarge,
		"NOT_IMPLEMENTED - operation not yet implemented":            link.NotAllowed,
		"INTERNAL_ERROR - no":                                        link.Internal,
		"CONNECTION_FORCED - broker shutdown":                        link.Forced,
		"SYNTAX_ERROR - this is not JSON":                            link.Protocol,
		"what nobody has said before":                                link.Internal,
		"":                                                           link.Internal,
		"INTERNAL_ERROR - queue 'q' in vhost '/' is down":            link.Unavailable,
		"RESOURCE_LOCKED: " + strings.Repeat("long", textMost) + "é": link.Locked,
	} {
		if e := refusal(text); e.Kind != want || !e.Said || len(e.Text) > textMost+10 {
			t.Errorf("%s: %v, want %v", text, e, want)
		}
	}
}

func TestQueueOfRequestsKeepsTheirOrder(t *testing.T) {
	var q queue
	var want, got []string
	for i := range 200 {
		k := []kind{ofPublish, ofPublish, ofFetch, ofSettle, ofCall}[i%5]
		n := 1 + i%3
		if k == ofCall {
			n = 1
		}
		q.push(k, n, nil)
		for range n {
			want = append(want, fmt.Sprint(k))
		}
		if i%2 == 1 {
			got = append(got, fmt.Sprint(q.pop().kind))
		}
	}
	for !q.isEmpty() {
		got = append(got, fmt.Sprint(q.pop().kind))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || q.pop().kind != 0 || q.next() != 0 || q.last() != 0 {
		t.Errorf("%d came, %d were there", len(got), len(want))
	}
}
