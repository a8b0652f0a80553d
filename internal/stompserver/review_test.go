package stompserver

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
)

// Line ends that are cut in two between frames are still heart-beats: nothing of
// them is kept.
func TestHeartBeatsInPiecesAreDiscarded(t *testing.T) {
	f := newFixture(t, func(_ *Config, c *broker.Config) { c.MaxMessage = 1 << 10 })
	p := f.connect()
	p.write(text("BEGIN", "transaction:t", "receipt:1") + "\r")
	p.expectReceipt("1") // it was handled, and the CR with it
	p.write("\n")
	p.write(strings.Repeat("\n", 1<<20))
	p.ping()
}

// A DISCONNECT that waits for the receipts of what was before it is not at fault for
// what that meets.
func TestDisconnectIsNotBlamedForOthers(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/a", "", "1")
	if _, err := f.session().DeleteQueue("a", false, false); err != nil {
		t.Fatal(err)
	}
	p.write(text("SEND", "destination:/queue/a", "persistent:true", "", "2") + text("DISCONNECT", "receipt:3"))
	if e := p.expectError("no_route"); e.has("receipt-id") {
		t.Errorf("got %v", e)
	}
}

// A queue that went with its last consumer is made again when it is used again.
func TestAutoDeletedQueuesAreMadeAgain(t *testing.T) {
	for _, by := range []string{"SUBSCRIBE", "SEND"} {
		t.Run(by, func(t *testing.T) {
			f := newFixture(t)
			p := f.connect()
			p.call("SEND", "destination:/queue/a", "auto-delete:true", "", "1")
			p.call("SUBSCRIBE", "destination:/queue/a", "id:1", "auto-delete:true")
			p.expectMessage("1")
			p.call("UNSUBSCRIBE", "id:1")
			if n := f.ready("a"); n != -1 {
				t.Fatalf("it is there, with %d messages", n)
			}
			p.call(by, "destination:/queue/a", "id:1", "auto-delete:true")
			if n := f.ready("a"); n == -1 {
				t.Error("it is not there")
			}
		})
	}
	t.Run("not while others consume", func(t *testing.T) {
		f := newFixture(t)
		p, q := f.connect(), f.connect()
		p.call("SUBSCRIBE", "destination:/queue/a", "id:1", "auto-delete:true")
		q.call("SUBSCRIBE", "destination:/queue/a", "id:1", "auto-delete:true")
		p.call("UNSUBSCRIBE", "id:1")
		p.call("SEND", "destination:/queue/a", "", "1") // which says nothing of auto-delete
		q.expectMessage("1")
	})
	t.Run("deleted by its subscriber", func(t *testing.T) {
		f := newFixture(t)
		p := f.connect()
		p.call("SUBSCRIBE", "destination:/topic/t", "id:1", "durable:true", "auto-delete:false", "x-queue-name:a")
		p.send("SEND", "destination:/queue/a", "", "1")
		p.expectMessage("1")
		p.call("UNSUBSCRIBE", "id:1", "durable:true")
		p.call("SEND", "destination:/queue/a", "", "2")
		if n := f.ready("a"); n != 1 {
			t.Errorf("%d messages are there", n)
		}
	})
	t.Run("deleted by somebody", func(t *testing.T) {
		f := newFixture(t)
		p := f.connect()
		p.call("SEND", "destination:/queue/a", "", "1")
		if _, err := f.session().DeleteQueue("a", false, false); err != nil {
			t.Fatal(err)
		}
		p.call("SUBSCRIBE", "destination:/queue/a", "id:1")
	})
}

// A transaction whose message has nowhere to go is not carried out in part.
func TestCommitsForQueuesThatAreGoneDoNothing(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/in", "", "1")
	p.call("SUBSCRIBE", "destination:/queue/in", "id:in", "ack:client")
	m := p.expectMessage("1")
	p.call("BEGIN", "transaction:t")
	p.send("SEND", "destination:/queue/out", "transaction:t", "", "from 1")
	p.send("SEND", "destination:/queue/other", "transaction:t", "", "from 1")
	p.call("ACK", m.ack(), "transaction:t")
	if _, err := f.session().DeleteQueue("out", false, false); err != nil {
		t.Fatal(err)
	}
	p.send("COMMIT", "transaction:t", "receipt:commit")
	if e := p.expectError("no_route"); e.get("receipt-id") != "commit" {
		t.Errorf("got %v", e)
	}
	if in, other := f.ready("in"), f.ready("other"); in != 1 || other != 0 {
		t.Errorf("%d and %d messages are there, want 1 and none", in, other)
	}
}

func TestLongIDsOfSubscriptionsAreRefused(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SUBSCRIBE", "destination:/queue/a", "id:"+strings.Repeat("x", idMost))
	p.send("SUBSCRIBE", "destination:/queue/a", "id:"+strings.Repeat("x", idMost+1))
	p.expectError(invalidID)
}

// What the receipts of a burst took is given back when the last of them is written,
// although the peer was idle before that.
func TestReceiptsOfABurstAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith("0,0")
		var burst strings.Builder
		const n = 2000
		for i := range n {
			burst.WriteString(text("SEND", "destination:/topic/nobody", "persistent:true", fmt.Sprintf("receipt:receipt %d", i)))
		}
		go p.write(burst.String())
		for range n {
			p.expect("RECEIPT")
		}
		synctest.Wait() // for the writer, which finds that there is nothing more
		p.server.mu.Lock()
		defer p.server.mu.Unlock()
		for c := range p.server.conns {
			c.receipts.mu.Lock()
			if kept := cap(c.receipts.text) + len(c.receipts.ring)*receiptCost; kept > keepMax {
				t.Errorf("%d bytes are kept", kept)
			}
			c.receipts.mu.Unlock()
		}
		p.nc.Close()
	})
}

// The writer is told that a subscription has lost its queue even before it is told of
// the subscription.
func TestCancelledBeforeItIsKnown(t *testing.T) {
	f := newFixture(t)
	s := f.session()
	if _, err := s.DeclareQueue(broker.QueueSpec{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"T_1": "1", "Q_/queue/a": "/queue/a"} {
		c, err := s.OpenChannel(1).Consume(broker.ConsumeSpec{Queue: "a", Tag: key})
		if err != nil {
			t.Fatal(err)
		}
		w := writer{conn: &conn{}}
		if got := w.cancelled(&broker.Event{Consumer: c}); got == nil || got.subscription != want {
			t.Errorf("%s: got %v", key, got)
		}
	}
}

// Whoever is not read because it does not take its receipts cannot show that it is
// alive by what it sends, and is given as long for it as one that is silent.
func TestWhoTakesNoReceiptsIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.loginWith("10000,10000")
		_ = p.nc.SetDeadline(time.Now().Add(time.Hour))
		start := time.Now()
		send := text("SEND", "destination:/topic/nobody", "persistent:true", "receipt:"+strings.Repeat("x", 10_000))
		var err error
		for err == nil {
			_, err = io.WriteString(p.nc, send)
		}
		if after := time.Since(start); after < 20*time.Second || after > 2*time.Minute {
			t.Errorf("it ended after %v: %v", after, err)
		}
	})
}
