package netserve

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestFlushWritesPiecesInOrder(t *testing.T) {
	near, far := tcpPair(t)
	c := conn(far)
	body := numbered(1 << 20)
	var want []byte
	add := func(p []byte) { c.Out.SetBuf(append(c.Out.Buf(), p...)); want = append(want, p...) }
	ref := func(p []byte) { c.Out.AppendRef(p); want = append(want, p...) }
	add([]byte("head"))
	ref(body)
	ref(body[:100]) // is copied
	add([]byte("tail"))
	ref(body[5 : byReference+5])
	ref(body[7 : byReference*2])
	add(body[:BufferSize]) // grows the buffer under pieces that are queued
	ref(body[9:90_000])
	add([]byte("end"))
	if c.Out.Waiting() != len(want) {
		t.Errorf("%d bytes wait, want %d", c.Out.Waiting(), len(want))
	}
	got := make(chan []byte)
	go func() { p, _ := io.ReadAll(near); got <- p }()
	if err := c.Out.Flush(); err != nil {
		t.Fatal(err)
	}
	if c.Out.Waiting() != 0 || c.Out.buf != nil || c.Out.pooled != nil {
		t.Error("something is held after Flush")
	}
	if err := c.Out.Flush(); err != nil {
		t.Errorf("nothing to flush: %v", err)
	}
	if c.Out.Sent() != uint64(len(want)) {
		t.Errorf("sent %d", c.Out.Sent())
	}
	c.Close()
	mustEqual(t, <-got, want)
	add([]byte("x"))
	first := c.Out.Flush()
	add([]byte("y"))
	if err := c.Out.Flush(); err == nil || !errors.Is(err, first) || !errors.Is(c.Out.Err(), first) {
		t.Errorf("errors after Close: %v, %v", first, err)
	}
}

func TestPeersThatDoNotRead(t *testing.T) {
	data := numbered(1000)
	for _, row := range []struct {
		name  string
		alive func() bool
		reads func(nc net.Conn) []byte // all that it reads
		err   error
		after time.Duration
	}{
		{"never, dead", func() bool { return false }, func(net.Conn) []byte { return nil }, ErrStalled, 10 * time.Second},
		{"never, without heartbeats", nil, func(net.Conn) []byte { return nil }, ErrStalled, 10 * time.Second},
		{"never, dies after 35 s", aliveFor(35 * time.Second), func(net.Conn) []byte { return nil }, ErrStalled, 40 * time.Second},
		{"half, then never", nil, func(nc net.Conn) []byte {
			p := make([]byte, 500)
			_, _ = io.ReadFull(nc, p)
			return p
		}, ErrStalled, stallLook + 10*time.Second}, // progress is seen at the end of a step
		{"after a minute, alive", aliveFor(time.Hour), func(nc net.Conn) []byte {
			time.Sleep(time.Minute)
			p, _ := io.ReadAll(io.LimitReader(nc, 1000))
			return p
		}, nil, time.Minute},
		{"250 bytes each 9 s, without heartbeats", nil, func(nc net.Conn) (all []byte) {
			for range 4 {
				time.Sleep(9 * time.Second)
				p := make([]byte, 250)
				_, _ = io.ReadFull(nc, p)
				all = append(all, p...)
			}
			return all
		}, nil, 36 * time.Second},
	} {
		for _, pieces := range []int{1, 4} {
			t.Run(row.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near, far := net.Pipe()
					c := conn(far)
					defer c.Close()
					if row.alive != nil {
						c.Out.SetAlive(row.alive)
					}
					c.Out.refFrom = 1
					for i := range pieces {
						c.Out.AppendRef(data[i*1000/pieces : (i+1)*1000/pieces])
					}
					got := make(chan []byte, 1)
					go func() { got <- row.reads(near) }()
					start := time.Now()
					if err := c.Out.Flush(); !errors.Is(err, row.err) {
						t.Errorf("flush: %v, want %v", err, row.err)
					}
					if d := time.Since(start); d != row.after {
						t.Errorf("took %v, want %v", d, row.after)
					}
					p := <-got
					mustEqual(t, p, data[:len(p)])
					if row.err == nil && len(p) != len(data) {
						t.Errorf("%d bytes arrived", len(p))
					}
				})
			})
		}
	}
}

func aliveFor(d time.Duration) func() bool {
	var once sync.Once
	var first time.Time
	return func() bool { // is asked after 10 s for the first time
		once.Do(func() { first = time.Now().Add(-stallTimeout) })
		return time.Since(first) < d
	}
}

func TestATLSWriteSurvivesAPeerThatIsSlow(t *testing.T) {
	files := certFiles(t, t.TempDir(), "a")
	synctest.Test(t, func(t *testing.T) {
		data := numbered(200_000)
		f := serve(t, Config{TLS: mustCertificates(t, files)}, func(c *Conn) {
			c.Authenticated()
			c.Out.SetAlive(func() bool { return true })
			c.Out.AppendRef(data)
			if err := c.Out.Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
			if c.TLS() == nil || c.TLS().Version != tls.VersionTLS13 {
				t.Error("not TLS 1.3")
			}
		})
		nc := f.dial()
		client := tls.Client(nc, clientTLS())
		mustWrite(t, client, []byte("hello"))
		time.Sleep(95 * time.Second)
		got, err := io.ReadAll(client)
		if err != nil {
			t.Error(err)
		}
		mustEqual(t, got, data)
		client.Close()
		f.end(t)
	})
}

func TestAWriteEndsAtItsDeadlineAndWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, end := range []func(c *Conn){
			func(c *Conn) { c.Close() },
			func(c *Conn) { c.SetWriteDeadline(time.Now()) },
			func(c *Conn) { c.SetWriteDeadline(time.Time{}); c.SetWriteDeadline(time.Now()) },
		} {
			_, far := net.Pipe()
			c := conn(far)
			c.Out.SetAlive(func() bool { return true })
			go func() { time.Sleep(42 * time.Second); end(c) }()
			c.Out.SetBuf(append(c.Out.Buf(), "x"...))
			start := time.Now()
			if err := c.Out.Flush(); err == nil {
				t.Error("flushed to nobody")
			}
			if d := time.Since(start); d != 42*time.Second {
				t.Errorf("ended after %v", d)
			}
			c.Close()
		}
	})
}

func TestLingerLetsTheLastWordArrive(t *testing.T) {
	near, far := tcpPair(t)
	c := conn(far)
	sent := make(chan struct{})
	go func() { // a publisher that does not look
		defer close(sent)
		p := make([]byte, 64<<10)
		for range 100 {
			if _, err := near.Write(p); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
		_ = near.(*net.TCPConn).CloseWrite()
	}()
	c.Out.SetBuf(append(c.Out.Buf(), "goodbye"...))
	if err := c.Out.Flush(); err != nil {
		t.Fatal(err)
	}
	c.Linger(time.Minute)
	c.Close()
	<-sent
	got, err := io.ReadAll(near)
	if err != nil || string(got) != "goodbye" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A server that stops interrupts its connections, also one that is being told of it.
func TestLingerOutlastsAnInterrupt(t *testing.T) {
	near, far := tcpPair(t)
	c := conn(far)
	c.Out.SetBuf(append(c.Out.Buf(), "goodbye"...))
	if err := c.Out.Flush(); err != nil {
		t.Fatal(err)
	}
	lingered := make(chan struct{})
	go func() {
		defer close(lingered)
		c.Linger(time.Minute)
		c.Close()
	}()
	if _, err := io.ReadAll(near); err != nil { // until it lingers
		t.Fatal(err)
	}
	c.Interrupt(ErrDraining)
	// More than sockets hold: it is written only if it is read.
	if _, err := near.Write(make([]byte, 32<<20)); err != nil {
		t.Errorf("write: %v", err)
	}
	_ = near.(*net.TCPConn).CloseWrite()
	<-lingered
}
