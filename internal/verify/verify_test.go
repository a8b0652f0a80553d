package verify

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// deadline bounds what must not take long.
const deadline = 60 * time.Second

// settle is enough to see that what was lost does not come.
const settle = 400 * time.Millisecond

// impatient is the option of a client that soon tries again.
func impatient() []ferry.Option {
	return []ferry.Option{ferry.WithBackoff(time.Millisecond, 20*time.Millisecond)}
}

func mustRun(t *testing.T, o Options) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if o.Queue == "" {
		o.Queue = "verify"
	}
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("it did not end: %+v", r)
	}
	if r.Stopped != "" {
		t.Errorf("it was stopped: %s", r.Stopped)
	}
	return r
}

// Each fault that a broker can have is caught, each time.
func TestFaultsAreCountedExactly(t *testing.T) {
	const n = 1000
	for _, row := range []struct {
		name   string
		faults faultbroker.Faults
		want   Counts
	}{
		{"none", faultbroker.Faults{}, Counts{Sent: n, Confirmed: n, Received: n}},
		{"one is lost", faultbroker.Faults{LoseEvery: n}, Counts{Sent: n, Confirmed: n, Received: n - 1, Lost: 1}},
		{"every 7th is lost", faultbroker.Faults{LoseEvery: 7}, Counts{Sent: n, Confirmed: n, Received: n - n/7, Lost: n / 7}},
		{"every 10th is doubled", faultbroker.Faults{DoubleEvery: 10}, Counts{Sent: n, Confirmed: n, Received: n, Duplicated: n / 10}},
		{"of every 5 the last two change places", faultbroker.Faults{SwapEvery: 5}, Counts{Sent: n, Confirmed: n, Received: n, Reordered: n / 5}},
		{"every 20th is nacked", faultbroker.Faults{NackEvery: 20}, Counts{Sent: n, Confirmed: n - n/20, Received: n - n/20, Refused: n / 20}},
		{"every 25th is returned", faultbroker.Faults{ReturnEvery: 25}, Counts{Sent: n, Confirmed: n - n/25, Received: n - n/25, Refused: n / 25}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := faultbroker.Start(t, faultbroker.Options{Faults: row.faults})
			r := mustRun(t, Options{URL: b.URL(), Count: n, Producers: 1, Consumers: 1, SettleTimeout: settle})
			if r.Counts != row.want {
				t.Errorf("got  %+v\nwant %+v", r.Counts, row.want)
			}
			if r.Broken() != (row.want.Lost > 0) {
				t.Errorf("broken: %v", r.Broken())
			}
			if r.Failovers != 0 {
				t.Errorf("%d failovers", r.Failovers)
			}
			if _, there := b.Snapshot().Queues["verify"]; there {
				t.Error("the queue was made for the run and is there still")
			}
		})
	}
}

func TestManyProducersAndConsumers(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{Faults: faultbroker.Faults{LoseEvery: 100}})
	r := mustRun(t, Options{URL: b.URL(), Count: 2001, Producers: 3, Consumers: 2, Size: 500, SettleTimeout: settle})
	if want := (Counts{Sent: 2001, Confirmed: 2001, Received: 1981, Lost: 20}); r.Counts != want {
		t.Errorf("got  %+v\nwant %+v", r.Counts, want)
	}
	if len(r.Missing) != maxMissing {
		t.Errorf("the missing are %v", r.Missing)
	}
}

// What others put into the queue is told apart from what is damaged.
func TestForeignAndDamaged(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	ours := faultbroker.Message{Body: appendBody(nil, stamp{run: 1, sequence: 1}, DefaultSize)}
	b.Enqueue("verify", faultbroker.Message{Body: []byte("another's")}, ours)
	r := mustRun(t, Options{URL: b.URL(), Count: 10})
	if want := (Counts{Sent: 10, Confirmed: 10, Received: 10, Foreign: 2}); r.Counts != want {
		t.Errorf("got  %+v\nwant %+v", r.Counts, want)
	}
	if _, there := b.Snapshot().Queues["verify"]; !there {
		t.Error("a queue that was there before was deleted")
	}
}

// A broker that goes away and comes back is a gap and a failover, and, with what
// it keeps, no loss. Publishes without an outcome are sent again.
func TestOutageIsMeasured(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	down := make(chan struct{})
	go func() {
		defer close(down)
		if err := b.Wait(t.Context(), func(s faultbroker.State) bool { return len(s.Publishes) > 300 }); err != nil {
			return
		}
		b.Down()
		if err := b.Up(); err != nil {
			t.Error(err)
		}
	}()
	r := mustRun(t, Options{
		URL: b.URL(), Count: 1000, Rate: 2000, Window: 100, Prefetch: 50,
		Client: impatient,
	})
	<-down
	if r.Sent != 1000 || r.Confirmed != 1000 || r.Received != 1000 || r.Lost != 0 || r.Reordered != 0 {
		t.Errorf("got %+v", r.Counts)
	}
	if r.Failovers == 0 || r.LongestGap != max(r.LongestConfirm, r.LongestDeliver) {
		t.Errorf("got %+v", r)
	}
}

func TestEndOfContextEndsInGoodOrder(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		_ = b.Wait(t.Context(), func(s faultbroker.State) bool { return s.Delivered > 100 })
		stop()
	}()
	r, err := Run(ctx, Options{URL: b.URL(), Queue: "verify"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Stopped != "" || r.Sent == 0 || r.Confirmed != r.Sent || r.Received != r.Sent {
		t.Errorf("got %+v", r)
	}
}

func TestNoBroker(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	b.Close()
	if _, err := Run(t.Context(), Options{URL: b.URL(), Queue: "verify", Count: 1}); !errors.Is(err, ferry.ErrNoBroker) {
		t.Errorf("got %v", err)
	}
	if _, err := Run(t.Context(), Options{URL: b.URL(), Queue: "verify", Count: 1, ConnectTimeout: 50 * time.Millisecond}); !errors.Is(err, ferry.ErrNoBroker) {
		t.Errorf("after trying for a while: %v", err)
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for name, o := range map[string]Options{
		"no queue":   {Count: 1},
		"too small":  {Queue: "q", Size: MinSize - 1},
		"too few":    {Queue: "q", Producers: 2, Count: 1},
		"negative":   {Queue: "q", Window: -1},
		"slow":       {Queue: "q", Rate: -1},
		"no reading": {Queue: "q", Consumers: -2},
	} {
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Ferry's own broker keeps its promises, also when it is killed. What it had
// delivered and not yet written is sent again then, and comes twice.
func TestFerryKeepsItsPromises(t *testing.T) {
	b := ferrytest.Start(t, ferrytest.Dir(t.TempDir()))
	killed := make(chan struct{}, 1)
	o := Options{URL: b.URL(), Queue: "verify", Count: 6000, Rate: 3000, Producers: 2, Consumers: 1, ReportEvery: 20 * time.Millisecond}
	o.Client = impatient
	o.Progress = func(p Progress) {
		if p.Received > 1500 {
			select {
			case killed <- struct{}{}:
			default:
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	done := make(chan *Report, 1)
	go func() {
		r, err := Run(ctx, o)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	select {
	case <-killed:
	case <-ctx.Done():
		t.Fatal("it did not come so far")
	}
	b.Kill()
	b.Start()
	r := <-done
	if r == nil {
		return
	}
	if r.Sent != 6000 || r.Confirmed != 6000 || r.Received != 6000 || r.Lost+r.Reordered+(r.Duplicated-r.Resent)+r.Damaged+r.Foreign+r.Unknown+r.Refused != 0 {
		t.Errorf("got %+v", r)
	}
	if r.Failovers == 0 {
		t.Error("the broker was killed, and no failover is counted")
	}
}

// An outage that has no end is a gap until nothing more was sent, and what was
// not confirmed is unknown and no loss. (What was confirmed and not delivered when it
// began is one.)
func TestOutageWithoutEnd(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	down := make(chan time.Time, 1)
	go func() {
		_ = b.Wait(t.Context(), func(s faultbroker.State) bool { return len(s.Publishes) > 100 })
		b.Down()
		down <- time.Now()
	}()
	r := mustRun(t, Options{URL: b.URL(), Rate: 1000, Duration: 600 * time.Millisecond, SettleTimeout: settle, Client: impatient})
	if since := time.Since(<-down); r.Unknown == 0 || r.Lost > r.Confirmed-r.Received || r.LongestConfirm == 0 || r.LongestGap > since.Milliseconds() {
		t.Errorf("%v after its end: %+v", since, r)
	}
	if least := int64(200); r.LongestConfirm < least || r.LongestDeliver < least {
		t.Errorf("the longest gaps are %d and %d ms", r.LongestConfirm, r.LongestDeliver)
	}
}
