package ferrytest

import (
	"log/slog"
	"sync"
	"testing"
)

// An Option changes how Start makes a broker.
type Option func(*options)

type options struct {
	dir     string
	verbose bool
}

// Dir makes the broker keep durable messages in files of this directory, which is
// made if it is not there: what was confirmed survives Stop, Kill and Start. A
// confirm then waits for the disk. The directory can be one of ferry serve.
func Dir(dir string) Option { return func(o *options) { o.dir = dir } }

// Verbose shows the broker's log in the test's output as it is written. Without
// it a test that fails shows the end of the log, and one that succeeds nothing.
func Verbose() Option { return func(o *options) { o.verbose = true } }

// A Broker is a Ferry broker within the test's process, behind a proxy. The
// methods that break things are the Proxy's; those that stop and start the broker
// are for the goroutine of the test, because they fail it when they fail.
type Broker struct {
	*Proxy
	t   testing.TB
	dir string
	log *slog.Logger

	mu     sync.Mutex
	server *server // nil: stopped
}

// Start runs a broker until the test ends. It fails the test if it cannot.
func Start(t testing.TB, opts ...Option) *Broker {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	log := newLog(t, o.verbose)
	s, err := openServer(o.dir, log)
	if err != nil {
		t.Fatalf("ferrytest: start a broker: %v", err)
	}
	b := &Broker{t: t, dir: o.dir, log: log, server: s}
	t.Cleanup(func() { // after that of the proxy, when nobody is connected
		if s := b.takeServer(); s != nil {
			if err := s.stop(); err != nil {
				t.Errorf("ferrytest: stop the broker: %v", err)
			}
		}
	})
	b.Proxy = NewProxy(t, s.addr())
	return b
}

// user is who may log in, and the password.
const user = "guest"

// URL is where clients find the broker, through the proxy: of the form
// amqp://guest:guest@127.0.0.1:PORT/. It is the same for as long as the test runs.
func (b *Broker) URL() string { return url("amqp", b.Addr()) }

// STOMPURL is URL for clients of STOMP, who find the broker at the same address:
// stomp://guest:guest@127.0.0.1:PORT/.
func (b *Broker) STOMPURL() string { return url("stomp", b.Addr()) }

// GMQURL is URL for clients of GMQ, who find the broker at the same address:
// gmq://guest:guest@127.0.0.1:PORT/.
func (b *Broker) GMQURL() string { return url("gmq", b.Addr()) }

// DirectURL leads past the proxy: for what a test does beside what it tests. It
// may change with Start, and is empty while the broker is stopped.
func (b *Broker) DirectURL() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server == nil {
		return ""
	}
	return url("amqp", b.server.addr())
}

func url(scheme, addr string) string {
	return scheme + "://" + user + ":" + user + "@" + addr + "/"
}

// Stop ends the broker in good order: connections are closed with 320
// CONNECTION_FORCED, those of STOMP with an ERROR frame, those of GMQ without a word,
// and new ones are refused.
// It returns when the broker has ended, which takes up to 5 s where clients do not
// answer. Without Dir all messages are gone.
func (b *Broker) Stop() {
	b.t.Helper()
	if s := b.takeServer(); s != nil {
		b.setAway(true)
		if err := s.stop(); err != nil {
			b.t.Fatalf("ferrytest: stop the broker: %v", err)
		}
	}
}

// Kill ends the broker as kill -9 does: connections are cut, what was not written
// yet never is, and nothing is tidied up. New connections are refused. Start
// recovers from the files what there is to recover.
func (b *Broker) Kill() {
	b.t.Helper()
	if s := b.takeServer(); s != nil {
		b.setAway(true)
		s.kill()
		b.Drop()
	}
}

// Start runs the broker again after Stop or Kill, at the same URL. A broker that
// runs is left alone.
func (b *Broker) Start() {
	b.t.Helper()
	b.mu.Lock()
	runs := b.server != nil
	b.mu.Unlock()
	if runs {
		return
	}
	s, err := openServer(b.dir, b.log)
	if err != nil {
		b.t.Fatalf("ferrytest: start the broker again: %v", err)
	}
	b.mu.Lock()
	b.server = s
	b.mu.Unlock()
	b.setBackend(s.addr())
	b.setAway(false)
}

// Restart is Stop and Start.
func (b *Broker) Restart() {
	b.t.Helper()
	b.Stop()
	b.Start()
}

func (b *Broker) takeServer() *server {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.server
	b.server = nil
	return s
}
