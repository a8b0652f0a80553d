package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
)

// fakeBroker has queues, and publishes as its function says.
type fakeBroker struct {
	publish func(ctx context.Context, m ferry.Message) error

	mu        sync.Mutex
	queues    map[string]bool
	inspected int
	declared  []string
	messages  []ferry.Message
}

func (b *fakeBroker) Publish(ctx context.Context, m ferry.Message) error {
	if b.publish != nil {
		if err := b.publish(ctx, m); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.queues[m.Key] {
		return fmt.Errorf("%w: %w", ferry.ErrRefused, ferry.ErrUnroutable)
	}
	b.messages = append(b.messages, m)
	return nil
}

func (b *fakeBroker) Inspect(_ context.Context, queue string) (ferry.QueueInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inspected++
	if !b.queues[queue] {
		return ferry.QueueInfo{}, ferry.ErrNotFound
	}
	return ferry.QueueInfo{Name: queue}, nil
}

func (b *fakeBroker) Declare(_ context.Context, t ferry.Topology) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range t.Queues {
		if strings.HasPrefix(q.Name, "amq.") {
			return ferry.ErrAccessRefused
		}
		b.queues[q.Name] = true
		b.declared = append(b.declared, q.Name)
	}
	return nil
}

func newBroker(queues ...string) *fakeBroker {
	b := &fakeBroker{queues: map[string]bool{}}
	for _, q := range queues {
		b.queues[q] = true
	}
	return b
}

func newHandler(b Broker) *Handler {
	h := New(Config{Timeout: 5 * time.Second})
	if b != nil {
		h.Use(b)
	}
	return h
}

func ask(h http.Handler, method, target, contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestRequestBecomesAMessage(t *testing.T) {
	for _, row := range []struct {
		target, contentType, body string // of the request
		queue, wantType, wantBody string // of the message
	}{
		{"/publish/hello", "", "", "publisher", "text/plain", "hello"},
		{"/publish/hello%20world%2Fa+b", "application/json", "left out", "publisher", "text/plain", "hello world/a+b"},
		{"/publish/%C3%A4%00", "", "", "publisher", "text/plain", "ä\x00"},
		{"/publish/hello?a=b", "", "", "publisher", "text/plain", "hello"},
		{"/publish", "application/json", `{"a":1}`, "publisher", "application/json", `{"a":1}`},
		{"/publish", "", "", "publisher", "", ""},
		{"/queues/orders", "text/csv", "1;2", "orders", "text/csv", "1;2"},
		{"/queues/my%2Fqueue", "", "x", "my/queue", "", "x"},
		{"/queues/..", "", "x", "..", "", "x"},
	} {
		b := newBroker()
		w := ask(newHandler(b), "POST", row.target, row.contentType, row.body)
		if w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("%s: %d with %q, want 200 with nothing", row.target, w.Code, w.Body)
		}
		if len(b.messages) != 1 {
			t.Errorf("%s: there are %d messages", row.target, len(b.messages))
			continue
		}
		m := b.messages[0]
		if m.Exchange != "" || m.Key != row.queue || m.ContentType != row.wantType || string(m.Body) != row.wantBody || m.Transient {
			t.Errorf("%s: published %+v with the body %q", row.target, m, m.Body)
		}
		if len(b.declared) != 1 || b.declared[0] != row.queue {
			t.Errorf("%s: declared %q", row.target, b.declared)
		}
	}
}

func TestRefusals(t *testing.T) {
	refuse := func(err error) *fakeBroker {
		b := newBroker("q", PublisherQueue)
		b.publish = func(context.Context, ferry.Message) error { return err }
		return b
	}
	refused := func(err error) error { return fmt.Errorf("%w: %w", ferry.ErrRefused, err) }
	for name, row := range map[string]struct {
		broker               *fakeBroker
		method, target, body string
		status               int
		outcome, allow       string
	}{
		"another path":             {newBroker(), "POST", "/", "", 404, "", ""},
		"a deeper path":            {newBroker(), "POST", "/publish/a/b", "", 404, "", ""},
		"no message":               {newBroker(), "POST", "/publish/", "", 404, "", ""},
		"GET a message":            {newBroker(), "GET", "/publish/a", "", 405, "", "POST"},
		"PUT to a queue":           {newBroker(), "PUT", "/queues/q", "x", 405, "", "POST"},
		"POST health":              {newBroker(), "POST", "/healthz", "", 405, "", "GET, HEAD"},
		"no queue":                 {newBroker(), "POST", "/queues/", "x", 400, "", ""},
		"a long name":              {newBroker(), "POST", "/queues/" + strings.Repeat("q", 256), "x", 400, "", ""},
		"a name that is not UTF-8": {newBroker(), "POST", "/queues/%ff", "x", 400, "", ""},
		"a name of the broker's":   {newBroker(), "POST", "/queues/amq.x", "x", 403, "refused", ""},
		"too large":                {newBroker(), "POST", "/publish", strings.Repeat("x", MaxBody+1), 413, "", ""},
		"a full queue":             {refuse(refused(ferry.ErrNacked)), "POST", "/queues/q", "x", 429, "refused", ""},
		"unroutable":               {refuse(refused(ferry.ErrUnroutable)), "POST", "/queues/q", "x", 404, "refused", ""},
		"a permission":             {refuse(refused(ferry.ErrAccessRefused)), "POST", "/queues/q", "x", 403, "refused", ""},
		"another refusal":          {refuse(refused(ferry.ErrPrecondition)), "POST", "/queues/q", "x", 422, "refused", ""},
		"a fault of the client":    {refuse(errors.New("odd")), "POST", "/queues/q", "x", 500, "", ""},
		"closed":                   {refuse(fmt.Errorf("%w: %w", ferry.ErrNotSent, ferry.ErrClosed)), "POST", "/publish/a", "", 503, "not sent", ""},
		"unknown":                  {refuse(fmt.Errorf("%w: %w", ferry.ErrUnknown, context.DeadlineExceeded)), "POST", "/publish/a", "", 503, "unknown", ""},
		"not sent":                 {refuse(fmt.Errorf("%w: %w", ferry.ErrNotSent, context.DeadlineExceeded)), "POST", "/publish/a", "", 503, "not sent", ""},
	} {
		w := ask(newHandler(row.broker), row.method, row.target, "", row.body)
		var p struct{ Error, Outcome string }
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Error == "" {
			t.Errorf("%s: the body is %q: %v", name, w.Body, err)
		}
		if w.Code != row.status || p.Outcome != row.outcome || w.Header().Get("Allow") != row.allow {
			t.Errorf("%s: %d %+v, Allow: %q; want %d, %q, %q", name, w.Code, p, w.Header().Get("Allow"), row.status, row.outcome, row.allow)
		}
		if ct := w.Header().Get("Content-Type"); ct != "application/json" {
			t.Errorf("%s: the content type is %q", name, ct)
		}
		if len(row.broker.messages) != 0 {
			t.Errorf("%s: there is a message", name)
		}
	}
}

func TestBodyOfUnknownLengthIsBounded(t *testing.T) {
	h := newHandler(newBroker())
	for size, status := range map[int]int{MaxBody: 200, MaxBody + 1: 413} {
		r := httptest.NewRequest("POST", "/publish", io.LimitReader(zeros{}, int64(size)))
		if r.ContentLength >= 0 {
			t.Fatal("the length is known")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("%d bytes: %d, want %d", size, w.Code, status)
		}
	}
	if h.load.requests != 0 || h.load.bytes != 0 {
		t.Errorf("what was held is not let go of: %d requests, %d bytes", h.load.requests, h.load.bytes)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestQueueIsLookedAtOnce(t *testing.T) {
	b := newBroker("there")
	h := newHandler(b)
	for range 3 {
		ask(h, "POST", "/queues/there", "", "x")
		ask(h, "POST", "/queues/new", "", "x")
	}
	if b.inspected != 2 || len(b.declared) != 1 || b.declared[0] != "new" {
		t.Errorf("asked %d times, declared %q", b.inspected, b.declared)
	}
}

func TestQueueThatIsGoneIsDeclaredAgain(t *testing.T) {
	b := newBroker()
	h := newHandler(b)
	ask(h, "POST", "/queues/q", "", "1")
	delete(b.queues, "q")
	if w := ask(h, "POST", "/queues/q", "", "2"); w.Code != 200 || len(b.messages) != 2 {
		t.Errorf("%d %s, %d messages", w.Code, w.Body, len(b.messages))
	}
}

func TestQueuesThatAreDeclaredAreBounded(t *testing.T) {
	b := newBroker("there")
	h := newHandler(b)
	for i := range maxDeclared {
		if w := ask(h, "POST", fmt.Sprintf("/queues/q%d", i), "", ""); w.Code != 200 {
			t.Fatalf("queue %d: %d", i, w.Code)
		}
	}
	if w := ask(h, "POST", "/queues/more", "", ""); w.Code != 403 {
		t.Errorf("one more: %d", w.Code)
	}
	if w := ask(h, "POST", "/queues/there", "", ""); w.Code != 200 {
		t.Errorf("one that is there: %d", w.Code)
	}
}

func TestMessageWaitsForTheFirstBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(nil)
		h.Observe(ferry.Event{Kind: ferry.Retrying, Connection: publishing, Err: errors.New("dial tcp: refused")})
		began := time.Now()
		w := ask(h, "POST", "/publish/a", "", "")
		if w.Code != 503 || time.Since(began) != h.config.Timeout || !strings.Contains(w.Body.String(), "refused") {
			t.Errorf("%d after %v: %s", w.Code, time.Since(began), w.Body)
		}
		if w.Header().Get("Retry-After") == "" {
			t.Error("it does not say when to try again")
		}

		b := newBroker()
		answered := make(chan int)
		go func() { answered <- ask(h, "POST", "/publish/a", "", "").Code }()
		synctest.Wait()
		h.Use(b)
		if code := <-answered; code != 200 || len(b.messages) != 1 {
			t.Errorf("when a broker has come: %d, %d messages", code, len(b.messages))
		}
	})
}

func TestMessageIsNotGivenUpWithItsRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := newBroker()
	b.publish = func(ctx context.Context, _ ferry.Message) error {
		cancel()
		return ctx.Err()
	}
	w := httptest.NewRecorder()
	newHandler(b).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", "/publish/a", nil))
	if w.Code != 200 || len(b.messages) != 1 {
		t.Errorf("%d, %d messages", w.Code, len(b.messages))
	}
}

func TestLoadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(nil)
		codes := make(chan int)
		for range maxRequests {
			go func() { codes <- ask(h, "POST", "/publish/a", "", "").Code }()
		}
		synctest.Wait()
		if w := ask(h, "POST", "/publish/a", "", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "holds") {
			t.Errorf("one more: %d %s", w.Code, w.Body)
		}
		h.Use(newBroker())
		for range maxRequests {
			if code := <-codes; code != 200 {
				t.Fatalf("one of those that waited: %d", code)
			}
		}
	})
	l := &load{}
	for range maxHeld / MaxBody {
		if !l.enter(MaxBody) {
			t.Fatal("there is no room")
		}
	}
	if l.enter(1) {
		t.Error("there is room for more bytes than may be held")
	}
}

func TestHealth(t *testing.T) {
	h := newHandler(nil)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, row := range []struct {
		event       ferry.Event
		stop        bool
		status      int
		state, text string
	}{
		{ferry.Event{}, false, 503, "connecting", ""},
		{ferry.Event{Kind: ferry.Retrying, Err: errors.New("refused")}, false, 503, "connecting", "refused"},
		{ferry.Event{Kind: ferry.Connected, Endpoint: "amqp://a/"}, false, 200, "connected", ""},
		{ferry.Event{Kind: ferry.Disconnected, Connection: "consume", Err: errors.New("another")}, false, 200, "connected", ""},
		{ferry.Event{Kind: ferry.Blocked, Err: errors.New("low on memory")}, false, 503, "blocked", "low on memory"},
		{ferry.Event{Kind: ferry.Unblocked}, false, 200, "connected", ""},
		{ferry.Event{Kind: ferry.Disconnected, Err: errors.New("reset")}, false, 503, "connecting", "reset"},
		{ferry.Event{Kind: ferry.Connected, Endpoint: "amqp://b/"}, false, 200, "connected", ""},
		{ferry.Event{}, true, 503, "stopping", ""},
	} {
		row.event.Time = at
		if row.event.Connection == "" {
			row.event.Connection = publishing
		}
		h.Observe(row.event)
		if row.stop {
			h.Stop()
		}
		w := ask(h, "GET", "/healthz", "", "")
		var got healthReport
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if w.Code != row.status || got.State != row.state || got.Error != row.text {
			t.Errorf("after %v: %d %+v, want %d %s %q", row.event, w.Code, got, row.status, row.state, row.text)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/publish/a", "/publish", "/queues/q", "/queues/%2f", "/publish/%zz", "//", "/publish/a/..", "/healthz"} {
		f.Add(s, "text/plain", []byte("body"))
	}
	f.Fuzz(func(t *testing.T, target, contentType string, body []byte) {
		r, err := http.NewRequest("POST", "http://gateway"+target, strings.NewReader(string(body)))
		if err != nil {
			return
		}
		r.Header["Content-Type"] = []string{contentType}
		b := newBroker()
		w := httptest.NewRecorder()
		newHandler(b).ServeHTTP(w, r)
		if ok := w.Code == 200; ok != (len(b.messages) == 1) {
			t.Errorf("%d, and %d messages", w.Code, len(b.messages))
		}
		if w.Code != 200 && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d with %q", w.Code, w.Body)
		}
	})
}
