package broker

import (
	"fmt"
	"testing"

	"github.com/ferrymq/ferry/internal/journal/memory"
)

// BenchmarkPage lists pages of 100 of 100,000 queues, each with a message.
func BenchmarkPage(b *testing.B) {
	j := memory.New(memory.Options{})
	br, err := Open(b.Context(), Config{Journal: j})
	if err != nil {
		b.Fatal(err)
	}
	w := &world{t: b, j: j, b: br}
	defer w.stop()
	c := w.client()
	defer c.Close()
	for i := range 100_000 {
		name := fmt.Sprintf("team-%03d.queue-%06d", i%997, i)
		c.queue(name, false)
		if err := c.ch.Publish(&Publish{Key: []byte(name), Body: make([]byte, i%64)}); err != nil {
			b.Fatal(err)
		}
	}
	c.Flush()
	for _, bench := range []struct {
		name string
		f    Filter
	}{
		{"ByName", Filter{Page: 500}},
		{"Substring", Filter{Page: 1, Name: "-99"}},
		{"Regexp", Filter{Page: 1, Name: "^team-[0-9]+.*9$", Regexp: true}},
		{"SortByMessages", Filter{Page: 1, Sort: "messages", Reverse: true}},
		{"SubstringSortByMessages", Filter{Page: 1, Name: "QUEUE-0", Sort: "messages", Reverse: true}},
		{"RegexpSortByMessages", Filter{Page: 1, Name: "^team-[0-9]+.*9$", Regexp: true, Sort: "messages", Reverse: true}},
		{"SortByRate", Filter{Page: 1, Sort: "message_stats.publish_details.rate", Reverse: true}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				if p, err := br.Queues(bench.f); err != nil || len(p.Items) != DefaultPage {
					b.Fatal(len(p.Items), err)
				}
			}
		})
	}
	b.Run("ByNameAfterAChange", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			c.queue(fmt.Sprint("new-", i), false)
			if _, err := br.Queues(Filter{Page: 1}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Totals", func(b *testing.B) {
		for b.Loop() {
			if t := br.Totals(Filter{}); t.Queues < 100_000 {
				b.Fatal(t.Queues)
			}
		}
	})
}
