package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
)

// What RabbitMQ does to clients when connections break, consumers are slow and
// memory is short: this client goes on by itself, and says what happens.
func TestClientOnRabbitMQ(t *testing.T) {
	takeTurn(t)
	r := startRabbit(t)
	t.Run("server-named queue", func(t *testing.T) { serverNamedQueue(t, r.in(t)) })
	t.Run("exclusive queue", func(t *testing.T) { exclusiveQueue(t, r.in(t)) })
	t.Run("auto-delete queue", func(t *testing.T) { autoDeleteQueue(t, r.in(t)) })
	t.Run("consumer timeout", func(t *testing.T) { consumerTimeout(t, r.in(t)) })
	t.Run("memory alarm", func(t *testing.T) { memoryAlarm(t, r.in(t)) })
	t.Run("confirmed or timed out", func(t *testing.T) { confirmedOrTimedOut(t, r.url, r.in(t).signal) })
}

// dialOver connects a client whose connections can be cut.
func dialOver(t *testing.T, r *rabbit, topology ferry.Topology) (*ferry.Client, *eventLog, *lines) {
	t.Helper()
	l := &lines{}
	t.Cleanup(l.hangUp)
	client, events := dial(t, r.url, ferry.WithTopology(topology), ferry.WithNetDial(l.dial),
		ferry.WithBackoff(10*time.Millisecond, 100*time.Millisecond))
	return client, events, l
}

func mustConsume(t *testing.T, client *ferry.Client, o ferry.ConsumerOptions) *ferry.Consumer {
	t.Helper()
	consumer, err := client.Consumer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return consumer
}

func mustPublish(t *testing.T, client *ferry.Client, m ferry.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), confirmLimit)
	defer cancel()
	if err := client.Publish(ctx, m); err != nil {
		t.Fatalf("publishing %q: %v", m.Body, err)
	}
}

// wantNext receives the next message, which must have the body. Before it others
// may come again that were acknowledged when the connection broke.
func wantNext(t *testing.T, consumer *ferry.Consumer, body string) *ferry.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), drainLimit)
	defer cancel()
	for {
		d, err := consumer.Receive(ctx)
		if err != nil {
			t.Fatalf("receiving %q: %v", body, err)
		}
		if string(d.Body) == body {
			return d
		}
		if !d.Redelivered {
			t.Fatalf("received %q, want %q", d.Body, body)
		}
		mustAck(t, d)
	}
}

func mustAck(t *testing.T, d *ferry.Delivery) {
	t.Helper()
	if err := d.Ack(); err != nil {
		t.Fatalf("acknowledging %q: %v", d.Body, err)
	}
}

// A consumer with a queue that the broker names has another after a reconnect,
// bound as the first was; that one goes with its connection.
func serverNamedQueue(t *testing.T, r *rabbit) {
	client, events, l := dialOver(t, r, ferry.Topology{Exchanges: []ferry.Exchange{{Name: "news", Kind: "fanout"}}})
	consumer := mustConsume(t, client, ferry.ConsumerOptions{Bindings: []ferry.Binding{{Exchange: "news"}}})
	for n := 1; n <= 3; n++ {
		before := fmt.Sprint("before ", n)
		mustPublish(t, client, ferry.Message{Exchange: "news", Body: []byte(before)})
		mustAck(t, wantNext(t, consumer, before))
		l.cut(t)
		events.await(t, n, ferry.Resubscribed)
	}
	mustPublish(t, client, ferry.Message{Exchange: "news", Body: []byte("after")})
	mustAck(t, wantNext(t, consumer, "after"))
	l.hangUp()
	names := func() string { return r.ctl("list_queues", "name") }
	if !until(drainLimit, func() bool { return strings.Count(names(), "amq.gen") == 1 }) {
		t.Errorf("one queue that the broker named should be left:\n%s", names())
	}
}

// A queue that the old connection has exclusively, for the broker has not noticed
// its end, is waited for.
func exclusiveQueue(t *testing.T, r *rabbit) {
	client, events, l := dialOver(t, r, ferry.Topology{Queues: []ferry.Queue{{Name: "mine", Transient: true, Exclusive: true}}})
	consumer := mustConsume(t, client, ferry.ConsumerOptions{Queue: "mine"})
	mustPublish(t, client, ferry.Message{Key: "mine", Body: []byte("before")})
	mustAck(t, wantNext(t, consumer, "before"))
	l.cut(t)
	events.await(t, 1, ferry.TopologyRefused)
	for _, e := range events.all() {
		if e.Kind == ferry.TopologyRefused && !errors.Is(e.Err, ferry.ErrLocked) {
			t.Errorf("the declaration was refused with %v; want %v", e.Err, ferry.ErrLocked)
		}
	}
	if n := events.count(ferry.Resubscribed); n > 0 {
		t.Errorf("it consumes from a queue that another connection has: %v", events.all())
	}
	l.hangUp()
	events.await(t, 1, ferry.Resubscribed)
	mustPublish(t, client, ferry.Message{Key: "mine", Body: []byte("after")})
	mustAck(t, wantNext(t, consumer, "after"))
}

// The broker deletes a queue with the old connection, its last consumer, before,
// while or after the new connection declares it.
func autoDeleteQueue(t *testing.T, r *rabbit) {
	client, events, l := dialOver(t, r, ferry.Topology{Queues: []ferry.Queue{{Name: "fleeting", AutoDelete: true}}})
	consumer := mustConsume(t, client, ferry.ConsumerOptions{Queue: "fleeting"})
	for n := range pick(20, 200) {
		l.cut(t)
		time.Sleep(rand.N(20 * time.Millisecond))
		l.hangUp()
		events.await(t, n+1, ferry.Resubscribed)
		body := fmt.Sprint("after ", n)
		mustPublish(t, client, ferry.Message{Key: "fleeting", Body: []byte(body)})
		mustAck(t, wantNext(t, consumer, body))
	}
}

// A handler that takes longer than the broker allows has its channel closed: its
// consumer comes back on another, and nobody else notices.
func consumerTimeout(t *testing.T, r *rabbit) {
	set := func(timeout string) {
		r.ctl("eval", "application:set_env(rabbit, consumer_timeout, "+timeout+"), application:set_env(rabbit, channel_tick_interval, 500).")
	}
	set("2000")
	defer set("1800000") // RabbitMQ's default
	client, events, _ := dialOver(t, r, ferry.Topology{Queues: []ferry.Queue{{Name: "slow"}, {Name: "quick"}}})
	slow, quick := mustConsume(t, client, ferry.ConsumerOptions{Queue: "slow"}), mustConsume(t, client, ferry.ConsumerOptions{Queue: "quick"})
	mustPublish(t, client, ferry.Message{Key: "slow", Body: []byte("work")})
	first := wantNext(t, slow, "work")
	began := time.Now()
	for n := 0; events.count(ferry.Resubscribed) == 0; n++ {
		body := fmt.Sprint("quick ", n)
		mustPublish(t, client, ferry.Message{Key: "quick", Body: []byte(body)})
		mustAck(t, wantNext(t, quick, body))
		if time.Since(began) > startLimit {
			t.Fatalf("the consumer has not come back on another channel within %s: %v", startLimit, events.all())
		}
	}
	for _, e := range events.all() {
		if broker := (*ferry.BrokerError)(nil); e.Kind == ferry.ConsumerCancelled && (!errors.As(e.Err, &broker) || broker.Code != 406) {
			t.Errorf("the consumer was cancelled because of %v; want 406", e.Err)
		}
	}
	if events.count(ferry.ConsumerCancelled) == 0 {
		t.Errorf("nobody was told that the consumer was cancelled: %v", events.all())
	}
	if err := first.Ack(); !errors.Is(err, ferry.ErrStale) {
		t.Errorf("acknowledging too late: %v; want %v", err, ferry.ErrStale)
	}
	again := wantNext(t, slow, "work")
	if !again.Redelivered {
		t.Error("it came again and is not marked")
	}
	mustAck(t, again)
	if s := client.Status(); s.Consume.Connects != 1 || s.Publish.Connects != 1 {
		t.Errorf("there were %d and %d connections; want one each", s.Publish.Connects, s.Consume.Connects)
	}
	if n := quick.Stats().Subscriptions; n != 1 {
		t.Errorf("the other consumer has subscribed %d times", n)
	}
}

// While the broker is short of memory it takes no messages: that is to be seen, a
// publish ends with its context, consumers go on, and all that waited is confirmed
// afterwards.
func memoryAlarm(t *testing.T, r *rabbit) {
	client, events, _ := dialOver(t, r, ferry.Topology{Queues: []ferry.Queue{{Name: "alarmed"}}})
	consumer := mustConsume(t, client, ferry.ConsumerOptions{Queue: "alarmed", Prefetch: 1})
	mustPublish(t, client, ferry.Message{Key: "alarmed", Body: []byte("held")})
	held := wantNext(t, consumer, "held")
	mustPublish(t, client, ferry.Message{Key: "alarmed", Body: []byte("next")})

	r.ctl("set_vm_memory_high_watermark", "0.0001")
	calmed := false
	defer func() {
		if !calmed {
			r.ctl("set_vm_memory_high_watermark", "0.4")
		}
	}()
	publisher, err := client.Publisher(ferry.PublisherOptions{Key: "alarmed"})
	if err != nil {
		t.Fatal(err)
	}
	const waiting = 100
	var confirmed, failed atomic.Int32
	for n := range waiting {
		if err := publisher.Submit(t.Context(), ferry.Message{Body: fmt.Append(nil, "waiting ", n)}, func(result ferry.Result) {
			if result.Err == nil {
				confirmed.Add(1)
			} else {
				failed.Add(1)
				t.Errorf("a message that waited: %v", result.Err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	events.await(t, 1, ferry.Blocked)
	if s := client.Status().Publish; s.Blocked == "" || s.State != ferry.Up {
		t.Errorf("its status is %+v; want it to be up, and blocked", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	began := time.Now()
	err = client.Publish(ctx, ferry.Message{Key: "alarmed", Body: []byte("too late")})
	cancel()
	if !errors.Is(err, ferry.ErrBlocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a publish while it is blocked: %v; want %v and %v", err, ferry.ErrBlocked, context.DeadlineExceeded)
	}
	if took := time.Since(began); took > time.Second+promptly {
		t.Errorf("a publish with a second of time took %s", took)
	}
	if n := confirmed.Load(); n > 0 {
		t.Errorf("%d messages were confirmed by a broker that is blocked", n)
	}
	mustAck(t, held)
	mustAck(t, wantNext(t, consumer, "next"))

	r.ctl("set_vm_memory_high_watermark", "0.4")
	calmed = true
	events.await(t, 1, ferry.Unblocked)
	ctx, cancel = context.WithTimeout(t.Context(), confirmLimit)
	defer cancel()
	if err := publisher.Flush(ctx); err != nil {
		t.Error(err)
	}
	if n := confirmed.Load(); n != waiting {
		t.Errorf("%d of %d messages were confirmed afterwards, %d were not", n, waiting, failed.Load())
	}
	if s := client.Status().Publish; s.Blocked != "" {
		t.Errorf("it still counts as blocked: %+v", s)
	}
	for came := map[string]bool{}; len(came) < waiting; {
		ctx, cancel := context.WithTimeout(t.Context(), drainLimit)
		d, err := consumer.Receive(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%d of %d messages came: %v", len(came), waiting, err)
		}
		if strings.HasPrefix(string(d.Body), "waiting ") { // or "too late", of which it is not known
			came[string(d.Body)] = true
		}
		mustAck(t, d)
	}
}
