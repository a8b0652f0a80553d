package stompserver

import "testing"

func TestTransactions(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.sendAll("/queue/in", "1", "2")
	p.call("SUBSCRIBE", "destination:/queue/in", "id:in", "ack:client-individual")
	in := p.messages("1", "2")
	p.call("BEGIN", "transaction:a")
	p.call("BEGIN", "transaction:b")
	p.send("SEND", "destination:/queue/out", "transaction:a", "receipt:sent a", "", "from a")
	p.send("SEND", "destination:/queue/out", "transaction:b", "receipt:sent b", "", "from b")
	p.call("ACK", in[0].ack(), "transaction:a")
	p.call("ACK", in[1].ack(), "transaction:b")
	// Nothing has happened, but the queue is there: RabbitMQ makes it too.
	if n := f.ready("out"); n != 0 {
		t.Errorf("%d messages are there", n)
	}
	p.send("ABORT", "transaction:b", "receipt:aborted")
	p.expectReceipt("sent b")
	p.expectReceipt("aborted")
	p.send("COMMIT", "transaction:a", "receipt:committed")
	p.expectReceipt("sent a")
	p.expectReceipt("committed")
	if n := f.ready("out"); n != 1 {
		t.Errorf("%d messages are there, want 1", n)
	}
	// What was acknowledged in the transaction that was aborted is not.
	p.call("ACK", in[1].ack())
	p.call("SUBSCRIBE", "destination:/queue/out", "id:out")
	p.messages("from a")
	p.call("DISCONNECT")
	if n := f.ready("in"); n != 0 {
		t.Errorf("%d messages are left", n)
	}
}

func TestOpenTransactionsAreRolledBack(t *testing.T) {
	for name, end := range map[string]func(*testPeer){
		"disconnected": func(p *testPeer) { p.call("DISCONNECT") },
		"cut":          func(p *testPeer) { p.nc.Close() },
		"by an error":  func(p *testPeer) { p.send("ACK"); p.expect("ERROR") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := f.connect()
			p.sendAll("/queue/in", "1")
			p.call("SUBSCRIBE", "destination:/queue/in", "id:in", "ack:client")
			m := p.expectMessage("1")
			p.call("BEGIN", "transaction:a")
			p.send("SEND", "destination:/queue/out", "transaction:a", "", "x")
			p.call("ACK", m.ack(), "transaction:a")
			end(p)
			q := f.connect()
			q.call("SUBSCRIBE", "destination:/queue/in", "id:in")
			if again := q.expectMessage("1"); again.get("redelivered") != "true" {
				t.Errorf("got %v", again)
			}
			if n := f.ready("out"); n != 0 {
				t.Errorf("%d messages were sent", n)
			}
		})
	}
}

// NACK within a transaction takes effect with it.
func TestNackInTransaction(t *testing.T) {
	p := newFixture(t).connect()
	p.sendAll("/queue/in", "1")
	p.call("SUBSCRIBE", "destination:/queue/in", "id:in", "ack:client")
	m := p.expectMessage("1")
	p.call("BEGIN", "transaction:a")
	p.call("NACK", m.ack(), "transaction:a")
	p.ping() // it does not come again yet
	p.send("COMMIT", "transaction:a")
	p.expectMessage("1")
}

// Large bodies are read to their place in a transaction too.
func TestLargeBodiesInTransaction(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("BEGIN", "transaction:a")
	for range 3 {
		body := string(make([]byte, 200_000))
		p.send("SEND", "destination:/queue/a", "transaction:a", "content-length:200000", "", body)
	}
	p.call("COMMIT", "transaction:a")
	if n := f.ready("a"); n != 3 {
		t.Errorf("%d messages are there", n)
	}
}

// A queue that was deleted behind the transaction's back takes nothing of it
// with a receipt.
func TestCommitToQueueThatIsGone(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("BEGIN", "transaction:a")
	p.send("SEND", "destination:/queue/a", "transaction:a", "receipt:s", "", "x")
	p.ping()
	if _, err := f.session().DeleteQueue("a", false, false); err != nil {
		t.Fatal(err)
	}
	p.send("COMMIT", "transaction:a", "receipt:c")
	p.expectError("no_route")
}

func TestTransactionsAreBounded(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	go func() {
		for i := range transactionsMost + 1 {
			p.send("BEGIN", "transaction:"+itoa(i))
		}
	}()
	p.expectError("not_allowed")

	all := &transactions{}
	a, b := &transaction{of: all}, &transaction{of: all}
	if err := a.take(transactionMost / 2); err != nil {
		t.Fatal(err)
	}
	if err := b.take(transactionMost / 2); err == nil {
		t.Error("more was taken than may be")
	}
}
