package faultbroker

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A State is what a broker has seen and holds at one moment. It is not changed
// afterwards, and must not be.
type State struct {
	Conns       []Conn       // all there ever were; the first has the number 1
	Methods     []Received   // in the order in which they came
	Publishes   []Publish    // whole ones, in the order in which they came
	Settlements []Settlement // in the order in which they came
	Delivered   int          // deliveries sent
	Held        int          // publishes whose confirm was not sent yet
	Queues      map[string]Queue
}

// Open is the number of connections that have logged in and not ended.
func (s State) Open() int {
	n := 0
	for _, c := range s.Conns {
		if c.Open && !c.Ended {
			n++
		}
	}
	return n
}

// A Conn is one of a broker's connections.
type Conn struct {
	ID         int
	Properties amqpwire.Table // of the client; nil before start-ok
	User       string
	VHost      string
	Tuned      amqpwire.ConnectionTuneOk
	Open       bool // open-ok was sent
	Closed     bool // the client asked for the end, with connection.close
	Ended      bool
	Channels   int
	Heartbeats int // received
}

// A Received is a method that a client sent.
type Received struct {
	Conn    int
	Channel uint16
	Method  amqpwire.Method
}

// A Publish is a message that a client sent. The tag is what confirms it, zero
// on a channel without confirms.
type Publish struct {
	Conn          int
	Channel       uint16
	Tag           uint64
	Exchange, Key string
	Mandatory     bool
	Properties    amqpwire.Properties
	Body          []byte
	Fate          Fate
}

// Header is a header of the message, nil where there is none.
func (p Publish) Header(name string) any { return p.Properties.Headers[name] }

// A Settlement is an ack, nack or reject of a client.
type Settlement struct {
	Conn     int
	Channel  uint16
	Tag      uint64
	Ack      bool // false: nack or reject
	Multiple bool
	Requeue  bool
}

// A Queue is how many messages and consumers a queue has.
type Queue struct {
	Ready     int // to be delivered, those included that a swap holds back
	Unsettled int
	Consumers int
}

// Snapshot returns the state of this moment.
func (b *Broker) Snapshot() State {
	s, _ := b.snapshot()
	return s
}

func (b *Broker) snapshot() (State, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// What was recorded is only ever appended to.
	s := State{
		Methods:     slices.Clip(b.methods),
		Publishes:   slices.Clip(b.publishes),
		Settlements: slices.Clip(b.settlements),
		Delivered:   b.delivered,
		Queues:      make(map[string]Queue, len(b.queues)),
	}
	for name, q := range b.queues {
		counts := Queue{Ready: len(q.ready), Consumers: len(q.consumers)}
		if q.held != nil {
			counts.Ready++
		}
		s.Queues[name] = counts
	}
	for _, c := range b.conns {
		seen := c.seen
		seen.Channels = len(c.channels)
		s.Conns = append(s.Conns, seen)
		for _, ch := range c.channels {
			s.Held += len(ch.confirms)
			for _, d := range ch.unsettled {
				if counts, ok := s.Queues[d.queue.name]; ok {
					counts.Unsettled++
					s.Queues[d.queue.name] = counts
				}
			}
		}
	}
	return s, b.version
}

// Publishes returns what clients published up to now.
func (b *Broker) Publishes() []Publish { return b.Snapshot().Publishes }

// Bodies returns those of a queue's messages that are ready, in their order.
func (b *Broker) Bodies(queue string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var bodies []string
	if q := b.queues[queue]; q != nil {
		for _, m := range q.ready {
			bodies = append(bodies, string(bytes.Clone(m.body)))
		}
	}
	return bodies
}

// Wait returns when the condition holds, which is asked after every change. It
// may call the broker's methods. The error is that the context ended first, with
// what the state was.
func (b *Broker) Wait(ctx context.Context, holds func(State) bool) error {
	defer context.AfterFunc(ctx, func() { b.change(func() {}) })()
	for {
		s, version := b.snapshot()
		if holds(s) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("faultbroker: what was waited for did not come (%d connections open, %d publishes, %d settlements, %d delivered, queues %+v): %w",
				s.Open(), len(s.Publishes), len(s.Settlements), s.Delivered, s.Queues, context.Cause(ctx))
		}
		b.mu.Lock()
		for b.version == version && ctx.Err() == nil {
			b.changed.Wait()
		}
		b.mu.Unlock()
	}
}
