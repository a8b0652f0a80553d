package dbtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A Server is a database server of a test's own, which the test may kill.
type Server struct {
	// URL is that of its first database, which is empty. Others are made on it by
	// its user.
	URL string

	t testing.TB
	r running
}

// Start starts a server of a kind, which is gone after the test.
func Start(t testing.TB, kind string) *Server {
	t.Helper()
	r, err := start(kind)
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(func() {
		if _, err := script("stop", "--dir", r.dir); err != nil {
			t.Error(err)
		}
	})
	return &Server{URL: r.url, t: t, r: r}
}

// Kill kills the server at once, with all its processes. What it had made durable is
// there when it is Up again.
func (s *Server) Kill() { s.run("kill") }

// Up starts the server again, at the same address, and waits until it serves.
func (s *Server) Up() { s.run("up") }

// Restart ends the server as it wants to be ended, and starts it again. Connections
// are ended, transactions under way rolled back.
func (s *Server) Restart() { s.run("restart") }

func (s *Server) run(command string) {
	s.t.Helper()
	if _, err := script(command, "--dir", s.r.dir); err != nil {
		s.t.Fatal(err)
	}
}

// running is what scripts/database says of a server that it has started.
type running struct{ kind, url, dir string }

func start(kind string) (running, error) {
	said, err := script("start", kind, "--while", strconv.Itoa(os.Getpid()))
	if err != nil {
		return running{}, err
	}
	return running{kind: kind, url: said["url"], dir: said["dir"]}, nil
}

// errMissing is that of a server that is not installed.
var errMissing = errors.New("the database is not installed")

// missing ends a test that has no server. In CI nothing may be missing.
func missing(t testing.TB, err error) {
	t.Helper()
	switch {
	case !errors.Is(err, errMissing):
		t.Fatal(err)
	case os.Getenv("CI") == "true":
		t.Fatalf("missing, and CI=true: %v", err)
	default:
		t.Skipf("missing: %v", err)
	}
}

// script runs scripts/database and returns the assignments that it prints.
func script(args ...string) (map[string]string, error) {
	const exitMissing = 3
	path, err := find(filepath.Join("scripts", "database"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == exitMissing {
		return nil, fmt.Errorf("%w: %s", errMissing, bytes.TrimSpace(stderr.Bytes()))
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	said := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			said[name] = strings.Trim(value, "'")
		}
	}
	return said, nil
}

// find looks for a file of the repository in the directories above the test's.
func find(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("there is no %s above the test", name)
		}
		dir = up
	}
}
