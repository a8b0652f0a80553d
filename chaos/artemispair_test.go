package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	artemisScript  = "../scripts/artemis"
	artemisMissing = 3 // what it exits with when Artemis or Java is not there

	// pairLimit is within what a backup that was started is in sync.
	pairLimit = 2 * time.Minute

	// splitLimit is within what one of two brokers that serve gives way, if it does.
	splitLimit = 20 * time.Second
)

// The stores of a pair: one that both use, two of which the backup's is a copy, and
// these with a lock manager that knows which copy is the newest.
const (
	sharedStore      = "shared"
	replicatedStore  = "replicated"
	coordinatedStore = "coordinated"
)

// The brokers of a pair, and the states that they are waited for.
const (
	live, backup    = "live", "backup"
	active, passive = "active", "passive"
)

// A pair is a live broker of Artemis and its backup, on loopback. Its methods are
// for the test's goroutine and end the test when they fail.
type pair struct {
	t     *testing.T
	dir   string
	store string
	urls  map[string]string // by the name of the broker
	split bool              // both were found to serve
}

// audited is the queue of which the pair keeps a copy of all that was stored in it.
const audited = "verified"

// startPair starts a pair that ends with the test.
func startPair(t *testing.T, store string) *pair {
	t.Helper()
	p := &pair{t: t, store: store}
	t.TempDir() // makes that directories are removed behind what stops the brokers in them
	t.Cleanup(func() {
		if t.Failed() {
			p.logs()
		}
		p.stop()
	})
	p.start()
	return p
}

// stop ends both brokers.
func (p *pair) stop() {
	p.t.Helper()
	if _, err := run(context.Background(), artemisScript, "stop", "--dir", p.dir); err != nil {
		p.t.Error(err)
	}
}

// start starts a pair that has nothing stored.
func (p *pair) start() {
	p.t.Helper()
	t, store := p.t, p.store
	p.dir, p.urls, p.split = filepath.Join(t.TempDir(), "artemis"), map[string]string{}, false
	out, err := run(t.Context(), artemisScript, "pair", "--store", store, "--audit", audited,
		"--dir", p.dir, "--while", strconv.Itoa(os.Getpid()))
	if exitCode(err) == artemisMissing {
		missing(t, "Artemis (scripts/setup): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		p.urls[name] = strings.Trim(value, "'")
	}
	if p.urls[live] == "" || p.urls[backup] == "" {
		t.Fatalf("the pair did not say where it is: %q", out)
	}
}

func (p *pair) script(command string, args ...string) string {
	p.t.Helper()
	out, err := run(p.t.Context(), artemisScript, append([]string{command, "--dir", p.dir}, args...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// kill ends a broker without a chance to do anything.
func (p *pair) kill(name string) { p.t.Helper(); p.script("kill", name) }

// killBoth does that to both at one time.
func (p *pair) killBoth() { p.t.Helper(); p.script("kill", "both") }

// up starts a broker again, and does not wait for it.
func (p *pair) up(name string) { p.t.Helper(); p.script("up", name) }

// await waits until a broker is in that state. A passive one could take over: if it
// replicates it is in sync.
func (p *pair) await(name, state string) { p.t.Helper(); p.script("await", name, state) }

// awaitPair waits until the live broker serves and the backup could take over. At a
// failback the process of a backup that replicates ends now and then where it should
// become one again (its threads have all ended before the new ones begin, or these
// meet what the old ones left behind): whoever runs one has it started again, as here.
//
// On a machine that is much too busy a live one that replicates does not find the backup
// that serves in time, and serves beside it. Then awaitPair says false.
func (p *pair) awaitPair() bool {
	p.t.Helper()
	p.await(live, active)
	var status string
	single := time.Now() // when it was seen last that not both serve
	if !until(pairLimit, func() bool {
		status = p.script("status")
		if !strings.Contains(status, live+": "+active) || !strings.Contains(status, backup+": "+active) {
			single = time.Now()
		}
		if p.split = time.Since(single) > splitLimit; p.split {
			return true
		}
		if strings.Contains(status, backup+": down") {
			p.t.Logf("%s: the backup's process has ended at the failback; it is started again", p.store)
			p.up(backup)
		}
		return strings.Contains(status, backup+": "+passive)
	}) {
		p.t.Fatalf("the backup could not take over after %s: %s", pairLimit, status)
	}
	return !p.split
}

// copy gives the broker to all that from has; both are down.
func (p *pair) copy(from, to string) { p.t.Helper(); p.script("copy", from, to) }

// failover is the list of the pair's addresses, in the words of ActiveMQ's clients.
// Brokers that are both down are tried every second.
func (p *pair) failover() string {
	return fmt.Sprintf("failover:(%s,%s)?randomize=false&priorityBackup=true&maxReconnectDelay=1000", p.urls[live], p.urls[backup])
}

// dropped is how many messages the pair has recognised as sent again.
func (p *pair) dropped() (n int) {
	for _, name := range []string{live, backup} {
		for _, file := range []string{"before.log", "run.log"} {
			text, err := os.ReadFile(filepath.Join(p.dir, name, "log", file))
			if err == nil {
				n += bytes.Count(text, []byte("AMQ222059"))
			}
		}
	}
	return n
}

// logs shows what the brokers logged at last.
func (p *pair) logs() {
	for _, name := range []string{live, backup} {
		text, err := os.ReadFile(filepath.Join(p.dir, name, "log", "run.log"))
		if err != nil {
			p.t.Logf("%s: %v", name, err)
			continue
		}
		lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		p.t.Logf("%s logged at last:\n%s", name, strings.Join(lines[max(len(lines)-logLines, 0):], "\n"))
	}
}

// stored takes the copies of all messages that were stored in the audited queue since
// it was called last, from the broker that serves, and counts those of each id. It
// speaks to Artemis without Ferry's code: it judges it.
func (p *pair) stored(name string) map[string]int {
	p.t.Helper()
	const queue, end = audited + ".audit", "end"
	c := p.connect(name)
	// What was stored is delivered in order: what was sent last comes last.
	c.send(queue, end)
	ids := map[string]int{}
	c.subscribe(queue, "auto")
	for {
		m := c.message()
		if m.body == end {
			_ = c.conn.Close() // it must not be given what is stored later
			return ids
		}
		ids[m.headers[duplicateID]]++
	}
}
