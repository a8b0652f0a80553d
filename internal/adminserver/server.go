package adminserver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

const (
	// loginMost is how long a request waits for its password to be looked at.
	loginMost = 5 * time.Second
	// bulkMost is how long one may take that brings or takes a whole broker's
	// definitions, or a long list.
	bulkMost = 2 * time.Minute
	// realm is who asks for a password (RFC 7617 §2).
	realm = `Basic realm="Ferry"`
)

// Config is what a Server is made of. Its functions may be called by any goroutine,
// at any time.
type Config struct {
	// Broker is the broker that this process serves; nil: none now, and why, for
	// people.
	Broker func() (b *broker.Broker, why string)
	// Users are who may log in, which also a standby knows, when Known says so.
	Users *auth.Users
	Known func() bool
	// Node tells of the process, Peers of all that share its store, as JSON.
	Node  func() Node
	Peers func(ctx context.Context) any

	Name    string // of this node, and of the cluster where no other is set
	Version string // of Ferry
	Logger  *slog.Logger
}

// Server answers requests to the management API.
type Server struct {
	cfg     Config
	started time.Time
	origins *http.CrossOriginProtection
	heavy   chan struct{}       // holds one for each request with a large body
	routes  map[string][]*route // by number of segments and first segment behind /api
}

// New returns a server. It has no goroutines and needs no end.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, started: time.Now(), origins: http.NewCrossOriginProtection(), heavy: make(chan struct{}, heavyMost), routes: map[string][]*route{}}
	for i := range table {
		r := &table[i]
		k := routeKey(r.segments())
		s.routes[k] = append(s.routes[k], r)
	}
	return s
}

// call is a request and its answer.
type call struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	query url.Values
	route *route
	path  []string // its segments behind /api, decoded
	who   auth.Identity
	users *auth.Users
	b     *broker.Broker
}

// arg is the segment of the path that the route calls so, "" if there is none.
func (c *call) arg(name string) string {
	for i, s := range c.route.segments() {
		if s == "{"+name+"}" {
			return c.path[i]
		}
	}
	return ""
}

// fields are what the request carries.
func (c *call) fields() (fields, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	return parseFields(body)
}

func (c *call) body() ([]byte, error) {
	most := int64(bodyMost)
	if c.route.how&large != 0 {
		if most = bulkBodyMost; c.route.how&oneMessage != 0 {
			most = payloadShare*int64(c.b.MaxMessage()) + bodyMost
		}
		deadlines := http.NewResponseController(c.w)
		_ = deadlines.SetReadDeadline(time.Now().Add(bulkMost)) // where it cannot, the server's holds
	}
	return readBody(c.w, c.r, most)
}

// ServeHTTP answers a request to a path that begins with /api/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Cache-Control", "no-cache")
	head.Set("Vary", "accept, accept-encoding, origin")
	head.Set("X-Content-Type-Options", "nosniff")
	path, err := segments(r.URL)
	if err != nil {
		fail(w, asFault(err))
		return
	}
	found, allowed := s.find(r.Method, path)
	switch {
	case allowed == nil:
		fail(w, notFound())
		return
	case r.Method == http.MethodOptions:
		head.Set("Allow", strings.Join(allowed, ", "))
		w.WriteHeader(http.StatusOK)
		return
	case found == nil:
		head.Set("Allow", strings.Join(allowed, ", "))
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	// A browser sends the password that it knows with whatever a page of any site asks
	// it for; what changes something is only for this one's.
	if err := s.origins.Check(r); err != nil {
		fail(w, &fault{http.StatusForbidden, "forbidden", "the request comes from a page of another site"})
		return
	}
	c := &call{s: s, w: w, r: r, query: r.URL.Query(), route: found, path: path}
	if err := c.serve(); err != nil {
		f := asFault(err)
		if f.code == http.StatusUnauthorized && f.kind == notLoggedIn {
			head.Set("WWW-Authenticate", realm)
		}
		if head.Get("Content-Type") == "" { // otherwise the answer has begun
			fail(w, f)
		}
	}
}

func (c *call) serve() error {
	if err := c.login(); err != nil {
		return err
	}
	if c.route.how&local == 0 {
		b, why := c.s.cfg.Broker()
		if b == nil {
			return &fault{http.StatusServiceUnavailable, "not_live", why}
		}
		c.b = b
	}
	if err := c.authorise(); err != nil {
		return err
	}
	if c.route.how&large != 0 && c.r.ContentLength != 0 && (c.r.ContentLength < 0 || c.r.ContentLength > bodyMost) {
		select {
		case c.s.heavy <- struct{}{}:
			defer func() { <-c.s.heavy }()
		case <-c.r.Context().Done():
			return context.Cause(c.r.Context())
		}
	}
	if c.route.how&large != 0 || c.r.Method == http.MethodGet {
		deadlines := http.NewResponseController(c.w)
		_ = deadlines.SetWriteDeadline(time.Now().Add(bulkMost)) // where it cannot, the server's holds
	}
	return c.route.handle(c)
}

// segments are the segments of a path behind /api/, decoded one by one, so that a
// virtual host is one that is written %2F. One slash may stand at the end.
func segments(u *url.URL) ([]string, error) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/api/")
	if !ok {
		return nil, notFound()
	}
	parts := strings.Split(strings.TrimSuffix(rest, "/"), "/")
	for i, p := range parts {
		s, err := url.PathUnescape(p)
		if err != nil || !utf8.ValidString(s) {
			return nil, badRequest("the path is not UTF-8 in URL encoding")
		}
		parts[i] = s
	}
	return parts, nil
}

// find is the route of a path and a method, nil if there is none, and the methods
// that the path has, nil if nothing is there.
func (s *Server) find(method string, path []string) (found *route, allowed []string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	// Where a word and a name are possible the word is meant: routes of words come
	// first in the table.
	var pattern string
	for _, r := range s.routes[routeKey(path)] {
		if pattern != "" && r.path != pattern || !r.matches(path) {
			continue
		}
		pattern = r.path
		if r.method == method {
			found = r
		}
		allowed = append(allowed, r.method)
		if r.method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	if allowed != nil {
		allowed = append(allowed, http.MethodOptions)
		slices.Sort(allowed)
	}
	return found, allowed
}

// notLoggedIn is the error of who has not logged in; see notAuthorised.
const notLoggedIn = "not_authorized"

// login finds out who asks (RFC 7617).
func (c *call) login() error {
	refuse := func(reason string) error {
		return &fault{http.StatusUnauthorized, notLoggedIn, reason}
	}
	name, password, ok := c.r.BasicAuth()
	if !ok {
		return refuse("Login failed")
	}
	if c.users = c.s.cfg.Users; !c.s.cfg.Known() {
		return &fault{http.StatusServiceUnavailable, "starting", "the broker has no users yet"}
	}
	var err error
	from, _ := netip.ParseAddrPort(c.r.RemoteAddr) // not valid: not loopback
	ctx, cancel := context.WithTimeout(c.r.Context(), loginMost)
	defer cancel()
	c.who, err = c.users.Login(ctx, auth.Login{Protocol: "http", Name: name, Password: password, Peer: from.Addr()})
	switch {
	case errors.Is(err, auth.ErrLoopbackOnly):
		return refuse("User can only log in via localhost")
	case errors.Is(err, auth.ErrTooMany):
		return &fault{http.StatusTooManyRequests, "too_many_requests", "too many failed logins of this user or from this address; try again later"}
	case errors.Is(err, auth.ErrRefused):
		return refuse("Login failed")
	case err != nil:
		return &fault{http.StatusServiceUnavailable, "busy", "too many logins are being checked; try again"}
	}
	return nil
}
