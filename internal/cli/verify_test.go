package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/ferrytest"
	"github.com/ferrymq/ferry/internal/faultbroker"
	"github.com/ferrymq/ferry/internal/verify"
)

func TestVerify(t *testing.T) {
	b := ferrytest.Start(t)
	got := runFerry(t, map[string]string{"FERRY_URL": b.URL()}, "verify", "-n", "500", "--producers", "2")
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	if got.code != exitDone || len(lines) != 2 {
		t.Fatalf("got %+v", got)
	}
	if strings.Join(strings.Fields(lines[0]), " ") != "sent confirmed received lost duplicated redelivered reordered longest_gap_ms failovers" {
		t.Errorf("the labels are %q", lines[0])
	}
	values := strings.Fields(lines[1])
	if len(values) != 9 || strings.Join(values[:7], " ") != "500 500 500 0 0 0 0" || values[8] != "0" {
		t.Errorf("the values are %q", lines[1])
	}
	if !strings.Contains(got.errors, "publish: connected to ") || strings.Contains(got.errors, "guest:guest") {
		t.Errorf("stderr:\n%s", got.errors)
	}
}

func TestVerifyFindsALoss(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{Faults: faultbroker.Faults{LoseEvery: 50}})
	got := runFerry(t, nil, "verify", "-u", b.URL(), "-q", "q", "-n", "100", "--settle-timeout", "300ms", "--json")
	var r verify.Report
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || r.Lost != 2 || r.Sent != 100 || len(r.Missing) != 2 {
		t.Errorf("%v: %s", err, got.out)
	}
	if got.code != exitLeft || !strings.Contains(got.errors, "2 were lost") || !strings.Contains(got.errors, "producer 1: 50") {
		t.Errorf("exit code %d, stderr:\n%s", got.code, got.errors)
	}
}

func TestVerifyThatCannotBe(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	refusing := faultbroker.Start(t, faultbroker.Options{Faults: faultbroker.Faults{RefuseLogin: true}})
	gone := faultbroker.Start(t, faultbroker.Options{})
	gone.Close()
	for _, row := range []struct {
		args []string
		code int
	}{
		{[]string{"-u", gone.URL()}, exitNoBroker},
		{[]string{"-u", refusing.URL()}, exitRefused},
		{[]string{"-u", b.URL(), "--consume-url", gone.URL(), "-n", "1"}, exitNoBroker},
		{[]string{"-u", b.URL(), "--size", "10"}, exitUsage},
		{[]string{"-u", b.URL(), "--consume-url", "http://x"}, exitUsage},
		{[]string{"-u", b.URL(), "--queue-arg", "x"}, exitUsage},
		{[]string{"-u", b.URL(), "--no-declare", "-q", "nowhere", "-n", "1"}, exitRefused},
		{[]string{"extra"}, exitUsage},
	} {
		got := runFerry(t, nil, append([]string{"verify", "--quiet"}, row.args...)...)
		if got.code != row.code || got.out != "" {
			t.Errorf("%q: exit code %d, want %d\n%s%s", row.args, got.code, row.code, got.out, got.errors)
		}
	}
}
