package gmqserver

import (
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/pipenet"
)

// pipes is a listener whose connections are within the process, for tests in which time
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

const someoneAuth = `"auth":{"user":"someone","password":"secret"}` // a pipe is not loopback: no guest

// inBubble runs a test with a server in a bubble, where the clock advances only
// while everybody waits, and which nothing may survive. dial connects to it.
func inBubble(t *testing.T, test func(t *testing.T, dial func() *testPeer), options ...func(*broker.Config)) {
	synctest.Test(t, func(t *testing.T) {
		users, err := auth.NewUsers("someone", "secret")
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
		s := New(Config{Broker: b, Auth: users, TokenAuth: true})
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		ns, err := netserve.New(netserve.Config{Endpoints: []netserve.Endpoint{{Listener: l, Handle: s.Handle}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- ns.Serve(ctx) }()
		test(t, func() *testPeer {
			mine, theirs := pipenet.Pipe()
			l.conns <- theirs
			p := newPeer(t, mine)
			_ = mine.SetDeadline(time.Time{})
			return p
		})
		if err := s.Shutdown(context.Background(), "the test has ended"); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// login authenticates on a connection that stays.
func (p *testPeer) login() {
	p.t.Helper()
	if r := p.ask(`{"operation":"SYNC",` + someoneAuth + `}`); !r.Confirmed {
		p.t.Fatalf("%+v", r)
	}
}

func TestPeerThatDoesNotLogInIsCut(t *testing.T) {
	for name, first := range map[string]string{
		"after a byte":            "{",
		"after white space":       " \n",
		"within a request":        `{"operation":"P","queue":"q",`,
		"within the payload":      `{"operation":"P","queue":"q","payload":"AAAA`,
		"after a refused request": `{"operation":"SYNC","auth":{"user":"someone","password":"wrong"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, dial func() *testPeer) {
				start := time.Now()
				p := dial()
				go p.write(first)
				text, err := io.ReadAll(p.in)
				if after := time.Since(start); err != nil || after > netserve.LoginTimeout+2*closeTimeout {
					t.Errorf("cut after %v (%v)", after, err)
				}
				if strings.HasPrefix(first, "{\"") && !strings.Contains(string(text), `"confirmation":"N"`) {
					t.Errorf("is told %q", text)
				}
				p.nc.Close()
			})
		})
	}
}

// A peer that sends a byte a second has no more time than others.
func TestSlowRequestIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		start := time.Now()
		written := make(chan struct{})
		go func() {
			defer close(written)
			for _, b := range `{"operation":"SYNC",` + someoneAuth + `}` {
				if _, err := p.nc.Write([]byte(string(b))); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
		}()
		text, _ := io.ReadAll(p.in)
		if after := time.Since(start); after > netserve.LoginTimeout+2*closeTimeout {
			t.Errorf("cut after %v", after)
		}
		if !strings.Contains(string(text), "not complete in time") {
			t.Errorf("is told %q", text)
		}
		p.nc.Close()
		<-written
	})
}

// Who has authenticated may be silent between requests, but not within one.
func TestSilenceIsForBetweenRequests(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.login()
		time.Sleep(time.Hour)
		p.line(`{"operation":"SYNC"}`)
		p.expect(originalReply("SYNC", "", ""))
		p.write(`{"operation":`)
		time.Sleep(partTimeout - time.Second)
		p.line(`"SYNC"}`)
		p.expect(originalReply("SYNC", "", ""))
		time.Sleep(2 * partTimeout)
		p.write(`{"operation":`)
		start := time.Now()
		text := p.read()
		if after := time.Since(start); after != partTimeout || !strings.Contains(text, "not complete in time") {
			t.Errorf("after %v: %s", after, text)
		}
		p.nc.Close()
	})
}

// A request that nothing is behind ends the connection: at once where it is small,
// else, and where there was a newline before, after a moment.
func TestEndComesPromptly(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		for _, c := range []struct {
			first   bool // request with a newline before
			payload int
			want    time.Duration
		}{
			{false, 8, 0}, {false, wholeSize, splitTimeout}, {true, 8, trailingTimeout},
		} {
			p := dial()
			if c.first {
				p.login()
			} else { // the hash takes time of its own; it is remembered
				q := dial()
				q.login()
				q.nc.Close()
			}
			start := time.Now()
			go p.write(`{"operation":"P","queue":"q",` + someoneAuth + `,"payload":"` + strings.Repeat("A", c.payload) + `"}`)
			text := p.all()
			if after := time.Since(start); after != c.want || !strings.Contains(text, `"confirmation":"Y"`) {
				t.Errorf("%+v: after %v: %s", c, after, text)
			}
			p.nc.Close()
		}
	})
}

// S may wait for a message: it comes at once when there is one; without one the
// answer comes when the time is over, or when the peer goes on.
func TestSubscribeWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p, q := dial(), dial()
		p.login()
		q.login()
		start := time.Now()
		const wait = `{"operation":"S","queue":"q","ack":"manual","wait_msec":20000}`
		if r := p.ask(wait); r.ID != "" || time.Since(start) != 20*time.Second {
			t.Errorf("after %v: %+v", time.Since(start), r)
		}
		start = time.Now()
		p.line(wait)
		time.Sleep(3 * time.Second)
		q.ask(`{"operation":"P","queue":"q","payload":"` + b64("news") + `"}`)
		if r := p.reply(); body(t, r) != "news" || time.Since(start) != 3*time.Second {
			t.Errorf("after %v: %+v", time.Since(start), r)
		} else if r := p.ask(`{"operation":"A","id":"` + r.ID + `"}`); !r.Confirmed {
			t.Errorf("%+v", r)
		}
		start = time.Now()
		p.line(wait)
		time.Sleep(2 * time.Second)
		p.line(`{"operation":"L","queue":"q"}`)
		if r := p.reply(); r.ID != "" || r.Operation != "S" || time.Since(start) != 2*time.Second {
			t.Errorf("after %v: %+v", time.Since(start), r)
		}
		p.expect(originalReply("L", "q", "0"))
		// No more than the longest time; and nobody who waits keeps a message.
		start = time.Now()
		if r := p.ask(`{"operation":"S","queue":"q","wait_msec":9000000000000000000}`); !r.Confirmed || time.Since(start) != waitMost {
			t.Errorf("after %v: %+v", time.Since(start), r)
		}
		half := dial()
		half.login()
		half.line(wait)
		synctest.Wait()
		_ = half.nc.(*pipenet.Conn).CloseWrite()
		start = time.Now()
		half.expect(originalReply("S", "q", ""))
		if half.expectEnd(); time.Since(start) != 0 {
			t.Errorf("after %v", time.Since(start))
		}
		half.nc.Close()
		p.line(wait)
		synctest.Wait()
		p.nc.Close()
		synctest.Wait()
		q.ask(`{"operation":"P","queue":"q","payload":"eA=="}`)
		if r := q.ask(`{"operation":"L","queue":"q"}`); string(r.Payload) != "1" {
			t.Errorf("%+v", r)
		}
		q.nc.Close()
	})
}

// While publishers are blocked a publish waits, and is refused in the end; taking
// goes on.
func TestPublishUnderAnAlarm(t *testing.T) {
	var used atomic.Int64
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.login()
		p.ask(`{"operation":"P","queue":"q","payload":"eA=="}`)
		used.Store(101)
		time.Sleep(time.Second)
		start := time.Now()
		r := p.ask(`{"operation":"P","queue":"q","payload":"eA=="}`)
		if after := time.Since(start); r.Confirmed || !strings.HasPrefix(r.ErrorText, "RESOURCE_ERROR - publishing is blocked: ") || after < blockedTimeout || after > blockedTimeout+time.Second {
			t.Errorf("after %v: %+v", after, r)
		}
		if r := p.ask(`{"operation":"S","queue":"q"}`); body(t, r) != "x" {
			t.Errorf("%+v", r)
		}
		p.line(`{"operation":"P","queue":"q","payload":"eA=="}`)
		time.Sleep(time.Second)
		used.Store(0)
		if r := p.reply(); !r.Confirmed {
			t.Errorf("%+v", r)
		}
		p.nc.Close()
	}, func(bc *broker.Config) {
		bc.Alarms.Memory = func() (int64, int64) { return used.Load(), 100 }
	})
}

// A peer that does not read its replies is cut, and does not hold up the end.
func TestPeerThatDoesNotReadIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.login()
		start := time.Now()
		for {
			if _, err := p.nc.Write([]byte(`{"operation":"L","queue":"q"}` + "\n")); err != nil {
				break
			}
		}
		if after := time.Since(start); after > 20*time.Second {
			t.Errorf("cut after %v", after)
		}
	})
}

func TestGuestIsForLoopback(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		go p.write(original("SYNC", "", ""))
		if r := parse(t, p.all()); r.ErrorText != `ACCESS_REFUSED - user "guest" may connect from the broker's own machine only` {
			t.Errorf("%+v", r)
		}
		p.nc.Close()
	})
}

// What could not be written to a client is not lost when its connection breaks.
func TestMessagesOfABrokenConnectionGoBack(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p, q := dial(), dial()
		p.login()
		q.login()
		const n = 10
		payload := strings.Repeat("A", 400<<10)
		for range n {
			if r := p.ask(`{"operation":"P","queue":"q","payload":"` + payload + `"}`); !r.Confirmed {
				t.Fatalf("%+v", r)
			}
		}
		q.write(strings.Repeat(`{"operation":"S","queue":"q"}`+"\n", n))
		synctest.Wait() // the server cannot write any more
		q.nc.(*pipenet.Conn).Cut()
		synctest.Wait()
		r := p.ask(`{"operation":"L","queue":"q"}`)
		if got, _ := strconv.Atoi(string(r.Payload)); got < n-2 {
			t.Errorf("%d of %d messages are left", got, n)
		}
		p.nc.Close()
	})
}
