package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
)

// commandVariable has this test's program be ferry, for what happens to a process
// of its own.
const commandVariable = "FERRY_TEST_IS_FERRY"

func TestMain(m *testing.M) {
	if os.Getenv(commandVariable) != "" {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

func TestMoveKeepsOrderAndProperties(t *testing.T) {
	from, to := ferrytest.Start(t), ferrytest.Start(t)
	first := ferry.Message{
		Body: []byte("0"), ContentType: "a", ContentEncoding: "b", Priority: 9, Transient: true, CorrelationID: "c",
		ReplyTo: "d", Expiration: time.Hour, MessageID: "e", Timestamp: time.Unix(1e9, 0), Type: "f", AppID: "g",
		Headers: map[string]any{"x": int64(1), "list": []any{"a"}},
	}
	messages := []ferry.Message{first}
	for i := range 999 {
		messages = append(messages, ferry.Message{Body: fmt.Append(nil, i+1)})
	}
	publish(t, from, "q", messages...)
	got := runWith(t, "", "move", "--from", from.URL(), "--to", to.URL(), "-q", "q", "--timeout", "300ms", "--prefetch", "50")
	if got.code != 0 || !strings.HasSuffix(got.errors, "1000 moved\n") || got.out != "" {
		t.Fatalf("%+v", got)
	}
	if n := waiting(t, from.URL(), "q"); n != 0 {
		t.Errorf("%d are left", n)
	}
	moved := takeMessages(t, to.URL(), "q", 1000)
	for i, m := range moved {
		if string(m.Body) != fmt.Sprint(i) || m.ID == "" {
			t.Fatalf("message %d is %q with the id %q", i, m.Body, m.ID)
		}
	}
	first.Key, moved[0].ID = "q", ""
	if !sameMessage(moved[0], first) {
		t.Errorf("got  %+v\nwant %+v", moved[0], first)
	}
}

func TestMoveWhere(t *testing.T) {
	for name, row := range map[string]struct {
		args  []string
		moved map[string]string // key of what is moved -> queue where it arrives
	}{
		"to another queue":     {[]string{"--to-queue", "else"}, map[string]string{"q": "else"}},
		"to an exchange":       {[]string{"--to-exchange", "amq.topic"}, map[string]string{"q": "bound to q"}},
		"to an exchange's key": {[]string{"--to-exchange", "amq.topic", "--to-key", "k"}, map[string]string{"q": "bound to k"}},
	} {
		b := ferrytest.Start(t)
		err := dialBroker(t, b.URL()).Declare(t.Context(), ferry.Topology{
			Queues:   []ferry.Queue{{Name: "bound to q"}, {Name: "bound to k"}, {Name: "copies"}},
			Bindings: []ferry.Binding{{Exchange: "amq.topic", Key: "q", Queue: "bound to q"}, {Exchange: "amq.topic", Key: "k", Queue: "bound to k"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		publish(t, b, "q", ferry.Message{Body: []byte("x"), Headers: map[string]any{"CC": []any{"copies"}}}, ferry.Message{Body: []byte("y")})
		args := append([]string{"move", "--from", b.URL(), "--to", b.URL(), "-q", "q", "--timeout", "200ms"}, row.args...)
		mustRun(t, "", args...)
		for _, queue := range row.moved {
			if got := bodiesOf(takeMessages(t, b.URL(), queue, 2)); !reflect.DeepEqual(got, []string{"x", "y"}) {
				t.Errorf("%s: got %q", name, got)
			}
		}
		if n := waiting(t, b.URL(), "copies"); n != 1 {
			t.Errorf("%s: %d copies, want that of the first publish", name, n)
		}
	}
}

// A broker of Ferry's stores an id once: moving must not make it drop what it
// has had before.
func TestMoveForthAndBack(t *testing.T) {
	a, b := ferrytest.Start(t), ferrytest.Start(t)
	publish(t, a, "q", messagesOf("x")...)
	for range 2 {
		mustRun(t, "", "move", "--from", a.URL(), "--to", b.URL(), "-q", "q", "--timeout", "200ms")
		mustRun(t, "", "move", "--from", b.URL(), "--to", a.URL(), "-q", "q", "--timeout", "200ms")
		mustRun(t, "", "move", "--from", a.URL(), "--to", a.URL(), "-q", "q", "--to-queue", "parked", "--timeout", "200ms")
		mustRun(t, "", "move", "--from", a.URL(), "--to", a.URL(), "-q", "parked", "--to-queue", "q", "--timeout", "200ms")
	}
	if got := bodiesOf(takeMessages(t, a.URL(), "q", 1)); got[0] != "x" {
		t.Errorf("got %q", got)
	}
}

func TestMoveSome(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("1", "2", "3")...)
	if got := runWith(t, "", "move", "--from", b.URL(), "--to", b.URL(), "-q", "q", "--to-queue", "r", "-n", "2"); got.code != 0 || waiting(t, b.URL(), "r") != 2 {
		t.Errorf("two: %+v", got)
	}
	if got := runWith(t, "", "move", "--from", b.URL(), "--to", b.URL(), "-q", "q", "--to-queue", "r", "-n", "2", "--timeout", "200ms"); got.code != 0 || waiting(t, b.URL(), "r") != 3 {
		t.Errorf("at most two, of one: %+v", got)
	}
}

func TestMoveLeavesWhatIsRefused(t *testing.T) {
	from, to := ferrytest.Start(t), ferrytest.Start(t)
	publish(t, from, "q", messagesOf("1", "2", "3", "4")...)
	to.Nack(2)
	got := runWith(t, "", "move", "--from", from.URL(), "--to", to.URL(), "-q", "q", "--timeout", "200ms")
	if got.code != exitRefused || !strings.Contains(got.errors, "2 messages were refused") || !strings.HasSuffix(got.errors, "nacked the message\n") {
		t.Errorf("%+v", got)
	}
	if n := waiting(t, from.URL(), "q"); n != 2 {
		t.Fatalf("%d are left", n)
	}
	if a, b := bodiesOf(takeMessages(t, from.URL(), "q", 2)), bodiesOf(takeMessages(t, to.URL(), "q", 2)); !reflect.DeepEqual(append(a, b...), []string{"1", "2", "3", "4"}) {
		t.Errorf("left %q, moved %q", a, b)
	}
	publish(t, from, "q", messagesOf("x")...)
	got = runWith(t, "", "move", "--from", from.URL(), "--to", to.URL(), "-q", "q", "--to-exchange", "none", "--timeout", "200ms")
	if got.code != exitRefused || !strings.Contains(got.errors, "NOT_FOUND") || waiting(t, from.URL(), "q") != 1 {
		t.Errorf("to an exchange that is not there: %+v", got)
	}
}

// Over GMQ a message may come without some of its headers: it is not moved.
func TestMoveLeavesWhatGMQDoesNotCarry(t *testing.T) {
	from, to := ferrytest.Start(t), ferrytest.Start(t)
	list := ferry.Message{Body: []byte("2"), Headers: map[string]any{"list": []any{"a"}}}
	publish(t, from, "q", ferry.Message{Body: []byte("1"), Headers: map[string]any{"n": int64(1)}}, list)
	got := runWith(t, "", "move", "--from", from.GMQURL(), "--to", to.URL(), "-q", "q", "--timeout", "200ms")
	if got.code != exitRefused || !strings.Contains(got.errors, "1 messages were refused and stay where they are: they have headers that GMQ does not carry") {
		t.Errorf("%+v", got)
	}
	if got := bodiesOf(takeMessages(t, to.URL(), "q", 1)); got[0] != "1" || waiting(t, from.URL(), "q") != 1 {
		t.Errorf("%q was moved, and %d are left", got, waiting(t, from.URL(), "q"))
	}
	got = runWith(t, "", "move", "--from", from.URL(), "--to", to.URL(), "-q", "q", "--timeout", "200ms")
	if moved := takeMessages(t, to.URL(), "q", 1); got.code != 0 || !reflect.DeepEqual(moved[0].Headers, list.Headers) {
		t.Errorf("over AMQP: %+v: %+v", got, moved)
	}
}

func TestMoveThatFails(t *testing.T) {
	b, off := ferrytest.Start(t), ferrytest.Start(t)
	off.Refuse()
	ensured(t, b, "q")
	for name, row := range map[string]struct {
		args []string
		code int
		says string
	}{
		"without a target":  {[]string{"--from", b.URL(), "-q", "q"}, exitUsage, "--to"},
		"without a queue":   {[]string{"--from", b.URL(), "--to", b.URL()}, exitUsage, "-q"},
		"two targets":       {[]string{"--from", b.URL(), "--to", b.URL(), "-q", "q", "--to-queue", "r", "--to-exchange", "e"}, exitUsage, "not to both"},
		"round and round":   {[]string{"--from", b.URL(), "--to", b.URL(), "-q", "q"}, exitUsage, "round"},
		"a key for a queue": {[]string{"--from", b.URL(), "--to", b.URL(), "-q", "q", "--to-key", "k"}, exitUsage, "--to-exchange"},
		"no source queue":   {[]string{"--from", b.URL(), "--to", b.URL(), "-q", "none", "--to-queue", "q"}, exitRefused, "NOT_FOUND"},
		"no target":         {[]string{"--from", b.URL(), "--to", off.URL(), "-q", "q", "--timeout", "200ms"}, exitNoBroker, "refused"},
	} {
		got := runWith(t, "", append([]string{"move"}, row.args...)...)
		if got.code != row.code || !strings.Contains(got.errors, row.says) {
			t.Errorf("%s: exit code %d, want %d, with %q in\n%s", name, got.code, row.code, row.says, got.errors)
		}
	}
}

// missing is how many of the bodies 0 to n-1 are not there, and how many there
// are more than once.
func missing(list []ferry.Message, n int) (missing, twice int) {
	seen := map[string]int{}
	for _, m := range list {
		seen[string(m.Body)]++
	}
	for i := range n {
		switch seen[fmt.Sprint(i)] {
		case 0:
			missing++
		case 1:
		default:
			twice++
		}
	}
	return missing, twice
}

func numbered(n int) []ferry.Message {
	var list []ferry.Message
	for i := range n {
		list = append(list, ferry.Message{Body: fmt.Append(nil, i)})
	}
	return list
}

func TestMoveWithLostConnections(t *testing.T) {
	from, to := ferrytest.Start(t), ferrytest.Start(t)
	const n = 3000
	publish(t, from, "q", numbered(n)...)
	from.CutAfterReceived(150_000)
	to.CutAfter(60_000)
	run := startCommand(t, System{Args: []string{"move", "--from", from.URL(), "--to", to.URL(), "-q", "q", "--prefetch", "100", "--timeout", "300ms"}})
	if code := <-run.code; code != 0 {
		t.Fatalf("exit code %d\n%s", code, run.errors)
	}
	if from.Accepted() < 3 || to.Accepted() < 2 {
		t.Errorf("no connection was lost: %d and %d", from.Accepted(), to.Accepted())
	}
	list := takeMessages(t, to.DirectURL(), "q", waiting(t, to.DirectURL(), "q"))
	if lost, twice := missing(list, n); lost > 0 || twice > 0 || waiting(t, from.DirectURL(), "q") > 0 {
		t.Errorf("%d are lost, %d came twice\n%s", lost, twice, run.errors)
	}
}

// Nothing is lost however often the command is killed. What was on its way may be
// there twice then, with one id.
func TestMoveThatIsKilled(t *testing.T) {
	from, to := ferrytest.Start(t), ferrytest.Start(t)
	const n, kills = 20_000, 5
	c := dialBroker(t, from.DirectURL())
	ensured(t, from, "q")
	p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range numbered(n) {
		if err := p.Submit(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	target := dialBroker(t, to.DirectURL())
	ensured(t, to, "q")
	for i := range kills {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), os.Args[0], "move", "--from", from.URL(), "--to", to.URL(), "-q", "q")
		cmd.Env = append(os.Environ(), commandVariable+"=1")
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for there := 0; there < (i+1)*n/(kills+2); {
			info, err := target.Inspect(t.Context(), "q")
			if err != nil {
				t.Fatal(err)
			}
			there = info.Messages
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatalf("kill %d: it had ended before\n%s", i, &stderr)
		}
	}
	left := waiting(t, from.DirectURL(), "q")
	if left == 0 {
		t.Error("it was never killed with something left to move")
	}
	mustRun(t, "", "move", "--from", from.URL(), "--to", to.URL(), "-q", "q", "--timeout", "500ms")
	list := takeMessages(t, to.DirectURL(), "q", waiting(t, to.DirectURL(), "q"))
	if lost, twice := missing(list, n); lost > 0 || twice > 0 || waiting(t, from.DirectURL(), "q") > 0 {
		t.Errorf("%d are lost, %d came twice", lost, twice)
	}
	ids := map[string]bool{}
	for _, m := range list {
		ids[m.ID] = true
	}
	if len(ids) != n {
		t.Errorf("there are %d ids of %d messages", len(ids), n)
	}
}

func TestIDsOfWhatIsMoved(t *testing.T) {
	a := idMaker{route: route("q", "r", "", "")}
	b := idMaker{route: route("q2", "r", "", "")}
	keep := idMaker{keep: true}
	one := a.make("producer-1")
	if one != a.make("producer-1") || !strings.HasSuffix(one, "-1") || strings.HasPrefix(one, "producer") {
		t.Errorf("got %q", one)
	}
	other := a.make("another-1")
	seen := map[string]bool{one: true, a.make("producer-2"): true, other: true, b.make("producer-1"): true, a.make(one): true}
	if len(seen) != 5 {
		t.Errorf("there are only %d of 5: %v", len(seen), seen)
	}
	for _, id := range []string{"", "x", "-1"} {
		if got := a.make(id); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	if got := keep.make("producer-1"); got != "producer-1" {
		t.Errorf("kept: %q", got)
	}
}
