package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// heartbeat of the clients in seconds: one that hears nothing for twice as long
	// leaves the connection.
	heartbeat = 5

	// A quorum queue that has had no leader asks for it every ten seconds, and only then
	// stores and confirms what came meanwhile: this is six times that. Where a
	// mirrored queue may lose messages nothing is worth the wait.
	clusterSettle = time.Minute
	lossySettle   = 10 * time.Second

	steadyRate = 500 // messages a second
)

// A clusterFault is something that happens to a cluster. The clients try its
// nodes in the order 1, 2, 3, and so are connected to node 1.
type clusterFault struct {
	name   string
	leader int // node that leads the queues
	// hit does it and undoes it. It returns when the cluster is whole again.
	hit func(c *cluster, queues []string)
	// broken is whether the clients lose their connection.
	broken bool
	// mirrored is whether mirrored queues are expected to lose nothing. Quorum
	// queues always are.
	mirrored bool
	// divided is whether the leader is there and does not answer: until there is
	// another, RabbitMQ may refuse messages.
	divided bool
}

var clusterFaults = []clusterFault{
	{name: "node of the clients killed", leader: 2, broken: true, mirrored: true, hit: func(c *cluster, _ []string) {
		c.kill(1)
		c.await()
		c.wantStatus(1, "down")
		c.up(1)
		c.wantStatus(1, whole)
	}},
	{name: "leader killed", leader: 2, mirrored: true, hit: func(c *cluster, queues []string) {
		c.kill(2)
		c.await()
		c.wantStatus(2, "down")
		for _, q := range queues {
			if c.leader(q) == 2 {
				c.t.Errorf("node 2 leads %s and is down", q)
			}
		}
		c.up(2)
		c.wantStatus(2, whole)
	}},
	{name: "all killed and restarted", leader: 1, broken: true, mirrored: true, hit: func(c *cluster, _ []string) {
		c.killAll()
		c.upAll()
		c.wantStatus(1, whole)
	}},
	{name: "node paused past the heartbeat", leader: 1, broken: true, divided: true, hit: func(c *cluster, _ []string) {
		c.pause(1)
		c.wantStatus(1, "paused")
		c.await()
		c.resume(1)
		c.wantStatus(1, whole)
	}},
	{name: "node cut off and healed", leader: 1, broken: true, divided: true, hit: func(c *cluster, _ []string) {
		c.cut(1)
		c.await()
		c.wantAlone(1)
		c.heal(1)
		c.wantStatus(1, whole)
	}},
	{name: "rolling restart", leader: 1, broken: true, mirrored: true, hit: func(c *cluster, queues []string) {
		for n := 1; n <= 3; n++ {
			c.down(n)
			c.up(n)
			for _, q := range queues {
				c.inSync(q)
			}
		}
	}},
}

// A kind is one of queue.
type kind struct {
	name string
	args amqp.Table
}

var queueKinds = []kind{
	{"mirrored", nil},
	{"quorum", amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}},
}

// keeps tells whether a queue is expected to lose nothing.
func (f clusterFault) keeps(k kind) bool { return k.name == "quorum" || f.mirrored }

// Whatever happens to the nodes of a RabbitMQ cluster, the clients go on by
// themselves. Of what was confirmed a quorum queue loses nothing, nor do mirrored
// queues that are in sync when nodes die or restart; what these lose when a node
// is paused or cut off is RabbitMQ's, and in the table.
func TestClientOnCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	c.mirror()
	rates := pick([]int{steadyRate}, []int{steadyRate, 0})
	var table matrix
	defer func() { table.log(t) }()
	for _, fault := range clusterFaults {
		for _, rate := range rates {
			table = append(table, c.suffer(fault, rate)...)
		}
	}
}

// suffer has a fault happen while a client works on each kind of queue.
func (c *cluster) suffer(fault clusterFault, rate int) (results matrix) {
	t := c.t
	t.Helper()
	var list []string
	for _, u := range c.urls {
		list = append(list, fmt.Sprint(u, "?heartbeat=", heartbeat))
	}
	began := time.Now()
	var queues []string
	var runs []*program
	for _, k := range queueKinds {
		queue := fmt.Sprint(k.name, "-", began.UnixNano())
		c.declare(fault.leader, queue, k)
		queues = append(queues, queue)
	}
	for i, queue := range queues {
		settle := clusterSettle
		if !fault.keeps(queueKinds[i]) {
			settle = lossySettle
		}
		flags := append([]string{"--no-declare", "--settle-timeout", settle.String()}, deduplicating...)
		runs = append(runs, verify(t, c.command, strings.Join(list, ","), queue, rate, flags...))
	}
	if slices.ContainsFunc(runs, func(p *program) bool { return !p.connected() }) {
		t.FailNow()
	}
	time.Sleep(calm)
	fault.hit(c, queues)
	for _, queue := range queues {
		c.inSync(queue)
	}
	if fault.broken && slices.ContainsFunc(runs, func(p *program) bool { return !p.reconnected(1) }) {
		t.FailNow()
	}
	time.Sleep(calm)
	for _, p := range runs {
		p.interrupt()
	}
	for i, p := range runs {
		r := result{fault: fault.name, queue: queueKinds[i].name, rate: rate, report: p.report()}
		r.check(t, fault.keeps(queueKinds[i]))
		r.once(t)
		if !fault.divided {
			r.settled(t)
		}
		if t.Failed() {
			t.Logf("%s: it said\n%s", r, p.stderr.tail(4*logLines))
		}
		results = append(results, r)
		c.remove(queues[i])
	}
	t.Logf("%s: %s", fault.name, time.Since(began).Round(time.Second))
	return results
}

// declare declares a queue that node n leads, and waits until all have a copy.
func (c *cluster) declare(n int, queue string, k kind) {
	c.t.Helper()
	conn := c.connect(n)
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, k.args); err != nil {
		c.t.Fatal(err)
	}
	c.inSync(queue)
	if led := c.leader(queue); led != n {
		c.t.Fatalf("node %d leads %s, not node %d", led, queue, n)
	}
}

// remove deletes a queue.
func (c *cluster) remove(queue string) {
	c.t.Helper()
	conn := c.connect(1)
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
		c.t.Fatal(err)
	}
}
