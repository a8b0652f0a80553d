// Package stompws takes STOMP over WebSocket (RFC 6455) in, as browsers speak it:
// each WebSocket becomes a connection like those of TCP, for a netserve.Server,
// with the same limits and the same server behind it.
package stompws

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/pipenet"
)

// DefaultMessageLimit is the size of a message of WebSocket's, bytes: the largest
// frame of STOMP, 16 MiB of body and 64 KiB of headers, and something around it.
const DefaultMessageLimit = 16<<20 + 128<<10

// subprotocols are those of STOMP in the registry of WebSocket's, the best first.
var subprotocols = []string{"v12.stomp", "v11.stomp", "v10.stomp"}

// Config is what a Handler is made of.
type Config struct {
	Origins      Origins      // that may connect beside those of the same host
	MessageLimit int64        // bytes that a message may have; 0: DefaultMessageLimit
	Addr         net.Addr     // what Listener says it listens on
	Logger       *slog.Logger // nil: nothing is logged
}

// Handler makes connections of the requests that ask for a WebSocket, and gives
// them to who accepts from its Listener. Messages may be text or binary and may
// hold any part of the stream of STOMP; what is sent has a message for each frame
// and for each heart-beat, text where it is UTF-8, because clients that are older
// want that.
//
// The http.Server must have ConnContext for its connections not to be cut when a
// peer takes nothing for a while.
type Handler struct {
	cfg      Config
	log      *slog.Logger
	listener *netserve.Handoff

	closeTimeout time.Duration

	mu      sync.Mutex // guards closed
	closed  bool
	running sync.WaitGroup // Add only while not closed
}

// NewHandler returns a handler whose connections wait for Listener's Accept.
func NewHandler(cfg Config) *Handler {
	if cfg.MessageLimit == 0 {
		cfg.MessageLimit = DefaultMessageLimit
	}
	h := &Handler{cfg: cfg, log: cfg.Logger, listener: netserve.NewHandoff(cfg.Addr), closeTimeout: closeTimeout}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

// Listener has the connections. Closing it makes that new ones are closed with 1001
// (RFC 6455 §7.4.1: going away); those that were accepted go on.
func (h *Handler) Listener() net.Listener { return h.listener }

// Close refuses new connections, and returns when those that were accepted, which
// whoever has accepted them closes, have said good-bye to their peers or given up.
func (h *Handler) Close() {
	_ = h.listener.Close()
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.running.Wait()
}

func (h *Handler) add() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.running.Add(1)
	}
	return !h.closed
}

// ServeHTTP implements http.Handler. It returns when the WebSocket has ended.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.add() {
		http.Error(w, "the broker is stopping", http.StatusServiceUnavailable)
		return
	}
	defer h.running.Done()
	if err := h.cfg.Origins.check(r); err != nil {
		h.log.Warn("WebSocket refused", "peer", r.RemoteAddr, "error", err)
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       subprotocols,
		InsecureSkipVerify: true, // the origin was looked at
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		h.log.Debug("not a WebSocket", "peer", r.RemoteAddr, "error", err)
		return // who asked was told
	}
	ws.SetReadLimit(h.cfg.MessageLimit)
	keepWriting(r)

	near, far := pipenet.Pipe()
	s := &session{ws: ws, far: far, patience: h.closeTimeout}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	defer s.cancel()
	c := &conn{Conn: near, session: s, local: localAddr(r), remote: remoteAddr(r)}
	if h.listener.Give(s.ctx, c) != nil {
		_ = ws.Close(websocket.StatusGoingAway, "the broker is stopping")
		return
	}
	s.run()
}

// A conn is the server's end of a session: a net.Conn with the addresses of the
// connection that the WebSocket is on.
type conn struct {
	*pipenet.Conn
	session       *session
	local, remote net.Addr
	once          sync.Once
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// Close implements net.Conn. What was written before it is sent, if the peer takes
// it within closeTimeout.
func (c *conn) Close() error {
	c.once.Do(c.session.leave)
	return c.Conn.Close()
}

// connKey is that of the net.Conn in a request's context.
type connKey struct{}

// ConnContext is for http.Server.ConnContext.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// keepWriting makes that a write that waits for the peer is not the end of the
// connection below: the server's end has its own limit, and knows of heart-beats.
func keepWriting(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(interface{ SetAlive(func() bool) }); ok {
		c.SetAlive(func() bool { return true })
	}
}

// remoteAddr is who has connected. Headers that name somebody else are not
// believed: guest may come from this machine only.
func remoteAddr(r *http.Request) net.Addr {
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		return c.RemoteAddr()
	}
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	return net.TCPAddrFromAddrPort(ap)
}

func localAddr(r *http.Request) net.Addr {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return a
	}
	return &net.TCPAddr{}
}

// maxLogged is how much of a peer's text goes to the log, bytes.
const maxLogged = 128

func capped(s string) string { return s[:min(len(s), maxLogged)] }
