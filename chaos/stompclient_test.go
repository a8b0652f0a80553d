package chaos

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stompURL is of a broker that speaks STOMP on loopback.
func stompURL(addr string) string { return "stomp://guest:guest@" + addr + "/" }

// A bilingual is a broker that speaks STOMP and AMQP, and what can be done to it.
type bilingual struct {
	name           string
	stomp, amqp    string // URLs
	kill, stop, up func()
	signal         func(syscall.Signal)
	dedup          bool // a consumer has to drop what is sent again: the broker does not
}

func bilingualFerry(t *testing.T) *bilingual {
	t.Helper()
	s := setup{dir: t.TempDir(), stomp: freeAddress(t)}
	p := start(t, s)
	return &bilingual{
		name: "Ferry", stomp: stompURL(s.stomp), amqp: url(p.addr),
		kill:   func() { t.Helper(); p.kill() },
		stop:   func() { t.Helper(); p.terminate() },
		up:     func() { t.Helper(); p = startAt(t, p.addr, s) },
		signal: func(s syscall.Signal) { t.Helper(); p.signal(s) },
	}
}

func bilingualRabbit(t *testing.T) *bilingual {
	t.Helper()
	r := startRabbitSTOMP(t, freeAddress(t))
	return &bilingual{
		name: "RabbitMQ", stomp: stompURL(r.stomp), amqp: r.url, dedup: true,
		kill: r.killWritten, stop: r.stop, up: r.up, signal: r.signal,
	}
}

// beating is a URL whose connections notice within seconds that nobody answers.
func beating(url string) string { return url + "?heartbeat=1" }

// A stompWay is how clients are connected: with one URL, or with two.
type stompWay struct {
	name string
	urls func(b *bilingual) (url, consume string)
}

var (
	overSTOMP = stompWay{"STOMP", func(b *bilingual) (string, string) { return beating(b.stomp), "" }}
	intoAMQP  = stompWay{"STOMP to AMQP", func(b *bilingual) (string, string) { return beating(b.stomp), beating(b.amqp) }}
	fromAMQP  = stompWay{"AMQP to STOMP", func(b *bilingual) (string, string) { return beating(b.amqp), beating(b.stomp) }}
	either    = stompWay{"list of both", func(b *bilingual) (string, string) {
		return fmt.Sprintf("failover:(%s,%s)?randomize=false", beating(b.stomp), beating(b.amqp)), ""
	}}
	stompWays = []stompWay{overSTOMP, intoAMQP, fromAMQP, either}
)

// A stompFault is something that happens to the only broker that there is.
type stompFault struct {
	name string
	hit  func(t *testing.T, b *bilingual, run *program)
}

var (
	stompKilled = stompFault{"killed and restarted", func(_ *testing.T, b *bilingual, _ *program) {
		b.kill()
		b.up()
	}}
	stompPaused = stompFault{"paused past the heart-beat", func(t *testing.T, b *bilingual, run *program) {
		b.signal(syscall.SIGSTOP)
		lost := run.await(startLimit, 1, "publish: connection to") && run.await(startLimit, 1, "consume: connection to")
		b.signal(syscall.SIGCONT)
		if !lost {
			t.FailNow()
		}
	}}
	stompStopped = stompFault{"asked to stop and restarted", func(_ *testing.T, b *bilingual, _ *program) {
		b.stop()
		b.up()
	}}
	stompFaults = []stompFault{stompKilled, stompPaused, stompStopped}
)

// A stompRound is one fault while messages flow one way.
type stompRound struct {
	way   stompWay
	fault stompFault
	rate  int
}

// each is every fault, each way, steadily and at full speed.
func eachSTOMP(rounds int) (all []stompRound) {
	for _, way := range stompWays {
		for _, fault := range stompFaults {
			for range rounds {
				all = append(all, stompRound{way, fault, steadyRate}, stompRound{way, fault, 0})
			}
		}
	}
	return all
}

// run is one round.
func (x stompRound) run(t *testing.T, b *bilingual) result {
	t.Helper()
	url, consume := x.way.urls(b)
	var flags []string
	if consume != "" {
		flags = append(flags, "--consume-url", consume)
	}
	if b.dedup {
		flags = append(flags, deduplicating...)
	}
	run := verify(t, here, url, fmt.Sprint("verified-", time.Now().UnixNano()), x.rate, flags...)
	if !run.connected() {
		t.FailNow()
	}
	time.Sleep(calm)
	// Two URLs have two connections to publish by, of which one is idle.
	publishing, consuming := run.said("publish: connected to"), run.said("consume: connected to")
	x.fault.hit(t, b, run)
	if !run.await(startLimit, publishing+1, "publish: connected to") || !run.await(startLimit, consuming+1, "consume: connected to") {
		t.FailNow()
	}
	time.Sleep(calm)
	run.interrupt()
	r := result{fault: x.fault.name, queue: b.name + ", " + x.way.name, rate: x.rate, report: run.report()}
	r.check(t, true)
	r.settled(t)
	r.once(t)
	if r.Failovers == 0 {
		t.Errorf("%s: the connection was never lost", r)
	}
	if t.Failed() {
		t.Logf("%s: it said\n%s", r, run.stderr.tail(2*logLines))
	}
	return r
}

// said is how often a program has printed a line.
func (p *program) said(line string) int { return strings.Count(p.stderr.String(), line) }

// Whatever happens to a Ferry, over STOMP nothing is lost, and nothing comes twice
// without a mark: it knows what is sent again.
func TestClientOnFerrySTOMP(t *testing.T) {
	t.Parallel()
	rounds := pick([]stompRound{
		{overSTOMP, stompKilled, steadyRate},
		{overSTOMP, stompPaused, 0},
		{overSTOMP, stompStopped, 0},
		{intoAMQP, stompKilled, 0},
		{fromAMQP, stompKilled, steadyRate},
		{either, stompKilled, 0},
	}, eachSTOMP(3))
	b := bilingualFerry(t)
	var table matrix
	defer func() { table.log(t) }()
	for _, x := range rounds {
		table = append(table, x.run(t, b))
	}
}

// The same on RabbitMQ and its STOMP plugin, where a consumer drops what was sent
// again.
func TestClientOnRabbitSTOMP(t *testing.T) {
	t.Parallel()
	rounds := pick([]stompRound{{overSTOMP, stompKilled, steadyRate}}, eachSTOMP(1))
	b := bilingualRabbit(t)
	var table matrix
	defer func() { table.log(t) }()
	for _, x := range rounds {
		table = append(table, x.run(t, b))
	}
}

// Two brokers, the first of which is killed and comes back, over STOMP, and one over
// STOMP and the other over AMQP.
func TestFailoverAndBackSTOMP(t *testing.T) {
	t.Parallel()
	pair := func(name string, stomp bool) *broker {
		b := bilingualFerry(t)
		if stomp {
			return &broker{name: name + " over STOMP", url: b.stomp, amqp: b.amqp, kill: b.kill, up: b.up}
		}
		return &broker{name: name + " over AMQP", url: b.amqp, kill: b.kill, up: b.up}
	}
	var table matrix
	defer func() { table.log(t) }()
	for _, x := range pick([]struct {
		first, second bool
		rate          int
	}{{true, false, 0}}, []struct {
		first, second bool
		rate          int
	}{{true, true, steadyRate}, {true, true, 0}, {true, false, steadyRate}, {true, false, 0}, {false, true, steadyRate}, {false, true, 0}}) {
		table = append(table, failoverAndBack(t, "first killed, back again", pair("first", x.first), pair("second", x.second), x.rate))
	}
}
