package chaos

import (
	"context"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A backlog is bounded by the disk, not by memory, whether its messages are
// persistent or not; and it comes back in order.
func TestBacklogOutgrowsMemory(t *testing.T) {
	const (
		total = 300 << 20
		size  = 16 << 10
		most  = 300 << 20 // resident at the peak
	)
	for _, row := range []struct {
		name string
		mode uint8
	}{{"transient", amqp.Transient}, {"persistent", amqp.Persistent}} {
		t.Run(row.name, func(t *testing.T) {
			p := start(t, setup{dir: t.TempDir()})
			idle := p.memory("VmHWM")
			c := mustConnect(t, p.addr)
			ch := mustDeclare(t, c, "q")
			n := uint64(pick(1, 4)) * total / size
			if err := ch.Confirm(false); err != nil {
				t.Fatal(err)
			}
			const window = 500
			confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 2*window))
			for i := range n {
				if i >= window {
					confirmed(t, confirms, 1)
				}
				if err := ch.PublishWithContext(context.Background(), "", "q", false, false,
					amqp.Publishing{DeliveryMode: row.mode, Body: body(0, i, size)}); err != nil {
					t.Fatal(err)
				}
			}
			confirmed(t, confirms, window)
			parked := p.memory("VmHWM")
			drain(t, mustConnect(t, p.addr), "q", n)
			peak := p.memory("VmHWM")
			t.Logf("\n%s", table("messages", n, "bytes of bodies", mib(int64(n)*size), "resident before", mib(idle),
				"peak while published", mib(parked), "peak at the end", mib(peak)))
			if peak > most {
				t.Errorf("%s were resident at the peak, with %s of messages; want at most %s", mib(peak), mib(int64(n)*size), mib(most))
			}
			p.terminate()
		})
	}
}

// confirmed takes so many confirms.
func confirmed(t *testing.T, confirms <-chan amqp.Confirmation, n int) {
	t.Helper()
	limit := time.NewTimer(confirmLimit)
	defer limit.Stop()
	for range n {
		select {
		case confirm, ok := <-confirms:
			if !ok || !confirm.Ack {
				t.Fatalf("a publish was not confirmed: open %v, ack %v", ok, confirm.Ack)
			}
		case <-limit.C:
			t.Fatalf("no confirm within %s", confirmLimit)
		}
	}
}

// drain consumes the messages 0 to n-1, which must come in order.
func drain(t *testing.T, c *client, queue string, n uint64) {
	t.Helper()
	ch := mustChannel(t, c)
	if err := ch.Qos(500, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	idle := time.NewTimer(drainLimit)
	defer idle.Stop()
	for i := range n {
		select {
		case d, ok := <-deliveries:
			if !ok {
				t.Fatalf("the consumer ended at message %d of %d", i, n)
			}
			if _, seq, ok := parseBody(d.Body); !ok || seq != i {
				t.Fatalf("message %d came in place of %d, intact: %v", seq, i, ok)
			}
			if i%100 == 99 || i == n-1 {
				if err := d.Ack(true); err != nil {
					t.Fatal(err)
				}
				idle.Reset(drainLimit)
			}
		case <-idle.C:
			t.Fatalf("no delivery within %s, at message %d of %d", drainLimit, i, n)
		}
	}
	if err := ch.Close(); err != nil {
		t.Fatal(err)
	}
	state, err := mustChannel(t, c).QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil || state.Messages > 0 {
		t.Errorf("after its last message the queue holds %d: %v", state.Messages, err)
	}
}

// Over the memory limit publishers are blocked, and the acknowledgements that
// come behind their publishes on the same connection still count. When the
// queues are drained publishing goes on. The store is in memory: with a file a
// backlog goes to disk before it can raise the alarm.
func TestMemoryAlarm(t *testing.T) {
	p := start(t, setup{dir: t.TempDir(), flags: []string{"--store", "memory:", "--memory-limit", "48MiB"}})
	c := mustConnect(t, p.addr)
	blocked := c.NotifyBlocked(make(chan amqp.Blocking, 64))
	ch := mustDeclare(t, c, "q", "own")
	next := uint64(0)
	publish := func(size int) {
		t.Helper()
		if err := ch.PublishWithContext(context.Background(), "", "q", false, false,
			amqp.Publishing{DeliveryMode: amqp.Transient, Body: body(0, next, size)}); err != nil {
			t.Fatal(err)
		}
		next++
	}
	// What the connection has to settle is there before the alarm.
	const own = 500
	for i := range uint64(own) {
		if err := ch.PublishWithContext(context.Background(), "", "own", false, false, amqp.Publishing{Body: body(1, i, 100)}); err != nil {
			t.Fatal(err)
		}
	}
	consuming := mustChannel(t, c)
	if err := consuming.Qos(10, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := consuming.Consume("own", "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	told := func() bool {
		select {
		case e := <-blocked:
			return e.Active
		default:
			return false
		}
	}
	// With a window, so that what is on its way when the alarm begins is a part
	// of the 1 MiB that a blocked connection may still send.
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	const window = 4
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 1<<16))
	base := next
	began := time.Now()
	for !told() {
		if next-base >= window {
			confirmed(t, confirms, 1)
		}
		publish(64 << 10)
		if next > 1<<15 {
			t.Fatalf("%d messages of 64 KiB, and no alarm: %s are resident", next, mib(p.memory("VmRSS")))
		}
	}
	raised := time.Since(began)
	// A publish, then an acknowledgement, and so on: 0.5 MiB more.
	for i := range own {
		publish(1000)
		select {
		case d := <-deliveries:
			if err := d.Ack(false); err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("delivery %d of %d did not come: acknowledgements of a blocked connection are not taken", i, own)
		}
	}
	select {
	case <-blocked:
		t.Error("the alarm ended before anything was drained: the acknowledgements were not those of a blocked connection")
	default:
	}
	// Now it is drained, by another connection.
	drain(t, mustConnect(t, p.addr), "q", next)
	cleared := time.Now()
	select {
	case e := <-blocked:
		if e.Active {
			t.Error("blocked, twice")
		}
	case <-time.After(15 * time.Second):
		t.Fatalf("still blocked 15 s after everything was drained, with %s resident", mib(p.memory("VmRSS")))
	}
	t.Logf("\n%s", table("messages until the alarm", next-own, "alarm after", raised.Round(time.Millisecond),
		"settled while blocked", own, "cleared after the drain", time.Since(cleared).Round(time.Millisecond),
		"peak resident", mib(p.memory("VmHWM"))))
	from := next
	for range 100 {
		publish(1000)
	}
	if !until(10*time.Second, func() bool {
		q, err := ch.QueueDeclarePassive("q", true, false, false, false, nil)
		return err == nil && q.Messages == int(next-from)
	}) {
		t.Error("after the alarm publishes do not arrive")
	}
	p.terminate()
}
