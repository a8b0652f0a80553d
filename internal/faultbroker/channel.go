package faultbroker

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A channel is guarded by the broker's mutex.
type channel struct {
	conn    *conn
	id      uint16
	closing bool // close-ok is awaited; all else is ignored

	confirming bool
	published  uint64    // the last tag of a publish
	confirms   []confirm // not sent yet

	prefetch   int
	consumers  map[string]*consumer
	deliveries uint64 // the last tag of a delivery
	unsettled  map[uint64]delivery
	lastQueue  string // what an empty name stands for

	incoming *amqpwire.BasicPublish // whose content is awaited
	header   *amqpwire.ContentHeader
	body     []byte
}

// method handles a method of any channel but 0.
func (c *conn) method(id uint16, m amqpwire.Method) error {
	class, method := m.ID()
	ch := c.channels[id]
	switch m.(type) {
	case *amqpwire.ChannelOpen:
		if c.mute(StepChannelOpen) {
			return nil
		}
		if ch != nil {
			return &amqpwire.Error{Code: amqpwire.ChannelError, Text: "second 'channel.open' seen", Class: class, Method: method}
		}
		if most := c.seen.Tuned.ChannelMax; most > 0 && id > most {
			return &amqpwire.Error{Code: amqpwire.ChannelError, Text: fmt.Sprintf("channel %d is over the limit of %d", id, most), Class: class, Method: method}
		}
		c.channels[id] = &channel{conn: c, id: id, consumers: make(map[string]*consumer), unsettled: make(map[uint64]delivery)}
		c.send(id, &amqpwire.ChannelOpenOk{})
		return nil
	case *amqpwire.ChannelClose:
		if c.mute(StepChannelClose) {
			return nil
		}
		if ch != nil {
			ch.end()
			delete(c.channels, id)
		}
		c.send(id, &amqpwire.ChannelCloseOk{})
		return nil
	case *amqpwire.ChannelCloseOk:
		if ch != nil && ch.closing {
			delete(c.channels, id)
		}
		return nil
	}
	switch {
	case ch == nil:
		return &amqpwire.Error{Code: amqpwire.ChannelError, Text: fmt.Sprintf("channel %d is not open", id), Class: class, Method: method}
	case ch.closing:
		return nil
	case ch.incoming != nil:
		return &amqpwire.Error{Code: amqpwire.UnexpectedFrame, Text: "a method where content was expected", Class: class, Method: method}
	}
	if step := stepOf(m); step != 0 && c.mute(step) {
		return nil
	}
	return ch.method(m)
}

// fail ends the channel with channel.close.
func (ch *channel) fail(code uint16, text string, class, method uint16) {
	if ch.closing {
		return
	}
	ch.end()
	ch.closing = true
	ch.conn.send(ch.id, &amqpwire.ChannelClose{ReplyCode: code, ReplyText: text, ClassID: class, MethodID: method})
}

// failIn ends the channel, or the connection if the code is one that does, for
// what is wrong with a method.
func (ch *channel) failIn(m amqpwire.Method, code uint16, format string, args ...any) {
	class, method := m.ID()
	fail := ch.fail
	if amqpwire.IsHard(code) {
		fail = ch.conn.fail
	}
	fail(code, amqpwire.ReplyText(code, fmt.Sprintf(format, args...)), class, method)
}

func (ch *channel) dropConsumers() {
	for _, cons := range ch.consumers {
		cons.queue.drop(cons)
	}
	clear(ch.consumers)
}

// end gives back what is not settled.
func (ch *channel) end() {
	ch.dropConsumers()
	queues := make(map[*queue]bool)
	for tag, d := range ch.unsettled {
		queues[d.queue] = true
		ch.settled(tag, true)
	}
	ch.confirms, ch.incoming, ch.header, ch.body = nil, nil, nil, nil
	for q := range queues {
		ch.conn.b.dispatch(q)
	}
}

// named is a queue by its name; the empty one is the last that was declared.
func (ch *channel) named(m amqpwire.Method, name string) *queue {
	if name == "" {
		name = ch.lastQueue
	}
	q := ch.conn.b.queues[name]
	switch {
	case q == nil:
		ch.failIn(m, amqpwire.NotFound, "no queue '%s' in vhost '/'", name)
	case q.owner != nil && q.owner != ch.conn:
		ch.failIn(m, amqpwire.ResourceLocked, "cannot obtain exclusive access to locked queue '%s'", name)
		return nil
	}
	return q
}

func (ch *channel) answer(noWait bool, m amqpwire.Method) {
	if !noWait {
		ch.conn.send(ch.id, m)
	}
}

func (ch *channel) method(m amqpwire.Method) error {
	b := ch.conn.b
	switch m := m.(type) {
	case *amqpwire.ChannelFlow:
		ch.conn.send(ch.id, &amqpwire.ChannelFlowOk{Active: m.Active})
	case *amqpwire.ChannelFlowOk, *amqpwire.BasicCancelOk:
	case *amqpwire.ConfirmSelect:
		ch.confirming = true
		ch.answer(m.NoWait, &amqpwire.ConfirmSelectOk{})
	case *amqpwire.BasicPublish:
		ch.incoming = m
	case *amqpwire.BasicAck:
		ch.settle(m, Settlement{Tag: m.DeliveryTag, Multiple: m.Multiple, Ack: true})
	case *amqpwire.BasicNack:
		ch.settle(m, Settlement{Tag: m.DeliveryTag, Multiple: m.Multiple, Requeue: m.Requeue})
	case *amqpwire.BasicReject:
		ch.settle(m, Settlement{Tag: m.DeliveryTag, Requeue: m.Requeue})
	case *amqpwire.BasicQos:
		ch.prefetch = int(m.PrefetchCount)
		ch.conn.send(ch.id, &amqpwire.BasicQosOk{})
	case *amqpwire.BasicConsume:
		ch.consume(m)
	case *amqpwire.BasicCancel:
		if cons := ch.consumers[m.ConsumerTag]; cons != nil {
			cons.queue.drop(cons)
			delete(ch.consumers, m.ConsumerTag)
		}
		ch.answer(m.NoWait, &amqpwire.BasicCancelOk{ConsumerTag: m.ConsumerTag})
	case *amqpwire.BasicGet:
		ch.get(m)
	case *amqpwire.ExchangeDeclare:
		if b.exchanges[m.Exchange] == nil {
			if m.Passive {
				ch.failIn(m, amqpwire.NotFound, "no exchange '%s' in vhost '/'", m.Exchange)
				return nil
			}
			b.exchanges[m.Exchange] = &exchange{fanout: m.Type == "fanout"}
		}
		ch.answer(m.NoWait, &amqpwire.ExchangeDeclareOk{})
	case *amqpwire.ExchangeDelete:
		delete(b.exchanges, m.Exchange)
		ch.answer(m.NoWait, &amqpwire.ExchangeDeleteOk{})
	default:
		return ch.queueMethod(m)
	}
	return nil
}

func (ch *channel) queueMethod(m amqpwire.Method) error {
	b := ch.conn.b
	switch m := m.(type) {
	case *amqpwire.QueueDeclare:
		ch.declare(m)
	case *amqpwire.QueueBind:
		x := b.exchanges[m.Exchange]
		q := ch.named(m, m.Queue)
		if q == nil {
			return nil
		}
		if x == nil {
			ch.failIn(m, amqpwire.NotFound, "no exchange '%s' in vhost '/'", m.Exchange)
			return nil
		}
		bound := *m
		bound.Queue = q.name
		x.bindings = append(x.bindings, bound)
		ch.answer(m.NoWait, &amqpwire.QueueBindOk{})
	case *amqpwire.QueueUnbind:
		if x := b.exchanges[m.Exchange]; x != nil {
			x.bindings = slices.DeleteFunc(x.bindings, func(bound amqpwire.QueueBind) bool {
				return bound.Queue == m.Queue && bound.RoutingKey == m.RoutingKey
			})
		}
		ch.conn.send(ch.id, &amqpwire.QueueUnbindOk{})
	case *amqpwire.QueuePurge:
		if q := ch.named(m, m.Queue); q != nil {
			q.unhold()
			n := len(q.ready)
			q.ready = nil
			ch.answer(m.NoWait, &amqpwire.QueuePurgeOk{MessageCount: uint32(n)})
		}
	case *amqpwire.QueueDelete:
		n := 0
		if q := b.queues[m.Queue]; q != nil {
			q.unhold()
			n = len(q.ready)
			b.deleteQueue(q)
		}
		ch.answer(m.NoWait, &amqpwire.QueueDeleteOk{MessageCount: uint32(n)})
	default:
		class, method := m.ID()
		return &amqpwire.Error{Code: amqpwire.NotImplemented, Text: "faultbroker does not have this method", Class: class, Method: method}
	}
	return nil
}

func (ch *channel) declare(m *amqpwire.QueueDeclare) {
	b := ch.conn.b
	name := m.Queue
	if name == "" && !m.Passive {
		b.named++
		name = fmt.Sprintf("amq.gen-%d", b.named)
	}
	if q := b.queues[name]; q == nil && !m.Passive {
		q = b.declare(name)
		if m.Exclusive {
			q.owner = ch.conn
		}
	}
	q := ch.named(m, name)
	if q == nil {
		return
	}
	ch.lastQueue = q.name
	ready := len(q.ready)
	if q.held != nil {
		ready++
	}
	ch.answer(m.NoWait, &amqpwire.QueueDeclareOk{Queue: q.name, MessageCount: uint32(ready), ConsumerCount: uint32(len(q.consumers))})
}

func (ch *channel) consume(m *amqpwire.BasicConsume) {
	b := ch.conn.b
	q := ch.named(m, m.Queue)
	if q == nil {
		return
	}
	tag := m.ConsumerTag
	if tag == "" {
		b.named++
		tag = fmt.Sprintf("amq.ctag-%d", b.named)
	}
	if ch.consumers[tag] != nil {
		ch.failIn(m, amqpwire.NotAllowed, "attempt to reuse consumer tag '%s'", tag)
		return
	}
	cons := &consumer{tag: tag, channel: ch, queue: q, noAck: m.NoAck, limit: ch.prefetch}
	ch.consumers[tag] = cons
	q.consumers = append(q.consumers, cons)
	ch.answer(m.NoWait, &amqpwire.BasicConsumeOk{ConsumerTag: tag})
	b.dispatch(q)
}

func (ch *channel) get(m *amqpwire.BasicGet) {
	q := ch.named(m, m.Queue)
	switch {
	case q == nil:
	case len(q.ready) == 0:
		ch.conn.send(ch.id, &amqpwire.BasicGetEmpty{})
	default:
		got := q.ready[0]
		q.ready = q.ready[1:]
		tag := ch.hand(delivery{message: got, queue: q}, m.NoAck)
		ch.conn.send(ch.id, &amqpwire.BasicGetOk{
			DeliveryTag: tag, Redelivered: got.redelivered, Exchange: got.exchange, RoutingKey: got.key, MessageCount: uint32(len(q.ready)),
		})
		ch.conn.sendContent(ch.id, got)
	}
}

// settle takes an ack, nack or reject. A tag that is not outstanding ends the
// channel, as in RabbitMQ; with multiple, zero is all of them.
func (ch *channel) settle(m amqpwire.Method, s Settlement) {
	s.Conn, s.Channel = ch.conn.seen.ID, ch.id
	b := ch.conn.b
	b.settlements = append(b.settlements, s)
	var tags []uint64
	for tag := range ch.unsettled {
		if tag == s.Tag || s.Multiple && (tag < s.Tag || s.Tag == 0) {
			tags = append(tags, tag)
		}
	}
	if len(tags) == 0 && (s.Tag != 0 || !s.Multiple) {
		ch.failIn(m, amqpwire.PreconditionFailed, "unknown delivery tag %d", s.Tag)
		return
	}
	slices.Sort(tags)
	var queues []*queue
	for _, tag := range tags {
		d := ch.unsettled[tag]
		if !slices.Contains(queues, d.queue) {
			queues = append(queues, d.queue)
		}
		ch.settled(tag, s.Requeue)
	}
	for _, q := range queues {
		b.dispatch(q)
	}
}

// content takes the frames behind a publish (AMQP 0-9-1 §4.2.6).
func (ch *channel) content(f amqpwire.Frame) error {
	switch {
	case ch.closing:
		return nil
	case ch.incoming == nil, (f.Type == amqpwire.FrameHeader) != (ch.header == nil):
		return &amqpwire.Error{Code: amqpwire.UnexpectedFrame, Text: "content that no method announced", Class: amqpwire.ClassBasic}
	case f.Type == amqpwire.FrameHeader:
		h, err := amqpwire.ParseContentHeader(f.Payload)
		if err != nil {
			return err
		}
		h.Properties = bytes.Clone(h.Properties)
		ch.header = &h
	default:
		ch.body = append(ch.body, f.Payload...)
	}
	switch size := uint64(len(ch.body)); {
	case size > ch.header.BodySize:
		return &amqpwire.Error{Code: amqpwire.UnexpectedFrame, Text: "a body longer than announced", Class: amqpwire.ClassBasic}
	case size < ch.header.BodySize:
		return nil
	}
	m, raw, body := ch.incoming, ch.header.Properties, ch.body
	ch.incoming, ch.header, ch.body = nil, nil, nil
	properties, err := amqpwire.ParseProperties(raw)
	if err != nil {
		return err
	}
	ch.publish(m, properties, message{exchange: m.Exchange, key: m.RoutingKey, properties: raw, body: body})
	return nil
}

func (ch *channel) publish(m *amqpwire.BasicPublish, properties amqpwire.Properties, content message) {
	b := ch.conn.b
	p := Publish{
		Conn: ch.conn.seen.ID, Channel: ch.id, Exchange: m.Exchange, Key: m.RoutingKey, Mandatory: m.Mandatory,
		Properties: properties, Body: content.body, Fate: b.faults.fate(len(b.publishes) + 1),
	}
	if ch.confirming {
		ch.published++
		p.Tag = ch.published
	}
	queues, known := b.routed(m.Exchange, m.RoutingKey)
	if len(queues) == 0 && (p.Fate == Stored || p.Fate == Doubled) {
		p.Fate = Unroutable
	}
	b.publishes = append(b.publishes, p)
	if !known {
		ch.failIn(m, amqpwire.NotFound, "no exchange '%s' in vhost '/'", m.Exchange)
		return
	}
	if p.Fate == Returned || p.Fate == Unroutable && m.Mandatory {
		ch.conn.send(ch.id, &amqpwire.BasicReturn{
			ReplyCode: amqpwire.NoRoute, ReplyText: amqpwire.ReplyName(amqpwire.NoRoute), Exchange: m.Exchange, RoutingKey: m.RoutingKey,
		})
		ch.conn.sendContent(ch.id, &content)
	}
	copies := map[Fate]int{Stored: 1, Doubled: 2}[p.Fate]
	for _, q := range queues {
		for range copies {
			stored := content
			b.store(q, &stored)
		}
		b.dispatch(q)
	}
	if ch.confirming {
		ch.confirms = append(ch.confirms, confirm{p.Tag, p.Fate == Nacked})
	}
}
