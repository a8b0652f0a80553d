package gateway

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ferrymq/ferry"
)

// states of the gateway, as GET /healthz says them.
const (
	stateConnecting = "connecting"
	stateConnected  = "connected"
	stateBlocked    = "blocked"
	stateStopping   = "stopping"
)

// publishing is the client's connection that messages go over.
const publishing = "publish"

// health is what becomes of the connection to the broker.
type health struct {
	mu       sync.Mutex
	state    string // empty: connecting
	stopping bool
	endpoint string
	since    time.Time
	err      error // why it is not connected, or blocked
}

// healthReport is the body of an answer.
type healthReport struct {
	State    string     `json:"state"`
	Endpoint string     `json:"endpoint,omitempty"`
	Since    *time.Time `json:"since,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// Observe takes an event of the client. It is for ferry.WithEvents.
func (h *Handler) Observe(e ferry.Event) {
	if e.Connection == publishing {
		h.health.observe(e)
	}
}

// Stop makes the health 503, so that no new requests are sent here. Those that
// come are answered as before.
func (h *Handler) Stop() {
	h.health.mu.Lock()
	defer h.health.mu.Unlock()
	h.health.stopping = true
}

func (h *health) observe(e ferry.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch e.Kind {
	case ferry.Connected, ferry.Unblocked, ferry.FailedBack:
		h.state, h.err = stateConnected, nil
	case ferry.Blocked:
		h.state, h.err = stateBlocked, e.Err
	case ferry.Disconnected, ferry.Closed:
		h.state, h.err = stateConnecting, e.Err
	case ferry.Retrying:
		// The state is what it was; this is why.
		h.err = e.Err
		return
	default:
		return
	}
	h.since = e.Time
	if e.Endpoint != "" {
		h.endpoint = e.Endpoint
	}
}

func (h *health) report() healthReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := healthReport{State: h.state, Endpoint: h.endpoint}
	switch {
	case h.stopping:
		r.State = stateStopping
	case r.State == "":
		r.State = stateConnecting
	}
	if !h.since.IsZero() {
		since := h.since.UTC()
		r.Since = &since
	}
	if h.err != nil {
		r.Error = words(h.err)
	}
	return r
}

// reason says why messages do not get to the broker, empty if they should.
func (h *health) reason() string {
	r := h.report()
	if r.State == stateConnected {
		return ""
	}
	if r.State == stateBlocked {
		return because("the broker takes no messages for now", r.Error)
	}
	return because("no broker is reachable", r.Error)
}

// words is the text of an error of the client, without its package's name and
// without what the gateway itself says.
func words(err error) string {
	text := err.Error()
	for _, said := range []error{ferry.ErrNoBroker, ferry.ErrConnectionLost} {
		text = strings.ReplaceAll(text, said.Error()+": ", "")
	}
	return strings.ReplaceAll(strings.TrimPrefix(text, "ferry: "), ": ferry: ", ": ")
}

func because(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + reason
}

func (h *health) answer(w http.ResponseWriter) {
	r := h.report()
	status := http.StatusServiceUnavailable
	if r.State == stateConnected {
		status = http.StatusOK
	}
	writeJSON(w, status, r)
}
