package broker

import (
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

// BenchmarkDeadLetters moves persistent messages of 100 bytes from a queue to
// another, with a journal on files: those that a consumer rejects, and those that
// leave by themselves, as expired ones do. A move is counted when it is durable.
func BenchmarkDeadLetters(b *testing.B) {
	for _, how := range []string{"rejected one by one", "rejected by many", "expired"} {
		b.Run(how, func(b *testing.B) {
			dir := b.TempDir()
			w := &world{t: b, open: func() (journal.Journal, error) {
				return file.Open(vfs.OS{}, dir, file.Options{Logger: discard})
			}}
			w.start()
			b.Cleanup(w.stop)
			c := w.client()
			c.queue("dead", true)
			c.queueWith("q", true, deadLetters("", "dead"))
			text := string(make([]byte, 100))
			props := message.AppendFieldString(nil, message.ContentType, "text/plain")
			p := &Publish{Key: []byte("q"), Persistent: true, Properties: props, Body: []byte(text)}
			for range b.N {
				if err := c.ch.Publish(p); err != nil {
					b.Fatal(err)
				}
			}
			c.Flush()
			if err := w.b.flushLog(); err != nil {
				b.Fatal(err)
			}
			const prefetch = 1000
			if how != "expired" {
				c.ch.Qos(prefetch, false)
				c.consume("q", "t", false)
			}
			b.ReportAllocs()
			b.ResetTimer()
			if how == "expired" {
				q := w.lookup("q")
				for done := 0; done < b.N; {
					q.mu.Lock()
					for range 1000 {
						seq, e := q.peekLocked()
						if e == nil {
							break
						}
						q.expelLocked(seq, expired)
						done++
					}
					q.reportLocked()
					q.mu.Unlock()
				}
			}
			for done := 0; how != "expired" && done < b.N; {
				for _, e := range c.Take(nil) {
					if e.Kind != EventDelivery {
						continue
					}
					done++
					c.Flushed([]Event{e})
					if how == "rejected by many" && done%100 > 0 && done < b.N {
						continue
					}
					if err := c.ch.Nack(e.Tag, how == "rejected by many", false); err != nil {
						b.Fatal(err)
					}
				}
				if done < b.N {
					<-c.Wake()
				}
			}
			w.settled("q")
			if err := w.b.flushLog(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "letters/s")
			c.ready("dead", b.N)
			c.Close()
		})
	}
}
