package stompserver

import (
	"fmt"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

const (
	// transactionsMost is how many transactions a connection may have open.
	transactionsMost = 1024

	// transactionMost is how much the open transactions of a connection may hold,
	// bytes: all of it is in memory.
	transactionMost = 256 << 20

	// actionCost is what a SEND or an ACK within a transaction counts beside its
	// body and its receipt.
	actionCost = 256
)

// transactions is what the reader has for BEGIN, COMMIT and ABORT.
type transactions struct {
	begun map[string]*transaction
	held  int // by all of them, bytes

	channels     uint16 // numbers that were given to channels of the broker
	freeChannels []uint16
}

// transaction is an open one.
type transaction struct {
	of       *transactions
	channel  *broker.Channel     // in tx mode
	receipts []byte              // RECEIPT frames of the SENDs in it
	queues   map[string]struct{} // that its SENDs are for, and that must be there
	held     int
}

// take notes that the transaction holds n bytes more.
func (t *transaction) take(n int) error {
	n += actionCost
	t.held += n
	if t.of.held += n; t.of.held > transactionMost {
		return kindFault(broker.PreconditionFailed, fmt.Sprintf("the open transactions of a connection may hold %d bytes", transactionMost))
	}
	return nil
}

// publishes notes a SEND within the transaction.
func (t *transaction) publishes(p *broker.Publish) {
	if _, ok := t.queues[string(p.Key)]; ok || !p.Mandatory {
		return
	}
	if t.queues == nil {
		t.queues = make(map[string]struct{}, 1)
	}
	t.queues[string(p.Key)] = struct{}{}
}

// transactionName is the transaction header of BEGIN, COMMIT and ABORT.
func (r *reader) transactionName(command string) ([]byte, error) {
	name, ok := r.dec.Get(stompwire.HeaderTransaction)
	if !ok {
		return nil, faultf(missingTransaction, "%q must include a 'transaction' header\n", command)
	}
	return name, nil
}

// transaction finds an open one.
func (r *reader) transaction(name []byte) (*transaction, error) {
	t := r.begun[string(name)]
	if t == nil {
		return nil, faultf(badTransaction, "Invalid transaction identifier: %s\n", quoted(name))
	}
	return t, nil
}

// beginTransaction handles BEGIN.
func (r *reader) beginTransaction() error {
	name, err := r.transactionName("BEGIN")
	if err != nil {
		return err
	}
	switch {
	case r.begun[string(name)] != nil:
		// "Within the same connection, different transactions MUST use different
		// transaction identifiers." (STOMP 1.2, BEGIN)
		return faultf(badTransaction, "Transaction identifier in use: %s\n", quoted(name))
	case len(r.begun) >= transactionsMost:
		return kindFault(broker.NotAllowed, fmt.Sprintf("a connection may have %d open transactions", transactionsMost))
	}
	t := &transaction{of: &r.transactions, channel: r.openChannel()}
	if err := t.channel.TxSelect(); err != nil {
		return err
	}
	if r.begun == nil {
		r.begun = make(map[string]*transaction, 1)
	}
	r.begun[string(name)] = t
	return r.receipt()
}

// commit handles COMMIT: it returns when the transaction is durable, and its
// receipts come after that.
func (r *reader) commit() error {
	name, err := r.transactionName("COMMIT")
	if err != nil {
		return err
	}
	t, err := r.transaction(name)
	if err != nil {
		return err
	}
	// The broker would carry out the rest.
	for queue := range t.queues {
		if !r.isThere(queue) {
			return r.noRoute(queue)
		}
	}
	if err := t.channel.TxCommit(); err != nil {
		return err
	}
	return r.endTransaction(name, t)
}

// abort handles ABORT.
func (r *reader) abort() error {
	name, err := r.transactionName("ABORT")
	if err != nil {
		return err
	}
	t, err := r.transaction(name)
	if err != nil {
		return err
	}
	return r.endTransaction(name, t)
}

// endTransaction forgets a transaction. What was not committed is rolled back.
func (r *reader) endTransaction(name []byte, t *transaction) error {
	r.closeChannel(t.channel)
	delete(r.begun, string(name))
	r.held -= t.held
	if len(t.receipts) > 0 {
		r.session.Reply(t.receipts)
	}
	return r.receipt()
}
