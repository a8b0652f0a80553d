package broker

import (
	"fmt"
	"testing"
)

// Consumers that do not settle keep little of their queues' backlogs in memory,
// however many queues there are.
func TestStalledConsumersDoNotKeepBacklogsInMemory(t *testing.T) {
	const limit = 1 << 20
	w := newWorld(t, func(c *Config) { c.HotBytes = limit })
	c := w.client()
	defer c.Close()
	c.ch.Qos(1, false)
	const queues, each = 10, 400
	for i := range queues {
		name := fmt.Sprint("q", i)
		c.queue(name, true)
		c.consume(name, name, false)
	}
	body := string(make([]byte, 4096))
	for range each {
		for i := range queues {
			c.publish("", fmt.Sprint("q", i), body, true)
		}
	}
	eventually(t, func() bool {
		w.b.evict.poke()
		return w.b.evict.hot.Load() <= 2*limit
	})
	// They go on where they were.
	for range 3 * queues {
		e := c.next(EventDelivery)
		if err := c.ch.Ack(e.Tag, false); err != nil {
			t.Fatal(err)
		}
	}
}
