package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const repository = "../.."

// TestReadme holds the README's blocks against the program: commands are
// understood, targets and files are there, the configuration is right.
func TestReadme(t *testing.T) {
	text := readText(t, filepath.Join(repository, "README.md"))
	makefile := readText(t, filepath.Join(repository, "Makefile"))
	blocks := regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	seen := map[string]int{}
	for _, b := range blocks {
		seen[b[1]]++
		switch b[1] {
		case "sh":
			for line := range strings.Lines(b[2]) {
				checkCommand(t, strings.TrimSpace(line), makefile)
			}
		case "toml":
			c, err := given{file: b[2]}.configure(t)
			if err != nil {
				t.Errorf("the configuration is wrong: %v", err)
			} else if c.app.User != "app" {
				t.Errorf("the configuration has no effect: %+v", c)
			}
		}
	}
	for _, kind := range []string{"sh", "toml", "python"} {
		if seen[kind] == 0 {
			t.Errorf("there is no block of %s", kind)
		}
	}
}

var makeTarget = regexp.MustCompile(`^make(?:\s+([a-z-]+))?(?:\s+#.*)?$`)

func checkCommand(t *testing.T, line, makefile string) {
	t.Helper()
	target := makeTarget.FindStringSubmatch(line)
	switch {
	case target != nil:
		if target[1] != "" && !regexp.MustCompile(`(?m)^`+target[1]+`:`).MatchString(makefile) {
			t.Errorf("%q: there is no such target", line)
		}
	case strings.HasPrefix(line, "go build "):
		if !strings.HasSuffix(line, " ./cmd/ferry") {
			t.Errorf("%q builds something else", line)
		}
	case strings.HasPrefix(line, "go run ./cmd/ferry "), strings.HasPrefix(line, "bin/ferry "):
		if !strings.HasSuffix(line, " --help") {
			mustParse(t, line)
		}
	default:
		t.Errorf("%q: nobody has looked at this command", line)
	}
}

// Links between the documents lead somewhere.
func TestLinks(t *testing.T) {
	documents, err := filepath.Glob(filepath.Join(repository, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(documents, filepath.Join(repository, "README.md")) {
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllStringSubmatch(readText(t, name), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: a link leads nowhere: %v", name, err)
			}
		}
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
