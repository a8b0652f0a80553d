package stompserver

import (
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
)

func TestConnected(t *testing.T) {
	f := newFixture(t, func(c *Config, _ *broker.Config) { c.Node, c.Epoch = "a\nb:5672", 7 })
	for _, row := range []struct{ accept, version string }{
		{"", "1.0"},
		{"accept-version:1.0", "1.0"},
		{"accept-version:1.1", "1.1"},
		{"accept-version:1.2,1.1", "1.2"},
		{"accept-version:1.0,1.1,1.2,2.0", "1.2"},
	} {
		for _, command := range []string{"CONNECT", "STOMP"} {
			p := f.dial()
			lines := []string{"login:guest", "passcode:guest", "host:/"}
			if row.accept != "" {
				lines = append(lines, row.accept)
			}
			p.send(command, lines...)
			c := p.expect("CONNECTED")
			if c.get("version") != row.version || c.get("server") != "Ferry/0.0-test" ||
				!strings.HasPrefix(c.get("session"), "session-") || c.get("heart-beat") != "0,0" ||
				c.get("node") != "ab:5672" || c.get("epoch") != "7" {
				t.Errorf("%s %s: %v", command, row.accept, c)
			}
		}
	}
}

func TestSendAndSubscribe(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/a", "persistent:true", "content-type:text/plain", "k:v", "", "hello")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:s:1", "ack:client")
	m := p.expectMessage("hello")
	want := map[string]string{
		"subscription": "s:1", "destination": "/queue/a", "redelivered": "false", "content-length": "5",
		"content-type": "text/plain", "persistent": "true", "k": "v", "ack": m.get("message-id"),
	}
	for name, value := range want {
		if m.get(name) != value {
			t.Errorf("%s is %q, want %q", name, m.get(name), value)
		}
	}
	p.call("ACK", m.ack())
	p.call("DISCONNECT")
	p.expectEnd()
	if n := f.ready("a"); n != 0 {
		t.Errorf("%d messages are left", n)
	}
}

func TestLargeBodies(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SUBSCRIBE", "destination:/queue/a", "id:1")
	for _, n := range []int{0, 1, directMin, directMin + 1, 100_000, 3 << 20} {
		body := strings.Repeat("x", n)
		for _, length := range []bool{true, false} {
			lines := []string{"destination:/queue/a", "persistent:true"}
			if length {
				lines = append(lines, "content-length:"+itoa(n))
			}
			p.send("SEND", append(lines, "receipt:r", "", body)...)
			for range 2 {
				switch m := p.receive(); m.command {
				case "MESSAGE":
					if m.body != body {
						t.Fatalf("%d bytes came, want %d", len(m.body), n)
					}
				case "RECEIPT":
				default:
					t.Fatal(m)
				}
			}
		}
	}
}
