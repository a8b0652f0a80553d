package netserve

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestFillWaitsWithoutABuffer(t *testing.T) {
	near, far := tcpPair(t)
	c := conn(far)
	if c.In.raw == nil {
		t.Skip("no way to wait without a buffer here")
	}
	waits := make(chan bool, 16)
	try := c.In.try
	c.In.try = func(fd uintptr) bool {
		done := try(fd)
		if !done {
			waits <- c.In.buf == nil
		}
		return done
	}
	for _, size := range []int{smallBuffer, BufferSize, BufferSize} {
		got := make(chan string)
		go func() {
			if err := c.In.Fill(); err != nil {
				t.Error(err)
			}
			got <- string(c.In.Buffered())
			c.In.Discard(len(c.In.Buffered()))
			got <- ""
		}()
		if !<-waits {
			t.Error("a buffer is held while nothing is there")
		}
		mustWrite(t, near, []byte("hello"))
		if s := <-got; s != "hello" {
			t.Errorf("buffered %q", s)
		}
		if len(c.In.buf) != size {
			t.Errorf("the buffer has %d bytes, want %d", len(c.In.buf), size)
		}
		<-got
		c.Authenticated()
	}
	if c.In.Received() != 15 {
		t.Errorf("received %d", c.In.Received())
	}
	near.Close()
	if err := c.In.Fill(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestNeedGrowsTheBufferUpToTheLimit(t *testing.T) {
	near, far := tcpPair(t)
	c := conn(far)
	data := numbered(300_000)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer near.Close()
	sending.Go(func() { mustWrite(t, near, data) })
	for _, n := range []int{1, 10, smallBuffer, smallBuffer + 1, preAuthBuffer} {
		if err := c.In.Need(n); err != nil {
			t.Fatal(err)
		}
		mustEqual(t, c.In.Buffered()[:n], data[:n])
	}
	if err := c.In.Need(preAuthBuffer + 1); !errors.Is(err, ErrFull) {
		t.Errorf("more than an unknown peer may send: %v", err)
	}
	for len(c.In.Buffered()) < preAuthBuffer {
		if err := c.In.Fill(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.In.Fill(); !errors.Is(err, ErrFull) {
		t.Errorf("fill a full buffer: %v", err)
	}
	c.Authenticated()
	c.In.SetMax(200_000)
	if err := c.In.Need(200_000); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, c.In.Buffered()[:200_000], data[:200_000])
	c.In.Discard(100_000)
	rest := make([]byte, 200_000)
	if n, err := c.In.ReadFull(rest); n != len(rest) || err != nil {
		t.Fatal(n, err)
	}
	mustEqual(t, rest, data[100_000:])
	mustWrite(t, near, []byte("abc"))
	near.Close()
	if err := c.In.Need(4); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an end in the middle: %v", err)
	}
	if n, err := c.In.ReadFull(rest[:4]); n != 3 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an end in the middle: %d, %v", n, err)
	}
	if c.In.Release(); c.In.buf != nil {
		t.Error("Release kept a buffer with nothing in it")
	}
}

// countingConn counts how often a read deadline is set.
type countingConn struct {
	net.Conn
	deadlines int
}

func (c *countingConn) SetReadDeadline(t time.Time) error {
	c.deadlines++
	return c.Conn.SetReadDeadline(t)
}

func TestSilenceIsMeasuredExactlyAndCheaply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		counting := &countingConn{Conn: far}
		c := conn(counting)
		c.In.SetIdleTimeout(time.Minute)
		go func() {
			for range 10_000 {
				time.Sleep(10 * time.Millisecond)
				mustWrite(t, near, []byte("x"))
			}
		}()
		for range 10_000 {
			if err := c.In.Fill(); err != nil {
				t.Fatal(err)
			}
			c.In.Discard(1)
		}
		if counting.deadlines > 3 { // in 100 s
			t.Errorf("%d deadlines set", counting.deadlines)
		}
		time.Sleep(time.Hour) // we do not read: the peer is not to blame
		start := time.Now()
		if err := c.In.Fill(); !errors.Is(err, ErrIdle) {
			t.Errorf("after silence: %v", err)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("waited %v", d)
		}
		go func() { time.Sleep(59 * time.Second); mustWrite(t, near, []byte("x")) }()
		if err := c.In.Fill(); err != nil {
			t.Errorf("something after 59 s: %v", err)
		}
		if got := time.Since(c.In.LastRead()); got != 0 {
			t.Errorf("last read %v ago", got)
		}
		if !c.In.WaitingSince().IsZero() {
			t.Error("waiting, they say")
		}
		c.In.SetIdleTimeout(0)
		c.In.SetDeadline(time.Now().Add(time.Second))
		if err := c.In.Fill(); !errors.Is(err, ErrLogin) {
			t.Errorf("after the deadline: %v", err)
		}
	})
}

func TestInterruptEndsTheWaitAndResumeTakesItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := conn(far)
		first := errors.New("first")
		go func() {
			time.Sleep(time.Second)
			if c.In.WaitingSince().IsZero() {
				t.Error("nobody waits")
			}
			c.Interrupt(first)
			c.Interrupt(errors.New("second"))
		}()
		for range 2 {
			if err := c.In.Fill(); !errors.Is(err, first) {
				t.Errorf("interrupted with %v", err)
			}
		}
		c.In.Resume()
		_ = far.SetReadDeadline(time.Unix(1, 0)) // an interruption that comes late
		go func() { time.Sleep(time.Second); mustWrite(t, near, []byte("x")) }()
		if err := c.In.Fill(); err != nil {
			t.Errorf("after Resume: %v", err)
		}
	})
}

func TestAnInterruptionIsNeverLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 500 { // against arm, which sets deadlines of its own
			_, far := net.Pipe()
			c := conn(far)
			c.In.SetIdleTimeout(time.Hour)
			go c.Interrupt(ErrDraining)
			if err := c.In.Fill(); !errors.Is(err, ErrDraining) {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkFill(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	c := conn(far)
	c.Authenticated()
	c.In.SetIdleTimeout(time.Minute)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := make([]byte, 64<<10); ; {
			if _, err := near.Write(p); err != nil {
				return
			}
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		if err := c.In.Fill(); err != nil {
			b.Fatal(err)
		}
		c.In.Discard(len(c.In.Buffered()))
	}
	b.SetBytes(int64(c.In.Received()) / int64(b.N))
	far.Close()
	near.Close()
	<-done
}
