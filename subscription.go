package ferry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// A subscription is a consumer on one connection. It is the sink of its receiver.
type subscription struct {
	consumer *Consumer
	receiver link.Receiver // set before the first delivery is handed out

	ctx       context.Context // of its deliveries
	cancel    context.CancelCauseFunc
	cancelled chan struct{} // one slot: the broker sends no more
	closed    chan struct{} // closed when the receiver has ended
	idle      chan struct{} // one slot: nothing that was handed out is unsettled

	mu          sync.Mutex
	attached    bool
	early       []*Delivery // came before the receiver was known
	outstanding int         // handed out and not settled
	retiring    bool        // idle is of interest
	reason      *link.Error // of the cancellation
	err         error       // of the end
}

func newSubscription(co *Consumer) *subscription {
	s := &subscription{
		consumer:  co,
		cancelled: make(chan struct{}, 1),
		closed:    make(chan struct{}),
		idle:      make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// attach makes known by which receiver deliveries are settled. What comes
// meanwhile is behind what came before.
func (s *subscription) attach(r link.Receiver) {
	s.receiver = r
	for {
		s.mu.Lock()
		early := s.early
		s.early = nil
		s.attached = len(early) == 0
		s.mu.Unlock()
		if len(early) == 0 {
			return
		}
		s.consumer.put(s, early)
	}
}

// Deliver implements link.Sink.
func (s *subscription) Deliver(ds []*link.Delivery) {
	slab := make([]Delivery, len(ds))
	list := make([]*Delivery, len(ds))
	for i, d := range ds {
		slab[i] = Delivery{
			Message: Message(d.Message), ID: d.Message.ID, Redelivered: d.Redelivered, Attempt: d.Attempt,
			tag: d.Tag, from: s,
		}
		slab[i].Message.ID = ""
		list[i] = &slab[i]
	}
	if s.consumer.options.NoAck { // nothing is settled, and there may be no room
		s.consumer.put(s, list)
		return
	}
	s.mu.Lock()
	if !s.attached {
		s.early = append(s.early, list...)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.consumer.put(s, list)
}

// Cancelled implements link.Sink.
func (s *subscription) Cancelled(reason *link.Error) {
	s.mu.Lock()
	s.reason = reason
	s.mu.Unlock()
	raise(s.cancelled)
}

// Closed implements link.Sink.
func (s *subscription) Closed(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	cause := ErrClosed
	if err != nil {
		if cause = public(err); !isLost(cause) {
			cause = fmt.Errorf("%w: %w", ErrConnectionLost, cause)
		}
	}
	s.cancel(cause)
	close(s.closed)
}

func (s *subscription) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return public(s.err)
	case s.reason != nil:
		return public(s.reason)
	default:
		return nil
	}
}

func (s *subscription) handedOut() {
	s.mu.Lock()
	s.outstanding++
	s.mu.Unlock()
}

func (s *subscription) settled() {
	s.mu.Lock()
	s.outstanding--
	idle := s.retiring && s.outstanding <= 0
	s.mu.Unlock()
	if idle {
		raise(s.idle)
	}
}

// settle waits until everything that was handed out is settled, or ctx ends, or
// the receiver has.
func (s *subscription) settle(ctx context.Context) {
	s.mu.Lock()
	s.retiring = true
	idle := s.outstanding <= 0
	s.mu.Unlock()
	if idle {
		return
	}
	select {
	case <-s.idle:
	case <-s.closed:
	case <-ctx.Done():
	}
}

// finish ends the subscription in order: the broker sends no more, what nobody
// has seen is given back, and what was handed out has some time to be settled.
// Then the contexts of its deliveries end with why.
func (s *subscription) finish(ctx context.Context, grace time.Duration, why error) {
	if s.receiver.Cancel(ctx) == nil {
		s.giveBack()
	}
	if grace > 0 {
		bounded, cancel := context.WithTimeout(ctx, grace)
		s.settle(bounded)
		cancel()
	}
	s.cancel(why)
	_ = s.receiver.Close(ctx) // what was not written is delivered again
}

// giveBack gives back what was not handed out. Closing the receiver does so, too;
// a nack keeps the broker from counting it as failed (RabbitMQ's delivery limit
// counts what a closed channel returns).
func (s *subscription) giveBack() {
	for _, d := range s.consumer.takeBack(s) {
		_ = s.receiver.Nack(d.tag, true)
	}
}
