package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

func (w *world) gmq(addr string) *faultbroker.GMQ {
	return faultbroker.StartGMQ(w.t, faultbroker.GMQOptions{Network: w.net, Addr: addr + ":4567"})
}

func gmqURL(addr string) string { return "gmq://guest:guest@" + addr + ":4567/" }

// overGMQ makes a world with a broker that speaks GMQ, and one client.
func overGMQ(t *testing.T, f func(t *testing.T, w *world, b *faultbroker.GMQ, c *ferry.Client)) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.gmq("b")
		f(t, w, b, w.dial(gmqURL("b"), ferry.WithTopology(queues("q"))))
	})
}

// publishedOver is what clients sent: the bodies in order, those that are marked as
// sent before with the number of the attempt.
func publishedOver(b *faultbroker.GMQ) []string {
	var list []string
	for _, p := range b.Publishes() {
		if p.Attempt > 0 {
			list = append(list, fmt.Sprintf("%s/%d", p.Body, p.Attempt))
		} else {
			list = append(list, p.Body)
		}
	}
	return list
}

func TestOverGMQUnknownIsSentAgainFirstAndInOrder(t *testing.T) {
	overGMQ(t, func(t *testing.T, w *world, b *faultbroker.GMQ, c *ferry.Client) {
		b.Set(func(f *faultbroker.GMQFaults) { f.HoldReplies = true })
		s := w.sending(c, ferry.PublisherOptions{})
		s.submit("a", "b")
		s.message(ferry.Message{Body: []byte("own"), ID: "moved-1"})
		synctest.Wait()
		b.Down()
		synctest.Wait()
		s.submit("d") // while there is no connection
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		wantList(t, "arrived", publishedOver(b), "a", "b", "own", "a/2", "b/2", "own/2", "d")
		b.Set(func(f *faultbroker.GMQFaults) { f.HoldReplies = false })
		s.flush()
		s.expect("confirmed/2 confirmed/2 confirmed/2 confirmed/1", "a", "b", "own", "d")
		ids := make(map[string]string)
		for _, p := range b.Publishes() {
			if before, again := ids[p.Body]; again && p.MessageID != before {
				t.Errorf("%s: sent with the ids %q and %q", p.Body, before, p.MessageID)
			}
			ids[p.Body] = p.MessageID
		}
		if ids["own"] != "moved-1" || ids["a"] == "" {
			t.Errorf("%v", ids)
		}
	})
}

// What is answered with something that is no confirmation is unknown, is sent again,
// and holds up nothing.
func TestOverGMQOddAnswersConfirmNothing(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		ends   bool
	}{
		"garbage":              {"\xff\xfe\x00\n", false},
		"a reply to another":   {`{"operation":"A","confirmation":"Y"}` + "\n", false},
		"one without an end":   {strings.Repeat(" ", 2<<20), false},
		"the end":              {"", true},
		"the end of a half":    {`{"operation":"P","queue":"q","confirmation":"Y"`, true},
		"an answer of HTTP":    {"HTTP/1.1 400 Bad Request\r\n\r\n", true},
		"that the broker ends": {`{"operation":"P","confirmation":"N","error":{},"error_text":"CONNECTION_FORCED - shutdown"}` + "\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			overGMQ(t, func(t *testing.T, w *world, b *faultbroker.GMQ, client *ferry.Client) {
				b.Set(func(f *faultbroker.GMQFaults) { f.Odd, f.Answer, f.Ends = "odd", c.answer, c.ends })
				s := w.sending(client, ferry.PublisherOptions{})
				s.submit("1", "odd", "2")
				time.Sleep(100 * time.Millisecond)
				if r, done := s.result("odd"); done {
					t.Errorf("%+v", r)
				}
				b.Set(func(f *faultbroker.GMQFaults) { f.Odd = "" })
				s.flush()
				for _, body := range []string{"1", "odd", "2"} {
					if r, _ := s.result(body); r.Err != nil {
						t.Errorf("%s: %v", body, r.Err)
					}
				}
				if r, _ := s.result("odd"); r.Attempts < 2 {
					t.Errorf("it was sent %d times", r.Attempts)
				}
			})
		})
	}
}

func TestOverGMQTheCulpritIsRefusedAlone(t *testing.T) {
	for _, c := range []struct {
		reason string
		is     error
		sent   int
	}{
		{"NOT_FOUND - no queue", ferry.ErrNotFound, 1},
		{"ACCESS_REFUSED - no", ferry.ErrAccessRefused, 1},
		{"NACKED - the queue is full", ferry.ErrNacked, 1},
		{"NO_ROUTE - no", ferry.ErrUnroutable, 1},
		{"what nobody has said before", ferry.ErrUnknown, 3},
	} {
		t.Run(c.reason, func(t *testing.T) {
			overGMQ(t, func(t *testing.T, w *world, b *faultbroker.GMQ, client *ferry.Client) {
				b.Set(func(f *faultbroker.GMQFaults) { f.Poison, f.Reason = "poison", c.reason })
				first, second := w.sending(client, ferry.PublisherOptions{}), w.sending(client, ferry.PublisherOptions{})
				first.submit("1", "2", "poison", "3", "4")
				second.submit("a", "b", "c")
				first.flush()
				second.flush()
				for _, body := range []string{"1", "2", "3", "4"} {
					if r, _ := first.result(body); r.Err != nil {
						t.Errorf("%s: %v", body, r.Err)
					}
				}
				second.expect("confirmed/1 confirmed/1 confirmed/1", "a", "b", "c")
				r, _ := first.result("poison")
				if !errors.Is(r.Err, c.is) || errors.Is(r.Err, ferry.ErrRefused) != (c.is != ferry.ErrUnknown) || r.Attempts > c.sent { //nolint:errorlint // it is the very value
					t.Errorf("the message became %v after %d attempts", r.Err, r.Attempts)
				}
				if n := len(w.happened(ferry.Disconnected)); n > 0 {
					t.Errorf("%d connections ended", n)
				}
				for _, body := range []string{"1", "2", "3", "4", "a", "b", "c"} {
					if !slices.Contains(b.Bodies("q"), body) {
						t.Errorf("%s is not stored: %q", body, b.Bodies("q"))
					}
				}
			})
		})
	}
}

// A reply that does not come in time is the timeout of its message, and one that
// comes late confirms what it is of.
func TestOverGMQALateReplyIsATimeout(t *testing.T) {
	overGMQ(t, func(t *testing.T, w *world, b *faultbroker.GMQ, c *ferry.Client) {
		b.Set(func(f *faultbroker.GMQFaults) { f.HoldReplies = true })
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q", Window: 3})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Publish(ctx, ferry.Message{Body: []byte("late")}); !errors.Is(err, ferry.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		b.Set(func(f *faultbroker.GMQFaults) { f.HoldReplies = false })
		for _, body := range numbered(20) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := p.Publish(ctx, ferry.Message{Body: []byte(body)}); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			cancel()
		}
		if st := p.Stats(); st.Confirmed != 20 || st.Unknown != 1 {
			t.Errorf("%+v", st)
		}
		wantList(t, "arrived", publishedOver(b)[:3], "late", "m0", "m1")
	})
}

// A message is there as soon as it is, with a server that waits and with one that does
// not, or nearly.
func TestOverGMQMessagesComeAtOnce(t *testing.T) {
	for _, c := range []struct {
		noWait bool
		within time.Duration
	}{{false, 0}, {true, 250 * time.Millisecond}} {
		t.Run(fmt.Sprintf("no wait: %v", c.noWait), func(t *testing.T) {
			overGMQ(t, func(t *testing.T, w *world, b *faultbroker.GMQ, client *ferry.Client) {
				b.Set(func(f *faultbroker.GMQFaults) { f.NoWait = c.noWait })
				co := w.consumer(client, ferry.ConsumerOptions{Queue: "q"})
				for _, body := range numbered(3) {
					time.Sleep(time.Minute)
					b.Enqueue("q", body)
					begin := time.Now()
					_ = receive(t, co, body).Ack()
					if took := time.Since(begin); took > c.within {
						t.Errorf("%s came after %v", body, took)
					}
				}
			})
		})
	}
}

// What GMQ has no way to ask for keeps nobody from connecting.
func TestOverGMQTheRestIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.gmq("b")
		topology := queues("q")
		topology.Exchanges = []ferry.Exchange{{Name: "e", Kind: "topic"}}
		topology.Bindings = []ferry.Binding{{Exchange: "e", Queue: "q", Key: "#"}}
		c := w.dial(gmqURL("b"), ferry.WithTopology(topology))
		publish(t, c, "q", "1")
		refused := w.happened(ferry.TopologyRefused)
		if len(refused) != 2 {
			t.Errorf("%v", w.events)
		}
		for _, e := range refused {
			if !errors.Is(e.Err, ferry.ErrNotAllowed) || !strings.Contains(e.Err.Error(), "amqp://") {
				t.Error(e.Err)
			}
		}
		if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Bindings: []ferry.Binding{{Exchange: "amq.topic", Key: "k"}}}); !errors.Is(err, ferry.ErrNotAllowed) {
			t.Error(err)
		}
		for _, m := range []ferry.Message{{Exchange: "amq.topic", Key: "k"}, {Key: "q", Headers: map[string]any{"a": 1.5}}} {
			if err := c.Publish(t.Context(), m); !errors.Is(err, ferry.ErrRefused) || !strings.Contains(err.Error(), "GMQ") {
				t.Errorf("%+v: %v", m, err)
			}
		}
		if _, err := c.Request(t.Context(), ferry.Message{Key: "q"}); !errors.Is(err, ferry.ErrRefused) {
			t.Error(err)
		}
		if i, err := c.Inspect(t.Context(), "q"); err != nil || i.Messages != 1 {
			t.Errorf("%+v, %v", i, err)
		}
		if _, err := c.Inspect(t.Context(), "none"); !errors.Is(err, ferry.ErrNotFound) {
			t.Error(err)
		}
		publish(t, c, "q", "2") // the client goes on
	})
}

func TestTheOriginalGMQServerIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.gmq("b")
		b.Set(func(f *faultbroker.GMQFaults) { f.Single = true })
		_, err := ferry.Dial(t.Context(), gmqURL("b"), w.options()...)
		if !errors.Is(err, ferry.ErrNoBroker) || !strings.Contains(err.Error(), "original GMQ server") {
			t.Error(err)
		}
	})
}

// A real broker is killed while messages are on their way, in both directions: none is
// lost, and none is there twice but for what was delivered before.
func TestOverGMQNothingIsLostWhenFerryIsKilled(t *testing.T) {
	fb := ferrytest.Start(t, ferrytest.Dir(t.TempDir()))
	c, err := ferry.Dial(t.Context(), fb.GMQURL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	p, err := c.Publisher(ferry.PublisherOptions{Key: "q"})
	if err != nil {
		t.Fatal(err)
	}
	const total = 1000
	results := make(chan error, total)
	for i := range total {
		if i == total/2 {
			fb.Kill()
			fb.Start()
		}
		if err := p.Submit(t.Context(), ferry.Message{Body: fmt.Appendf(nil, "%d", i)}, func(r ferry.Result) { results <- r.Err }); err != nil {
			t.Fatal(err)
		}
	}
	for range total {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	if i, err := c.Inspect(t.Context(), "q"); err != nil || i.Messages != total {
		t.Errorf("%d messages were confirmed, and %d are there (%v)", total, i.Messages, err)
	}
	co, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	came, killed := make(map[string]int), false
	for len(came) < total {
		d, err := co.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if came[string(d.Body)]++; came[string(d.Body)] > 1 && !d.Redelivered {
			t.Errorf("%s came twice and is not marked", d.Body)
		}
		if len(came) == total/2 && !killed {
			killed = true
			fb.Kill()
			fb.Start()
		}
		if err := d.Ack(); err != nil && !errors.Is(err, ferry.ErrStale) {
			t.Error(err)
		}
	}
}
