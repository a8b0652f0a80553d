package amqplink

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ferrymq/ferry/internal/link"
)

// window is a source that keeps at most so many messages unsettled.
type window struct {
	next, settled atomic.Uint64
	total, size   uint64
	batch         []link.Outgoing
	message       *link.Message
	room, done    chan struct{}
}

func newWindow(total, size int, m *link.Message) *window {
	return &window{
		total: uint64(total), size: uint64(size), message: m,
		room: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

func (w *window) Next(limit int) []link.Outgoing {
	w.batch = w.batch[:0]
	n := w.next.Load()
	for last := min(w.total, w.settled.Load()+w.size); n < last && len(w.batch) < limit; {
		n++
		w.batch = append(w.batch, link.Outgoing{Message: w.message, Producer: "abcdefghijklmnop", Seq: n, Attempt: 1, Mandatory: true})
	}
	w.next.Store(n)
	return w.batch
}

func (w *window) Settled(tag uint64, _, _ bool) {
	w.settled.Store(tag)
	select {
	case w.room <- struct{}{}:
	default:
	}
	if tag == w.total {
		close(w.done)
	}
}
func (w *window) Written(tag uint64)           { w.Settled(tag, true, false) }
func (w *window) Returned(string, *link.Error) {}
func (w *window) Refused(uint64, *link.Error)  {}
func (w *window) Closed(error)                 {}

func send(b *testing.B, c link.Conn, queue string, n int, confirm bool) {
	w := newWindow(n, 10000, &link.Message{Key: queue, Body: []byte(strings.Repeat("x", 100)), Transient: true})
	s, err := c.OpenSender(b.Context(), link.SenderConfig{Confirm: confirm}, w)
	if err != nil {
		b.Fatal(err)
	}
	for {
		select {
		case <-w.room:
			s.Wake()
			continue
		case <-w.done:
		}
		break
	}
	if err := s.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPublish publishes to a broker in this process: its time is that of
// both.
func BenchmarkPublish(b *testing.B) {
	for _, confirm := range []bool{true, false} {
		name := map[bool]string{true: "confirm", false: "written"}[confirm]
		b.Run(name, func(b *testing.B) {
			c := mustOpen(b, link.Options{Endpoint: mustParse(b, startFerry(b))})
			mustDeclare(b, c, link.Queue{Name: "q", Transient: true, Arguments: map[string]any{"x-max-length": 1000}})
			b.ReportAllocs()
			b.ResetTimer()
			send(b, c, "q", b.N, confirm)
		})
	}
}

// taker acknowledges what it gets, each by itself.
type taker struct {
	receiver chan link.Receiver
	r        link.Receiver
	n, total int
	done     chan struct{}
}

func (k *taker) Deliver(batch []*link.Delivery) {
	if k.r == nil {
		k.r = <-k.receiver
	}
	for _, d := range batch {
		if err := k.r.Ack(d.Tag); err != nil {
			panic(err)
		}
	}
	if k.n += len(batch); k.n == k.total {
		close(k.done)
	}
}
func (k *taker) Cancelled(*link.Error) {}
func (k *taker) Closed(error)          {}

func BenchmarkConsume(b *testing.B) {
	c := mustOpen(b, link.Options{Endpoint: mustParse(b, startFerry(b))})
	mustDeclare(b, c, link.Queue{Name: "q", Transient: true})
	send(b, c, "q", b.N, true)
	k := &taker{receiver: make(chan link.Receiver, 1), total: b.N, done: make(chan struct{})}
	b.ReportAllocs()
	b.ResetTimer()
	r, err := c.OpenReceiver(b.Context(), link.ReceiverConfig{Queue: "q", Prefetch: 1000}, k)
	if err != nil {
		b.Fatal(err)
	}
	k.receiver <- r
	<-k.done
	b.StopTimer()
	if err := r.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}
