package amqpserver

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
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
func inBubble(t *testing.T, test func(t *testing.T, dial func() *testPeer)) {
	synctest.Test(t, func(t *testing.T) {
		users, err := auth.NewUsers("someone", "secret") // a pipe is not loopback: no guest
		if err != nil {
			t.Fatal(err)
		}
		b, err := broker.Open(t.Context(), broker.Config{Journal: memory.New(memory.Options{})})
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
			return &testPeer{t: t, nc: mine}
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

// loginWith logs in with a heartbeat, seconds, and opens channel 1.
func (p *testPeer) loginWith(heartbeat uint16) {
	p.t.Helper()
	p.start()
	p.send(0, startOk("someone", "secret"))
	p.expect(0, &amqpwire.ConnectionTune{})
	p.send(0, &amqpwire.ConnectionTuneOk{ChannelMax: 1, FrameMax: 4096, Heartbeat: heartbeat})
	p.send(0, &amqpwire.ConnectionOpen{VirtualHost: "/"})
	p.expect(0, &amqpwire.ConnectionOpenOk{})
	p.call(1, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
}

// nextByte waits for a byte of the server's, and says how long that took.
func (p *testPeer) nextByte() (b byte, after time.Duration, err error) {
	start := time.Now()
	one := make([]byte, 1)
	_, err = io.ReadFull(p.nc, one)
	return one[0], time.Since(start), err
}

func TestHeartbeatIsSentInEveryHalfInterval(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith(10)
		for range 5 {
			kind, after, err := p.nextByte()
			if err != nil || kind != amqpwire.FrameHeartbeat || after != 5*time.Second {
				t.Fatalf("type %d after %v, %v; want a heartbeat after 5s", kind, after, err)
			}
			rest := make([]byte, 7)
			if _, err := io.ReadFull(p.nc, rest); err != nil {
				t.Fatal(err)
			}
			p.write(heartbeatFrame)
		}
		// What else is written counts as well.
		time.Sleep(3 * time.Second)
		p.ping(1)
		if kind, after, _ := p.nextByte(); kind != amqpwire.FrameHeartbeat || after != 5*time.Second {
			t.Errorf("type %d after %v, want a heartbeat 5s after the answer", kind, after)
		}
		p.nc.Close()
	})
}

func TestSilentPeerIsCutAfterTwoIntervals(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith(10)
		time.Sleep(7 * time.Second)
		p.write(heartbeatFrame[:3]) // part of a frame is a sign of life too
		start := time.Now()
		_, err := io.Copy(io.Discard, p.nc)
		if after := time.Since(start); err != nil || after != 20*time.Second {
			t.Errorf("cut after %v (%v), want 20s", after, err)
		}
	})
}

func TestPeerWithoutHeartbeatsMayBeSilent(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith(0)
		_ = p.nc.SetReadDeadline(time.Now().Add(24 * time.Hour))
		if kind, after, err := p.nextByte(); !isTimeout(err) {
			t.Fatalf("type %d after %v, %v; want nothing in a day", kind, after, err)
		}
		_ = p.nc.SetReadDeadline(time.Time{})
		p.ping(1)
		p.nc.Close()
	})
}

func TestPeerThatDoesNotLogInIsCut(t *testing.T) {
	for name, first := range map[string]string{
		"after a byte":             "A",
		"after the header":         "AMQP\x00\x00\x09\x01",
		"within a frame":           "AMQP\x00\x00\x09\x01\x01\x00\x00\x00",
		"after many heartbeats":    "AMQP\x00\x00\x09\x01" + string(heartbeatFrame) + string(heartbeatFrame),
		"after a refused start-ok": "AMQP\x00\x00\x09\x01" + string(frames(0, startOk("someone", "wrong"))),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, dial func() *testPeer) {
				start := time.Now()
				p := dial()
				go p.write([]byte(first))
				_, err := io.Copy(io.Discard, p.nc)
				if after := time.Since(start); err != nil || after > netserve.LoginTimeout+2*closeTimeout {
					t.Errorf("cut after %v (%v)", after, err)
				}
			})
		})
	}
}

// A peer that does not answer connection.close is not waited for for ever; nor
// is one that does not even read.
func TestPeerThatDoesNotAnswerCloseIsCut(t *testing.T) {
	wrong := frames(5, &amqpwire.QueueDeclare{})
	for name, row := range map[string]struct {
		b     []byte
		reads bool
	}{
		"it reads":                     {wrong, true},
		"it does not read":             {wrong, false},
		"and the writer waits already": {join(frames(1, &amqpwire.QueueDeclare{Queue: "q"}), wrong), false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, dial func() *testPeer) {
				p := dial()
				p.loginWith(0)
				p.write(row.b)
				start := time.Now()
				if row.reads {
					p.expectConnectionClose()
					_, _ = io.Copy(io.Discard, p.nc)
				} else {
					for {
						if _, err := p.nc.Write(heartbeatFrame); err != nil {
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
