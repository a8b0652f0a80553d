package chaos

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A databasePage is docs/database.md, of one kind of database: its blocks of code, each
// of which says whose it is.
type databasePage struct {
	t    *testing.T
	dir  string
	env  []string
	kind string
	text string
}

// block is the one block of code for this kind of database that holds word.
func (p *databasePage) block(word string) string {
	p.t.Helper()
	var found []string
	for _, b := range regexp.MustCompile("(?ms)^```\\w+ "+p.kind+"\n(.*?)^```$").FindAllStringSubmatch(p.text, -1) {
		if strings.Contains(b[1], word) {
			found = append(found, b[1])
		}
	}
	if len(found) != 1 {
		p.t.Fatalf("the page has %d blocks for %s with %q", len(found), p.kind, word)
	}
	return found[0]
}

func (p *databasePage) command(script string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), "bash", "-c", script)
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

// run runs commands and returns what they print to the standard output.
func (p *databasePage) run(script string) string {
	p.t.Helper()
	cmd := p.command("set -euo pipefail\n" + script)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("%v: %s\n%s%s", err, script, out, &stderr)
	}
	return string(out)
}

// serve starts a broker by a command of the page's, and waits until it serves.
func (p *databasePage) serve(command string) *process {
	p.t.Helper()
	b := launchCommand(p.t, p.command("exec "+strings.TrimSpace(command)), "")
	b.awaitReady()
	return b
}

// What docs/database.md tells to do does what it says: a user of its own has a broker's
// messages in a database, one with fewer rights may serve them, and a dump that is
// restored brings them back as they were.
func TestDatabasePage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/database.md")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	for kind, client := range map[string]string{postgres: "psql", mariadb: "mariadb"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(client); err != nil {
				missing(t, "%s: %v", client, err)
			}
			db := startDatabase(t, kind, "", "127.0.0.1")
			host, port, err := net.SplitHostPort(db.host())
			if err != nil {
				t.Fatal(err)
			}
			amqp := freeAddress(t)
			p := &databasePage{t: t, dir: t.TempDir(), kind: kind, text: string(text)}
			p.env = append(os.Environ(),
				"PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"), "HOME="+p.dir,
				"PGHOST="+host, "PGPORT="+port, "PGUSER=ferry", "PGPASSWORD=ferry", "DBHOST="+host, "DBPORT="+port,
				"FERRY_AMQP="+amqp, "FERRY_STOMP=off", "FERRY_HTTP=off", "FERRY_GMQ=off", "FERRY_URL="+url(amqp))
			login := fmt.Sprintf("[client]\nhost=%s\nport=%s\nuser=ferry\npassword=ferry\n", host, port)
			if err := os.WriteFile(filepath.Join(p.dir, ".my.cnf"), []byte(login), 0o600); err != nil {
				t.Fatal(err)
			}

			p.run(p.block("CREATE USER ferry_app"))
			serve := p.block("ferry serve")
			b := p.serve(serve)
			p.run("ferry send --quiet -q orders one two three")
			p.run(p.block("dump "))
			p.run("ferry send --quiet -q orders four")
			b.terminate()
			p.run(p.block("CREATE USER broker"))
			b = p.serve(strings.ReplaceAll(serve, "ferry_app", "broker"))
			if got := p.run("ferry receive --quiet -q orders -n 2"); got != "one\ntwo\n" {
				t.Errorf("a user with fewer rights serves %q", got)
			}
			b.terminate()
			p.run(p.block("DROP DATABASE"))
			b = p.serve(serve)
			if got := p.run("ferry receive --quiet -q orders --timeout 2s"); got != "one\ntwo\nthree\n" {
				t.Errorf("after the restore there is %q", got)
			}
			b.terminate()
		})
	}
}
