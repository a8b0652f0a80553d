package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// deadline bounds what must not take long.
const deadline = 60 * time.Second

func mustRun(t *testing.T, o Options) *Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if o.Queue == "" {
		o.Queue = "load"
	}
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil || r.Err != nil {
		t.Fatalf("it ended with %v, %v", ctx.Err(), r.Err)
	}
	return r
}

func TestCountsOfALoad(t *testing.T) {
	for _, row := range []struct {
		name                      string
		o                         Options
		sent, confirmed, received uint64
	}{
		{"1x1", Options{Producers: 1, Consumers: 1, Size: 100, Confirm: 100, PublishCount: 1000}, 1000, 1000, 1000},
		{"3x2 over 2 queues", Options{Producers: 3, Consumers: 2, Queues: 2, Size: 16, Confirm: 10, PublishCount: 200}, 600, 600, 600},
		{"without confirms", Options{Producers: 1, Consumers: 1, Size: 100, PublishCount: 500, AutoAck: true}, 500, 0, 500},
		{"fanout", Options{Producers: 1, Consumers: 3, Queues: 3, Size: 20, Confirm: 50, PublishCount: 100, Exchange: "x", Kind: "fanout"}, 100, 100, 300},
		{"no consumers", Options{Producers: 2, Size: 0, Confirm: 50, PublishCount: 100}, 200, 200, 0},
		{"consumers that have had enough", Options{Producers: 1, Consumers: 1, Size: 100, Confirm: 50, PublishCount: 100, ConsumeCount: 30}, 100, 100, 30},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := ferrytest.Start(t)
			row.o.URL = b.URL()
			r := mustRun(t, row.o)
			if r.Sent != row.sent || r.Confirmed != row.confirmed || r.Received != row.received || r.Refused+r.Unknown != 0 {
				t.Errorf("sent %d, confirmed %d, received %d, refused %d, unknown %d", r.Sent, r.Confirmed, r.Received, r.Refused, r.Unknown)
			}
			if timed := row.o.Confirm > 0; timed != (r.Confirm != nil) || timed && r.Confirm.Count != int64(row.confirmed) {
				t.Errorf("confirm latencies: %+v", r.Confirm)
			}
			if timed := row.received > 0 && row.o.Size >= MinTimed; timed != (r.EndToEnd != nil) || timed && r.EndToEnd.Count != int64(row.received) {
				t.Errorf("end-to-end latencies: %+v", r.EndToEnd)
			}
		})
	}
}

func TestQueueIsDeletedIfItWasMade(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	b.Enqueue("mine", faultbroker.Message{Body: []byte("a message of before, and not timed")})
	o := Options{URL: b.URL(), Producers: 1, Consumers: 1, Size: 50, Confirm: 10, PublishCount: 20, Queue: "mine"}
	if r := mustRun(t, o); r.EndToEnd.Count != int64(r.Received)-1 {
		t.Errorf("of %d received %d are timed", r.Received, r.EndToEnd.Count)
	}
	o.Queue = "new"
	mustRun(t, o)
	o.Queue, o.Keep = "kept", true
	mustRun(t, o)
	queues := b.Snapshot().Queues
	for name, want := range map[string]bool{"mine": true, "new": false, "kept": true} {
		if _, there := queues[name]; there != want {
			t.Errorf("queue %s is there: %v", name, there)
		}
	}
}

func TestConsumersMayConnectElsewhere(t *testing.T) {
	to, from := faultbroker.Start(t, faultbroker.Options{}), faultbroker.Start(t, faultbroker.Options{})
	from.Enqueue("load", faultbroker.Message{Body: []byte("one")}, faultbroker.Message{Body: []byte("two")})
	r := mustRun(t, Options{
		URL: to.URL(), ConsumeURL: from.URL(), Producers: 1, Consumers: 1, Confirm: 10, PublishCount: 20, ConsumeCount: 2, Keep: true,
	})
	if left := to.Snapshot().Queues["load"].Ready; r.Confirmed != 20 || r.Received != 2 || left != 20 {
		t.Errorf("%d confirmed, %d received, %d left where they were sent to", r.Confirmed, r.Received, left)
	}
}

func TestRefusedIsCounted(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{Faults: faultbroker.Faults{NackEvery: 10}})
	r := mustRun(t, Options{URL: b.URL(), Producers: 1, Consumers: 1, Size: 50, Confirm: 10, PublishCount: 100})
	if r.Sent != 100 || r.Confirmed != 90 || r.Refused != 10 || r.Received != 90 {
		t.Errorf("got %+v", r)
	}
}

func TestLoadUntilDurationOrContext(t *testing.T) {
	b := ferrytest.Start(t)
	o := Options{URL: b.URL(), Queue: "load", Producers: 1, Consumers: 1, Size: 50, Confirm: 10, Rate: 1000, Duration: 250 * time.Millisecond, ReportEvery: 50 * time.Millisecond}
	samples := 0
	o.Progress = func(Sample) { samples++ }
	r := mustRun(t, o)
	if r.Sent < 20 || float64(r.Sent) > o.Rate*r.Seconds+1 || r.Confirmed != r.Sent || samples < 3 {
		t.Errorf("%d samples, %+v", samples, r)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	o.Duration = 0
	o.Progress = func(s Sample) {
		if s.Received > 0 {
			stop()
		}
	}
	r, err := Run(ctx, o)
	if err != nil || r.Err != nil || r.Sent == 0 || r.Confirmed != r.Sent {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A broker that is killed and comes back costs latency and nothing else.
func TestLoadSurvivesTheBroker(t *testing.T) {
	b := ferrytest.Start(t, ferrytest.Dir(t.TempDir()))
	o := Options{URL: b.URL(), Queue: "load", Producers: 1, Consumers: 1, Size: 50, Confirm: 100, Rate: 2000, PublishCount: 2000, ReportEvery: 20 * time.Millisecond}
	o.Client = func(bool, int) []ferry.Option {
		return []ferry.Option{ferry.WithBackoff(time.Millisecond, 20*time.Millisecond)}
	}
	flowing := make(chan struct{}, 1)
	o.Progress = func(s Sample) {
		if s.Received > 0 {
			select {
			case flowing <- struct{}{}:
			default:
			}
		}
	}
	done := make(chan *Result, 1)
	go func() {
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	<-flowing
	b.Kill()
	b.Start()
	if r := <-done; r != nil && (r.Sent != 2000 || r.Confirmed != 2000 || r.Received < 2000 || r.Err != nil) {
		t.Errorf("got %+v", r)
	}
}

func TestNoBroker(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	b.Close()
	if _, err := Run(t.Context(), Options{URL: b.URL(), Queue: "load", Producers: 1}); !errors.Is(err, ferry.ErrNoBroker) {
		t.Errorf("got %v", err)
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for name, o := range map[string]Options{
		"nothing to do": {Queue: "q"},
		"no queue":      {Producers: 1},
		"negative":      {Queue: "q", Producers: 1, Size: -1},
		"slow":          {Queue: "q", Producers: 1, Rate: -1},
		"type of none":  {Queue: "q", Producers: 1, Kind: "fanout"},
	} {
		if o.Check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	o := Options{Queue: "q", Queues: 3, Producers: 1, Exchange: "x"}
	if err := o.Check(); err != nil || o.queue(0) != "q-1" || o.queue(5) != "q-3" || o.Key != DefaultKey {
		t.Errorf("got %+v, %v", o, err)
	}
}

// A producer that was held up is late with all that was due meanwhile; one that
// its timer woke late is not.
func TestScheduleForgetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := newSchedule(1000, start)
		for i := range 5 {
			if due, ok := s.next(t.Context()); !ok || due.Sub(start) != time.Duration(i)*time.Millisecond || time.Since(start) != due.Sub(start) {
				t.Fatalf("message %d is due after %v, sent after %v", i, due.Sub(start), time.Since(start))
			}
		}
		time.Sleep(100 * time.Millisecond) // of the bubble: the broker did not take message 4
		for i := 5; i <= 104; i++ {
			if due, _ := s.next(t.Context()); due.Sub(start) != time.Duration(i)*time.Millisecond {
				t.Fatalf("message %d is due after %v", i, due.Sub(start))
			}
		}
		if late := time.Since(start); late != 104*time.Millisecond {
			t.Errorf("what was held up was sent after %v", late)
		}
		s.woken = start.Add(200 * time.Millisecond)
		if due, _ := s.next(t.Context()); !due.Equal(s.woken) {
			t.Errorf("before its timer came a message is due, after %v", due.Sub(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := s.next(ctx); ok {
			t.Error("it goes on without a context")
		}
	})
}

func TestResultText(t *testing.T) {
	r := drawn()
	var text, object strings.Builder
	if err := errors.Join(r.WriteText(&text), r.WriteJSON(&object)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nsent ", "\nconfirmed ", "\nreceived ", "\nend to end ", "p99.9", "\nbench: a <b> & c 1x1 100B persistent confirm=1000 localhost:5672: "} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, &text)
		}
	}
	var back Result
	if err := json.Unmarshal([]byte(object.String()), &back); err != nil || back.Sent != r.Sent || len(back.Samples) != len(r.Samples) || *back.Confirm != *r.Confirm {
		t.Errorf("%v: %s", err, &object)
	}
	if head, line := SampleHead(), r.Samples[3].String(); len([]rune(head)) != len([]rune(line)) {
		t.Errorf("they are not lined up:\n%s\n%s", head, line)
	}
}

func TestTextOfFigures(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999.6: "1,000", 812345: "812,345", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := grouped(v); got != want {
			t.Errorf("grouped(%g) = %q", v, got)
		}
	}
	for v, want := range map[float64]string{0.4: "0µs", 812: "812µs", 1234: "1.23ms", 23456: "23.5ms", 123456: "123ms", 2.5e6: "2.50s"} {
		if got := latencyText(v); got != want {
			t.Errorf("latencyText(%g) = %q", v, got)
		}
	}
}
