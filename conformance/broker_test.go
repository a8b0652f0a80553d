package conformance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// readyLine is what ferry serve prints when its listeners are open.
	readyLine = "Server startup complete"

	// logLines is how much of ferry's log a failed test shows.
	logLines = 30

	// promptRace has programs with the race detector end when they have ended, and not
	// after a second of sleep: the tests run many that live for less.
	promptRace = "atexit_sleep_ms=10"

	// sideBySide is how many tests run beside each other on a small machine.
	sideBySide = 5

	startLimit = 60 * time.Second
	stopLimit  = 20 * time.Second

	// installMissing is how scripts/rabbitmq says that there is no RabbitMQ.
	installMissing = 3
)

// scratch is a directory for what all tests share. TestMain makes it and
// removes it.
var scratch string

func TestMain(m *testing.M) {
	err := mostlyWait()
	if err == nil && os.Getenv("GORACE") == "" {
		err = os.Setenv("GORACE", promptRace)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "ferry-conformance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scratch = dir
	code := m.Run()
	if err := stopRabbitMQ(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// mostlyWait has more tests run at one time than there are processors, unless the
// command says how many: they wait for programs that sleep and for brokers that start.
func mostlyWait() error {
	flag.Parse()
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "test.parallel" })
	if told {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(max(sideBySide, runtime.GOMAXPROCS(0))))
}

// missing ends a test for which a real component is not there: in CI it fails,
// elsewhere it is skipped and says what is missing.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing, and CI=true: %s", what)
	}
	t.Skipf("missing: %s", what)
}

// run is a command's standard output. Its error holds what it said on the
// other one.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return out, nil
}

// buildFerry builds the binary once, with the race detector if the tests have
// it.
var buildFerry = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "ferry")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/ferry")...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return path, nil
})

// A broker is where one is reached.
type broker struct {
	url, management string
}

// target is the broker under test: a Ferry of this test's own with a file journal,
// unless FERRY_CONFORMANCE_URL names another; then FERRY_CONFORMANCE_MANAGEMENT is
// where its management API is.
func target(t *testing.T, managed bool) broker {
	t.Helper()
	if url := os.Getenv("FERRY_CONFORMANCE_URL"); url != "" {
		return broker{url, os.Getenv("FERRY_CONFORMANCE_MANAGEMENT")}
	}
	if !managed {
		return broker{url: startFerry(t)}
	}
	return startManaged(t, anyPort)
}

// startManaged is serve with AMQP, and HTTP at the given address.
func startManaged(t *testing.T, http string) broker {
	t.Helper()
	address := serve(t, "--stomp", "off", "--http", http)
	return broker{"amqp://guest:guest@" + address["amqp"] + "/", "http://guest:guest@" + address["http"] + "/"}
}

// anyPort is for a listener whose port the system chooses: no other process can take
// it between the choice and the start.
const anyPort = "127.0.0.1:0"

// startFerry is serve with AMQP alone.
func startFerry(t *testing.T) string {
	t.Helper()
	return "amqp://guest:guest@" + serve(t, "--stomp", "off", "--http", "off")["amqp"] + "/"
}

// serve starts the real binary, waits until it says that it is ready, and ends it
// with the test. What it logged last is shown if the test fails. It returns where it
// listens, by the name of the entrance.
func serve(t *testing.T, flags ...string) map[string]string {
	t.Helper()
	bin, err := buildFerry()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"serve", "--store", "file:" + filepath.Join(t.TempDir(), "journal"), "--amqp", anyPort, "--gmq", "off"}
	cmd := exec.Command(bin, append(args, flags...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // one stream: the ready line may be on either
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	log := new(logBuffer)
	var reader sync.WaitGroup
	reader.Go(func() { log.follow(out, readyLine, ready) })
	t.Cleanup(func() {
		stopProcess(t, cmd, &reader)
		if t.Failed() {
			t.Logf("ferry logged at last:\n%s", tail([]byte(log.String()), logLines))
		}
		if strings.Contains(log.String(), "DATA RACE") {
			t.Errorf("the race detector reported:\n%s", log)
		}
	})
	select {
	case <-ready:
	case <-time.After(startLimit):
		t.Fatalf("ferry serve did not say %q within %s", readyLine, startLimit)
	}
	if !log.seen(readyLine) {
		t.Fatalf("ferry serve ended without saying %q", readyLine)
	}
	addresses := make(map[string]string)
	for _, m := range listening.FindAllStringSubmatch(log.String(), -1) {
		addresses[m[1]] = m[2]
	}
	return addresses
}

// listening finds the addresses in the line that ferry serve prints when it is
// ready.
var listening = regexp.MustCompile(`\b(amqp|stomp|gmq|http) (127\.0\.0\.1:\d+)`)

// stopProcess asks a process to end, insists when it does not, and waits.
func stopProcess(t *testing.T, cmd *exec.Cmd, reader *sync.WaitGroup) {
	t.Helper()
	if err := cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("ferry: %v", err)
	}
	insist := time.AfterFunc(stopLimit, func() { _ = cmd.Process.Kill() })
	reader.Wait() // before Wait, which closes the pipe
	err := cmd.Wait()
	if !insist.Stop() {
		t.Errorf("ferry did not end within %s of an interrupt", stopLimit)
	} else if err != nil {
		t.Errorf("ferry ended with %v after an interrupt", err)
	}
}

// logBuffer keeps what a process prints.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

// follow reads until the end and closes found at the first line with word in
// it, or at the end.
func (b *logBuffer) follow(r io.Reader, word string, found chan<- struct{}) {
	done := false
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		b.mu.Lock()
		b.text.WriteString(line)
		b.mu.Unlock()
		if !done && (strings.Contains(line, word) || err != nil) {
			done = true
			close(found)
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

func (b *logBuffer) seen(word string) bool { return strings.Contains(b.String(), word) }

var rabbitMQ struct {
	once                        sync.Once
	url, stomp, web, management string
	err                         error
}

// rabbitMQURL is that of a private RabbitMQ node, which all tests share.
func rabbitMQURL(t *testing.T) string {
	t.Helper()
	rabbitMQ.once.Do(func() {
		out, err := run(context.Background(), "../scripts/rabbitmq", "start",
			"--dir", filepath.Join(scratch, "rabbitmq"), "--while", strconv.Itoa(os.Getpid()), "--stomp", "--management")
		rabbitMQ.err = err
		said := regexp.MustCompile(`(?m)^(url|stomp|webstomp|management)='(.*)'$`)
		for _, m := range said.FindAllSubmatch(out, -1) {
			switch value := string(m[2]); string(m[1]) {
			case "url":
				rabbitMQ.url = value
			case "stomp":
				rabbitMQ.stomp = value
			case "webstomp":
				rabbitMQ.web = value
			case "management":
				rabbitMQ.management = value
			}
		}
	})
	if exit, ok := errors.AsType[*exec.ExitError](rabbitMQ.err); ok && exit.ExitCode() == installMissing {
		missing(t, "RabbitMQ (make setup installs it, as root on Debian)")
	}
	if rabbitMQ.err != nil {
		t.Fatal(rabbitMQ.err)
	}
	return rabbitMQ.url
}

func stopRabbitMQ() error {
	dir := filepath.Join(scratch, "rabbitmq")
	if _, err := os.Stat(dir); err != nil {
		return nil // none was started
	}
	_, err := run(context.Background(), "../scripts/rabbitmq", "stop", "--dir", dir)
	return err
}
