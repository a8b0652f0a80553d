package conformance

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The client's suite does some things only with a server whose product is
// "RabbitMQ". They are done here with any.

// patience bounds each wait for something that must come.
const patience = 10 * time.Second

type peer struct {
	t    *testing.T
	conn *amqp.Connection
	ch   *amqp.Channel
}

func dial(t *testing.T, url string) *peer {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // some tests end it themselves
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return &peer{t, conn, ch}
}

// queue declares an exclusive queue of the test's own.
func (p *peer) queue() string {
	p.t.Helper()
	q, err := p.ch.QueueDeclare("", false, false, true, false, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return q.Name
}

// publish sends the numbers from first to last, and waits until they are in
// the queue.
func (p *peer) publish(queue string, first, last int) {
	p.t.Helper()
	if err := p.ch.Confirm(false); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for i := first; i <= last; i++ {
		c, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{Body: fmt.Append(nil, i)})
		if err != nil {
			p.t.Fatal(err)
		}
		if ok, err := c.WaitContext(ctx); err != nil || !ok {
			p.t.Fatalf("publish %d: confirmed %v, %v", i, ok, err)
		}
	}
}

// get takes the next message, which must have the given number.
func (p *peer) get(queue string, want int) amqp.Delivery {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		d, ok, err := p.ch.Get(queue, false)
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok && time.Now().Before(deadline) {
			continue // a requeue is not answered: it may be under way
		}
		if got := string(d.Body); !ok || got != fmt.Sprint(want) {
			p.t.Fatalf("get: %q, %v, want %d", got, ok, want)
		}
		return d
	}
}

func (p *peer) empty(queue string) {
	p.t.Helper()
	if d, ok, err := p.ch.Get(queue, false); err != nil || ok {
		p.t.Fatalf("get: %q, %v, %v, want nothing", d.Body, ok, err)
	}
}

func TestNackMultipleRequeuesInOrder(t *testing.T) {
	t.Parallel()
	p := dial(t, target(t, false).url)
	q := p.queue()
	p.publish(q, 1, 5)
	p.get(q, 1)
	p.get(q, 2)
	third := p.get(q, 3)
	if err := third.Nack(true, true); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 5; i++ {
		d := p.get(q, i)
		if want := i <= 3; d.Redelivered != want {
			t.Errorf("message %d: redelivered %v, want %v", i, d.Redelivered, want)
		}
	}
	p.empty(q)
}

func TestNackMultipleLeavesLaterOnesAlone(t *testing.T) {
	t.Parallel()
	p := dial(t, target(t, false).url)
	q := p.queue()
	p.publish(q, 1, 4)
	p.get(q, 1)
	second := p.get(q, 2)
	third := p.get(q, 3)
	if err := second.Nack(true, false); err != nil { // 1 and 2 are dropped
		t.Fatal(err)
	}
	if err := third.Nack(false, true); err != nil {
		t.Fatal(err)
	}
	p.get(q, 3)
	p.get(q, 4)
	p.empty(q)
}

func TestNackOfOneReturnsToItsPlace(t *testing.T) {
	t.Parallel()
	p := dial(t, target(t, false).url)
	q := p.queue()
	p.publish(q, 1, 4)
	first := p.get(q, 1)
	second := p.get(q, 2)
	if err := second.Nack(false, true); err != nil {
		t.Fatal(err)
	}
	second = p.get(q, 2)
	if !second.Redelivered {
		t.Error("a requeued message is not marked redelivered")
	}
	p.get(q, 3)
	if err := first.Reject(true); err != nil {
		t.Fatal(err)
	}
	p.get(q, 1)
	p.get(q, 4)
}

func TestNackAllWithTagZero(t *testing.T) {
	t.Parallel()
	p := dial(t, target(t, false).url)
	q := p.queue()
	p.publish(q, 1, 3)
	for i := 1; i <= 3; i++ {
		p.get(q, i)
	}
	if err := p.ch.Nack(0, true, true); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 3; i++ {
		p.get(q, i)
	}
}

func TestConsumerGetsRequeuedMessagesInOrder(t *testing.T) {
	t.Parallel()
	p := dial(t, target(t, false).url)
	q := p.queue()
	p.publish(q, 1, 6)
	if err := p.ch.Qos(3, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := p.ch.Consume(q, "", false, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var held []amqp.Delivery
	for range 3 {
		held = append(held, next(t, deliveries))
	}
	if err := held[2].Nack(true, true); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 6; i++ {
		d := next(t, deliveries)
		if got := string(d.Body); got != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", got, i)
		}
		if err := d.Ack(false); err != nil {
			t.Fatal(err)
		}
	}
}

func next(t *testing.T, deliveries <-chan amqp.Delivery) amqp.Delivery {
	t.Helper()
	select {
	case d, ok := <-deliveries:
		if !ok {
			t.Fatal("the consumer was cancelled")
		}
		return d
	case <-time.After(patience):
		t.Fatalf("no delivery within %s", patience)
		return amqp.Delivery{}
	}
}

func TestRecoverWithoutRequeueIsNotImplemented(t *testing.T) {
	t.Parallel()
	p := dial(t, target(t, false).url)
	err := p.ch.Recover(false) //nolint:staticcheck // deprecated, and still in clients' hands
	refused, ok := errors.AsType[*amqp.Error](err)
	if !ok || refused.Code != amqp.NotImplemented {
		t.Fatalf("recover: %v, want %d", err, amqp.NotImplemented)
	}
}

// capabilities are those that RabbitMQ announces. Clients switch features on
// with them.
var capabilities = []string{
	"authentication_failure_close", "basic.nack", "connection.blocked", "consumer_cancel_notify", "consumer_priorities",
	"direct_reply_to", "exchange_exchange_bindings", "per_consumer_qos", "publisher_confirms",
}

func TestServerCapabilities(t *testing.T) {
	t.Parallel()
	p := dial(t, target(t, false).url)
	got, ok := p.conn.Properties["capabilities"].(amqp.Table)
	if !ok {
		t.Fatalf("capabilities: %v", p.conn.Properties["capabilities"])
	}
	for _, name := range capabilities {
		if got[name] != true {
			t.Errorf("%s: %v, want true", name, got[name])
		}
	}
	if len(got) != len(capabilities) {
		t.Errorf("%d capabilities, want %d: %v", len(got), len(capabilities), got)
	}
}

func TestGetFindsNothingThatExpired(t *testing.T) {
	t.Parallel()
	p := dial(t, target(t, false).url)
	q, err := p.ch.QueueDeclare("", false, false, true, false, amqp.Table{"x-message-ttl": int32(100)})
	if err != nil {
		t.Fatal(err)
	}
	p.publish(q.Name, 1, 1)
	for end := time.Now().Add(patience); ; {
		left, err := p.ch.QueueDeclarePassive(q.Name, false, false, true, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if left.Messages == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the message did not expire")
		}
	}
	p.empty(q.Name)
}
