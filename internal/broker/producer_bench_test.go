package broker

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/message"
)

func BenchmarkPublish(b *testing.B) {
	for _, x := range []struct {
		name  string
		props func(n int) []byte
	}{
		{"bare", func(int) []byte { return nil }},
		{"header", func(int) []byte {
			return message.AppendField(nil, message.Headers, longText("x-other-id", "0123456789abcdef-1000000"))
		}},
		{"identity", func(n int) []byte { return named(fmt.Sprintf("0123456789abcdef-%d", 1000000+n)) }},
		{"duplicate", func(n int) []byte { return duplicate(fmt.Sprintf("0123456789abcdef-%d", 1000000+n)) }},
		{"resend", func(n int) []byte { return named(fmt.Sprintf("0123456789abcdef-%d", 1000000+n), mark(2)) }},
	} {
		for _, persistent := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/persistent=%v", x.name, persistent), func(b *testing.B) {
				j := memory.New(memory.Options{})
				broker, err := Open(b.Context(), Config{Journal: j})
				if err != nil {
					b.Fatal(err)
				}
				w := &world{t: b, j: j, b: broker}
				defer w.stop()
				c := w.client().confirming()
				c.queue("a", true)
				c.consume("a", "t", true)
				text := bytes.Repeat([]byte("x"), 100)
				const round = 100
				lists := make([][]byte, b.N+round)
				for i := range lists {
					lists[i] = x.props(i)
				}
				p := &Publish{Key: []byte("a"), Persistent: persistent, Body: text}
				var events []Event
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; {
					for range round {
						p.Properties = lists[i]
						if err := c.ch.Publish(p); err != nil {
							b.Fatal(err)
						}
						i++
					}
					c.Flush()
					events = c.Take(events)
					c.Flushed(events)
				}
				b.StopTimer()
				c.Close()
			})
		}
	}
}
