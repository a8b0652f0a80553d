package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const (
	loginLimit = 10 * time.Second // of the broker
	perPeer    = 64 << 10         // bytes that a peer may cost before it has logged in
	latencyMax = time.Second      // for a normal client meanwhile, with two cores and the race detector
)

// normal publishes and consumes until ctx ends, one message at a time, and
// returns how long each took from its publish to its delivery and its confirm.
func normal(ctx context.Context, t *testing.T, addr string) []time.Duration {
	c, err := connect(addr, 10*time.Second)
	if err != nil {
		t.Errorf("a normal client: %v", err)
		return nil
	}
	defer c.cut()
	ch, err := c.Channel()
	if err == nil {
		_, err = ch.QueueDeclare("normal", true, false, false, false, nil)
	}
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		t.Errorf("a normal client: %v", err)
		return nil
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 1))
	deliveries, err := ch.Consume("normal", "", true, false, false, false, nil)
	if err != nil {
		t.Errorf("a normal client: %v", err)
		return nil
	}
	var took []time.Duration
	for i := uint64(0); ctx.Err() == nil; i++ {
		began := time.Now()
		if err := ch.PublishWithContext(context.Background(), "", "normal", false, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body(0, i, 200)}); err != nil {
			t.Errorf("a normal client: %v", err)
			return took
		}
		limit := time.After(10 * time.Second)
		for range 2 {
			select {
			case <-confirms:
			case d, ok := <-deliveries:
				if _, seq, intact := parseBody(d.Body); !ok || !intact || seq != i {
					t.Errorf("a normal client got message %d in place of %d: %v", seq, i, c.IsClosed())
					return took
				}
			case <-limit:
				t.Error("a normal client waits for 10 s")
				return took
			}
		}
		took = append(took, time.Since(began))
		time.Sleep(2 * time.Millisecond)
	}
	return took
}

// quantiles of durations.
func quantiles(took []time.Duration) (p50, p99, most time.Duration) {
	if len(took) == 0 {
		return 0, 0, 0
	}
	s := slices.Clone(took)
	slices.Sort(s)
	return s[len(s)/2], s[len(s)*99/100], s[len(s)-1]
}

// Peers that never log in, by the hundred, are cut when their time is over, and
// do no harm before.
func TestSlowPeers(t *testing.T) {
	takeTurn(t)
	n := pick(200, 1000)
	p := start(t, setup{dir: t.TempDir()})
	startOk, err := amqpwire.AppendMethod(nil, 0, &amqpwire.ConnectionStartOk{
		ClientProperties: amqpwire.Table{"product": "slow"}, Mechanism: "PLAIN", Response: []byte("\x00guest\x00guest"), Locale: "en_US",
	})
	if err != nil {
		t.Fatal(err)
	}
	hello := amqpwire.ProtocolHeader[:]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var client sync.WaitGroup
	var took []time.Duration
	client.Go(func() { took = normal(ctx, t, p.addr) })
	time.Sleep(500 * time.Millisecond)
	before := p.memory("VmRSS")

	var peers sync.WaitGroup
	var mu sync.Mutex
	var first, last time.Duration
	open := make(chan struct{}, n)
	for i := range n {
		peers.Go(func() {
			nc, err := net.DialTimeout("tcp", p.addr, 10*time.Second)
			began := time.Now()
			open <- struct{}{}
			if err != nil {
				t.Errorf("slow peer %d: %v", i, err)
				return
			}
			defer nc.Close()
			// Silent from the start; dripping its header; silent after the
			// header; dripping its login.
			at, drip := []byte(nil), []byte(nil)
			switch i % 4 {
			case 1:
				drip = hello[:6]
			case 2:
				at = hello
			case 3:
				at, drip = hello, startOk[:len(startOk)-1]
			}
			var writer sync.WaitGroup
			defer writer.Wait()
			cut := make(chan struct{})
			defer close(cut)
			writer.Go(func() {
				_, err := nc.Write(at)
				for ; err == nil && len(drip) > 0; drip = drip[1:] {
					if _, err = nc.Write(drip[:1]); err == nil {
						select {
						case <-cut:
							return
						case <-time.After(250 * time.Millisecond):
						}
					}
				}
			})
			if err := nc.SetReadDeadline(began.Add(loginLimit + 20*time.Second)); err != nil {
				t.Error(err)
			}
			_, err = io.Copy(io.Discard, nc)
			lasted := time.Since(began)
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				t.Errorf("slow peer %d of kind %d was not cut", i, i%4)
			}
			mu.Lock()
			defer mu.Unlock()
			if last = max(last, lasted); first == 0 || lasted < first {
				first = lasted
			}
		})
	}
	for range n {
		<-open
	}
	most := int64(0)
	for range 16 {
		time.Sleep(250 * time.Millisecond)
		most = max(most, p.memory("VmRSS"))
	}
	peers.Wait()
	cancel()
	client.Wait()
	p50, p99, worst := quantiles(took)
	each := (most - before) / int64(n)
	t.Logf("\n%s", table("slow peers", n, "cut after", first.Round(time.Millisecond).String()+" to "+last.Round(time.Millisecond).String(),
		"bytes a peer", each, "normal client, messages", len(took), "its p50, p99, worst", []time.Duration{p50, p99, worst}))
	if first < loginLimit-time.Second || last > loginLimit+5*time.Second {
		t.Errorf("slow peers were cut after %s to %s, want about %s", first, last, loginLimit)
	}
	if each > perPeer {
		t.Errorf("a slow peer took %d bytes, want at most %d", each, perPeer)
	}
	if len(took) == 0 || p99 > latencyMax {
		t.Errorf("a normal client's p99 was %s, want at most %s", p99, latencyMax)
	}
	p.terminate()
}

// peer is an AMQP client that sends what it likes.
type peer struct {
	t   *testing.T
	nc  net.Conn
	buf []byte
}

func newPeer(t *testing.T, addr string) *peer {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, nc: nc}
}

// login opens the connection and channel 1.
func login(t *testing.T, addr string) *peer {
	t.Helper()
	p := newPeer(t, addr)
	p.must(amqpwire.ProtocolHeader[:])
	p.read()
	p.method(0, &amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00guest\x00guest"), Locale: "en_US"})
	p.read()
	p.method(0, &amqpwire.ConnectionTuneOk{ChannelMax: 2047, FrameMax: 131072})
	p.method(0, &amqpwire.ConnectionOpen{VirtualHost: "/"})
	p.read()
	p.open(1)
	return p
}

func (p *peer) open(channel uint16) {
	p.t.Helper()
	p.method(channel, &amqpwire.ChannelOpen{})
	p.read()
}

func (p *peer) must(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) method(channel uint16, m amqpwire.Method) {
	p.t.Helper()
	b, err := amqpwire.AppendMethod(nil, channel, m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.must(b)
}

// next is the next method of the broker's, nil if the connection has ended.
func (p *peer) next() amqpwire.Method {
	p.t.Helper()
	for {
		f, n, err := amqpwire.ParseFrame(p.buf, 131072)
		if err != nil {
			p.t.Fatal(err)
		}
		if n > 0 {
			p.buf = p.buf[n:]
			if f.Type != amqpwire.FrameMethod {
				continue
			}
			m, err := amqpwire.ParseMethod(f.Payload)
			if err != nil {
				p.t.Fatal(err)
			}
			return m
		}
		room := make([]byte, 8192)
		k, err := p.nc.Read(room)
		p.buf = append(p.buf, room[:k]...)
		if err != nil && k == 0 {
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				p.t.Fatal("the broker neither answers nor ends the connection")
			}
			return nil
		}
	}
}

func (p *peer) read() {
	p.t.Helper()
	if p.next() == nil {
		p.t.Fatal("the broker ended the connection")
	}
}

// refused reads until the broker closes the channel or the connection, and
// returns the code; 0 is an end without a word.
func (p *peer) refused() uint16 {
	p.t.Helper()
	for {
		switch m := p.next().(type) {
		case nil:
			return 0
		case *amqpwire.ConnectionClose:
			return m.ReplyCode
		case *amqpwire.ChannelClose:
			return m.ReplyCode
		}
	}
}

func frame(typ uint8, channel uint16, payload []byte) []byte {
	b := amqpwire.AppendFrameHeader(nil, typ, channel, uint32(len(payload)))
	return append(append(b, payload...), amqpwire.FrameEnd)
}

func publishHead(t *testing.T, channel uint16, size uint64) []byte {
	t.Helper()
	b, err := amqpwire.AppendPublish(nil, channel, "", "normal", false)
	if err != nil {
		t.Fatal(err)
	}
	return amqpwire.AppendContentHeader(b, channel, size, []byte{0, 0})
}

// nested is a table in a table in a table, so many deep.
func nested(depth int) []byte {
	const each = 7 // a name of one byte, a type, a length
	b := binary.BigEndian.AppendUint32(nil, uint32(each*depth))
	for i := range depth {
		b = append(b, 1, 'a', 'F')
		b = binary.BigEndian.AppendUint32(b, uint32(each*(depth-i-1)))
	}
	return b
}

// Peers that break the protocol, or stretch it, are refused; the broker serves
// on, and grows by little.
func TestHostilePeers(t *testing.T) {
	p := start(t, setup{dir: t.TempDir(), watched: !long()})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var client sync.WaitGroup
	var took []time.Duration
	client.Go(func() { took = normal(ctx, t, p.addr) })
	time.Sleep(300 * time.Millisecond)
	before := p.memory("VmRSS")
	want := func(t *testing.T, got, code uint16) {
		t.Helper()
		if got != code {
			t.Errorf("refused with %d, want %d", got, code)
		}
	}

	t.Run("endless body", func(t *testing.T) {
		peer := login(t, p.addr)
		peer.must(publishHead(t, 1, 1))
		body := frame(amqpwire.FrameBody, 1, filling[:100_000])
		// What comes behind the error is read for a while, so that the peer gets
		// to know it, and dropped.
		began := time.Now()
		for err := error(nil); err == nil; _, err = peer.nc.Write(body) {
			if time.Since(began) > 15*time.Second {
				t.Fatal("after 15 s the broker still reads a body of one byte")
			}
		}
	})
	t.Run("longer than announced", func(t *testing.T) {
		peer := login(t, p.addr)
		peer.must(publishHead(t, 1, 1))
		peer.must(frame(amqpwire.FrameBody, 1, []byte("too long")))
		want(t, peer.refused(), amqpwire.UnexpectedFrame)
	})
	t.Run("announced to be endless", func(t *testing.T) {
		peer := login(t, p.addr)
		peer.must(publishHead(t, 1, 1<<63))
		want(t, peer.refused(), amqpwire.PreconditionFailed)
	})
	t.Run("announced and not sent", func(t *testing.T) {
		peer := login(t, p.addr)
		for ch := uint16(2); ch < 500; ch++ {
			peer.open(ch)
			peer.must(publishHead(t, ch, 16<<20))
		}
		peer.open(501) // so that all of it was taken
		if grown := p.memory("VmRSS") - before; grown > 256<<20 {
			t.Errorf("announcements of 8 GB took %s", mib(grown))
		}
	})
	t.Run("nested tables", func(t *testing.T) {
		peer := login(t, p.addr)
		payload := []byte{0, 50, 0, 10, 0, 0, 1, 'q', 0} // queue.declare
		peer.must(frame(amqpwire.FrameMethod, 1, append(payload, nested(15000)...)))
		if code := peer.refused(); code != amqpwire.SyntaxError && code != amqpwire.FrameError {
			t.Errorf("refused with %d, want a syntax or frame error", code)
		}
	})
	t.Run("a table of 4 GiB, before login", func(t *testing.T) {
		peer := newPeer(t, p.addr)
		peer.must(amqpwire.ProtocolHeader[:])
		peer.read()
		peer.must(frame(amqpwire.FrameMethod, 0, []byte{0, 10, 0, 11, 255, 255, 255, 255, 1, 'a', 'S', 255, 255, 255, 255}))
		peer.refused()
	})
	t.Run("a frame of 4 GiB, before login", func(t *testing.T) {
		peer := newPeer(t, p.addr)
		peer.must(amqpwire.ProtocolHeader[:])
		peer.read()
		peer.must(amqpwire.AppendFrameHeader(nil, amqpwire.FrameMethod, 0, 1<<32-1))
		peer.refused()
	})
	t.Run("garbage", func(t *testing.T) {
		r := rand.NewChaCha8([32]byte{7})
		for i := range pick(100, 2000) {
			var at *peer
			switch i % 3 {
			case 0:
				at = newPeer(t, p.addr)
			case 1:
				at = newPeer(t, p.addr)
				at.must(amqpwire.ProtocolHeader[:])
			default:
				at = login(t, p.addr)
			}
			noise := make([]byte, 2000)
			_, _ = r.Read(noise)
			if i%2 == 0 { // a frame that is well-formed, but for what it says
				noise = frame(amqpwire.FrameMethod, uint16(i%3), noise)
			}
			_, _ = at.nc.Write(noise)
			if i%3 == 1 {
				_ = at.nc.Close()
				continue
			}
			_ = at.nc.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, at.nc) // until the broker ends it
			_ = at.nc.Close()
		}
	})

	cancel()
	client.Wait()
	p50, p99, worst := quantiles(took)
	grown := p.memory("VmRSS") - before
	t.Logf("\n%s", table("grown by", mib(grown), "normal client, messages", len(took), "its p50, p99, worst", []time.Duration{p50, p99, worst}))
	if grown > 256<<20 {
		t.Errorf("hostile peers cost %s", mib(grown))
	}
	if len(took) == 0 || p99 > latencyMax {
		t.Errorf("a normal client's p99 was %s, want at most %s", p99, latencyMax)
	}
	p.terminate()
}
