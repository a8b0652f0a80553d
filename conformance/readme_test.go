package conformance

import (
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// block finds the first code block of a language in the README.
func block(t *testing.T, language string) string { return blocks(t, language)[0] }

// blocks finds the code blocks of a language in the README. There are some.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	var list []string
	for _, p := range passages(t, "../README.md") {
		if p.kind == language {
			list = append(list, p.code)
		}
	}
	if len(list) == 0 {
		t.Fatalf("the README has no block of %s", language)
	}
	return list
}

// The README's commands for messages are run, but with a binary that is there
// already, and its lines of Go are compiled.
func TestFirstScreenOfTheReadmeSendsFromTheCommandLineAndFromGo(t *testing.T) {
	t.Parallel()
	bin, err := buildFerry()
	if err != nil {
		t.Fatal(err)
	}
	commands := blocks(t, "sh")[1]
	if !strings.Contains(commands, " send ") || !strings.Contains(commands, " receive ") {
		t.Fatalf("the README's second block of sh is\n%s", commands)
	}
	broker := startStompFerry(t)
	script := "export FERRY_URL=" + broker.amqp + "\n" +
		strings.NewReplacer("go run ./cmd/ferry", bin, "stomp://localhost", broker.stomp).Replace(commands)
	got, _ := lines(runScript(t, t.TempDir(), script))
	if want := []string{"2 confirmed", "one", "two"}; !slices.Equal(got, want) {
		t.Errorf("the commands printed %q, want %q", got, want)
	}

	buildProgram(t, t.TempDir(), `package main

import (
	"context"

	"github.com/ferrymq/ferry"
)

func main() { _ = try(context.Background(), nil) }

func try(ctx context.Context, handle func(context.Context, *ferry.Delivery) error) error {
`+block(t, "go")+`
	return err
}
`)
}

// TestFirstScreenOfTheReadmeSendsAMessage runs the README's program, word for
// word but for the port, against a broker that was started as the README says.
func TestFirstScreenOfTheReadmeSendsAMessage(t *testing.T) {
	t.Parallel()
	if start := strings.TrimSpace(block(t, "sh")); start != "go run ./cmd/ferry serve" {
		t.Errorf("the README starts a broker with %q; this test starts the same binary with serve", start)
	}
	const python = ".venv/bin/python"
	if _, err := os.Stat(python); err != nil {
		missing(t, "pika, in conformance/.venv (make setup installs it)")
	}
	u, err := url.Parse(startFerry(t))
	if err != nil {
		t.Fatal(err)
	}
	program := strings.Replace(block(t, "python"), "localhost:5672", u.Host, 1)
	out, err := run(t.Context(), python, "-c", program)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(out), "b'Hello, World!'\n"; got != want {
		t.Errorf("it printed %q, and the README says %q", got, want)
	}
}
