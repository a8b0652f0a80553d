package chaos

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// cleanSlack is what a directory may hold beside twice the bytes that are live:
// two segments of 64 MiB that cleaning leaves alone, the copy of one that is
// cleaned, and what is written meanwhile.
const cleanSlack = 4 * 64 << 20

// What is parked in one queue does not keep the space of what went through
// others: the journal stays within twice what is live.
func TestParkedMessagesKeepNoSpace(t *testing.T) {
	const size = 16 << 10
	park := int64(pick(64<<20, 1<<30))
	churn := 5 * park
	dir := t.TempDir()
	p := start(t, setup{dir: dir})
	c := mustConnect(t, p.addr)
	ch := mustDeclare(t, c, "parked", "churn")
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	const window = 200
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 2*window))
	open := 0
	publish := func(queue string, seq uint64) {
		t.Helper()
		if open >= window {
			confirmed(t, confirms, 1)
			open--
		}
		if err := ch.PublishWithContext(context.Background(), "", queue, false, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body(0, seq, size)}); err != nil {
			t.Fatal(err)
		}
		open++
	}

	consumer := mustConnect(t, p.addr)
	taking := mustChannel(t, consumer)
	if err := taking.Qos(200, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := taking.Consume("churn", "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var live atomic.Int64 // bytes of bodies that are published, or about to be, and not settled
	var consuming sync.WaitGroup
	consuming.Go(func() {
		n := int64(0)
		for d := range deliveries {
			if n++; n%50 == 0 {
				if d.Ack(true) != nil {
					return
				}
				live.Add(-50 * size)
			}
		}
	})

	var watching sync.WaitGroup
	stop := make(chan struct{})
	var most, worst, atLive int64
	samples := 0
	watching.Go(func() {
		for {
			// Both are read in the order that is worse for the broker.
			alive := live.Load()
			now := sizeOf(t, dir)
			samples++
			most = max(most, now)
			if over := now - 2*alive; samples == 1 || over > worst {
				worst, atLive = over, alive
			}
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})

	// They are interleaved at first, which is what is hard: each segment has some
	// of both. Then the others go on alone.
	began := time.Now()
	parked, churned := uint64(0), int64(0)
	for churned < churn {
		if int64(parked)*size < park {
			live.Add(size)
			publish("parked", parked)
			parked++
		}
		for range 3 {
			live.Add(size)
			publish("churn", 0)
			churned += size
		}
	}
	confirmed(t, confirms, open)
	took := time.Since(began)
	// What the acknowledgements just now have freed may take a moment.
	settled := until(10*time.Second, func() bool { return sizeOf(t, dir) <= 2*int64(parked)*size+cleanSlack })
	close(stop)
	watching.Wait()
	end := sizeOf(t, dir)
	t.Logf("\n%s", table("parked", mib(int64(parked)*size), "churned", mib(churned), "took", took.Round(time.Millisecond), "samples", samples,
		"largest directory", mib(most), "most above twice live", mib(worst)+", with "+mib(atLive)+" live", "directory at the end", mib(end)))
	if worst > cleanSlack || !settled {
		t.Errorf("the directory was %s above twice what was live (%s); at most %s are expected", mib(worst), mib(atLive), mib(cleanSlack))
	}
	consumer.cut()
	consuming.Wait()
	p.kill()
	p = start(t, setup{dir: dir})
	drain(t, mustConnect(t, p.addr), "parked", parked)
	p.terminate()
}

// A queue without consumers slows nobody: beside 500,000 parked messages another
// queue's publisher and consumer get as far as without them.
func TestParkedQueueSlowsNobody(t *testing.T) {
	if !long() {
		t.Skip("compares rates: in the long form only (FERRY_LONG=1)")
	}
	p := start(t, setup{dir: t.TempDir()})
	pair := func() int {
		l := newLoad(t, p.addr)
		l.queue("busy", true)
		mustDeclare(t, mustConnect(t, p.addr), "busy")
		l.consume(consumer{queue: "busy", prefetch: 500, settle: ackMultiple})
		l.publish(publisher{key: "busy", queues: []string{"busy"}, window: 500, size: 200})
		time.Sleep(time.Second)
		from := l.totals().received
		time.Sleep(5 * time.Second)
		n := l.totals().received - from
		l.finish()
		return n
	}
	before := pair()
	const n = 500_000
	c := mustConnect(t, p.addr)
	ch := mustDeclare(t, c, "parked")
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	const window = 2000
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 2*window))
	for i := range uint64(n) {
		if i >= window {
			confirmed(t, confirms, 1)
		}
		if err := ch.PublishWithContext(context.Background(), "", "parked", false, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body(0, i, 200)}); err != nil {
			t.Fatal(err)
		}
	}
	confirmed(t, confirms, window)
	beside := pair()
	t.Logf("\n%s", table("parked", n, "messages in 5 s before", before, "beside them", beside))
	if beside < before/2 {
		t.Errorf("%d messages in 5 s beside %d parked ones, %d without them", beside, n, before)
	}
	drain(t, mustConnect(t, p.addr), "parked", n)
	p.terminate()
}
