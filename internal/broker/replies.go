package broker

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
	"sync"

	"github.com/ferrymq/ferry/internal/message"
)

// ReplyTo is the pseudo-queue of direct replies: a client consumes from it,
// without acknowledgement, and publishes requests with it as reply-to; the
// responder sees a name of its own, and what it publishes to that name by the
// default exchange goes straight to the requester's channel.
const ReplyTo = "amq.rabbitmq.reply-to"

// replies knows the consumers of direct replies by the names made up for them.
type replies struct {
	mu sync.RWMutex
	by map[string]*Consumer
}

func (r *replies) init() { r.by = map[string]*Consumer{} }

func (r *replies) find(key []byte) *Consumer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.by[string(key)]
}

func (r *replies) remove(c *Consumer) {
	r.mu.Lock()
	delete(r.by, c.token)
	r.mu.Unlock()
	c.ch.s.mu.Lock()
	c.gone = true
	c.ch.s.mu.Unlock()
	if c.ch.replies == c {
		c.ch.replies = nil
	}
}

func (ch *Channel) consumeReplies(c *Consumer) (*Consumer, error) {
	if !c.noAck {
		return nil, errorf(PreconditionFailed, "reply consumer cannot acknowledge")
	}
	if ch.replies != nil {
		return nil, errorf(PreconditionFailed, "reply consumer already set")
	}
	var id [18]byte
	_, _ = rand.Read(id[:]) // never fails
	c.token = ReplyTo + "." + base64.RawURLEncoding.EncodeToString(id[:])
	r := &ch.s.b.replies
	r.mu.Lock()
	r.by[c.token] = c
	r.mu.Unlock()
	ch.replies = c
	ch.remember(c)
	return c, nil
}

// ownProperties returns the properties that a message is stored with: without
// the mark of a resend, and with the name made up for the channel's consumer of
// replies in the place of ReplyTo. The message was the last to be routed.
func (ch *Channel) ownProperties(props []byte) ([]byte, error) {
	if bare := ch.s.pub.bare; bare != nil {
		props = bare
	}
	if len(props) == 0 || !ch.s.pub.direct {
		return props, nil
	}
	if ch.replies == nil {
		return nil, errorf(PreconditionFailed, "fast reply consumer does not exist")
	}
	out := make([]byte, 0, len(props)+64)
	for list := props; ; {
		id, v, rest, ok := message.NextField(list)
		if !ok {
			return out, nil
		}
		if id == message.ReplyTo {
			out = message.AppendFieldString(out, id, ch.replies.token)
		} else {
			out = message.AppendField(out, id, v)
		}
		list = rest
	}
}

func isReplyKey(key []byte) bool {
	return len(key) > len(ReplyTo) && key[len(ReplyTo)] == '.' && string(key[:len(ReplyTo)]) == ReplyTo
}

// deliverReplies hands replies to the channel that waits for them. One that is
// gone meanwhile misses them, as it does in RabbitMQ.
func (b *Broker) deliverReplies(c *Consumer, run []pubItem) {
	s := c.ch.s
	s.mu.Lock()
	size := 0
	for i := range run {
		size += int(run[i].m.size)
		if c.gone || c.ch.closed || s.answers > answersLimit {
			continue
		}
		c.ch.lastTag++
		s.pushLocked(Event{Kind: EventDelivery, Tag: c.ch.lastTag, Consumer: c, Data: run[i].m.block()})
	}
	s.mu.Unlock()
	s.signal()
	b.evict.hot.Add(int64(-size))
}

// replyQueue answers a passive declaration of a reply name, which responders
// use to find out whether the requester is still there.
func (b *Broker) replyQueue(name string) (QueueInfo, bool) {
	if name == ReplyTo {
		return QueueInfo{Name: name, Consumers: 1}, true
	}
	if strings.HasPrefix(name, ReplyTo+".") && b.replies.find([]byte(name)) != nil {
		return QueueInfo{Name: name, Consumers: 1}, true
	}
	return QueueInfo{}, false
}
