package archtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// unsaid is what no file of the repository says: where it was written, and
// from which machine its dependencies came. The patterns are put together here
// so that they do not match themselves.
var unsaid = []struct {
	what    string
	pattern *regexp.Regexp
}{
	{"a path of the machine that it was written on", regexp.MustCompile(`/(wor` + `k|root|home/[a-z]+)/|\.\./shar` + `ed\b`)},
	{"the host of a package registry", regexp.MustCompile(`"resolv` + `ed": *"http|--(extra-)?index-ur` + `l|--regist` + `ry|registr` + `y=`)},
	{"a merge that was not finished", regexp.MustCompile(`(?m)^(<{7}|>{7}) `)},
}

// exempt are files that quote such things for a reason.
var exempt = map[string]string{}

// TestNoFileSays looks at every file that git has or would add.
func TestNoFileSays(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("missing, and CI=true: git and a checkout: %v", err)
		}
		t.Skipf("missing: git and a checkout: %v", err)
	}
	names := strings.Split(strings.Trim(string(out), "\x00"), "\x00")
	if len(names) < 10 {
		t.Fatalf("git ls-files names %d files", len(names))
	}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join("../..", name))
		if os.IsNotExist(err) {
			continue // deleted, and not committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(content, 0) >= 0 || exempt[name] != "" {
			continue
		}
		for _, u := range unsaid {
			if at := u.pattern.FindIndex(content); at != nil {
				line := 1 + bytes.Count(content[:at[0]], []byte("\n"))
				t.Errorf("%s:%d says %q: %s", name, line, content[at[0]:at[1]], u.what)
			}
		}
	}
}

func TestUnsaidMatches(t *testing.T) {
	for _, text := range []string{
		"see /wor" + "k/x", "cd ../shar" + "ed", `"resolv` + `ed": "https://example.com/x.tgz"`, "pip install --index-ur" + "l x", "<<<<<<<" + " HEAD\n",
	} {
		found := false
		for _, u := range unsaid {
			found = found || u.pattern.MatchString(text)
		}
		if !found {
			t.Errorf("nothing objects to %q", text)
		}
	}
}
