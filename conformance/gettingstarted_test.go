package conformance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A passage is a block of code of a page, with what the page says it prints.
type passage struct {
	under  string // the heading before it
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
	heading := ""
	for _, b := range regexp.MustCompile("(?ms)^## (.*?)$|^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		switch {
		case b[1] != "":
			heading = b[1]
		case b[2] == "text" && len(list) > 0:
			list[len(list)-1].prints = b[3]
		default:
			list = append(list, passage{under: heading, kind: b[2], code: b[3]})
		}
	}
	return list
}

// pageLimit is for the whole page, which takes about a minute and a half with the race
// detector, most of which it sleeps, and more where many tests run beside it.
const pageLimit = 6 * time.Minute

// Headings of the page whose commands need more than Ferry.
const (
	underPython   = "From another language"
	underBrowser  = "From a page in a browser"
	underDatabase = "Two brokers, one database"
	underRabbitMQ = "Coming from RabbitMQ"
	underArtemis  = "With Artemis"
)

const (
	venvPython  = ".venv/bin/python"
	nodeModules = "node/node_modules"
)

// TestGettingStartedDoesWhatItSays runs the page from its first command to its
// last, in one shell, word for word but for the ports, and compares what is
// printed.
func TestGettingStartedDoesWhatItSays(t *testing.T) {
	t.Parallel()
	dir := pageDir(t)
	absent := map[string]bool{underDatabase: true, underRabbitMQ: true, underArtemis: true} // which have tests of their own
	for heading, needs := range map[string]string{underPython: venvPython, underBrowser: nodeModules + "/@stomp/stompjs"} {
		if _, err := os.Stat(needs); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("missing, and CI=true: conformance/%s (make setup installs it)", needs)
			}
			t.Logf("left out, because conformance/%s is missing: %s", needs, heading)
			absent[heading] = true
		}
	}
	free := lastingPorts(t, 6)
	amqp, stomp, web, pages := free[0], free[1], free[2], free[3]
	ports := strings.NewReplacer("15672", web, "5672", amqp, "5673", free[4], "61613", stomp, "61614", free[5], "8000", pages)

	var script strings.Builder
	script.WriteString(patientKill + "\n")
	// The defaults' ports are not these.
	fmt.Fprintf(&script, "export FERRY_URL=amqp://localhost:%s FERRY_AMQP=:%s FERRY_STOMP=:%s FERRY_GMQ=off FERRY_HTTP=:%s\n", amqp, amqp, stomp, web)
	page := slices.DeleteFunc(passages(t, "../docs/getting-started.md"), func(p passage) bool {
		return p.code == "make build\n" || absent[p.under] // buildFerry has done that
	})
	for i, p := range page {
		code := ports.Replace(p.code)
		switch p.kind {
		case "sh":
			if strings.HasPrefix(code, "npm install") {
				_, code, _ = strings.Cut(code, "\n")
				code = "ln -s " + absolute(t, nodeModules) + " node_modules\n" + code
			}
		case "go":
			code = buildProgram(t, dir, code)
			code += "\nFERRY_URL=stomp://localhost:" + stomp + " " + code + "\n"
			page[i].prints = "Hello, World!\nHello, World!\n"
		case "python":
			writeFile(t, filepath.Join(dir, "hello.py"), code)
			code = absolute(t, venvPython) + " hello.py\n"
		case "html":
			writeFile(t, filepath.Join(dir, "index.html"), code)
			code = "node " + absolute(t, "node/page.mjs") + " http://localhost:" + pages + "\n"
		default:
			t.Fatalf("nobody has looked at this block of %s:\n%s", p.kind, code)
		}
		page[i].code, page[i].prints = code, ports.Replace(page[i].prints)
	}
	if absent[underBrowser] {
		script.WriteString("P=; touch http.log\n")
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, name := range []string{"a.log", "b.log", "http.log", "sender.log", "receiver.log"} {
			text, _ := os.ReadFile(filepath.Join(dir, name)) // it may not have come to that
			t.Logf("%s:\n%s", name, tail(text, logLines))
		}
	})
	runPassages(t, dir, script.String(), page)
}

// patientKill is a kill of the shell's that returns when what was killed has ended. A
// reader types the next line later than that; a script starts a broker again while the
// system still closes the ports of the one that was killed.
const patientKill = `kill() {
	builtin kill "$@"
	for process; do
		[[ $process = -* ]] || while builtin kill -0 "$process" 2> /dev/null; do sleep 0.02; done
	done
}`

// TestGettingStartedWithADatabase runs what the page says of two brokers that share one.
func TestGettingStartedWithADatabase(t *testing.T) {
	t.Parallel()
	installed(t, "database")
	free := lastingPorts(t, 4)
	ports := strings.NewReplacer("15672", free[0], "15673", free[1], "5672", free[2], "5673", free[3])
	page := passagesUnder(t, underDatabase)
	for i := range page {
		page[i].code = ports.Replace(page[i].code)
	}
	preface := fmt.Sprintf("%s\nexport FERRY_URL=amqp://localhost:%s FERRY_AMQP=:%[2]s FERRY_STOMP=off FERRY_GMQ=off FERRY_HTTP=:%[3]s\n",
		patientKill, free[2], free[0])
	runPassages(t, pageDirWithScripts(t), preface, page)
}

// TestGettingStartedFromRabbitMQ runs what the page says of RabbitMQ, and of the way
// from there to Ferry.
func TestGettingStartedFromRabbitMQ(t *testing.T) {
	t.Parallel()
	installed(t, "rabbitmq")
	free := lastingPorts(t, 2)
	ports := strings.NewReplacer("15672", free[0], "5672", free[1])
	page := passagesUnder(t, underRabbitMQ)
	for i := range page {
		page[i].code = ports.Replace(page[i].code)
	}
	preface := fmt.Sprintf("%s\nexport FERRY_AMQP=:%s FERRY_HTTP=:%s FERRY_STOMP=off FERRY_GMQ=off\n", patientKill, free[1], free[0])
	runPassages(t, pageDirWithScripts(t), preface, page)
}

// TestGettingStartedWithArtemis runs what the page says of Artemis.
func TestGettingStartedWithArtemis(t *testing.T) {
	t.Parallel()
	installed(t, "artemis")
	runPassages(t, pageDirWithScripts(t), "", passagesUnder(t, underArtemis))
}

// installed has a script of the repository install what it starts.
func installed(t *testing.T, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../scripts/"+script, "install")
	if out, err := cmd.CombinedOutput(); cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == installMissing {
		missing(t, string(out))
	} else if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}

// passagesUnder are those of the page under a heading.
func passagesUnder(t *testing.T, heading string) []passage {
	t.Helper()
	page := slices.DeleteFunc(passages(t, "../docs/getting-started.md"), func(p passage) bool { return p.under != heading })
	if len(page) == 0 {
		t.Fatalf("the page has nothing under %q", heading)
	}
	return page
}

// pageDirWithScripts is for passages that start what the repository has scripts for.
func pageDirWithScripts(t *testing.T) string {
	t.Helper()
	dir := pageDir(t)
	if err := os.Symlink(absolute(t, "../scripts"), filepath.Join(dir, "scripts")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lastingPorts are free ones that stay so while a broker on one is down: none of those
// that the system gives to whoever connects to something.
func lastingPorts(t *testing.T, n int) []string {
	t.Helper()
	const least, most = 10_000, 30_000 // below what Linux and others give by themselves
	var found []string
	for range 1000 {
		port := strconv.Itoa(least + rand.IntN(most-least))
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			continue
		}
		l.Close()
		if !slices.Contains(found, port) {
			found = append(found, port)
		}
		if len(found) == n {
			return found
		}
	}
	t.Fatalf("%d free ports cannot be found", n)
	return nil
}

// pageDir is a directory as a page's reader has it after make build.
func pageDir(t *testing.T) string {
	t.Helper()
	bin, err := buildFerry()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(dir, "bin", "ferry")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// runPassages runs passages of sh in one shell, behind a preface, and compares what
// each prints.
func runPassages(t *testing.T, dir, preface string, page []passage) {
	t.Helper()
	script := preface
	for _, p := range page {
		script += p.code + "echo " + passageEnd + "\n"
	}
	out := runScript(t, dir, script)
	parts := strings.SplitAfter(out, passageEnd+"\n")
	if len(parts) != len(page)+1 {
		t.Fatalf("%d of %d passages ended; it printed:\n%s", len(parts)-1, len(page), out)
	}
	for i, p := range page {
		if fault := differs(p.prints, strings.TrimSuffix(parts[i], passageEnd+"\n")); fault != "" {
			t.Errorf("%s\nthe page says\n%s\nit printed\n%s", fault, p.prints, parts[i])
		}
	}
}

const passageEnd = "== end of passage"

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
	duration  = regexp.MustCompile(`\d+(\.\d+)? [mµ]?s\b`)
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
