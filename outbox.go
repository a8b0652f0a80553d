package ferry

import (
	"context"
	"errors"
	"fmt"
	"time"

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
					raise(c.emptied) // it will not be
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
	if e.Recovered {
		m.Attempt = max(m.Attempt, 2) // perhaps: it is marked either way
	}
	_, err := p.submit(ctx, &entry{message: m, done: func(r Result) {
		outcome := r.Outcome()
		if errors.As(r.Err, new(*doubtful)) {
			outcome = Refused // trying again would not help; what is kept says that the broker may have it
		}
		switch outcome {
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

// submitOutbox has done called when a message is in the outbox: with the
// publisher's other callbacks, for the outbox's own must not wait for it.
func (c *Client) submitOutbox(ctx context.Context, p *Publisher, m Message, done func(Result)) error {
	p.mu.Lock()
	if err := p.closing; err != nil {
		p.mu.Unlock()
		return notSent(err)
	}
	p.stores.begun++
	p.mu.Unlock()
	id := m.ID
	err := c.outbox.PutAsync(ctx, m.wire(), func(seq uint64, err error) {
		p.stored(finished{done, Result{Err: outboxError(err), producer: c.outbox.Producer(), seq: seq, id: id}})
	})
	if err != nil {
		p.stored(finished{})
		return outboxError(err)
	}
	return nil
}

// stored counts a message that was given to the outbox and has its outcome.
func (p *Publisher) stored(f finished) {
	p.mu.Lock()
	p.stores.ended++
	if f.done != nil {
		p.finished = append(p.finished, f)
	}
	p.flushedLocked(p.stores.ended)
	p.mu.Unlock()
	raise(p.results)
}

// flushOutbox waits until the outbox is empty.
func (c *Client) flushOutbox(ctx context.Context) error {
	for {
		s := c.outbox.Stats()
		if s.Messages == 0 {
			raise(c.emptied) // for others who wait
			return nil
		}
		if err := c.outbox.Err(); err != nil {
			raise(c.emptied)
			return fmt.Errorf("ferry: flushing: %d messages are in the outbox: %w", s.Messages, err)
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

// settleLook is between looks whether a connection with messages of the outbox in
// flight was lost.
const settleLook = 20 * time.Millisecond

// settleDrain has what is in flight from the outbox get its outcome. What no
// broker was sent yet stays, and so does what is in flight when the connection is
// lost.
func (c *Client) settleDrain(ctx context.Context) {
	look := time.NewTicker(settleLook)
	defer look.Stop()
	defer raise(c.emptied) // for others who wait
	for c.drain.hold() > 0 {
		select {
		case <-c.emptied:
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// hold has the publisher send nothing more over the present connection, and tells
// how much is in flight.
func (p *Publisher) hold() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.feed != nil {
		p.feed.held = true
	}
	return p.window.flying
}

// accepting is why a publisher takes no more, nil if it does.
func (p *Publisher) accepting() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closing
}
