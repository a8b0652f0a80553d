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
	phaseServing  phase = "serving"
	phaseStopping phase = "stopping"
	phaseFailed   phase = "failed"
)

// health answers those who watch over the process: /livez while it runs,
// /readyz while it serves.
type health struct {
	mu         sync.Mutex // guards what follows
	phase      phase
	reason     string
	blocked    func() string // nil until there is a broker
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

func (h *health) describe(store, durability string, blocked func() string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.store, h.durability, h.blocked = store, durability, blocked
}

// readiness is the body of /readyz. A broker under an alarm is ready: consumers
// drain it.
type readiness struct {
	Status     phase  `json:"status"`
	Reason     string `json:"reason,omitempty"`
	Store      string `json:"store,omitempty"`
	Durability string `json:"durability,omitempty"` // what a confirmed message survives
	Blocked    string `json:"blocked,omitempty"`    // why publishers are blocked
}

func (h *health) readiness() readiness {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := readiness{Status: h.phase, Reason: h.reason, Store: h.store, Durability: h.durability}
	if h.blocked != nil {
		r.Blocked = h.blocked()
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
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "there are /livez, /readyz and, for WebSockets, /ws here"})
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
