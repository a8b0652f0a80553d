package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
)

// A tally counts what became of each message, by its body.
type tally struct {
	mu        sync.Mutex
	confirmed map[string]bool
	handled   map[string]int
	failed    []error
}

func (c *tally) outcome(body string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed = append(c.failed, fmt.Errorf("%s: %w", body, err))
		return
	}
	c.confirmed[body] = true
}

func (c *tally) handle(_ context.Context, d *ferry.Delivery) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handled[string(d.Body)]++
	return nil
}

// missing is how many messages were confirmed and not handled.
func (c *tally) missing() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for body := range c.confirmed {
		if c.handled[body] == 0 {
			n++
		}
	}
	return n
}

// ranges are the numbers of the messages that were confirmed and not handled.
func (c *tally) ranges() (ranges []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lost []int
	for body := range c.confirmed {
		if n, err := strconv.Atoi(body); err == nil && c.handled[body] == 0 {
			lost = append(lost, n)
		}
	}
	slices.Sort(lost)
	for first := 0; first < len(lost); {
		last := first
		for last+1 < len(lost) && lost[last+1] == lost[last]+1 {
			last++
		}
		ranges = append(ranges, fmt.Sprintf("%d to %d", lost[first], lost[last]))
		first = last + 1
	}
	return ranges
}

// A handler behind Dedup sees each message once, whatever the broker delivers
// again.
func TestOnceToTheHandler(t *testing.T) {
	takeTurn(t)
	for _, x := range []struct {
		broker *broker
		rounds int
	}{
		{ferryBroker(t, "Ferry"), pick(5, 50)},
		{rabbitBroker(t), pick(1, 5)},
	} {
		onceToTheHandler(t, x.broker, x.rounds)
	}
}

func onceToTheHandler(t *testing.T, b *broker, rounds int) {
	t.Helper()
	const remembered = 1_000_000
	backoff := ferry.WithBackoff(10*time.Millisecond, 200*time.Millisecond)
	client, events := dial(t, b.url, backoff, ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: "once"}}}))
	publisher, err := client.Publisher(ferry.PublisherOptions{Key: "once"})
	if err != nil {
		t.Fatal(err)
	}
	c := &tally{confirmed: map[string]bool{}, handled: map[string]int{}}
	working, rest := context.WithCancel(t.Context())
	defer rest()
	sending, stop := context.WithCancel(t.Context())
	defer stop()
	var sender, receiver sync.WaitGroup
	receiver.Go(func() {
		o := ferry.ConsumerOptions{Queue: "once", Dedup: remembered}
		if err := client.Consume(working, o, c.handle); err != nil && working.Err() == nil {
			t.Errorf("%s: consuming: %v", b.name, err)
		}
	})
	submitted := 0
	sender.Go(func() {
		for {
			body := fmt.Sprint(submitted)
			err := publisher.Submit(sending, ferry.Message{Body: []byte(body)}, func(r ferry.Result) { c.outcome(body, r.Err) })
			switch {
			case sending.Err() != nil:
				return
			case err != nil:
				t.Errorf("%s: publishing: %v", b.name, err)
				return
			}
			submitted++
		}
	})
	for range rounds {
		time.Sleep(calm/4 + rand.N(calm/4))
		b.kill()
		b.up()
	}
	time.Sleep(calm / 2)
	stop()
	sender.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), endLimit)
	defer cancel()
	if err := publisher.Flush(ctx); err != nil {
		t.Errorf("%s: %v", b.name, err)
	}
	// A broker that does not answer consume is left after half a minute.
	until(2*drainLimit, func() bool { return c.missing() == 0 })
	time.Sleep(calm / 2) // for what would come twice
	if c.missing() > 0 { // are they with the broker?
		info, err := client.Inspect(ctx, "once")
		t.Logf("%s: not handled are %s; the queue: %+v, %v; the client: %+v\n%v", b.name, c.ranges(), info, err, client.Status(), events.all())
	}
	rest()
	receiver.Wait()

	lost := c.missing()
	c.mu.Lock()
	defer c.mu.Unlock()
	twice := 0
	for _, n := range c.handled {
		if n > 1 {
			twice++
		}
	}
	stats := publisher.Stats()
	t.Logf("\n%s", table("broker", b.name, "rounds", rounds, "sent", submitted, "confirmed", len(c.confirmed),
		"handled", len(c.handled), "sent again", stats.Resent, "lost", lost, "handled twice", twice))
	if lost > 0 || twice > 0 {
		t.Errorf("%s: %d messages were lost, %d were handled twice", b.name, lost, twice)
	}
	if len(c.confirmed) == 0 || stats.Resent == 0 {
		t.Errorf("%s: %d messages were confirmed and %d sent again: nothing was tested", b.name, len(c.confirmed), stats.Resent)
	}
	for _, err := range c.failed[:min(len(c.failed), 10)] {
		t.Errorf("%s: message %v", b.name, err)
	}
}
