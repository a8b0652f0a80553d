package conformance

import (
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
)

// block finds the first code block of a language in the README.
func block(t *testing.T, language string) string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(b)
	if m == nil {
		t.Fatalf("the README has no block of %s", language)
	}
	return string(m[1])
}

// TestFirstScreenOfTheReadmeSendsAMessage runs the README's program, word for
// word but for the port, against a broker that was started as the README says.
func TestFirstScreenOfTheReadmeSendsAMessage(t *testing.T) {
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
