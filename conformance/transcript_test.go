package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var record = flag.Bool("record", false, "record what RabbitMQ answers in testdata")

// recorded is the series of RabbitMQ whose answers testdata holds: Debian's.
// Another one is compared with Ferry as it is.
const recorded = "3.10"

// programLimit is how long a program may take.
const programLimit = 3 * time.Minute

// A program prints what it sees of a broker: a line of JSON a step.
type program struct {
	name    string
	command []string
	needs   string // a path that is there when its client library is
	client  string
	managed bool // it is given the URL of the management API, too
}

var programs = []program{
	{name: "errors", command: []string{".venv/bin/python", "python/errors.py"}, needs: ".venv/bin/python", client: "pika, in conformance/.venv"},
	{name: "features", command: []string{".venv/bin/python", "python/features.py"}, needs: ".venv/bin/python", client: "pika, in conformance/.venv", managed: true},
	{name: "tutorials-python", command: []string{".venv/bin/python", "python/tutorials.py"}, needs: ".venv/bin/python", client: "pika, in conformance/.venv"},
	{name: "tutorials-node", command: []string{"node", "node/tutorials.mjs"}, needs: "node/node_modules/amqplib", client: "amqplib, in conformance/node/node_modules"},
}

func (p program) run(t *testing.T, at broker) []string {
	t.Helper()
	if _, err := os.Stat(p.needs); err != nil {
		missing(t, p.client+" (make setup installs it)")
	}
	if _, err := exec.LookPath(p.command[0]); err != nil {
		missing(t, p.command[0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), programLimit)
	defer cancel()
	args := append(slices.Clone(p.command[1:]), at.url)
	if p.managed {
		args = append(args, at.management)
	}
	out, err := run(ctx, p.command[0], args...)
	if err != nil {
		t.Fatalf("%v\nafter:\n%s", err, tail(out, 3))
	}
	return strings.Split(strings.TrimRight(string(out), "\n"), "\n")
}

func tail(out []byte, n int) []byte {
	lines := bytes.SplitAfter(bytes.TrimRight(out, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

func (p program) file() string {
	return filepath.Join("testdata", "rabbitmq-"+recorded, p.name+".jsonl")
}

func (p program) recording(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(p.file())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimRight(string(b), "\n"), "\n")
}

// TestFerryAnswersLikeRabbitMQ compares what each program sees of Ferry with
// what it saw of RabbitMQ when that was recorded, except for what is listed in
// testdata/differences.jsonl, with the reason.
func TestFerryAnswersLikeRabbitMQ(t *testing.T) {
	t.Parallel()
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			want := p.recording(t)
			if os.Getenv("FERRY_CONFORMANCE_URL") == "" {
				want = withDifferences(t, p, want)
			}
			compare(t, want, p.run(t, target(t, p.managed)))
		})
	}
}

// TestRabbitMQAnswersAsRecorded runs the same programs against the real
// RabbitMQ, so that the recordings are what they say. Another series than the
// recorded one answers some things in other words: what differs is shown, and
// is no failure.
func TestRabbitMQAnswersAsRecorded(t *testing.T) {
	t.Parallel()
	at := broker{rabbitMQURL(t), rabbitMQ.management}
	version := serverVersion(t, at.url)
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			got := p.run(t, at)
			switch {
			case *record:
				if err := os.WriteFile(p.file(), []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			case strings.HasPrefix(version, recorded+"."):
				compare(t, p.recording(t), got)
			default:
				for _, d := range differing(p.recording(t), got) {
					t.Logf("RabbitMQ %s, recorded %s:\n%s", version, recorded, d)
				}
			}
		})
	}
}

func serverVersion(t *testing.T, url string) string {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	version, _ := conn.Properties["version"].(string)
	return version
}

func compare(t *testing.T, want, got []string) {
	t.Helper()
	for _, d := range differing(want, got) {
		t.Error(d)
	}
}

// differing describes the lines that are not alike, each once.
func differing(want, got []string) []string {
	var out []string
	for i := range max(len(want), len(got)) {
		w, g := "(nothing)", "(nothing)"
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w != g {
			out = append(out, fmt.Sprintf("line %d\nwant %s\n got %s", i+1, w, g))
		}
	}
	return out
}

// A difference is a case in which Ferry answers otherwise than RabbitMQ, and
// why that is better.
type difference struct {
	Program string          `json:"program"`
	Case    string          `json:"case"`
	Why     string          `json:"why"`
	Replies json.RawMessage `json:"replies"` // Ferry's
}

// withDifferences puts Ferry's answers in the place of RabbitMQ's where they
// are meant to differ. A listed difference that is none is a fault.
func withDifferences(t *testing.T, p program, lines []string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "differences.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	at := make(map[string]int)
	for i, line := range lines {
		var l struct {
			Case string `json:"case"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s, line %d: %v", p.file(), i+1, err)
		}
		at[l.Case] = i
	}
	for line := range bytes.Lines(b) {
		var d difference
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&d); err != nil {
			t.Fatalf("differences.jsonl: %v in %s", err, line)
		}
		if d.Program != p.name {
			continue
		}
		i, ok := at[d.Case]
		mine := fmt.Sprintf(`{"case": %q, "replies": %s}`, d.Case, d.Replies)
		switch {
		case !ok:
			t.Errorf("differences.jsonl: %s has no case %q", p.name, d.Case)
		case d.Why == "":
			t.Errorf("differences.jsonl: %s does not say why", d.Case)
		case lines[i] == mine:
			t.Errorf("differences.jsonl: %s is no difference", d.Case)
		default:
			lines[i] = mine
		}
	}
	return lines
}
