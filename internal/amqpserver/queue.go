package amqpserver

import (
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// queueMethod handles class queue (AMQP 0-9-1 §1.7).
func (r *reader) queueMethod(ch *channel, m amqpwire.Method) error {
	switch m := m.(type) {
	case *amqpwire.QueueDeclare:
		return r.queueDeclare(ch, m)
	case *amqpwire.QueueBind:
		return r.queueBind(ch, m)
	case *amqpwire.QueueUnbind:
		return r.queueUnbind(ch, m)
	case *amqpwire.QueuePurge:
		return r.queuePurge(ch, m)
	case *amqpwire.QueueDelete:
		return r.queueDelete(ch, m)
	}
	return unimplemented(m.ID())
}

func (r *reader) queueDeclare(ch *channel, m *amqpwire.QueueDeclare) error {
	if err := validText(m.Queue); err != nil {
		return err
	}
	name := oneLine(m.Queue)
	var q broker.QueueInfo
	var err error
	if m.Passive {
		q, err = r.session.CheckQueue(name)
	} else {
		q, err = r.declareQueue(name, m)
	}
	if err == nil {
		ch.queue = q.Name
	}
	return r.answer(ch, err, m.NoWait, &amqpwire.QueueDeclareOk{
		Queue:         q.Name,
		MessageCount:  uint32(q.Messages),
		ConsumerCount: uint32(q.Consumers),
	})
}

func (r *reader) declareQueue(name string, m *amqpwire.QueueDeclare) (broker.QueueInfo, error) {
	args, err := arguments(m.Arguments)
	if err != nil {
		return broker.QueueInfo{}, err
	}
	return r.session.DeclareQueue(broker.QueueSpec{
		Name:       name,
		Durable:    m.Durable,
		Exclusive:  m.Exclusive,
		AutoDelete: m.AutoDelete,
		Args:       args,
	})
}

func (r *reader) queueBind(ch *channel, m *amqpwire.QueueBind) error {
	name, key, args, err := ch.binding(m.Queue, m.Exchange, m.RoutingKey, m.Arguments)
	if err != nil {
		return err
	}
	err = r.session.BindQueue(name, oneLine(m.Exchange), key, args)
	return r.answer(ch, err, m.NoWait, &amqpwire.QueueBindOk{})
}

func (r *reader) queueUnbind(ch *channel, m *amqpwire.QueueUnbind) error {
	name, key, args, err := ch.binding(m.Queue, m.Exchange, m.RoutingKey, m.Arguments)
	if err != nil {
		return err
	}
	err = r.session.UnbindQueue(name, oneLine(m.Exchange), key, args)
	return r.answer(ch, err, false, &amqpwire.QueueUnbindOk{})
}

// binding makes of what a bind or unbind names what the broker takes. Where both
// the queue and the key are empty, both are the last declared queue (§1.7.2.3).
func (ch *channel) binding(queue, exchange, key string, t amqpwire.Table) (name, boundKey string, args []byte, err error) {
	if err := validText(queue, exchange, key); err != nil {
		return "", "", nil, err
	}
	if name, err = ch.named(oneLine(queue)); err != nil {
		return "", "", nil, err
	}
	if queue == "" && key == "" {
		key = name
	}
	args, err = arguments(t)
	return name, key, args, err
}

func (r *reader) queuePurge(ch *channel, m *amqpwire.QueuePurge) error {
	name, err := ch.namedText(m.Queue)
	if err != nil {
		return err
	}
	n, err := r.session.PurgeQueue(oneLine(name))
	return r.answer(ch, err, m.NoWait, &amqpwire.QueuePurgeOk{MessageCount: uint32(n)})
}

func (r *reader) queueDelete(ch *channel, m *amqpwire.QueueDelete) error {
	name, err := ch.namedText(m.Queue)
	if err != nil {
		return err
	}
	n, err := r.session.DeleteQueue(oneLine(name), m.IfUnused, m.IfEmpty)
	return r.answer(ch, err, m.NoWait, &amqpwire.QueueDeleteOk{MessageCount: uint32(n)})
}

// named is a queue's name as a method has it; an empty one means the last queue
// that was declared on the channel.
func (ch *channel) named(queue string) (string, error) {
	if queue != "" {
		return queue, nil
	}
	if ch.queue == "" {
		return "", faultNoQueue()
	}
	return ch.queue, nil
}

func (ch *channel) namedText(queue string) (string, error) {
	if err := validText(queue); err != nil {
		return "", err
	}
	return ch.named(queue)
}

func faultNoQueue() error {
	return &broker.Error{Kind: broker.NotFound, Text: "no previously declared queue"}
}
