package chaos

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// failSyncs makes every sync of the process fail from now on, with EIO. It
// returns when that is so, and what tells when the first one failed.
func failSyncs(t *testing.T, p *process) (first func() (time.Time, bool)) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		missing(t, "strace, which makes fsync fail (apt-get install strace)")
	}
	out := filepath.Join(t.TempDir(), "strace")
	cmd := exec.Command("strace", "-f", "-ttt", "-o", out, "-e", "trace=fsync,fdatasync",
		"-e", "inject=fsync,fdatasync:error=EIO", "-p", strconv.Itoa(p.cmd.Process.Pid))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		missing(t, "strace, which makes fsync fail: %v", err)
	}
	attached := make(chan string, 1)
	go func() {
		said := ""
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			said += lines.Text() + "\n"
			if strings.Contains(lines.Text(), "attached") {
				select {
				case attached <- "":
				default:
				}
			}
		}
		select {
		case attached <- said:
		default:
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if said := <-attached; said != "" {
		missing(t, "strace may not attach to a process here: %s", said)
	}
	return func() (time.Time, bool) {
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			// 1234  1700000000.123456 fdatasync(7) = -1 EIO (Input/output error) (INJECTED)
			f := strings.Fields(line)
			if len(f) > 2 && strings.Contains(line, "EIO") {
				s, err := strconv.ParseFloat(f[1], 64)
				if err != nil {
					t.Fatalf("strace wrote %q", line)
				}
				return time.UnixMicro(int64(s * 1e6)), true
			}
		}
		return time.Time{}, false
	}
}

// awaitFailed waits for a broker whose store has failed to end, as it must.
func (p *process) awaitFailed() {
	p.t.Helper()
	code, ended := p.exitCode(stopLimit)
	switch {
	case !ended:
		p.t.Errorf("ferry still runs %s after its first sync failed", stopLimit)
		p.kill()
	case code != 1:
		p.t.Errorf("ferry ended with code %d after a sync failed, want 1", code)
	}
	if !p.log.has("input/output error") {
		p.t.Errorf("ferry did not say why:\n%s", p.log.tail(logLines))
	}
}

// Of what is pending when a sync fails nothing is acked or nacked: publishers
// are told 541 and the process ends.
func TestFailedFsyncIsFinal(t *testing.T) {
	s := setup{dir: t.TempDir()}
	p := start(t, s)
	c := mustConnect(t, p.addr)
	ch := mustDeclare(t, c, "q")
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	const n = 100
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 2*n))
	send := func(from int) error {
		for i := range n {
			err := ch.PublishWithContext(context.Background(), "", "q", false, false,
				amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body(0, uint64(from+i), 200)})
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := send(0); err != nil {
		t.Fatal(err)
	}
	for range n {
		if confirm := <-confirms; !confirm.Ack {
			t.Fatalf("publish %d was refused by a healthy broker", confirm.DeliveryTag)
		}
	}
	bystander := mustConnect(t, p.addr)
	first := failSyncs(t, p)
	// The broker may end the connection before all are sent.
	if err := send(n); err != nil && !errors.Is(err, amqp.ErrClosed) {
		t.Fatal(err)
	}
	for confirm := range confirms { // until the connection has ended
		t.Errorf("publish %d was answered (ack %v), though it cannot be durable", confirm.DeliveryTag, confirm.Ack)
	}
	for _, c := range []*client{c, bystander} {
		select {
		case e := <-c.closed:
			if e == nil || e.Code != amqp.InternalError {
				t.Errorf("a connection was closed with %v, want 541", e)
			}
		case <-time.After(10 * time.Second):
			t.Error("a connection is still open")
		}
	}
	p.awaitFailed()
	if _, failed := first(); !failed {
		t.Error("strace let no sync fail")
	}

	p = start(t, s)
	ch = mustDeclare(t, mustConnect(t, p.addr), "q")
	for i := range uint64(n) {
		d, ok, err := ch.Get("q", true)
		if err != nil || !ok {
			t.Fatalf("confirmed message %d is not there: %v", i, err)
		}
		if _, seq, ok := parseBody(d.Body); !ok || seq != i {
			t.Fatalf("message %d came in place of %d", seq, i)
		}
	}
	p.terminate()
}

// A failed sync under load loses nothing that was confirmed, time and again.
func TestFailedFsyncUnderLoad(t *testing.T) {
	s := setup{dir: t.TempDir()}
	p := start(t, s)
	l := newLoad(t, p.addr)
	everything(t, l)
	rounds := pick(2, 20)
	for range rounds {
		time.Sleep(pick(400*time.Millisecond, time.Second))
		before := l.closedWith()
		failSyncs(t, p)
		p.awaitFailed()
		p = startAt(t, l.addr, s)
		if now := l.closedWith(); now[amqp.InternalError] == before[amqp.InternalError] {
			t.Errorf("no connection was closed with 541: %v", now)
		}
	}
	time.Sleep(200 * time.Millisecond)
	l.consume(consumer{queue: "fan.parked", prefetch: 1000, settle: ackMultiple})
	n := l.finish()
	l.empty()
	p.terminate()
	t.Logf("\n%s", table("rounds", rounds, "confirmed", n.confirmed, "received", n.received, "resent", n.resent,
		"lost", n.lost, "duplicated", n.duplicated, "reordered", n.reordered, "returned", n.returned,
		"closed, by code", l.closedWith()))
}
