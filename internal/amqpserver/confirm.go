package amqpserver

import "github.com/ferrymq/ferry/internal/wire/amqpwire"

// confirmMethod handles RabbitMQ's class confirm.
func (r *reader) confirmMethod(ch *channel, m amqpwire.Method) error {
	if m, ok := m.(*amqpwire.ConfirmSelect); ok {
		return r.answer(ch, ch.broker.ConfirmSelect(), m.NoWait, &amqpwire.ConfirmSelectOk{})
	}
	return unimplemented(m.ID())
}

// txMethod handles class tx (AMQP 0-9-1 §1.9).
func (r *reader) txMethod(ch *channel, m amqpwire.Method) error {
	switch m.(type) {
	case *amqpwire.TxSelect:
		return r.answer(ch, ch.broker.TxSelect(), false, &amqpwire.TxSelectOk{})
	case *amqpwire.TxCommit:
		return r.answer(ch, ch.broker.TxCommit(), false, &amqpwire.TxCommitOk{})
	case *amqpwire.TxRollback:
		return r.answer(ch, ch.broker.TxRollback(), false, &amqpwire.TxRollbackOk{})
	}
	return unimplemented(m.ID())
}
