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
	"github.com/ferrymq/ferry/internal/gmqserver"
	"github.com/ferrymq/ferry/internal/metrics"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/stompserver"
	"github.com/ferrymq/ferry/internal/stompws"
)

// httpStopTimeout is for HTTP requests to end when the process stops.
const httpStopTimeout = time.Second

// front is what faces the network: the listeners, and what is spoken on them.
// One goroutine uses it, but for what is said to be for others.
type front struct {
	cfg    Config
	log    *slog.Logger
	certs  *netserve.Certificates // nil: no TLS
	health *health
	api    http.Handler      // of those who administrate
	told   http.Handler      // of those who watch: metrics
	fixed  map[string]string // addresses of listeners that were open before, by name

	amqp, stomp, gmq *protocol

	recognised []netserve.Protocol // what every listener recognises
	origins    stompws.Origins
	web        *netserve.Handoff               // nil: HTTP is off
	sockets    atomic.Pointer[stompws.Handler] // nil: clients are not let in
	https      []*http.Server
	served     sync.WaitGroup // the HTTP servers

	// Health is told of from the first moment to the last; clients are let in
	// later and out earlier, and pass through to another broker in between.
	early   *group // nil: HTTP is off
	clients []*group

	mu     sync.Mutex // guards what follows, which others read
	relays []*relay
	open   []Address
}

// A protocol is one that clients speak.
type protocol struct {
	name   string           // of its flag and its listener
	addr   string           // of its own listener; "": it is off
	refuse netserve.Handler // tells why, where it is off
	later  netserve.Handler // tells that clients are not served now
	server atomic.Pointer[server]
}

// A server speaks a protocol for the broker.
type server interface {
	Handle(conn *netserve.Conn)
	Shutdown(ctx context.Context, reason string) error
}

// handle serves a connection. One that comes before clients are let in, or after,
// is told so.
func (p *protocol) handle(c *netserve.Conn) {
	switch s := p.server.Load(); {
	case p.addr == "":
		p.refuse(c)
	case s == nil:
		p.later(c)
	default:
		(*s).Handle(c)
	}
}

// A group is a listener, and the connections that came by it.
type group struct {
	name     string
	listener net.Listener
	server   *netserve.Server
	cancel   context.CancelFunc
	done     chan error
}

func newFront(cfg Config, certs *netserve.Certificates, log *slog.Logger) *front {
	f := &front{cfg: cfg, log: log, certs: certs, health: newHealth(), fixed: map[string]string{}}
	r := &refusals{log: log}
	amqp := func(reason string, now bool) *amqpserver.Server {
		return amqpserver.New(amqpserver.Config{Version: cfg.Version, ClusterName: clusterName(), Refuse: reason, RefuseNow: now})
	}
	stomp := func(reason string, now bool) *stompserver.Server {
		return stompserver.New(stompserver.Config{Version: cfg.Version, Refuse: reason, RefuseNow: now})
	}
	gmq := func(reason string, now bool) *gmqserver.Server {
		return gmqserver.New(gmqserver.Config{Version: cfg.Version, Refuse: reason, RefuseNow: now})
	}
	f.amqp = &protocol{
		name: "amqp", addr: cfg.AMQP,
		refuse: r.noting(amqpOff, amqp(amqpOff, false).Handle), later: r.noting(notNow, amqp(notNow, true).Handle),
	}
	f.stomp = &protocol{
		name: "stomp", addr: cfg.STOMP,
		refuse: r.noting(stompOff, stomp(stompOff, false).Handle), later: r.noting(notNow, stomp(notNow, true).Handle),
	}
	f.gmq = &protocol{
		name: "gmq", addr: cfg.GMQ,
		refuse: r.noting(gmqOff, gmq(gmqOff, false).Handle), later: r.noting(notNow, gmq(notNow, true).Handle),
	}
	web := r.noting(httpOff, refuseHTTP)
	if cfg.HTTP != "" {
		web = func(c *netserve.Conn) { f.web.Handle(c) }
	}
	f.recognised = []netserve.Protocol{
		{Name: "amqp", Match: amqp("", false).Protocol().Match, Handle: f.amqp.handle},
		{Name: "stomp", Match: stomp("", false).Protocol().Match, Handle: f.stomp.handle},
		{Name: "http", Match: beginsHTTP, Handle: web},
		{Name: "gmq", Match: gmq("", false).Protocol().Match, Handle: f.gmq.handle},
	}
	if certs == nil {
		f.recognised = append(f.recognised, netserve.Protocol{Name: "tls", Match: beginsTLS, Handle: r.noting(tlsNot, refuseTLS)})
	}
	return f
}

// spoken are the protocols that clients speak.
func (f *front) spoken() []*protocol { return []*protocol{f.amqp, f.stomp, f.gmq} }

// start begins to tell of health, if that is wanted.
func (f *front) start(ctx context.Context) error {
	if f.cfg.PProf != "" {
		ln, err := f.listen(ctx, "pprof", f.cfg.PProf)
		if err != nil {
			return err
		}
		s := newHTTPServer(profiles(), f.log)
		s.WriteTimeout = 0 // a profile takes as long as is asked for
		f.serveHTTP(ln, s)
	}
	if f.cfg.HTTP == "" {
		return nil
	}
	var err error
	if f.origins, err = stompws.ParseOrigins(f.cfg.WSOrigins); err != nil {
		return fmt.Errorf("--ws-origins: %w", err)
	}
	ln, err := f.listen(ctx, "http", f.cfg.HTTP)
	if err != nil {
		return err
	}
	f.web = netserve.NewHandoff(ln.Addr())
	s := newHTTPServer(f.handler(), f.log)
	s.ConnContext = stompws.ConnContext
	f.serveHTTP(f.web, s)
	f.early, err = f.serve("http", ln, f.web.Handle, f.all())
	return err
}

// socketPath is where WebSockets are, as in RabbitMQ's plugin.
const socketPath = "/ws"

func (f *front) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", f.health.handler())
	mux.Handle(metrics.Path, f.told)
	mux.Handle(metrics.Path+"/", f.told)
	mux.HandleFunc(socketPath, func(w http.ResponseWriter, r *http.Request) {
		sockets := f.sockets.Load()
		switch {
		case f.stomp.addr == "":
			http.Error(w, stompOff, http.StatusServiceUnavailable)
		case sockets == nil:
			http.Error(w, notNow, http.StatusServiceUnavailable)
		default:
			sockets.ServeHTTP(w, r)
		}
	})
	return withAPI(f.api, mux)
}

// all is what listeners understand.
func (f *front) all() netserve.Config {
	return netserve.Config{Protocols: f.recognised, TLS: f.certs}
}

// reserve finds out whether clients can be listened for, before there is a store to
// serve them from, and which ports are theirs where they may be any. release, which
// is called in any case, closes the listeners: what else may have any port is opened
// before.
func (f *front) reserve(ctx context.Context) (release func(), err error) {
	held := map[string]net.Listener{}
	release = func() {
		for name, ln := range held {
			f.unlisten(name, ln)
		}
	}
	for _, p := range f.spoken() {
		if p.addr == "" {
			continue
		}
		ln, err := f.listen(ctx, p.name, p.addr)
		if err != nil {
			return release, err
		}
		held[p.name] = ln
	}
	return release, nil
}

// The sockets of a process that was just killed are there until the system has taken
// it apart: who starts the next at once need not be told that it is too early.
const (
	portWait = 2 * time.Second
	portPoll = 50 * time.Millisecond
)

// listen opens a listener. name is that of its flag. One that was open before gets
// the port that it had.
func (f *front) listen(ctx context.Context, name, addr string) (net.Listener, error) {
	if before := f.fixed[name]; before != "" {
		addr = before
	}
	ln, err := netserve.Listen(ctx, addr)
	for until := time.Now().Add(portWait); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(until) && pause(ctx, portPoll); {
		ln, err = netserve.Listen(ctx, addr)
	}
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
	f.fixed[name] = ln.Addr().String()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = append(f.open, Address{name, ln.Addr().String()})
	slices.SortFunc(f.open, func(a, b Address) int { return strings.Compare(a.Name, b.Name) })
	return ln, nil
}

// unlisten closes a listener: who comes now shall go elsewhere.
func (f *front) unlisten(name string, ln net.Listener) {
	_ = ln.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = slices.DeleteFunc(f.open, func(a Address) bool { return a.Name == name })
}

// addresses are the listeners that are open, by name. Any goroutine may call it.
func (f *front) addresses() []Address {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.open)
}

// listening are the listeners that are open, and when the certificates end that they
// show. Any goroutine may call it.
func (f *front) listening() (open []Address, ends []time.Time) {
	if f.certs != nil {
		ends = f.certs.Ends()
	}
	return f.addresses(), ends
}

func (f *front) serveHTTP(ln net.Listener, s *http.Server) {
	f.https = append(f.https, s)
	f.served.Go(func() {
		if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			f.log.Error("HTTP is not served any more", "error", err)
		}
	})
}

// serve begins to serve who comes by a listener. A connection that begins with
// nothing that is understood is handle's.
func (f *front) serve(name string, ln net.Listener, handle netserve.Handler, understood netserve.Config) (*group, error) {
	cfg := understood
	cfg.Endpoints = []netserve.Endpoint{{Name: name, Listener: ln, Handle: handle}}
	cfg.Log, cfg.LoginTimeout = f.log, f.cfg.loginTimeout
	server, err := netserve.New(cfg)
	if err != nil {
		f.unlisten(name, ln)
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &group{name: name, listener: ln, server: server, cancel: cancel, done: make(chan error, 1)}
	go func() { g.done <- server.Serve(ctx) }()
	return g, nil
}

// stop ends the group's connections.
func (g *group) stop() error {
	g.cancel()
	return <-g.done
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
