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

// beating is a URL whose connections notice within seconds that nobody answers. On a
// busy machine they take a broker for dead that is only slow; others do not.
func beating(url string) string { return url + "?heartbeat=2" }

// A stompWay is how clients are connected: with one URL, or with two.
type stompWay struct {
	name string
	urls func(stomp, amqp string) (url, consume string)
}

var (
	overSTOMP = stompWay{"STOMP", func(stomp, _ string) (string, string) { return stomp, "" }}
	intoAMQP  = stompWay{"STOMP to AMQP", func(stomp, amqp string) (string, string) { return stomp, amqp }}
	fromAMQP  = stompWay{"AMQP to STOMP", func(stomp, amqp string) (string, string) { return amqp, stomp }}
	either    = stompWay{"list of both", func(stomp, amqp string) (string, string) {
		return fmt.Sprintf("failover:(%s,%s)?randomize=false", stomp, amqp), ""
	}}
	stompWays = []stompWay{overSTOMP, intoAMQP, fromAMQP, either}
)

// A stompFault is something that happens to the only broker that there is. paused is
// whether nothing but missing heart-beats tells of it.
type stompFault struct {
	name   string
	hit    func(t *testing.T, b *bilingual, run *program)
	paused bool
}

var (
	stompKilled = stompFault{name: "killed and restarted", hit: func(_ *testing.T, b *bilingual, _ *program) {
		b.kill()
		b.up()
	}}
	stompPaused = stompFault{name: "paused past the heart-beat", paused: true, hit: func(t *testing.T, b *bilingual, run *program) {
		publishing := run.said("publish: connected to")
		b.signal(syscall.SIGSTOP)
		lost := run.await(startLimit, publishing, "publish: connection to") && run.await(startLimit, 1, "consume: connection to")
		b.signal(syscall.SIGCONT)
		if !lost {
			t.FailNow()
		}
	}}
	stompStopped = stompFault{name: "asked to stop and restarted", hit: func(_ *testing.T, b *bilingual, _ *program) {
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
	stomp, amqp := b.stomp, b.amqp
	if x.fault.paused {
		stomp, amqp = beating(stomp), beating(amqp)
	}
	url, consume := x.way.urls(stomp, amqp)
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
	publishing := run.said("publish: connected to")
	x.fault.hit(t, b, run)
	if !run.await(startLimit, 2*publishing, "publish: connected to") || !run.await(startLimit, 2, "consume: connected to") {
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
	takeTurn(t)
	rounds := pick([]stompRound{
		{overSTOMP, stompKilled, steadyRate},
		{overSTOMP, stompPaused, 0},
		{intoAMQP, stompKilled, 0},
		{fromAMQP, stompKilled, steadyRate},
		{either, stompStopped, 0},
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
	takeTurn(t)
	rounds := pick([]stompRound{{overSTOMP, stompKilled, steadyRate}}, eachSTOMP(1))
	b := bilingualRabbit(t)
	var table matrix
	defer func() { table.log(t) }()
	for _, x := range rounds {
		table = append(table, x.run(t, b))
	}
}

// A stompPair is two brokers that do not know each other, and what happens to the
// first.
type stompPair struct {
	firstSTOMP, secondSTOMP bool // or AMQP
	fault                   string
	rate                    int
}

var stompPairs = func() (all []stompPair) {
	for _, fault := range []string{pairKilled, pairPaused, pairStopped} {
		for _, rate := range []int{steadyRate, 0} {
			all = append(all, stompPair{true, true, fault, rate}, stompPair{true, false, fault, rate}, stompPair{false, true, fault, rate})
		}
	}
	return all
}()

const (
	pairKilled  = "first killed, back again"
	pairPaused  = "first paused, then resumed"
	pairStopped = "first stopped, back again"
)

// of is a broker of the pair, with what the fault does to it.
func (x stompPair) of(t *testing.T, name string, stomp bool) *broker {
	t.Helper()
	b := bilingualFerry(t)
	c := &broker{name: name + " over AMQP", url: b.amqp, amqp: b.amqp, kill: b.kill, up: b.up}
	if stomp {
		c.name, c.url = name+" over STOMP", b.stomp
	}
	switch x.fault {
	case pairPaused:
		c.url = beating(c.url)
		c.kill, c.up = func() { b.signal(syscall.SIGSTOP) }, func() { b.signal(syscall.SIGCONT) }
	case pairStopped:
		c.kill = b.stop
	}
	return c
}

// Two brokers, the first of which goes and comes back, over STOMP, and one over STOMP
// and the other over AMQP.
func TestFailoverAndBackSTOMP(t *testing.T) {
	takeTurn(t)
	var table matrix
	defer func() { table.log(t) }()
	for _, x := range pick([]stompPair{{true, false, pairKilled, 0}}, stompPairs) {
		table = append(table, failoverAndBack(t, x.fault, x.of(t, "first", x.firstSTOMP), x.of(t, "second", x.secondSTOMP), x.rate))
	}
}
