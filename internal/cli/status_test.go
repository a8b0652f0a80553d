package cli

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"
)

const nodesText = `{"node":"b:5672","nodes":[
{"node":"a:5672","role":"live","epoch":7,"position":1200,"lag":0,"silent_ms":312,"started":"2026-01-02T03:04:05Z","addresses":{"http":"a:15672","amqp":"a:5672"}},
{"node":"b:5672","role":"standby","epoch":7,"position":1188,"lag":12,"silent_ms":0,"started":"2026-01-02T03:04:06Z","addresses":{"http":"b:15672"}}]`

func TestStatus(t *testing.T) {
	tail := "}"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path != "/api/ferry/nodes":
			http.NotFound(w, r)
		case user != "ada" || password != "love lace":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"not_authorized","reason":"Login failed"}`))
		default:
			_, _ = w.Write([]byte(nodesText + tail))
		}
	}))
	defer s.Close()
	at := "http://ada:love%20lace@" + strings.TrimPrefix(s.URL, "http://")

	got := runFerry(t, nil, "status", "--admin", at)
	want := "NODE    ROLE     EPOCH  POSITION  LAG  SILENT  ADDRESSES\n" +
		"a:5672  live     7      1200      0    300ms   amqp=a:5672 http=a:15672\n" +
		"b:5672  standby  7      1188      12   0s      http=b:15672\n"
	if got.code != exitDone || got.out != want || got.errors != "" {
		t.Errorf("exit code %d\n%s%s\nwant\n%s", got.code, got.out, got.errors, want)
	}
	got = runFerry(t, map[string]string{"FERRY_ADMIN": at + "/"}, "status", "--json")
	want = `{"node":"a:5672","role":"live","epoch":7,"position":1200,"lag":0,"silent_ms":312,"started":"2026-01-02T03:04:05Z","addresses":{"amqp":"a:5672","http":"a:15672"}}` + "\n" +
		`{"node":"b:5672","role":"standby","epoch":7,"position":1188,"lag":12,"silent_ms":0,"started":"2026-01-02T03:04:06Z","addresses":{"http":"b:15672"}}` + "\n"
	if got.code != exitDone || got.out != want || got.errors != "" {
		t.Errorf("--json: exit code %d\n%s%s\nwant\n%s", got.code, got.out, got.errors, want)
	}
	tail = `,"error":"the store does not tell"}`
	if got := runFerry(t, nil, "status", "--admin", at); got.code != exitDone || !strings.Contains(got.errors, "the store does not tell") {
		t.Errorf("exit code %d, %s", got.code, got.errors)
	}
	for _, row := range []struct {
		admin string
		code  int
		text  string
	}{
		{s.URL, exitRefused, `refuses the user "guest": Login failed`},
		{strings.Replace(at, "lace", "s3cret", 1), exitRefused, `refuses the user "ada"`},
		{at + "/elsewhere", exitFailed, "404"},
		{"http://ada:s3cret@" + freePort(t), exitNoBroker, "no broker answers at http://127.0.0.1:"},
		{"amqp://ada:s3cret@localhost", exitUsage, "not the URL of an HTTP listener"},
		{"http://ada:s3cret@local host", exitUsage, "this is not a URL"},
		{"localhost:15672", exitUsage, "write http://USER"},
	} {
		got := runFerry(t, nil, "status", "--admin", row.admin)
		if got.code != row.code || !strings.Contains(got.errors, row.text) || strings.Contains(got.errors, "s3cret") || got.out != "" {
			t.Errorf("--admin %s: exit code %d, want %d\n%s%s", row.admin, got.code, row.code, got.out, got.errors)
		}
	}
}

// What another program sends is nothing that a terminal obeys.
func TestStatusIsPrintable(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"nodes":[{"node":"a\u001b[2J","role":"live\n"}]}`))
	}))
	defer s.Close()
	if got := runFerry(t, nil, "status", "--admin", s.URL); strings.Contains(got.out, "\x1b") || strings.Count(got.out, "\n") != 2 {
		t.Errorf("%q", got.out)
	}
}

// freePort is an address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// What nodes are called is whatever somebody wrote into the database, and what a
// broker says whatever is at the address: a terminal obeys none of it.
func TestStatusPrintsNothingThatATerminalObeys(t *testing.T) {
	const evil = "\x1b]0;x\x07\u009b31m\u202e\U000e0041<b>\r\n\t|"
	text, err := json.Marshal(map[string]any{"nodes": []any{map[string]any{
		"node": evil, "role": evil, "addresses": map[string]string{evil: evil},
	}}, "error": evil})
	if err != nil {
		t.Fatal(err)
	}
	reason, err := json.Marshal(map[string]string{"reason": evil})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	answers := make(chan string, 1)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(nc))
			_, _ = io.WriteString(nc, <-answers)
			nc.Close()
		}
	}()
	at := "http://" + ln.Addr().String()
	for _, row := range []struct {
		answer string
		flags  []string
	}{
		{"HTTP/1.1 200 OK\r\n\r\n" + string(text), nil},
		{"HTTP/1.1 200 OK\r\n\r\n" + string(text), []string{"--json"}},
		{"HTTP/1.1 401 No\r\n\r\n" + string(reason), nil},
		{"HTTP/1.1 500 \x1b[31m\u009b\r\n\r\n" + string(reason), nil},
	} {
		answers <- row.answer
		got := runFerry(t, nil, append([]string{"status", "--admin", at}, row.flags...)...)
		for _, r := range got.out + got.errors {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("%q %q: printed %q: %q %q", row.answer, row.flags, r, got.out, got.errors)
				break
			}
		}
		if lines := strings.Count(got.out, "\n"); lines > 2 {
			t.Errorf("%d lines: %q", lines, got.out)
		}
		if row.flags != nil {
			var n struct{ Node string }
			if err := json.Unmarshal([]byte(got.out), &n); err != nil || n.Node != evil {
				t.Errorf("--json: %q, %v", got.out, err)
			}
		}
	}
}
