package stompserver

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/netserve"
)

// pipes is a listener whose connections are net.Pipes, for tests in which time
// does not pass by itself.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	close(l.done)
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// inBubble runs a test with a server in a bubble, where the clock advances only
// while everybody waits. dial connects to it.
func inBubble(t *testing.T, test func(t *testing.T, dial func() *testPeer), options ...func(*broker.Config)) {
	synctest.Test(t, func(t *testing.T) {
		users, err := auth.NewUsers("someone", "secret") // a pipe is not loopback: no guest
		if err != nil {
			t.Fatal(err)
		}
		bc := broker.Config{Journal: memory.New(memory.Options{})}
		for _, o := range options {
			o(&bc)
		}
		b, err := broker.Open(t.Context(), bc)
		if err != nil {
			t.Fatal(err)
		}
		s := New(Config{Broker: b, Auth: users})
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		ns, err := netserve.New(netserve.Config{Endpoints: []netserve.Endpoint{{Listener: l, Handle: s.Handle}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- ns.Serve(ctx) }()
		test(t, func() *testPeer {
			mine, theirs := net.Pipe()
			l.conns <- theirs
			return &testPeer{t: t, nc: mine, server: s}
		})
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// loginWith logs in with a heart-beat header, and returns the one of CONNECTED.
func (p *testPeer) loginWith(beats string) string {
	p.t.Helper()
	p.send("CONNECT", "accept-version:1.2", "login:someone", "passcode:secret", "heart-beat:"+beats)
	return p.expect("CONNECTED").get("heart-beat")
}

// nextByte waits for a byte of the server's, and says how long that took.
func (p *testPeer) nextByte() (b byte, after time.Duration, err error) {
	start := time.Now()
	one := make([]byte, 1)
	_, err = io.ReadFull(p.nc, one)
	return one[0], time.Since(start), err
}

// In each direction the larger of both sides' values counts, and ours are those
// the client asks for, from half a second to an hour. Who can only beat less often than
// that is not watched: a limit that is shorter than what was agreed on would cut it.
func TestHeartBeatsAreAgreedOn(t *testing.T) {
	for asked, want := range map[string]string{
		"0,0":               "0,0",
		"10000,0":           "0,10000",
		"0,10000":           "10000,0",
		"4000,7000":         "7000,4000",
		"1,2":               "500,500",
		"2000000,100000000": "3600000,2000000",
		"3600000,0":         "0,3600000",
		"3600001,0":         "0,0",
	} {
		inBubble(t, func(t *testing.T, dial func() *testPeer) {
			p := dial()
			if got := p.loginWith(asked); got != want {
				t.Errorf("%s is answered with %s, want %s", asked, got, want)
			}
			p.nc.Close()
		})
	}
}

func TestHeartBeatIsSentInEveryHalfInterval(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith("0,10000")
		for range 5 {
			b, after, err := p.nextByte()
			if err != nil || b != '\n' || after != 5*time.Second {
				t.Fatalf("%q after %v, %v; want a heart-beat after 5s", b, after, err)
			}
		}
		// What else is written counts as well.
		time.Sleep(3 * time.Second)
		p.call("BEGIN", "transaction:t")
		if b, after, _ := p.nextByte(); b != '\n' || after != 5*time.Second {
			t.Errorf("%q after %v, want a heart-beat 5s after the answer", b, after)
		}
		p.nc.Close()
	})
}

func TestSilentPeerIsCutAfterTwoIntervals(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith("10000,0")
		for range 5 {
			time.Sleep(19 * time.Second)
			p.write("\n")
		}
		time.Sleep(7 * time.Second)
		p.write("SEN") // part of a frame is a sign of life too
		start := time.Now()
		_, err := io.Copy(io.Discard, p.nc)
		if after := time.Since(start); err != nil || after != 20*time.Second {
			t.Errorf("cut after %v (%v), want 20s", after, err)
		}
	})
}

func TestPeerWithoutHeartBeatsMayBeSilent(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith("0,0")
		_ = p.nc.SetReadDeadline(time.Now().Add(24 * time.Hour))
		if b, after, err := p.nextByte(); !isTimeout(err) {
			t.Fatalf("%q after %v, %v; want nothing in a day", b, after, err)
		}
		_ = p.nc.SetReadDeadline(time.Time{})
		p.ping()
		p.nc.Close()
	})
}

func TestPeerThatDoesNotLogInIsCut(t *testing.T) {
	for name, first := range map[string]string{
		"after a byte":          "C",
		"after line ends":       "\n\r\n\n",
		"within the head":       "CONNECT\nlogin:someone\n",
		"within the body":       "CONNECT\nlogin:someone\npasscode:secret\n\n",
		"within a content":      "CONNECT\nlogin:someone\npasscode:secret\ncontent-length:100\n\n",
		"after a refused login": text("CONNECT", "login:someone", "passcode:wrong"),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, dial func() *testPeer) {
				start := time.Now()
				p := dial()
				go p.write(first)
				_, err := io.Copy(io.Discard, p.nc)
				if after := time.Since(start); err != nil || after > netserve.LoginTimeout+2*closeTimeout {
					t.Errorf("cut after %v (%v)", after, err)
				}
			})
		})
	}
}

// A peer that sends a byte a second has no more time to log in than others.
func TestSlowLoginIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		start := time.Now()
		for _, b := range strings.Repeat("\n", 100) {
			if _, err := p.nc.Write([]byte(string(b))); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if after := time.Since(start); after > netserve.LoginTimeout+time.Second {
			t.Errorf("cut after %v", after)
		}
	})
}

// A peer that does not leave after its last frame is not waited for for ever; nor
// is one that does not even read.
func TestPeerThatDoesNotLeaveIsCut(t *testing.T) {
	for name, row := range map[string]struct {
		in    string
		reads bool
	}{
		"after an ERROR":            {text("ACK"), true},
		"after an unread ERROR":     {text("ACK"), false},
		"after DISCONNECT":          {text("DISCONNECT", "receipt:1"), true},
		"after an unread RECEIPT":   {text("DISCONNECT", "receipt:1"), false},
		"while the writer waits":    {text("BEGIN", "transaction:t", "receipt:1") + text("ACK"), false},
		"without a frame in answer": {text("DISCONNECT"), false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, dial func() *testPeer) {
				p := dial()
				p.loginWith("0,0")
				p.write(row.in)
				start := time.Now()
				if row.reads {
					p.receive()
					_, _ = io.Copy(io.Discard, p.nc)
				} else {
					for {
						if _, err := p.nc.Write([]byte("\n")); err != nil {
							break
						}
						time.Sleep(time.Second)
					}
				}
				if after := time.Since(start); after > 3*closeTimeout {
					t.Errorf("cut after %v", after)
				}
			})
		})
	}
}

// A publisher that we do not read, because of an alarm, is not silent, and hears
// from us.
func TestBlockedPeerIsNotDead(t *testing.T) {
	var used atomic.Int64
	used.Store(101)
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith("10000,10000")
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for range 20 { // more than a blocked connection may still publish
				p.send("SEND", "destination:/queue/a", "content-length:200000", "", strings.Repeat("x", 200_000))
			}
			p.send("DISCONNECT", "receipt:bye")
		}()
		for range 12 {
			if b, after, err := p.nextByte(); err != nil || b != '\n' || after > 5*time.Second {
				t.Fatalf("%q after %v, %v; want a heart-beat", b, after, err)
			}
		}
		select {
		case <-sent:
			t.Error("a blocked publisher is read")
		default:
		}
		used.Store(0)
		p.expectReceipt("bye")
		<-sent
	}, func(bc *broker.Config) {
		bc.Alarms.Memory = func() (int64, int64) { return used.Load(), 100 }
	})
}

func TestGuestIsForLoopback(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.send("CONNECT", "login:guest", "passcode:guest")
		if e := p.expectError("Bad CONNECT"); e.body != "non-loopback access denied" {
			t.Errorf("got %v", e)
		}
	})
}
