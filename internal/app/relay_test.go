package app

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/pipenet"
)

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// relayTo starts a relay to the address that is in target.
func relayTo(t *testing.T, target *atomic.Value) *relay {
	t.Helper()
	r := startRelay("amqp", listen(t), func() string { return target.Load().(string) }, slog.New(slog.DiscardHandler))
	t.Cleanup(r.stop)
	return r
}

func accept(t *testing.T, ln *net.TCPListener) *net.TCPConn {
	t.Helper()
	nc, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// Each direction ends for itself, when all of it has come through.
func TestARelayPassesBothDirectionsThrough(t *testing.T) {
	live := listen(t)
	var target atomic.Value
	target.Store(live.Addr().String())
	r := relayTo(t, &target)
	near := open(t, r.listener.Addr().String(), false).(*net.TCPConn)
	far := accept(t, live)
	there, back := bytes.Repeat([]byte("there"), 100_000), bytes.Repeat([]byte("back"), 100_000)
	go func() {
		_, _ = near.Write(there)
		_ = near.CloseWrite()
	}()
	if got, err := io.ReadAll(far); err != nil || !bytes.Equal(got, there) {
		t.Errorf("%d bytes of %d came through, %v", len(got), len(there), err)
	}
	go func() {
		_, _ = far.Write(back)
		_ = far.Close()
	}()
	if got, err := io.ReadAll(near); err != nil || !bytes.Equal(got, back) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(back), err)
	}
}

func TestARelayEndsWhatIsWithAnotherBroker(t *testing.T) {
	before, now := listen(t), listen(t)
	var target atomic.Value
	target.Store(before.Addr().String())
	r := relayTo(t, &target)
	old := open(t, r.listener.Addr().String(), false)
	accept(t, before) // and never says a word again
	target.Store("")
	r.follow() // nobody is known to be live: the connection may still be good
	mustEnd(t, open(t, r.listener.Addr().String(), false))
	target.Store(now.Addr().String())
	kept := open(t, r.listener.Addr().String(), false)
	far := accept(t, now)
	r.follow()
	mustEnd(t, old)
	mustSay(t, kept, "hello")
	mustHear(t, far, "hello")
	r.stop()
	mustEnd(t, kept)
	if _, err := net.Dial("tcp", r.listener.Addr().String()); err == nil {
		t.Error("there is still a listener")
	}
}

// A broker that cuts a client which reads nothing leaves nothing behind, though nobody
// reads from it either.
func TestARelayEndsWhatIsBrokenOff(t *testing.T) {
	live := listen(t)
	var target atomic.Value
	target.Store(live.Addr().String())
	r := relayTo(t, &target)
	near := open(t, r.listener.Addr().String(), false)
	far := accept(t, live)
	for { // until there is room nowhere
		_ = far.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := far.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	r.follow()
	if r.held() != 1 {
		t.Error("a client that only reads nothing was cut")
	}
	_ = far.SetLinger(0)
	far.Close()
	for until := time.Now().Add(patience); r.held() > 0; runtime.Gosched() {
		r.follow()
		if time.Now().After(until) {
			t.Fatal("the connection is still there")
		}
	}
	near.Close()
}

func (r *relay) held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// A broker that tells a wrong address of its own, which is the standby's, does not
// have it connect to itself until there is room for nobody.
func TestARelayDoesNotPassThroughToItself(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", ":0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		own := "127.0.0.1:" + port
		asked := atomic.Int32{}
		r := startRelay("amqp", ln, func() string { asked.Add(1); return own }, slog.New(slog.DiscardHandler))
		const clients = 8
		var ended sync.WaitGroup
		for range clients {
			nc := open(t, own, false)
			ended.Go(func() { mustEnd(t, nc) })
		}
		ended.Wait()
		r.stop()
		if n := asked.Load(); n > 5*clients { // those that led back are closed unheard
			t.Errorf("%s: %d connections were made of %d", at, n, clients)
		}
	}
}

func TestARelayClosesWhatItCannotPassOn(t *testing.T) {
	var target atomic.Value
	target.Store(freeAddress(t))
	r := relayTo(t, &target)
	mustEnd(t, open(t, r.listener.Addr().String(), false))
}

// A client that stays when the broker has closed its connection, because it has not
// logged in, holds no place for long.
func TestARelayDoesNotKeepWhoseConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, client := pipenet.Pipe()
		live, far := pipenet.Pipe()
		p := &passage{client: client, live: live}
		began := time.Now()
		_ = far.CloseWrite()
		p.through()
		if took := time.Since(began); took != relayLinger {
			t.Errorf("it was kept for %v", took)
		}
		if n, err := near.Read(make([]byte, 1)); err == nil {
			t.Errorf("the client has got %d bytes", n)
		}
		near.Close()
		far.Close()
	})
}

func TestARelayIsBounded(t *testing.T) {
	var r relay
	for i := range relayConns + 1 {
		if ok := r.enter(); ok != (i < relayConns) {
			t.Fatalf("connection %d: %t", i, ok)
		}
	}
	r.leave()
	if !r.enter() {
		t.Error("an end makes no room")
	}
}
