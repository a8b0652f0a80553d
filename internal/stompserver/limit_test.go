package stompserver

import (
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
)

// argument encodes an argument of a declaration: a number of one byte, or a text.
func argument[T byte | string](name string, value T) []byte {
	b := append([]byte{byte(len(name))}, name...)
	switch v := any(value).(type) {
	case byte:
		return append(b, 'B', v)
	case string:
		return append(append(b, 'S', 0, 0, 0, byte(len(v))), v...)
	}
	return nil
}

// full declares a queue that refuses messages beyond one.
func (f *fixture) full(queue string) {
	f.t.Helper()
	args := append(argument("x-max-length", byte(1)), argument("x-overflow", "reject-publish")...)
	if _, err := f.session().DeclareQueue(broker.QueueSpec{Name: queue, Durable: true, Args: args}); err != nil {
		f.t.Fatal(err)
	}
}

// A SEND that a queue refuses gets an ERROR instead of its receipt; what was taken
// before has its receipt.
func TestARefusedSendIsAnError(t *testing.T) {
	f := newFixture(t)
	f.full("full")
	p := f.connect()
	p.call("SEND", "destination:/amq/queue/full", "", "taken")
	p.send("SEND", "destination:/amq/queue/full", "receipt:refused", "", "1")
	e := p.expectError("precondition_failed")
	if e.get("receipt-id") != "refused" || e.body != "PRECONDITION_FAILED - a queue refused the message" {
		t.Errorf("got %v", e)
	}
	p.expectEnd()
	if n := f.ready("full"); n != 1 {
		t.Errorf("%d messages are there", n)
	}
}

// Who asks for no receipt is told nothing, as who asks for no confirms is in AMQP.
func TestARefusedSendWithoutAReceipt(t *testing.T) {
	f := newFixture(t)
	f.full("full")
	p := f.connect()
	for range 3 {
		p.send("SEND", "destination:/amq/queue/full", "persistent:true", "", "m")
		p.send("SEND", "destination:/amq/queue/full", "", "m")
	}
	p.call("SEND", "destination:/queue/other", "persistent:true", "", "m")
	if n := f.ready("full"); n != 1 {
		t.Errorf("%d messages are there", n)
	}
}

func TestATransactionThatIsRefusedInPart(t *testing.T) {
	f := newFixture(t)
	f.full("full")
	p := f.connect()
	p.call("BEGIN", "transaction:t")
	for range 2 {
		p.send("SEND", "destination:/amq/queue/full", "transaction:t", "", "m")
	}
	p.send("COMMIT", "transaction:t", "receipt:c")
	if e := p.expectError("precondition_failed"); e.get("receipt-id") != "c" || e.body != "PRECONDITION_FAILED - partial tx completion" {
		t.Errorf("got %v", e)
	}
}

// A subscription whose messages are kept for too long ends as if its queue were gone.
func TestASlowSubscriptionIsCancelled(t *testing.T) {
	f := newFixture(t)
	if _, err := f.session().DeclareQueue(broker.QueueSpec{Name: "q", Durable: true, Args: argument("x-consumer-timeout", byte(50))}); err != nil {
		t.Fatal(err)
	}
	p := f.connect()
	p.call("SEND", "destination:/amq/queue/q", "", "m")
	p.call("SUBSCRIBE", "destination:/amq/queue/q", "id:s", "ack:client")
	p.expectMessage("m")
	if e := p.expectError(cancelled); e.get("subscription") != "s" {
		t.Errorf("got %v", e)
	}
	if n := f.ready("q"); n != 1 {
		t.Errorf("%d messages are there", n)
	}
}
