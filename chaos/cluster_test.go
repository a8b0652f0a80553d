package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	clusterScript = "../scripts/rabbitmq-cluster"

	// What the script exits with when something that it needs is not there, and
	// when the nodes do not come together by themselves.
	clusterMissing     = 3
	clusterPartitioned = 4

	// The script gives up by itself before; this is for one that hangs.
	clusterLimit = 5 * time.Minute
	dialLimit    = 10 * time.Second
)

// A cluster is three RabbitMQ nodes, 1 to 3, each in a network namespace of its
// own, and a fourth namespace, the hub, for their clients. Its methods end the
// test when they fail. They may be called from the test's goroutine only, but
// those that take a context from any.
type cluster struct {
	t   *testing.T
	dir string
	// hub is the namespace of the clients. The nodes' names rabbit-1 to rabbit-3
	// are known in it.
	hub  string
	urls [3]string // of nodes 1 to 3, as seen from the hub
}

// startCluster starts a cluster that ends with the test.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: filepath.Join(t.TempDir(), "cluster")}
	t.Cleanup(func() {
		if t.Failed() {
			c.logs()
		}
		if _, err := c.script(context.Background(), "stop"); err != nil {
			t.Error(err)
		}
	})
	out, err := c.script(t.Context(), "start", "--while", strconv.Itoa(os.Getpid()))
	if exitCode(err) == clusterMissing {
		missing(t, "a cluster of RabbitMQ in network namespaces (scripts/setup, as root): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, "'")
		switch name {
		case "hub":
			c.hub = value
		case "urls":
			if n := copy(c.urls[:], strings.Fields(value)); n != len(c.urls) {
				t.Fatalf("the cluster has %d addresses: %q", n, value)
			}
		}
	}
	if c.hub == "" || c.urls[0] == "" {
		t.Fatalf("the cluster did not say where it is: %q", out)
	}
	return c
}

// script runs a command of scripts/rabbitmq-cluster on this cluster and returns
// what it prints.
func (c *cluster) script(ctx context.Context, command string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, clusterLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, clusterScript, append([]string{command, "--dir", c.dir}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("rabbitmq-cluster %s %s: %w\n%s%s", command, strings.Join(args, " "), err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

func (c *cluster) must(command string, args ...string) string {
	c.t.Helper()
	out, err := c.script(c.t.Context(), command, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// exitCode is the one in err, 0 if there is none.
func exitCode(err error) int {
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// mirror has all classic queues mirrored to all nodes.
func (c *cluster) mirror() { c.t.Helper(); c.must("policy") }

// kill ends node n without a chance to do anything, also when it is paused.
func (c *cluster) kill(n int) { c.t.Helper(); c.must("kill", strconv.Itoa(n)) }

// killAll does that to all nodes at one time.
func (c *cluster) killAll() { c.t.Helper(); c.must("kill", "all") }

// down ends node n as an operator does.
func (c *cluster) down(n int) { c.t.Helper(); c.must("down", strconv.Itoa(n)) }

// up starts node n again and waits until it has rejoined. Where it makes no
// majority it is not waited for.
func (c *cluster) up(n int) { c.t.Helper(); c.rejoin("up", strconv.Itoa(n)) }

// upAll starts all nodes that are down, and waits until they are one cluster.
func (c *cluster) upAll() { c.t.Helper(); c.rejoin("up", "all") }

// pause stops the process of node n where it is; its connections stay.
func (c *cluster) pause(n int) { c.t.Helper(); c.must("pause", strconv.Itoa(n)) }

// resume lets node n go on and waits until it has rejoined.
func (c *cluster) resume(n int) { c.t.Helper(); c.rejoin("resume", strconv.Itoa(n)) }

// cut pulls the cable of node n: it hears nothing from the others and the
// clients, nor they from it, and no connection is told.
func (c *cluster) cut(n int) { c.t.Helper(); c.must("cut", strconv.Itoa(n)) }

// heal puts the cable in again and waits until node n has rejoined.
func (c *cluster) heal(n int) { c.t.Helper(); c.rejoin("heal", strconv.Itoa(n)) }

// rejoin brings a node back, or all. That they come together then is RabbitMQ's to do:
// where it does not, this does what an operator has to do, and says so. It restarts
// that node, and if that does not help either, all.
func (c *cluster) rejoin(command, node string) {
	c.t.Helper()
	together := func(command, node string) bool {
		_, err := c.script(c.t.Context(), command, node)
		if err != nil && exitCode(err) != clusterPartitioned {
			c.t.Fatal(err)
		}
		if err != nil {
			c.t.Logf("RabbitMQ's nodes do not come together: %v", err)
		}
		return err == nil
	}
	if together(command, node) || node != "all" && together("restart", node) {
		return
	}
	c.killAll()
	c.must("up", "all")
}

// await waits until every node has noticed what was done to the others: a
// majority serves, and nobody else. Of a node that is cut off or paused that
// takes some 12 s.
func (c *cluster) await() { c.t.Helper(); c.must("await") }

// inSync waits until all nodes that can serve have a copy of the queue that is
// in sync.
func (c *cluster) inSync(queue string) { c.t.Helper(); c.must("insync", queue) }

// leader is the number of the node that leads the queue.
func (c *cluster) leader(queue string) int {
	c.t.Helper()
	n, err := strconv.Atoi(c.must("leader", queue))
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// status has a line for each node: "node 1: serves with 1 2 3, 125 MiB", or
// down, paused, stopped and "cut off".
func (c *cluster) status() []string { c.t.Helper(); return strings.Split(c.must("status"), "\n") }

// ctl runs rabbitmqctl beside node n.
func (c *cluster) ctl(n int, args ...string) string {
	c.t.Helper()
	return c.must("ctl", append([]string{strconv.Itoa(n)}, args...)...)
}

// command is a program that runs in the clients' namespace.
func (c *cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return space(c.hub).command(ctx, name, args...)
}

// dial connects from the clients' namespace; it suits amqp.Config. The address is
// one of numbers: the names of nodes are not known to this process.
func (c *cluster) dial(network, addr string) (net.Conn, error) {
	return space(c.hub).dial(network, addr)
}

// A space is a network namespace, by its name.
type space string

// command is a program that runs in the namespace. Its process is the program's
// own: what is sent to it, the program gets.
func (s space) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", string(s), name}, args...)...)
}

// setns is the number of the system call, which package syscall lacks.
var setns = map[string]uintptr{"amd64": 308, "arm64": 268}

// dial connects from the namespace to an address of numbers.
func (s space) dial(network, addr string) (net.Conn, error) {
	call, ok := setns[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("entering a network namespace: not known how on %s", runtime.GOARCH)
	}
	entry, err := os.Open(filepath.Join("/run/netns", string(s)))
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go onThread(func() {
		if _, _, errno := syscall.RawSyscall(call, entry.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			done <- result{err: fmt.Errorf("entering the network namespace %s: %w", s, errno)}
			return
		}
		// A socket stays in the namespace in which its thread made it.
		conn, err := net.DialTimeout(network, addr, dialLimit)
		done <- result{conn, err}
	})
	r := <-done
	return r.conn, r.err
}

// onThread runs f on a thread of its own, which ends with the goroutine: nobody
// else gets one that is in another namespace. The process's first thread never
// ends, and where it is there is the process for everybody who looks, also for
// who ends all that is in a namespace. So it is held until f has got another.
func onThread(f func()) {
	runtime.LockOSThread()
	if syscall.Gettid() != os.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThread(f)
	}()
	<-done
}

// connect opens an AMQP connection to node n, which is closed after the test.
func (c *cluster) connect(n int) *amqp.Connection {
	c.t.Helper()
	conn, err := amqp.DialConfig(c.urls[n-1], amqp.Config{Dial: func(network, addr string) (net.Conn, error) {
		conn, err := c.dial(network, addr)
		if err == nil {
			err = conn.SetDeadline(time.Now().Add(dialLimit)) // for the login; amqp091 clears it
		}
		return conn, err
	}})
	if err != nil {
		c.t.Fatalf("node %d: %v", n, err)
	}
	c.t.Cleanup(func() { _ = conn.CloseDeadline(time.Now().Add(dialLimit)) })
	return conn
}

// channel opens a channel in confirm mode, on a connection of its own to node n.
func (c *cluster) channel(n int) *amqp.Channel {
	c.t.Helper()
	ch, err := c.connect(n).Channel()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		c.t.Fatal(err)
	}
	return ch
}

// logs shows what the nodes logged at last.
func (c *cluster) logs() {
	for n := 1; n <= 3; n++ {
		text, err := os.ReadFile(filepath.Join(c.dir, strconv.Itoa(n), "log", "node.log"))
		if err != nil {
			c.t.Logf("node %d: %v", n, err)
			continue
		}
		lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		c.t.Logf("node %d logged at last:\n%s", n, strings.Join(lines[max(len(lines)-logLines, 0):], "\n"))
	}
}

// The faults of the cluster are what they say, and it recovers from each: what
// other tests build on.
func TestClusterFaults(t *testing.T) {
	if !long() {
		t.Skip("TestClientOnCluster has the same faults and looks at them: FERRY_LONG=1")
	}
	t.Parallel()
	c := startCluster(t)
	c.mirror()
	const body = "kept"
	kinds := map[string]amqp.Table{
		"mirrored": nil,
		"quorum":   {amqp.QueueTypeArg: amqp.QueueTypeQuorum},
	}
	ch := c.channel(1)
	for queue, args := range kinds {
		if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
			t.Fatal(err)
		}
		confirmation, err := ch.PublishWithDeferredConfirm("", queue, true, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := confirmation.WaitContext(t.Context()); !ok || err != nil {
			t.Fatalf("%s: the publish was not confirmed: %v, %v", queue, ok, err)
		}
		c.inSync(queue)
	}

	led := c.leader("mirrored")
	c.kill(led)
	c.await()
	c.wantStatus(led, "down")
	if n := c.leader("mirrored"); n == led {
		t.Errorf("node %d leads the queue and is down", n)
	}
	c.up(led)
	c.wantStatus(led, whole)

	c.pause(2)
	c.wantStatus(2, "paused")
	c.resume(2)
	c.wantStatus(2, whole)

	c.cut(3)
	c.await()
	c.wantAlone(3)
	c.heal(3)
	for queue := range kinds {
		c.inSync(queue)
	}
	if out := c.ctl(3, "-q", "list_queues", "name"); !strings.Contains(out, "mirrored") || !strings.Contains(out, "quorum") {
		t.Errorf("the queues of node 3: %s", out)
	}

	c.killAll()
	c.upAll()
	ch = c.channel(2)
	for queue := range kinds {
		c.inSync(queue)
		if d, ok, err := ch.Get(queue, true); err != nil || !ok || string(d.Body) != body {
			t.Errorf("%s: got %q, %v, %v; want %q", queue, d.Body, ok, err, body)
		}
	}
}

// whole is the status of a node when all is well.
const whole = "serves with 1 2 3,"

// wantAlone checks that node n is cut off from all, and serves nobody: the others do.
func (c *cluster) wantAlone(n int) {
	c.t.Helper()
	majority := slices.DeleteFunc([]string{"1", "2", "3"}, func(other string) bool { return other == strconv.Itoa(n) })
	for other := 1; other <= 3; other++ {
		reachable := other != n
		if reachable {
			c.wantStatus(other, "serves with "+strings.Join(majority, " ")+",")
		} else {
			c.wantStatus(n, "stopped, cut off") // pause_minority
		}
		ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Second)
		err := c.command(ctx, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/rabbit-%d/5672", other)).Run()
		cancel()
		if (err == nil) != reachable {
			c.t.Errorf("connecting to node %d from the hub: %v", other, err)
		}
	}
	if out, err := c.script(c.t.Context(), "ctl", strconv.Itoa(n), "list_queues"); err == nil {
		c.t.Errorf("node %d serves, alone: %s", n, out)
	}
}

func (c *cluster) wantStatus(n int, word string) {
	c.t.Helper()
	if line := c.status()[n-1]; !strings.Contains(line, word) {
		c.t.Errorf("%q; want %q", line, word)
	}
}
