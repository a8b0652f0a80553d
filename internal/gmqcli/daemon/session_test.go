package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/gmqcli"
)

// patience is how long a test waits for what must come, at most.
const patience = 30 * time.Second

// output is what a server prints. It tells when a line is there.
type output struct {
	mu    sync.Mutex
	text  strings.Builder
	wrote chan struct{} // one slot
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.wrote <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// running is a server that runs in the test's process.
type running struct {
	addr  string
	out   *output
	ended chan struct{}
	stop  func()
}

// start runs gmqserver with a configuration until the test ends or stop is called,
// and waits until it serves.
func start(t *testing.T, config string, flags ...string) *running {
	t.Helper()
	r := begin(t, config, flags...)
	_, port, err := net.SplitHostPort(r.await(t, readyText, " gmq "))
	if err != nil {
		t.Fatal(err)
	}
	r.addr = net.JoinHostPort("localhost", port)
	return r
}

// begin is start without waiting.
func begin(t *testing.T, config string, flags ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{out: &output{wrote: make(chan struct{}, 1)}, ended: make(chan struct{})}
	code := exitDone
	go func() {
		defer close(r.ended)
		code = Run(ctx, System{Args: append([]string{"-f", write(t, config)}, flags...), Stdout: r.out, Stderr: r.out})
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-r.ended
		if code != exitDone {
			t.Errorf("gmqserver ended with %d:\n%s", code, r.out)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// await waits for a line that a server prints, and returns what is behind before in
// it, up to a comma.
func (r *running) await(t *testing.T, line, before string) string {
	t.Helper()
	over := time.After(patience)
	for {
		_, rest, _ := strings.Cut(r.out.String(), line)
		if text, _, whole := strings.Cut(rest, "\n"); whole {
			_, text, _ = strings.Cut(text, before)
			text, _, _ = strings.Cut(text, ",")
			return text
		}
		select {
		case <-r.out.wrote:
		case <-r.ended:
			t.Fatalf("gmqserver has ended:\n%s", r.out)
		case <-over:
			t.Fatalf("gmqserver does not say %q:\n%s", line, r.out)
		}
	}
}

// client runs gmqclient with flags, and returns what it writes.
func client(t *testing.T, flags ...string) (reply, errors string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = gmqcli.Run(t.Context(), gmqcli.System{Args: flags, Stdout: &stdout, Stderr: &stderr})
	return stdout.String(), stderr.String(), code
}

// say is client, whose reply must be a confirmation.
func say(t *testing.T, flags ...string) (payload string) {
	t.Helper()
	reply, errors, code := client(t, flags...)
	var r struct{ Payload, Confirmation string }
	if err := json.Unmarshal([]byte(reply), &r); err != nil || r.Confirmation != "Y" || errors != "" || code != 0 {
		t.Fatalf("gmqclient %q: %s %s (%d, %v)", flags, reply, errors, code, err)
	}
	return r.Payload
}

// storages are configurations with each kind of storage; restarted tells whether
// messages are kept when the server is started again.
func storages(t *testing.T, test func(t *testing.T, config string, kept bool)) {
	const config = `{"network":{"port":"0","interface":"127.0.0.1"},` +
		`"queue":{"queue_type":%d,"max_queue_number":32,"max_message_length":4096,"max_queue_capacity":4096}%s}`
	t.Run("memory", func(t *testing.T) { test(t, fmt.Sprintf(config, 1, ""), false) })
	t.Run("filesystem", func(t *testing.T) {
		test(t, fmt.Sprintf(config, 3, fmt.Sprintf(`,"filesystem":{"path":%q}`, t.TempDir())), true)
	})
	dbtest.Each(t, func(t *testing.T, database string) {
		vendor, dsn := "postgres", database
		if u, err := url.Parse(database); err == nil && u.Scheme == "mysql" { // as GMQ has it
			password, _ := u.User.Password()
			vendor, dsn = "mysql", fmt.Sprintf("%s:%s@tcp(%s)%s", u.User.Username(), password, u.Host, u.Path)
		}
		test(t, fmt.Sprintf(config, 2, fmt.Sprintf(`,"database":{"vendor":%q,"dsn":%q}`, vendor, dsn)), true)
	})
}

// The session of GMQ's README with each of its storages: what is published is taken
// in its order and byte for byte, also after the server was started again.
func TestReadmeSession(t *testing.T) {
	var all []byte
	for i := range 256 {
		all = append(all, byte(i))
	}
	messages := []string{"base64messagetobesendtotheserver", base64.StdEncoding.EncodeToString(all), "", "Cg=="}
	storages(t, func(t *testing.T, config string, kept bool) {
		s := start(t, config)
		if got := say(t, "-s", s.addr, "-q", "myqueue", "-a", "S"); got != "" {
			t.Errorf("from an empty queue: %q", got)
		}
		for _, m := range messages {
			say(t, "-s", s.addr, "-q", "myqueue", "-a", "P", "-m", m)
		}
		if got := say(t, "-s", s.addr, "-q", "myqueue", "-a", "S"); got != messages[0] {
			t.Errorf("got %q first", got)
		}
		left := messages[1:]
		if kept {
			s.stop()
			s = start(t, config)
		}
		if got, want := say(t, "-s", s.addr, "-q", "myqueue", "-a", "L"), fmt.Sprint(len(left)); got != want {
			t.Errorf("%s messages, want %s", got, want)
		}
		for _, want := range append(left, "") {
			if got := say(t, "-s", s.addr, "-q", "myqueue", "-a", "S"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if r, _, _ := client(t, "-s", s.addr, "-q", "myqueue", "-a", "P", "-m", base64.StdEncoding.EncodeToString(make([]byte, 4097))); !strings.Contains(r, "CONTENT_TOO_LARGE") {
			t.Errorf("over max_message_length: %s", r)
		}
	})
}

func TestServerSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no file":         {[]string{"-f", filepath.Join(t.TempDir(), "none")}, exitFailed, "Could not start server: configuration error\nConfiguration file not available"},
		"all at once":     {[]string{"-f", write(t, `{}`), "-standby", "x", "-tls-ca", "y"}, exitFailed, "-standby x: there are refuse and proxy"},
		"an unknown flag": {[]string{"-x"}, exitUsage, "flag provided but not defined: -x"},
		"an argument":     {[]string{"gmq.json"}, exitUsage, "the configuration is given with -f"},
		"help":            {[]string{"-h"}, exitDone, "gmqserver -f /etc/gmq/gmq.json"},
	} {
		var out bytes.Buffer
		if code := Run(t.Context(), System{Args: c.args, Stdout: &out, Stderr: &out}); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: %d\n%s", name, code, &out)
		}
	}
}

func TestLogGoesWhereTheConfigurationSays(t *testing.T) {
	dir := t.TempDir()
	config := `{"network":{"port":0,"interface":"127.0.0.1"},"queue":{"queue_type":1,` + limits + `},"log":{"path":%q,"name":"gmq.log"}}`
	s := start(t, fmt.Sprintf(config, dir))
	s.stop()
	text, err := os.ReadFile(filepath.Join(dir, "gmq.log"))
	if err != nil || !strings.Contains(string(text), logPrefix) || !strings.Contains(string(text), readyText) {
		t.Errorf("%q, %v", text, err)
	}
	if s = start(t, fmt.Sprintf(config, filepath.Join(dir, "none"))); !strings.Contains(s.out.String(), "Defaulting log to STDOUT") {
		t.Errorf("%s", s.out)
	}
}

func TestClientSaysWhatIsWrong(t *testing.T) {
	s := start(t, `{"network":{"port":0,"interface":"127.0.0.1"},"queue":{"queue_type":1,`+limits+`}}`)
	ask := []string{"-s", s.addr, "-q", "q", "-a"}
	file := filepath.Join(t.TempDir(), "out")
	for name, c := range map[string]struct {
		args        []string
		code        int
		out, errors string
	}{
		"no user":         {[]string{"-user", "", "-a", "S", "-q", "q"}, 1, "", "User cannot be null! Set -user"},
		"no password":     {[]string{"-password", "", "-a", "S", "-q", "q"}, 1, "", "Password cannot be null! Set -password"},
		"no action":       {[]string{"-q", "q"}, 1, "", "Action cannot be null! Set -a"},
		"no queue":        {[]string{"-a", "S"}, 1, "", "Queue name cannot be null! Set -q"},
		"a protocol":      {append(ask, "S", "-p", "udp"), 1, "", "-p udp: there are tcp, tcp4 and tcp6"},
		"an argument":     {append(ask, "P", "hello"), 1, "", `unexpected "hello": a message is given with -m`},
		"refused":         {append(ask, "P", "-m", "%"), 0, `"confirmation":"N"`, "[GMQ Client] "},
		"refused, -check": {append(ask, "P", "-m", "%", "-check"), 1, `"confirmation":"N"`, "the server has not confirmed: COMMAND_INVALID - "},
		"nobody there":    {[]string{"-s", "127.0.0.1:1", "-q", "q", "-a", "S"}, 1, "", "Error in call to server 127.0.0.1:1: "},
		"TLS":             {append(ask, "S", "-tls"), 1, "", "Error in call to server"},
		"a wrong user":    {append(ask, "S", "-password", "x"), 0, `"confirmation":"N"`, "ACCESS_REFUSED - authentication failed"},
		"to a file":       {append(ask, "L", "-o", file), 0, "", ""},
		"a log":           {append(ask, "P", "-m", "%", "-l", file+".log"), 0, `"confirmation":"N"`, ""},
		"decoded":         {append(ask, "L", "-decode"), 0, "0", ""},
	} {
		out, errors, code := client(t, c.args...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errors, c.errors) || c.errors == "" && errors != "" {
			t.Errorf("%s: %d\n%s\n%s", name, code, out, errors)
		}
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), `"payload":"0"`) {
		t.Errorf("the file of -o: %s, %v", text, err)
	}
	if text, err := os.ReadFile(file + ".log"); err != nil || !strings.Contains(string(text), "[GMQ Client] ") {
		t.Errorf("the file of -l: %s, %v", text, err)
	}
}

// What a server says goes to a terminal without what that would obey.
func TestClientPrintsNoControls(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if nc, err := ln.Accept(); err == nil {
			_, _ = nc.Read(make([]byte, 4096))
			_, _ = nc.Write([]byte(`{"confirmation":"N","error":{},"error_text":"no\u001b[31m\r\n\u009b way"}`))
			nc.Close()
		}
	}()
	if _, errors, _ := client(t, "-s", ln.Addr().String(), "-q", "q", "-a", "S"); !strings.HasSuffix(errors, "the server has not confirmed: no[31m way\n") {
		t.Errorf("%q", errors)
	}
}

// A message too large for whom the server does not know yet: the client lets it
// know first.
func TestClientPublishesLargeMessages(t *testing.T) {
	s := start(t, `{"network":{"port":0,"interface":"127.0.0.1"},"queue":{"queue_type":1,"max_queue_number":1,"max_message_length":1000000,"max_queue_capacity":9}}`)
	large := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("large"), 30_000))
	say(t, "-s", s.addr, "-q", "q", "-a", "P", "-m", large)
	if got := say(t, "-s", s.addr, "-q", "q", "-a", "S"); got != large {
		t.Errorf("got %d bytes, want %d", len(got), len(large))
	}
	out, _, _ := client(t, "-s", s.addr, "-q", "q", "-a", "P", "-m", large, "-password", "x")
	if !strings.Contains(out, "ACCESS_REFUSED") {
		t.Errorf("with a wrong password: %s", out)
	}
}

// certificate writes a certificate for this machine, and its key, to files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
}

// With a certificate the same port serves both who encrypts and who does not.
func TestTLS(t *testing.T) {
	cert, key := certificate(t)
	s := start(t, `{"network":{"port":0,"interface":"127.0.0.1"},"queue":{"queue_type":1,"max_queue_number":1,"max_message_length":1000000,"max_queue_capacity":9}}`,
		"-tls-cert", cert, "-tls-key", key)
	secret, large := base64.StdEncoding.EncodeToString([]byte("secret")), strings.Repeat("A", 200_000)
	for _, m := range []string{secret, large} {
		say(t, "-s", s.addr, "-q", "q", "-a", "P", "-m", m, "-ca", cert)
		if got := say(t, "-s", s.addr, "-q", "q", "-a", "S", "-tls", "-ca", cert); got != m {
			t.Errorf("got %d bytes, want %d", len(got), len(m))
		}
	}
	say(t, "-s", s.addr, "-q", "q", "-a", "P", "-m", secret)
	if _, errors, code := client(t, "-s", s.addr, "-q", "q", "-a", "S", "-tls"); code != exitFailed || !strings.Contains(errors, "certificate") {
		t.Errorf("an authority that nobody trusts: %d, %s", code, errors)
	}
}

// AMQP's clients are served on the same queues, if that is asked for.
func TestOtherListeners(t *testing.T) {
	s := start(t, `{"network":{"port":0,"interface":"127.0.0.1"},"queue":{"queue_type":1,`+limits+`}}`, "-amqp", "127.0.0.1:0", "-http", "127.0.0.1:0")
	if text := s.out.String(); !strings.Contains(text, "http 127.0.0.1:") || !strings.Contains(text, "amqp 127.0.0.1:") {
		t.Errorf("%s", text)
	}
}

// Two servers with one database: one serves, the other stands by, and takes over
// with all messages when the first ends.
func TestServersWithOneDatabase(t *testing.T) {
	config := fmt.Sprintf(`{"network":{"port":"0","interface":"127.0.0.1"},"queue":{"queue_type":2,"max_queue_number":32,"max_message_length":4096,"max_queue_capacity":4096},`+
		`"database":{"vendor":"postgres","dsn":%q}}`, dbtest.Postgres(t))
	live := start(t, config)
	say(t, "-s", live.addr, "-q", "q", "-a", "P", "-m", "aGVsbG8=")
	other := begin(t, config)
	other.await(t, standbyText+":", "")
	live.stop()
	_, port, err := net.SplitHostPort(other.await(t, readyText, " gmq "))
	if err != nil {
		t.Fatal(err)
	}
	if got := say(t, "-s", "localhost:"+port, "-q", "q", "-a", "S"); got != "aGVsbG8=" {
		t.Errorf("got %q", got)
	}
}
