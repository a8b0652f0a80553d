package app

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Limits of the HTTP listener. A request for health has no body.
const (
	httpReadTimeout  = 10 * time.Second
	httpWriteTimeout = 10 * time.Second
	httpIdleTimeout  = 60 * time.Second
	httpMaxHeader    = 16 << 10 // bytes
)

// A phase is what a broker's process is doing.
type phase string

const (
	phaseStarting phase = "starting"
	phaseStandby  phase = "standby"
	phaseServing  phase = "serving"
	phaseStopping phase = "stopping"
	phaseFailed   phase = "failed"
)

// role is what the phase is to others: roles are of a process among those that
// share a store.
func (p phase) role() string {
	if p == phaseServing {
		return roleLive
	}
	return string(p)
}

// roleLive is the role of the process that owns the store. The others' are called
// as their phases.
const roleLive = "live"

// A standing is how a process stands to the log of its store.
type standing struct {
	epoch    uint64        // the highest it knows
	owner    string        // the node of that epoch, if it is known
	position uint64        // up to which it has taken the log in
	head     uint64        // the log's last position, as far as it knows
	silent   time.Duration // for how long a standby has not seen the log move
}

// lag is how many batches of the log are not taken in.
func (s standing) lag() uint64 { return s.head - min(s.position, s.head) }

// health answers those who watch over the process: /livez while it runs,
// /readyz while it serves.
type health struct {
	node string // set before it is asked

	mu         sync.Mutex // guards what follows
	phase      phase
	reason     string
	blocked    func() string   // nil until there is a broker
	standing   func() standing // nil until there is a store
	store      string
	durability string
}

func newHealth() *health { return &health{phase: phaseStarting} }

// set moves on. From failed nothing leads further.
func (h *health) set(p phase, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.phase != phaseFailed {
		h.phase, h.reason = p, reason
	}
}

// describe says what the store is. stand and blocked are asked whenever somebody
// wants to know, by any goroutine; nil: there is nothing to ask.
func (h *health) describe(st *store, stand func() standing, blocked func() string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.store, h.durability = st.name(), st.journal.Info().Durability
	h.standing, h.blocked = stand, blocked
}

// readiness is the body of /readyz. A broker under an alarm is ready: consumers
// drain it.
type readiness struct {
	Status     phase  `json:"status"`
	Role       string `json:"role"`
	Reason     string `json:"reason,omitempty"`
	Node       string `json:"node"`
	Epoch      uint64 `json:"epoch"`
	Owner      string `json:"owner,omitempty"` // the node that is live, if it is another
	Position   uint64 `json:"position"`
	Head       uint64 `json:"head"`
	Lag        uint64 `json:"lag"`       // batches
	SilentMS   int64  `json:"silent_ms"` // for how long a standby has not seen the log move
	Store      string `json:"store,omitempty"`
	Durability string `json:"durability,omitempty"` // what a confirmed message survives
	Blocked    string `json:"blocked,omitempty"`    // why publishers are blocked
}

// stand is what the process is doing, and how it stands to the log.
func (h *health) stand() (phase, standing) {
	h.mu.Lock()
	p, ask := h.phase, h.standing
	h.mu.Unlock()
	if ask == nil {
		return p, standing{}
	}
	return p, ask()
}

func (h *health) readiness() readiness {
	h.mu.Lock()
	r := readiness{
		Status: h.phase, Role: h.phase.role(), Reason: h.reason, Node: h.node, Store: h.store, Durability: h.durability,
	}
	blocked := h.blocked
	h.mu.Unlock()
	if blocked != nil {
		r.Blocked = blocked()
	}
	_, s := h.stand()
	r.Epoch, r.Position, r.Head, r.Lag, r.SilentMS = s.epoch, s.position, s.head, s.lag(), s.silent.Milliseconds()
	if s.owner != h.node {
		r.Owner = s.owner
	}
	return r
}

func (h *health) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := h.readiness()
		code := http.StatusServiceUnavailable
		if r.Status == phaseServing {
			code = http.StatusOK
		}
		writeJSON(w, code, r)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/livez", "/readyz":
			w.Header().Set("Allow", "GET, HEAD")
			writeJSON(w, http.StatusMethodNotAllowed, map[string]string{"error": "only GET and HEAD are for this"})
			return
		}
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "there are /livez, /readyz, /metrics, the management API below /api/ and, for WebSockets, /ws here"})
	})
	return mux
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the peer has gone
}

func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: httpReadTimeout,
		ReadTimeout:       httpReadTimeout,
		WriteTimeout:      httpWriteTimeout,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    httpMaxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
