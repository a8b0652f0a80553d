package faultbroker

import (
	"slices"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A confirm is one that was not sent yet.
type confirm struct {
	tag  uint64
	nack bool
}

// ReleaseConfirms sends what HoldConfirms has kept back up to now, in order.
func (b *Broker) ReleaseConfirms() { b.change(b.release) }

func (b *Broker) release() {
	for _, c := range b.conns {
		for _, ch := range c.channels {
			ch.sendConfirms()
		}
	}
}

// Ack confirms a publish that HoldConfirms holds, whatever others it holds; with
// multiple, those before it on its channel too. A publish that is confirmed
// already is confirmed again: that is a fault as well.
func (b *Broker) Ack(p Publish, multiple bool) { b.settle(p, multiple, false) }

// Nack is Ack with a basic.nack. Messages that were stored stay so.
func (b *Broker) Nack(p Publish, multiple bool) { b.settle(p, multiple, true) }

func (b *Broker) settle(p Publish, multiple, nack bool) {
	b.change(func() {
		ch := b.conns[p.Conn-1].channels[p.Channel]
		if ch == nil {
			return // ended, and with it what can be confirmed
		}
		ch.confirms = slices.DeleteFunc(ch.confirms, func(c confirm) bool {
			return c.tag == p.Tag || multiple && c.tag < p.Tag
		})
		ch.sendConfirm(confirm{p.Tag, nack}, multiple)
	})
}

// sendConfirms sends all that are due. Before each that is sent there are none
// that are due and not sent, so that multiple means only what it should.
func (ch *channel) sendConfirms() {
	for i, c := range ch.confirms {
		more := i+1 < len(ch.confirms) && ch.confirms[i+1].nack == c.nack
		if ch.conn.b.faults.ConfirmMultiple && more {
			continue
		}
		several := ch.conn.b.faults.ConfirmMultiple && i > 0 && ch.confirms[i-1].nack == c.nack
		ch.sendConfirm(c, several)
	}
	ch.confirms = nil
}

func (ch *channel) sendConfirm(c confirm, multiple bool) {
	if c.nack {
		ch.conn.send(ch.id, &amqpwire.BasicNack{DeliveryTag: c.tag, Multiple: multiple})
		return
	}
	ch.conn.send(ch.id, &amqpwire.BasicAck{DeliveryTag: c.tag, Multiple: multiple})
}
