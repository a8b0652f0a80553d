package stompserver

import (
	"strings"
	"testing"
)

// sendAll sends bodies to a queue and waits until they are there.
func (p *testPeer) sendAll(destination string, bodies ...string) {
	p.t.Helper()
	for _, b := range bodies {
		p.send("SEND", "destination:"+destination, "persistent:true", "", b)
	}
	p.ping()
}

// messages receives so many messages, by their bodies.
func (p *testPeer) messages(bodies ...string) []*frame {
	p.t.Helper()
	var all []*frame
	for _, b := range bodies {
		all = append(all, p.expectMessage(b))
	}
	return all
}

func TestClientAcksAreCumulativeInTheirSubscription(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.sendAll("/queue/a", "1", "2", "3")
	p.sendAll("/queue/b", "4", "5")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client")
	a := p.messages("1", "2", "3")
	p.call("SUBSCRIBE", "destination:/queue/b", "id:b", "ack:client")
	b := p.messages("4", "5")
	p.call("ACK", a[1].ack())
	p.call("ACK", b[0].ack())
	p.call("DISCONNECT")
	if x, y := f.ready("a"), f.ready("b"); x != 1 || y != 1 {
		t.Errorf("%d and %d messages are left, want 1 and 1", x, y)
	}
}

func TestIndividualAcksAreForOneMessage(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.sendAll("/queue/a", "1", "2", "3")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client-individual")
	m := p.messages("1", "2", "3")
	p.call("ACK", m[1].ack())
	p.call("DISCONNECT")
	q := f.connect()
	q.call("SUBSCRIBE", "destination:/queue/a", "id:a")
	for _, m := range q.messages("1", "3") {
		if m.get("redelivered") != "true" {
			t.Errorf("got %v", m)
		}
	}
}

func TestAutoMessagesCannotBeAcked(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.sendAll("/queue/a", "1")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:a")
	m := p.expectMessage("1")
	if m.has("ack") {
		t.Errorf("got %v", m)
	}
	p.send("ACK", "id:"+escape(m.get("message-id")), "receipt:r")
	if e := p.expectError("precondition_failed"); e.body != "PRECONDITION_FAILED - unknown delivery tag 1" || e.get("receipt-id") != "r" {
		t.Errorf("got %v", e)
	}
}

func TestNack(t *testing.T) {
	for _, row := range []struct {
		mode, requeue string
		left          string // what another gets afterwards
	}{
		{"client-individual", "", "1 2 3"},
		{"client-individual", "requeue:true", "1 2 3"},
		{"client-individual", "requeue:false", "1 3"},
		{"client", "requeue:false", "3"},
		{"client", "requeue:other", "1 2 3"},
	} {
		t.Run(row.mode+" "+row.requeue, func(t *testing.T) {
			f := newFixture(t)
			p := f.connect()
			p.sendAll("/queue/a", "1", "2", "3")
			p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:"+row.mode, "prefetch-count:3")
			m := p.messages("1", "2", "3")
			lines := []string{m[1].ack()}
			if row.requeue != "" {
				lines = append(lines, row.requeue)
			}
			p.send("NACK", lines...)
			p.send("DISCONNECT")
			for _, err := p.read(); err == nil; _, err = p.read() { // it may have come again
			}
			q := f.connect()
			q.call("SUBSCRIBE", "destination:/queue/a", "id:a")
			q.messages(strings.Fields(row.left)...)
			q.ping()
		})
	}
}

func TestNackedMessageComesAgain(t *testing.T) {
	p := newFixture(t).connect()
	p.sendAll("/queue/a", "1")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client")
	m := p.expectMessage("1")
	p.send("NACK", m.ack())
	again := p.expectMessage("1")
	if again.get("redelivered") != "true" || again.get("ack") == m.get("ack") {
		t.Errorf("got %v", again)
	}
	p.send("ACK", m.ack(), "receipt:r")
	if e := p.expectError("precondition_failed"); e.get("receipt-id") != "r" {
		t.Errorf("got %v", e)
	}
}

// 1.0 and 1.1 name the message by its message-id, 1.1 the subscription too.
func TestAcksOfOlderVersions(t *testing.T) {
	for _, row := range []struct{ version, subscription string }{{"1.0", ""}, {"1.1", "a:1"}, {"1.1", ""}} {
		f := newFixture(t)
		p := f.connectAs(row.version)
		p.sendAll("/queue/a", "1")
		id := "a:1"
		if row.version > "1.0" {
			id = escape(id)
		}
		p.call("SUBSCRIBE", "destination:/queue/a", "id:"+id, "ack:client")
		m := p.expectMessage("1")
		if m.get("subscription") != "a:1" || m.has("ack") {
			t.Errorf("got %v", m)
		}
		name := m.get("message-id")
		if row.version > "1.0" {
			name = escape(name)
		}
		lines := []string{"message-id:" + name}
		if row.subscription != "" {
			lines = append(lines, "subscription:"+escape(row.subscription))
		}
		p.call("ACK", lines...)
		p.call("DISCONNECT")
		if n := f.ready("a"); n != 0 {
			t.Errorf("%d messages are left", n)
		}
	}
}

func TestAckOfAnotherSubscription(t *testing.T) {
	p := newFixture(t).connectAs("1.1")
	p.sendAll("/queue/a", "1")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client")
	m := p.expectMessage("1")
	p.send("ACK", "message-id:"+escape(m.get("message-id")), "subscription:b")
	p.expectError("Subscription not found")
}

func TestPrefetch(t *testing.T) {
	for _, header := range []string{"prefetch-count:2", "activemq.prefetchSize:2"} {
		p := newFixture(t).connect()
		p.sendAll("/queue/a", "1", "2", "3", "4")
		p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client", header)
		m := p.messages("1", "2")
		p.ping() // and no more
		p.send("ACK", m[0].ack())
		p.messages("3")
		p.ping()
	}
	for _, header := range []string{"consumer-window-size:0", "activemq.prefetchSize:0"} {
		p := newFixture(t).connect()
		p.sendAll("/queue/a", "1", "2")
		p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client", header)
		p.messages("1")
		p.ping()
	}
	for _, header := range []string{"prefetch-count:0", "consumer-window-size:-1", "consumer-window-size:1024", "x-other:1"} {
		p := newFixture(t).connect()
		p.sendAll("/queue/a", "1", "2")
		p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client", header)
		p.messages("1", "2")
	}
}

// A consumer that is asked to stop finishes what it has, as in AMQP.
func TestMessagesOfAnEndedSubscriptionMayBeAcked(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.sendAll("/queue/a", "1", "2")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client-individual", "prefetch-count:1")
	first := p.expectMessage("1")
	p.call("UNSUBSCRIBE", "id:a")
	// The same id again: its messages are others, although their tags are not.
	p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client-individual", "prefetch-count:1")
	second := p.expectMessage("2")
	if first.get("ack") == second.get("ack") {
		t.Fatalf("%v and %v", first, second)
	}
	p.call("ACK", first.ack())
	p.call("DISCONNECT")
	q := f.connect()
	q.call("SUBSCRIBE", "destination:/queue/a", "id:a")
	q.messages("2")
	q.ping()
}

// Of subscriptions that ended long ago the messages are given back.
func TestOldSubscriptionsGiveTheirMessagesBack(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.sendAll("/queue/a", "1")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:a", "ack:client")
	m := p.expectMessage("1")
	p.call("UNSUBSCRIBE", "id:a")
	for range formerMost {
		if f.ready("a") != 0 {
			t.Fatal("it was given back early")
		}
		p.call("SUBSCRIBE", "destination:/queue/b", "id:b", "ack:client")
		p.call("UNSUBSCRIBE", "id:b")
	}
	if n := f.ready("a"); n != 1 {
		t.Errorf("%d messages are there, want 1", n)
	}
	p.send("ACK", m.ack())
	p.expectError("Subscription not found")
}
