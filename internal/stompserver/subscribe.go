package stompserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

const (
	// subscriptionsMost is how many subscriptions a connection may have.
	subscriptionsMost = 16 << 10

	// idMost is how long the id of a subscription may be, bytes: it is in each of its
	// messages, and with RabbitMQ it is a name of AMQP's.
	idMost = message.MaxName

	// formerMost is how many subscriptions that have ended a connection remembers,
	// for messages of theirs to be acknowledged. Of older ones they are requeued.
	formerMost = 64
)

// Headers of SUBSCRIBE that ActiveMQ and Artemis have.
const (
	headerSelector          = "selector"
	headerNoLocal           = "no-local"
	headerPriority          = "x-priority" // RabbitMQ
	headerWindow            = "consumer-window-size"
	headerActiveExclusive   = "activemq.exclusive"
	headerActiveNoLocal     = "activemq.noLocal"
	headerActivePrefetch    = "activemq.prefetchSize"
	headerActivePriority    = "activemq.priority"
	headerActiveRetroactive = "activemq.retroactive"
)

// durableNames are the headers with the name of a durable subscription, in
// Artemis's and ActiveMQ's spellings.
var durableNames = [...]string{"durable-subscription-name", "durable-subscriber-name", "activemq.subscriptionName"}

// subscriptions is what the reader has for SUBSCRIBE, UNSUBSCRIBE and ACK.
type subscriptions struct {
	byKey  map[string]*subscription // those that are active
	byAck  map[string]*subscription // by their prefix, also those that have ended
	acked  *subscription            // the one of the last ACK
	former []*subscription          // ended, the oldest first
	count  uint32                   // ever begun
}

// subscribe handles SUBSCRIBE.
func (r *reader) subscribe() error {
	text, ok := r.dec.Get(stompwire.HeaderDestination)
	if !ok {
		return faultf(missingDestination, "%q must include a 'destination' header\n", "SUBSCRIBE")
	}
	s := &subscription{destination: string(text)}
	id, ok := r.dec.Get(stompwire.HeaderID)
	switch {
	case ok && strings.HasPrefix(string(id), tempPrefix):
		return faultf(invalidID, "SUBSCRIBE 'id' may not start with %s\n", tempPrefix)
	case len(id) > idMost:
		return faultf(invalidID, "SUBSCRIBE 'id' may have %d bytes, not %d\n", idMost, len(id))
	case ok:
		s.id, s.key = string(id), keyOfID+string(id)
	case r.isDurable():
		return faultf(missingID, "Header 'id' is required for durable subscriptions")
	default:
		s.key = keyOfDestination + s.destination
	}
	if r.byKey[s.key] != nil {
		return faultf(duplicateID, "A subscription identified by '%s' already exists.", s.key)
	}
	if len(r.byKey) >= subscriptionsMost {
		return kindFault(broker.NotAllowed, fmt.Sprintf("a connection may have %d subscriptions", subscriptionsMost))
	}
	if err := r.refuseUnknown(); err != nil {
		return err
	}
	var err error
	if s.mode, err = r.ackMode(); err != nil {
		return err
	}
	prefetch, err := r.prefetch()
	if err != nil {
		return err
	}
	if err := r.source(s); err != nil {
		return err
	}
	args, err := r.consumerArguments()
	if err != nil {
		return err
	}
	if err := r.consume(s, prefetch, args); err != nil {
		if s.ownQueue {
			_, _ = r.session.DeleteQueue(s.queue, false, false) // the error that counts is there already
		}
		return err
	}
	return nil
}

// consume begins a subscription to its queue.
func (r *reader) consume(s *subscription, prefetch uint32, args []byte) error {
	r.count++
	if err := s.encode(r.conn, r.count); err != nil {
		return err
	}
	s.channel = r.openChannel()
	s.channel.Qos(prefetch, false)
	c, err := s.channel.Consume(broker.ConsumeSpec{
		Queue: s.queue,
		Tag:   s.key,
		NoAck: s.mode == ackAuto,
		Args:  args,
	})
	if err != nil {
		return err
	}
	r.subs.add(c, s)
	if r.byKey == nil {
		r.byKey, r.byAck = make(map[string]*subscription, 1), make(map[string]*subscription, 1)
	}
	r.byKey[s.key], r.byAck[s.prefix] = s, s
	s.consumer = c
	// The receipt comes before the first message.
	if !s.temp {
		if err := r.receipt(); err != nil {
			return err
		}
	}
	c.Start()
	return nil
}

// refuseUnknown refuses what a subscription may ask for that is not here, where
// to leave it out would deliver what was not asked for.
func (r *reader) refuseUnknown() error {
	if selector, ok := r.dec.Get(headerSelector); ok && len(bytes.TrimSpace(selector)) > 0 {
		return kindFault(broker.NotImplemented, "selectors are not supported: bind a queue to an exchange of type headers or topic, and subscribe to that")
	}
	for _, name := range []string{headerNoLocal, headerActiveNoLocal, headerActiveExclusive, headerActiveRetroactive} {
		if r.boolean(name, false) {
			return kindFault(broker.NotImplemented, name+"=true is not supported")
		}
	}
	return nil
}

func (r *reader) ackMode() (ackMode, error) {
	value, ok := r.dec.Get(stompwire.HeaderAck)
	if !ok {
		return ackAuto, nil
	}
	switch string(value) {
	case "auto":
		return ackAuto, nil
	case "client":
		return ackClient, nil
	case "client-individual":
		return ackIndividual, nil
	}
	return 0, faultf(invalidHeader, "ack must be auto, client or client-individual, not %s\n", quoted(value))
}

// prefetch is how many messages may wait to be acknowledged, 0 for no limit.
// RabbitMQ's prefetch-count and ActiveMQ's activemq.prefetchSize are numbers of
// messages; Artemis's consumer-window-size is in bytes, -1 for no limit, and 0
// asks for one message at a time.
func (r *reader) prefetch() (uint32, error) {
	n, ok, err := r.number(stompwire.HeaderPrefetchCount)
	if ok || err != nil {
		return uint32(min(max(n, 0), math.MaxUint32)), err
	}
	n, ok, err = r.number(headerActivePrefetch)
	if ok || err != nil {
		return uint32(min(max(n, 1), math.MaxUint32)), err
	}
	n, ok, err = r.number(headerWindow)
	if ok && n == 0 {
		return 1, nil
	}
	return 0, err
}

// number reads a header that is a number.
func (r *reader) number(name string) (n int64, ok bool, err error) {
	value, ok := r.dec.Get(name)
	if !ok {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(string(bytes.Trim(value, " ")), 10, 64)
	if err != nil {
		return 0, false, faultf(invalidHeader, "%s must be a number, not %s\n", name, quoted(value))
	}
	return n, true, nil
}

// consumerArguments is the header list of a consumer.
func (r *reader) consumerArguments() ([]byte, error) {
	for _, name := range []string{headerPriority, headerActivePriority} {
		n, ok, err := r.number(name)
		if err != nil {
			return nil, err
		}
		if ok {
			list := append([]byte{byte(len(headerPriority))}, headerPriority...)
			return binary.BigEndian.AppendUint64(append(list, 'l'), uint64(n)), nil
		}
	}
	return nil, nil
}

// source finds the queue that a destination stands for, and makes it where it is
// to be made.
func (r *reader) source(s *subscription) error {
	kind, _ := r.dec.Get(stompwire.HeaderSubscriptionType)
	many, err := isMulticast(kind, stompwire.HeaderSubscriptionType)
	if err != nil {
		return err
	}
	d, err := parseDestination([]byte(s.destination))
	if err != nil {
		return err
	}
	name, named := r.durableName()
	switch d.Kind {
	case stompwire.TempQueue:
		return notValidFor([]byte(s.destination), "SUBSCRIBE")
	case stompwire.QueueDestination:
		s.queue = d.Name
		return r.declareQueue(d.Kind, s.queue)
	case stompwire.AMQQueue, stompwire.ReplyQueue:
		s.queue = d.Name
		return nil
	case stompwire.Plain:
		if address, queue, ok := d.Qualified(); ok && many {
			s.queue = queue
			if err := r.declareQueue(d.Kind, queue); err != nil {
				return err
			}
			if err := r.session.BindQueue(queue, topicExchange, address, nil); err != nil {
				return err
			}
			return s.fixDestination(r.version)
		}
		if !many && (!named || string(kind) == anycast) {
			_, s.queue, _ = d.Route()
			if err := r.declareQueue(d.Kind, s.queue); err != nil {
				return err
			}
			return s.fixDestination(r.version)
		}
		s.bareKeys = true
	}
	exchange, key := topicExchange, d.Name
	if d.Kind == stompwire.ExchangeDestination {
		exchange, key = d.Name, d.Key
	}
	queue := ""
	if named {
		if queue, err = r.namedQueue(name); err != nil {
			return err
		}
	}
	s.durable = r.isDurable()
	if err := r.subscriptionQueue(s, queue, key); err != nil {
		return err
	}
	if err := r.session.BindQueue(s.queue, exchange, key, nil); err != nil {
		if s.ownQueue {
			_, _ = r.session.DeleteQueue(s.queue, false, false) // the error that counts is there already
		}
		return err
	}
	return nil
}

// durableName is the name of a durable subscription in Artemis's spelling.
func (r *reader) durableName() (name []byte, ok bool) {
	for _, header := range durableNames {
		if name, ok := r.dec.Get(header); ok {
			return name, true
		}
	}
	return nil, false
}

// namedQueue is the queue of a durable subscription of the connection's client,
// named as in Artemis: its client-id and the subscription's name.
func (r *reader) namedQueue(name []byte) (string, error) {
	if r.clientID == "" {
		return "", faultf(missingHeader, "A durable subscription needs a client-id header on CONNECT\n")
	}
	queue := r.clientID + "." + string(name)
	if len(name) == 0 {
		return "", faultf(invalidHeader, "The name of a durable subscription cannot be blank\n")
	}
	return queue, checkName([]byte(queue), "client-id and the subscription's name")
}

// unsubscribe handles UNSUBSCRIBE.
func (r *reader) unsubscribe() error {
	id, hasID := r.dec.Get(stompwire.HeaderID)
	destination, hasDestination := r.dec.Get(stompwire.HeaderDestination)
	name, named := r.durableName()
	key, what := "", ""
	switch {
	case hasID && bytes.HasPrefix(id, []byte(tempPrefix)):
		return faultf(invalidID, "UNSUBSCRIBE 'id' may not start with %s\n", tempPrefix)
	case hasID:
		key, what = keyOfID+string(id), "id='"+string(id)+"'"
	case r.isDurable():
		return faultf(missingID, "Header 'id' is required for durable subscriptions")
	case hasDestination:
		key, what = keyOfDestination+string(destination), "destination='"+string(destination)+"'"
	case !named:
		return faultf(missingTarget, "UNSUBSCRIBE must include a 'destination' or 'id' header")
	}
	s := r.byKey[key]
	switch {
	case s != nil:
		r.cancel(s)
		if s.durable && r.isDurable() {
			if _, err := r.session.DeleteQueue(s.queue, false, false); err != nil {
				return err
			}
			r.forgetGone(s.queue)
		}
	case !named:
		return faultf(noSubscription, "UNSUBSCRIBE must refer to an existing subscription.\n"+
			"Subscription to %s not found.\n", quoted(what))
	}
	if named {
		queue, err := r.namedQueue(name)
		if err != nil {
			return err
		}
		for _, s := range r.byKey {
			if s.queue == queue {
				r.cancel(s)
			}
		}
		if _, err := r.session.DeleteQueue(queue, true, false); err != nil {
			return err
		}
		r.forgetGone(queue)
	}
	return r.receipt()
}

// cancel ends a subscription. What was delivered may still be settled.
func (r *reader) cancel(s *subscription) {
	delete(r.byKey, s.key)
	s.channel.Cancel(s.key)
	if s.mode == ackAuto {
		r.closeSubscription(s)
	} else {
		if r.former = append(r.former, s); len(r.former) > formerMost {
			r.closeSubscription(r.former[0])
			r.former = append(r.former[:0], r.former[1:]...)
		}
	}
	r.subs.forget(s.consumer)
	r.session.Reply(forgotten)
	r.forgetGone(s.queue)
}

func (r *reader) closeSubscription(s *subscription) {
	delete(r.byAck, s.prefix)
	if r.acked == s {
		r.acked = nil
	}
	r.closeChannel(s.channel)
}

// tempQueue is the queue that a temporary one stands for, as long as the
// connection is there. What comes into it is delivered without a SUBSCRIBE.
func (r *reader) tempQueue(id string) ([]byte, error) {
	if len(r.temps) >= subscriptionsMost {
		return nil, kindFault(broker.NotAllowed, fmt.Sprintf("a connection may have %d temporary queues", subscriptionsMost))
	}
	q, err := r.session.DeclareQueue(broker.QueueSpec{Exclusive: true, AutoDelete: true})
	if err != nil {
		return nil, err
	}
	s := &subscription{key: keyOfID + tempPrefix + id, id: tempPrefix + id, queue: q.Name, temp: true}
	if err := r.consume(s, 0, nil); err != nil {
		return nil, err
	}
	if r.temps == nil {
		r.temps = make(map[string][]byte, 1)
	}
	r.temps[id] = []byte(q.Name)
	return r.temps[id], nil
}

// openChannel begins a channel at the broker.
func (r *reader) openChannel() *broker.Channel {
	if n := len(r.freeChannels); n > 0 {
		id := r.freeChannels[n-1]
		r.freeChannels = r.freeChannels[:n-1]
		return r.session.OpenChannel(id)
	}
	r.channels++
	return r.session.OpenChannel(r.channels)
}

func (r *reader) closeChannel(ch *broker.Channel) {
	ch.Close()
	r.freeChannels = append(r.freeChannels, ch.ID())
}
