package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

const (
	clientModule = "github.com/rabbitmq/amqp091-go"

	// clientTests is how many top-level tests of the client's suite pass, of
	// v1.16.0. Fewer mean that the suite was not run as a whole.
	clientTests = 243
)

// Reasons for leaving out a test of the client's suite.
const (
	needsRabbitmqctl = "sets the memory watermark with rabbitmqctl"
	needsTheName     = "does nothing unless the product is called RabbitMQ, and then forgets to close its connection, which the suite counts as a leak; "
)

// leftOut are the tests of the client's suite that are not run against Ferry,
// by name.
var leftOut = []struct {
	test   string
	reason string
	itself bool // the suite skips it where rabbitmqctl is not given
}{
	{"TestConnection_Close_WhenMemoryAlarmIsActive", needsRabbitmqctl, true},
	{"TestRabbitMQQueueNackMultipleRequeue", needsTheName + "repeated by TestNackMultipleRequeuesInOrder", false},
	{"TestIntegrationRecoverNotImplemented", needsTheName + "repeated by TestRecoverWithoutRequeueIsNotImplemented", false},
	{"TestRabbitMQQueueTTLGet", needsTheName + "repeated by TestGetFindsNothingThatExpired", false},
}

// managementPort is where the suite looks for the management API, whatever the
// broker's URL is: it finds its connections there, and drops them.
const managementPort = "15672"

// event is a line of go test -json.
type event struct {
	Action string
	Test   string
	Output string
}

// TestGoClientSuite runs the integration suite of RabbitMQ's Go client as a
// dependency's tests. It fails with any of them, with one that skips itself
// unannounced, and when there are fewer than are known. The tests of recovery, which
// mostly wait, run beside the others, on a broker of their own.
func TestGoClientSuite(t *testing.T) {
	t.Parallel()
	names := make([]string, 0, len(leftOut))
	for _, l := range leftOut {
		if !l.itself {
			names = append(names, regexp.QuoteMeta(l.test))
		}
		t.Logf("left out: %s: %s", l.test, l.reason)
	}
	skip := "-skip=^(" + strings.Join(names, "|") + ")$"
	var passed atomic.Int32
	t.Run("group", func(t *testing.T) {
		t.Run("recovery", func(t *testing.T) {
			t.Parallel()
			passed.Add(clientSuite(t, clientTarget(t), "-run="+recoveryTests, skip))
		})
		t.Run("all others", func(t *testing.T) {
			t.Parallel()
			passed.Add(clientSuite(t, target(t, false).url, "-skip="+recoveryTests+"|^("+strings.Join(names, "|")+")$"))
		})
	})
	t.Logf("%d tests of %s passed, %d are left out", passed.Load(), clientModule, len(leftOut))
	if passed.Load() < clientTests {
		t.Errorf("%d tests passed, want %d", passed.Load(), clientTests)
	}
}

// recoveryTests are those for which the suite drops its connections.
const recoveryTests = "^TestConnectionRecovery"

// clientSuite runs a part of the suite, and returns how many of its tests passed.
func clientSuite(t *testing.T, url string, chosen ...string) (passed int32) {
	t.Helper()
	args := append([]string{"test", "-json", "-count=1", "-timeout=10m", "-tags=integration"}, chosen...)
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, clientModule)...)
	cmd.Env = append(os.Environ(), "AMQP_URL="+url)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, runErr := cmd.Output()

	events, err := parseEvents(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	for _, e := range events {
		switch {
		case e.Test == "" || strings.Contains(e.Test, "/"):
		case e.Action == "pass":
			passed++
		case e.Action == "fail":
			t.Errorf("%s failed:\n%s", e.Test, outputOf(events, e.Test))
		case e.Action == "skip" && !announced(e.Test):
			t.Errorf("%s skipped itself:\n%s", e.Test, outputOf(events, e.Test))
		}
	}
	if runErr != nil {
		t.Errorf("go test: %v\n%s%s", runErr, &stderr, outputOf(events, ""))
	}
	return passed
}

// clientTarget is target with the management API where the suite looks for it.
func clientTarget(t *testing.T) string {
	t.Helper()
	if url := os.Getenv("FERRY_CONFORMANCE_URL"); url != "" {
		return url
	}
	return startManaged(t, "127.0.0.1:"+managementPort).url
}

func announced(test string) bool {
	for _, l := range leftOut {
		if l.test == test {
			return l.itself
		}
	}
	return false
}

func parseEvents(out []byte) ([]event, error) {
	var events []event
	for line := range bytes.Lines(out) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("go test -json printed %q: %w", line, err)
		}
		events = append(events, e)
	}
	return events, nil
}

// outputOf is what a test and its subtests printed; that of no test is what
// the package did.
func outputOf(events []event, test string) string {
	var b strings.Builder
	for _, e := range events {
		top, _, _ := strings.Cut(e.Test, "/")
		if e.Action == "output" && top == test {
			b.WriteString(e.Output)
		}
	}
	return b.String()
}

// TestLeftOutTestsExist catches names in the table that the suite no longer
// has.
func TestLeftOutTestsExist(t *testing.T) {
	t.Parallel()
	out, err := run(t.Context(), "go", "test", "-tags=integration", "-list=.", clientModule)
	if err != nil {
		t.Fatal(err)
	}
	have := strings.Fields(string(out))
	for _, l := range leftOut {
		if !slices.Contains(have, l.test) {
			t.Errorf("%s is left out, but the suite has no such test", l.test)
		}
	}
}
