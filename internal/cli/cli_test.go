package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/ferrymq/ferry/internal/dbtest"
)

// result is what a command line left behind.
type result struct {
	code        int
	out, errors string
}

func runFerry(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	return runReading(t, env, "", args...)
}

// runReading is runFerry with a standard input.
func runReading(t *testing.T, env map[string]string, stdin string, args ...string) result {
	t.Helper()
	var out, errors bytes.Buffer
	code := Run(t.Context(), System{
		Args: args, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errors,
		Getenv: func(name string) string { return env[name] },
	})
	return result{code, out.String(), errors.String()}
}

func TestExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, row := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{nil, 0, ""},
		{[]string{"--help"}, 0, ""},
		{[]string{"help", "serve"}, 0, ""},
		{[]string{"version"}, 0, ""},
		{[]string{"version", "extra"}, 2, "ferry version: "},
		{[]string{"sreve"}, 2, "serve"},
		{[]string{"--nonsense"}, 2, "unknown flag: --nonsense"},
		{[]string{"serve", "--amqpp", ":1"}, 2, "did you mean --amqp?"},
		{[]string{"serve", "extra"}, 2, "ferry serve: "},
		{[]string{"serve", "--store", "redis://x"}, 2, "--store: "},
		{[]string{"serve", "--store", "memory:", "--amqp", taken.Addr().String(), "--stomp", "off", "--gmq", "off", "--http", "off"}, 1, "--amqp"},
		{[]string{"dump"}, 2, "accepts 1 arg"},
		{[]string{"dump", filepath.Join(t.TempDir(), "nowhere")}, 1, "there is no store"},
		{[]string{"dump", "postgres://u@h/db"}, 2, "ferry_batch"},
		{[]string{"dump", t.TempDir()}, 1, "there is no store"},
		{[]string{"completion", "tcsh"}, 2, "tcsh"},
		{[]string{"send", "-u", "stomp://localhost?hertbeat=3", "-q", "q", "x"}, 2, "did you mean heartbeat?"},
		{[]string{"receive", "-u", "stomp://localhost?dialect=rabbit", "-q", "q"}, 2, "parameter dialect: must be"},
	} {
		got := runFerry(t, nil, row.args...)
		if got.code != row.code || !strings.Contains(got.errors, row.stderr) {
			t.Errorf("ferry %q: exit code %d, want %d, with %q on stderr:\n%s", row.args, got.code, row.code, row.stderr, got.errors)
		}
		if row.code != 0 && got.out != "" {
			t.Errorf("ferry %q: an error is on stdout: %s", row.args, got.out)
		}
	}
}

func TestVersion(t *testing.T) {
	if got := runFerry(t, nil, "version"); !regexp.MustCompile(`^ferry \S+, .*go1\.`).MatchString(got.out) {
		t.Errorf("got %q", got.out)
	}
	for name, got := range map[string]result{
		"flag":        runFerry(t, nil, "version", "--json"),
		"environment": runFerry(t, map[string]string{"FERRY_JSON": "true"}, "version"),
	} {
		var v versionInfo
		if err := json.Unmarshal([]byte(got.out), &v); err != nil || v.Version == "" || v.Go == "" {
			t.Errorf("by %s: got %q, %v", name, got.out, err)
		}
	}
	if got := runFerry(t, map[string]string{"FERRY_JSON": "maybe"}, "version"); got.code != 2 || !strings.Contains(got.errors, "$FERRY_JSON") {
		t.Errorf("a bad variable: %+v", got)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := runFerry(t, nil, "completion", shell); got.code != 0 || !strings.Contains(got.out, "ferry") {
			t.Errorf("%s: exit code %d, %d bytes", shell, got.code, len(got.out))
		}
	}
	if got := runFerry(t, nil, "__complete", "serve", "--tls"); !strings.Contains(got.out, "--tls-cert") {
		t.Errorf("the flags of serve are not completed: %q", got.out)
	}
}

// Every command has a line about itself, and examples that it understands.
func TestHelp(t *testing.T) {
	root := newRoot(System{})
	for _, cmd := range append(root.Commands(), root) {
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s has no short help, or no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				mustParse(t, line)
			}
		}
	}
	if got := runFerry(t, nil, "serve", "--help"); strings.Contains(got.out, "pprof") || !strings.Contains(got.out, "--disk-free-limit SIZE") {
		t.Errorf("the help of serve:\n%s", got.out)
	}
}

// mustParse fails if a line of a shell, a command of ours, is not understood.
func mustParse(t *testing.T, line string) {
	t.Helper()
	i := strings.Index(line, "ferry ")
	if i < 0 {
		t.Errorf("not a command of ours: %s", line)
		return
	}
	line, _, _ = strings.Cut(line[i+len("ferry "):], "|")
	line, _, _ = strings.Cut(line, ">")
	args := strings.Fields(strings.TrimRight(strings.TrimSpace(line), ")&"))
	cmd, rest, err := newRoot(System{}).Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err == nil && cmd.Name() == "serve" {
		err = understood(cmd)
	}
	if err != nil {
		t.Errorf("%q: %v", args, err)
	}
}

// understood looks at the values of serve's flags, but not for files.
func understood(cmd *cobra.Command) error {
	for _, o := range serveOptions() {
		if strings.HasPrefix(o.name, "tls-") || o.name == "config" {
			continue
		}
		if err := o.set(&serveConfig{}, cmd.Flag(o.name).Value.String(), true); err != nil {
			return err
		}
	}
	return nil
}

func TestServeUntilItIsStopped(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		ctx, stop := context.WithCancel(t.Context())
		r, w := io.Pipe()
		code := make(chan int, 1)
		go func() {
			code <- Run(ctx, System{
				Args:   []string{"serve", "--store", "memory:", "--amqp", "127.0.0.1:0", "--stomp", "127.0.0.1:0", "--gmq", "off", "--http", "127.0.0.1:0", "--log-format", format, "--log-level", "error"},
				Stdout: io.Discard, Stderr: w,
				Getenv: func(string) string { return "" },
			})
			w.Close()
		}()
		lines := bufio.NewScanner(r)
		if !lines.Scan() || !strings.Contains(lines.Text(), "Server startup complete") {
			t.Fatalf("%s: the first line is %q", format, lines.Text())
		}
		found := regexp.MustCompile(`amqp\W+127.*http\W+(127\.0\.0\.1:\d+).*stomp\W+127`).FindStringSubmatch(lines.Text())
		if found == nil {
			t.Fatalf("%s: not all listeners are in %q", format, lines.Text())
		}
		if format == "json" && !json.Valid(lines.Bytes()) {
			t.Errorf("not JSON: %s", lines.Text())
		}
		resp, err := http.Get("http://" + found[1] + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: /readyz: %s", format, resp.Status)
		}
		if got := runFerry(t, nil, "status", "--admin", "http://"+found[1]); got.code != exitDone || !strings.Contains(got.out, "  live ") || strings.Count(got.out, "\n") != 2 {
			t.Errorf("%s: ferry status: %+v", format, got)
		}
		stop()
		for lines.Scan() {
			t.Errorf("%s: more than errors is told: %s", format, lines.Text())
		}
		if c := <-code; c != 0 {
			t.Errorf("%s: exit code %d", format, c)
		}
	}
}

// nextLine waits for a line that begins with a text, and returns the rest of it.
func nextLine(t *testing.T, lines *bufio.Scanner, text string) string {
	t.Helper()
	var passed []string
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), text); ok {
			return rest
		}
		passed = append(passed, lines.Text())
	}
	t.Fatalf("no line begins with %q:\n%s", text, strings.Join(passed, "\n"))
	return ""
}

func TestServeOnASharedStore(t *testing.T) {
	url := dbtest.Postgres(t)
	type broker struct {
		lines *bufio.Scanner
		stop  context.CancelFunc
		code  chan int
	}
	begin := func(name string) broker {
		ctx, stop := context.WithCancel(t.Context())
		r, w := io.Pipe()
		b := broker{lines: bufio.NewScanner(r), stop: stop, code: make(chan int, 1)}
		go func() {
			b.code <- Run(ctx, System{
				Args:   []string{"serve", "--node", name, "--amqp", "127.0.0.1:0", "--stomp", "off", "--gmq", "off", "--http", "127.0.0.1:0"},
				Stdout: io.Discard, Stderr: w,
				Getenv: func(name string) string { return map[string]string{"FERRY_STORE": url}[name] },
			})
			w.Close()
		}()
		return b
	}
	end := func(b broker) {
		b.stop()
		for b.lines.Scan() {
			continue
		}
		if code := <-b.code; code != exitDone {
			t.Errorf("exit code %d", code)
		}
	}
	a := begin("a")
	nextLine(t, a.lines, readyText+": amqp 127.0.0.1:")
	b := begin("b")
	at := nextLine(t, b.lines, standbyText+": http ")
	both := regexp.MustCompile(`(?m)^a +live +1 +\d+ .*amqp=127.*\nb +standby +1 +\d+ `)
	for over := time.Now().Add(20 * time.Second); ; { // they tell each other again and again
		got := runFerry(t, nil, "status", "--admin", "http://"+at)
		if got.code == exitDone && both.MatchString(got.out) {
			break
		}
		if time.Now().After(over) {
			t.Fatalf("ferry status: %+v", got)
		}
	}
	end(a)
	nextLine(t, b.lines, readyText+": amqp 127.0.0.1:")
	end(b)
}
