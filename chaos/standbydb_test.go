package chaos

import (
	"context"
	neturl "net/url"
	"os"
	"strconv"
	"strings"
	"testing"
)

const (
	databaseScript  = "../scripts/database"
	databaseMissing = 3 // what it exits with when the database is not there

	postgres, mariadb = "postgres", "mariadb"
)

// A database is a server of its own. Its methods end the test when they fail.
type database struct {
	t    *testing.T
	kind string
	at   space
	dir  string
	url  string // of an empty database, for brokers
}

// startDatabase starts a server at an address, in a namespace if it is given one. It
// ends with the test.
func startDatabase(t *testing.T, kind string, at space, host string) *database {
	t.Helper()
	d := &database{t: t, kind: kind, at: at}
	out, err := d.script("start", kind, "--listen", host, "--while", strconv.Itoa(os.Getpid()))
	if exitCode(err) == databaseMissing {
		missing(t, "%s (scripts/setup): %v", kind, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, "'"); name {
		case "url":
			d.url = value
		case "dir":
			d.dir = value
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			if text, err := os.ReadFile(d.dir + "/log/server.log"); err == nil {
				lines := strings.Split(strings.TrimSpace(string(text)), "\n")
				t.Logf("%s logged at last:\n%s", kind, strings.Join(lines[max(0, len(lines)-logLines):], "\n"))
			}
		}
		if _, err := d.script("stop", "--dir", d.dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *database) script(args ...string) (string, error) {
	if d.at == "" {
		return run(context.Background(), databaseScript, args...)
	}
	return run(context.Background(), "ip", append([]string{"netns", "exec", string(d.at), databaseScript}, args...)...)
}

// must runs a command of the script on the server: restart, kill, up.
func (d *database) must(command string) {
	d.t.Helper()
	if _, err := d.script(command, "--dir", d.dir); err != nil {
		d.t.Fatal(err)
	}
}

// host is the server's address and port.
func (d *database) host() string {
	d.t.Helper()
	u, err := neturl.Parse(d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	return u.Host
}

// journal is the URL of a journal of that name in the database.
func (d *database) journal(name string) string {
	separator := "?"
	if strings.Contains(d.url, "?") {
		separator = "&"
	}
	return d.url + separator + "journal=" + name
}
