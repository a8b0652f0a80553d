package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/ferrytest"
	"github.com/ferrymq/ferry/internal/faultbroker"
	"github.com/ferrymq/ferry/internal/loadtest"
)

func TestBench(t *testing.T) {
	b := ferrytest.Start(t)
	dir := t.TempDir()
	svg, object := filepath.Join(dir, "a.svg"), filepath.Join(dir, "a.json")
	got := runFerry(t, nil, "bench", "-u", b.URL(), "-x", "2", "-y", "2", "-C", "200", "-c", "10", "-q", "20", "-s", "32B", "--id", "mine", "--svg", svg, "--json", object)
	if got.code != exitDone || !strings.Contains(got.out, "bench: mine 2x2 32B persistent confirm=10 ") {
		t.Errorf("got %+v", got)
	}
	var r loadtest.Result
	if err := json.Unmarshal([]byte(readText(t, object)), &r); err != nil || r.Sent != 400 || r.Confirmed != 400 || r.Received != 400 {
		t.Errorf("%v: %+v", err, r)
	}
	if !strings.HasPrefix(readText(t, svg), "<svg ") {
		t.Error("there is no picture")
	}
	if strings.Contains(readText(t, object), "guest:guest") {
		t.Error("the password is in the result")
	}
}

func TestBenchPrintsJSONAlone(t *testing.T) {
	b := ferrytest.Start(t)
	got := runFerry(t, nil, "bench", "-u", b.URL(), "-C", "10", "-c", "0", "--persistent=false", "--json", "-")
	var r loadtest.Result
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || r.Sent != 10 || !r.Options.Transient || got.code != exitDone {
		t.Errorf("%v: %+v", err, got)
	}
	if !strings.Contains(got.errors, "bench: 1x1 100B transient no-confirm") {
		t.Errorf("stderr:\n%s", got.errors)
	}
}

func TestBenchThatCannotBe(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{Faults: faultbroker.Faults{NackEvery: 2}})
	gone := faultbroker.Start(t, faultbroker.Options{})
	gone.Close()
	nowhere := filepath.Join(t.TempDir(), "missing", "a.svg")
	for _, row := range []struct {
		args []string
		code int
	}{
		{[]string{"-u", gone.URL()}, exitNoBroker},
		{[]string{"-u", b.URL(), "-C", "10"}, exitRefused},
		{[]string{"-u", b.URL(), "-x", "0", "-y", "0"}, exitUsage},
		{[]string{"-u", b.URL(), "-z", "soon"}, exitUsage},
		{[]string{"-u", b.URL(), "-s", "big"}, exitUsage},
		{[]string{"-u", b.URL(), "-t", "fanout"}, exitUsage},
		{[]string{"-u", b.URL(), "-C", "1", "--svg", nowhere}, exitFailed},
	} {
		if got := runFerry(t, nil, append([]string{"bench", "--quiet"}, row.args...)...); got.code != row.code {
			t.Errorf("%q: exit code %d, want %d\n%s%s", row.args, got.code, row.code, got.out, got.errors)
		}
	}
	if _, err := os.Stat(nowhere); err == nil {
		t.Error("it was written")
	}
}
