package stomplink

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// A sender is one source on a session of its own.
type sender struct {
	session *session
	src     link.Source
	gate    *transport.Gate
	confirm bool
	replyTo string // what DirectReplyTo is on this session

	sent  atomic.Uint64 // messages that were taken; the writer counts
	woken atomic.Bool   // the writer is to ask for messages
	shut  atomic.Bool   // nothing more is taken

	// The writer's.
	told bool // the source is to be told what was written
	size int  // bytes that its last message took

	receipts receipts // the reader's
}

// OpenSender implements link.Conn. When it fails neither the source nor
// cfg.Replies is called.
func (c *conn) OpenSender(ctx context.Context, cfg link.SenderConfig, src link.Source) (link.Sender, error) {
	s := &sender{src: src, confirm: cfg.Confirm, gate: transport.NewGate(src.Closed)}
	session, err := c.another(ctx, func(on *session) {
		s.session, on.sender = on, s
		on.Gates = []*transport.Gate{s.gate}
		if cfg.Replies == nil {
			return
		}
		on.inbox = &inbox{sink: cfg.Replies, gate: transport.NewGate(cfg.Replies.Closed)}
		// It is closed first: whoever waits for a reply to what was confirmed must
		// not take a receipt of the next session for that.
		on.Gates = []*transport.Gate{on.inbox.gate, s.gate}
	})
	if err != nil {
		return nil, err
	}
	if cfg.Replies != nil {
		err = s.subscribeReplies(ctx)
	} else {
		err = session.OpenGates()
	}
	if err != nil {
		session.End(transport.Closed(), false)
		return nil, err
	}
	s.Wake()
	return s, nil
}

// subscribeReplies finds a destination for replies to what this session sends.
func (s *sender) subscribeReplies(ctx context.Context) error {
	switch d := s.session.conn.dialect; d {
	case artemis:
		// A queue that no other session knows; it goes with its last consumer.
		s.replyTo = "ferry.reply." + strings.ToLower(rand.Text())
		headers, err := s.session.subscription(place{s.replyTo, anycast}, 1, link.ReceiverConfig{NoAck: true})
		if err != nil {
			return err
		}
		return s.session.ask(ctx, stompwire.Subscribe, headers, true)
	default:
		// The broker makes the queue, and a subscription to it, when it sees the first
		// reply-to.
		s.replyTo = stompwire.Destination{Kind: stompwire.TempQueue, Name: "ferry"}.String()
		return s.session.OpenGates()
	}
}

// Wake implements link.Sender.
func (s *sender) Wake() {
	if s.woken.Load() || s.woken.Swap(true) {
		return
	}
	s.session.Signal()
}

// Close implements link.Sender. Receipts that come before the broker's answer are
// still given to the source.
func (s *sender) Close(ctx context.Context) error {
	s.shut.Store(true)
	if err := s.session.Close(ctx); err != nil {
		return fmt.Errorf("closing a sender: %w", err)
	}
	return nil
}

// unsendable ends the sender for a message that cannot be written.
func (s *sender) unsendable(tag uint64, err error) {
	s.shut.Store(true)
	e := &link.Error{Kind: link.Unsendable, Tag: tag, Err: err}
	for _, g := range s.session.Gates {
		g.Close(e)
	}
	s.session.End(e, true)
}
