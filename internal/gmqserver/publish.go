package gmqserver

import (
	"encoding/base64"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
)

// While publishers are blocked by an alarm a publish waits, at most for
// blockedTimeout, and is then refused.
const (
	blockedTimeout = 5 * time.Second
	blockedLook    = 50 * time.Millisecond
)

// publish handles P. The answer waits for the broker's confirm.
func (c *conn) publish(e ending) error {
	body, err := c.decode()
	if err != nil {
		return err
	}
	if err := c.ensure(c.req.Queue); err != nil {
		return err
	}
	if err := c.awaitRoom(); err != nil {
		return err
	}
	c.props, err = c.req.AppendProperties(c.props[:0])
	if err != nil {
		if f, ok := asFault(err); ok && f.name == contentTooLarge {
			return &fault{name: f.name, text: f.text} // it is JSON: the next can be found
		}
		return &fault{name: commandInvalid, text: err.Error()}
	}
	p := broker.Publish{
		Key:        []byte(c.req.Queue),
		Persistent: !c.req.Transient,
		Mandatory:  true,
		Properties: c.props,
		Body:       body,
	}
	a := c.reply(e)
	// GMQ's server repeats the request. Who sends one after the other has no use for
	// its own payload.
	if a.reply.Payload = empty; e.next == nothing {
		a.reply.Payload = c.req.Payload
	}
	if err := c.ch.Publish(&p); err != nil {
		return err
	}
	c.add(a)
	c.expect(len(c.list) - 1)
	return nil
}

// empty is a payload of nothing.
var empty = []byte{}

// decode is the body of the publish at hand, valid until the next.
func (c *conn) decode() ([]byte, error) {
	text := c.req.Payload
	if n := base64.StdEncoding.DecodedLen(len(text)); cap(c.body) < n {
		c.body = make([]byte, n)
	}
	n, err := base64.StdEncoding.Decode(c.body[:cap(c.body)], text)
	if err != nil {
		return nil, faultf(commandInvalid, "the payload is not base64 (RFC 4648 §4): %v", err)
	}
	if limit := c.srv.cfg.Limits.Message; limit > 0 && n > limit {
		return nil, faultf(contentTooLarge, "the message has %d bytes, the limit is %d (max_message_length)", n, limit)
	}
	return c.body[:n], nil
}

// awaitRoom waits while publishers are blocked, and looks whether the queue of the
// request at hand may have one more. Those before it are answered first: a client
// that sends many at once hears of each when its time is over, and not of all when
// that of the last is.
func (c *conn) awaitRoom() error {
	for until := time.Now().Add(blockedTimeout); ; {
		reason := c.srv.cfg.Broker.Blocked()
		if reason == "" {
			break
		}
		if err := c.answer(); err != nil {
			return err
		}
		if !time.Now().Before(until) {
			return faultf(resourceError, "publishing is blocked: %s", reason)
		}
		look := time.NewTimer(blockedLook)
		select {
		case <-look.C:
		case <-c.forced:
			look.Stop()
			return c.why
		case <-c.nc.Context().Done():
			look.Stop()
			return c.nc.Context().Err()
		}
	}
	most := c.srv.cfg.Limits.QueueMessages
	if most == 0 {
		return nil
	}
	info, err := c.session.CheckQueue(c.req.Queue)
	if isKind(err, broker.NotFound) {
		return nil // it is made again
	}
	if err == nil && info.Messages >= most {
		return faultf(resourceError, "queue %s is full: %d messages wait in it, the limit is %d (max_queue_capacity)", quoted(c.req.Queue), info.Messages, most)
	}
	return err
}

// again publishes a message once more that was returned, because somebody deleted
// its queue: it is made again.
func (c *conn) again(a *answer, block []byte) error {
	delete(c.known, a.reply.Queue)
	if a.repeated {
		return faultf(names[broker.NoRoute], "queue %s was deleted while it was published to", quoted(a.reply.Queue))
	}
	a.repeated = true
	v, err := message.Parse(block)
	if err != nil {
		return err
	}
	if err := c.ensure(a.reply.Queue); err != nil {
		return err
	}
	return c.ch.Publish(&broker.Publish{
		Key: v.Key, Persistent: v.Persistent, Mandatory: true, Properties: v.Properties, Body: v.Body,
	})
}
