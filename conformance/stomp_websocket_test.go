package conformance

import (
	"net"
	"net/http"
	"strings"
	"testing"
)

// handshake asks for a WebSocket as a browser does and is the answer's status.
func handshake(t *testing.T, url, origin string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(url, "ws://", "http://", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Protocol": "v12.stomp", "Origin": origin,
	} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// A page of another site must not use what a browser's user may reach (RFC 6455
// §10.2), but where the operator names the site.
func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	host := func(urls stompURLs) string { return strings.TrimSuffix(strings.TrimPrefix(urls.web, "ws://"), "/ws") }
	urls := startStompFerry(t)
	_, port, err := net.SplitHostPort(host(urls))
	if err != nil {
		t.Fatal(err)
	}
	named := startStompFerry(t, "--ws-origins", "https://app.example,http://localhost:3000")
	every := startStompFerry(t, "--ws-origins", "*")
	for _, row := range []struct {
		name, url, origin string
		status            int
	}{
		{"no browser", urls.web, "", http.StatusSwitchingProtocols},
		{"the same host", urls.web, "http://" + host(urls), http.StatusSwitchingProtocols},
		{"another site", urls.web, "https://evil.example", http.StatusForbidden},
		{"another port of the host", urls.web, "http://127.0.0.1:1", http.StatusForbidden},
		{"another host with this port", urls.web, "http://evil.example:" + port, http.StatusForbidden},
		{"a host that begins like ours", urls.web, "http://" + host(urls) + ".evil.example", http.StatusForbidden},
		{"a file, or a frame in a sandbox", urls.web, "null", http.StatusForbidden},
		{"a site that was named", named.web, "https://app.example", http.StatusSwitchingProtocols},
		{"a port that was named", named.web, "http://localhost:3000", http.StatusSwitchingProtocols},
		{"a port that was not named", named.web, "http://localhost:3001", http.StatusForbidden},
		{"a named site without TLS", named.web, "http://app.example", http.StatusForbidden},
		{"the same host beside those named", named.web, "http://" + host(named), http.StatusSwitchingProtocols},
		{"every site", every.web, "https://evil.example", http.StatusSwitchingProtocols},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := handshake(t, row.url, row.origin); got != row.status {
				t.Errorf("Origin %q is answered with %d, want %d", row.origin, got, row.status)
			}
		})
	}
}
