package ferry

import (
	"context"
	"testing"

	"github.com/ferrymq/ferry/internal/link"
)

// A still is a connection with one sender, whose source the benchmark is given.
type still struct {
	link.Conn
	done    chan struct{}
	sources chan link.Source
}

func (s *still) OpenSender(_ context.Context, _ link.SenderConfig, src link.Source) (link.Sender, error) {
	s.sources <- src
	return idle{}, nil
}

func (s *still) Done() <-chan struct{} { return s.done }
func (s *still) Err() error            { return nil }

type idle struct{}

func (idle) Wake()                       {}
func (idle) Close(context.Context) error { return nil }

// What a message costs in this package: from Submit to its callback.
func BenchmarkPublisher(b *testing.B) {
	const batch = 250
	c := &Client{publishers: make(map[*Publisher]struct{})}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.events = newEventQueue(nil)
	c.publish = newSupervisor(c, publishing)
	conn := &still{done: make(chan struct{}), sources: make(chan link.Source, 1)}
	c.publish.set(&session{conn: conn, moved: make(chan struct{})}, nil, func(*ConnectionStatus) {})
	p, err := c.Publisher(PublisherOptions{})
	if err != nil {
		b.Fatal(err)
	}
	src := <-conn.sources
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := Message{Key: "q", Body: make([]byte, 100)}
	called := 0
	done := func(Result) { called++ }
	b.ReportAllocs()
	var tag uint64
	for b.Loop() {
		for range batch {
			if err := p.Submit(ctx, m, done); err != nil {
				b.Fatal(err)
			}
		}
		for left := batch; left > 0; {
			n := len(src.Next(left))
			left -= n
			tag += uint64(n)
		}
		src.Settled(tag, true, false)
	}
	b.StopTimer()
	if err := p.Close(ctx); err != nil {
		b.Fatal(err)
	}
	if called != int(tag) {
		b.Fatalf("%d callbacks of %d messages", called, tag)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(tag), "ns/message")
}
