package load

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func config(b *fakeBroker) Config {
	return Config{
		Addr: b.addr, User: "guest", Password: "guest",
		Producers: 1, Consumers: 1, Queues: 1, Size: 100, Batch: 64,
		Prefetch: 1000, AckEvery: 100, Seconds: 1, Prefix: "test",
	}
}

func TestEveryMessageIsPublishedReceivedAndAcknowledged(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*Config)
		want int64
	}{
		"one to one":           {func(c *Config) {}, 1001},
		"confirmed":            {func(c *Config) { c.Confirm = 10; c.Persistent = true }, 1001},
		"window of one":        {func(c *Config) { c.Confirm = 1 }, 1001},
		"several to several":   {func(c *Config) { c.Producers, c.Consumers, c.Queues, c.Confirm = 3, 3, 3, 50 }, 1001},
		"fanout":               {func(c *Config) { c.Fanout, c.Consumers, c.Queues = true, 4, 4 }, 4004},
		"interleaved":          {func(c *Config) { c.Interleave, c.Consumers, c.Queues, c.Confirm = true, 2, 7, 100 }, 1001},
		"more queues than 256": {func(c *Config) { c.Interleave, c.Queues = true, 300 }, 1001},
		"larger than a frame":  {func(c *Config) { c.Size, c.Batch = 10_000, 2 }, 1001},
		"held to a rate":       {func(c *Config) { c.Rate, c.Batch, c.AckEvery = 20_000, 1, 1 }, 1001},
	} {
		t.Run(name, func(t *testing.T) {
			b := newFakeBroker(t)
			cfg := config(b)
			cfg.Count = 1001
			c.set(&cfg)
			r, err := Run(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if r.Published != 1001 || r.Received != c.want {
				t.Errorf("published %d, received %d, want 1001, %d", r.Published, r.Received, c.want)
			}
			if r.EndToEnd == nil || r.EndToEnd.P50 <= 0 || r.Seconds <= 0 || r.ReceivedPerS <= 0 {
				t.Errorf("%+v", r)
			}
			if cfg.Confirm > 0 && (r.Confirmed != 1001 || r.Confirm.P99 <= 0) {
				t.Errorf("confirmed %d, %+v", r.Confirmed, r.Confirm)
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.acked != int(c.want) {
				t.Errorf("acknowledged %d, want %d", b.acked, c.want)
			}
			if len(b.queues) != 0 {
				t.Errorf("%d queues are left", len(b.queues))
			}
		})
	}
}

func TestKeptMessagesAreCountedAndDrained(t *testing.T) {
	b := newFakeBroker(t)
	c := config(b)
	c.Queues, c.Interleave, c.Keep, c.Count, c.Confirm, c.Consumers = 5, true, true, 100, 20, 0
	r, err := Run(t.Context(), c)
	if err != nil || r.Confirmed != 100 || r.Received != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if n, err := Depth(c, 0); err != nil || n != 100 {
		t.Fatalf("%d messages, %v", n, err)
	}
	c.Queues = 2
	if n, err := Depth(c, 3); err != nil || n != 40 {
		t.Fatalf("%d messages in the last two, %v", n, err)
	}
	c.Queues, c.Producers, c.Consumers = 5, 0, 1
	r, err = Run(t.Context(), c)
	if err != nil || r.Received != 100 || r.EndToEnd != nil {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestMeasuredForATime(t *testing.T) {
	c := config(newFakeBroker(t))
	c.Seconds, c.Confirm = 0.2, 100
	r, err := Run(t.Context(), c)
	if err != nil || r.Seconds < 0.2 || r.Seconds > 1 || r.Confirmed != r.Published || r.Published == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRefusedPublishesAreAnError(t *testing.T) {
	b := newFakeBroker(t)
	b.refuse = true
	c := config(b)
	c.Count, c.Confirm, c.Consumers = 100, 10, 0
	r, err := Run(t.Context(), c)
	if err == nil || r.Nacked != 100 || r.Confirmed != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCancelledRunEnds(t *testing.T) {
	c := config(newFakeBroker(t))
	c.Seconds = 3600
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("over")
	cancel(over)
	if _, err := Run(ctx, c); !errors.Is(err, over) {
		t.Errorf("%v", err)
	}
}

func TestAllFaultsOfAConfigAreToldTogether(t *testing.T) {
	_, err := Run(t.Context(), Config{Size: 7, Prefetch: 1 << 16, Prefix: strings.Repeat("x", 201)})
	if err == nil {
		t.Fatal("no error")
	}
	for _, word := range []string{"size 7", "neither", "queues", "batch", "ack-every", "prefetch", "seconds", "prefix"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
}
