package amqplink

import (
	"context"
	"fmt"
	"math"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// states of a channel.
type state uint8

const (
	opening state = iota // not all that makes it what it is has been answered
	working
	closing // our channel.close is not answered
	crossed // so, but the broker has closed it too
	gone
)

// A channel is a sender's, a receiver's or that of declarations.
type channel struct {
	id       uint16
	sender   *sender
	receiver *receiver
	inbox    *inbox            // of a receiver, or of a sender's replies
	gates    []*transport.Gate // shut when it ends
	content  content           // the reader's

	gone chan struct{} // closed when it has ended

	// Guarded by conn.mu.
	state state
	calls []*call
	err   *link.Error // why it ended, nil if this side closed it
}

// A call is a run of requests, sent at once, whose answers come in order.
type call struct {
	want  []method // of the answers
	opens bool     // with the last one the channel is open for use
	done  chan struct{}

	// Guarded by conn.mu until done is closed.
	got      []amqpwire.Method
	finished bool
	err      error
}

// method is a class and a method.
type method uint32

func idOf(m amqpwire.Method) method {
	c, k := m.ID()
	return method(c)<<16 | method(k)
}

// answerTo is the method that answers one: the next, but for exchange.unbind.
func answerTo(m amqpwire.Method) method {
	id := idOf(m)
	if id == method(amqpwire.ClassExchange)<<16|method(amqpwire.MethodExchangeUnbind) {
		return method(amqpwire.ClassExchange)<<16 | method(amqpwire.MethodExchangeUnbindOk)
	}
	return id + 1
}

// begin gives a new channel its number.
func (c *conn) begin(ch *channel) error {
	ch.gone = make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	switch n := len(c.unused); {
	case c.over:
		return c.err
	case c.closing:
		return &link.Error{Kind: link.Closed, Text: "connection was closed"}
	case n > 0:
		ch.id = c.unused[n-1]
		c.unused = c.unused[:n-1]
	case c.highest == math.MaxUint16 || c.channelMax > 0 && c.highest >= c.channelMax:
		return &link.Error{Kind: link.NotAllowed, Text: fmt.Sprintf("all %d channels that were agreed on are in use", c.highest)}
	default:
		c.highest++
		ch.id = c.highest
	}
	c.channels[ch.id] = ch
	return nil
}

// ask sends requests and waits for their answers. When ctx ends first, a call
// that opens the channel takes it back, and others leave their answers to be
// dropped. The answers that came are returned with the error.
func (c *conn) ask(ctx context.Context, ch *channel, opens bool, requests ...amqpwire.Method) ([]amqpwire.Method, error) {
	var out []byte
	k := &call{opens: opens, done: make(chan struct{})}
	for _, m := range requests {
		start := len(out)
		var err error
		if out, err = c.appendMethod(out, ch.id, m); err != nil {
			if opens {
				c.abandon(ch)
			}
			return nil, err
		}
		if len(out) > start {
			k.want = append(k.want, answerTo(m))
		}
	}
	if err := c.submit(ch, k, out); err != nil {
		return nil, err
	}
	select {
	case <-k.done:
		return k.got, k.err
	case <-ctx.Done():
	}
	if got, finished := c.forsake(ch, k); !finished {
		return got, context.Cause(ctx)
	}
	<-k.done
	return k.got, k.err
}

// appendMethod appends a method that may be too large for the peer.
func (c *conn) appendMethod(dst []byte, channel uint16, m amqpwire.Method) ([]byte, error) {
	out, err := amqpwire.AppendMethod(dst, channel, m)
	if err == nil && !amqpwire.FrameFits(len(out)-len(dst), c.frameMax) {
		err = fmt.Errorf("it takes %d bytes, and frames have at most %d", len(out)-len(dst), c.frameMax)
	}
	if err != nil {
		return dst, &link.Error{Kind: link.Precondition, Text: methodName(m) + " cannot be encoded", Err: err}
	}
	return out, nil
}

func (c *conn) submit(ch *channel, k *call, out []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
		return c.err
	case ch.state >= closing:
		if ch.err != nil {
			return ch.err
		}
		return &link.Error{Kind: link.Closed, Text: "channel was closed"}
	}
	c.control = append(c.control, out...)
	ch.calls = append(ch.calls, k)
	c.signal()
	return nil
}

// forsake gives up waiting for a call, unless it has finished meanwhile.
func (c *conn) forsake(ch *channel, k *call) (got []amqpwire.Method, finished bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.finished {
		return nil, true
	}
	got = append(got, k.got...)
	if k.opens {
		k.opens = false
		c.abandonLocked(ch)
	}
	return got, false
}

// abandon closes a channel without waiting for the answer.
func (c *conn) abandon(ch *channel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abandonLocked(ch)
}

func (c *conn) abandonLocked(ch *channel) {
	if ch.state >= closing || c.over {
		return
	}
	if ch.state == opening && len(ch.calls) == 0 {
		// Nothing was said on it.
		ch.state = gone
		close(ch.gone)
		delete(c.channels, ch.id)
		c.unused = append(c.unused, ch.id)
		return
	}
	ch.state = closing
	c.queueLocked(ch.id, &amqpwire.ChannelClose{ReplyCode: amqpwire.ReplySuccess, ReplyText: "closed"})
	c.signal()
}

// close closes a channel and waits until it has ended. It returns why that was,
// if it was not by this side.
func (c *conn) closeChannel(ctx context.Context, ch *channel) error {
	c.abandon(ch)
	select {
	case <-ch.gone:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch.err == nil || ch.err.Kind == link.Closed {
		return nil
	}
	return ch.err
}

// answered is for the reader: m came on a channel in answer to what was asked.
func (c *conn) answered(ch *channel, m amqpwire.Method) *link.Error {
	if _, ok := m.(*amqpwire.ChannelCloseOk); ok {
		return c.closed(ch)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(ch.calls) == 0 || ch.calls[0].want[len(ch.calls[0].got)] != idOf(m) {
		if ch.state >= closing {
			return nil
		}
		return violation(fmt.Sprintf("got %s on channel %d, where nothing asked for it", methodName(m), ch.id))
	}
	k := ch.calls[0]
	k.got = append(k.got, m)
	if len(k.got) < len(k.want) {
		return nil
	}
	ch.calls = ch.calls[1:]
	k.finished = true
	if k.opens && ch.state == opening {
		ch.state = working
		for _, g := range ch.gates {
			g.Open()
		}
	}
	close(k.done)
	return nil
}

// closed is for the reader: the broker has answered channel.close.
func (c *conn) closed(ch *channel) *link.Error {
	c.mu.Lock()
	if ch.state != closing && ch.state != crossed {
		c.mu.Unlock()
		return violation(fmt.Sprintf("got ChannelCloseOk on channel %d, where nothing asked for it", ch.id))
	}
	c.removeLocked(ch)
	c.mu.Unlock()
	c.end(ch, nil)
	return nil
}

// refusedBy is for the reader: the broker closes a channel.
func (c *conn) refusedBy(ch *channel, m *amqpwire.ChannelClose) {
	ch.content = content{}
	c.mu.Lock()
	c.queueLocked(ch.id, &amqpwire.ChannelCloseOk{})
	if ch.state == closing {
		// Ours will be answered as well; until then the number is not free.
		ch.state = crossed
	} else if ch.state != crossed {
		c.removeLocked(ch)
	}
	c.mu.Unlock()
	c.signal()
	c.end(ch, refusal(m.ReplyCode, m.ReplyText))
}

// removeLocked makes the number of a channel free.
func (c *conn) removeLocked(ch *channel) {
	if c.channels[ch.id] != ch {
		return // the connection has ended
	}
	delete(c.channels, ch.id)
	c.unused = append(c.unused, ch.id)
	c.found.forget(ch)
}

// end ends what a channel is for. err is nil if this side has closed it.
func (c *conn) end(ch *channel, err *link.Error) {
	c.mu.Lock()
	select {
	case <-ch.gone:
		c.mu.Unlock()
		return
	default:
	}
	if ch.state != crossed {
		ch.state = gone
	}
	ch.err = err
	calls := ch.calls
	ch.calls = nil
	c.mu.Unlock()

	var why error
	if err != nil {
		why = err
	}
	if ch.receiver != nil {
		ch.receiver.ledger.close()
	}
	for _, k := range calls {
		if k.err = why; err == nil {
			k.err = &link.Error{Kind: link.Closed, Text: "channel was closed"}
		}
		close(k.done)
	}
	for _, g := range ch.gates {
		g.Close(why)
	}
	close(ch.gone)
}
