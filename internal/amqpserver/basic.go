package amqpserver

import (
	"crypto/rand"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// basicMethod handles class basic (AMQP 0-9-1 §1.8), but for publish, ack, nack
// and reject, which reader decodes itself.
func (r *reader) basicMethod(ch *channel, m amqpwire.Method) error {
	switch m := m.(type) {
	case *amqpwire.BasicQos:
		return r.qos(ch, m)
	case *amqpwire.BasicConsume:
		return r.consume(ch, m)
	case *amqpwire.BasicCancel:
		if err := validText(m.ConsumerTag); err != nil {
			return err
		}
		ch.broker.Cancel(m.ConsumerTag)
		return r.answer(ch, nil, m.NoWait, &amqpwire.BasicCancelOk{ConsumerTag: m.ConsumerTag})
	case *amqpwire.BasicCancelOk:
		return nil // to a cancel of ours, which does not ask for it
	case *amqpwire.BasicGet:
		return r.get(ch, m)
	case *amqpwire.BasicRecoverAsync:
		return ch.broker.Recover(m.Requeue)
	case *amqpwire.BasicRecover:
		err := ch.broker.Recover(m.Requeue)
		return r.answer(ch, err, false, &amqpwire.BasicRecoverOk{})
	}
	return unimplemented(m.ID())
}

func (r *reader) qos(ch *channel, m *amqpwire.BasicQos) error {
	if m.PrefetchSize != 0 {
		return faultf(amqpwire.NotImplemented, "prefetch_size!=0 (%d)", m.PrefetchSize).in(m.ID())
	}
	ch.broker.Qos(uint32(m.PrefetchCount), m.Global)
	r.reply(ch.id, &amqpwire.BasicQosOk{})
	return nil
}

// consume starts a consumer. no-local is ignored, as RabbitMQ ignores it.
func (r *reader) consume(ch *channel, m *amqpwire.BasicConsume) error {
	if err := validText(m.ConsumerTag); err != nil {
		return err
	}
	queue, err := ch.namedText(m.Queue)
	if err != nil {
		return err
	}
	args, err := arguments(m.Arguments)
	if err != nil {
		return err
	}
	tag := m.ConsumerTag
	if tag == "" {
		tag = "amq.ctag-" + rand.Text()
	}
	c, err := ch.broker.Consume(broker.ConsumeSpec{
		Queue:     queue,
		Tag:       tag,
		NoAck:     m.NoAck,
		Exclusive: m.Exclusive,
		Args:      args,
	})
	if err != nil {
		return err
	}
	// The consumer is started behind its consume-ok, so that no delivery comes
	// before the peer knows the tag.
	if !m.NoWait {
		r.reply(ch.id, &amqpwire.BasicConsumeOk{ConsumerTag: tag})
	}
	c.Start()
	return nil
}

func (r *reader) get(ch *channel, m *amqpwire.BasicGet) error {
	queue, err := ch.namedText(m.Queue)
	if err != nil {
		return err
	}
	found, err := ch.broker.Get(queue, m.NoAck)
	return r.answer(ch, err, found, &amqpwire.BasicGetEmpty{})
}

func (r *reader) ack(ch *channel, payload []byte) error {
	m, err := amqpwire.ParseAck(payload)
	if err != nil {
		return undecodable(payload)
	}
	return ch.broker.Ack(m.DeliveryTag, m.Multiple)
}

func (r *reader) nack(ch *channel, payload []byte) error {
	m, err := amqpwire.ParseNack(payload)
	if err != nil {
		return undecodable(payload)
	}
	return ch.broker.Nack(m.DeliveryTag, m.Multiple, m.Requeue)
}

func (r *reader) reject(ch *channel, payload []byte) error {
	m, err := amqpwire.ParseReject(payload)
	if err != nil {
		return undecodable(payload)
	}
	return ch.broker.Reject(m.DeliveryTag, m.Requeue)
}

// undecodable is the fault of a method whose fields do not fit its frame.
func undecodable(payload []byte) *fault {
	class, method, _ := amqpwire.MethodID(payload)
	return faultf(amqpwire.FrameError, "cannot decode %s", octets(payload[4:])).in(class, method)
}
