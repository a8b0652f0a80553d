// Package gateway takes messages over HTTP and hands them to a broker. A request
// is answered with 200 when the broker has confirmed its message, and never
// before.
//
//	POST /publish/{message}   the path segment, as text/plain, to the queue "publisher"
//	POST /publish             the body to the queue "publisher"
//	POST /queues/{queue}      the body to any queue
//	GET  /healthz             200 while a broker takes messages, else 503
//
// Every answer but a 200 of the first three has a JSON object for a body, with
// "error", and "outcome" where a message had been read: "refused", "not sent", or
// "unknown", which may be in the queue.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ferrymq/ferry"
)

// PublisherQueue is where messages go whose request names no queue.
const PublisherQueue = "publisher"

const (
	// MaxBody is the most bytes of a body, as many as a broker takes.
	MaxBody = 16 << 20

	// MaxHeader is the most bytes of a request's line and headers: a message
	// may be in the line.
	MaxHeader = 64 << 10

	maxShort    = 255       // AMQP 0-9-1 §4.2.5.3: bytes of a queue's name, of a content type
	maxRequests = 1024      // that are answered at a time
	maxHeld     = 256 << 20 // bytes of bodies of these
	retryAfter  = time.Second
)

// A Broker takes messages. *ferry.Client is one.
type Broker interface {
	// Publish returns nil when the message is confirmed.
	Publish(ctx context.Context, m ferry.Message) error
	Inspect(ctx context.Context, queue string) (ferry.QueueInfo, error)
	Declare(ctx context.Context, t ferry.Topology) error
}

// Config is what may be chosen of a Handler.
type Config struct {
	Timeout   time.Duration // for a request's message to be confirmed, from when it is read
	Transient bool          // messages need not survive a restart of the broker
}

// A Handler answers requests. It is used by many goroutines at a time.
type Handler struct {
	config Config
	queues queues
	health health
	load   load

	mu      sync.Mutex
	broker  Broker        // nil while there is none
	changed chan struct{} // closed when there is another
}

// New makes a handler that answers 503 until it is given a broker.
func New(c Config) *Handler {
	return &Handler{config: c, changed: make(chan struct{})}
}

// Use gives the handler its broker, or takes it away with nil. What is under way
// is finished with the one that it was begun with.
func (h *Handler) Use(b Broker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broker = b
	close(h.changed)
	h.changed = make(chan struct{})
}

// awaitBroker waits until there is one.
func (h *Handler) awaitBroker(ctx context.Context) (Broker, error) {
	for {
		h.mu.Lock()
		b, changed := h.broker, h.changed
		h.mu.Unlock()
		if b != nil {
			return b, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// A problem is an answer that is not a success.
type problem struct {
	status  int
	Error   string `json:"error"`
	Outcome string `json:"outcome,omitempty"`
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	method, serve := http.MethodPost, (func(*http.Request, http.ResponseWriter) *problem)(nil)
	switch {
	case len(segments) == 1 && segments[0] == "publish":
		serve = func(r *http.Request, w http.ResponseWriter) *problem { return h.body(w, r, PublisherQueue) }
	case len(segments) == 2 && segments[0] == "publish" && segments[1] != "":
		serve = func(r *http.Request, _ http.ResponseWriter) *problem { return h.segment(r, segments[1]) }
	case len(segments) == 2 && segments[0] == "queues":
		serve = func(r *http.Request, w http.ResponseWriter) *problem { return h.queue(w, r, segments[1]) }
	case len(segments) == 1 && segments[0] == "healthz":
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			h.health.answer(w)
			return
		}
		method = http.MethodGet + ", " + http.MethodHead
	default:
		answer(w, &problem{status: http.StatusNotFound, Error: "there is POST /publish/{message}, POST /publish, POST /queues/{queue} and GET /healthz"})
		return
	}
	if r.Method != method {
		w.Header().Set("Allow", method)
		answer(w, &problem{status: http.StatusMethodNotAllowed, Error: fmt.Sprintf("%s is not for this path, %s is", r.Method, method)})
		return
	}
	if p := serve(r, w); p != nil {
		answer(w, p)
		return
	}
	// The body of a success is empty: programs that were written for the
	// simplest of publishers expect that.
	w.WriteHeader(http.StatusOK)
}

func answer(w http.ResponseWriter, p *problem) {
	if p.status == http.StatusServiceUnavailable || p.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	writeJSON(w, p.status, p)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // whoever asked is gone
}

func bad(format string, args ...any) *problem {
	return &problem{status: http.StatusBadRequest, Error: fmt.Sprintf(format, args...)}
}

// segment publishes a segment of the path.
func (h *Handler) segment(r *http.Request, escaped string) *problem {
	text, err := url.PathUnescape(escaped)
	if err != nil {
		return bad("the message is not rightly escaped: %v", err)
	}
	if !h.load.enter(int64(len(text))) {
		return overloaded()
	}
	defer h.load.leave(int64(len(text)))
	return h.publish(r.Context(), PublisherQueue, ferry.Message{Body: []byte(text), ContentType: "text/plain"})
}

// queue publishes the body to a queue that the path names.
func (h *Handler) queue(w http.ResponseWriter, r *http.Request, escaped string) *problem {
	name, err := url.PathUnescape(escaped)
	switch {
	case err != nil:
		return bad("the queue's name is not rightly escaped: %v", err)
	case name == "":
		return bad("the queue's name is empty")
	case len(name) > maxShort:
		return bad("the queue's name has %d bytes; at most %d are possible", len(name), maxShort)
	case !utf8.ValidString(name):
		return bad("the queue's name is not UTF-8")
	}
	return h.body(w, r, name)
}

// body publishes the body of a request.
func (h *Handler) body(w http.ResponseWriter, r *http.Request, queue string) *problem {
	contentType := r.Header.Get("Content-Type")
	if len(contentType) > maxShort {
		return bad("the content type has %d bytes; at most %d are possible", len(contentType), maxShort)
	}
	size := r.ContentLength
	if size > MaxBody {
		return tooLarge()
	}
	if size < 0 {
		size = MaxBody // it is not said beforehand
	}
	if !h.load.enter(size) {
		return overloaded()
	}
	defer h.load.leave(size)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return tooLarge()
	}
	if err != nil {
		return bad("the body could not be read: %v", err)
	}
	return h.publish(r.Context(), queue, ferry.Message{Body: body, ContentType: contentType})
}

func tooLarge() *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, Error: fmt.Sprintf("the body is too large: at most %d bytes are possible", MaxBody)}
}

func overloaded() *problem {
	return &problem{status: http.StatusServiceUnavailable, Error: "more messages are waiting for the broker than the gateway holds", Outcome: "not sent"}
}

// publish returns nil when the message is confirmed. The request's context does
// not end it: whoever asked and went away may have gone because it took long, and
// half of a publish helps nobody.
func (h *Handler) publish(ctx context.Context, queue string, m ferry.Message) *problem {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.config.Timeout)
	defer cancel()
	b, err := h.awaitBroker(ctx)
	if err != nil {
		return h.problem(err, false)
	}
	m.Key = queue
	m.Transient = h.config.Transient
	if err := h.queues.ensure(ctx, b, queue); err != nil {
		return h.problem(err, false)
	}
	err = b.Publish(ctx, m)
	if errors.Is(err, ferry.ErrUnroutable) {
		// The queue is gone, or this is another broker than the one it was
		// found on. The message is in no queue, so that it can be sent again.
		h.queues.forget(queue)
		if err := h.queues.ensure(ctx, b, queue); err != nil {
			return h.problem(err, false)
		}
		err = b.Publish(ctx, m)
	}
	if err != nil {
		return h.problem(err, true)
	}
	return nil
}

// problem is what is answered when a message is not confirmed. published says
// that the error is of the message, not of its queue's declaration.
func (h *Handler) problem(err error, published bool) *problem {
	p := &problem{Error: words(err)}
	timeout := errors.Is(err, context.DeadlineExceeded)
	switch {
	case errors.Is(err, ferry.ErrNotSent), !published && (timeout || errors.Is(err, ferry.ErrUnknown)),
		errors.Is(err, ferry.ErrNoBroker), errors.Is(err, ferry.ErrClosed):
		p.status, p.Outcome = http.StatusServiceUnavailable, "not sent"
		if reason := h.health.reason(); timeout && reason != "" {
			p.Error = reason
		}
	case errors.Is(err, ferry.ErrUnknown), timeout, errors.Is(err, ferry.ErrConnectionLost):
		p.status, p.Outcome = http.StatusServiceUnavailable, "unknown"
		p.Error = fmt.Sprintf("not confirmed within %v; it may be in the queue all the same: %s", h.config.Timeout, words(err))
	case errors.Is(err, ferry.ErrAccessRefused), errors.Is(err, ferry.ErrLocked), errors.Is(err, errTooManyQueues):
		p.status, p.Outcome = http.StatusForbidden, "refused"
	case errors.Is(err, ferry.ErrNotFound), errors.Is(err, ferry.ErrUnroutable):
		p.status, p.Outcome = http.StatusNotFound, "refused"
	case errors.Is(err, ferry.ErrNacked):
		// A queue at its limit: it may have room later.
		p.status, p.Outcome = http.StatusTooManyRequests, "refused"
	case errors.Is(err, ferry.ErrRefused), errors.Is(err, ferry.ErrPrecondition):
		p.status, p.Outcome = http.StatusUnprocessableEntity, "refused"
	default:
		p.status = http.StatusInternalServerError
	}
	return p
}

// load bounds what is held at a time.
type load struct {
	mu       sync.Mutex
	requests int
	bytes    int64
}

// enter says whether there is room for a request with so many bytes.
func (l *load) enter(size int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.requests == maxRequests || l.bytes+size > maxHeld {
		return false
	}
	l.requests++
	l.bytes += size
	return true
}

func (l *load) leave(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests--
	l.bytes -= size
}
