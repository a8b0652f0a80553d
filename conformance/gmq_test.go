package conformance

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
)

// buildGMQ builds gmqserver and gmqclient once, into a directory.
var buildGMQ = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "gmq") + string(filepath.Separator)
	args := []string{"build", "-o", dir}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/gmqserver", "./cmd/gmqclient")...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return dir, nil
})

// gmqConfig is a configuration as GMQ's example has it, but for the port.
func gmqConfig(t *testing.T, queueType int, sections map[string]any) string {
	t.Helper()
	all := map[string]any{
		"auth":    map[string]any{"user": "guest", "password": "guest"},
		"network": map[string]any{"port": "0", "interface": "127.0.0.1", "protocol": "tcp4"},
		"queue": map[string]any{
			"queue_type": queueType, "max_queue_number": 32, "max_message_length": 4096, "max_queue_capacity": 4096,
		},
		"log": map[string]any{"path": "", "name": ""},
	}
	for name, section := range sections {
		all[name] = section
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "gmq.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// startGMQ runs gmqserver until the test ends, or stop is called.
func startGMQ(t *testing.T, config string) (addr string, stop func()) {
	t.Helper()
	dir, err := buildGMQ()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "gmqserver"), "-f", config)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	log := new(logBuffer)
	var reader sync.WaitGroup
	reader.Go(func() { log.follow(out, readyLine, ready) })
	stop = sync.OnceFunc(func() {
		stopProcess(t, cmd, &reader)
		if t.Failed() {
			t.Logf("gmqserver logged at last:\n%s", tail([]byte(log.String()), logLines))
		}
		if strings.Contains(log.String(), "DATA RACE") {
			t.Errorf("the race detector reported:\n%s", log)
		}
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case <-time.After(startLimit):
		t.Fatalf("gmqserver did not say %q within %s", readyLine, startLimit)
	}
	for _, m := range listening.FindAllStringSubmatch(log.String(), -1) {
		if m[1] == "gmq" {
			return m[2], stop
		}
	}
	t.Fatalf("gmqserver did not say where it listens:\n%s", log)
	return "", nil
}

// gmqclient runs the program, and returns the reply that it writes.
func gmqclient(t *testing.T, args ...string) gmqMessage {
	t.Helper()
	dir, err := buildGMQ()
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t.Context(), filepath.Join(dir, "gmqclient"), args...)
	if err != nil {
		t.Fatal(err)
	}
	var reply gmqMessage
	if err := json.Unmarshal(out, &reply); err != nil {
		t.Fatalf("gmqclient %q wrote %q: %v", args, out, err)
	}
	return reply
}

// everyByte is a body with each value of a byte.
func everyByte() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// The session of GMQ's README with each of its kinds of storage: messages are
// published, the server is started again, and they are taken in their order.
func TestGMQServerKeepsMessagesInEachStorage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		queueType int
		sections  func(t *testing.T) map[string]any
		forgets   bool
	}{
		{"memory", 1, func(*testing.T) map[string]any { return nil }, true},
		{"postgres", 2, func(t *testing.T) map[string]any {
			return map[string]any{"database": map[string]any{"vendor": "postgres", "dsn": dbtest.Postgres(t)}}
		}, false},
		{"mariadb", 2, func(t *testing.T) map[string]any {
			return map[string]any{"database": map[string]any{"vendor": "mysql", "dsn": mysqlDSN(t, dbtest.MariaDB(t))}}
		}, false},
		{"filesystem", 3, func(t *testing.T) map[string]any {
			return map[string]any{"filesystem": map[string]any{"path": t.TempDir()}}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := gmqConfig(t, c.queueType, c.sections(t))
			addr, stop := startGMQ(t, config)
			ask := func(operation string, more ...string) gmqMessage {
				t.Helper()
				m := gmqclient(t, append([]string{"-s", addr, "-q", "myqueue", "-a", operation}, more...)...)
				if m.Operation != operation || m.Queue != "myqueue" || m.Confirmed != "Y" || m.Error != nil || m.Auth.User != "" {
					t.Errorf("%s %q: %+v", operation, more, m)
				}
				return m
			}
			if m := ask("S"); m.Payload != "" {
				t.Errorf("an empty queue gave %+v", m)
			}
			bodies := [][]byte{[]byte("hello"), everyByte(), []byte("line\nbreak\n"), {}, bytes.Repeat([]byte("large"), 800)}
			for _, body := range bodies {
				ask("P", "-m", base64.StdEncoding.EncodeToString(body))
			}
			if m := ask("L"); m.Payload != "5" {
				t.Errorf("the length is %q", m.Payload)
			}
			stop()
			addr, _ = startGMQ(t, config)
			if c.forgets {
				if m := ask("L"); m.Payload != "0" {
					t.Errorf("after the restart the length is %q", m.Payload)
				}
				return
			}
			for _, body := range bodies {
				if got := ask("S").body(t); got != string(body) {
					t.Errorf("got %q, want %q", got, body)
				}
			}
			if m := ask("S"); m.Payload != "" {
				t.Errorf("a queue that was emptied gave %+v", m)
			}
		})
	}
}

// mysqlDSN is the URL of a database as Go's driver writes it, which is what GMQ's
// configuration has.
func mysqlDSN(t *testing.T, url string) string {
	t.Helper()
	rest, ok := strings.CutPrefix(url, "mysql://")
	at := strings.LastIndexByte(rest, '@')
	user, host := "", rest
	if at >= 0 {
		user, host = rest[:at+1], rest[at+1:]
	}
	host, name, found := strings.Cut(host, "/")
	if !ok || !found {
		t.Fatalf("%s is no URL of a database", url)
	}
	return user + "tcp(" + host + ")/" + name
}

// startGMQFerry is a ferry serve for GMQ's clients and others.
func startGMQFerry(t *testing.T) map[string]string {
	t.Helper()
	return serve(t, "--gmq", anyPort, "--stomp", anyPort, "--http", "off")
}

// What GMQ's client writes is taken as it writes it, in whatever pieces it arrives, and
// the replies are those that it knows.
func TestGMQsOwnClientIsServed(t *testing.T) {
	t.Parallel()
	addr := startGMQFerry(t)["gmq"]
	token := func(plain string) string { // by hand: the SHA-512 of nothing behind the text
		return plain + "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" +
			"47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
	}
	auth := `"auth":{"user":"` + token("6775657374") + `","password":"` + token("6775657374") + `"}}`
	request := func(operation, payload string) string {
		return `{"operation":"` + operation + `","queue":"own","payload":"` + payload + `","confirmation":"","error":null,` + auth
	}
	reply := func(operation, payload string) string {
		return `{"operation":"` + operation + `","queue":"own","payload":"` + payload + `","confirmation":"Y","error":null,"auth":{"user":"","password":""}}`
	}
	for i, c := range []struct{ request, reply string }{
		{request("L", ""), reply("L", "0")},
		{request("P", "aGVsbG8="), reply("P", "aGVsbG8=")},
		{strings.ToUpper(request("P", "")[:12]) + request("P", "AP8K")[12:], reply("P", "AP8K")},
		{request("L", ""), reply("L", "2")},
		{request("S", ""), reply("S", "aGVsbG8=")},
		{request("S", ""), reply("S", "AP8K")},
		{request("S", ""), reply("S", "")},
		{request("SYNC", ""), reply("SYNC", "")},
	} {
		var pieces [][]byte
		for begin := 0; begin < len(c.request); begin += 1 + i*50 { // bytes, halves, all at once
			pieces = append(pieces, []byte(c.request[begin:min(len(c.request), begin+1+i*50)]))
		}
		if got := string(exchangeGMQ(t, addr, false, pieces...)); got != c.reply {
			t.Errorf("%s\nis answered with %s\nwant             %s", c.request, got, c.reply)
		}
	}
}

// What is no request is answered with an error of JSON, and the server goes on.
func TestBrokenGMQRequestsAreAnswered(t *testing.T) {
	t.Parallel()
	addr := startGMQFerry(t)["gmq"]
	whole, err := json.Marshal(gmqRequest("P", "q", []byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	with := func(old, replacement string) string {
		if !strings.Contains(string(whole), old) {
			t.Fatalf("%s is not in %s", old, whole)
		}
		return strings.Replace(string(whole), old, replacement, 1)
	}
	for name, request := range map[string]string{
		"nothing":                   "{}",
		"a half":                    string(whole[:len(whole)/2]),
		"all but the end":           string(whole[:len(whole)-1]),
		"a brace":                   "{",
		"no JSON":                   "{hello}",
		"an array within":           `{"operation":["P"]}`,
		"a number":                  with(`"operation":"P"`, `"operation":5`),
		"no operation":              with(`"operation":"P",`, ``),
		"another operation":         with(`"operation":"P"`, `"operation":"X"`),
		"no queue":                  with(`"queue":"q"`, `"queue":""`),
		"a queue that is too long":  with(`"queue":"q"`, `"queue":"`+strings.Repeat("q", 256)+`"`),
		"a payload that is none":    with(`"payload":"eA=="`, `"payload":"%%%"`),
		"half a payload":            with(`"payload":"eA=="`, `"payload":"eA="`),
		"a payload of numbers":      with(`"payload":"eA=="`, `"payload":[1]`),
		"no auth":                   with(`"auth":`, `"auth2":`),
		"a wrong password":          with(gmqToken("guest")+`"}`, gmqToken("wrong")+`"}`),
		"a token that is none":      with(gmqToken("guest"), "zz"+gmqToken("")),
		"a control character":       with(`"queue":"q"`, "\"queue\":\"\x01\""),
		"a comma too many":          with(`"queue":"q",`, `"queue":"q",,`),
		"no colon":                  with(`"queue":`, `"queue"`),
		"an escape that is none":    with(`"queue":"q"`, `"queue":"\x"`),
		"deep nesting":              `{"a":` + strings.Repeat("[", 100_000),
		"more than a stranger may":  with(`"payload":"eA=="`, `"payload":"`+strings.Repeat("eHh4", 20_000)+`"`),
		"an unknown acknowledgment": with(`"operation":"P"`, `"id":"5","operation":"A"`),
	} {
		t.Run(name, func(t *testing.T) {
			text := exchangeGMQ(t, addr, true, []byte(request))
			var reply struct {
				gmqMessage
				ErrorText string `json:"error_text"`
			}
			if err := json.Unmarshal(text, &reply); err != nil {
				t.Fatalf("answered with %q: %v", text, err)
			}
			if empty, ok := reply.Error.(map[string]any); reply.Confirmed != "N" || !ok || len(empty) > 0 || reply.ErrorText == "" {
				t.Errorf("answered with %s", text)
			}
			if strings.Contains(string(text), gmqToken("")) {
				t.Errorf("a token is in the answer: %s", text)
			}
		})
	}
	if m := askGMQ(t, addr, gmqRequest("P", "q", []byte("x"))); m.Confirmed != "Y" {
		t.Errorf("%+v", m)
	}
	if m := askGMQ(t, addr, gmqRequest("S", "q", nil)); m.body(t) != "x" {
		t.Errorf("%+v", m)
	}
	if m := askGMQ(t, addr, gmqRequest("L", "q", nil)); m.Payload != "0" {
		t.Errorf("%+v", m)
	}
}
