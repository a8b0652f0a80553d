package gmqserver

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// waitMost is the longest that S waits for a message.
const waitMost = 30 * time.Second

// subscribe handles S: it takes the first message of a queue.
func (c *conn) subscribe(e ending) error {
	switch c.req.Ack {
	case "", gmqwire.AckAuto, gmqwire.AckManual:
	default:
		return faultf(commandInvalid, "ack must be %q or %q, not %s", gmqwire.AckManual, gmqwire.AckAuto, quoted(c.req.Ack))
	}
	got, err := c.get(c.req.Queue)
	if err != nil {
		return err
	}
	if got == nil && c.req.WaitMsec > 0 && !e.more && e.next == newline {
		c.waits = true
		return nil
	}
	return c.hand(e, got)
}

// hand queues the answer to S.
func (c *conn) hand(e ending, got *broker.Event) error {
	a := c.reply(e)
	a.reply.Payload = empty
	if got == nil {
		c.add(a)
		return nil
	}
	v, err := message.ParseVisible(got.Data)
	if err != nil {
		return kindFault(broker.Internal, err.Error())
	}
	a.reply.Payload, a.reply.Body = nil, v.Body
	if c.req.Ack != "" {
		a.reply.ID = strconv.FormatUint(got.Tag, 10)
		a.reply.Redelivered = got.Redelivered
		a.reply.SetProperties(v.Properties)
	}
	if c.req.Ack != gmqwire.AckManual {
		a.settle = got.Tag
	}
	c.add(a)
	return nil
}

// get takes the first message of a queue, nil if there is none. The queue is made
// where it is not there.
func (c *conn) get(queue string) (*broker.Event, error) {
	if err := c.ensure(queue); err != nil {
		return nil, err
	}
	found, err := c.ch.Get(queue, false)
	if isKind(err, broker.NotFound) && !strings.HasPrefix(queue, broker.ReplyTo) { // somebody deleted it
		delete(c.known, queue)
		if err := c.ensure(queue); err != nil {
			return nil, err
		}
		found, err = c.ch.Get(queue, false)
	}
	if err != nil {
		return nil, err
	}
	got := c.take()
	if found && got != nil {
		return got, nil
	}
	if c.ending != nil { // and the broker did not look any further
		return nil, c.ending
	}
	return nil, nil
}

// waitTag is what the consumer of an S that waits is called.
const waitTag = "wait"

// awaitMessage answers the S at hand, behind which nothing has come: with the next
// message of its queue, or without one when its time is over or more comes.
func (c *conn) awaitMessage() error {
	c.waits = false
	e := ending{next: newline}
	got, err := c.consume()
	if err == nil {
		err = c.hand(e, got)
	}
	if err != nil {
		f, ok := asFault(err)
		if !ok || f.final {
			return err
		}
		c.refuse(e, f)
	}
	return c.answer()
}

// consume waits for one message by a consumer of its own.
func (c *conn) consume() (*broker.Event, error) {
	c.ch.Qos(1, false)
	consumer, err := c.ch.Consume(broker.ConsumeSpec{Queue: c.req.Queue, Tag: waitTag})
	if err != nil {
		return nil, err
	}
	wait := min(time.Duration(min(c.req.WaitMsec, int64(waitMost/time.Millisecond)))*time.Millisecond, waitMost)
	c.timePart(false)
	c.nc.In.SetDeadline(time.Now().Add(wait))
	defer c.nc.In.SetDeadline(time.Time{})
	c.cancelled = false
	consumer.Start()
	for {
		err := c.awaitNews()
		got := c.take()
		news := errors.Is(err, errNews)
		if news && got == nil && c.ending == nil && !c.cancelled {
			continue
		}
		c.ch.Cancel(waitTag)
		if got == nil {
			got = c.take()
		}
		switch {
		case got == nil && c.ending != nil:
			return nil, c.ending
		case err == nil, news, errors.Is(err, netserve.ErrLogin):
			return got, nil
		case got == nil && errors.Is(err, io.EOF):
			// The peer may have ended its direction alone, and read on. It may also have
			// gone, so that no message is waited for any further.
			return nil, nil
		}
		return nil, err // what was got goes back with the session
	}
}

// errNews says that the broker has something to say.
var errNews = errors.New("news of the broker")

// awaitNews waits for input, as Fill does, and for the broker's events: then the
// error is errNews.
func (c *conn) awaitNews() error {
	in := &c.nc.In
	ctx, cancel := context.WithCancel(c.nc.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-c.session.Wake():
			c.nc.Interrupt(errNews)
		case <-ctx.Done():
		}
	})
	err := in.Fill()
	cancel()
	watching.Wait()
	if err != nil && !errors.Is(err, errNews) {
		return err
	}
	// Also where input was faster than news: the interruption is undone. One by
	// force may have come behind it and been lost; that closes forced before.
	in.Resume()
	select {
	case <-c.forced:
		return c.why
	default:
		return err
	}
}
