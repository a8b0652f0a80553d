package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ferrymq/ferry/internal/amqpserver"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
)

// httpStopTimeout is for HTTP requests to end when the process stops.
const httpStopTimeout = time.Second

// front is what faces the network: the listeners, and what is spoken on them.
// One goroutine uses it.
type front struct {
	log       *slog.Logger
	certs     *netserve.Certificates // nil: no TLS
	health    *health
	addresses []Address

	// What is off is not spoken on the others' listeners either.
	amqpOn bool
	amqp   atomic.Pointer[amqpserver.Server] // nil until clients are let in
	web    *netserve.Handoff                 // nil: HTTP is off
	https  []*http.Server
	served sync.WaitGroup // the HTTP servers

	// Health is told of from the first moment to the last; clients are let in
	// later and out earlier.
	early, clients group
}

// A group is a listener, and the connections that came by it.
type group struct {
	listener net.Listener
	server   *netserve.Server // nil: none
	cancel   context.CancelFunc
	done     chan error
}

// start begins to tell of health, if that is wanted.
func (f *front) start(ctx context.Context, cfg Config) error {
	if cfg.PProf != "" {
		ln, err := f.listen(ctx, "pprof", cfg.PProf)
		if err != nil {
			return err
		}
		s := newHTTPServer(profiles(), f.log)
		s.WriteTimeout = 0 // a profile takes as long as is asked for
		f.serveHTTP(ln, s)
	}
	if cfg.HTTP == "" {
		return nil
	}
	ln, err := f.listen(ctx, "http", cfg.HTTP)
	if err != nil {
		return err
	}
	f.web = netserve.NewHandoff(ln.Addr())
	f.serveHTTP(f.web, newHTTPServer(f.health.handler(), f.log))
	return f.early.serve(f, "http", ln, f.web.Handle)
}

// serveAMQP makes that AMQP is understood on every listener from now on.
func (f *front) serveAMQP(s *amqpserver.Server) { f.amqp.Store(s) }

// listenAMQP lets clients in.
func (f *front) listenAMQP(ctx context.Context, addr string) error {
	if addr == "" {
		return nil
	}
	ln, err := f.listen(ctx, "amqp", addr)
	if err != nil {
		return err
	}
	return f.clients.serve(f, "amqp", ln, f.handleAMQP)
}

func (f *front) handleAMQP(c *netserve.Conn) {
	if s := f.amqp.Load(); s != nil {
		s.Handle(c)
	}
}

// protocols are what every listener recognises.
func (f *front) protocols() []netserve.Protocol {
	var known []netserve.Protocol
	if f.amqpOn {
		// AMQP 0-9-1 §4.2.2: a connection begins with "AMQP".
		known = append(known, netserve.Protocol{Name: "amqp", Match: netserve.Prefix("AMQP"), Handle: f.handleAMQP})
	}
	if f.web != nil {
		known = append(known, netserve.Protocol{
			Name:   "http",
			Match:  netserve.Prefix("GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH "),
			Handle: f.web.Handle,
		})
	}
	return known
}

// listen opens a listener. name is that of its flag.
func (f *front) listen(ctx context.Context, name, addr string) (net.Listener, error) {
	ln, err := netserve.Listen(ctx, addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("cannot listen on %s: another program uses this port; stop it, or choose another address with --%s", addr, name)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("cannot listen on %s: this user may not use this port; choose one above 1023 with --%s", addr, name)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("cannot listen on %s: this machine does not have this address; choose another with --%s", addr, name)
	case err != nil:
		return nil, fmt.Errorf("cannot listen on %s, as --%s says: %w", addr, name, err)
	}
	f.addresses = append(f.addresses, Address{name, ln.Addr().String()})
	slices.SortFunc(f.addresses, func(a, b Address) int { return strings.Compare(a.Name, b.Name) })
	return ln, nil
}

func (f *front) serveHTTP(ln net.Listener, s *http.Server) {
	f.https = append(f.https, s)
	f.served.Go(func() {
		if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			f.log.Error("HTTP is not served any more", "error", err)
		}
	})
}

func (g *group) serve(f *front, name string, ln net.Listener, handle netserve.Handler) error {
	server, err := netserve.New(netserve.Config{
		Endpoints: []netserve.Endpoint{{Name: name, Listener: ln, Handle: handle}},
		Protocols: f.protocols(),
		TLS:       f.certs,
		Log:       f.log,
	})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.listener, g.server, g.cancel, g.done = ln, server, cancel, make(chan error, 1)
	go func() { g.done <- server.Serve(ctx) }()
	return nil
}

// stop ends the group's connections.
func (g *group) stop() error {
	if g.server == nil {
		return nil
	}
	g.cancel()
	return <-g.done
}

// stopClients closes all clients' connections with the reason, and returns when
// they have ended.
func (f *front) stopClients(b *broker.Broker, server *amqpserver.Server) error {
	if f.clients.server != nil {
		_ = f.clients.listener.Close() // who comes now shall go elsewhere
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if b.Err() != nil {
		// Each connection is being closed with the failure. What is still there
		// after a while is cut.
		f.awaitClients()
	} else {
		b.CloseSessions(shutdownReason)
	}
	err := server.Shutdown(ctx, shutdownReason)
	f.amqp.Store(nil)
	return errors.Join(err, f.clients.stop())
}

// awaitClients returns when no client is connected, or after failTimeout.
func (f *front) awaitClients() {
	if f.clients.server == nil {
		return
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for over := time.After(failTimeout); ; {
		if n, _ := f.clients.server.Conns(); n == 0 {
			return
		}
		select {
		case <-look.C:
		case <-over:
			return
		}
	}
}

// stop ends what start began.
func (f *front) stop() error {
	if f.early.server != nil {
		_ = f.early.listener.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), httpStopTimeout)
	defer cancel()
	for _, s := range f.https {
		if s.Shutdown(ctx) != nil {
			_ = s.Close() // a request that does not end
		}
	}
	f.served.Wait()
	return f.early.stop()
}

// profiles serves what `go tool pprof` asks for.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
