package broker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func names(list []QueueView) (all []string) {
	for _, q := range list {
		all = append(all, q.VHost+q.Name)
	}
	return all
}

func TestQueuesAreListedInPages(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	for _, name := range []string{"orders.b", "Orders.a", "c", "bills"} {
		c.queue(name, false)
	}
	for range 3 {
		c.publish("", "c", "body", false)
	}
	c.publish("", "orders.b", "body", false)
	list := func(f Filter) string {
		t.Helper()
		p, err := w.b.Queues(f)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(names(p.Items), p.Page, p.Pages, p.Filtered, p.Total)
	}
	for _, row := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "[/Orders.a /bills /c /orders.b] 1 1 4 4"},
		{Filter{Reverse: true}, "[/orders.b /c /bills /Orders.a] 1 1 4 4"},
		{Filter{Page: 2, Size: 3}, "[/orders.b] 2 2 4 4"},
		{Filter{Page: 3, Size: 3}, "Page out of range, page: 3 page size: 3, len: 4"},
		{Filter{Name: "ORDERS"}, "[/Orders.a /orders.b] 1 1 2 4"},
		{Filter{Name: "^[b-c]", Regexp: true}, "[/bills /c] 1 1 2 4"},
		{Filter{Name: "[", Regexp: true}, "invalid regular expression \"[\": missing closing ]: ["},
		{Filter{Sort: "messages", Reverse: true}, "[/c /orders.b /bills /Orders.a] 1 1 4 4"},
		{Filter{Sort: "message_stats.publish", Page: 1, Size: 1, Reverse: true}, "[/c] 1 4 4 4"},
		{Filter{Sort: "beauty"}, "[/Orders.a /bills /c /orders.b] 1 1 4 4"},
		{Filter{VHost: "elsewhere"}, "[] 1 1 0 0"},
		{Filter{VHosts: func(string) bool { return false }}, "[] 1 1 0 0"},
	} {
		if got := list(row.f); got != row.want {
			t.Errorf("%+v: %s, want %s", row.f, got, row.want)
		}
	}
	if _, err := w.b.Queues(Filter{Page: 9}); !errors.As(err, new(*RangeError)) {
		t.Errorf("a page that is not there: %v", err)
	}
	if _, err := c.DeleteQueue("c", false, false); err != nil {
		t.Fatal(err)
	}
	c.queue("b", false)
	if got, want := list(Filter{}), "[/Orders.a /b /bills /orders.b] 1 1 4 4"; got != want {
		t.Errorf("after a change: %s, want %s", got, want)
	}
}

func TestConnectionsTellOfThemselves(t *testing.T) {
	w := newWorld(t)
	s, err := w.b.OpenSession(SessionConfig{
		VHost: "/", User: "ann", Name: "peer -> here", Protocol: "AMQP 0-9-1", ChannelMax: 7,
		Octets: func() (received, sent uint64) { return 10, 20 },
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, Session: s, ch: s.OpenChannel(3)}
	defer s.Close()
	hidden, err := w.b.OpenSession(SessionConfig{VHost: "/", User: "ann", Name: "hidden", Unlisted: true})
	if err != nil {
		t.Fatal(err)
	}
	defer hidden.Close()
	c.queue("q", true)
	if err := c.ch.ConfirmSelect(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.publish("", "q", "body", true)
	}
	c.confirmed()
	c.ch.Qos(2, false)
	c.consume("q", "tag", false)
	c.expect("body", false)
	if err := c.ch.Ack(1, false); err != nil {
		t.Fatal(err)
	}

	page, err := w.b.Connections(Filter{Name: "PEER"})
	if err != nil || len(page.Items) != 1 || page.Total != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	got := page.Items[0]
	if got.Name != "peer -> here" || got.User != "ann" || got.VHost != "/" || got.ChannelMax != 7 || got.Channels != 1 ||
		got.Received != 10 || got.Sent != 20 || got.State != "running" || got.Unacked != 2 || got.Traffic[Published] != 3 || got.Opened.IsZero() {
		t.Errorf("connection %+v", got)
	}
	chans, ok := w.b.ConnectionChannels("peer -> here")
	if !ok || len(chans) != 1 {
		t.Fatalf("channels %+v", chans)
	}
	ch := chans[0]
	if ch.Name() != "peer -> here (3)" || !ch.Confirms || ch.Transactional || ch.Consumers != 1 || ch.Prefetch != 2 || ch.Unacked != 2 || ch.Unconfirmed != 0 {
		t.Errorf("channel %+v", ch)
	}
	if want := (Traffic{Published: 3, PublishConfirm: 3, Confirmed: 3, Delivered: 3, Acked: 1}); ch.Traffic != want {
		t.Errorf("the channel counts %v, want %v", ch.Traffic, want)
	}
	for name, consumers := range map[string][]ConsumerView{"all": w.b.Consumers(Filter{}), "of the queue": w.b.QueueConsumers("/", "q")} {
		if len(consumers) != 1 {
			t.Fatalf("consumers %s: %+v", name, consumers)
		}
		k := consumers[0]
		if k.Tag != "tag" || k.Queue != "q" || k.ChannelName() != ch.Name() || !k.AckRequired || !k.Active || k.Prefetch != 2 || k.Unacked != 2 {
			t.Errorf("consumer %+v", k)
		}
	}
	q, ok := w.b.Queue("/", "q")
	if !ok || q.Depth.Unacked != 2 || q.Depth.Ready != 0 || q.Depth.Bytes != 8 || q.Depth.Persistent != 2 || q.Consumers != 1 || q.Type != "classic" {
		t.Errorf("queue %+v", q)
	}
	if want := (Traffic{Published: 3, Delivered: 3, Acked: 1}); q.Traffic != want {
		t.Errorf("the queue counts %v, want %v", q.Traffic, want)
	}
	if n := w.b.Totals(Filter{}); n.Connections != 1 || n.Channels != 1 || n.Consumers != 1 || n.QueueConsumers != 1 || n.Churn.ConnectionsOpened != 1 {
		t.Errorf("totals %+v", n)
	}

	if w.b.CloseConnection("hidden", "why") || w.b.CloseConnection("nobody", "why") {
		t.Error("a connection that is not told of was closed")
	}
	if !w.b.CloseConnection("peer -> here", "because") {
		t.Error("the connection was not found")
	}
	if e := c.next(EventClosed); e.Err.Kind != Forced || e.Err.Text != "because" || !s.stopped() {
		t.Errorf("it was told %+v", e.Err)
	}
	s.Close()
	if _, ok := w.b.Connection("peer -> here"); ok {
		t.Error("it is still there")
	}
	if n := w.b.Totals(Filter{}); n.Traffic[Published] != 3 || n.Received != 10 || n.Churn.ConnectionsClosed != 1 {
		t.Errorf("what it did is not counted any more: %+v", n)
	}
}

func TestBindingsHaveNamesOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	args := []byte("\x07x-matchS\x00\x00\x00\x03all")
	for _, bind := range []struct {
		exchange, key string
		args          []byte
	}{
		{"amq.topic", "a.*", nil}, {"amq.topic", "", nil}, {"amq.headers", "a b_~/ü", args}, {"amq.headers", "", args},
	} {
		if err := c.BindQueue("q", bind.exchange, bind.key, bind.args); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.BindExchange("amq.fanout", "amq.topic", "x", nil); err != nil {
		t.Fatal(err)
	}
	list := func(f BindingFilter) (keys []string) {
		for _, b := range w.b.Bindings("/", f) {
			keys = append(keys, b.Source+">"+b.DestinationType()+" "+b.Destination+" "+b.PropertiesKey())
		}
		return keys
	}
	hash := (&BindingView{Args: args}).PropertiesKey()
	all := []string{
		">queue q q",
		"amq.headers>queue q " + hash, "amq.headers>queue q a+b%5F%7E%2F%C3%BC" + hash,
		"amq.topic>exchange amq.fanout x", "amq.topic>queue q ~", "amq.topic>queue q a.%2A",
	}
	q, topic, none, exchange := "q", "amq.topic", "", true
	for _, row := range []struct {
		f    BindingFilter
		want []string
	}{
		{BindingFilter{}, all},
		{BindingFilter{Source: &topic}, all[3:]},
		{BindingFilter{Source: &topic, Destination: &q}, all[4:]},
		{BindingFilter{Source: &none}, all[:1]},
		{BindingFilter{Destination: &q}, append(slices.Clone(all[:3]), all[4:]...)},
		{BindingFilter{ToExchange: &exchange}, all[3:4]},
	} {
		if got := list(row.f); !slices.Equal(got, row.want) {
			t.Errorf("%+v: %q, want %q", row.f, got, row.want)
		}
	}
}

func TestRatesAreTakenBetweenLooks(t *testing.T) {
	var r rated
	at := time.Unix(1000, 0)
	look := func(after time.Duration, published uint64) float64 {
		at = at.Add(after)
		rates := r.look(at, &Traffic{Published: published})
		return rates[Published]
	}
	for i, step := range []struct {
		after     time.Duration
		published uint64
		want      float64
	}{
		{0, 100, 0},           // the first look
		{time.Second, 200, 0}, // too soon to tell
		{4 * time.Second, 600, 100},
		{time.Second, 9000, 100},  // too soon to tell anew
		{9 * time.Second, 600, 0}, // nothing more
		{5 * time.Second, 500, 0}, // of fewer connections
		{5 * time.Second, 510, 2},
	} {
		if got := look(step.after, step.published); got != step.want {
			t.Errorf("look %d: %v, want %v", i, got, step.want)
		}
	}
}

// TestExchangesCountWhatGoesThrough also counts transactions.
func TestExchangesCountWhatGoesThrough(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("a", true)
	c.queue("b", false)
	for _, q := range []string{"a", "b"} {
		if err := c.BindQueue(q, "amq.fanout", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	tx := c.OpenChannel(2)
	if err := tx.TxSelect(); err != nil {
		t.Fatal(err)
	}
	for _, ch := range []*Channel{c.ch, tx} {
		for _, p := range []Publish{{Exchange: []byte("amq.fanout")}, {Key: []byte("a"), Persistent: true}, {Key: []byte("nowhere")}} {
			if err := ch.Publish(&p); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Flush()
	if n := w.b.Totals(Filter{}); n.Uncommitted != 3 {
		t.Errorf("%d wait for the commit, want 3", n.Uncommitted)
	}
	if err := tx.TxCommit(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Traffic{"amq.fanout": {PublishIn: 2, PublishOut: 4}, "": {PublishIn: 4, PublishOut: 2}} {
		if x, ok := w.b.Exchange("/", name); !ok || x.Traffic != want {
			t.Errorf("exchange %q counts %v, want %v", name, x.Traffic, want)
		}
	}
	n := w.b.Totals(Filter{})
	if want := (Traffic{Published: 6, PublishOut: 6, DropUnroutable: 2}); n.Traffic != want || n.Uncommitted != 0 {
		t.Errorf("the channels count %v, want %v", n.Traffic, want)
	}
	var sizes uint64
	for _, p := range w.b.Protocols() {
		sizes += p.Sizes.Counts[0]
	}
	if sizes != 6 {
		t.Errorf("%d bodies were counted, want 6", sizes)
	}
}

// TestViewsWhileTrafficRuns looks at all there is while it comes, works and goes; the
// race detector judges.
func TestViewsWhileTrafficRuns(t *testing.T) {
	w := newWorld(t)
	var work sync.WaitGroup
	for i := range 3 {
		work.Go(func() {
			for round := range 20 {
				c := w.client()
				name := fmt.Sprint("q", i, "-", round%3)
				c.queue(name, round%2 == 0)
				ch := c.OpenChannel(2)
				if round%4 == 0 {
					_ = ch.TxSelect()
				} else {
					_ = ch.ConfirmSelect()
				}
				k, err := c.ch.Consume(ConsumeSpec{Queue: name, Tag: "t"})
				if err == nil {
					k.Start()
				}
				for range 5 {
					_ = ch.Publish(&Publish{Key: []byte(name), Persistent: true})
				}
				c.Flush()
				if round%4 == 0 {
					_ = ch.TxCommit()
				}
				_ = c.ch.Nack(0, true, false)
				c.ch.Cancel("t")
				ch.Close()
				_, _ = c.DeleteQueue(name, false, false)
				c.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		work.Wait()
		close(done)
	}()
	for looking := true; looking; {
		select {
		case <-done:
			looking = false
		default:
		}
		for _, err := range []error{
			errOf(w.b.Queues(Filter{Sort: "messages"})), errOf(w.b.Exchanges(Filter{})),
			errOf(w.b.Connections(Filter{})), errOf(w.b.Channels(Filter{Sort: "messages_unacknowledged"})),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		w.b.Consumers(Filter{})
		w.b.Bindings("/", BindingFilter{})
		w.b.VHosts()
		w.b.Protocols()
		w.b.Store()
	}
	n := w.b.Totals(Filter{})
	if n.Traffic[Published] != 300 || n.QueueTraffic[0][Published] != 300 || n.Queues != 0 || n.Connections != 0 || n.Depth != (Depth{}) {
		t.Errorf("in the end: %+v", n)
	}
	if c := n.Churn; c.ConnectionsOpened != 60 || c.ConnectionsClosed != 60 || c.ChannelsOpened != 120 || c.ChannelsClosed != 120 || c.QueuesCreated != 60 || c.QueuesDeleted != 60 {
		t.Errorf("in the end: %+v", c)
	}
}

func errOf[T any](_ T, err error) error { return err }

// Who searches with an expression that takes long for each name does not keep the
// processors for as long as there are names.
func TestSlowSearchesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queues := make([]*Queue, 100_000)
		for i := range queues {
			queues[i] = &Queue{name: "q"}
		}
		begun := time.Now()
		_, ok := matching(queues, func(string) bool {
			time.Sleep(time.Millisecond)
			return true
		})
		if d := time.Since(begun); ok || d > searchMost+100*time.Millisecond {
			t.Errorf("all were found: %v, after %v", ok, d)
		}
		if found, ok := matching(queues, func(string) bool { return true }); !ok || len(found) != len(queues) {
			t.Errorf("%d were found in time", len(found))
		}
	})
}
