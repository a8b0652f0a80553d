package ferry

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

func numbered(from, to int) []*Delivery {
	var ds []*Delivery
	for i := from; i < to; i++ {
		ds = append(ds, &Delivery{tag: uint64(i), Message: Message{Body: []byte("x")}})
	}
	return ds
}

// One that always holds something does not grow.
func TestBacklogThatIsNeverEmptyStaysSmall(t *testing.T) {
	var b backlog
	b.push(numbered(0, 10))
	for i := range 100_000 {
		b.push(numbered(10+i, 11+i))
		if d := b.pop(); d.tag != uint64(i) {
			t.Fatalf("got %d, want %d", d.tag, i)
		}
	}
	if cap(b.list) > 100 || b.len() != 10 || b.bytes != 10 {
		t.Errorf("room for %d, %d in it of %d bytes", cap(b.list), b.len(), b.bytes)
	}
}

func TestBacklogKeepsOrder(t *testing.T) {
	s, other := new(subscription), new(subscription)
	var b backlog
	all := numbered(0, 6)
	for i, d := range all {
		d.from = s
		if i%2 == 1 {
			d.from = other
		}
	}
	b.push(all)
	first := b.pop()
	b.unpop([]*Delivery{first})
	if got := b.remove(other); len(got) != 3 || got[0].tag != 1 || got[2].tag != 5 {
		t.Errorf("removed %v", got)
	}
	for _, want := range []uint64{0, 2, 4} {
		if d := b.pop(); d == nil || d.tag != want {
			t.Errorf("got %v, want %d", d, want)
		}
	}
	if b.pop() != nil || b.bytes != 0 {
		t.Errorf("%d bytes are left", b.bytes)
	}
}

// loose is a consumer of no client.
func loose(o ConsumerOptions) *Consumer {
	co := &Consumer{options: o, arrived: make(chan struct{}, 1), space: make(chan struct{}, 1)}
	co.ctx, co.cancel = context.WithCancelCause(context.Background())
	return co
}

// A call of Receive that was told of a delivery, and whose context ends at that
// moment, leaves it to another that waits.
func TestReceiveThatEndsLeavesTheDeliveryToAnother(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			co := loose(ConsumerOptions{})
			s := newSubscription(co)
			defer s.cancel(nil)
			ending, end := context.WithCancel(t.Context())
			go func() { _, _ = co.Receive(ending) }()
			synctest.Wait() // it waits first
			got := make(chan error)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := co.Receive(ctx)
				got <- err
			}()
			synctest.Wait()
			s.attach(nil)
			s.Deliver([]*link.Delivery{{Tag: 1}, {Tag: 2}})
			end()
			if err := <-got; err != nil {
				t.Fatal(err)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// What comes while the receiver becomes known is behind what came before.
func TestDeliveriesAreInOrderWhenTheReceiverBecomesKnown(t *testing.T) {
	for round := range 300 {
		co := loose(ConsumerOptions{})
		s := newSubscription(co)
		var want []uint64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for tag := uint64(1); tag <= 50; tag++ {
				s.Deliver([]*link.Delivery{{Tag: tag}})
			}
		}()
		s.attach(nil)
		<-done
		var got []uint64
		for tag := uint64(1); tag <= 50; tag++ {
			want = append(want, tag)
			d, err := co.take()
			if d == nil {
				t.Fatalf("round %d: %v after %v", round, err, got)
			}
			got = append(got, d.tag)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("round %d: %v", round, got)
		}
		s.cancel(nil)
	}
}

func TestBackoffGrowsToItsMaximumAndStaysThere(t *testing.T) {
	for _, c := range []struct{ initial, max time.Duration }{
		{100 * time.Millisecond, 30 * time.Second},
		{time.Minute, time.Hour},
		{time.Hour, time.Minute},
		{1, 1 << 62},
		{1 << 61, 1<<63 - 1},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			b := backoff{initial: c.initial, max: c.max}
			for n := range 200 {
				b.failures = n
				longest := time.Duration(0)
				for range 20 {
					b.failures = n
					longest = max(longest, b.next())
				}
				if longest > c.max || longest <= 0 && c.initial > 1 {
					t.Fatalf("after %d failures the longest of 20 waits is %v", n, longest)
				}
			}
		})
	}
}
