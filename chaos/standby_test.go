package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/ferrymq/ferry/internal/history"
)

const (
	// standbyUser is a broker's user and its password. It may come from other
	// machines, as guest may not.
	standbyUser = "app"

	// takeoverLimit is what a takeover may take beyond the lease, and handoverLimit
	// what a planned stop may take in all, both to the first confirm.
	takeoverLimit = time.Second
	handoverLimit = 300 * time.Millisecond

	// serveLimit is within what clients must be served again after any fault, beside
	// the lease.
	serveLimit = 20 * time.Second

	observerPace = 10 * time.Millisecond
	drainQuiet   = 5 * time.Second
)

// A standbyPair is two brokers on one journal in one database.
type standbyPair struct {
	t       *testing.T
	net     *wiring
	db      *database
	journal string // the journal's URL
	lease   time.Duration
	nodes   [2]*process
	seen    *observers
	late    func() time.Duration // ends a watch of the machine's lateness
	waited  time.Duration        // what the last such watch found, up to the first confirm
}

var nodeNames = [2]string{"a", "b"}

func (p *standbyPair) amqp(n int) string { return p.net.host(n) + ":5672" }
func (p *standbyPair) http(n int) string { return p.net.host(n) + ":15672" }

// up starts broker n and does not wait.
func (p *standbyPair) up(n int) {
	p.t.Helper()
	bin, err := buildPlain()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := p.net.nodes[n].command(context.Background(), bin, "serve", "--store", p.journal,
		"--lease", p.lease.String(), "--node", nodeNames[n],
		"--amqp", p.amqp(n), "--http", p.http(n), "--stomp", "off", "--gmq", "off")
	cmd.Env = append(os.Environ(), "FERRY_USER="+standbyUser, "FERRY_PASSWORD="+standbyUser)
	p.nodes[n] = launchCommand(p.t, cmd, p.amqp(n))
}

// A readiness is what /readyz says.
type readiness struct {
	Role     string `json:"role"`
	Position uint64 `json:"position"`
	Head     uint64 `json:"head"`
}

// ready asks broker n how it does.
func (p *standbyPair) ready(n int) (r readiness, status int) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(_ context.Context, network, addr string) (net.Conn, error) { return p.net.hub.dial(network, addr) },
	}
	client := &http.Client{Transport: transport, Timeout: observerLogin}
	answer, err := client.Get("http://" + p.http(n) + "/readyz")
	if err != nil {
		return r, 0
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || json.Unmarshal(text, &r) != nil && answer.StatusCode == http.StatusServiceUnavailable {
		return r, 0
	}
	return r, answer.StatusCode
}

// live waits until one of the brokers serves, and says which.
func (p *standbyPair) live() (n int) {
	p.t.Helper()
	if !until(p.lease+serveLimit, func() bool {
		for n = range p.nodes {
			if _, status := p.ready(n); status == http.StatusOK {
				return true
			}
		}
		return false
	}) {
		p.t.Fatalf("no broker is live after %v", p.lease+serveLimit)
	}
	return n
}

// standby waits until broker n is one that could take over: it follows the log and
// has it as far as it goes.
func (p *standbyPair) standby(n int) {
	p.t.Helper()
	var r readiness
	var status int
	if !until(p.lease+serveLimit, func() bool {
		r, status = p.ready(n)
		return status == http.StatusServiceUnavailable && r.Role == "standby" && r.Position > 0
	}) {
		p.t.Fatalf("broker %s is no standby after %v: %d %+v", nodeNames[n], p.lease+serveLimit, status, r)
	}
}

// A standbyFault is something that happens to a pair, and what of it is measured.
type standbyFault struct {
	name   string
	rounds int // in the long form
	// limit is the most that may pass until the first confirm, nil where there is none.
	limit func(lease time.Duration) time.Duration
	// hit does it. It returns when the pair is whole again, with the time from the
	// fault to the first confirm of a message that was sent after it; of a fault of the
	// database, with the longest time without a confirm.
	hit func(p *standbyPair, live int) time.Duration
}

func takeover(lease time.Duration) time.Duration { return lease + takeoverLimit }
func handover(time.Duration) time.Duration       { return handoverLimit }

// plannedStop is as a service manager has it.
var plannedStop = standbyFault{
	name: "planned stop", rounds: 10, limit: handover, hit: func(p *standbyPair, live int) time.Duration {
		m, epoch := p.moment()
		p.nodes[live].signal(syscall.SIGTERM)
		took := p.served(m, epoch+1)
		p.ended(live)
		p.up(live)
		p.standby(live)
		return took
	},
}

var standbyFaults = []standbyFault{
	{name: "live killed", rounds: 20, limit: takeover, hit: func(p *standbyPair, live int) time.Duration {
		m, epoch := p.moment()
		p.nodes[live].kill()
		took := p.served(m, epoch+1)
		p.up(live)
		p.standby(live)
		return took
	}},
	{name: "standby killed", rounds: 3, hit: func(p *standbyPair, live int) time.Duration {
		m, epoch := p.moment()
		p.nodes[1-live].kill()
		took := p.served(m, epoch)
		p.up(1 - live)
		p.standby(1 - live)
		if _, now := p.seen.owner(); now != epoch {
			p.t.Errorf("the standby was killed, and epoch %d follows %d", now, epoch)
		}
		return took
	}},
	{name: "both killed", rounds: 3, hit: func(p *standbyPair, live int) time.Duration {
		m, epoch := p.moment()
		p.nodes[live].kill()
		p.nodes[1-live].kill()
		p.up(live)
		p.up(1 - live)
		return p.served(m, epoch+1)
	}},
	plannedStop,
	{name: "live paused past its lease", rounds: 5, limit: takeover, hit: func(p *standbyPair, live int) time.Duration {
		m, epoch := p.moment()
		p.nodes[live].signal(syscall.SIGSTOP)
		took := p.served(m, epoch+1)
		time.Sleep(p.lease)
		p.nodes[live].signal(syscall.SIGCONT)
		p.standby(live)
		return took
	}},
	{name: "live cut off from the database", rounds: 5, limit: takeover, hit: func(p *standbyPair, live int) time.Duration {
		m, epoch := p.moment()
		p.net.cut(live)
		took := p.served(m, epoch+1)
		time.Sleep(p.lease)
		p.net.heal(live)
		p.standby(live)
		return took
	}},
	{name: "database restarted", rounds: 5, hit: func(p *standbyPair, _ int) time.Duration {
		return p.outage(func() { p.db.must("restart") })
	}},
	{name: "database killed", rounds: 5, hit: func(p *standbyPair, _ int) time.Duration {
		return p.outage(func() { p.db.must("kill"); p.db.must("up") })
	}},
	{name: "database down past the lease", rounds: 3, hit: func(p *standbyPair, _ int) time.Duration {
		return p.outage(func() { p.db.must("kill"); time.Sleep(2 * p.lease); p.db.must("up") })
	}},
}

// ended waits until a broker that was asked to end has, in good order.
func (p *standbyPair) ended(n int) {
	p.t.Helper()
	if code, ok := p.nodes[n].exitCode(stopLimit); !ok || code != 0 {
		p.t.Errorf("broker %s: ended %v, with code %d, within %v of SIGTERM", nodeNames[n], ok, code, stopLimit)
	}
}

// moment is the present, and the epoch of now.
func (p *standbyPair) moment() (moment, uint64) {
	_, epoch := p.seen.owner()
	return p.seen.now(), epoch
}

// served waits until somebody confirms in at least that epoch.
func (p *standbyPair) served(m moment, epoch uint64) time.Duration {
	p.t.Helper()
	took, ok := p.seen.confirmed(m, epoch, p.lease+serveLimit)
	p.waited = p.late()
	if !ok {
		p.t.Fatalf("nothing is confirmed in epoch %d or later, %v after the fault", epoch, p.lease+serveLimit)
	}
	return took
}

// outage has something happen to what both brokers need, and gives the longest time
// without a confirm around it.
func (p *standbyPair) outage(happen func()) time.Duration {
	p.t.Helper()
	m, epoch := p.moment()
	happen()
	over := p.seen.now()
	took := p.served(over, epoch)
	return p.seen.gap(m, over.at+took)
}

// watchLateness begins to measure by how much this machine is late, and returns what
// ends that and tells: the sum of the times by which sleeps of some milliseconds were
// longer than they ever should be. On a machine that has nothing else to do there are
// none; where many others wait for the processors so do the brokers, and what they
// are measured by must know.
func watchLateness() (stop func() time.Duration) {
	const nap, usual = 5 * time.Millisecond, 10 * time.Millisecond
	quit := make(chan struct{})
	result := make(chan time.Duration)
	go func() {
		var late time.Duration
		for {
			began := time.Now()
			select {
			case <-quit:
				result <- late
				return
			case <-time.After(nap):
				if over := time.Since(began) - nap; over > usual {
					late += over
				}
			}
		}
	}()
	return func() time.Duration {
		close(quit)
		return <-result
	}
}

// A standbyResult is what became of one fault, and a line of the table.
type standbyResult struct {
	fault, kind string
	took        []time.Duration // from each fault to the first confirm
	limit       time.Duration   // 0: none
	run         *standbyCounts  // on the last line of the run
}

// standbyCounts are of all faults of a run.
type standbyCounts struct {
	report  // of ferry verify
	checked *history.Report
}

// Two brokers on one database: whatever happens to them or to it, nothing that was
// confirmed is lost, and what each of them confirmed is in the log under the epoch in
// which it owned it. Where the live one dies the other serves within a second after
// the lease; where it is asked to stop, almost at once.
func TestStandby(t *testing.T) {
	for _, kind := range []string{postgres, mariadb} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			net := wire(t)
			db := startDatabase(t, kind, net.hub, databaseHost)
			var table []standbyResult
			defer func() { logStandby(t, table) }()
			if long() {
				for i, fault := range standbyFaults {
					table = append(table, standbyRun(t, net, db, fmt.Sprint("run", i), fault)...)
				}
				return
			}
			// One run, each fault once; the live one is killed twice, and asked to stop
			// twice, so that both have their turn.
			table = standbyRun(t, net, db, "run", append(slices.Clone(standbyFaults), standbyFaults[0], plannedStop)...)
		})
	}
}

// standbyRun has faults happen to a pair of its own while clients work.
func standbyRun(t *testing.T, net *wiring, db *database, journal string, faults ...standbyFault) (table []standbyResult) {
	t.Helper()
	began := time.Now()
	p := &standbyPair{t: t, net: net, db: db, journal: db.journal(journal), lease: pick(time.Second, 5*time.Second)}
	p.seen = &observers{user: standbyUser, dial: net.hub.dial, pace: observerPace}
	for n := range p.nodes {
		p.up(n)
	}
	live := p.live()
	p.standby(1 - live)
	batches := keepBatches(t, net.hub, db, journal)
	observe(p.seen, p.amqp(0), p.amqp(1))
	defer p.seen.close()
	if _, ok := p.seen.confirmed(moment{}, 0, startLimit); !ok {
		t.Fatalf("the observers are not served: %v", p.seen.faults)
	}
	load := verify(t, net.hub.command, p.list(), "verified", steadyRate)
	if !load.connected() {
		t.FailNow()
	}
	for _, fault := range faults {
		table = append(table, p.suffer(fault, pick(1, fault.rounds)))
	}
	time.Sleep(calm / 4)
	load.interrupt()
	p.seen.drain(drainQuiet)
	counts := &standbyCounts{report: load.report()}
	table[len(table)-1].run = counts
	p.seen.close()
	for n := range p.nodes {
		p.nodes[n].terminate()
	}
	name := db.kind + ", all faults"
	if len(faults) == 1 {
		name = db.kind + ", " + faults[0].name
	}
	row := result{fault: name, queue: "verified", rate: steadyRate, report: counts.report}
	row.check(t, true)
	row.settled(t)
	row.once(t)
	h, log := p.seen.rec.History(), batches.log()
	counts.checked = history.Check(h, log, history.Options{Drained: true})
	for _, err := range p.seen.faults {
		t.Errorf("%s: %v", name, err)
	}
	if !counts.checked.Clean() {
		t.Errorf("%s: %s", name, counts.checked)
		keepHistory(t, h)
	}
	// The check can fail: the same history is wrong beside a log that ends sooner.
	if short := log[:len(log)/2]; history.Check(h, short, history.Options{Drained: true}).Clean() {
		t.Errorf("%s: that half of the log is missing was not noticed", name)
	}
	if t.Failed() {
		t.Logf("%s: ferry verify said\n%s", name, load.stderr.tail(3*logLines))
	}
	t.Logf("%s: %s; %v in all", name, counts.checked, time.Since(began).Round(time.Millisecond))
	return table
}

// list is the URL of both brokers, for clients that go on with the other after some
// tenths of a second: the delay between attempts may not grow to what it is else, and
// an attempt at a broker that hangs may not take as long.
func (p *standbyPair) list() string {
	const one = "amqp://%[1]s:%[1]s@%[2]s/?heartbeat=1&connection_timeout=1000"
	return fmt.Sprintf("failover:(%s,%s)?randomize=false&maxReconnectDelay=100",
		fmt.Sprintf(one, standbyUser, p.amqp(0)), fmt.Sprintf(one, standbyUser, p.amqp(1)))
}

// suffer has a fault happen so often.
func (p *standbyPair) suffer(fault standbyFault, rounds int) standbyResult {
	t := p.t
	t.Helper()
	r := standbyResult{fault: fault.name, kind: p.db.kind}
	if fault.limit != nil {
		r.limit = fault.limit(p.lease)
	}
	for range rounds {
		time.Sleep(calm / 4)
		live := p.live()
		p.standby(1 - live)
		at := time.Now()
		p.late = watchLateness()
		took := fault.hit(p, live)
		r.took = append(r.took, took)
		if r.limit > 0 && took > r.limit+p.waited {
			t.Errorf("%s, %s of %s: the first confirm came %v after the fault, more than %v and the %v for which nothing ran here",
				r.kind, r.fault, nodeNames[live], took, r.limit, p.waited)
		}
		t.Logf("%s, %s: %s was live; first confirm after %v, all well after %v; the machine was %v late", r.kind, r.fault, nodeNames[live],
			took.Round(time.Millisecond), time.Since(at).Round(time.Millisecond), p.waited.Round(time.Millisecond))
	}
	return r
}

// keepHistory writes a history to where it outlives the test.
func keepHistory(t *testing.T, h history.History) {
	t.Helper()
	f, err := os.CreateTemp("", "ferry-history-*.jsonl")
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	if err := h.Write(f); err != nil {
		t.Error(err)
	}
	t.Logf("the history is in %s", filepath.Clean(f.Name()))
}

// logStandby prints the table. What is counted by run stands in its last line.
func logStandby(t *testing.T, results []standbyResult) {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "fault\tdatabase\trounds\tfirst confirm p50\tmax\tlimit\tsent\tconfirmed\tlost\tduplicated\tredelivered\tlongest gap ms\tfailovers\tchecked\tlate\tfaults\t")
	for _, r := range results {
		slices.Sort(r.took)
		p50, most, limit := "-", "-", "-"
		if n := len(r.took); n > 0 {
			p50, most = r.took[n/2].Round(time.Millisecond).String(), r.took[n-1].Round(time.Millisecond).String()
		}
		if r.limit > 0 {
			limit = r.limit.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t", r.fault, r.kind, len(r.took), p50, most, limit)
		if c := r.run; c != nil && c.checked != nil {
			fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t", c.Sent, c.Confirmed, c.Lost, c.Duplicated, c.Redelivered,
				c.LongestGap, c.Failovers, c.checked.Confirmed, c.checked.Late, len(c.checked.Faults)+c.checked.More)
		} else {
			fmt.Fprint(w, strings.Repeat("\t", 10))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", &text)
}
