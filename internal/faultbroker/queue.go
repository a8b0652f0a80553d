package faultbroker

import (
	"slices"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

type exchange struct {
	fanout   bool
	bindings []amqpwire.QueueBind
}

type message struct {
	position      uint64 // in its queue
	exchange, key string
	properties    []byte // raw
	body          []byte
	redelivered   bool
}

type queue struct {
	name      string
	owner     *conn // nil: not exclusive
	ready     []*message
	held      *message // until the one that is to be before it is there
	stored    int
	position  uint64
	consumers []*consumer
	next      int // the consumer whose turn it is
}

type consumer struct {
	tag       string
	channel   *channel
	queue     *queue
	noAck     bool
	limit     int // unsettled deliveries; 0: none
	unsettled int
}

// A delivery is one that was not settled yet.
type delivery struct {
	message  *message
	queue    *queue
	consumer *consumer // nil: basic.get
}

func (b *Broker) declare(name string) *queue {
	q := b.queues[name]
	if q == nil {
		q = &queue{name: name}
		b.queues[name] = q
	}
	return q
}

// routed are the queues that a publish reaches; known is whether there is such an
// exchange.
func (b *Broker) routed(exchangeName, key string) (queues []*queue, known bool) {
	if exchangeName == "" {
		if q := b.queues[key]; q != nil {
			queues = append(queues, q)
		}
		return queues, true
	}
	x := b.exchanges[exchangeName]
	if x == nil {
		return nil, false
	}
	for _, bound := range x.bindings {
		q := b.queues[bound.Queue]
		if q != nil && (x.fanout || bound.RoutingKey == key) && !slices.Contains(queues, q) {
			queues = append(queues, q)
		}
	}
	return queues, true
}

// store adds a message behind the others, but for a swap.
func (b *Broker) store(q *queue, m *message) {
	q.stored++
	if every := b.faults.SwapEvery; every >= 2 && q.stored%every == every-1 {
		q.unhold()
		q.held = m
		return
	}
	q.push(m)
	q.unhold()
}

func (q *queue) push(m *message) {
	q.position++
	m.position = q.position
	q.ready = append(q.ready, m)
}

func (q *queue) unhold() {
	if m := q.held; m != nil {
		q.held = nil
		q.push(m)
	}
}

// requeue puts a message back to where it was.
func (q *queue) requeue(m *message) {
	m.redelivered = true
	at, _ := slices.BinarySearchFunc(q.ready, m.position, func(m *message, position uint64) int {
		return int(int64(m.position) - int64(position))
	})
	q.ready = slices.Insert(q.ready, at, m)
}

// dispatch delivers what is ready to consumers that may have more, in turns.
func (b *Broker) dispatch(q *queue) {
	for len(q.ready) > 0 {
		cons := q.free()
		if cons == nil {
			return
		}
		m := q.ready[0]
		q.ready = q.ready[1:]
		tag := cons.channel.hand(delivery{m, q, cons}, cons.noAck)
		if !cons.noAck {
			cons.unsettled++
		}
		c := cons.channel.conn
		c.send(cons.channel.id, &amqpwire.BasicDeliver{
			ConsumerTag: cons.tag, DeliveryTag: tag, Redelivered: m.redelivered, Exchange: m.exchange, RoutingKey: m.key,
		})
		c.sendContent(cons.channel.id, m)
		b.delivered++
	}
}

func (q *queue) free() *consumer {
	for range q.consumers {
		cons := q.consumers[q.next%len(q.consumers)]
		q.next++
		if cons.limit == 0 || cons.unsettled < cons.limit {
			return cons
		}
	}
	return nil
}

// hand gives a delivery its tag and remembers it until it is settled.
func (ch *channel) hand(d delivery, noAck bool) uint64 {
	ch.deliveries++
	if !noAck {
		ch.unsettled[ch.deliveries] = d
	}
	return ch.deliveries
}

// settled ends a delivery.
func (ch *channel) settled(tag uint64, requeue bool) {
	d := ch.unsettled[tag]
	delete(ch.unsettled, tag)
	if d.consumer != nil {
		d.consumer.unsettled--
	}
	if requeue {
		d.queue.requeue(d.message)
	}
}

func (b *Broker) deleteQueue(q *queue) {
	delete(b.queues, q.name)
	for _, cons := range q.consumers {
		delete(cons.channel.consumers, cons.tag)
		cons.channel.conn.send(cons.channel.id, &amqpwire.BasicCancel{ConsumerTag: cons.tag, NoWait: true})
	}
	q.consumers = nil
}

// drop removes a consumer from its queue.
func (q *queue) drop(cons *consumer) {
	q.consumers = slices.DeleteFunc(q.consumers, func(c *consumer) bool { return c == cons })
}
