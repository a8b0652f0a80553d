package broker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

// world is a broker over a journal that outlives restarts: a file journal in
// memory, or what open opens.
type world struct {
	t    testing.TB
	fs   *vfs.Mem
	open func() (journal.Journal, error)
	j    journal.Journal
	b    *Broker

	wrap func(*vfs.Mem) vfs.FS // what the file journal gets for fs, nil: fs
}

var discard = slog.New(slog.DiscardHandler)

func (w *world) fsys() vfs.FS {
	if w.wrap == nil {
		return w.fs
	}
	return w.wrap(w.fs)
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	return onFiles.world(t, change...)
}

func (w *world) openJournal() (journal.Journal, error) {
	if w.open != nil {
		return w.open()
	}
	return file.Open(w.fsys(), "data", file.Options{Logger: discard})
}

func (w *world) start(change ...func(*Config)) {
	w.t.Helper()
	j, err := w.openJournal()
	if err != nil {
		w.t.Fatalf("open the journal: %v", err)
	}
	w.j = j
	cfg := Config{Journal: j}
	for _, f := range change {
		f(&cfg)
	}
	b, err := Open(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatalf("open the broker: %v", err)
	}
	w.b = b
}

// restart closes the broker and opens another on the same journal.
func (w *world) restart(change ...func(*Config)) {
	w.t.Helper()
	w.stop()
	w.start(change...)
}

func (w *world) stop() {
	if err := w.b.Close(context.Background()); err != nil {
		w.t.Errorf("close the broker: %v: %v", err, w.b.Cause())
	}
	if err := w.j.Close(); err != nil {
		w.t.Errorf("close the journal: %v", err)
	}
}

// client is a session with a writer that keeps what it is told.
type client struct {
	t testing.TB
	*Session
	ch  *Channel
	got []Event // not yet asked for
}

func (w *world) client() *client {
	w.t.Helper()
	s, err := w.b.OpenSession(SessionConfig{VHost: "/", User: "guest", NotifyBlocked: true, NotifyCancelled: true})
	if err != nil {
		w.t.Fatalf("open a session: %v", err)
	}
	return &client{t: w.t, Session: s, ch: s.OpenChannel(1)}
}

// next waits for the next event of a kind; others before it are kept.
func (c *client) next(kind EventKind) Event {
	c.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		for i, e := range c.got {
			if e.Kind == kind {
				c.got = append(c.got[:i], c.got[i+1:]...)
				return e
			}
		}
		taken := c.Take(nil)
		c.Flushed(taken)
		c.got = append(c.got, taken...)
		if len(taken) > 0 {
			continue
		}
		select {
		case <-c.Wake():
		case <-deadline.C:
			c.t.Fatalf("no event of kind %d; there are %+v", kind, c.got)
		}
	}
}

// none fails if an event of a kind is there now.
func (c *client) none(kind EventKind) {
	c.t.Helper()
	taken := c.Take(nil)
	c.Flushed(taken)
	c.got = append(c.got, taken...)
	for _, e := range c.got {
		if e.Kind == kind {
			c.t.Fatalf("unexpected event %+v %s", e, body(e))
		}
	}
}

func body(e Event) string {
	v, err := message.Parse(e.Data)
	if err != nil {
		return ""
	}
	return string(v.Body)
}

func (c *client) queue(name string, durable bool) {
	c.t.Helper()
	if _, err := c.DeclareQueue(QueueSpec{Name: name, Durable: durable}); err != nil {
		c.t.Fatalf("declare %s: %v", name, err)
	}
}

func (c *client) publish(exchange, key, text string, persistent bool) {
	c.t.Helper()
	err := c.ch.Publish(&Publish{Exchange: []byte(exchange), Key: []byte(key), Persistent: persistent, Body: []byte(text)})
	if err != nil {
		c.t.Fatalf("publish: %v", err)
	}
	c.Flush()
}

func (c *client) consume(queue, tag string, noAck bool) *Consumer {
	c.t.Helper()
	k, err := c.ch.Consume(ConsumeSpec{Queue: queue, Tag: tag, NoAck: noAck})
	if err != nil {
		c.t.Fatalf("consume: %v", err)
	}
	k.Start()
	return k
}

func (c *client) expect(text string, redelivered bool) Event {
	c.t.Helper()
	e := c.next(EventDelivery)
	if body(e) != text || e.Redelivered != redelivered {
		c.t.Fatalf("got %q redelivered=%v, want %q %v", body(e), e.Redelivered, text, redelivered)
	}
	return e
}

func (c *client) ready(queue string, want int) {
	c.t.Helper()
	info, err := c.CheckQueue(queue)
	if err != nil || info.Messages != want {
		c.t.Fatalf("queue %s has %d ready (%v), want %d", queue, info.Messages, err, want)
	}
}

func TestPublishIsDeliveredAndAcked(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	c.publish("", "q", "a", true)
	c.publish("", "q", "b", false)
	c.consume("q", "t", false)
	a, b := c.expect("a", false), c.expect("b", false)
	if a.Tag != 1 || b.Tag != 2 {
		t.Fatalf("tags %d %d", a.Tag, b.Tag)
	}
	if err := c.ch.Ack(2, true); err != nil {
		t.Fatal(err)
	}
	if err := c.ch.Ack(2, false); err == nil {
		t.Fatal("a second ack of the same tag was accepted")
	}
	c.ready("q", 0)
}

func TestConfirmedMessagesSurviveARestart(t *testing.T) {
	eachJournal(t, testConfirmedMessagesSurviveARestart)
}

func testConfirmedMessagesSurviveARestart(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client()
	c.queue("q", true)
	if err := c.DeclareExchange(ExchangeSpec{Name: "x", Type: "topic", Durable: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.BindQueue("q", "x", "a.*", nil); err != nil {
		t.Fatal(err)
	}
	if err := c.ch.ConfirmSelect(); err != nil {
		t.Fatal(err)
	}
	const n = 1000
	for i := range n {
		c.publish("x", "a.b", fmt.Sprint(i), true)
	}
	for c.next(EventConfirm).Tag < n {
	}
	k, err := c.ch.Consume(ConsumeSpec{Queue: "q", Tag: "t"})
	if err != nil {
		t.Fatal(err)
	}
	c.ch.Qos(0, false)
	k.Start()
	for i := range 300 {
		c.expect(fmt.Sprint(i), false)
	}
	if err := c.ch.Ack(200, true); err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.restart()
	c = w.client()
	c.ready("q", n-200)
	c.consume("q", "t", false)
	for i := 200; i < n; i++ {
		c.expect(fmt.Sprint(i), true)
	}
	c.publish("x", "a.c", "new", true)
	c.expect("new", false)
	c.Close()
}

func TestRequeueKeepsThePlace(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	for i := range 10 {
		c.publish("", "q", fmt.Sprint(i), false)
	}
	c.ch.Qos(4, false)
	c.consume("q", "t", false)
	for i := range 4 {
		c.expect(fmt.Sprint(i), false)
	}
	c.ch.Cancel("t")
	if err := c.ch.Nack(3, true, true); err != nil {
		t.Fatal(err)
	}
	d := w.client()
	defer d.Close()
	d.consume("q", "u", false)
	for _, want := range []string{"0", "1", "2"} {
		d.expect(want, true)
	}
	for i := 4; i < 10; i++ {
		d.expect(fmt.Sprint(i), false)
	}
	c.ch.Close()
	d.expect("3", true)
}

func TestRoundRobinAmongThoseWithCredit(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	c.ch.Qos(2, false)
	c.consume("q", "a", false)
	c.consume("q", "b", false)
	counts := map[string]int{}
	for range 6 {
		c.publish("", "q", "x", false)
	}
	for range 4 {
		counts[c.next(EventDelivery).Consumer.Tag()]++
	}
	c.none(EventDelivery)
	if counts["a"] != 2 || counts["b"] != 2 {
		t.Fatalf("deliveries %v, want two each", counts)
	}
	if err := c.ch.Ack(1, false); err != nil {
		t.Fatal(err)
	}
	c.next(EventDelivery)
	c.none(EventDelivery)
}

func TestFanoutPersistentIsOneCopyInTheLog(t *testing.T) {
	eachJournal(t, testFanoutPersistentIsOneCopyInTheLog)
}

func testFanoutPersistentIsOneCopyInTheLog(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client()
	for i := range 5 {
		c.queue(fmt.Sprint("q", i), true)
		if err := c.BindQueue(fmt.Sprint("q", i), "amq.fanout", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.ch.ConfirmSelect()
	c.publish("amq.fanout", "", "hello", true)
	c.next(EventConfirm)
	found, err := c.ch.Get("q3", true)
	if !found || err != nil {
		t.Fatal(found, err)
	}
	c.next(EventGot)
	c.Close()
	w.restart()
	c = w.client()
	for i := range 5 {
		want := 1
		if i == 3 {
			want = 0
		}
		c.ready(fmt.Sprint("q", i), want)
	}
	c.Close()
}

func TestTransactionTakesEffectAtOnce(t *testing.T) { eachJournal(t, testTransactionTakesEffectAtOnce) }

func testTransactionTakesEffectAtOnce(t *testing.T, on journals) {
	w := on.world(t)
	c := w.client()
	c.queue("q", true)
	c.publish("", "q", "first", true)
	if err := c.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	c.publish("", "q", "second", true)
	found, _ := c.ch.Get("q", false)
	if !found {
		t.Fatal("nothing to get")
	}
	if err := c.ch.Ack(1, false); err != nil {
		t.Fatal(err)
	}
	c.ready("q", 0)
	if err := c.ch.TxRollback(); err != nil {
		t.Fatal(err)
	}
	c.publish("", "q", "third", true)
	if err := c.ch.Ack(1, false); err != nil {
		t.Fatal(err)
	}
	if err := c.ch.TxCommit(); err != nil {
		t.Fatal(err)
	}
	c.ready("q", 1)
	c.Close()
	w.restart()
	c = w.client()
	c.ready("q", 1)
	c.consume("q", "t", true)
	c.expect("third", true)
	c.Close()
}

func TestMandatoryIsReturnedBeforeItsConfirm(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	_ = c.ch.ConfirmSelect()
	_ = c.ch.Publish(&Publish{Key: []byte("nowhere"), Body: []byte("x")})
	_ = c.ch.Publish(&Publish{Key: []byte("nowhere"), Mandatory: true, Body: []byte("x")})
	c.Flush()
	<-c.Wake()
	events := c.Take(nil)
	if len(events) != 2 || events[0].Kind != EventReturn || events[0].Tag != 2 || events[1].Kind != EventConfirm || events[1].Tag != 2 {
		t.Fatalf("events %+v", events)
	}
}

func TestPublishNeverEntersANewQueueOfTheSameName(t *testing.T) {
	eachJournal(t, testPublishNeverEntersANewQueueOfTheSameName)
}

func testPublishNeverEntersANewQueueOfTheSameName(t *testing.T, on journals) {
	w := on.world(t)
	c, d := w.client(), w.client()
	c.queue("q", true)
	if err := c.ch.Publish(&Publish{Key: []byte("q"), Persistent: true, Body: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	// The publish has found its queue, and has not entered it.
	if _, err := d.DeleteQueue("q", false, false); err != nil {
		t.Fatal(err)
	}
	d.queue("q", true)
	c.Flush()
	d.ready("q", 0)
	c.Close()
	d.Close()
	w.restart()
	e := w.client()
	e.ready("q", 0)
	e.Close()
}

func TestDirectReplyTo(t *testing.T) {
	w := newWorld(t)
	c, server := w.client(), w.client()
	defer c.Close()
	defer server.Close()
	server.queue("rpc", false)
	server.consume("rpc", "s", true)
	c.consume(ReplyTo, "r", true)
	props := message.AppendFieldString(nil, message.ReplyTo, ReplyTo)
	if err := c.ch.Publish(&Publish{Key: []byte("rpc"), Properties: props, Body: []byte("ask")}); err != nil {
		t.Fatal(err)
	}
	c.Flush()
	e := server.expect("ask", false)
	v, _ := message.Parse(e.Data)
	to := message.Field(v.Properties, message.ReplyTo)
	if err := server.ch.Publish(&Publish{Key: to, Body: []byte("answer")}); err != nil {
		t.Fatal(err)
	}
	server.Flush()
	c.expect("answer", false)
}

func TestColdBacklogIsReadBackInOrder(t *testing.T) { eachJournal(t, testColdBacklogIsReadBackInOrder) }

func testColdBacklogIsReadBackInOrder(t *testing.T, on journals) {
	w := on.world(t, func(c *Config) { c.HotBytes = 1 << 14 })
	c := w.client()
	c.queue("q", true)
	_ = c.ch.ConfirmSelect()
	n := on.some(8000, 4000)
	for i := range n {
		err := c.ch.Publish(&Publish{Key: []byte("q"), Persistent: true, Body: fmt.Appendf(nil, "%d", i)})
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Flush()
	for c.next(EventConfirm).Tag < uint64(n) {
	}
	c.consume("q", "t", false)
	for i := range n {
		e := c.expect(fmt.Sprint(i), false)
		if i%500 == 499 {
			if err := c.ch.Ack(e.Tag, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Close()
}

func TestCleaningKeepsWhatIsLive(t *testing.T) { eachJournal(t, testCleaningKeepsWhatIsLive) }

func testCleaningKeepsWhatIsLive(t *testing.T, on journals) {
	small := func(c *Config) { c.SegmentBytes = 64 << 10; c.CleanEvery = time.Millisecond; c.HotBytes = 1 << 12 }
	w := on.world(t, small)
	c := w.client()
	c.queue("parked", true)
	c.queue("churn", true)
	_ = c.ch.ConfirmSelect()
	pad := make([]byte, 500)
	const n = 4000
	for i := range n {
		key := "churn"
		if i%20 == 0 {
			key = "parked"
		}
		err := c.ch.Publish(&Publish{Key: []byte(key), Persistent: true, Body: append(fmt.Appendf(nil, "%06d", i), pad...)})
		if err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			c.Flush()
			for c.ch.conf.told < uint64(i+1) {
				c.next(EventConfirm)
			}
			for {
				found, err := c.ch.Get("churn", true)
				if err != nil {
					t.Fatal(err)
				}
				if !found {
					break
				}
				c.next(EventGot)
			}
		}
	}
	live := int64(n/20) * 520
	deadline := time.NewTimer(20 * time.Second)
	for {
		_, total, l, _, _ := w.b.log.room()
		if total <= 2*live+3*64<<10 {
			break
		}
		select {
		case <-deadline.C:
			t.Fatalf("the journal holds %d bytes, live are %d (counted %d)", total, live, l)
		case <-time.After(time.Millisecond):
		}
	}
	c.Close()
	w.restart(small)
	c = w.client()
	c.ready("parked", n/20)
	c.ready("churn", 0)
	c.consume("parked", "t", false)
	for i := 0; i < n; i += 20 {
		e := c.next(EventDelivery)
		if got := body(e)[:6]; got != fmt.Sprintf("%06d", i) {
			t.Fatalf("got %s, want %06d", got, i)
		}
	}
	c.Close()
}

func TestExclusiveQueueGoesWithItsConnection(t *testing.T) {
	w := newWorld(t)
	c, d := w.client(), w.client()
	defer d.Close()
	if _, err := c.DeclareQueue(QueueSpec{Name: "mine", Exclusive: true, Durable: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CheckQueue("mine"); kind(err) != ResourceLocked {
		t.Fatalf("another connection got %v", err)
	}
	c.Close()
	if _, err := d.CheckQueue("mine"); kind(err) != NotFound {
		t.Fatalf("after its connection closed: %v", err)
	}
}

func TestAlarmBlocksPublishersAndLetsConsumersDrain(t *testing.T) {
	var used atomic.Int64
	w := newWorld(t, func(c *Config) {
		c.Alarms = AlarmConfig{Every: time.Millisecond, Memory: func() (int64, int64) { return used.Load(), 100 }}
	})
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	c.publish("", "q", "before", true)
	used.Store(101)
	eventually(t, func() bool { return w.b.Blocked() == "low on memory" })
	c.publish("", "q", "under", true)
	if e := c.next(EventBlocked); string(e.Data) != "low on memory" {
		t.Fatalf("reason %q", e.Data)
	}
	c.Throttle() // it may still send what its settlements wait behind
	d := w.client()
	defer d.Close()
	d.consume("q", "t", false)
	d.expect("before", false)
	d.expect("under", false)
	if err := d.ch.Ack(2, true); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		c.blockedBytes = blockedAllowance
		c.Throttle()
		close(done)
	}()
	select {
	case <-done:
		t.Fatal("a blocked publisher was not held")
	case <-time.After(20 * time.Millisecond):
	}
	used.Store(90)
	<-done
	c.next(EventUnblocked)
}

// What is published in transactions takes room as well.
func TestTransactionsAreBlockedByAlarms(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Alarms = AlarmConfig{Every: time.Millisecond, Memory: func() (int64, int64) { return 101, 100 }}
	})
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	if err := c.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return w.b.Blocked() != "" })
	body := strings.Repeat("x", blockedAllowance)
	c.publish("", "q", body, true)
	c.next(EventBlocked)
	held := make(chan struct{})
	go func() {
		defer close(held)
		c.Throttle()
	}()
	eventually(t, c.Throttled)
	c.Interrupt()
	<-held
}

// eventually waits until something is so that no event tells of.
func eventually(t testing.TB, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it has not become so in 20 s")
		}
	}
}
