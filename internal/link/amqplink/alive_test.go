package amqplink

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// beat makes the peer send heartbeats until the end of ctx, as a broker that is
// alive.
func (p *peer) beat(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if _, err := p.nc.Write(amqpwire.AppendHeartbeat(nil)); err != nil {
				return
			}
		}
	}
}

func TestAPeerThatFallsSilentIsDeadAfterTwoHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t, heartbeat(10*time.Second))
		in := newSink()
		openReceiver(t, p, c, in, false)
		begin := time.Now()
		go func() { // it reads, and says nothing
			for {
				if _, ok := p.frame(); !ok {
					return
				}
			}
		}()
		<-c.Done()
		// The last read may have come before the pulse began: see transport.Pulse.
		if took := time.Since(begin); took < 20*time.Second-10*time.Second/8 || took > 23*time.Second {
			t.Errorf("it took %v", took)
		}
		kindIs(t, c.Err(), link.Dead)
		in.closedWith(t, link.Dead)
		if err := c.Close(t.Context()); err != nil {
			t.Errorf("Close of a dead connection says %v", err)
		}
	})
}

func TestHeartbeatsGoOnWhenNothingElseDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t, heartbeat(10*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		go p.beat(ctx, 10*time.Second)
		ended := make(chan struct{})
		go func() { defer close(ended); p.method() }()
		time.Sleep(100 * time.Second) // of the bubble
		select {
		case <-c.Done():
			t.Errorf("the connection ended: %v", c.Err())
		default:
		}
		cancel()
		p.nc.Close()
		<-ended
		if p.beats < 13 || p.beats > 21 {
			t.Errorf("%d heartbeats in ten of them", p.beats)
		}
	})
}

// blockingSink holds the reader up until it is closed or released.
type blockingSink struct {
	*sink
	release chan struct{}
}

func (s *blockingSink) Deliver(batch []*link.Delivery) {
	s.sink.Deliver(batch)
	<-s.release
}

func (s *blockingSink) Closed(err error) {
	s.sink.Closed(err)
	close(s.release)
}

func TestASinkThatHoldsTheReaderUpKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t, heartbeat(10*time.Second))
		in := &blockingSink{newSink(), make(chan struct{})}
		_, id := openReceiver(t, p, c, in, true)
		p.deliver(id, 1, "one")
		in.await(t, 1)
		ended := make(chan struct{})
		go func() { defer close(ended); p.method() }()
		time.Sleep(200 * time.Second) // of the bubble
		select {
		case <-c.Done():
			t.Fatalf("the connection ended: %v", c.Err())
		default:
		}
		in.release <- struct{}{}
		p.deliver(id, 2, "two")
		in.await(t, 2)
		// The connection ends while the sink holds the reader up: it is told, and
		// nothing waits for it before.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close says %v", err)
		}
		if took := time.Since(begin); took > 1100*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		if len(in.closed) != 1 {
			t.Errorf("the sink was closed %d times", len(in.closed))
		}
		<-ended
		if p.beats < 20 {
			t.Errorf("%d heartbeats in twenty", p.beats)
		}
	})
}

func TestAWriteThatDoesNotMoveEndsTheConnection(t *testing.T) {
	for _, c := range []struct {
		name      string
		heartbeat time.Duration
		stall     time.Duration
	}{
		{"heartbeats", 10 * time.Second, 20 * time.Second},
		{"short heartbeats", time.Second, 10 * time.Second},
		{"none", 0, 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, conn := connect(t, heartbeat(c.heartbeat))
				src := newSource()
				_, _ = openSender(t, p, conn, src)
				if c.heartbeat > 0 {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					go p.beat(ctx, c.heartbeat)
				}
				src.add(outgoing("q", strings.Repeat("x", 200<<10), 1))
				begin := time.Now()
				conn.signal()
				wakeAll(conn)
				<-conn.Done()
				kindIs(t, conn.Err(), link.Dead)
				if took := time.Since(begin); took < c.stall || took > c.stall+c.stall/4 {
					t.Errorf("it took %v, want %v", took, c.stall)
				}
				kindIs(t, src.await(t, has("closed"))[0].err, link.Dead)
			})
		})
	}
}

// wakeAll wakes all senders.
func wakeAll(c *conn) {
	c.mu.Lock()
	var all []*sender
	for _, ch := range c.channels {
		if ch.sender != nil {
			all = append(all, ch.sender)
		}
	}
	c.mu.Unlock()
	for _, s := range all {
		s.Wake()
	}
}

func TestAWriteThatMovesSlowlyGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t)
		src := newSource()
		s, id := openSender(t, p, c, src)
		body := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
		src.add(outgoing("q", body, 1))
		s.Wake()
		var got []byte
		buf := make([]byte, 20<<10)
		for len(got) < len(body)+400 { // about; the rest is read as frames
			time.Sleep(25 * time.Second) // of the bubble
			n, err := p.nc.Read(buf)
			if err != nil {
				t.Fatalf("after %d bytes: %v (%v)", len(got), err, c.Err())
			}
			got = append(got, buf[:n]...)
			if len(got) > len(body)-100<<10 {
				break
			}
		}
		p.in = slices.Clone(got)
		get[*amqpwire.BasicPublish](p)
		p.frame()
		var whole []byte
		for len(whole) < len(body) {
			f, ok := p.frame()
			if !ok {
				t.Fatal("the connection ended")
			}
			whole = append(whole, f.Payload...)
		}
		if string(whole) != body {
			t.Error("the body has changed on its way")
		}
		p.send(id, &amqpwire.BasicAck{DeliveryTag: 1})
		src.await(t, settledUpTo(1))
	})
}

func TestABlockedConnectionTakesNoMessagesAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type blocked struct {
			reason string
			ok     bool
		}
		said := make(chan blocked, 10)
		p, c := connect(t, heartbeat(10*time.Second), func(_ *peer, o *link.Options) {
			o.Blocked = func(reason string, ok bool) { said <- blocked{reason, ok} }
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.beat(ctx, 10*time.Second)
		src := newSource()
		s, id := openSender(t, p, c, src)
		p.send(0, &amqpwire.ConnectionBlocked{Reason: "low on memory"})
		if got := <-said; got != (blocked{"low on memory", false}) {
			t.Errorf("told %+v", got)
		}
		src.add(outgoing("q", "one", 1))
		s.Wake()
		synctest.Wait()
		if src.taken != 0 {
			t.Errorf("%d messages were taken", src.taken)
		}
		// Methods go on.
		during(func() bool {
			get[*amqpwire.ChannelOpen](p)
			p.send(p.channel, &amqpwire.ChannelOpenOk{})
			get[*amqpwire.QueueDeclare](p)
			p.send(p.channel, &amqpwire.QueueDeclareOk{Queue: "q"})
			return true
		}, func() { mustDeclare(t, c, link.Queue{Name: "q"}) })
		p.send(0, &amqpwire.ConnectionUnblocked{})
		if got := <-said; got != (blocked{"", true}) {
			t.Errorf("told %+v", got)
		}
		if _, body := p.publish(); body != "one" {
			t.Errorf("got %q", body)
		}
		p.send(id, &amqpwire.BasicAck{DeliveryTag: 1})
		src.await(t, settledUpTo(1))
	})
}

func TestABlockedBrokerThatIsAliveMayStopReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := connect(t, heartbeat(10*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		go p.beat(ctx, 10*time.Second)
		src := newSource()
		s, _ := openSender(t, p, c, src)
		p.send(0, &amqpwire.ConnectionBlocked{Reason: "low on memory"})
		synctest.Wait()
		p.send(0, &amqpwire.ConnectionUnblocked{})
		synctest.Wait()
		src.add(outgoing("q", strings.Repeat("x", 200<<10), 1))
		s.Wake()
		synctest.Wait() // the write stands still
		p.send(0, &amqpwire.ConnectionBlocked{Reason: "low on memory"})
		time.Sleep(10 * time.Minute) // of the bubble
		select {
		case <-c.Done():
			t.Fatalf("the connection ended: %v", c.Err())
		default:
		}
		cancel() // its heartbeats stop
		begin := time.Now()
		<-c.Done()
		kindIs(t, c.Err(), link.Dead)
		if took := time.Since(begin); took > 31*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
