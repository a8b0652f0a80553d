package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

// calm is how long a run goes on without a fault before one and after the last, so that
// there is something to lose, and something that comes after it.
var calm = pick(500*time.Millisecond, time.Second)

const (
	// settleLimit is how long a run waits for what does not come before it counts
	// as lost.
	settleLimit = 20 * time.Second

	// endLimit is within what a run ends that was told to: clusterSettle, a sweep of
	// a list whose brokers do not answer, and the farewell.
	endLimit = 130 * time.Second
)

// A place is where a program runs: in this process's network, or in that of a
// cluster's clients.
type place func(ctx context.Context, name string, args ...string) *exec.Cmd

// A program is a run of the ferry binary as a client.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout bytes.Buffer // to be read when it has ended
	stderr *logBuffer
	ended  chan struct{} // closed when it has ended, and err is set
	err    error
}

// runFerry starts the binary. It is killed at the end of the test if it still
// runs.
func runFerry(t *testing.T, at place, stdin *os.File, args ...string) *program {
	t.Helper()
	bin, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: at(context.Background(), bin, args...), stderr: new(logBuffer), ended: make(chan struct{})}
	p.cmd.Stdout = &p.stdout
	if stdin != nil {
		p.cmd.Stdin = stdin
	}
	out, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.stderr.follow(out, readyLine, func() {})
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if text := p.stderr.String(); strings.Contains(text, "panic:") || strings.Contains(text, "fatal error:") {
			t.Errorf("%s printed:\n%s", args[0], text)
		}
	})
	return p
}

// end waits until the program has ended by itself. One that does not within the
// limit says what its goroutines do, and is the test's failure.
func (p *program) end(limit time.Duration) bool {
	p.t.Helper()
	select {
	case <-p.ended:
		return true
	case <-time.After(limit):
	}
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
	}
	p.t.Errorf("it hangs: %s has not ended within %s\n%s", p.cmd.Args, limit, p.stderr)
	return false
}

// await waits until the program has printed a line n times.
func (p *program) await(limit time.Duration, n int, line string) bool {
	p.t.Helper()
	if until(limit, func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return strings.Count(p.stderr.String(), line) >= n
		}
	}) && strings.Count(p.stderr.String(), line) >= n {
		return true
	}
	p.t.Errorf("%s has not printed %q %d times within %s:\n%s", p.cmd.Args, line, n, limit, p.stderr.tail(logLines))
	return false
}

// A report is what `ferry verify --json` prints.
type report struct {
	Sent        int    `json:"sent"`
	Confirmed   int    `json:"confirmed"`
	Received    int    `json:"received"`
	Lost        int    `json:"lost"`
	Duplicated  int    `json:"duplicated"`
	Redelivered int    `json:"redelivered"`
	Reordered   int    `json:"reordered"`
	LongestGap  int    `json:"longest_gap_ms"`
	Failovers   int    `json:"failovers"`
	Dropped     int    `json:"dropped"`
	Refused     int    `json:"refused"`
	Unknown     int    `json:"unknown"`
	Damaged     int    `json:"damaged"`
	Foreign     int    `json:"foreign"`
	Stopped     string `json:"stopped"`
	Deaf        bool   `json:"deaf"`
}

// exitLost is verify's code for a broken promise.
const exitLost = 5

// deduplicating has the consumer drop repeats of the last million messages: more
// than may be under way.
var deduplicating = []string{"--dedup", "1000000"}

// verify starts `ferry verify` on a queue that is there or not, until it is told
// to end.
func verify(t *testing.T, at place, url, queue string, rate int, flags ...string) *program {
	t.Helper()
	args := []string{
		"verify", "--json", "-u", url, "-q", queue, "--rate", fmt.Sprint(rate),
		"--settle-timeout", settleLimit.String(), "--timeout", "30s",
	}
	return runFerry(t, at, nil, append(args, flags...)...)
}

// connected waits until a run publishes and consumes.
func (p *program) connected() bool {
	p.t.Helper()
	return p.await(startLimit, 1, "publish: connected to") && p.await(startLimit, 1, "consume: connected to")
}

// reconnected waits until both connections have been made anew n times.
func (p *program) reconnected(n int) bool {
	p.t.Helper()
	return p.await(startLimit, n+1, "publish: connected to") && p.await(startLimit, n+1, "consume: connected to")
}

// interrupt tells a run to send no more.
func (p *program) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("SIGINT: %v", err)
	}
}

// kill ends a run of which nothing is to be reported.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// report waits for the end of a run and reads what it found.
func (p *program) report() (r report) {
	p.t.Helper()
	if !p.end(endLimit) {
		return r
	}
	if code := exitCode(p.err); p.err != nil && code != exitLost {
		p.t.Errorf("%s: %v\n%s", p.cmd.Args, p.err, p.stderr.tail(logLines))
	}
	if err := json.Unmarshal(p.stdout.Bytes(), &r); err != nil {
		p.t.Errorf("%s printed %q: %v", p.cmd.Args, &p.stdout, err)
	}
	return r
}

// A result is a line of the table of faults.
type result struct {
	fault, queue string
	rate         int // 0: full speed
	report
}

func (r result) String() string {
	return fmt.Sprintf("%s, %s, %s", r.fault, r.queue, r.speed())
}

func (r result) speed() string {
	if r.rate == 0 {
		return "full"
	}
	return fmt.Sprint(r.rate, "/s")
}

// check reports what no fault allows: that nothing was tested, that a run ended
// by itself, that something came back changed, and, where it is promised, that
// something was lost.
func (r result) check(t *testing.T, kept bool) {
	t.Helper()
	if r.Confirmed == 0 || r.Received == 0 {
		t.Errorf("%s: %d were confirmed and %d received: nothing was tested", r, r.Confirmed, r.Received)
	}
	if kept && r.Lost > 0 {
		t.Errorf("%s: %d messages were confirmed and lost", r, r.Lost)
	}
	if r.Damaged > 0 || r.Foreign > 0 {
		t.Errorf("%s: %d deliveries were damaged, %d of another run", r, r.Damaged, r.Foreign)
	}
	if r.Stopped != "" || r.Deaf {
		t.Errorf("%s: it ended early: %q", r, r.Stopped)
	}
}

// settled reports messages that were not confirmed in the end.
func (r result) settled(t *testing.T) {
	t.Helper()
	if r.Refused > 0 || r.Unknown > 0 {
		t.Errorf("%s: %d messages were refused, %d are unknown", r, r.Refused, r.Unknown)
	}
}

// once reports what came twice.
func (r result) once(t *testing.T) {
	t.Helper()
	if r.Duplicated > 0 {
		t.Errorf("%s: %d messages came twice without a mark", r, r.Duplicated)
	}
}

// A matrix is the table of faults.
type matrix []result

// log prints the table.
func (m matrix) log(t *testing.T) {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "fault\tqueue\trate\tsent\tconfirmed\trefused\tunknown\treceived\tlost\tduplicated\tdropped\tredelivered\treordered\tlongest gap ms\tfailovers\t")
	for _, r := range m {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", r.fault, r.queue, r.speed(),
			r.Sent, r.Confirmed, r.Refused, r.Unknown, r.Received, r.Lost, r.Duplicated, r.Dropped, r.Redelivered, r.Reordered, r.LongestGap, r.Failovers)
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", &text)
}
