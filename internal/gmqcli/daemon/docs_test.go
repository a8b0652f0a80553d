package daemon

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/app"
)

const page = "../../../docs/gmq.md"

// The configurations that the page shows are such.
func TestConfigurationsOfThePage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 3 {
		t.Fatalf("the page has %d configurations", len(blocks))
	}
	for _, b := range blocks {
		c, notes, err := readConfig(write(t, b[1]))
		if err == nil {
			err = c.apply(&app.Config{})
		}
		if err != nil || len(notes) > 0 {
			t.Errorf("%s: %v, %q", b[1], err, notes)
		}
	}
}

// The page shows every flag of gmqserver's.
func TestFlagsOfThePage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var help strings.Builder
	Run(t.Context(), System{Args: []string{"-h"}, Stdout: &help, Stderr: &help})
	flags := regexp.MustCompile(`(?m)^  -([a-z-]+)`).FindAllStringSubmatch(help.String(), -1)
	if len(flags) < 8 {
		t.Fatalf("the help has %d flags:\n%s", len(flags), &help)
	}
	for _, f := range flags {
		if !strings.Contains(string(text), "`-"+f[1]) {
			t.Errorf("the page does not have -%s", f[1])
		}
	}
}
