package chaos

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// readyLine is what ferry serve prints when its listeners are open.
	readyLine = "Server startup complete"

	// sideBySide is how many tests take turns at one time on a small machine.
	sideBySide = 3

	startLimit = 60 * time.Second
	stopLimit  = 30 * time.Second
	logLines   = 30 // of ferry's log that a failed test shows
)

// scratch is a directory for what all tests share.
var scratch string

func TestMain(m *testing.M) {
	if os.Getenv(senderURL) != "" { // another process of TestOutbox
		if err := sendNumbers(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := mostlyWait(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "ferry-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scratch = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// mostlyWait has tests of the short form run beside each other however few processors
// there are, unless the command says how many: they wait for brokers that start, die
// and are missed, and need a processor for little of their time. How many do is takeTurn's.
// The long form has loads at full speed.
func mostlyWait() error {
	flag.Parse()
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "test.parallel" })
	if told || long() {
		return nil
	}
	return flag.Set("test.parallel", "1000")
}

// turns has a token for each test that takeTurn lets run.
var turns = make(chan struct{}, max(sideBySide, runtime.GOMAXPROCS(0)))

// takeTurn has a test run beside others, a few at one time. Those that take minutes do
// not take one: they begin at once, so that nobody waits for them alone at the end.
func takeTurn(t *testing.T) {
	t.Helper()
	t.Parallel()
	turns <- struct{}{}
	t.Cleanup(func() { <-turns }) // the first that is registered: after the test's own
}

// long tells whether the long form of each fault was asked for.
func long() bool { return os.Getenv("FERRY_LONG") == "1" }

// pick is short's value or, in the long form, long's.
func pick[T any](inShort, inLong T) T {
	if long() {
		return inLong
	}
	return inShort
}

// missing ends a test for which a real component is not there: in CI it fails,
// elsewhere it is skipped and says what is missing.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	what := fmt.Sprintf(format, args...)
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing, and CI=true: %s", what)
	}
	t.Skipf("missing: %s", what)
}

var (
	buildPlain = sync.OnceValues(func() (string, error) { return build("ferry") })
	buildRace  = sync.OnceValues(func() (string, error) { return build("ferry-race", "-race") })
)

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(scratch, name)
	args := append([]string{"build", "-o", path}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/ferry")...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return path, nil
}

// A setup is how a broker is started.
type setup struct {
	dir   string   // of its journal
	stomp string   // address; then it is spoken at that of AMQP too; "": off
	http  string   // address of HTTP and of STOMP over WebSocket; "": off
	flags []string // beside the store and the addresses
	// watched is whether the binary has the race detector too, if the tests
	// have it. It is slower and larger, so not where time or memory are judged.
	watched bool
}

// A process is a running broker.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	addr  string
	log   *logBuffer
	ready chan struct{} // closed when it serves, or has ended before
	took  time.Duration // until it served
	ended chan struct{} // closed when it has ended, and err is set
	err   error
}

// launch starts the binary and does not wait.
func launch(t *testing.T, addr string, s setup) *process {
	t.Helper()
	bin, err := buildPlain()
	if s.watched && raceEnabled {
		bin, err = buildRace()
	}
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{
		"serve", "--store", "file:" + s.dir, "--amqp", addr,
		"--stomp", cmp.Or(s.stomp, "off"), "--http", cmp.Or(s.http, "off"), "--gmq", "off",
	}, s.flags...)
	return launchCommand(t, exec.Command(bin, args...), addr)
}

// launchStore starts the plain binary on a journal that is not a file, and does not
// wait. It has no listeners but that of AMQP and what the flags say.
func launchStore(t *testing.T, journal, addr string, flags ...string) *process {
	t.Helper()
	bin, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"serve", "--store", journal, "--amqp", addr, "--stomp", "off", "--gmq", "off"}, flags...)
	return launchCommand(t, exec.Command(bin, args...), addr)
}

// launchCommand starts a broker by the command that runs it, and does not wait.
func launchCommand(t *testing.T, cmd *exec.Cmd, addr string) *process {
	t.Helper()
	p := &process{t: t, addr: addr, cmd: cmd, log: new(logBuffer), ready: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(cmd.Environ(), "GORACE=halt_on_error=0 exitcode=66 atexit_sleep_ms=10")
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p.cmd.Stdout // one stream
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.log.follow(out, readyLine, func() {
			p.took = time.Since(began)
			close(p.ready)
		})
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("ferry (process %d) logged at last:\n%s", p.cmd.Process.Pid, p.log.tail(logLines))
		}
		for _, sign := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if text := p.log.String(); strings.Contains(text, sign) {
				t.Errorf("ferry printed %q:\n%s", sign, text[strings.Index(text, sign):])
			}
		}
	})
	return p
}

// start starts a broker on a port of its own and waits until it serves.
func start(t *testing.T, s setup) *process {
	t.Helper()
	return startAt(t, freeAddress(t), s)
}

func startAt(t *testing.T, addr string, s setup) *process {
	t.Helper()
	p := launch(t, addr, s)
	p.awaitReady()
	return p
}

func (p *process) awaitReady() {
	p.t.Helper()
	select {
	case <-p.ready:
	case <-time.After(startLimit):
		p.t.Fatalf("ferry serve did not say %q within %s", readyLine, startLimit)
	}
	if !p.log.has(readyLine) {
		<-p.ended
		p.t.Fatalf("ferry serve ended without saying %q: %v\n%s", readyLine, p.err, p.log.tail(logLines))
	}
}

// kill ends the process without a chance to do anything.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("kill: %v", err)
	}
	<-p.ended
}

// terminate asks the process to end and waits for it.
func (p *process) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Errorf("SIGTERM: %v", err)
	}
	if code, ok := p.exitCode(stopLimit); !ok {
		p.t.Errorf("ferry did not end within %s of SIGTERM", stopLimit)
		p.kill()
	} else if code != 0 {
		p.t.Errorf("ferry ended with code %d after SIGTERM", code)
	}
}

// exitCode waits for the process to end by itself.
func (p *process) exitCode(limit time.Duration) (code int, ended bool) {
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode(), true
	case <-time.After(limit):
		return 0, false
	}
}

// memory is a line of /proc/PID/status in bytes: VmHWM is the most that was
// resident, VmRSS what is.
func (p *process) memory(line string) int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		missing(p.t, "/proc to read a process's memory from: %v", err)
	}
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == line+":" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return n << 10
		}
	}
	p.t.Fatalf("no %s in the status of process %d", line, p.cmd.Process.Pid)
	return 0
}

// logBuffer keeps what a process prints.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// follow reads until the end, and calls found at the first line with word in
// it, or at the end.
func (b *logBuffer) follow(r io.Reader, word string, found func()) {
	done := false
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		b.mu.Lock()
		b.text.WriteString(line)
		b.mu.Unlock()
		if !done && (strings.Contains(line, word) || err != nil) {
			done = true
			found()
		}
		if err != nil {
			return
		}
	}
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) has(word string) bool { return strings.Contains(b.String(), word) }

func (b *logBuffer) tail(n int) string {
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	return strings.Join(lines[max(len(lines)-n, 0):], "\n")
}

// freeAddress is one on loopback that nobody listens on now. Its port is not one
// that the system gives to clients: while a broker is down, one that tries to
// reach it could be given its port.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port below 30000")
	return ""
}

// sizeOf is how much the files below dir take of the disk, bytes. Files that go
// while it looks are left out.
func sizeOf(t *testing.T, dir string) int64 {
	t.Helper()
	var total int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		}
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
