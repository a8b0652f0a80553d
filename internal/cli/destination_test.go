package cli

import (
	"strings"
	"testing"

	"github.com/ferrymq/ferry/ferrytest"
)

func TestDestinationsOfSTOMPAreNamesAndAreToldOf(t *testing.T) {
	broker := ferrytest.Start(t)
	stomp, amqp := broker.STOMPURL(), broker.URL()
	for _, row := range []struct {
		args []string
		hint string // of a line; empty for none
	}{
		{[]string{"-u", stomp, "-q", "/queue/orders"}, "is -q orders"},
		{[]string{"-u", stomp, "-q", "/amq/queue/orders"}, "is -q orders"},
		{[]string{"-u", stomp, "-q", "/topic/news"}, "-e amq.topic -k KEY"},
		{[]string{"-u", amqp + "," + stomp, "-q", "/queue/orders"}, "is -q orders"},
		{[]string{"-u", stomp, "-q", "orders"}, ""},
		{[]string{"-u", stomp, "-q", "/orders"}, ""},
		{[]string{"-u", stomp, "-q", "/queue/"}, ""},
		{[]string{"-u", amqp, "-q", "/queue/orders"}, ""},
		{[]string{"--quiet", "-u", stomp, "-q", "/queue/orders"}, ""},
	} {
		for _, command := range [][]string{{"send", "one"}, {"receive", "-n", "1"}} {
			args := append(command, row.args...)
			got := runFerry(t, nil, args...)
			if got.code != 0 {
				t.Fatalf("%v: %+v", args, got)
			}
			if told := strings.Contains(got.errors, "note: "); told != (row.hint != "") || !strings.Contains(got.errors, row.hint) {
				t.Errorf("%v: it said %q, want a note with %q", args, got.errors, row.hint)
			}
		}
	}
}
