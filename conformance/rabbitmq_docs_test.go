package conformance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The page for those who come from RabbitMQ names a test for each thing that it
// says, and says of each difference that it is one.
func TestPageOnRabbitMQNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../docs/rabbitmq.md")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]bool{}
	for _, p := range programs {
		for _, line := range p.recording(t) {
			var c struct{ Case string }
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				t.Fatal(err)
			}
			cases[c.Case] = true
		}
	}
	named := regexp.MustCompile("`(\\w+)(\\.|/)((?:Test|Benchmark)\\w+|[a-z]+_\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 150 {
		t.Fatalf("the page names %d tests", len(named))
	}
	for _, m := range named {
		place, name := m[1], m[3]
		switch {
		case m[2] == "/" && !cases[name]:
			t.Errorf("there is no case %s", name)
		case m[2] == "." && !hasTest(t, place, name):
			t.Errorf("there is no %s in %s", name, place)
		}
	}
	lines, err := os.ReadFile("testdata/differences.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		var d difference
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatal(err)
		}
		if d.Program == "features" && !strings.Contains(string(page), "`conformance/"+d.Case+"`") {
			t.Errorf("the page does not have %s: %s", d.Case, d.Why)
		}
	}
}

// hasTest tells whether a package, of internal or this one, has a test.
func hasTest(t *testing.T, place, name string) bool {
	t.Helper()
	pattern := "../internal/" + place + "/*_test.go"
	if place == "conformance" {
		pattern = "*_test.go"
	}
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "func "+name+"(") {
			return true
		}
	}
	return false
}
