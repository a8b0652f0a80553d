package gmqlink

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
)

// A sender is one source on a session of its own.
type sender struct {
	session *session
	src     link.Source
	gate    *transport.Gate
	confirm bool

	sent  atomic.Uint64 // messages that were taken; the writer counts
	woken atomic.Bool   // the writer is to ask for messages
	shut  atomic.Bool   // nothing more is taken

	// The writer's.
	told bool // the source is to be told what was written
	size int  // bytes that its last message took

	// The reader's.
	answered uint64 // messages that have their reply
	settled  uint64 // of which the source was told
	yes      []byte // the last reply that confirmed one
	refusing bool   // the last reply refused one
}

// OpenSender implements link.Conn. When it fails neither the source nor
// cfg.Replies is called. Nothing ever comes to cfg.Replies: a message that asks for a
// direct reply is unsendable.
func (c *conn) OpenSender(ctx context.Context, cfg link.SenderConfig, src link.Source) (link.Sender, error) {
	s := &sender{src: src, confirm: cfg.Confirm, gate: transport.NewGate(src.Closed)}
	session, err := c.another(ctx, func(on *session) {
		s.session, on.sender = on, s
		on.Gates = []*transport.Gate{s.gate}
		if cfg.Replies != nil {
			on.Gates = []*transport.Gate{transport.NewGate(cfg.Replies.Closed), s.gate}
		}
	})
	if err != nil {
		return nil, err
	}
	if err := session.OpenGates(); err != nil {
		session.End(transport.Closed(), false)
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
	s.session.Signal()
}

// Close implements link.Sender. Replies that come before the server's last answer
// are still given to the source.
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

// settleRun tells the source of the confirmations that came.
func (s *session) settleRun() {
	k := s.sender
	if k == nil || k.answered == k.settled {
		return
	}
	k.settled = k.answered
	s.conn.takes()
	if k.confirm {
		k.tell(k.settled, true, false)
	}
}

func (s *sender) tell(tag uint64, multiple, refused bool) {
	if s.gate.Enter() {
		s.src.Settled(tag, multiple, refused)
		s.gate.Leave()
	}
}

// giveBack tells the source why the server has not taken a message.
func (s *sender) giveBack(tag uint64, err *link.Error) {
	if !s.gate.Enter() {
		return
	}
	defer s.gate.Leave()
	s.src.Refused(tag, err)
}

// identity is the id of a message, "" if it has none.
func identity(o *link.Outgoing) string {
	switch {
	case o.Message.ID != "":
		return o.Message.ID
	case o.Producer == "":
		return ""
	}
	return o.Producer + "-" + strconv.FormatUint(o.Seq, 10)
}
