package adminserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

func TestLargeBodiesAreRefused(t *testing.T) {
	o := newOwn(t)
	for _, c := range []struct {
		path string
		size int
	}{
		{"/api/queues/%2F/q", bodyMost + 1},
		{"/api/users/u", bodyMost + 1},
		{"/api/exchanges/%2F/amq.default/publish", payloadShare*messageMost + bodyMost + 1},
	} {
		method := "PUT"
		if strings.HasSuffix(c.path, "publish") {
			method = "POST"
		}
		o.refused(method, c.path, strings.Repeat(" ", c.size), 413, "payload_too_large", "a request to this may have ")
		o.get(method, c.path, "{"+strings.Repeat(" ", c.size-3), 400, nil)
	}
	// The message itself is refused by the broker.
	body := `{"properties":{},"routing_key":"q","payload":"` + strings.Repeat("x", messageMost+1) + `","payload_encoding":"string"}`
	o.refused("POST", "/api/exchanges/%2F/amq.default/publish", body, 400, "bad_request", "406 PRECONDITION_FAILED - message size 100001 is larger than configured max size 100000")
}

func TestJSONThatIsWrongIsRefused(t *testing.T) {
	o := newOwn(t)
	for _, body := range []string{
		strings.Repeat("[", 100_000), `{"arguments":` + strings.Repeat(`{"a":`, nestMost) + "1" + strings.Repeat("}", nestMost) + "}",
		"{\"durable\":\xff}", "{\"arguments\":{\"\xc3\x28\":1}}", `{"durable":tru`, `{"arguments":{"a":null}}`, `{"arguments":{"a":1e999}}`,
		`{"arguments":[1]}`, `{"arguments":"x"}`, `{"auto_delete":[]}`, `{"durable":1}`, `{"arguments":{"` + strings.Repeat("n", 256) + `":1}}`, "\x00", `{"durable":true`,
	} {
		got := o.call("guest", "guest", "PUT", "/api/queues/%2F/q", body)
		if got.status != 400 || !strings.HasPrefix(string(got.body), `{"error":"bad_request","reason":`) || len(got.body) > 4*echoMost {
			t.Errorf("%.60q: %d %.200s", body, got.status, got.body)
		}
	}
	if _, ok := o.b.Queue("/", "q"); ok {
		t.Error("the queue was made")
	}
}

// TestPathsThatAreWrongAreRefused sends what no client of Go's would.
func TestPathsThatAreWrongAreRefused(t *testing.T) {
	o := newOwn(t)
	address := strings.TrimPrefix(o.base, "http://")
	for _, c := range []struct {
		path   string
		status int
	}{
		{"/api/queues/%ff/q", 400},
		{"/api/queues/%2F/%c3%28", 400},
		{"/api/queues/%zz/q", 400},
		{"/api/queues/%2F/%", 400},
		{"/api//queues", 404},
		{"/api/", 404},
		{"/api", 404},
		{"/api/../api/queues", 404},
		{"/api/queues/%2F/..", 404},
		{"/api/queues//q", 404},
		{"/api/queues/%2F/", 200},
		{"/api/queues/%252F/q", 404},
		{"/api/queues/" + strings.Repeat("x", 5000), 404},
		{"/api/queues/%2F/a%00b", 404},
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nConnection: close\r\n\r\n", c.path)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close(), conn.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status || len(body) > 4096 {
			t.Errorf("%.80s: %s %.200s", c.path, resp.Status, body)
		}
	}
}

func TestNamesOfPeersAreEscaped(t *testing.T) {
	o := newOwn(t)
	var log bytes.Buffer
	o.s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	evil := "\x1b[31m<script>\r\nX-Evil: 1\u2028" + strings.Repeat("x", 180)
	s, err := o.b.OpenSession(broker.SessionConfig{
		VHost: "/", User: evil, Name: evil, Protocol: "AMQP 0-9-1", Peer: netip.MustParseAddrPort("127.0.0.1:1"),
		Client: append([]byte("\x0fconnection_nameS\x00\x00\x00\x05"), "<a>\xff\n"...),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	name := url.PathEscape(evil)
	o.do("PUT", "/api/users/"+name, `{"password_hash":"`+secretHash+`","tags":"<b>"}`)
	o.do("PUT", "/api/queues/%2F/"+name, `{"arguments":{"<i>":"</script>"}}`)
	o.do("PUT", "/api/policies/%2F/"+name, `{"pattern":"<u>","definition":{"max-length":1}}`)
	for _, path := range []string{"connections", "users", "queues", "policies", "bindings", "connections/" + name, "queues/%2F/" + name, "users/" + name, "definitions"} {
		got := o.call("guest", "guest", "GET", "/api/"+path, "")
		if got.status != 200 || bytes.ContainsAny(bytes.ReplaceAll(got.body, []byte("\n"), nil), "<>\x1b\r\u2028\xff") || got.header.Get("X-Evil") != "" {
			t.Errorf("%s: %d %q", path, got.status, got.body)
		}
		if ct := got.header.Get("Content-Type"); ct != "application/json" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %q", path, ct)
		}
	}
	o.get("GET", "/api/queues/%2F/"+name+"x", "", 404, nil)
	o.do("DELETE", "/api/policies/%2F/"+name, "")
	o.do("DELETE", "/api/users/"+name, "")
	o.do("DELETE", "/api/connections/"+name, "")
	if bytes.ContainsAny(log.Bytes(), "\x1b\r\u2028") || !strings.Contains(log.String(), "user was deleted") {
		t.Errorf("logged: %q", &log)
	}
	for line := range strings.Lines(log.String()) {
		if len(line) > 4096 {
			t.Errorf("a line has %d bytes", len(line))
		}
	}
}

func TestReasonsForClosingAreBounded(t *testing.T) {
	o := newOwn(t)
	o.do("PUT", "/api/queues/%2F/q", "")
	o.connectUser("guest", "/")
	s := o.open["guest@/"]
	r := httptest.NewRequestWithContext(t.Context(), "DELETE", "/api/connections/"+url.PathEscape("guest@/"), nil)
	r.SetBasicAuth("guest", "guest")
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("X-Reason", "go \x1b[31m away "+strings.Repeat("x", 1000))
	w := httptest.NewRecorder()
	o.s.ServeHTTP(w, r)
	if w.Code != 204 {
		t.Fatal(w.Code, w.Body)
	}
	for _, e := range s.Take(nil) {
		if e.Kind == broker.EventClosed && (!strings.Contains(e.Err.Text, "go ?[31m away") || len(e.Err.Text) > 2*reasonMost) {
			t.Errorf("%q", e.Err.Text)
		}
	}
}

func TestPagesOfOtherSitesChangeNothing(t *testing.T) {
	o := newOwn(t)
	for _, c := range []struct {
		method, name, value string
		status              int
	}{
		{"PUT", "Sec-Fetch-Site", "cross-site", 403}, {"PUT", "Origin", "http://evil.example", 403}, {"PUT", "Sec-Fetch-Site", "same-origin", 201}, {"GET", "Sec-Fetch-Site", "cross-site", 200},
	} {
		r := httptest.NewRequestWithContext(t.Context(), c.method, "/api/queues/%2F/q", strings.NewReader("{}"))
		r.SetBasicAuth("guest", "guest")
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set(c.name, c.value)
		w := httptest.NewRecorder()
		o.s.ServeHTTP(w, r)
		if w.Code != c.status || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s with %s %s: %d %v", c.method, c.name, c.value, w.Code, w.Header())
		}
	}
}

func TestMethods(t *testing.T) {
	o := newOwn(t)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"OPTIONS", "/api/queues", 200, "GET, HEAD, OPTIONS"},
		{"POST", "/api/queues", 405, "GET, HEAD, OPTIONS"},
		{"PATCH", "/api/queues/%2F/q", 405, "DELETE, GET, HEAD, OPTIONS, PUT"},
		{"HEAD", "/api/queues", 200, ""},
		{"OPTIONS", "/api/nothere", 404, ""},
		{"GET", "/api/users/bulk-delete", 405, "OPTIONS, POST"},
	} {
		got := o.call("guest", "guest", c.method, c.path, "")
		if got.status != c.status || got.header.Get("Allow") != c.allow || c.method == "HEAD" && len(got.body) != 0 {
			t.Errorf("%s %s: %d %v", c.method, c.path, got.status, got.header)
		}
	}
}

// TestAStandbySaysWhoIsLive asks a node that serves no clients, and one that knows no
// users yet.
func TestAStandbySaysWhoIsLive(t *testing.T) {
	o := newOwn(t)
	o.s.cfg.Broker = func() (*broker.Broker, string) { return nil, "this node is standby; a is live, at http://a:15672" }
	for i := range table {
		r := &table[i]
		path := "/api/" + strings.NewReplacer("{within}", "1", "{unit}", "days", "{port}", "5672", "{protocol}", "amqp").Replace(r.path)
		if r.how&local != 0 {
			if got := o.call("guest", "guest", r.method, path, ""); got.status != 200 {
				t.Errorf("%s %s: %d %s", r.method, path, got.status, got.body)
			}
			continue
		}
		o.refused(r.method, path, "", 503, "not_live", "this node is standby; a is live, at http://a:15672")
	}
	o.get("GET", "/api/whoami", "", 200, nil)
	o.s.cfg.Known = func() bool { return false }
	o.refused("GET", "/api/whoami", "", 503, "starting", "the broker has no users yet")
}

func TestGuestComesFromLoopbackOnly(t *testing.T) {
	o := newOwn(t)
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/whoami", nil)
	r.SetBasicAuth("guest", "guest")
	r.RemoteAddr = "192.0.2.1:1"
	w := httptest.NewRecorder()
	o.s.ServeHTTP(w, r)
	if w.Code != 401 || !strings.Contains(w.Body.String(), "User can only log in via localhost") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestPermissionsHoldForTheAPI does what the user's patterns do not allow.
func TestPermissionsHoldForTheAPI(t *testing.T) {
	o := newOwn(t)
	o.do("PUT", "/api/queues/%2F/q", `{}`)
	o.do("PUT", "/api/users/u", `{"password_hash":"`+secretHash+`","tags":"management"}`)
	o.do("PUT", "/api/permissions/%2F/u", `{"configure":"^mine","write":"^mine","read":"^mine"}`)
	o.user, o.password = "u", secret
	o.do("PUT", "/api/queues/%2F/mine", `{}`)
	for _, c := range []struct {
		method, path, body string
		status             int
		kind, reason       string
	}{
		{"PUT", "/api/queues/%2F/other", `{}`, 401, "not_authorised", "ACCESS_REFUSED - "},
		{"DELETE", "/api/queues/%2F/q", "", 401, "not_authorised", "ACCESS_REFUSED - "},
		{"DELETE", "/api/queues/%2F/q/contents", "", 401, "not_authorised", "ACCESS_REFUSED - "},
		{"POST", getPath, `{"count":1,"ackmode":"ack_requeue_true","encoding":"auto"}`, 401, "not_authorised", "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'"},
		{"POST", "/api/bindings/%2F/e/amq.topic/q/mine", `{}`, 401, "not_authorised", "ACCESS_REFUSED - "},
		{
			"POST", "/api/exchanges/%2F/amq.default/publish", `{"properties":{},"routing_key":"q","payload":"x","payload_encoding":"string"}`, 400, "bad_request",
			"403 ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'",
		},
	} {
		o.refused(c.method, c.path, c.body, c.status, c.kind, c.reason)
	}
}

// TestRequestsWithLargeBodiesTakeTurns holds all places, so that one more waits.
func TestRequestsWithLargeBodiesTakeTurns(t *testing.T) {
	o := newOwn(t)
	for range heavyMost {
		o.s.heavy <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ask := func(ctx context.Context) int {
		r := httptest.NewRequestWithContext(ctx, "POST", "/api/definitions", strings.NewReader(`{"x":"`+strings.Repeat("x", bodyMost)+`"}`))
		r.SetBasicAuth("guest", "guest")
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		o.s.ServeHTTP(w, r)
		return w.Code
	}
	if _, err := o.users.Login(t.Context(), auth.Login{Protocol: "http", Name: "guest", Password: "guest", Peer: netip.MustParseAddr("127.0.0.1")}); err != nil {
		t.Fatal(err) // it is remembered, so that a request that has ended may log in
	}
	if code := ask(ctx); code == 200 || code == 204 {
		t.Errorf("a further one was served: %d", code)
	}
	<-o.s.heavy
	if code := ask(t.Context()); code != 200 { // a section that is not known is warned of
		t.Errorf("one that has a place: %d", code)
	}
}

// FuzzRequests feeds paths and bodies: whatever they are, the answer is one of the
// API's, and JSON where it has a body.
func FuzzRequests(f *testing.F) {
	for i := range table {
		f.Add(table[i].method, "/api/"+table[i].path, "{}")
	}
	for _, r := range requests {
		f.Add(r.method, strings.ReplaceAll(r.path, "{v}", "%2F"), r.body)
	}
	o := newOwn(f)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || strings.Contains(body, `"password"`) || strings.Contains(path, "users/guest") || strings.Contains(path, "/guest") {
			return // to hash one takes its time; and guest is needed
		}
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", strings.NewReader(body))
		r.Method, r.URL = method, u
		r.SetBasicAuth("guest", "guest")
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		o.s.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != 503 {
			t.Fatalf("%s %q %q: %d %s", method, path, body, w.Code, w.Body)
		}
		if w.Code == 401 && strings.Contains(w.Body.String(), "Login failed") {
			t.Skip("guest is gone")
		}
	})
}
