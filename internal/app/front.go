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
	"github.com/ferrymq/ferry/internal/stompserver"
	"github.com/ferrymq/ferry/internal/stompws"
)

// httpStopTimeout is for HTTP requests to end when the process stops.
const httpStopTimeout = time.Second

// front is what faces the network: the listeners, and what is spoken on them.
// One goroutine uses it.
type front struct {
	log       *slog.Logger
	certs     *netserve.Certificates // nil: no TLS
	login     time.Duration          // 0: netserve's
	health    *health
	addresses []Address

	amqp, stomp *protocol
	protocols   []netserve.Protocol // what every listener recognises
	web         *netserve.Handoff   // nil: HTTP is off
	sockets     *stompws.Handler    // so are WebSockets
	https       []*http.Server
	served      sync.WaitGroup // the HTTP servers

	// Health is told of from the first moment to the last; clients are let in
	// later and out earlier.
	early   *group // nil: HTTP is off
	clients []*group
}

// A protocol is one that clients speak.
type protocol struct {
	name   string           // of its flag and its listener
	addr   string           // of its own listener; "": it is off
	refuse netserve.Handler // tells why, where it is off
	server atomic.Pointer[server]
}

// A server speaks a protocol for the broker.
type server interface {
	Handle(conn *netserve.Conn)
	Shutdown(ctx context.Context, reason string) error
}

// handle serves a connection. One that comes before clients are let in, or after,
// is closed.
func (p *protocol) handle(c *netserve.Conn) {
	if p.addr == "" {
		p.refuse(c)
		return
	}
	if s := p.server.Load(); s != nil {
		(*s).Handle(c)
	}
}

// A group is a listener, and the connections that came by it.
type group struct {
	listener net.Listener
	server   *netserve.Server
	cancel   context.CancelFunc
	done     chan error
}

func newFront(cfg Config, certs *netserve.Certificates, log *slog.Logger) *front {
	f := &front{log: log, certs: certs, login: cfg.loginTimeout, health: newHealth()}
	r := &refusals{log: log}
	amqp := amqpserver.New(amqpserver.Config{Version: cfg.Version, ClusterName: clusterName(), Refuse: amqpOff})
	stomp := stompserver.New(stompserver.Config{Version: cfg.Version, Refuse: stompOff})
	f.amqp = &protocol{name: "amqp", addr: cfg.AMQP, refuse: r.noting(amqpOff, amqp.Handle)}
	f.stomp = &protocol{name: "stomp", addr: cfg.STOMP, refuse: r.noting(stompOff, stomp.Handle)}
	web := r.noting(httpOff, refuseHTTP)
	if cfg.HTTP != "" {
		web = func(c *netserve.Conn) { f.web.Handle(c) }
	}
	f.protocols = []netserve.Protocol{
		{Name: "amqp", Match: amqp.Protocol().Match, Handle: f.amqp.handle},
		{Name: "stomp", Match: stomp.Protocol().Match, Handle: f.stomp.handle},
		{Name: "http", Match: beginsHTTP, Handle: web},
		{Name: "gmq", Match: beginsGMQ, Handle: r.noting(gmqNotYet, refuseGMQ)},
	}
	if certs == nil {
		f.protocols = append(f.protocols, netserve.Protocol{Name: "tls", Match: beginsTLS, Handle: r.noting(tlsNot, refuseTLS)})
	}
	return f
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
	origins, err := stompws.ParseOrigins(cfg.WSOrigins)
	if err != nil {
		return fmt.Errorf("--ws-origins: %w", err)
	}
	ln, err := f.listen(ctx, "http", cfg.HTTP)
	if err != nil {
		return err
	}
	f.sockets = stompws.NewHandler(stompws.Config{Origins: origins, Addr: ln.Addr(), Logger: f.log})
	f.web = netserve.NewHandoff(ln.Addr())
	s := newHTTPServer(f.handler(), f.log)
	s.ConnContext = stompws.ConnContext
	f.serveHTTP(f.web, s)
	f.early, err = f.open(netserve.Endpoint{Name: "http", Listener: ln, Handle: f.web.Handle}, f.all())
	return err
}

// socketPath is where WebSockets are, as in RabbitMQ's plugin.
const socketPath = "/ws"

func (f *front) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", f.health.handler())
	mux.HandleFunc(socketPath, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case f.stomp.addr == "":
			http.Error(w, stompOff, http.StatusServiceUnavailable)
		case f.stomp.server.Load() == nil:
			http.Error(w, "the broker does not serve now", http.StatusServiceUnavailable)
		default:
			f.sockets.ServeHTTP(w, r)
		}
	})
	return mux
}

// serveClients lets clients in: each protocol with its own server is understood on
// every listener from now on.
func (f *front) serveClients(ctx context.Context, amqp, stomp server) error {
	f.amqp.server.Store(&amqp)
	f.stomp.server.Store(&stomp)
	for _, p := range []*protocol{f.amqp, f.stomp} {
		if p.addr == "" {
			continue
		}
		ln, err := f.listen(ctx, p.name, p.addr)
		if err != nil {
			return err
		}
		if err := f.admit(netserve.Endpoint{Name: p.name, Listener: ln, Handle: p.handle}, f.all()); err != nil {
			return err
		}
	}
	if f.sockets == nil {
		return nil
	}
	// What comes out of a WebSocket is STOMP and nothing else.
	return f.admit(netserve.Endpoint{Name: "ws", Listener: f.sockets.Listener(), Handle: f.stomp.handle}, netserve.Config{})
}

// all is what listeners understand.
func (f *front) all() netserve.Config {
	return netserve.Config{Protocols: f.protocols, TLS: f.certs}
}

func (f *front) admit(e netserve.Endpoint, understood netserve.Config) error {
	g, err := f.open(e, understood)
	if err == nil {
		f.clients = append(f.clients, g)
	}
	return err
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

// open begins to serve who comes by a listener.
func (f *front) open(e netserve.Endpoint, cfg netserve.Config) (*group, error) {
	cfg.Endpoints, cfg.Log, cfg.LoginTimeout = []netserve.Endpoint{e}, f.log, f.login
	server, err := netserve.New(cfg)
	if err != nil {
		return nil, errors.Join(err, e.Listener.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &group{listener: e.Listener, server: server, cancel: cancel, done: make(chan error, 1)}
	go func() { g.done <- server.Serve(ctx) }()
	return g, nil
}

// stop ends the group's connections.
func (g *group) stop() error {
	g.cancel()
	return <-g.done
}

// stopClients closes all clients' connections with the reason, and returns when
// they have ended.
func (f *front) stopClients(b *broker.Broker) error {
	for _, g := range f.clients {
		_ = g.listener.Close() // who comes now shall go elsewhere
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
	var stopping sync.WaitGroup
	spoken := []*protocol{f.amqp, f.stomp}
	errs := make([]error, len(spoken))
	for i, p := range spoken {
		if s := p.server.Load(); s != nil {
			stopping.Go(func() { errs[i] = (*s).Shutdown(ctx, shutdownReason) })
		}
	}
	stopping.Wait()
	for _, p := range spoken {
		p.server.Store(nil)
	}
	for _, s := range f.https {
		// Who goes on asking by a client's listener must not hold it up.
		s.SetKeepAlivesEnabled(false)
	}
	for _, g := range f.clients {
		errs = append(errs, g.stop())
	}
	return errors.Join(errs...)
}

// awaitClients returns when no client is connected, or after failTimeout.
func (f *front) awaitClients() {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for over := time.After(failTimeout); ; {
		left := 0
		for _, g := range f.clients {
			n, _ := g.server.Conns()
			left += n
		}
		if left == 0 {
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
	if f.early != nil {
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
	if f.sockets != nil {
		f.sockets.Close()
	}
	if f.early == nil {
		return nil
	}
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
