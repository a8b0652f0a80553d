package stompwire

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.."

// testPlaces is where the tests are that the table of conformance names. A
// scenario is a string in its file, the others are functions.
var testPlaces = map[string]string{
	"stompwire":   "internal/wire/stompwire/*_test.go",
	"stompserver": "internal/stompserver/*_test.go",
	"stompws":     "internal/stompws/*_test.go",
	"app":         "internal/app/*_test.go",
	"stomplink":   "internal/link/stomplink/*_test.go",
	"broker":      "internal/broker/*_test.go",
	"netserve":    "internal/netserve/*_test.go",
	"conformance": "conformance/stomp_*_test.go",
}

// The docs say what is promised: a table that names a test which is not there promises what nobody checks.
func TestConformanceTableNamesTestsThatExist(t *testing.T) {
	table, err := os.ReadFile(filepath.Join(root, "docs/stomp-conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	source := map[string]string{}
	for place, pattern := range testPlaces {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
		source[place] = all.String()
	}
	named := regexp.MustCompile("`(\\w+)(\\.|/)((?:Test|Fuzz)\\w+|[a-z]+_\\w+)`( \\(to come\\))?").FindAllStringSubmatch(string(table), -1)
	if len(named) < 100 {
		t.Fatalf("the table names %d tests", len(named))
	}
	for _, m := range named {
		place, separator, name, isToCome := m[1], m[2], m[3], m[4] != ""
		text, ok := source[place]
		what := "func " + name + "("
		if separator == "/" {
			what = `"` + name + `"`
		}
		if !isToCome && (!ok || !strings.Contains(text, what)) {
			t.Errorf("%s is not in %s", m[0], testPlaces[place])
		}
	}
}
