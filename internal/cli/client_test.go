package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
)

func variablesOf(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

func TestBrokerURL(t *testing.T) {
	const fallback = "amqp://guest:guest@localhost:5672/"
	for _, row := range []struct {
		name  string
		given []string
		env   map[string]string
		want  string // an error if it begins with !
	}{
		{"nothing", nil, nil, fallback},
		{"one", []string{"amqp://a"}, nil, "amqp://a"},
		{"repeated", []string{"amqp://a", " amqp://b "}, nil, "amqp://a,amqp://b"},
		{"a list", []string{"amqp://a,amqp://b"}, nil, "amqp://a,amqp://b"},
		{"failover", []string{"failover:(amqp://a,amqp://b)?randomize=false"}, nil, "failover:(amqp://a,amqp://b)?randomize=false"},
		{"failover and another", []string{"failover:(amqp://a)", "amqp://b"}, nil, "!alone"},
		{"the flag counts more", []string{"amqp://a"}, map[string]string{"AMQP_URL": "amqp://b"}, "amqp://a"},
		{"an empty flag is none", []string{""}, nil, fallback},
		{"AMQP_URL", nil, map[string]string{"AMQP_URL": "amqp://b", "RABBIT_HOST": "c"}, "amqp://b"},
		{"parts", nil, map[string]string{"RABBIT_HOST": "c", "RABBIT_PASSWORD": "p@"}, "amqp://guest:p%40@c:5672/"},
		{"another protocol", []string{"http://a"}, nil, "!"},
	} {
		got, err := brokerURL(row.given, variablesOf(row.env))
		if part, wrong := strings.CutPrefix(row.want, "!"); wrong {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %q, %v", row.name, got, err)
			}
		} else if err != nil || got != row.want {
			t.Errorf("%s: got %q, %v, want %q", row.name, got, err, row.want)
		}
	}
}

func TestFerryURLIsTheFlag(t *testing.T) {
	got := runFerry(t, map[string]string{"FERRY_URL": "nonsense://x"}, "verify", "-n", "1")
	if got.code != exitUsage || !strings.Contains(got.errors, "nonsense") {
		t.Errorf("got %+v", got)
	}
}

func TestExitCodesOfClients(t *testing.T) {
	for _, row := range []struct {
		err  error
		code int
	}{
		{errors.New("something else"), exitFailed},
		{fmt.Errorf("%w: %w", ferry.ErrNoBroker, ferry.ErrAccessRefused), exitRefused},
		{fmt.Errorf("%w: dial: connection refused", ferry.ErrNoBroker), exitNoBroker},
		{ferry.ErrAccessRefused, exitRefused},
		{fmt.Errorf("%w: %w", ferry.ErrRefused, ferry.ErrUnroutable), exitRefused},
		{ferry.ErrPrecondition, exitRefused},
		{&ferry.UnconfirmedError{}, exitLeft},
		{fmt.Errorf("publishing: %w", ferry.ErrUnknown), exitLeft},
	} {
		var f *failure
		if !errors.As(clientFailed(row.err), &f) || f.code != row.code {
			t.Errorf("%v: %+v, want exit code %d", row.err, f, row.code)
		}
	}
	got := clientFailed(fmt.Errorf("%w: amqp://a: %w: connecting to a:5672: refused", ferry.ErrNoBroker, ferry.ErrConnectionLost))
	if want := "no broker is reachable: amqp://a: connecting to a:5672: refused"; got.Error() != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if clientFailed(nil) != nil {
		t.Error("nothing has failed")
	}
}

func TestEventsInWords(t *testing.T) {
	var out strings.Builder
	p := &eventPrinter{w: &out}
	start := time.Date(2026, 3, 4, 14, 3, 2, 0, time.Local)
	for i, e := range []ferry.Event{
		{Kind: ferry.Connected, Endpoint: "amqp://a"},
		{Kind: ferry.Disconnected, Endpoint: "amqp://a", Err: errors.New("reset\nby peer")},
		{Kind: ferry.Retrying, Err: fmt.Errorf("%w: amqp://a: %w: refused", ferry.ErrNoBroker, ferry.ErrConnectionLost)},
		{Kind: ferry.Retrying, Err: fmt.Errorf("%w: amqp://a: refused", ferry.ErrNoBroker)},
		{Kind: ferry.Connected, Endpoint: "amqp://b"},
		{Kind: ferry.Blocked, Endpoint: "amqp://b", Err: errors.New("low on disk")},
		{Kind: ferry.ConsumerCancelled, Err: fmt.Errorf("%w: gone", ferry.ErrConnectionLost)},
		{Kind: ferry.Closed},
	} {
		e.Connection, e.Time = "publish", start.Add(time.Duration(i)*160*time.Millisecond)
		p.print(e)
	}
	want := `14:03:02 publish: connected to amqp://a
14:03:02 publish: connection to amqp://a lost: reset; by peer
14:03:02 publish: no broker is reachable, trying again: amqp://a: refused
14:03:02 publish: connected to amqp://b after 0.48 s
14:03:02 publish: amqp://b takes no messages for now: low on disk
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestFlagValues(t *testing.T) {
	var d durationFlag
	for text, want := range map[string]time.Duration{"90": 90 * time.Second, "1m30s": 90 * time.Second, "0.5": 500 * time.Millisecond, "0": 0} {
		if err := d.Set(text); err != nil || time.Duration(d) != want {
			t.Errorf("duration %q: %v, %v", text, time.Duration(d), err)
		}
	}
	var b bytesFlag
	for text, want := range map[string]int{"0": 0, "100": 100, "16KiB": 16 << 10, "1MB": 1e6} {
		if err := b.Set(text); err != nil || int(b) != want {
			t.Errorf("size %q: %d, %v", text, b, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "1x", "1e99"} {
		if d.Set(text) == nil || b.Set(text) == nil {
			t.Errorf("%q is taken", text)
		}
	}
	q := queueFlags{quorum: true, given: []string{"x-max-length=5", "x-single-active-consumer=true", "a=b=c"}}
	arguments, err := q.arguments()
	if err != nil || fmt.Sprint(arguments) != "map[a:b=c x-max-length:5 x-queue-type:quorum x-single-active-consumer:true]" {
		t.Errorf("got %v, %v", arguments, err)
	}
	q.given = []string{"novalue"}
	if _, err := q.arguments(); err == nil {
		t.Error("an argument without a value is taken")
	}
}
