package broker

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

func text255(name, value string) []byte {
	b := append([]byte{byte(len(name))}, name...)
	b = append(b, 'S', 0, 0, 0, byte(len(value)))
	return append(b, value...)
}

func number(name string, n byte) []byte {
	return append(append([]byte{byte(len(name))}, name...), 'B', n)
}

func TestConsumersOfHigherPriorityComeFirst(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	c.ch.Qos(2, false)
	c.consume("q", "low", false)
	k, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "high", Args: number("x-priority", 5)})
	if err != nil {
		t.Fatal(err)
	}
	k.Start()
	for i := range 3 {
		c.publish("", "q", fmt.Sprint(i), false)
	}
	for _, want := range []string{"high", "high", "low"} {
		if e := c.next(EventDelivery); e.Consumer.Tag() != want {
			t.Errorf("%s went to %s, want %s", body(e), e.Consumer.Tag(), want)
		}
	}
}

func TestExclusiveConsumers(t *testing.T) {
	w := newWorld(t)
	c, d := w.client(), w.client()
	defer c.Close()
	defer d.Close()
	c.queue("q", false)
	if _, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "x", Exclusive: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ch.Consume(ConsumeSpec{Queue: "q", Tag: "y"}); kind(err) != AccessRefused {
		t.Errorf("beside an exclusive consumer: %v", err)
	}
	c.ch.Cancel("x")
	d.consume("q", "y", false)
	if _, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "x", Exclusive: true}); kind(err) != AccessRefused {
		t.Errorf("exclusive beside another: %v", err)
	}
}

func TestAutoDelete(t *testing.T) { eachJournal(t, testAutoDelete) }

func testAutoDelete(t *testing.T, on journals) {
	w := on.world(t)
	c, d := w.client(), w.client()
	defer d.Close()
	if _, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, AutoDelete: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.DeclareExchange(ExchangeSpec{Name: "x", Type: "fanout", Durable: true, AutoDelete: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.BindQueue("q", "x", "", nil); err != nil {
		t.Fatal(err)
	}
	d.ready("q", 0) // it stays until it had a consumer
	c.consume("q", "a", false)
	c.consume("q", "b", false)
	c.ch.Cancel("a")
	d.ready("q", 0)
	c.Close()
	if _, err := d.CheckQueue("q"); kind(err) != NotFound {
		t.Errorf("the queue after its last consumer: %v", err)
	}
	if err := d.CheckExchange("x"); kind(err) != NotFound {
		t.Errorf("the exchange after its last binding: %v", err)
	}
	d.queue("sync", true)
	d.Close()
	w.restart()
	d = w.client()
	if _, err := d.CheckQueue("q"); kind(err) != NotFound {
		t.Errorf("the queue after a restart: %v", err)
	}
	if err := d.CheckExchange("x"); kind(err) != NotFound {
		t.Errorf("the exchange after a restart: %v", err)
	}
}

func TestServerNamedQueues(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	a, err := c.DeclareQueue(QueueSpec{Exclusive: true})
	if err != nil || !strings.HasPrefix(a.Name, "amq.gen-") {
		t.Fatalf("%+v %v", a, err)
	}
	if b, err := c.DeclareQueue(QueueSpec{Exclusive: true}); err != nil || b.Name == a.Name {
		t.Errorf("the second is %q %v", b.Name, err)
	}
	if again, err := c.DeclareQueue(QueueSpec{Name: a.Name, Exclusive: true}); err != nil || again.Name != a.Name {
		t.Errorf("declared by its name: %+v %v", again, err)
	}
	if _, err := c.DeclareQueue(QueueSpec{Name: "amq.mine"}); kind(err) != AccessRefused {
		t.Errorf("a reserved name: %v", err)
	}
}

func TestDeclarationsAreCompared(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	ttl := number("x-message-ttl", 60)
	if _, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, Args: ttl}); err != nil {
		t.Fatal(err)
	}
	for name, spec := range map[string]QueueSpec{
		"durable":       {Name: "q", Args: ttl},
		"auto_delete":   {Name: "q", Durable: true, AutoDelete: true, Args: ttl},
		"x-message-ttl": {Name: "q", Durable: true},
		"value":         {Name: "q", Durable: true, Args: number("x-message-ttl", 61)},
	} {
		if _, err := c.DeclareQueue(spec); kind(err) != PreconditionFailed {
			t.Errorf("other %s: %v", name, err)
		}
	}
	if _, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, Args: ttl}); err != nil {
		t.Errorf("the same: %v", err)
	}
	if err := c.DeclareExchange(ExchangeSpec{Name: "amq.topic", Type: "direct", Durable: true}); kind(err) != PreconditionFailed {
		t.Errorf("another type: %v", err)
	}
	if err := c.DeclareExchange(ExchangeSpec{Name: "amq.topic", Type: "topic", Durable: true}); err != nil {
		t.Errorf("the same exchange: %v", err)
	}
}

func TestDeletedQueueCancelsItsConsumers(t *testing.T) {
	w := newWorld(t)
	c, d := w.client(), w.client()
	defer c.Close()
	defer d.Close()
	c.queue("q", true)
	c.publish("", "q", "held", true)
	c.consume("q", "t", false)
	e := c.expect("held", false)
	if _, err := d.DeleteQueue("q", true, false); kind(err) != PreconditionFailed {
		t.Errorf("if unused: %v", err)
	}
	if _, err := d.DeleteQueue("q", false, false); err != nil {
		t.Fatal(err)
	}
	if x := c.next(EventCancelled); x.Consumer.Tag() != "t" {
		t.Errorf("cancelled %s", x.Consumer.Tag())
	}
	if err := c.ch.Ack(e.Tag, false); err != nil {
		t.Errorf("ack of a message of a deleted queue: %v", err)
	}
	c.queue("q", true)
	c.consume("q", "t", false) // the tag is free again
	w.drained()
}

func TestSharedPrefetch(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	c.ch.Qos(3, true)
	c.consume("q", "a", false)
	c.consume("q", "b", false)
	for i := range 5 {
		c.publish("", "q", fmt.Sprint(i), false)
	}
	for i := range 3 {
		c.expect(fmt.Sprint(i), false)
	}
	c.none(EventDelivery)
	if err := c.ch.Ack(1, false); err != nil {
		t.Fatal(err)
	}
	c.expect("3", false)
	c.none(EventDelivery)
	c.ch.Qos(0, true)
	c.expect("4", false)
}

func TestRecoverGivesBackAll(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	c.consume("q", "t", false)
	c.publish("", "q", "a", false)
	c.publish("", "q", "b", false)
	c.expect("a", false)
	c.expect("b", false)
	if err := c.ch.Recover(false); kind(err) != NotImplemented {
		t.Errorf("without requeue: %v", err)
	}
	if err := c.ch.Recover(true); err != nil {
		t.Fatal(err)
	}
	c.expect("a", true)
	if e := c.expect("b", true); e.Tag != 4 {
		t.Errorf("tag %d", e.Tag)
	}
	if err := c.ch.Ack(2, false); kind(err) != PreconditionFailed {
		t.Errorf("ack of what was given back: %v", err)
	}
	if err := c.ch.Nack(4, true, false); err != nil {
		t.Fatal(err)
	}
	c.ready("q", 0)
	w.drained()
}

// TestConfirmsComeOnce: several at a time, single ones out of their order, and
// nothing twice.
func TestConfirmsComeOnce(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	_ = c.ch.ConfirmSelect()
	c.ch.published = 10
	told := func(want ...Event) {
		t.Helper()
		var got []Event
		for _, e := range c.Take(nil) {
			got = append(got, Event{Kind: e.Kind, Tag: e.Tag, Multiple: e.Multiple})
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("told %v, want %v", got, want)
		}
	}
	confirm := func(from, to uint64) { c.ch.confirmNow(from, to) }
	confirm(1, 1)
	told(Event{Kind: EventConfirm, Tag: 1})
	confirm(4, 5)
	told(Event{Kind: EventConfirm, Tag: 4}, Event{Kind: EventConfirm, Tag: 5})
	confirm(3, 3)
	confirm(2, 2)
	told(Event{Kind: EventConfirm, Tag: 5, Multiple: true})
	confirm(6, 10)
	told(Event{Kind: EventConfirm, Tag: 10, Multiple: true})
	told()
}

// TestConsumerThatDoesNotRead gets nothing more, and others go on.
func TestConsumerThatDoesNotRead(t *testing.T) {
	w := newWorld(t)
	c, stuck, other := w.client(), w.client(), w.client()
	defer c.Close()
	defer stuck.Close()
	defer other.Close()
	c.queue("q", false)
	stuck.consume("q", "s", true)
	pad := strings.Repeat("x", 100<<10)
	for range 15 {
		c.publish("", "q", pad, false)
	}
	events := stuck.Take(nil)
	if n := len(events); n < 10 || n > 12 {
		t.Fatalf("%d messages of 100 KiB wait for a consumer that does not read", n)
	}
	other.consume("q", "o", true)
	for range 15 - len(events) {
		other.next(EventDelivery)
	}
	c.publish("", "q", "more", false)
	other.expect("more", false)
	other.ch.Cancel("o")
	c.publish("", "q", "for the stuck one", false)
	stuck.none(EventDelivery)
	stuck.Flushed(events)
	stuck.expect("for the stuck one", false)
}

// TestClosedChannelLetsOthersGoOn: what a channel leaves behind in the outbox
// when it closes no longer stands in the way of the connection's others.
func TestClosedChannelLetsOthersGoOn(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("big", false)
	c.queue("small", false)
	second := c.OpenChannel(2)
	k, err := second.Consume(ConsumeSpec{Queue: "big", Tag: "b"})
	if err != nil {
		t.Fatal(err)
	}
	for range 15 {
		c.publish("", "big", strings.Repeat("x", 100<<10), false)
	}
	k.Start()
	c.consume("small", "s", true)
	c.publish("", "small", "y", false)
	second.Close()
	c.expect("y", false)
	c.ready("big", 15)
}

func TestRoutes(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	for _, q := range []string{"a", "b", "c"} {
		c.queue(q, true)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.DeclareExchange(ExchangeSpec{Name: "in", Type: "fanout", Internal: true}))
	must(c.BindQueue("a", "amq.topic", "k.#", nil))
	must(c.BindQueue("b", "amq.topic", "k.*", nil))
	must(c.BindQueue("c", "amq.headers", "", text255("h", "1")))
	// A cycle, and two ways to the same queue.
	must(c.BindExchange("in", "amq.topic", "k.x", nil))
	must(c.BindExchange("amq.topic", "in", "", nil))
	must(c.BindQueue("a", "in", "", nil))
	headers := func(list []byte) []byte { return message.AppendField(nil, message.Headers, list) }
	cc := append([]byte("\x02CCA\x00\x00\x00\x06S\x00\x00\x00\x01b"), "\x03BCCA\x00\x00\x00\x06S\x00\x00\x00\x01c"...)
	for _, x := range []struct {
		exchange, key string
		props         []byte
		want          string
	}{
		{"", "a", nil, "a"},
		{"", "a", headers(cc), "abc"},
		{"", "nowhere", headers(cc), "bc"},
		{"amq.topic", "k", nil, "a"},
		{"amq.topic", "k.x", nil, "ab"},
		{"amq.topic", "k.x.y", nil, "a"},
		{"amq.topic", "other", nil, ""},
		{"amq.headers", "", headers(text255("h", "1")), "c"},
		{"amq.headers", "", headers(text255("h", "2")), ""},
		{"amq.headers", "", nil, ""},
	} {
		must(c.ch.Publish(&Publish{Exchange: []byte(x.exchange), Key: []byte(x.key), Properties: x.props}))
		c.Flush()
		got := ""
		for _, q := range []string{"a", "b", "c"} {
			n, err := c.PurgeQueue(q)
			must(err)
			got += strings.Repeat(q, n)
		}
		if got != x.want {
			t.Errorf("%s %s %q: to %q, want %q", x.exchange, x.key, x.props, got, x.want)
		}
	}
	if err := c.ch.Publish(&Publish{Exchange: []byte("in")}); kind(err) != AccessRefused {
		t.Errorf("to an internal exchange: %v", err)
	}
	if err := c.ch.Publish(&Publish{Exchange: []byte("none")}); kind(err) != NotFound {
		t.Errorf("to no exchange: %v", err)
	}
	// Names that run together the same way.
	must(c.DeclareExchange(ExchangeSpec{Name: "x\x00y", Type: "direct"}))
	must(c.DeclareExchange(ExchangeSpec{Name: "x", Type: "direct"}))
	must(c.BindQueue("a", "x\x00y", "z", nil))
	c.publish("x\x00y", "z", "1", false)
	c.publish("x", "y\x00z", "2", false)
	c.ready("a", 1)
	c.empty()
	w.drained()
}

func TestDirectReplyToErrors(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	props := message.AppendFieldString(nil, message.ReplyTo, ReplyTo)
	if err := c.ch.Publish(&Publish{Key: []byte("q"), Properties: props}); kind(err) != PreconditionFailed {
		t.Errorf("without a consumer: %v", err)
	}
	if _, err := c.ch.Consume(ConsumeSpec{Queue: ReplyTo, Tag: "r"}); kind(err) != PreconditionFailed {
		t.Errorf("with acknowledgement: %v", err)
	}
	c.consume(ReplyTo, "r", true)
	if _, err := c.ch.Consume(ConsumeSpec{Queue: ReplyTo, Tag: "r2", NoAck: true}); kind(err) != PreconditionFailed {
		t.Errorf("a second one: %v", err)
	}
	name := c.ch.replies.token
	if _, err := c.CheckQueue(name); err != nil {
		t.Errorf("the name made up: %v", err)
	}
	c.ch.Cancel("r")
	if _, err := c.CheckQueue(name); kind(err) != NotFound {
		t.Errorf("the name after the end: %v", err)
	}
	d := w.client()
	defer d.Close()
	if err := d.ch.Publish(&Publish{Key: []byte(name), Mandatory: true, Body: []byte("late")}); err != nil {
		t.Fatal(err)
	}
	d.Flush()
	d.next(EventReturn)
	w.drained()
}

func TestAlarmsHaveHysteresis(t *testing.T) {
	var memory, disk, limit atomic.Int64
	looked := make(chan struct{})
	var once sync.Once
	w := newWorld(t, func(c *Config) {
		c.Alarms.Every = time.Hour
		c.Alarms.Memory = func() (int64, int64) { return memory.Load(), limit.Load() }
		c.Alarms.Disk = func() (int64, int64) {
			free, least := disk.Load(), limit.Load()
			once.Do(func() { close(looked) })
			return free, least
		}
	})
	<-looked // and, as there were no limits, the loop will not look again
	limit.Store(100)
	for _, x := range []struct {
		memory, disk int64
		want         string
	}{
		{100, 1000, ""},
		{101, 1000, "low on memory"},
		{91, 1000, "low on memory"},
		{91, 99, "low on memory & disk"},
		{90, 99, "low on disk"},
		{90, 109, "low on disk"},
		{100, 110, ""},
	} {
		memory.Store(x.memory)
		disk.Store(x.disk)
		w.b.checkAlarms()
		if got := w.b.Blocked(); got != x.want {
			t.Errorf("memory %d, disk %d: %q, want %q", x.memory, x.disk, got, x.want)
		}
	}
}

func TestManyQueuesComeBack(t *testing.T) { eachJournal(t, testManyQueuesComeBack) }

func testManyQueuesComeBack(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client()
	n := on.some(10000, 1000)
	for i := range n {
		c.v.mu.Lock()
		q := c.v.addQueue(w.b.nextQueue.Add(1), QueueSpec{Name: fmt.Sprint("q", i), Durable: true})
		w.b.log.write(recQueue, q.record())
		c.v.mu.Unlock()
		if err := c.ch.Publish(&Publish{Key: []byte(q.name), Persistent: true, Body: []byte(q.name)}); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	w.restart()
	c = w.client()
	defer c.Close()
	for i := range n {
		name := fmt.Sprint("q", i)
		if found, err := c.ch.Get(name, false); !found || err != nil || body(c.next(EventGot)) != name {
			t.Fatalf("%s: %v %v", name, found, err)
		}
	}
	w.drainedBy(c)
}

// TestTransactionSettlesOnlyTogether: what it settles is back if its batch is
// not, also if that had not been written before.
func TestTransactionSettlesOnlyTogether(t *testing.T) {
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(noBallast{mem})
	w := &world{t: t, fs: mem, wrap: func(*vfs.Mem) vfs.FS { return faulty }}
	w.start()
	c := w.client()
	c.queue("q", true)
	_ = c.ch.ConfirmSelect()
	// The journal stands still while these are published and settled.
	reached, release := make(chan struct{}), make(chan struct{})
	first := true
	faulty.SetHook(func(x vfs.Call) error {
		if x.Op == vfs.OpSync && first {
			first = false
			close(reached)
			<-release
		}
		return nil
	})
	c.publish("", "q", "blocks the journal", true)
	<-reached
	for range maxInFlight - 1 {
		c.publish("", "q", "and its slots", true)
		eventually(t, func() bool {
			w.b.log.mu.Lock()
			defer w.b.log.mu.Unlock()
			return len(w.b.log.recs) == 0
		})
	}
	c.publish("", "q", "pending", true)
	tx := w.client()
	if err := tx.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	for range maxInFlight + 1 {
		if found, err := tx.ch.Get("q", false); !found || err != nil {
			t.Fatal(found, err)
		}
	}
	if err := tx.ch.Ack(0, true); err != nil {
		t.Fatal(err)
	}
	tx.publish("", "q", "instead", true)
	done := make(chan error)
	go func() { done <- tx.ch.TxCommit() }()
	eventually(t, func() bool {
		w.b.log.mu.Lock()
		defer w.b.log.mu.Unlock()
		return len(w.b.log.recs) > 2
	})
	w.b.log.mu.Lock()
	kept := w.b.log.recs[0].m
	w.b.log.mu.Unlock()
	if kept == nil {
		t.Error("the publish of what a transaction settled will not be written")
	}
	c.none(EventConfirm)
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.Close()
	tx.Close()
	w.stop()
	w = &world{t: t, fs: mem}
	w.start()
	defer w.stop()
	c = w.client()
	defer c.Close()
	c.ready("q", 1)
	c.empty()
	w.drained()
}

// TestTransactionStaysInItsSegment: what follows a transaction is not lost when
// the messages of its end are dropped before those of its beginning.
func TestTransactionStaysInItsSegment(t *testing.T) { eachJournal(t, testTransactionStaysInItsSegment) }

func testTransactionStaysInItsSegment(t *testing.T, on journals) {
	w := on.world(t, tiny)
	c := w.client()
	c.queue("stays", true)
	c.queue("goes", true)
	if err := c.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	c.publish("", "stays", "x", true)
	for range 20 {
		c.publish("", "goes", strings.Repeat("y", 500), true)
	}
	if err := c.ch.TxCommit(); err != nil {
		t.Fatal(err)
	}
	begin := map[uint64]bool{}
	for _, s := range segments(t, w.j) {
		err := w.j.Replay(t.Context(), s.First, s.Last, false, batchKinds(func(kind string) {
			if kind == "transaction-begin" || kind == "transaction-end" {
				begin[s.Segment] = true
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(begin) != 1 {
		t.Errorf("its marks are in %d segments", len(begin))
	}
	c.Close()
}

// TestClosedChannelGivesBackItsTransaction: what was settled and not committed.
func TestClosedChannelGivesBackItsTransaction(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	c.publish("", "q", "x", true)
	tx := c.OpenChannel(2)
	if err := tx.TxSelect(); err != nil {
		t.Fatal(err)
	}
	if found, err := tx.Get("q", false); !found || err != nil {
		t.Fatal(found, err)
	}
	c.next(EventGot)
	if err := tx.Ack(1, false); err != nil {
		t.Fatal(err)
	}
	if err := tx.Publish(&Publish{Key: []byte("q"), Body: []byte("y")}); err != nil {
		t.Fatal(err)
	}
	tx.Close()
	c.ready("q", 1)
	c.consume("q", "t", true)
	c.expect("x", true)
	if c.unacked != 0 {
		t.Errorf("%d deliveries are counted as unsettled", c.unacked)
	}
	w.drained()
}

// TestDurableAndTransientQueuesShareMessages: the journal lets go of a message
// that its durable queue has settled, and the other queue still has it.
func TestDurableAndTransientQueuesShareMessages(t *testing.T) {
	scratch, err := file.Open(vfs.NewMem(), "scratch", file.Options{NoSync: true, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	w := newWorld(t, tiny, func(c *Config) { c.Scratch = scratch })
	c := w.client()
	defer c.Close()
	_ = c.ch.ConfirmSelect()
	c.queue("durable", true)
	c.queue("transient", false)
	for _, q := range []string{"durable", "transient"} {
		if err := c.BindQueue(q, "amq.fanout", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	const n = 200
	for i := range n {
		c.publish("amq.fanout", "", noteText(i, 300), true)
	}
	for c.told() < n {
		c.next(EventConfirm)
	}
	eventually(t, func() bool {
		w.b.evict.poke()
		return w.b.evict.hot.Load() < 10<<10
	})
	if _, err := c.PurgeQueue("durable"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(segments(t, w.j)) < 4 })
	c.consume("transient", "t", true)
	for i := range n {
		c.expect(noteText(i, 300), false)
	}
	w.drained()
}

// TestBacklogsOutgrowMemory: a queue without consumers slows nobody, and all
// comes back in order, of what is persistent and of what is not.
func TestBacklogsOutgrowMemory(t *testing.T) {
	for _, persistent := range []bool{true, false} {
		t.Run(fmt.Sprint("persistent ", persistent), func(t *testing.T) {
			scratch, err := file.Open(vfs.NewMem(), "scratch", file.Options{NoSync: true, Logger: discard})
			if err != nil {
				t.Fatal(err)
			}
			defer scratch.Close()
			w := newWorld(t, func(c *Config) {
				c.Scratch, c.HotBytes, c.SegmentBytes = scratch, 64<<10, 256<<10
			})
			c := w.client()
			defer c.Close()
			c.queue("q", true)
			const n = 3000
			for i := range n {
				c.publish("", "q", noteText(i, 1000), persistent)
				c.Throttle()
				if i%100 == 0 {
					eventually(t, func() bool {
						w.b.evict.poke()
						return w.b.evict.hot.Load() <= 256<<10
					})
				}
			}
			c.consume("q", "t", false)
			for i := range n {
				e := c.expect(noteText(i, 1000), false)
				if err := c.ch.Ack(e.Tag, false); err != nil {
					t.Fatal(err)
				}
			}
			w.drained()
			if !persistent {
				eventually(t, func() bool { return len(segments(t, scratch)) <= 1 })
			}
		})
	}
}

// TestOwnDeliveriesAreNoReasonToStall: who publishes and acknowledges on one
// connection is not held, however far behind the consumers of its queue are.
func TestOwnDeliveriesAreNoReasonToStall(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	c.ch.Qos(1, false)
	c.consume("q", "t", false)
	for range pressureHigh + 10 {
		if err := c.ch.Publish(&Publish{Key: []byte("q")}); err != nil {
			t.Fatal(err)
		}
	}
	c.Flush()
	if c.pub.pressure == nil {
		t.Fatal("the queue is not over its limit")
	}
	q := c.pub.pressure
	c.Throttle()
	if q.drained != nil {
		t.Error("it was held")
	}
	c.empty()
	w.drainedBy(c)
}

// drainedBy is drained, when c has settled what it holds.
func (w *world) drainedBy(c *client) {
	w.t.Helper()
	if err := c.ch.Ack(0, true); err != nil {
		w.t.Fatal(err)
	}
	w.drained()
}

// TestCloseLeavesNothingBehind: no goroutine of a broker outlives it.
func TestCloseLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	w := &world{t: t, fs: vfs.NewMem()}
	w.start(tiny)
	c := w.client()
	c.queue("q", true)
	for i := range 100 {
		c.publish("", "q", noteText(i, 200), true)
	}
	c.consume("q", "t", false)
	c.expect(noteText(0, 200), false)
	c.Close()
	w.stop()
	eventually(t, func() bool { return runtime.NumGoroutine() <= before })
}

// segments are those of a journal that have not been dropped.
func segments(t testing.TB, j journal.Journal) []journal.SegmentInfo {
	t.Helper()
	s, err := j.Segments(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
