package chaos

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
)

// here runs a program on this machine's network.
var here place = exec.CommandContext

// url is of a broker on loopback.
func url(addr string) string { return "amqp://guest:guest@" + addr + "/" }

// failback is a list whose first broker is gone back to: when it has been up for
// as long as DefaultFailbackAfter.
func failback(first, second string) string {
	return fmt.Sprintf("failover:(%s,%s)?priorityBackup=true&randomize=false", first, second)
}

const failbackLimit = ferry.DefaultFailbackAfter + 30*time.Second

// A ferryFault is something that happens to the only broker that there is.
type ferryFault struct {
	name string
	hit  func(t *testing.T, p *process, s setup, run *program) *process
}

var ferryFaults = []ferryFault{
	{name: "killed and restarted", hit: func(_ *testing.T, p *process, s setup, _ *program) *process {
		p.kill()
		return startAt(p.t, p.addr, s)
	}},
	{name: "paused past the heartbeat", hit: func(t *testing.T, p *process, _ setup, run *program) *process {
		p.signal(syscall.SIGSTOP)
		lost := run.await(startLimit, 1, "publish: connection to") && run.await(startLimit, 1, "consume: connection to")
		p.signal(syscall.SIGCONT)
		if !lost {
			t.FailNow()
		}
		return p
	}},
	{name: "asked to stop and restarted", hit: func(_ *testing.T, p *process, s setup, _ *program) *process {
		p.terminate()
		return startAt(p.t, p.addr, s)
	}},
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	signal(p.t, p.cmd.Process.Pid, s)
}

// signal sends a signal to a process. When it returns after SIGSTOP no thread of the
// process runs any more: until the last has stopped it may still answer.
func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("%s to process %d: %v", s, pid, err)
	}
	if s == syscall.SIGSTOP && !until(stopLimit, func() bool { return stopped(t, pid) }) {
		t.Fatalf("process %d does not stop", pid)
	}
}

// stopped tells whether all threads of a process have been stopped by a signal.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	if _, err := os.Stat("/proc/self/task"); err != nil {
		missing(t, "/proc to see whether a process has stopped: %v", err)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d has ended: %v", pid, err)
	}
	for _, name := range threads {
		status, err := os.ReadFile(name)
		if err == nil && !bytes.Contains(status, []byte("\nState:\tT")) {
			return false
		}
	}
	return true
}

// One broker of Ferry's own, whatever happens to it, loses nothing of a client's,
// and delivers nothing twice that is not marked: it knows what is sent again.
func TestClientOnFerry(t *testing.T) {
	takeTurn(t)
	rounds := pick(1, 5)
	var table matrix
	defer func() { table.log(t) }()
	s := setup{dir: t.TempDir()}
	p := start(t, s)
	for _, fault := range ferryFaults {
		for _, rate := range []int{steadyRate, 0} {
			for range rounds {
				run := verify(t, here, url(p.addr)+"?heartbeat=1", "verified", rate)
				if !run.connected() {
					t.FailNow()
				}
				time.Sleep(calm)
				p = fault.hit(t, p, s, run)
				if !run.reconnected(1) {
					t.FailNow()
				}
				time.Sleep(calm)
				run.interrupt()
				r := result{fault: fault.name, queue: "ferry", rate: rate, report: run.report()}
				r.check(t, true)
				r.settled(t)
				r.once(t)
				table = append(table, r)
			}
		}
	}
}

// A broker is one that can be killed and started again at its address.
type broker struct {
	name, url string
	amqp      string // URL for ferry move where url is none that it takes; "": url
	kill, up  func()
}

// ferryBroker starts a Ferry with a store of its own.
func ferryBroker(t *testing.T, name string) *broker {
	t.Helper()
	s := setup{dir: t.TempDir()}
	p := start(t, s)
	return &broker{
		name: name, url: url(p.addr),
		kill: func() { t.Helper(); p.kill() },
		up:   func() { t.Helper(); p = startAt(t, p.addr, s) },
	}
}

// rabbitBroker starts a RabbitMQ. Its database of queues reaches the disk some time
// after a queue is declared: killed before, it comes up without the queue and all
// that it had confirmed ("Recovering 0 queues" in its log). That is no fault of a
// client's, so that it is made to write it first.
func rabbitBroker(t *testing.T) *broker {
	t.Helper()
	r := startRabbit(t)
	return &broker{name: "RabbitMQ", url: r.url, kill: r.killWritten, up: r.up}
}

func (r *rabbit) killWritten() {
	r.t.Helper()
	r.ctl("eval", "mnesia:dump_log().")
	r.kill()
}

// The first of two brokers is killed, and comes back: the clients go on with the
// second, and go back. What they left on either is moved to where they are: then
// nothing is lost, and a consumer that knows ids gets each message once.
//
// The two brokers do not know each other, so that a consumer is at one of them
// only. What was confirmed by the first and not received when it died is there
// when it is back; what is on the second when the clients leave it stays there,
// until an operator moves it. That is how this is checked, because it is what such
// a pair needs in truth.
func TestFailoverAndBack(t *testing.T) {
	takeTurn(t)
	var table matrix
	defer func() { table.log(t) }()
	live, backup := ferryBroker(t, "live"), ferryBroker(t, "backup")
	table = append(table, failoverAndBack(t, "live killed, back again", live, backup, steadyRate))
	if long() {
		table = append(table, failoverAndBack(t, "live killed, back again", live, backup, 0))
	}
}

// The brokers of a list need not be of one make.
func TestMixedList(t *testing.T) {
	takeTurn(t)
	var table matrix
	defer func() { table.log(t) }()
	rabbit, ferry := rabbitBroker(t), ferryBroker(t, "Ferry")
	table = append(table, failoverAndBack(t, "RabbitMQ killed, Ferry took over", rabbit, ferry, steadyRate))
	if long() {
		table = append(table, failoverAndBack(t, "Ferry killed, RabbitMQ took over", ferry, rabbit, steadyRate))
		table = append(table, failoverAndBack(t, "RabbitMQ killed, Ferry took over", rabbit, ferry, 0))
	}
}

func failoverAndBack(t *testing.T, fault string, first, second *broker, rate int) result {
	t.Helper()
	queue := fmt.Sprint("verified-", time.Now().UnixNano())
	// A double may be moved when it has ended, and what the first has stored and not
	// confirmed comes when millions have.
	flags := []string{"--keep", "--dedup", "5000000"}
	run := verify(t, here, failback(first.url, second.url), queue, rate, flags...)
	if !run.connected() {
		t.FailNow()
	}
	time.Sleep(calm)
	first.kill()
	if !run.reconnected(1) {
		t.FailNow()
	}
	time.Sleep(calm)
	first.up()
	if !run.await(failbackLimit, 1, "publish: back on") || !run.await(failbackLimit, 1, "consume: back on") {
		t.FailNow()
	}
	time.Sleep(calm)
	run.interrupt()
	// Under the ids that they have: the consumer knows those that it has had.
	move := runFerry(t, here, nil, "move", "--from", cmp.Or(second.amqp, second.url), "--to", cmp.Or(first.amqp, first.url), "-q", queue, "--keep-ids", "--timeout", "1s")
	if move.end(endLimit) && move.err != nil {
		t.Errorf("ferry move: %v\n%s", move.err, move.stderr)
	}
	r := result{fault: fault, queue: first.name + ", " + second.name, rate: rate, report: run.report()}
	r.check(t, true)
	r.settled(t)
	r.once(t)
	if t.Failed() {
		t.Logf("%s: it said\n%s\nferry move said\n%s", r, run.stderr.tail(2*logLines), move.stderr)
	}
	return r
}

// With the live broker up messages flow, whether its backup is up or not.
func TestLiveWithAndWithoutBackup(t *testing.T) {
	takeTurn(t)
	var table matrix
	defer func() { table.log(t) }()
	live, backup := ferryBroker(t, "live"), ferryBroker(t, "backup")
	for _, fault := range []string{"none", "backup killed", "backup down from the start"} {
		run := verify(t, here, failback(live.url, backup.url), "verified", steadyRate)
		if !run.connected() {
			t.FailNow()
		}
		time.Sleep(calm)
		if fault == "backup killed" {
			backup.kill()
			time.Sleep(calm)
		}
		run.interrupt()
		r := result{fault: fault, queue: "live, backup", rate: steadyRate, report: run.report()}
		r.check(t, true)
		r.settled(t)
		r.once(t)
		if r.Failovers != 0 {
			t.Errorf("%s: the clients left a broker that was up", r)
		}
		table = append(table, r)
	}
}

// With both brokers down the clients keep trying, and go on when one is back.
func TestBothDown(t *testing.T) {
	takeTurn(t)
	live, backup := ferryBroker(t, "live"), ferryBroker(t, "backup")
	outage := pick(5*time.Second, time.Minute)
	run := verify(t, here, failback(live.url, backup.url)+"&maxReconnectDelay=1000", "verified", steadyRate, deduplicating...)
	if !run.connected() {
		t.FailNow()
	}
	time.Sleep(calm)
	backup.kill()
	live.kill()
	time.Sleep(outage)
	live.up()
	if !run.reconnected(1) {
		t.FailNow()
	}
	backup.up()
	time.Sleep(calm)
	run.interrupt()
	r := result{fault: fmt.Sprint("both down for ", outage), queue: "live, backup", rate: steadyRate, report: run.report()}
	matrix{r}.log(t)
	r.check(t, true)
	r.settled(t)
	r.once(t)
	if gap := time.Duration(r.LongestGap) * time.Millisecond; gap < outage-calm {
		t.Errorf("the longest gap was %s: both brokers were never down", gap)
	}
}

// After the live broker has died it takes a moment until its backup confirms.
func TestTimeToFailOver(t *testing.T) {
	rounds := pick(5, 20)
	const target = 250 * time.Millisecond // of the median
	backup := start(t, setup{dir: t.TempDir()})
	var took []time.Duration
	for range rounds {
		live := start(t, setup{dir: t.TempDir()})
		client, err := ferry.Dial(t.Context(), url(live.addr)+","+url(backup.addr),
			ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: "timed"}}}))
		if err != nil {
			t.Fatal(err)
		}
		publish := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), confirmLimit)
			defer cancel()
			if err := client.Publish(ctx, ferry.Message{Key: "timed", Body: []byte("when?")}); err != nil {
				t.Fatal(err)
			}
		}
		for began := time.Now(); time.Since(began) < calm/2; {
			publish()
		}
		began := time.Now()
		live.kill()
		publish() // the live one is dead: it is the backup that confirms
		took = append(took, time.Since(began))
		if at := client.Status().Publish.Endpoint; at != "amqp://guest@"+backup.addr+"/" {
			t.Errorf("it was confirmed by %s, which is not the backup", at)
		}
		if err := client.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("\n%s", table("rounds", rounds, "median until a confirm", median.Round(time.Millisecond/10),
		"worst", took[len(took)-1].Round(time.Millisecond/10)))
	if median > target {
		t.Errorf("the median until the backup confirmed is %s; %s is the target", median, target)
	}
}
