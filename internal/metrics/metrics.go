// Package metrics tells Prometheus how a broker does: under the names and labels of
// RabbitMQ's rabbitmq_prometheus plugin, so that dashboards and alerts made for it
// work, and under names of its own that begin with "ferry_" for what RabbitMQ does
// not have.
//
// There are three paths, as in the plugin: the first adds up all objects, and is what
// should be scraped; the others name every queue, channel and connection.
//
//	/metrics             sums
//	/metrics/per-object  every object
//	/metrics/detailed    every object, of the families that are asked for:
//	                     ?family=queue_coarse_metrics&vhost=/; the names begin with
//	                     "rabbitmq_detailed_"
//
// With ?prefix=NAME names begin with NAME_ in the place of rabbitmq_.
//
// What is written is the text format 0.0.4 of Prometheus. It is streamed.
package metrics

import (
	"net/http"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
)

// Config is where metrics come from. Functions may be called by any goroutine, and
// do not wait.
type Config struct {
	Version    string // of Ferry
	Compatible string // the version of RabbitMQ that tools are told of
	Node       string
	Cluster    string
	ClusterID  string // permanent
	Started    time.Time

	// Broker is the one that serves, nil while there is none: then only the process is
	// told of. Nil: there never is one.
	Broker func() *broker.Broker
	// Logins are those that were tried, by protocol. Nil: it is not known.
	Logins func() []Login
	// Files are the files and sockets that the process has open, and how many it may
	// have; 0: not known. Nil: neither is.
	Files func() (used, limit int)
	// Standing is how the process stands to others that share its store. Nil: it
	// shares none.
	Standing func() Standing
}

// Login is how often somebody tried to log in by a protocol.
type Login struct {
	Protocol          string
	Succeeded, Failed uint64
}

// Standing is how a process stands to those that share its store.
type Standing struct {
	Role  string // "live", "standby"…
	Epoch uint64 // of the log, as far as it knows
	Lag   uint64 // batches of the log that it has not taken in
}

// mostScrapes is how many requests are answered at a time: each may hold a row for
// every queue, for as long as its peer takes to read. Those for sums, which are soon
// written, have places of their own: nobody has to log in, and who reads the others
// slowly must not leave those who watch without figures.
const mostScrapes = 4

// contentType is that of the text format.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// Handler answers GET for /metrics and what is below it.
type Handler struct {
	cfg        Config
	sums, each chan struct{} // a slot for each that is answered
}

// New makes a handler.
func New(cfg Config) *Handler {
	return &Handler{cfg: cfg, sums: make(chan struct{}, mostScrapes), each: make(chan struct{}, mostScrapes)}
}

// The paths that a handler serves.
const (
	Path          = "/metrics"
	PathPerObject = "/metrics/per-object"
	PathDetailed  = "/metrics/detailed"
)

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are for this", http.StatusMethodNotAllowed)
		return
	}
	var write func(e *exposition, b *broker.Broker)
	endpoint, below, slots := "aggregated", "", h.each
	query := r.URL.Query()
	switch r.URL.Path {
	case Path:
		write, slots = h.aggregated, h.sums
	case PathPerObject:
		endpoint = "per-object"
		write = h.perObject
	case PathDetailed:
		endpoint, below = "detailed", "detailed_"
		wanted, vhosts := set(query["family"]), set(query["vhost"])
		filter := broker.Filter{}
		if len(vhosts) > 0 {
			filter.VHosts = func(name string) bool { return vhosts[name] }
		}
		write = func(e *exposition, b *broker.Broker) { h.objects(e, b, wanted, filter) }
	default:
		http.NotFound(w, r)
		return
	}
	prefix := "rabbitmq"
	if p := query.Get("prefix"); p != "" {
		if !isPrefix(p) {
			http.Error(w, "the prefix has to consist of at most 20 letters, digits and underscores, and not begin with a digit", http.StatusBadRequest)
			return
		}
		prefix = p
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many are asking at once; try again", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return
	}
	e := newExposition(w, prefix+"_")
	h.identity(e, endpoint)
	e.prefix += below
	var b *broker.Broker
	if h.cfg.Broker != nil {
		b = h.cfg.Broker()
	}
	if b != nil {
		write(e, b)
	}
	if endpoint == "aggregated" {
		h.own(e, b)
	}
	e.flush()
}

func set(list []string) map[string]bool {
	of := make(map[string]bool, len(list))
	for _, s := range list {
		of[s] = true
	}
	return of
}

// prefixMost is the longest prefix of names, bytes; it is that of LavinMQ, whose
// idea it is.
const prefixMost = 20

func isPrefix(p string) bool {
	for i, c := range []byte(p) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_':
		case '0' <= c && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return len(p) <= prefixMost
}
