package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	rabbitScript  = "../scripts/rabbitmq"
	rabbitMissing = 3 // what it exits with when RabbitMQ is not there
	rabbitLimit   = 3 * time.Minute
)

// A rabbit is a single RabbitMQ node on loopback. Its methods are for the test's
// goroutine.
type rabbit struct {
	t     *testing.T
	dir   string
	addr  string
	url   string
	stomp string // address; "": its plugin is not enabled
	pid   int
}

// startRabbit starts a node that ends with the test.
func startRabbit(t *testing.T) *rabbit {
	t.Helper()
	return startRabbitSTOMP(t, "")
}

// startRabbitSTOMP starts one that serves STOMP too, at an address.
func startRabbitSTOMP(t *testing.T, stomp string) *rabbit {
	t.Helper()
	addr := freeAddress(t)
	r := &rabbit{t: t, dir: filepath.Join(t.TempDir(), "rabbit"), addr: addr, url: url(addr), stomp: stomp}
	t.Cleanup(func() {
		if t.Failed() {
			if text, err := os.ReadFile(filepath.Join(r.dir, "log", "node.log")); err == nil {
				lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
				t.Logf("RabbitMQ logged at last:\n%s", strings.Join(lines[max(len(lines)-logLines, 0):], "\n"))
			}
		}
		if _, err := r.script(context.Background(), "stop"); err != nil {
			t.Error(err)
		}
	})
	r.up()
	return r
}

func (r *rabbit) script(ctx context.Context, command string, args ...string) (string, error) {
	return run(ctx, rabbitScript, append([]string{command, "--dir", r.dir}, args...)...)
}

// run runs a program and returns what it prints.
func run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, rabbitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// up starts the node, at the same address and with what it had.
func (r *rabbit) up() {
	r.t.Helper()
	_, port, _ := strings.Cut(r.addr, ":")
	args := []string{"--port", port, "--while", strconv.Itoa(os.Getpid())}
	if _, port, ok := strings.Cut(r.stomp, ":"); ok {
		args = append(args, "--stomp-port", port)
	}
	out, err := r.script(r.t.Context(), "start", args...)
	if exitCode(err) == rabbitMissing {
		missing(r.t, "RabbitMQ (scripts/setup): %v", err)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if pid, ok := strings.CutPrefix(strings.TrimSpace(line), "pid="); ok {
			if r.pid, err = strconv.Atoi(pid); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// kill ends the node without a chance to do anything. It returns when up can
// start it again.
func (r *rabbit) kill() {
	r.t.Helper()
	if err := syscall.Kill(r.pid, syscall.SIGKILL); err != nil {
		r.t.Fatalf("kill RabbitMQ: %v", err)
	}
	r.stop()
}

// stop asks the node to end, and ends what belongs to it.
func (r *rabbit) stop() {
	r.t.Helper()
	if _, err := r.script(r.t.Context(), "stop"); err != nil { // its epmd, and what tells of it
		r.t.Fatal(err)
	}
}

// ctl runs rabbitmqctl.
func (r *rabbit) ctl(args ...string) string {
	r.t.Helper()
	out, err := run(r.t.Context(), filepath.Join(r.dir, "rabbitmqctl"), append([]string{"-q"}, args...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rabbit) signal(s syscall.Signal) {
	r.t.Helper()
	signal(r.t, r.pid, s)
}

// in is the node for a subtest.
func (r *rabbit) in(t *testing.T) *rabbit {
	c := *r
	c.t = t
	return &c
}
