package pipenet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// dialed returns both ends of a connection over a network.
func dialed(t *testing.T) (client, server *Conn) {
	t.Helper()
	n := New()
	l, err := n.Listen("")
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); c.Close(); s.Close() })
	return c.(*Conn), s.(*Conn)
}

func TestBytesArriveInOrderThroughASmallBuffer(t *testing.T) {
	a, b := dialed(t)
	sent := bytes.Repeat([]byte("0123456789abcde"), 5*bufferSize/15)
	var w sync.WaitGroup
	w.Go(func() {
		if n, err := a.Write(sent); n != len(sent) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(sent))
	}
	w.Wait()
	if _, err := b.Write([]byte("back")); err != nil {
		t.Errorf("the other direction ended, too: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := dialed(t)
		begun := time.Now()
		wait := func(what string, want time.Duration, f func() error) {
			t.Helper()
			err := f()
			var ne net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("%s: %v, want a timeout", what, err)
			}
			if got := time.Since(begun); got != want {
				t.Errorf("%s: ended after %v, want %v", what, got, want)
			}
		}
		read := func() error { _, err := a.Read(make([]byte, 1)); return err }
		must(t, a.SetReadDeadline(begun.Add(3*time.Second)))
		wait("a read", 3*time.Second, read)
		wait("a read after that", 3*time.Second, read)
		must(t, a.SetWriteDeadline(begun.Add(5*time.Second)))
		wait("a write that does not fit", 5*time.Second, func() error {
			n, err := a.Write(make([]byte, bufferSize+1))
			if n != bufferSize {
				t.Errorf("wrote %d, want what fits", n)
			}
			return err
		})
		// A deadline that is moved while a read waits counts as moved.
		must(t, a.SetDeadline(begun.Add(6*time.Second)))
		time.AfterFunc(time.Second/2, func() { _ = a.SetDeadline(begun.Add(9 * time.Second)) })
		wait("a read whose deadline moved", 9*time.Second, read)
		must(t, a.SetDeadline(time.Time{}))
		time.AfterFunc(time.Hour, func() { a.Close() })
		if err := read(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read without a deadline: %v, want that it was closed", err)
		}
		if err := a.SetDeadline(begun); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a deadline of a closed connection: %v", err)
		}
	})
}

func TestCloseLetsWhatIsOnItsWayArrive(t *testing.T) {
	a, b := dialed(t)
	mustWrite(t, a, "last")
	a.Close()
	if got, err := io.ReadAll(b); string(got) != "last" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write to a closed end: %v, want EPIPE", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write of a closed end: %v", err)
	}
}

func TestCutLosesWhatIsOnItsWay(t *testing.T) {
	a, b := dialed(t)
	mustWrite(t, a, "lost")
	b.Cut()
	for _, c := range []*Conn{a, b} {
		if n, err := c.Read(make([]byte, 9)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d, %v, want ECONNRESET", n, err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v, want ECONNRESET", err)
		}
	}
}

func TestPauseHoldsBytesAndTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := dialed(t)
		mustWrite(t, a, "before ")
		a.Pause()
		mustWrite(t, a, "while")
		a.Close()
		if _, err := b.Write([]byte("nobody knows")); err != nil {
			t.Errorf("a write to who is gone, while paused: %v", err)
		}
		must(t, b.SetReadDeadline(time.Now().Add(time.Minute)))
		if n, err := b.Read(make([]byte, 9)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d, %v while paused", n, err)
		}
		must(t, b.SetReadDeadline(time.Time{}))
		time.AfterFunc(time.Second, b.Resume)
		if got, err := io.ReadAll(b); string(got) != "before while" || err != nil {
			t.Errorf("read %q, %v after that", got, err)
		}
	})
}

func TestNamesAreTakenAndFreed(t *testing.T) {
	n := New()
	if _, err := n.DialContext(t.Context(), "tcp", "a:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	l, err := n.Listen("a:1")
	must(t, err)
	if _, err := n.Listen("a:1"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the name is taken: %v", err)
	}
	c, err := n.DialContext(t.Context(), "tcp", "a:1")
	must(t, err)
	must(t, l.Close())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was not accepted: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	if l, err = n.Listen("a:1"); err != nil {
		t.Fatalf("the name is free: %v", err)
	}
	must(t, l.Close())
}

func TestSilenceEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		l, err := n.Listen("a:1")
		must(t, err)
		defer l.Close()
		n.Silence("a:1", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := n.DialContext(ctx, "tcp", "a:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v", err)
		}
		n.Silence("a:1", false)
		if _, err := n.DialContext(t.Context(), "tcp", "a:1"); err != nil {
			t.Error(err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, c *Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}
