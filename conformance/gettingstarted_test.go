package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A passage is a block of code of a page, with what the page says it prints.
type passage struct {
	kind   string
	code   string
	prints string
}

// passages are the blocks of a page. A block of text belongs to the one before.
func passages(t *testing.T, page string) []passage {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var list []passage
	for _, b := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if b[1] == "text" && len(list) > 0 {
			list[len(list)-1].prints = b[2]
		} else {
			list = append(list, passage{kind: b[1], code: b[2]})
		}
	}
	return list
}

// pageLimit is for the whole page, which takes some twenty seconds.
const pageLimit = 2 * time.Minute

// TestGettingStartedDoesWhatItSays runs the page from its first command to its
// last, in one shell, word for word but for the ports, and compares what is
// printed.
func TestGettingStartedDoesWhatItSays(t *testing.T) {
	page := passages(t, "../docs/getting-started.md")
	dir := t.TempDir()
	bin, err := buildFerry()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(dir, "bin", "ferry")); err != nil {
		t.Fatal(err)
	}
	first := portOf(freeAddress(t))
	ports := strings.NewReplacer("5672", first, "5673", portOf(freeAddress(t)))

	var printed []string // what each passage says
	var script strings.Builder
	// The default's port is not this one.
	fmt.Fprintf(&script, "export FERRY_URL=amqp://localhost:%s\n", first)
	for _, p := range page {
		code := p.code
		switch {
		case code == "make build\n":
			continue // buildFerry has done that
		case p.kind == "go":
			code = buildProgram(t, dir, code) + "\n"
			p.prints = "Hello, World!\n"
		case p.kind != "sh":
			t.Fatalf("nobody has looked at this block of %s:\n%s", p.kind, code)
		}
		script.WriteString(ports.Replace(code))
		script.WriteString("echo " + passageEnd + "\n")
		printed = append(printed, ports.Replace(p.prints))
	}

	out := runScript(t, dir, script.String())
	parts := strings.SplitAfter(out, passageEnd+"\n")
	if len(parts) != len(printed)+1 {
		t.Fatalf("%d of %d passages ended; it printed:\n%s", len(parts)-1, len(printed), out)
	}
	for i, said := range printed {
		if fault := differs(said, strings.TrimSuffix(parts[i], passageEnd+"\n")); fault != "" {
			t.Errorf("%s\nthe page says\n%s\nit printed\n%s", fault, said, parts[i])
		}
	}
	if t.Failed() {
		for _, name := range []string{"a.log", "b.log", "sender.log", "receiver.log"} {
			text, _ := os.ReadFile(filepath.Join(dir, name)) // it may not have come to that
			t.Logf("%s:\n%s", name, tail(text, logLines))
		}
	}
}

const passageEnd = "== end of passage"

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// buildProgram makes a module of its own of a program, as a reader would, and
// gives the command that runs it.
func buildProgram(t *testing.T, dir, program string) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "hello")
	mod := fmt.Sprintf("module hello\n\ngo 1.26\n\nrequire github.com/ferrymq/ferry v0.0.0\n\nreplace github.com/ferrymq/ferry => %s\n", root)
	for name, text := range map[string]string{"main.go": program, "go.mod": mod} {
		if err := os.MkdirAll(source, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", "../bin/hello", ".")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the page's program: %v\n%s", err, out)
	}
	return "bin/hello"
}

// runScript gives all that a script of bash and what it starts print. None of
// these is left when it returns.
func runScript(t *testing.T, dir, script string) string {
	t.Helper()
	out, err := os.Create(filepath.Join(dir, "printed")) // no pipe, which what is left behind would hold open
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(t.Context(), pageLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "FERRY_") || strings.HasPrefix(v, "AMQP_") || strings.HasPrefix(v, "RABBIT")
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nobody is left if all is well
	text, readErr := os.ReadFile(out.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	if err != nil {
		t.Fatalf("the page's last command: %v; it printed:\n%s", err, text)
	}
	return string(text)
}

var (
	// What connections go through is told with the time. Whether one is tried
	// twice, how long it takes and in which words it ends is another each time.
	happened  = regexp.MustCompile(`^\d\d:\d\d:\d\d `)
	chance    = regexp.MustCompile(`( after [\d.]+ s| lost: .*)$`)
	duration  = regexp.MustCompile(`\d+\.\d+ s\b`)
	timestamp = regexp.MustCompile(`time=\S+`)

	// What bash says of a process that was killed, when nobody sits before it.
	killed = regexp.MustCompile(`^(environment|bash): line \d+: +\d+ (Killed|Terminated) `)

	// What ferry verify counts: sent, confirmed, received, lost, ...
	counts = regexp.MustCompile(`^(\d+) +(\d+) +(\d+) +(\d+)( +\d+){5}$`)
)

// differs says how what was printed is not what the page says, or nothing.
func differs(says, printed string) string {
	wanted, wantedEvents := lines(says)
	got, gotEvents := lines(printed)
	if !slices.Equal(wanted, got) {
		return fmt.Sprintf("the lines differ: %q and %q", wanted, got)
	}
	if says == "" {
		return ""
	}
	for _, e := range wantedEvents {
		if !slices.Contains(gotEvents, e) {
			return fmt.Sprintf("nothing like %q was printed", e)
		}
	}
	return ""
}

// lines are those of a text without what is a matter of chance, and apart from
// them the events.
func lines(text string) (list, events []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		switch {
		case killed.MatchString(line):
		case happened.MatchString(line):
			if !strings.Contains(line, "trying again") {
				events = append(events, chance.ReplaceAllString(line[len("09:41:07 "):], ""))
			}
		default:
			if m := counts.FindStringSubmatch(line); m != nil {
				line = fmt.Sprintf("all confirmed: %v, all received: %v, %s lost", m[2] == m[1], m[3] == m[1], m[4])
			}
			line = timestamp.ReplaceAllString(duration.ReplaceAllString(line, "N s"), "time=T")
			list = append(list, line)
		}
	}
	return list, events
}
