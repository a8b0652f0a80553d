package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyWithin = 60 * time.Second
	stopWithin  = 60 * time.Second
	readyLine   = "Server startup complete"
)

// node is a broker that runs.
type node struct {
	addr  string // of AMQP
	stomp string // the URL of STOMP, if that was asked for
	gmq   string // of GMQ, if that was asked for
	pid   int
	began time.Time     // when it was executed
	ready time.Duration // from then to its ready line
	end   func(syscall.Signal) error
}

// kill ends the broker as kill -9 does, stop as a service manager does. Both
// return when it has ended, and may be called again.
func (n *node) kill() error { return n.end(syscall.SIGKILL) }
func (n *node) stop() error { return n.end(syscall.SIGTERM) }

// broker starts nodes. Its data is in dir, which need not exist.
type broker interface {
	start(ctx context.Context, dir string, flags ...string) (*node, error)
}

// ferry is the binary of the broker under test.
type ferry struct {
	binary string
	store  string // the URL of its store; "": files
	stomp  bool   // it listens for STOMP
	gmq    bool   // it listens for GMQ
}

func (f ferry) start(ctx context.Context, dir string, flags ...string) (*node, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	stomp, gmq := "off", "off"
	for listener, wanted := range map[*string]bool{&stomp: f.stomp, &gmq: f.gmq} {
		if !wanted {
			continue
		}
		if *listener, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	args := append([]string{
		"serve", "--store", cmp.Or(f.store, "file:"+filepath.Join(dir, "store")),
		"--amqp", addr, "--http", "off", "--stomp", stomp, "--gmq", gmq,
	}, flags...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	cmd := exec.Command(f.binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	n := &node{addr: addr, stomp: stompURL(stomp), gmq: gmq, began: time.Now()}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	n.pid = cmd.Process.Pid

	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		in.Close()
		close(gone)
	}()
	ready := make(chan time.Time, 1)
	said := &tail{keep: 20}
	go said.follow(out, func(line string) {
		if strings.Contains(line, readyLine) {
			select {
			case ready <- time.Now():
			default:
			}
		}
	})
	n.end = func(sig syscall.Signal) error {
		select {
		case <-gone: // its pid may be another's by now
			return nil
		default:
		}
		_ = cmd.Process.Signal(sig)
		select {
		case <-gone:
			return nil
		case <-time.After(stopWithin):
			_ = cmd.Process.Kill()
			<-gone
			return fmt.Errorf("ferry did not end within %v of %v; it said:\n%s", stopWithin, sig, said)
		}
	}
	select {
	case at := <-ready:
		n.ready = at.Sub(n.began)
		return n, nil
	case <-gone:
		return nil, fmt.Errorf("ferry ended before it was ready; it said:\n%s", said)
	case <-time.After(readyWithin):
		return nil, errors.Join(fmt.Errorf("ferry was not ready within %v; it said:\n%s", readyWithin, said), n.kill())
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), n.kill())
	}
}

func stompURL(addr string) string { return "stomp://guest:guest@" + addr + "/" }

// scripted is a broker that a script starts and ends: scripts/rabbitmq or
// scripts/artemis.
type scripted struct {
	script string
	flags  string // of its start, space between
}

var errMissing = errors.New("it is not installed")

// scriptMissing is the script's exit code for that.
const scriptMissing = 3

func (r scripted) start(ctx context.Context, dir string, _ ...string) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*readyWithin)
	defer cancel()
	n := &node{began: time.Now()}
	cmd := exec.CommandContext(ctx, r.script, append([]string{"start", "--dir", dir}, strings.Fields(r.flags)...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it cleans up
	cmd.WaitDelay = 10 * time.Second
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == scriptMissing {
			return nil, errMissing
		}
		return nil, fmt.Errorf("%s start: %w\n%s", filepath.Base(r.script), err, said.String())
	}
	n.ready = time.Since(n.began)
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, "'")
		switch key {
		case "url":
			if u, err := url.Parse(value); err == nil && u.Scheme == "amqp" {
				n.addr = u.Host
			} else {
				n.stomp = value
			}
		case "stomp":
			n.stomp = value
		case "pid":
			n.pid, _ = strconv.Atoi(value)
		}
	}
	var once sync.Once
	n.end = func(syscall.Signal) (err error) {
		once.Do(func() {
			// Not the measurement's context: an interrupted one must end it too.
			ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
			defer cancel()
			if out, e := exec.CommandContext(ctx, r.script, "stop", "--dir", dir).CombinedOutput(); e != nil {
				err = fmt.Errorf("%s stop: %w\n%s", filepath.Base(r.script), e, out)
			}
		})
		return err
	}
	if n.addr == "" && n.stomp == "" || n.pid == 0 {
		return nil, errors.Join(fmt.Errorf("%s said no url and pid:\n%s", r.script, out), n.stop())
	}
	return n, nil
}

// freeAddr is an address on loopback that nothing listened on just now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// tail keeps the last lines that a process said.
type tail struct {
	keep  int
	mu    sync.Mutex
	lines []string
}

func (t *tail) follow(r io.Reader, each func(line string)) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		each(lines.Text())
		t.mu.Lock()
		t.lines = append(t.lines, lines.Text())
		if len(t.lines) > t.keep {
			t.lines = t.lines[1:]
		}
		t.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // a line too long must not stop the process
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
