package ferry

import (
	"context"
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/outbox"
)

// drainBatch is how many messages are read from the outbox at once.
const drainBatch = 256

// OutboxStatus is how an outbox does.
type OutboxStatus struct {
	Messages int64 // waiting for a broker's confirmation
	Bytes    int64 // on disk
	MaxBytes int64
	Refused  int64 // by a broker; they are in the file refused.jsonl of the outbox
	Err      error // why it takes nothing any more
}

func (c *Client) openOutbox() error {
	if c.options.outboxDir == "" {
		return nil
	}
	o, err := outbox.Open(c.options.outboxDir, outbox.Options{MaxBytes: c.options.outboxBytes, Logger: c.options.logger})
	if err != nil {
		return fmt.Errorf("ferry: opening the outbox %s: %w", c.options.outboxDir, err)
	}
	c.outbox = o
	return nil
}

// drainOutbox sends what is in the outbox, in order, through a publisher of its
// own.
func (c *Client) drainOutbox() error {
	p, err := c.newPublisher(PublisherOptions{}, nil)
	if err != nil {
		return err
	}
	c.drain = p
	c.emptied = make(chan struct{}, 1)
	c.drained = make(chan struct{})
	ctx, cancel := context.WithCancelCause(p.ctx)
	c.stopDrain = cancel
	go func() {
		defer close(c.drained)
		for {
			entries, err := c.outbox.Take(ctx, drainBatch)
			if err != nil {
				if failure := c.outbox.Err(); failure != nil {
					c.events.add(Event{Kind: OutboxFailed, Connection: publishing, Err: failure})
				}
				return
			}
			for _, e := range entries {
				if c.sendEntry(ctx, p, e) != nil {
					return // it stays in the outbox
				}
			}
		}
	}()
	return nil
}

func (c *Client) sendEntry(ctx context.Context, p *Publisher, e outbox.Entry) error {
	m := Message(e.Message)
	if m.ID == "" {
		m.ID = messageID(c.outbox.Producer(), e.Seq)
	}
	attempts := 0
	if e.Recovered {
		attempts = 1 // perhaps: it is marked either way
	}
	_, err := p.submit(ctx, &entry{message: m, attempts: attempts, done: func(r Result) {
		switch r.Outcome() {
		case Confirmed:
			c.outbox.Settle(e.Seq)
		case Refused:
			err := c.outbox.Refuse(e.Seq, r.Err)
			c.events.add(Event{Kind: MessageRefused, Connection: publishing, Err: errors.Join(fmt.Errorf("message %s: %w", m.ID, r.Err), err)})
		default: // it stays
		}
		raise(c.emptied)
	}})
	return err
}

func outboxError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, outbox.ErrFull):
		return notSent(fmt.Errorf("%w: %w", ErrOutboxFull, err))
	case errors.Is(err, outbox.ErrUnknown):
		return unknown(err)
	case errors.Is(err, outbox.ErrClosed):
		return notSent(ErrClosed)
	default:
		return notSent(err)
	}
}

// putOutbox waits until a message is in the outbox.
func (c *Client) putOutbox(ctx context.Context, p *Publisher, m Message) (err error) {
	end, err := p.prepare(ctx, &m)
	if err != nil {
		return err
	}
	if end != nil {
		defer func() { end(err) }()
	}
	if err := p.accepting(); err != nil {
		return notSent(err)
	}
	_, err = c.outbox.Put(ctx, m.wire())
	return outboxError(err)
}

// submitOutbox has done called when a message is in the outbox.
func (c *Client) submitOutbox(ctx context.Context, p *Publisher, m Message, done func(Result)) error {
	if err := p.accepting(); err != nil {
		return notSent(err)
	}
	id := m.ID
	return outboxError(c.outbox.PutAsync(ctx, m.wire(), func(seq uint64, err error) {
		if done != nil {
			done(Result{Err: outboxError(err), producer: c.outbox.Producer(), seq: seq, id: id})
		}
	}))
}

// flushOutbox waits until the outbox is empty.
func (c *Client) flushOutbox(ctx context.Context) error {
	for {
		s := c.outbox.Stats()
		if s.Messages == 0 {
			raise(c.emptied) // for others who wait
			return nil
		}
		select {
		case <-c.emptied:
		case <-ctx.Done():
			return fmt.Errorf("ferry: flushing: %d messages are in the outbox: %w", s.Messages, withReason(ended(ctx), c.publish.why()))
		case <-c.ctx.Done():
			return fmt.Errorf("ferry: flushing: %d messages are in the outbox: %w", s.Messages, ended(c.ctx))
		}
	}
}

func (c *Client) outboxStatus() OutboxStatus {
	s := c.outbox.Stats()
	return OutboxStatus{
		Messages: s.Messages, Bytes: s.Bytes, MaxBytes: s.MaxBytes,
		Refused: int64(s.Refused), Err: c.outbox.Err(),
	}
}

// closeOutbox ends it when nothing sends from it any more.
func (c *Client) closeOutbox() error {
	if c.outbox == nil {
		return nil
	}
	if c.drained != nil {
		c.stopDrain(ErrClosed)
		<-c.drained
	}
	return c.outbox.Close()
}

// settleDrain has what is in flight from the outbox get its outcome. What no
// broker was sent yet stays.
func (c *Client) settleDrain(ctx context.Context) {
	p := c.drain
	p.mu.Lock()
	if p.feed != nil {
		p.feed.held = true
	}
	flying := p.window.flying
	p.mu.Unlock()
	for flying > 0 {
		select {
		case <-p.drained:
		case <-ctx.Done():
			return
		case <-p.ended:
			return
		}
		p.mu.Lock()
		flying = p.window.flying
		p.mu.Unlock()
	}
}

// accepting is why a publisher takes no more, nil if it does.
func (p *Publisher) accepting() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closing
}
