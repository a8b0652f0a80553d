package netserve

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// say answers with a name and what is buffered, and ends.
func say(name string) Handler {
	return func(c *Conn) {
		c.Authenticated()
		c.Out.SetBuf(append(append(c.Out.Buf(), name+":"...), c.In.Buffered()...))
		_ = c.Out.Flush()
	}
}

func TestProtocolsAreRecognisedByTheirFirstBytes(t *testing.T) {
	files := certFiles(t, t.TempDir(), "a")
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{TLS: mustCertificates(t, files), Protocols: []Protocol{
			{Name: "amqp", Match: Prefix("AMQP"), Handle: say("amqp")},
			{Name: "http", Match: Prefix("GET ", "POST ", "PO"), Handle: say("http")},
		}}
		f := serve(t, cfg, say("default"))
		for _, row := range []struct {
			sends []string
			want  string
		}{
			{[]string{"AMQP\x00\x00\x09\x01"}, "amqp:AMQP\x00\x00\x09\x01"},
			{[]string{"A", "M", "QP"}, "amqp:AMQP"},
			{[]string{"GET / HTTP/1.1"}, "http:GET / HTTP/1.1"},
			{[]string{"PO"}, "http:PO"},
			{[]string{"CONNECT\n"}, "default:CONNECT\n"},
			{[]string{"AMQ", "X"}, "default:AMQX"},
			{[]string{"G", "E", "X"}, "default:GEX"},
			{[]string{"\x00"}, "default:\x00"},
		} {
			for _, encrypted := range []bool{false, true} {
				nc := f.dial()
				if encrypted {
					nc = tls.Client(nc, clientTLS())
				}
				for _, s := range row.sends {
					mustWrite(t, nc, []byte(s))
					synctest.Wait()
				}
				got, err := io.ReadAll(nc)
				if err != nil || string(got) != row.want {
					t.Errorf("%q, TLS %v: answered %q, %v; want %q", row.sends, encrypted, got, err, row.want)
				}
				nc.Close()
			}
		}
		synctest.Wait()
		if all, unauthenticated := f.srv.Conns(); all != 0 || unauthenticated != 0 {
			t.Errorf("%d connections, %d unauthenticated at the end", all, unauthenticated)
		}
		f.end(t)
	})
}

// login reads until 20 bytes have come, as a protocol would for its login.
func login(c *Conn) {
	if c.In.Need(20) == nil {
		c.Authenticated()
		c.Out.SetBuf(append(c.Out.Buf(), "welcome"...))
		_ = c.Out.Flush()
		_ = c.In.Need(1 << 10)
	}
}

func TestSlowPeersAreCut(t *testing.T) {
	files := certFiles(t, t.TempDir(), "a")
	drip := func(first []byte, every time.Duration) func(*testing.T, net.Conn) {
		return func(_ *testing.T, nc net.Conn) {
			for p := append(first, make([]byte, 100)...); ; p = p[1:] {
				if _, err := nc.Write(p[:1]); err != nil {
					return
				}
				time.Sleep(every)
			}
		}
	}
	for _, row := range []struct {
		name  string
		peer  func(*testing.T, net.Conn)
		after time.Duration
	}{
		{"nothing is said", func(*testing.T, net.Conn) {}, 10 * time.Second},
		{"a protocol is begun", func(t *testing.T, nc net.Conn) { mustWrite(t, nc, []byte("AM")) }, 10 * time.Second},
		{"a login is begun", func(t *testing.T, nc net.Conn) { mustWrite(t, nc, []byte("AMQPuser")) }, 10 * time.Second},
		{"one byte a second", drip([]byte("AMQPuser"), time.Second), 10 * time.Second},
		{"a TLS handshake is begun", func(t *testing.T, nc net.Conn) { mustWrite(t, nc, []byte{0x16, 3, 1, 2}) }, 5 * time.Second},
		{"a TLS handshake drips", drip([]byte{0x16, 3, 1, 2, 0, 1, 0}, time.Second), 5 * time.Second},
		{"silence after TLS", func(t *testing.T, nc net.Conn) {
			time.Sleep(3 * time.Second)
			if err := tls.Client(nc, clientTLS()).Handshake(); err != nil {
				t.Errorf("handshake: %v", err)
			}
		}, 10 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{
					TLS:       mustCertificates(t, files),
					Protocols: []Protocol{{Match: Prefix("AMQP"), Handle: login}},
				}
				f := serve(t, cfg, login)
				start := time.Now()
				nc := f.dial()
				var wg sync.WaitGroup
				wg.Go(func() { row.peer(t, nc) })
				if row.name == "silence after TLS" {
					wg.Wait() // it reads what is for TLS
				}
				_, err := io.Copy(io.Discard, nc)
				if d := time.Since(start); err != nil || d != row.after {
					t.Errorf("ended after %v with %v, want %v", d, err, row.after)
				}
				nc.Close()
				wg.Wait()
				f.end(t)
			})
		})
	}
}

func TestTheTimeToLogInEndsWithTheLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{}, login)
		nc := f.dial()
		time.Sleep(9 * time.Second)
		mustWrite(t, nc, make([]byte, 20))
		p := make([]byte, 7)
		if _, err := io.ReadFull(nc, p); err != nil || string(p) != "welcome" {
			t.Fatal(string(p), err)
		}
		time.Sleep(time.Hour)
		if all, unauthenticated := f.srv.Conns(); all != 1 || unauthenticated != 0 {
			t.Errorf("%d connections, %d unauthenticated", all, unauthenticated)
		}
		nc.Close()
		f.end(t)
	})
}

func TestAThousandSlowPeersHoldLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := new(atomic.Int64)
		var log bytes.Buffer
		f := serve(t, Config{MaxUnauthenticated: 1000, Log: slog.New(slog.NewTextHandler(&log, nil))}, func(c *Conn) {
			err := c.In.Need(60 << 10)
			held.Add(int64(len(c.In.buf)))
			if !errors.Is(err, ErrLogin) {
				t.Errorf("ended with %v", err)
			}
		})
		start := time.Now()
		var conns []net.Conn
		for range 1000 {
			nc := f.dial()
			mustWrite(t, nc, []byte("user"))
			conns = append(conns, nc)
		}
		for range 50 {
			mustEnd(t, f.dial(), 0) // one too many
		}
		for _, nc := range conns {
			if _, err := nc.Read(make([]byte, 1)); err == nil {
				t.Error("something was said")
			}
		}
		if d := time.Since(start); d != LoginTimeout {
			t.Errorf("the last was cut after %v", d)
		}
		if held.Load() > 1000*preAuthBuffer {
			t.Errorf("they held %d bytes", held.Load())
		}
		if n := strings.Count(log.String(), "have not logged in"); n != 1 {
			t.Errorf("%d lines about those that were refused, want one", n)
		}
		synctest.Wait()
		nc := f.dial() // there is room again
		mustWrite(t, nc, []byte("x"))
		mustEnd(t, nc, LoginTimeout)
		f.end(t)
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{MaxConns: 2}, func(c *Conn) { c.Authenticated(); c.In.Discard(1); _ = c.In.Fill() })
		a, b := f.dial(), f.dial()
		mustWrite(t, a, []byte("x"))
		mustWrite(t, b, []byte("x"))
		mustEnd(t, f.dial(), 0)
		a.Close()
		synctest.Wait()
		c := f.dial()
		mustWrite(t, c, []byte("x"))
		mustWrite(t, c, []byte("y"))
		b.Close()
		c.Close()
		f.end(t)
	})
}

func TestAcceptGoesOnWhenDescriptorsRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := serve(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, say("x"))
		start := time.Now()
		for range 20 {
			f.accepts <- func() (net.Conn, error) {
				return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
			}
		}
		nc := f.dial()
		// 5, 10, ... 640 ms, and then a second each.
		if d := time.Since(start); d != 1275*time.Millisecond+12*time.Second {
			t.Errorf("20 errors took %v", d)
		}
		mustWrite(t, nc, []byte("y"))
		if got, _ := io.ReadAll(nc); string(got) != "x:y" {
			t.Errorf("answered %q", got)
		}
		if n := strings.Count(log.String(), "cannot accept"); n < 1 || n > 15 {
			t.Errorf("%d lines logged:\n%s", n, log.String())
		}
		f.accepts <- func() (net.Conn, error) { return nil, syscall.EMFILE }
		f.end(t) // does not wait for the pause
	})
}

func TestDrainTellsEachConnectionAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		f := serve(t, Config{}, func(c *Conn) {
			c.Authenticated()
			c.In.Discard(1)
			if err := c.In.Fill(); errors.Is(err, ErrDraining) {
				told.Add(1)
			}
			c.In.Resume()
			c.Out.SetBuf(append(c.Out.Buf(), "bye"...))
			_ = c.Out.Flush()
			_ = c.In.Fill() // for the answer
			c.In.Discard(1)
			if context.Cause(c.Context()) != nil {
				t.Error("cut although it answered")
			}
		})
		var wg sync.WaitGroup
		for range 10 {
			nc := f.dial()
			mustWrite(t, nc, []byte("x"))
			wg.Go(func() {
				p := make([]byte, 3)
				if _, err := io.ReadFull(nc, p); err != nil || string(p) != "bye" {
					t.Errorf("was told %q, %v", p, err)
				}
				time.Sleep(5 * time.Second)
				mustWrite(t, nc, []byte("y"))
			})
		}
		synctest.Wait()
		start := time.Now()
		f.end(t)
		wg.Wait()
		if d := time.Since(start); told.Load() != 10 || d != 5*time.Second {
			t.Errorf("%d were told, it took %v", told.Load(), d)
		}
	})
}

func TestDrainCutsThoseThatDoNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{}, func(c *Conn) {
			c.Authenticated()
			c.In.Discard(1)
			for c.In.Fill() != nil && c.Context().Err() == nil {
				c.In.Resume()
			}
			if !errors.Is(context.Cause(c.Context()), ErrDraining) {
				t.Errorf("the cause is %v", context.Cause(c.Context()))
			}
		})
		nc := f.dial()
		mustWrite(t, nc, []byte("x"))
		synctest.Wait()
		f.stop()
		start := time.Now()
		err := <-f.done
		if d := time.Since(start); err == nil || !strings.Contains(err.Error(), "1 connections") || d != DrainTimeout {
			t.Errorf("ended after %v with %v", d, err)
		}
	})
}

func TestHandoffServesHTTP(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := NewHandoff(l.Addr())
	web := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.URL.Path)
	})}
	srv, err := New(Config{
		Endpoints: []Endpoint{{"http", l, say("default")}},
		Protocols: []Protocol{{"http", Prefix("GET "), h.Handle}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { _ = web.Serve(h) })
	for i := range 3 { // over one connection
		resp, err := http.Get(fmt.Sprintf("http://%s/%d", l.Addr(), i))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != fmt.Sprintf("hello /%d", i) {
			t.Errorf("answered %q", body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	web.Close()
	wg.Wait()
}

func TestFaultsOfAConfigurationAreReportedTogether(t *testing.T) {
	_, err := New(Config{MaxConns: -1, Endpoints: []Endpoint{{Name: "e"}}, Protocols: []Protocol{{Name: "p"}}})
	for _, part := range []string{`"e"`, `"p"`, "negative"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s is not in %v", part, err)
		}
	}
}

// Both ends of a connection are in this process, and count.
func TestIdleConnectionsCostLittle(t *testing.T) {
	const n = 300
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{}, n)
	srv, err := New(Config{Endpoints: []Endpoint{{"x", l, func(c *Conn) {
		c.Authenticated()
		c.In.Discard(1)
		ready <- struct{}{}
		_ = c.In.Fill()
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- srv.Serve(ctx) }()
	before := inUse()
	var conns []net.Conn
	for range n {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, nc, []byte("x"))
		<-ready
		conns = append(conns, nc)
	}
	limit := int64(8 << 10)
	if raceEnabled {
		limit = 12 << 10 // what stands on the stack is larger
	}
	if each := (inUse() - before) / n; each > limit {
		t.Errorf("an idle connection costs %d bytes", each)
	} else {
		t.Logf("an idle connection costs %d bytes", each)
	}
	for _, nc := range conns {
		nc.Close()
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func inUse() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC() // twice empties the pools
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// Who says 0.0.0.0 means IPv4, and does not open the broker for IPv6 beside it.
func TestListenAtAllIPv4Addresses(t *testing.T) {
	l, err := Listen(t.Context(), "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil || host != "0.0.0.0" {
		t.Errorf("it listens at %v (%v)", l.Addr(), err)
	}
	if nc, err := net.Dial("tcp", net.JoinHostPort("::1", port)); err == nil {
		nc.Close()
		t.Error("it is reached over IPv6")
	}
}
