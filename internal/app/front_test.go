package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const connect = "CONNECT\naccept-version:1.2\nhost:/\nlogin:ada\npasscode:lovelace\n\n\x00"

// patience is how long a test waits for what must come, at most.
const patience = 20 * time.Second

func open(t *testing.T, addr string, secure bool) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if secure {
		return tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) // its own
	}
	return nc
}

func mustSay(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

// mustHear wants what comes to begin with text.
func mustHear(t *testing.T, r io.Reader, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != text {
		t.Errorf("got %q, %v; want %q", got[:n], err, text)
	}
}

// mustEnd reads what comes up to the end of the connection.
func mustEnd(t *testing.T, r io.Reader) string {
	t.Helper()
	got, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection did not end: %v, after %q", err, got)
	}
	return string(got)
}

// A refusal is what is said to a request for a WebSocket, instead of 101.
type refusal struct {
	code int
	text string
}

// socket opens a WebSocket to a listener.
func socket(t *testing.T, addr string, secure bool, header http.Header) (*websocket.Conn, refusal) {
	t.Helper()
	scheme := "ws"
	if secure {
		scheme = "wss"
	}
	ws, resp, err := websocket.Dial(t.Context(), scheme+"://"+addr+"/ws", &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
		HTTPHeader: header, Subprotocols: []string{"v12.stomp"},
		HTTPClient: &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
		}},
	})
	if resp == nil {
		t.Fatal(err)
	}
	if err != nil {
		text, _ := io.ReadAll(resp.Body)
		return nil, refusal{resp.StatusCode, string(text)}
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws, refusal{}
}

func mustSocket(t *testing.T, addr string, secure bool) *websocket.Conn {
	t.Helper()
	ws, refused := socket(t, addr, secure, nil)
	if ws == nil {
		t.Fatalf("refused: %+v", refused)
	}
	return ws
}

// One port is enough: every listener understands everything, with and without TLS.
func TestEveryListenerSpeaksEveryProtocol(t *testing.T) {
	cfg := testConfig()
	cfg.TLSCert, cfg.TLSKey = writeCertificate(t)
	p := mustStart(t, cfg)
	if len(p.addresses) != 4 {
		t.Errorf("it listens on %v", p.addresses)
	}
	for name, addr := range p.addresses {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s tls=%t", name, secure), func(t *testing.T) {
				login(t, open(t, addr, secure)).close()

				nc := open(t, addr, secure)
				mustSay(t, nc, "\n"+connect) // a heart-beat first
				mustHear(t, nc, "CONNECTED\n")
				nc.Close()

				nc = open(t, addr, secure)
				mustSay(t, nc, "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				if got := mustEnd(t, nc); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
					t.Errorf("/livez: %q", got)
				}

				nc = open(t, addr, secure)
				mustSay(t, nc, `{"operation":"SYNC","queue":"","payload":"","confirmation":"","error":null,"auth":{"user":"ada","password":"lovelace"}}`)
				if got := mustEnd(t, nc); !strings.Contains(got, `"confirmation":"Y"`) {
					t.Errorf("GMQ: %q", got)
				}

				ws := mustSocket(t, addr, secure)
				if ws.Subprotocol() != "v12.stomp" {
					t.Errorf("subprotocol %q", ws.Subprotocol())
				}
				say(t, ws, websocket.MessageText, connect)
				if got := hear(t, ws); !strings.HasPrefix(got, "CONNECTED\n") {
					t.Errorf("over WebSocket: %q", got)
				}
				_ = ws.CloseNow()
			})
		}
	}
	p.mustStop()
}

func say(t *testing.T, ws *websocket.Conn, typ websocket.MessageType, text string) {
	t.Helper()
	if err := ws.Write(t.Context(), typ, []byte(text)); err != nil {
		t.Error(err)
	}
}

func hear(t *testing.T, ws *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, message, err := ws.Read(ctx)
	if err != nil {
		t.Error(err)
	}
	return string(message)
}

const (
	httpRefusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n" +
		"Content-Length: 78\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
	stompRefusal = "ERROR\nmessage:not_implemented\ncontent-type:text/plain\nversion:1.0,1.1,1.2\ncontent-length:97\n\n" +
		"NOT_IMPLEMENTED - STOMP is switched off on this broker, ferry serve --stomp :61613 switches it on\x00"
)

// What is off, or not there yet, is refused in the words of its own protocol, on
// every listener.
func TestWhatIsOffIsRefused(t *testing.T) {
	for _, row := range []struct {
		name    string
		off     func(*Config)
		in, out string
	}{
		{"GET", noHTTP, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", httpRefusal + httpOff + "\n"},
		{"HEAD", noHTTP, "HEAD / HTTP/1.0\r\n\r\n", httpRefusal},
		{"POST", noHTTP, "POST /x HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", httpRefusal + httpOff + "\n"},
		{"WebSocket", noHTTP, "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", httpRefusal + httpOff + "\n"},
		{"CONNECT", noSTOMP, connect, stompRefusal},
		{"STOMP", noSTOMP, "\r\n\nSTOMP\r\n\r\n\x00", stompRefusal},
		{"TLS", nothing, "\x16\x03\x01\x00\x05hello", "\x15\x03\x01\x00\x02\x02\x28"},
		{
			"GMQ", noGMQ, `{"operation":"P","queue":"q","payload":"aGk=","confirmation":"","error":null,"auth":{"user":"t0ken","password":"t0ken"}}`,
			`{"operation":"P","queue":"q","payload":"","confirmation":"N","error":{},"auth":{"user":"","password":""},"error_text":"NOT_IMPLEMENTED - GMQ is switched off on this broker, ferry serve --gmq :4567 switches it on"}`,
		},
		{
			"not GMQ's", noGMQ, `{"operation":[1],"queue":"q"}`,
			`{"operation":"","queue":"q","payload":"","confirmation":"N","error":{},"auth":{"user":"","password":""},"error_text":"NOT_IMPLEMENTED - GMQ is switched off on this broker, ferry serve --gmq :4567 switches it on"}`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := testConfig()
			row.off(&cfg)
			p := mustStart(t, cfg)
			for name, addr := range p.addresses {
				nc := open(t, addr, false)
				mustSay(t, nc, row.in)
				mustHear(t, nc, row.out)
				if more := mustEnd(t, nc); more != "" {
					t.Errorf("%s: more comes: %q", name, more)
				}
				nc.Close()
			}
			if n := strings.Count(p.log.String(), "connection refused"); n != 1 {
				t.Errorf("%d lines of the log for %d refusals:\n%s", n, len(p.addresses), p.log)
			}
			if strings.Contains(p.log.String(), "t0ken") {
				t.Errorf("a secret is in the log: %s", p.log)
			}
			p.mustStop()
		})
	}
}

func noHTTP(c *Config)  { c.HTTP = "" }
func noSTOMP(c *Config) { c.STOMP = "" }
func noGMQ(c *Config)   { c.GMQ = "" }
func noAMQP(c *Config)  { c.AMQP = "" }
func nothing(*Config)   {}

// What nothing recognises is served by what the listener is for.
func TestWhatNothingRecognises(t *testing.T) {
	p := mustStart(t, testConfig())
	for _, text := range []string{"HELLO\n\n\x00", "\x80\x2e\x01\x03", "connect\n\n\x00", strings.Repeat("\n", 100) + "SEND\n\n\x00"} {
		for name, want := range map[string]string{
			"amqp": string(amqpwire.ProtocolHeader[:]), "http": "HTTP/1.1 400 Bad Request\r\n", "stomp": "ERROR\n", "gmq": `{"operation":"",`,
		} {
			nc := open(t, p.addresses[name], false)
			mustSay(t, nc, text)
			if cw, ok := nc.(*net.TCPConn); ok {
				_ = cw.CloseWrite()
			}
			if got := mustEnd(t, nc); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q is answered with %q", name, text, got)
			}
			nc.Close()
		}
	}
	p.mustStop()
}

// Whoever is slow is cut like those who are silent: what comes buys no time.
func TestSlowPeersAreCutAtTheLoginLimit(t *testing.T) {
	cfg := testConfig()
	cfg.loginTimeout = 100 * time.Millisecond
	p := mustStart(t, cfg)
	for name, addr := range p.addresses {
		for _, text := range []string{"CONNECT\nx:", "{\"queue\":\"", "AMQP\x00\x00\x09\x01\x01\x00\x00\x00\x00\x10\x00"} {
			nc := open(t, addr, false)
			mustSay(t, nc, text)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				mustEnd(t, nc)
			}()
			pace := time.NewTicker(10 * time.Millisecond)
			for going := true; going; {
				select {
				case <-pace.C:
					_, _ = io.WriteString(nc, "x") // fails when it is cut
				case <-ended:
					going = false
				}
			}
			pace.Stop()
			nc.Close()
			if t.Failed() {
				t.Fatalf("%s: %q", name, text)
			}
		}
	}
	p.mustStop()
}

// Clients of AMQP listen to a reason when they open the virtual host.
func TestAMQPThatIsOffIsRefused(t *testing.T) {
	cfg := testConfig()
	noAMQP(&cfg)
	p := mustStart(t, cfg)
	for _, addr := range p.addresses {
		c := &client{t: t, nc: open(t, addr, false)}
		c.write(amqpwire.ProtocolHeader[:])
		expect[*amqpwire.ConnectionStart](c)
		c.send0(&amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00who\x00ever"), Locale: "en_US"})
		expect[*amqpwire.ConnectionTune](c)
		c.send0(&amqpwire.ConnectionTuneOk{ChannelMax: 10, FrameMax: amqpwire.DefaultFrameMax})
		c.send0(&amqpwire.ConnectionOpen{VirtualHost: "/"})
		closed := expect[*amqpwire.ConnectionClose](c)
		if closed.ReplyCode != amqpwire.NotImplemented || closed.ReplyText != "NOT_IMPLEMENTED - "+amqpOff {
			t.Errorf("closed with %d %q", closed.ReplyCode, closed.ReplyText)
		}
		c.send0(&amqpwire.ConnectionCloseOk{})
		c.nc.Close()
	}
	p.mustStop()
}

func TestWebSocketsOfSTOMPThatIsOffAreRefused(t *testing.T) {
	cfg := testConfig()
	noSTOMP(&cfg)
	p := mustStart(t, cfg)
	_, refused := socket(t, p.addresses["http"], false, nil)
	if want := (refusal{http.StatusServiceUnavailable, stompOff + "\n"}); refused != want {
		t.Errorf("got %+v, want %+v", refused, want)
	}
	p.mustStop()
}

// A TLS client is told something that it can show.
func TestTLSWithoutACertificateIsAnAlert(t *testing.T) {
	p := mustStart(t, testConfig())
	for name, addr := range p.addresses {
		err := open(t, addr, true).(*tls.Conn).HandshakeContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), "handshake failure") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(p.log.String(), "--tls-cert") {
		t.Errorf("the log has no hint: %s", p.log)
	}
	p.mustStop()
}

// Whoever says nothing, or not enough, is cut when the time to log in is over;
// whatever is off.
func TestSilentPeersAreCutAtTheLoginLimit(t *testing.T) {
	for _, off := range []func(*Config){nothing, noAMQP, noSTOMP, noHTTP} {
		cfg := testConfig()
		cfg.loginTimeout = 100 * time.Millisecond
		off(&cfg)
		p := mustStart(t, cfg)
		var opened []net.Conn
		for _, addr := range p.addresses {
			for _, text := range []string{
				"", "A", "AMQP\x00\x00\x09\x01", "\n", "\r\n\r\n", "CONNECT\n", "CONNECT\nlogin:", "STOM", "{", `{"queue":"`, "\x16", "\x16\x03\x01", "G",
			} {
				nc := open(t, addr, false)
				mustSay(t, nc, text)
				opened = append(opened, nc)
			}
		}
		for _, nc := range opened {
			mustEnd(t, nc)
			nc.Close()
		}
		p.mustStop()
	}
}

// A WebSocket has no more time to log in than others.
func TestSilentWebSocketsAreCutAtTheLoginLimit(t *testing.T) {
	cfg := testConfig()
	cfg.loginTimeout = 100 * time.Millisecond
	p := mustStart(t, cfg)
	ws := mustSocket(t, p.addresses["http"], false)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, message, err := ws.Read(ctx)
		cancel()
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
				t.Errorf("it ended with %v", err)
			}
			break
		}
		if !strings.HasPrefix(string(message), "ERROR\n") {
			t.Errorf("it says %q", message)
		}
	}
	p.mustStop()
}

// What bounds a peer before it has logged in is the same over WebSocket.
func TestWebSocketsHaveTheLimitsOfSTOMP(t *testing.T) {
	p := mustStart(t, testConfig())
	for name, text := range map[string]string{
		"a line":   "CONNECT\nlogin:" + strings.Repeat("x", 20<<10),
		"headers":  "CONNECT\n" + strings.Repeat("x:y\n", 200),
		"all":      "CONNECT\n" + strings.Repeat("x:"+strings.Repeat("y", 10<<10)+"\n", 10),
		"no STOMP": strings.Repeat("x", 100<<10),
	} {
		ws := mustSocket(t, p.addresses["http"], false)
		_ = ws.Write(t.Context(), websocket.MessageBinary, []byte(text))
		if got := hear(t, ws); !strings.HasPrefix(got, "ERROR\n") {
			t.Errorf("%s: %q", name, got)
		}
		if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("%s: it ended with %v", name, err)
		}
	}
	p.mustStop()
}

// A heart-beat is a message of its own: clients look for that.
func TestWebSocketsHaveHeartBeats(t *testing.T) {
	p := mustStart(t, testConfig())
	ws := mustSocket(t, p.addresses["http"], false)
	say(t, ws, websocket.MessageText, strings.Replace(connect, "\n\n", "\nheart-beat:0,500\n\n", 1))
	if got := hear(t, ws); !strings.HasPrefix(got, "CONNECTED\n") {
		t.Errorf("got %q", got)
	}
	for range 2 {
		if got := hear(t, ws); got != "\n" {
			t.Errorf("got %q", got)
		}
	}
	_ = ws.CloseNow()
	p.mustStop()
}

// Clients of STOMP are told why their connection ends, over WebSocket too, which
// then says good-bye in its own way.
func TestSTOMPConnectionsAreClosedWithAReason(t *testing.T) {
	p := mustStart(t, testConfig())
	nc := open(t, p.addresses["stomp"], false)
	mustSay(t, nc, connect)
	mustHear(t, nc, "CONNECTED\n")
	ws := mustSocket(t, p.addresses["http"], false)
	say(t, ws, websocket.MessageText, connect)
	if got := hear(t, ws); !strings.HasPrefix(got, "CONNECTED\n") {
		t.Errorf("got %q", got)
	}
	p.stop()
	got := mustEnd(t, nc)
	if _, last, _ := strings.Cut(got, "\x00"); !strings.Contains(last, "ERROR\n") || !strings.Contains(last, "shutdown") {
		t.Errorf("over TCP: %q", got)
	}
	nc.Close()
	if got := hear(t, ws); !strings.HasPrefix(got, "ERROR\n") || !strings.Contains(got, "shutdown") {
		t.Errorf("over WebSocket: %q", got)
	}
	if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("the WebSocket ended with %v", err)
	}
	p.mustStop()
}

// The origin decides over pages of browsers, not over other programs.
func TestWebSocketOrigins(t *testing.T) {
	cfg := testConfig()
	cfg.WSOrigins = "https://app.example"
	p := mustStart(t, cfg)
	for origin, ok := range map[string]bool{
		"":                               true,
		"http://" + p.addresses["http"]:  true,
		"https://app.example":            true,
		"https://evil.example":           false,
		"http://" + p.addresses["stomp"]: false,
	} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		ws, refused := socket(t, p.addresses["http"], false, header)
		if ok != (ws != nil) || !ok && refused.code != http.StatusForbidden {
			t.Errorf("%q: %+v", origin, refused)
		}
		if ws != nil {
			_ = ws.Close(websocket.StatusNormalClosure, "")
		}
	}
	p.mustStop()
}

// Who asks for the process's health over and over, on the listener of a protocol, does
// not keep the process from ending in good order.
func TestHTTPOnOtherListenersDoesNotHoldUpTheEnd(t *testing.T) {
	p := mustStart(t, testConfig())
	var asking sync.WaitGroup
	for range 4 {
		for _, name := range []string{"amqp", "stomp"} {
			nc := open(t, p.addresses[name], false)
			mustSay(t, nc, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
			mustHear(t, nc, "HTTP/1.1 200 OK\r\n")
			asking.Go(func() {
				some := make([]byte, 4096)
				for err := error(nil); err == nil; _, err = nc.Read(some) {
					_, _ = io.WriteString(nc, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
				}
			})
		}
	}
	p.mustStop()
	asking.Wait()
}

// The listing is in an order that scripts can rely on.
func TestListenersAreToldInOrder(t *testing.T) {
	cfg := testConfig()
	cfg.PProf = "127.0.0.1:0"
	ctx, stop := context.WithCancel(t.Context())
	var names []string
	err := Run(ctx, cfg, func(all []Address) {
		for _, a := range all {
			names = append(names, a.Name)
		}
		stop()
	})
	if want := []string{"amqp", "gmq", "http", "pprof", "stomp"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v, %v; want %v", names, err, want)
	}
}
