package ferrytest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// soon is how long something that must not happen is waited for.
const soon = 50 * time.Millisecond

// sink is a server behind a proxy that shows its side of each connection.
type sink struct {
	t        *testing.T
	accepted chan *net.TCPConn
	addr     string
}

func newSink(t *testing.T) *sink {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{t: t, accepted: make(chan *net.TCPConn, 8), addr: ln.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.accepted <- c.(*net.TCPConn)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
		for len(s.accepted) > 0 {
			(<-s.accepted).Close()
		}
	})
	return s
}

// pair is a connection through the proxy, both ends of it.
func (s *sink) pair(p *Proxy) (client, server *net.TCPConn) {
	s.t.Helper()
	client = dial(s.t, p.Addr()).nc
	select {
	case server = <-s.accepted:
	case <-bounded(s.t).Done():
		s.t.Fatal("the proxy does not connect")
	}
	s.t.Cleanup(func() { server.Close() })
	if err := server.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	return client, server
}

func mustWrite(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// mustStay fails the test if there is anything to read.
func mustStay(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want that nothing comes", n, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

func mustBeReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: %v, want that it was reset", err)
	}
}

func TestBytesAndEndsPass(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	client, server := s.pair(p)
	mustWrite(t, client, "hello")
	mustRead(t, server, "hello")
	mustWrite(t, server, "world")
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); string(got) != "world" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	mustWrite(t, client, "the other direction goes on")
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(server); string(got) != "the other direction goes on" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if err := p.WaitConnections(bounded(t), 0); err != nil {
		t.Error(err)
	}
	if p.Accepted() != 1 {
		t.Errorf("%d were accepted", p.Accepted())
	}
}

func TestResetsPass(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	client, server := s.pair(p)
	reset(client)
	mustBeReset(t, server)
	client, server = s.pair(p)
	reset(server)
	mustBeReset(t, client)
}

func TestRefuseAndHeal(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	addr := p.Addr()
	client, server := s.pair(p)
	for range 3 {
		p.Refuse()
		p.Refuse()
		if c, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("%v, %v; want that it is refused", c, err)
		}
		mustWrite(t, client, "still here")
		mustRead(t, server, "still here")
		p.Heal()
		p.Heal()
		s.pair(p)
	}
	if p.Addr() != addr {
		t.Errorf("the address is %s, and was %s", p.Addr(), addr)
	}
}

func TestDropCutsWhatThereIs(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	client, server := s.pair(p)
	p.Drop()
	if n := p.Connections(); n != 0 {
		t.Errorf("%d connections after Drop", n)
	}
	mustBeReset(t, client)
	mustBeReset(t, server)
	client, server = s.pair(p)
	mustWrite(t, client, "new")
	mustRead(t, server, "new")
}

func TestPauseHoldsEverythingAndLosesNothing(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	client, server := s.pair(p)
	mustWrite(t, client, "a")
	mustRead(t, server, "a")
	p.Pause()
	mustWrite(t, client, "b")
	mustWrite(t, server, "c")
	server.Close()
	late := dial(t, p.Addr()).nc
	mustWrite(t, late, "d")
	mustStay(t, client)
	mustStay(t, late)
	if len(s.accepted) > 0 {
		t.Error("a connection was passed on while paused")
	}
	if err := p.WaitConnections(bounded(t), 2); err != nil {
		t.Error(err)
	}
	p.Resume()
	mustRead(t, client, "c")
	select {
	case server = <-s.accepted:
		mustRead(t, server, "d")
		server.Close()
	case <-bounded(t).Done():
		t.Fatal("the connection that came while paused is not passed on")
	}
}

func TestPausedConnectionsCanBeDropped(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	p.Pause()
	client := dial(t, p.Addr()).nc
	if err := p.WaitAccepted(bounded(t), 1); err != nil {
		t.Fatal(err)
	}
	p.Drop()
	mustBeReset(t, client)
}

func TestStopReadingStillDelivers(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	client, server := s.pair(p)
	p.StopReading()
	mustWrite(t, client, "not read")
	mustStay(t, server)
	mustWrite(t, server, "delivered")
	mustRead(t, client, "delivered")
	// The client's buffers fill up, and its writes wait.
	if err := client.SetWriteDeadline(time.Now().Add(4 * soon)); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wrote %d bytes, %v; want that it waits", n, err)
	}
	p.Heal()
	mustRead(t, server, "not read")
}

func TestCutAfterPassesExactlySoMuch(t *testing.T) {
	text := strings.Repeat("0123456789", 10000)
	for _, n := range []int{0, 1, 12345, len(text) - 1} {
		s := newSink(t)
		p := NewProxy(t, s.addr)
		old, oldServer := s.pair(p)
		p.CutAfter(n)
		client, server := old, oldServer
		for range 2 {
			written := make(chan error, 1)
			go func(c net.Conn) {
				_, err := io.WriteString(c, text)
				written <- err
			}(client)
			got, err := io.ReadAll(server)
			if err != nil || string(got) != text[:n] {
				t.Fatalf("cut after %d: the broker read %d bytes, %v", n, len(got), err)
			}
			// A reset is told once: to a write that meets it, else to a read.
			if err := <-written; !errors.Is(err, syscall.ECONNRESET) {
				mustBeReset(t, client)
			}
			if err := p.WaitConnections(bounded(t), 0); err != nil {
				t.Error(err)
			}
			server.Close()
			if n == 0 {
				break // a new one may end before it has begun
			}
			client, server = s.pair(p) // each one
		}
		p.Heal()
		client, server = s.pair(p)
		mustWrite(t, client, "healed")
		mustRead(t, server, "healed")
	}
}

func TestCutAfterReceivedPassesExactlySoMuch(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	p.CutAfterReceived(7)
	client, server := s.pair(p)
	mustWrite(t, client, "asks")
	mustRead(t, server, "asks")
	mustWrite(t, server, "0123456789")
	mustBeReset(t, server)
	if got, err := io.ReadAll(client); err != nil || string(got) != "0123456" {
		t.Errorf("the client read %q, %v", got, err)
	}
	if err := p.WaitConnections(bounded(t), 0); err != nil {
		t.Error(err)
	}
}

func TestABrokerThatIsNotThereResets(t *testing.T) {
	s := newSink(t)
	p := NewProxy(t, s.addr)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.setBackend(ln.Addr().String())
	ln.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want that it is reset", err)
	}
	p.setBackend(s.addr)
	s.pair(p)
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	p := NewProxy(t, "127.0.0.1:1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, wait := range []func() error{
		func() error { return p.WaitConnections(ctx, 1) },
		func() error { return p.WaitAccepted(ctx, 1) },
		func() error { p.Nack(1); return p.WaitNacked(ctx) },
	} {
		if err := wait(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestNackRefusesTheNextPublishes(t *testing.T) {
	b := Start(t)
	p := login(t, b.Addr())
	p.declare("q")
	p.confirms()
	p.publish("q", "1")
	expect[*amqpwire.BasicAck](p)
	b.Nack(2)
	p.publish("q", "2", strings.Repeat("3", 20000), "4", "5")
	if err := b.WaitNacked(bounded(t)); err != nil {
		t.Fatal(err)
	}
	got := map[uint64]string{}
	for len(got) < 4 {
		switch m := p.method().(type) {
		case *amqpwire.BasicNack:
			got[m.DeliveryTag] = "nack"
		case *amqpwire.BasicAck:
			got[m.DeliveryTag] = "ack"
			if m.Multiple && m.DeliveryTag == 5 {
				got[4] = "ack"
			}
		}
	}
	if got[2] != "nack" || got[3] != "nack" || got[4] != "ack" || got[5] != "ack" {
		t.Errorf("confirms %v", got)
	}
	var kept []string
	for m := p.get("q"); m != ""; m = p.get("q") {
		kept = append(kept, m)
	}
	if got := strings.Join(kept, " "); got != "1 4 5" {
		t.Errorf("the queue has %q", got)
	}
}

// While many publish on several channels at once, each learns what became of its
// own publishes.
func TestNackAmongManyPublishes(t *testing.T) {
	const publishes, refused = 2000, 700
	b := Start(t)
	b.Nack(refused)
	var running sync.WaitGroup
	outcomes := make([]string, 2)
	for i := range outcomes {
		p := login(t, b.Addr())
		queue := string(rune('a' + i))
		p.declare(queue)
		p.confirms()
		running.Go(func() {
			var out bytes.Buffer
			for n := range publishes {
				out.Write(message(t, 1, queue, string(rune('0'+n%10))))
			}
			if _, err := p.nc.Write(out.Bytes()); err != nil {
				t.Error(err)
			}
		})
		running.Go(func() { outcomes[i] = p.outcomes(publishes) })
	}
	running.Wait()
	if n := strings.Count(outcomes[0]+outcomes[1], "n"); n != refused {
		t.Errorf("%d publishes were refused, want %d", n, refused)
	}
	direct := login(t, strings.TrimSuffix(strings.Split(b.DirectURL(), "@")[1], "/"))
	for i, o := range outcomes {
		queue := string(rune('a' + i))
		if n := direct.declare(queue); n != strings.Count(o, "a") {
			t.Errorf("queue %s has %d messages, and %d were confirmed", queue, n, strings.Count(o, "a"))
		}
		for n := range o {
			if o[n] != 'a' {
				continue
			}
			if got, want := direct.get(queue), string(rune('0'+n%10)); got != want {
				t.Fatalf("queue %s: publish %d was confirmed, and what is stored in its place is %q, not %q", queue, n+1, got, want)
			}
		}
	}
}
