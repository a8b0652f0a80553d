package amqpserver

import (
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// exchangeMethod handles class exchange (AMQP 0-9-1 §1.6) and RabbitMQ's
// bindings between exchanges.
func (r *reader) exchangeMethod(ch *channel, m amqpwire.Method) error {
	switch m := m.(type) {
	case *amqpwire.ExchangeDeclare:
		return r.exchangeDeclare(ch, m)
	case *amqpwire.ExchangeDelete:
		return r.exchangeDelete(ch, m)
	case *amqpwire.ExchangeBind:
		return r.exchangeBind(ch, m)
	case *amqpwire.ExchangeUnbind:
		return r.exchangeUnbind(ch, m)
	}
	return unimplemented(m.ID())
}

func (r *reader) exchangeDeclare(ch *channel, m *amqpwire.ExchangeDeclare) error {
	if err := validText(m.Exchange, m.Type); err != nil {
		return err
	}
	name := oneLine(m.Exchange)
	var err error
	if m.Passive {
		err = r.session.CheckExchange(name)
	} else {
		err = r.declareExchange(name, m)
	}
	return r.answer(ch, err, m.NoWait, &amqpwire.ExchangeDeclareOk{})
}

func (r *reader) declareExchange(name string, m *amqpwire.ExchangeDeclare) error {
	args, err := arguments(m.Arguments)
	if err != nil {
		return err
	}
	return r.session.DeclareExchange(broker.ExchangeSpec{
		Name:       name,
		Type:       m.Type,
		Durable:    m.Durable,
		AutoDelete: m.AutoDelete,
		Internal:   m.Internal,
		Args:       args,
	})
}

func (r *reader) exchangeDelete(ch *channel, m *amqpwire.ExchangeDelete) error {
	if err := validText(m.Exchange); err != nil {
		return err
	}
	err := r.session.DeleteExchange(oneLine(m.Exchange), m.IfUnused)
	return r.answer(ch, err, m.NoWait, &amqpwire.ExchangeDeleteOk{})
}

func (r *reader) exchangeBind(ch *channel, m *amqpwire.ExchangeBind) error {
	if err := validText(m.Destination, m.Source, m.RoutingKey); err != nil {
		return err
	}
	args, err := arguments(m.Arguments)
	if err != nil {
		return err
	}
	err = r.session.BindExchange(oneLine(m.Destination), oneLine(m.Source), m.RoutingKey, args)
	return r.answer(ch, err, m.NoWait, &amqpwire.ExchangeBindOk{})
}

func (r *reader) exchangeUnbind(ch *channel, m *amqpwire.ExchangeUnbind) error {
	if err := validText(m.Destination, m.Source, m.RoutingKey); err != nil {
		return err
	}
	args, err := arguments(m.Arguments)
	if err != nil {
		return err
	}
	err = r.session.UnbindExchange(oneLine(m.Destination), oneLine(m.Source), m.RoutingKey, args)
	return r.answer(ch, err, m.NoWait, &amqpwire.ExchangeUnbindOk{})
}

// answer replies to a method that has succeeded, unless the peer does not want
// it (no-wait).
func (r *reader) answer(ch *channel, err error, noWait bool, ok amqpwire.Method) error {
	if err == nil && !noWait {
		r.reply(ch.id, ok)
	}
	return err
}

// arguments is a field table as the broker takes it: a header list, nil if it is
// empty.
func arguments(t amqpwire.Table) ([]byte, error) {
	if len(t) == 0 {
		return nil, nil
	}
	return amqpwire.AppendHeadersFromTable(nil, t)
}

var lineBreaks = strings.NewReplacer("\r", "", "\n", "")

// oneLine takes line breaks out of a name, as RabbitMQ does where exchanges and
// queues are declared, bound and deleted.
func oneLine(name string) string {
	if !strings.ContainsAny(name, "\r\n") {
		return name
	}
	return lineBreaks.Replace(name)
}
