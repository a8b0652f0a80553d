package stompserver

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/memory"
)

// held is a journal that keeps what is durable to itself while it is told to, and
// fails when it is told to.
type held struct {
	*memory.Journal
	broken atomic.Bool

	mu      sync.Mutex // guards what follows
	holds   bool
	waiting []func()
	arrived chan struct{} // one slot: something waits
}

func newHeld() *held {
	return &held{Journal: memory.New(memory.Options{}), arrived: make(chan struct{}, 1)}
}

func (j *held) Append(b journal.Batch, done func(error)) {
	if j.broken.Load() {
		go done(errors.New("the disk is gone"))
		return
	}
	j.Journal.Append(b, func(err error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		if !j.holds {
			done(err)
			return
		}
		j.waiting = append(j.waiting, func() { done(err) })
		select {
		case j.arrived <- struct{}{}:
		default:
		}
	})
}

func (j *held) hold() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.holds = true
}

func (j *held) release() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.holds = false
	for _, f := range j.waiting {
		f()
	}
	j.waiting = nil
}

func heldFixture(t *testing.T) (*fixture, *held) {
	j := newHeld()
	f := newFixture(t, func(_ *Config, bc *broker.Config) { bc.Journal = j })
	t.Cleanup(j.release)
	return f, j
}

// The receipt of a persistent message comes when it is durable, and no receipt
// of others waits for it.
func TestReceiptFollowsTheCommit(t *testing.T) {
	f, j := heldFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/a") // the queue is durable
	j.hold()
	p.send("SEND", "destination:/queue/a", "persistent:true", "receipt:durable", "", "x")
	<-j.arrived
	p.send("SEND", "destination:/queue/a", "receipt:transient", "", "x")
	p.expectReceipt("transient")
	p.call("BEGIN", "transaction:t")
	j.release()
	p.expectReceipt("durable")
}

func TestReceiptOfCommitFollowsTheCommit(t *testing.T) {
	f, j := heldFixture(t)
	p, q := f.connect(), f.connect()
	p.call("SEND", "destination:/queue/a")
	p.call("BEGIN", "transaction:t")
	p.send("SEND", "destination:/queue/a", "persistent:true", "transaction:t", "receipt:sent", "", "x")
	p.ping()
	j.hold()
	p.send("COMMIT", "transaction:t", "receipt:committed")
	<-j.arrived
	q.ping() // others go on
	if len(p.buf) > 0 {
		t.Errorf("something came: %q", p.buf)
	}
	j.release()
	p.expectReceipt("sent")
	p.expectReceipt("committed")
}

// A SUBSCRIBE to a new queue is answered when the queue is durable.
func TestReceiptOfSubscribeFollowsTheQueue(t *testing.T) {
	f, j := heldFixture(t)
	p := f.connect()
	j.hold()
	p.send("SUBSCRIBE", "destination:/queue/new", "id:1", "receipt:subscribed")
	<-j.arrived
	j.release()
	p.expectReceipt("subscribed")
}

// The receipt of a DISCONNECT comes after those of everything before it, and
// nothing after it, not even messages.
func TestDisconnectWaitsForWhatWasSent(t *testing.T) {
	f, j := heldFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/a")
	j.hold()
	for i := range 5 {
		p.send("SEND", "destination:/queue/a", "persistent:true", "receipt:"+itoa(i), "", "x")
	}
	p.send("SEND", "destination:/queue/a", "persistent:true", "", "nobody asks")
	p.send("DISCONNECT", "receipt:bye")
	p.send("SEND", "destination:/queue/a", "", "what follows is ignored")
	<-j.arrived
	j.release()
	for i := range 5 {
		p.expectReceipt(itoa(i))
	}
	p.expectReceipt("bye")
	p.expectEnd()
	if n := f.ready("a"); n != 7 {
		t.Errorf("%d messages are there, want 7", n)
	}
}

// Who is gone is not waited for, nor is the journal where the server stops.
func TestShutdownReachesWhoWaitsForConfirms(t *testing.T) {
	f, j := heldFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/a")
	j.hold()
	p.send("SEND", "destination:/queue/a", "persistent:true", "receipt:1", "", "x")
	p.send("DISCONNECT", "receipt:bye")
	<-j.arrived
	done := make(chan error, 1)
	go func() { done <- f.server.Shutdown(t.Context(), "going home") }()
	p.expectError("connection_forced")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A client that has seen the receipt of DISCONNECT finds its exclusive queues
// gone and what it had not settled requeued.
func TestDisconnectGivesEverythingBack(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.sendAll("/queue/a", "1", "2", "3")
	p.call("SUBSCRIBE", "destination:/queue/a", "id:1", "ack:client")
	p.messages("1", "2", "3")
	p.call("SUBSCRIBE", "destination:/queue/mine", "id:2", "exclusive:true")
	p.call("DISCONNECT")
	if a, mine := f.ready("a"), f.ready("mine"); a != 3 || mine != -1 {
		t.Errorf("%d messages are back, %d are in the exclusive queue", a, mine)
	}
	p.expectEnd()
}

func TestDisconnectWithoutReceipt(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.send("SEND", "destination:/queue/a", "", "x")
	p.send("DISCONNECT")
	p.expectEnd()
	if n := f.ready("a"); n != 1 {
		t.Errorf("%d messages are there", n)
	}
}

func TestShutdownTellsWhy(t *testing.T) {
	f := newFixture(t)
	idle, busy, early := f.connect(), f.connect(), f.dial()
	early.write("CONNECT\n")
	busy.write("SEND\ndestination:/queue/a\ncontent-length:100000\n\na part")
	other := f.connect()
	other.ping()
	done := make(chan error, 1)
	go func() { done <- f.server.Shutdown(context.Background(), "going home") }()
	for _, p := range []*testPeer{idle, busy, other, early} {
		if e := p.expectError("connection_forced"); e.body != "CONNECTION_FORCED - going home" || e.has("receipt-id") {
			t.Errorf("got %v", e)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	late := f.dial()
	late.write("CONNECT\n")
	late.expectEnd()
}

func TestBrokerClosesSessions(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	f.broker.CloseSessions("broker forced connection closure with reason 'shutdown'")
	if e := p.expectError("connection_forced"); e.body != "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'" {
		t.Errorf("got %v", e)
	}
	q := f.dial()
	q.send("CONNECT", "login:guest", "passcode:guest")
	q.expectError("connection_forced")
}

func TestShutdownCutsWhoDoesNotLeave(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("patience is over")
	go func() {
		p.expect("ERROR")
		cancel(over)
	}()
	if err := f.server.Shutdown(ctx, "now"); !errors.Is(err, over) {
		t.Errorf("got %v", err)
	}
}

// When the journal fails nothing is known of what is pending: no receipt comes.
func TestFailedJournalIsAnError(t *testing.T) {
	f, j := heldFixture(t)
	f.fails = true
	idle, p, last, tx := f.connect(), f.connect(), f.connect(), f.connect()
	p.call("SEND", "destination:/queue/a")
	tx.call("BEGIN", "transaction:t")
	tx.send("SEND", "destination:/queue/a", "persistent:true", "transaction:t", "receipt:sent", "", "x")
	tx.ping()
	last.call("SEND", "destination:/queue/a")
	j.hold()
	last.send("SEND", "destination:/queue/a", "persistent:true", "receipt:last", "", "x")
	last.send("DISCONNECT", "receipt:bye")
	<-j.arrived
	j.broken.Store(true) // before there are as many batches under way as may be
	tx.send("COMMIT", "transaction:t", "receipt:committed")
	p.send("SEND", "destination:/queue/a", "persistent:true", "receipt:1", "", "x")
	for _, p := range []*testPeer{p, idle, last, tx} {
		if e := p.expectError("internal_error"); !strings.HasPrefix(e.body, "INTERNAL_ERROR - ") || e.has("receipt-id") {
			t.Errorf("got %v", e)
		}
	}
}

// Publishers that are blocked by an alarm are not read, and nothing is lost of
// what they sent; consumers go on.
func TestBlockedPublishersAreNotRead(t *testing.T) {
	var used atomic.Int64
	f := newFixture(t, func(_ *Config, bc *broker.Config) {
		bc.Alarms.Every = 1e6 // ns
		bc.Alarms.Memory = func() (int64, int64) { return used.Load(), 100 }
	})
	p, consumer := f.connect(), f.connect()
	consumer.call("SUBSCRIBE", "destination:/queue/a", "id:1", "ack:client")
	used.Store(101)
	for f.broker.Blocked() == "" {
		p.ping()
	}
	const n = 20
	body := strings.Repeat("x", 200_000)
	go func() {
		for range n { // more than a blocked connection may still publish
			p.send("SEND", "destination:/queue/a", "persistent:true", "content-length:200000", "", body)
		}
		p.send("DISCONNECT", "receipt:bye")
	}()
	m := consumer.expectMessage(body) // consumers drain
	consumer.call2("ACK", m.ack())
	used.Store(0)
	p.expectReceipt("bye")
}

// call2 is call while messages may come.
func (p *testPeer) call2(command string, lines ...string) {
	p.t.Helper()
	p.send(command, append([]string{"receipt:called"}, lines...)...)
	for p.receive().command != "RECEIPT" {
	}
}

func TestShutdownReachesBlockedPublishers(t *testing.T) {
	var used atomic.Int64
	f := newFixture(t, func(_ *Config, bc *broker.Config) {
		bc.Alarms.Every = 1e6 // ns
		bc.Alarms.Memory = func() (int64, int64) { return used.Load(), 100 }
	})
	p := f.connect()
	used.Store(101)
	for f.broker.Blocked() == "" {
		p.ping()
	}
	go func() {
		for range 64 {
			p.send("SEND", "destination:/queue/a", "content-length:200000", "", strings.Repeat("x", 200_000))
		}
	}()
	watcher := f.connect()
	for f.ready("a") < 6 { // it has used up what it may
		watcher.ping()
	}
	done := make(chan error, 1)
	go func() { done <- f.server.Shutdown(context.Background(), "going home") }()
	p.expectError("connection_forced")
	watcher.nc.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRefuse(t *testing.T) {
	f := newFixture(t, func(c *Config, _ *broker.Config) { c.Refuse = "STOMP is switched off" })
	p := f.dial()
	p.send("CONNECT", "login:x", "passcode:y")
	if e := p.expectError("not_implemented"); e.body != "NOT_IMPLEMENTED - STOMP is switched off" {
		t.Errorf("got %v", e)
	}
}
