package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
)

// A running command has its own standard streams.
type running struct {
	stop        context.CancelFunc // as a signal does
	out, errors *lockedBuffer
	code        chan int
}

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func startCommand(t *testing.T, sys System) *running {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r := &running{stop: cancel, out: &lockedBuffer{}, errors: &lockedBuffer{}, code: make(chan int, 1)}
	if sys.Stdin == nil {
		sys.Stdin = strings.NewReader("")
	}
	if sys.Stdout == nil {
		sys.Stdout = r.out
	}
	if sys.Stderr == nil {
		sys.Stderr = r.errors
	}
	if sys.Getenv == nil {
		sys.Getenv = func(string) string { return "" }
	}
	go func() { r.code <- Run(ctx, sys) }()
	return r
}

// runWith runs a command to its end.
func runWith(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	r := startCommand(t, System{Args: args, Stdin: strings.NewReader(stdin)})
	return result{<-r.code, r.out.String(), r.errors.String()}
}

// mustRun runs a command that must succeed, and gives what it printed.
func mustRun(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	got := runWith(t, stdin, args...)
	if got.code != 0 {
		t.Fatalf("ferry %q: exit code %d\n%s", args, got.code, got.errors)
	}
	return got.out
}

func dialBroker(t *testing.T, url string) *ferry.Client {
	t.Helper()
	c, err := ferry.Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closeClient(c) })
	return c
}

// waiting is how many messages are in a queue.
func waiting(t *testing.T, url, queue string) int {
	t.Helper()
	info, err := dialBroker(t, url).Inspect(t.Context(), queue)
	if err != nil {
		t.Fatal(err)
	}
	return info.Messages
}

// takeMessages takes messages off a queue.
func takeMessages(t *testing.T, url, queue string, n int) []ferry.Message {
	t.Helper()
	consumer, err := dialBroker(t, url).Consumer(t.Context(), ferry.ConsumerOptions{Queue: queue})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var list []ferry.Message
	for range n {
		d, err := consumer.Receive(ctx)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(list), n, err)
		}
		if err := d.Ack(); err != nil {
			t.Fatal(err)
		}
		m := d.Message
		m.ID = d.ID
		list = append(list, m)
	}
	if err := consumer.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return list
}

func bodiesOf(list []ferry.Message) []string {
	var bodies []string
	for _, m := range list {
		bodies = append(bodies, string(m.Body))
	}
	return bodies
}

func TestSend(t *testing.T) {
	b := ferrytest.Start(t)
	file := write(t, "message.txt", "two\nlines\n")
	for name, row := range map[string]struct {
		stdin string
		args  []string
		want  []string
	}{
		"arguments":                 {"left out", []string{"one", "", "three"}, []string{"one", "", "three"}},
		"lines":                     {"a\nb\n", nil, []string{"a", "b"}},
		"a last line without end":   {"a\nb", nil, []string{"a", "b"}},
		"empty lines":               {"\na\n\n", nil, []string{"", "a", ""}},
		"only ends of lines are":    {"a\r\n\tb \n", nil, []string{"a\r", "\tb "}},
		"nothing":                   {"", nil, nil},
		"all of the standard input": {"a\nb\n", []string{"--send-on", "eof"}, []string{"a\nb\n"}},
		"files":                     {"in", []string{"--file", file, "--file", "-"}, []string{"two\nlines\n", "in"}},
		"repeated":                  {"", []string{"-n", "3", "x", "y"}, []string{"x", "x", "x", "y", "y", "y"}},
		"at a rate":                 {"", []string{"--rate", "1000", "-n", "3", "x"}, []string{"x", "x", "x"}},
		"dashes":                    {"", []string{"--", "-n", "--"}, []string{"-n", "--"}},
	} {
		queue := "q " + name
		got := runWith(t, row.stdin, append([]string{"send", "-u", b.URL(), "-q", queue}, row.args...)...)
		if got.code != 0 || got.out != "" || !strings.HasSuffix(got.errors, fmt.Sprintf("%d confirmed\n", len(row.want))) {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		if n := waiting(t, b.URL(), queue); n != len(row.want) {
			t.Errorf("%s: there are %d messages, want %d", name, n, len(row.want))
			continue
		}
		list := takeMessages(t, b.URL(), queue, len(row.want))
		if bodies := bodiesOf(list); !reflect.DeepEqual(bodies, row.want) {
			t.Errorf("%s: got %q, want %q", name, bodies, row.want)
		}
		for _, m := range list {
			if m.Transient || m.ID == "" {
				t.Errorf("%s: transient: %v, id %q", name, m.Transient, m.ID)
			}
		}
	}
}

func TestSendProperties(t *testing.T) {
	b := ferrytest.Start(t)
	err := dialBroker(t, b.URL()).Declare(t.Context(), ferry.Topology{
		Queues:   []ferry.Queue{{Name: "q"}},
		Bindings: []ferry.Binding{{Exchange: "amq.topic", Key: "a.*", Queue: "q"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, "", "send", "-u", b.URL(), "-e", "amq.topic", "-k", "a.b", "-H", "one: 1:x", "-H", "two=2=:", "-H", "three:",
		"--content-type", "text/plain", "--content-encoding", "gzip", "--persistent=false", "--expiration", "1h",
		"--priority", "7", "--correlation-id", "c", "--reply-to", "r", "--message-id", "m", "--type", "t", "--app-id", "a", "body")
	got := takeMessages(t, b.URL(), "q", 1)[0]
	got.ID = ""
	want := ferry.Message{
		Exchange: "amq.topic", Key: "a.b", Body: []byte("body"),
		Headers:     map[string]any{"one": "1:x", "two": "2=:", "three": ""},
		ContentType: "text/plain", ContentEncoding: "gzip", Transient: true, Expiration: time.Hour,
		Priority: 7, CorrelationID: "c", ReplyTo: "r", MessageID: "m", Type: "t", AppID: "a",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSendTakesAQueueAsItIs(t *testing.T) {
	b := ferrytest.Start(t)
	err := dialBroker(t, b.URL()).Declare(t.Context(), ferry.Topology{Queues: []ferry.Queue{
		{Name: "q", Transient: true, Arguments: map[string]any{"x-max-length": 5}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, "", "send", "-u", b.URL(), "-q", "q", "x")
	if got := mustRun(t, "", "receive", "-u", b.URL(), "-q", "q", "-n", "1"); got != "x\n" {
		t.Errorf("got %q", got)
	}
}

func TestSendThatFails(t *testing.T) {
	b := ferrytest.Start(t)
	long := strings.Repeat("x", maxMessage+1)
	for name, row := range map[string]struct {
		stdin string
		args  []string
		code  int
		says  string
	}{
		"nowhere to send to":     {"", []string{"x"}, exitUsage, "where to?"},
		"a queue and a key":      {"", []string{"-q", "q", "-k", "k", "x"}, exitUsage, "not to both"},
		"a count of 0":           {"", []string{"-q", "q", "-n", "0", "x"}, exitUsage, "--count"},
		"a header without value": {"", []string{"-q", "q", "-H", "x", "x"}, exitUsage, "--header"},
		"two sources":            {"", []string{"-q", "q", "--file", "f", "x"}, exitUsage, "not both"},
		"no such file":           {"", []string{"-q", "q", "--file", "/nowhere"}, exitFailed, "file 1: "},
		"no queue":               {"", []string{"-q", "none", "--no-declare", "x", "y"}, exitRefused, "messages 1-2: "},
		"no exchange":            {"", []string{"-e", "none", "-k", "k", "x"}, exitRefused, "NOT_FOUND"},
		"a name of the broker's": {"", []string{"-q", "amq.mine", "x"}, exitRefused, "ACCESS_REFUSED"},
		"a long key":             {"", []string{"-e", "amq.topic", "-k", long[:256], "x"}, exitUsage, "--key"},
		"a long line":            {"a\n" + long + "\nb\n", []string{"-q", "long"}, exitFailed, "line 2: it has more than"},
		"a long file":            {long, []string{"-q", "eof", "--send-on", "eof"}, exitFailed, "message 1: it has more than"},
		"no JSON":                {"{}\n{", []string{"-q", "json", "--json"}, exitFailed, "line 2: "},
		"unknown JSON":           {`{"bdoy":"x"}`, []string{"-q", "json", "--json"}, exitFailed, "bdoy"},
	} {
		got := runWith(t, row.stdin, append([]string{"send", "-u", b.URL()}, row.args...)...)
		if got.code != row.code || !strings.Contains(got.errors, row.says) {
			t.Errorf("%s: exit code %d, want %d, with %q in\n%.500s", name, got.code, row.code, row.says, got.errors)
		}
	}
	// What came before the fault is sent.
	if n := waiting(t, b.URL(), "long"); n != 1 {
		t.Errorf("before the long line: %d messages, want 1", n)
	}
}

func TestSendOfTheLongestLine(t *testing.T) {
	r := bufio.NewReaderSize(io.MultiReader(
		io.LimitReader(repeated('x'), maxMessage), strings.NewReader("\n"),
		io.LimitReader(repeated('y'), maxMessage)), 64<<10)
	for _, c := range "xy" {
		line, err := readLine(r, maxMessage)
		if err != nil || len(line) != maxMessage || line[0] != byte(c) {
			t.Fatalf("%c: %d bytes, %v", c, len(line), err)
		}
	}
	if _, err := readLine(r, maxMessage); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for _, end := range []string{"", "\n"} {
		r.Reset(io.MultiReader(io.LimitReader(repeated('x'), maxMessage+1), strings.NewReader(end)))
		if _, err := readLine(r, maxMessage); !errors.Is(err, errTooLong) {
			t.Errorf("one more, and %q: %v", end, err)
		}
	}
}

type repeated byte

func (r repeated) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

func TestSendWithoutABroker(t *testing.T) {
	b := ferrytest.Start(t)
	b.Refuse()
	got := runWith(t, "", "send", "-u", b.URL(), "-q", "q", "--timeout", "200ms", "x")
	if got.code != exitNoBroker || strings.Contains(got.errors, "guest:guest") {
		t.Errorf("%+v", got)
	}
}

func TestSendThatIsNotConfirmed(t *testing.T) {
	b := ferrytest.Start(t)
	r, w := io.Pipe()
	defer w.Close()
	run := startCommand(t, System{Stdin: r, Args: []string{"send", "-u", b.URL(), "-q", "q", "--timeout", "2s"}})
	fmt.Fprintln(w, "one")
	takeMessages(t, b.DirectURL(), ensured(t, b, "q"), 1)
	b.Pause()
	fmt.Fprint(w, "two\nthree\n")
	if code := <-run.code; code != exitLeft || !strings.Contains(run.errors.String(), "-3\n") {
		t.Errorf("exit code %d\n%s", code, run.errors)
	}
}

// ensured declares a queue, so that it can be consumed from at once.
func ensured(t *testing.T, b *ferrytest.Broker, queue string) string {
	t.Helper()
	if err := ensureQueue(t.Context(), dialBroker(t, b.DirectURL()), queue); err != nil {
		t.Fatal(err)
	}
	return queue
}

func TestSendThatIsNacked(t *testing.T) {
	b := ferrytest.Start(t)
	b.Nack(1)
	got := runWith(t, "", "send", "-u", b.URL(), "-q", "q", "x")
	if got.code != exitRefused || !strings.Contains(got.errors, "nack") || !strings.Contains(got.errors, "\n0 confirmed\n") {
		t.Errorf("%+v", got)
	}
}

func TestSendLosesNothingWithItsConnections(t *testing.T) {
	b := ferrytest.Start(t)
	const messages, cuts = 2000, 4
	r, w := io.Pipe()
	run := startCommand(t, System{Stdin: r, Args: []string{"send", "-u", b.URL(), "-q", "q"}})
	var want []string
	for i := range messages {
		if i%(messages/cuts) == messages/cuts/2 {
			b.Drop()
		}
		want = append(want, fmt.Sprintf("message %d", i))
		fmt.Fprintln(w, want[i])
	}
	w.Close()
	if code := <-run.code; code != 0 || !strings.HasSuffix(run.errors.String(), "2000 confirmed\n") {
		t.Fatalf("exit code %d\n%s", code, run.errors)
	}
	if n := waiting(t, b.DirectURL(), "q"); n != messages {
		t.Fatalf("there are %d messages", n)
	}
	if got := bodiesOf(takeMessages(t, b.DirectURL(), "q", messages)); !reflect.DeepEqual(got, want) {
		t.Error("the messages are not those that were sent, in their order")
	}
}

func TestSendDeclaresTheQueueOnTheNextBroker(t *testing.T) {
	first, second := ferrytest.Start(t), ferrytest.Start(t)
	ensured(t, first, "q")
	r, w := io.Pipe()
	run := startCommand(t, System{Stdin: r, Args: []string{"send", "-u", first.URL(), "-u", second.URL(), "-q", "q"}})
	fmt.Fprintln(w, "one")
	takeMessages(t, first.DirectURL(), "q", 1)
	first.Refuse()
	first.Drop()
	fmt.Fprint(w, "two\nthree\n")
	w.Close()
	if code := <-run.code; code != 0 || !strings.HasSuffix(run.errors.String(), "3 confirmed\n") {
		t.Fatalf("exit code %d\n%s", code, run.errors)
	}
	got := map[string]bool{}
	for _, body := range bodiesOf(takeMessages(t, second.DirectURL(), "q", waiting(t, second.DirectURL(), "q"))) {
		got[body] = true
	}
	if !got["two"] || !got["three"] {
		t.Errorf("the second broker has %v", got)
	}
}

func TestSendUntilASignal(t *testing.T) {
	b := ferrytest.Start(t)
	r, w := io.Pipe()
	defer w.Close()
	run := startCommand(t, System{Stdin: r, Args: []string{"send", "-u", b.URL(), "-q", "q"}})
	fmt.Fprintln(w, "one")
	takeMessages(t, b.DirectURL(), ensured(t, b, "q"), 1)
	run.stop()
	if code := <-run.code; code != exitLeft || !strings.Contains(run.errors.String(), "\n1 confirmed\n") {
		t.Errorf("exit code %d\n%s", code, run.errors)
	}
}

func TestSendWithAnOutbox(t *testing.T) {
	b := ferrytest.Start(t)
	dir := filepath.Join(t.TempDir(), "outbox")
	b.Refuse()
	got := runWith(t, "", "send", "-u", b.URL(), "-q", "q", "--outbox", dir, "--timeout", "300ms", "one", "two")
	if got.code != exitNoBroker || !strings.Contains(got.errors, "2 messages stay in") {
		t.Fatalf("without a broker: %+v", got)
	}
	b.Heal()
	got = runWith(t, "", "send", "-u", b.URL(), "-q", "q", "--outbox", dir, "three")
	if got.code != 0 || !strings.HasSuffix(got.errors, "3 confirmed\n") {
		t.Fatalf("with one: %+v", got)
	}
	if bodies := bodiesOf(takeMessages(t, b.URL(), "q", 3)); !reflect.DeepEqual(bodies, []string{"one", "two", "three"}) {
		t.Errorf("got %q", bodies)
	}
	got = runWith(t, "", "send", "-u", b.URL(), "-e", "amq.direct", "-k", "nowhere", "--outbox", dir, "four")
	if got.code != exitRefused || !strings.Contains(got.errors, "NO_ROUTE") {
		t.Errorf("one that is refused: %+v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "refused.jsonl")); err != nil {
		t.Error(err)
	}
}

func TestNumbers(t *testing.T) {
	for want, list := range map[string][]int{
		"message 7":              {7},
		"messages 1-3":           {3, 1, 2},
		"messages 1, 3-4, 6, 9-": {1, 3, 4, 6, 9, 10, 11},
	} {
		if got := numbers(list); !strings.HasPrefix(got, want) {
			t.Errorf("%v: %q", list, got)
		}
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := newPace(100)
		for range 101 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d != time.Second {
			t.Errorf("101 of 100 a second took %v", d)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errTimeout)
		if err := p.wait(ctx); !errors.Is(err, errTimeout) {
			t.Errorf("after the end: %v", err)
		}
	})
}
