package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
)

// publish puts messages into a queue.
func publish(t *testing.T, b *ferrytest.Broker, queue string, messages ...ferry.Message) {
	t.Helper()
	c := dialBroker(t, b.DirectURL())
	if err := ensureQueue(t.Context(), c, queue); err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		m.Exchange, m.Key = "", queue
		if err := c.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

func messagesOf(bodies ...string) []ferry.Message {
	var list []ferry.Message
	for _, b := range bodies {
		list = append(list, ferry.Message{Body: []byte(b)})
	}
	return list
}

func TestReceive(t *testing.T) {
	for name, row := range map[string]struct {
		args []string
		out  string
		code int
		left int // in the queue
	}{
		"as many as there are": {[]string{"-n", "3"}, "one\n\ntwo\nlines\n", 0, 0},
		"fewer":                {[]string{"-n", "2", "--quiet"}, "one\n\n", 0, 1},
		"one ahead":            {[]string{"-n", "2", "--prefetch", "1"}, "one\n\n", 0, 1},
		"more":                 {[]string{"-n", "4", "--timeout", "1s"}, "one\n\ntwo\nlines\n", exitLeft, 0},
		"until none comes":     {[]string{"--timeout", "1s"}, "one\n\ntwo\nlines\n", 0, 0},
		"unacknowledged":       {[]string{"--no-ack", "--timeout", "1s"}, "one\n\ntwo\nlines\n", 0, 0},
		"fewer, unacknowledged": {
			[]string{"--no-ack", "-n", "1"}, "one\n", 0, 2,
		},
	} {
		b := ferrytest.Start(t)
		publish(t, b, "q", messagesOf("one", "", "two\nlines")...)
		got := runWith(t, "", append([]string{"receive", "-u", b.URL(), "-q", "q"}, row.args...)...)
		if got.out != row.out || got.code != row.code {
			t.Errorf("%s: %+v", name, got)
		}
		if n := waiting(t, b.URL(), "q"); n != row.left {
			t.Errorf("%s: %d messages are left, want %d", name, n, row.left)
		}
	}
}

func TestReceiveThatFails(t *testing.T) {
	b := ferrytest.Start(t)
	for name, row := range map[string]struct {
		args []string
		code int
		says string
	}{
		"from nowhere":           {nil, exitUsage, "from where?"},
		"an odd binding":         {[]string{"--bind", "x"}, exitUsage, "EXCHANGE:KEY"},
		"no prefetch":            {[]string{"-q", "q", "--prefetch", "0"}, exitUsage, "--prefetch"},
		"several without --exec": {[]string{"-q", "q", "--concurrency", "2"}, exitUsage, "--exec"},
		"JSON to a command":      {[]string{"-q", "q", "--json", "--exec", "x"}, exitUsage, "--json"},
		"no queue":               {[]string{"-q", "none", "--no-declare"}, exitRefused, "NOT_FOUND"},
		"no exchange":            {[]string{"--bind", "none:x"}, exitRefused, "NOT_FOUND"},
	} {
		got := runWith(t, "", append([]string{"receive", "-u", b.URL()}, row.args...)...)
		if got.code != row.code || !strings.Contains(got.errors, row.says) {
			t.Errorf("%s: exit code %d, want %d, with %q in\n%s", name, got.code, row.code, row.says, got.errors)
		}
	}
	b.Refuse()
	if got := runWith(t, "", "receive", "-u", b.URL(), "-q", "q", "--timeout", "100ms"); got.code != exitNoBroker {
		t.Errorf("without a broker: %+v", got)
	}
}

// failingWriter takes so many writes.
type failingWriter struct {
	bytes.Buffer
	left int
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left == 0 {
		return 0, syscall.EPIPE
	}
	w.left--
	return w.Buffer.Write(p)
}

func TestReceiveAcknowledgesWhatWasWritten(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("one", "two", "three")...)
	w := &failingWriter{left: 1}
	run := startCommand(t, System{Args: []string{"receive", "-u", b.URL(), "-q", "q"}, Stdout: w})
	if code := <-run.code; code != exitFailed || w.String() != "one\n" {
		t.Errorf("exit code %d, printed %q\n%s", code, w, run.errors)
	}
	if got := bodiesOf(takeMessages(t, b.URL(), "q", 2)); !reflect.DeepEqual(got, []string{"two", "three"}) {
		t.Errorf("left are %q", got)
	}
}

func TestReceiveUntilASignal(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("one")...)
	written := make(signalWriter)
	run := startCommand(t, System{Args: []string{"receive", "-u", b.URL(), "-q", "q"}, Stdout: written})
	<-written
	run.stop()
	if code := <-run.code; code != 0 {
		t.Errorf("exit code %d\n%s", code, run.errors)
	}
	if n := waiting(t, b.URL(), "q"); n != 0 {
		t.Errorf("%d messages are left", n)
	}
}

type signalWriter chan struct{}

func (w signalWriter) Write(p []byte) (int, error) { w <- struct{}{}; return len(p), nil }

func TestReceiveGoesOnAfterALostConnection(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("one")...)
	written := make(bodyWriter)
	run := startCommand(t, System{Args: []string{"receive", "-u", b.URL(), "-q", "q"}, Stdout: written})
	<-written
	b.Drop()
	publish(t, b, "q", messagesOf("two")...)
	for <-written != "two\n" {
		// "one" once more, if its acknowledgement was lost.
	}
	run.stop()
	code := <-run.code
	// "one" may be back so late that the command had ended.
	if left := receiveAll(t, b.URL(), "q"); code != 0 || len(left) > 0 && left[0] != "one" || len(left) > 1 {
		t.Errorf("exit code %d, left are %q\n%s", code, left, run.errors)
	}
}

// receiveAll takes what is in a queue.
func receiveAll(t *testing.T, url, queue string) []string {
	t.Helper()
	got := runFerry(t, nil, "receive", "-u", url, "-q", queue, "--timeout", "100ms")
	if got.code != exitDone {
		t.Fatalf("exit code %d\n%s", got.code, got.errors)
	}
	return strings.Fields(got.out)
}

// bodyWriter hands over what is written.
type bodyWriter chan string

func (w bodyWriter) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

func TestReceiveBinds(t *testing.T) {
	for name, args := range map[string][]string{
		"a queue of its own": {"--bind", "amq.topic:a.#", "--bind", "amq.topic:b"},
		"a named queue":      {"--bind", "amq.topic:a.#", "--bind", "amq.topic:b", "-q", "q"},
	} {
		b := ferrytest.Start(t)
		run := startCommand(t, System{Args: append([]string{"receive", "-u", b.URL(), "-n", "2"}, args...)})
		c := dialBroker(t, b.DirectURL())
		for _, key := range []string{"b", "a.x.y"} {
			// It is routed when the queue is bound.
			err := ferry.ErrUnroutable
			for errors.Is(err, ferry.ErrUnroutable) {
				err = c.Publish(t.Context(), ferry.Message{Exchange: "amq.topic", Key: key, Body: []byte(key)})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if code := <-run.code; code != 0 || run.out.String() != "b\na.x.y\n" {
			t.Errorf("%s: exit code %d, %q\n%s", name, code, run.out, run.errors)
		}
	}
}

func TestReceiveDropsRepeats(t *testing.T) {
	b := ferrytest.Start(t)
	// A broker of Ferry's stores an id of this form in any number.
	publish(t, b, "q", ferry.Message{ID: "x", Body: []byte("1")}, ferry.Message{ID: "x", Body: []byte("2")}, ferry.Message{ID: "y", Body: []byte("3")})
	got := mustRun(t, "", "receive", "-u", b.URL(), "-q", "q", "--dedup", "10", "--timeout", "1s")
	if got != "1\n3\n" || waiting(t, b.URL(), "q") != 0 {
		t.Errorf("got %q", got)
	}
}

func TestExec(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", ferry.Message{
		Body: []byte("body"), ContentType: "text/plain", MessageID: "m", Type: "t", ReplyTo: "r", CorrelationID: "c",
		Timestamp: time.Unix(1e9, 0),
		Headers: map[string]any{
			"x-one": "a b", "n": int64(7), "list": []any{int64(1), "z"}, "zero": "a\x00b", "large": strings.Repeat("x", maxVariable+1),
		},
	})
	got := mustRun(t, "", "receive", "-u", b.URL(), "-q", "q", "-n", "1", "--exec", "cat; echo; env | grep ^FERRY_ | sort")
	lines := strings.Split(strings.TrimSpace(got), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "FERRY_ID=") })
	if i < 0 || len(lines[i]) < len("FERRY_ID=x-1") {
		t.Fatalf("there is no id: %q", got)
	}
	lines = slices.Delete(lines, i, i+1)
	want := []string{
		"body", "FERRY_CONTENT_TYPE=text/plain", "FERRY_CORRELATION_ID=c", "FERRY_EXCHANGE=", "FERRY_HEADER_list=[1 z]",
		"FERRY_HEADER_n=7", "FERRY_HEADER_x_one=a b", "FERRY_KEY=q", "FERRY_MESSAGE_ID=m", "FERRY_REDELIVERED=false",
		"FERRY_REPLY_TO=r", "FERRY_TIMESTAMP=2001-09-09T01:46:40Z", "FERRY_TYPE=t",
	}
	slices.Sort(lines[1:])
	slices.Sort(want[1:])
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("got\n%s", strings.Join(lines, "\n"))
	}
}

func TestExecThatFailsGivesTheMessageBack(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("one", "two", "three")...)
	got := runWith(t, "", "receive", "-u", b.URL(), "-q", "q", "-n", "3", "--exec", `cat; echo " $FERRY_REDELIVERED"; test $FERRY_REDELIVERED = true`)
	want := "one false\none true\ntwo false\ntwo true\nthree false\nthree true\n"
	if got.code != 0 || got.out != want || waiting(t, b.URL(), "q") != 0 {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(got.errors, "exit status 1") {
		t.Errorf("nothing is said of the failure: %s", got.errors)
	}
}

func TestExecOfSeveralAtATime(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("1", "2", "3", "4", "5")...)
	dir := t.TempDir()
	// The first three go on when all of them are there.
	command := fmt.Sprintf("m=$(cat); touch %s/$m; if [ $m -le 3 ]; then until [ -e %[1]s/1 -a -e %[1]s/2 -a -e %[1]s/3 ]; do :; done; fi; echo $m", dir)
	got := strings.Fields(mustRun(t, "", "receive", "-u", b.URL(), "-q", "q", "-n", "5", "--concurrency", "3", "--exec", command))
	slices.Sort(got)
	if !reflect.DeepEqual(got, []string{"1", "2", "3", "4", "5"}) {
		t.Errorf("got %q", got)
	}
}

func TestPausesGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pauses []time.Duration
		fails := 12
		k := &taker{
			consumer: endless{}, left: 1, counted: true,
			noAck: true, // its deliveries are of no connection
			handle: func(context.Context, *ferry.Delivery) error {
				if len(pauses) == fails {
					return nil
				}
				return errors.New("no")
			},
			failed: func(_ error, pause time.Duration) { pauses = append(pauses, pause) },
		}
		began := time.Now()
		// Those without acknowledgements are counted also when they fail.
		for len(pauses) < fails {
			k.left = fails
			if err := k.run(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
		var sum time.Duration
		for i, p := range pauses {
			if want := min(lastPause, firstPause<<i); p != want {
				t.Errorf("pause %d is %v, want %v", i, p, want)
			}
			sum += p
		}
		if d := time.Since(began); d != sum {
			t.Errorf("it took %v, and the pauses are %v", d, sum)
		}
	})
}

// endless has as many messages as are taken.
type endless struct{}

func (endless) Receive(context.Context) (*ferry.Delivery, error) { return &ferry.Delivery{}, nil }

func TestJSONGoesAround(t *testing.T) {
	b := ferrytest.Start(t)
	messages := []ferry.Message{
		{Body: []byte("text <&> \u2028 \"ä\"\n")},
		{Body: []byte{0xff, 0, 1}},
		{
			ContentType: "a", ContentEncoding: "b", Priority: 255, Transient: true, CorrelationID: "c",
			ReplyTo: "d", Expiration: time.Hour, MessageID: "e", Timestamp: time.Unix(1e9, 0), Type: "f", AppID: "g",
			Headers: map[string]any{
				"text": "x", "bytes": []byte{0xff}, "empty": []byte{}, "yes": true, "nothing": nil, "number": int64(math.MaxInt64),
				"float": 2.0, "large": 1e300, "small": 1.5e-9, "inf": math.Inf(-1), "time": time.Unix(1e9, 0),
				"list": []any{int64(1), "b", []any{false}}, "table": map[string]any{"a": map[string]any{"b": 0.5}},
			},
		},
	}
	publish(t, b, "q", messages...)
	lines := mustRun(t, "", "receive", "-u", b.URL(), "-q", "q", "-n", "3", "--json")
	mustRun(t, lines, "send", "-u", b.URL(), "-q", "again", "--json")
	for i, got := range takeMessages(t, b.URL(), "again", 3) {
		want := messages[i]
		want.Key = "again"
		got.ID = ""
		if !sameMessage(got, want) {
			t.Errorf("got  %#v\nwant %#v", got, want)
		}
	}
	// Without a flag it goes where it went before.
	mustRun(t, lines, "send", "-u", b.URL(), "--json", "-H", "more=1")
	if got := takeMessages(t, b.URL(), "q", 3)[2]; got.Headers["more"] != "1" || got.Headers["text"] != "x" || got.ContentType != "a" {
		t.Errorf("got %+v", got)
	}
}

// sameMessage compares times as points in time.
func sameMessage(a, b ferry.Message) bool {
	inUTC := func(m *ferry.Message) {
		m.Timestamp = m.Timestamp.UTC()
		h := map[string]any{}
		for k, v := range m.Headers {
			if at, ok := v.(time.Time); ok {
				v = at.UTC()
			}
			h[k] = v
		}
		m.Headers = h
	}
	inUTC(&a)
	inUTC(&b)
	return reflect.DeepEqual(a, b)
}

func FuzzMessageJSON(f *testing.F) {
	for _, s := range []string{
		`{"exchange":"e","key":"k","body":"x","headers":{"a":1,"b":1.0,"c":{"$bytes":"/w=="},"d":[null,true]},"priority":1,"persistent":false}`,
		`{"body_base64":"/w==","expiration_ms":1,"timestamp":"2001-09-09T01:46:40Z","headers":{"t":{"$time":"2001-09-09T01:46:40Z"},"f":{"$float":"NaN"}}}`,
		`{}`, `null`, `{"headers":{"a":1e999}}`, `{"expiration_ms":-1}`, `[]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parseJSON(line, true)
		if err != nil {
			return
		}
		printed, err := appendJSON(nil, &ferry.Delivery{Message: m})
		if err != nil || !json.Valid(printed) {
			t.Fatalf("%+v is printed as %q: %v", m, printed, err)
		}
		if _, err := parseJSON(printed, true); err != nil {
			t.Fatalf("what was printed cannot be read: %v\n%s", err, printed)
		}
	})
}
