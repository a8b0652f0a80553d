package amqplink

import (
	"context"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A sender is one source on a channel of its own.
type sender struct {
	conn    *conn
	ch      *channel
	src     link.Source
	gate    *transport.Gate
	confirm bool

	sent   atomic.Uint64 // messages that were taken; the writer counts
	woken  atomic.Bool   // it is in conn.ready
	paused atomic.Bool   // by channel.flow
	shut   atomic.Bool   // nothing more is taken

	// The writer's.
	queued bool // it is in the writer's queue
	told   bool // it is among those that are told what was written
	size   int  // bytes that its last message took
}

// OpenSender implements link.Conn. When it fails neither the source nor
// cfg.Replies is called.
func (c *conn) OpenSender(ctx context.Context, cfg link.SenderConfig, src link.Source) (link.Sender, error) {
	s := &sender{conn: c, src: src, confirm: cfg.Confirm, gate: transport.NewGate(src.Closed)}
	s.ch = &channel{sender: s, gates: []*transport.Gate{s.gate}}
	requests := []amqpwire.Method{&amqpwire.ChannelOpen{}}
	if cfg.Confirm {
		requests = append(requests, &amqpwire.ConfirmSelect{})
	}
	if cfg.Replies != nil {
		s.ch.inbox = &inbox{sink: cfg.Replies, gate: transport.NewGate(cfg.Replies.Closed)}
		// It is closed first: whoever waits for a reply to what was confirmed must
		// not take a confirm on the next channel for that.
		s.ch.gates = []*transport.Gate{s.ch.inbox.gate, s.gate}
		requests = append(requests, &amqpwire.BasicConsume{Queue: link.DirectReplyTo, NoAck: true})
	}
	if err := c.begin(s.ch); err != nil {
		return nil, err
	}
	if _, err := c.ask(ctx, s.ch, true, requests...); err != nil {
		return nil, err
	}
	s.Wake()
	return s, nil
}

// Wake implements link.Sender.
func (s *sender) Wake() {
	if s.woken.Load() || s.woken.Swap(true) {
		return
	}
	s.conn.mu.Lock()
	s.conn.ready = append(s.conn.ready, s)
	s.conn.mu.Unlock()
	s.conn.signal()
}

// Close implements link.Sender. Confirmations that come before the broker's
// answer are still given to the source.
func (s *sender) Close(ctx context.Context) error {
	s.shut.Store(true)
	return s.conn.closeChannel(ctx, s.ch)
}

// settled is for the reader: the broker has confirmed, or refused.
func (s *sender) settled(tag uint64, multiple, refused bool) *link.Error {
	if sent := s.sent.Load(); tag == 0 || tag > sent || !s.confirm {
		return violation("the broker confirms a message that was not sent")
	}
	if s.gate.Enter() {
		s.src.Settled(tag, multiple, refused)
		s.gate.Leave()
	}
	return nil
}

// returned is for the reader: no queue took a message.
func (s *sender) returned(id string, err *link.Error) {
	if s.gate.Enter() {
		s.src.Returned(id, err)
		s.gate.Leave()
	}
}

// flow is for the reader: the broker wants messages, or none.
func (s *sender) flow(active bool) {
	s.paused.Store(!active)
	if active {
		s.Wake()
	}
}

// unsendable ends the sender for a message that cannot be written.
func (s *sender) unsendable(tag uint64, err error) {
	s.shut.Store(true)
	e := &link.Error{Kind: link.Unsendable, Tag: tag, Err: err}
	s.conn.abandon(s.ch)
	for _, g := range s.ch.gates {
		g.Close(e)
	}
}
