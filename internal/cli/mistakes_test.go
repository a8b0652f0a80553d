package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
	"github.com/ferrymq/ferry/internal/faultbroker"
	"github.com/ferrymq/ferry/internal/verify"
)

// A command of --exec is told of its message in the environment, and may be a
// ferry.
func TestWhatAMessageHasIsNoFlag(t *testing.T) {
	b := ferrytest.Start(t)
	env := map[string]string{}
	for _, kv := range environment(&ferry.Delivery{Message: ferry.Message{
		Exchange: "amq.fanout", Key: "in", ContentType: "a/b", CorrelationID: "c", ReplyTo: "r", MessageID: "m", Type: "t", ID: "x-1",
	}}) {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	if got := runFerry(t, env, "send", "-u", b.URL(), "-q", "out", "body"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	got := takeMessages(t, b.URL(), "out", 1)[0]
	if got.ContentType+got.CorrelationID+got.ReplyTo+got.MessageID+got.Type != "" {
		t.Errorf("the message has what another had: %+v", got)
	}
}

// silent is an input that gives nothing, as a terminal does. It says when it is
// read.
type silent struct{ read chan struct{} }

func (s silent) Read([]byte) (int, error) {
	s.read <- struct{}{}
	select {}
}

func TestSendOfAWholeInputEndsWithASignal(t *testing.T) {
	b := ferrytest.Start(t)
	for _, args := range [][]string{{"--send-on", "eof"}, {"--file", "-"}} {
		input := silent{make(chan struct{})}
		run := startCommand(t, System{Args: append([]string{"send", "-u", b.URL(), "-q", "q"}, args...), Stdin: input})
		<-input.read
		run.stop()
		if code := <-run.code; code != exitLeft {
			t.Errorf("%q: exit code %d\n%s", args, code, run.errors)
		}
	}
}

func TestLongBodiesGoAroundAsJSON(t *testing.T) {
	b := ferrytest.Start(t)
	body := bytes.Repeat([]byte{0xff, 0}, maxMessage*3/8+1) // more than a body may have, in base64
	publish(t, b, "q", ferry.Message{Body: body})
	line := mustRun(t, "", "receive", "-u", b.URL(), "-q", "q", "-n", "1", "--json")
	if len(line) <= maxMessage {
		t.Fatalf("a line of %d bytes shows nothing", len(line))
	}
	mustRun(t, line, "send", "-u", b.URL(), "-q", "again", "--json")
	if got := takeMessages(t, b.URL(), "again", 1)[0].Body; !bytes.Equal(got, body) {
		t.Errorf("%d bytes came", len(got))
	}
}

func TestMoveToItselfByAnotherName(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("one", "two")...)
	got := runWith(t, "", "move", "--from", b.URL(), "--to", b.URL()+"?heartbeat=7", "-q", "q", "--timeout", "1")
	if got.code != exitUsage || !strings.Contains(got.errors, "go round") {
		t.Errorf("%+v", got)
	}
	if n := waiting(t, b.URL(), "q"); n != 2 {
		t.Errorf("%d messages are left", n)
	}
}

func TestWhatIsRefusedIsSaid(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{Faults: faultbroker.Faults{NackEvery: 2}})
	for _, args := range [][]string{
		{"verify", "-u", b.URL(), "-n", "10", "--settle-timeout", "300ms"},
		{"bench", "-u", b.URL(), "-C", "10", "-D", "5"},
	} {
		got := runFerry(t, nil, args...)
		if got.code != exitRefused || !strings.Contains(got.errors, "5 messages were refused: the broker refused the message: the broker nacked") {
			t.Errorf("%s: exit code %d\n%s", args[0], got.code, got.errors)
		}
	}
}

func TestWhoIsNotLetInIsTold(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{Faults: faultbroker.Faults{RefuseLogin: true}})
	got := runFerry(t, nil, "send", "-u", b.URL(), "-q", "q", "--timeout", "200ms", "x")
	if got.code != exitRefused || !strings.Contains(got.errors, "no broker lets this client in") || strings.Contains(got.errors, "reachable") {
		t.Errorf("%+v", got)
	}
}

func TestMistakesInPlainWords(t *testing.T) {
	long := strings.Repeat("x", maxName+1)
	for _, row := range []struct {
		env  map[string]string
		args []string
		says string
	}{
		{nil, []string{"send", "-q", "q", "--count", "x"}, `--count: "x" is not a whole number`},
		{map[string]string{"FERRY_COUNT": "x"}, []string{"send", "-q", "q"}, `$FERRY_COUNT: "x" is not a whole number`},
		{nil, []string{"send", "-q", "q", "--priority", "256"}, `--priority: "256" is not a whole number from 0 to 255`},
		{nil, []string{"send", "-q", "q", "--persistent=perhaps"}, `--persistent: "perhaps" is neither true nor false`},
		{nil, []string{"send", "-q", "q", "--expiration", "5"}, `--expiration: "5" is not a duration`},
		{nil, []string{"receive", "-q", "q", "--timeout", "x"}, `--timeout: "x" is not a duration`},
		{nil, []string{"send", "-q", "q", "--rate", "NaN"}, "--rate"},
		{nil, []string{"send", "-q", "q", "--rate", "1e-12"}, "--rate"},
		{nil, []string{"bench", "--rate", "NaN"}, "rate: NaN is no number of messages"},
		{nil, []string{"verify", "--rate", "Inf"}, "rate: +Inf is no number of messages"},
		{nil, []string{"receive", "extra"}, `"extra" is too much`},
		{nil, []string{"send", "-q", long}, "--queue: it has 256 bytes; at most 255"},
		{nil, []string{"send", "-q", "q", "--type", long}, "--type: it has 256 bytes"},
		{nil, []string{"move", "--from", "a", "--to", "b", "-q", "q", "--to-queue", long}, "--to-queue: it has 256"},
	} {
		got := runFerry(t, row.env, row.args...)
		if got.code != exitUsage || !strings.Contains(got.errors, row.says) || strings.Contains(got.errors, "strconv") {
			t.Errorf("%.60q: exit code %d, want %q in\n%s", row.args, got.code, row.says, got.errors)
		}
	}
}

func TestProgressNeverGoesBackwards(t *testing.T) {
	var out strings.Builder
	tell := progressLines(&out)
	tell(verify.Progress{Counts: verify.Counts{Sent: 10}, Elapsed: time.Second})
	tell(verify.Progress{Counts: verify.Counts{Sent: 9}, Elapsed: 2 * time.Second})
	if !strings.Contains(out.String(), "sent 10 (10/s)") || !strings.Contains(out.String(), "sent 9 (0/s)") {
		t.Errorf("got\n%s", out.String())
	}
}

func TestWhatBecomesOfAMessageThatFailed(t *testing.T) {
	for _, row := range []struct {
		args []string
		says string
		left int
	}{
		{nil, "goes back to the queue", 1},
		{[]string{"--no-ack"}, "the message is lost", 0},
		{[]string{"--no-ack", "-n", "1"}, "the message is lost", 0},
	} {
		b := ferrytest.Start(t)
		publish(t, b, "q", messagesOf("x")...)
		said := make(lineSignal, 1)
		run := startCommand(t, System{
			Args:   append([]string{"receive", "-u", b.URL(), "-q", "q", "--exec", "exit 1"}, row.args...),
			Stderr: &said,
		})
		line := <-said
		run.stop()
		<-run.code
		if n := waiting(t, b.URL(), "q"); !strings.Contains(line, row.says) || n != row.left {
			t.Errorf("%q: %d are left, and it says %s", row.args, n, line)
		}
	}
}

// lineSignal has the first thing that is said of a message.
type lineSignal chan string

func (s *lineSignal) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "the message") {
		select {
		case *s <- string(p):
		default:
		}
	}
	return len(p), nil
}

func TestMistakesInJSON(t *testing.T) {
	for line, says := range map[string]string{
		"":                "the line is empty",
		"[]":              "array is there, an object is expected",
		`{"body":1}`:      "body: number does not fit",
		`{"body":"x"`:     "ends in the middle",
		`{"bodies":"x"}`:  `unknown field "bodies"`,
		`{"priority":-1}`: "priority: number -1 does not fit",
	} {
		_, err := parseJSON([]byte(line), true)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "cli.") {
			t.Errorf("%s: %v", line, err)
		}
	}
}
