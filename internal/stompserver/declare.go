package stompserver

import (
	"bytes"
	"crypto/md5" //nolint:gosec // not for secrecy: RabbitMQ names its queues so
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// Headers that say how a queue is to be.
const (
	headerDurable    = "durable"
	headerAutoDelete = "auto-delete"
	headerExclusive  = "exclusive"
	headerQueueName  = "x-queue-name"
)

// queueArguments are the headers that become arguments of a queue, and the kinds
// of their values: RabbitMQ's, of all its versions that have classic queues, and
// what the broker knows besides.
var queueArguments = []struct {
	name string
	kind byte
}{
	{"x-dead-letter-exchange", 'S'},
	{"x-dead-letter-routing-key", 'S'},
	{"x-expires", 'l'},
	{"x-max-length", 'l'},
	{"x-max-length-bytes", 'l'},
	{"x-max-priority", 'l'},
	{"x-message-ttl", 'l'},
	{"x-overflow", 'S'},
	{"x-queue-mode", 'S'},
	{"x-queue-type", 'S'},
	{"x-single-active-consumer", 't'},
}

// arguments makes a header list of the headers that become arguments of a queue.
func (r *reader) arguments() ([]byte, error) {
	var list []byte
	for _, a := range queueArguments {
		value, ok := r.dec.Get(a.name)
		if !ok {
			continue
		}
		value = bytes.Trim(value, " ")
		list = append(list, byte(len(a.name)))
		list = append(append(list, a.name...), a.kind)
		switch a.kind {
		case 'l':
			n, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil {
				return nil, faultf(invalidHeader, "%s must be a number, not %s\n", a.name, quoted(value))
			}
			list = binary.BigEndian.AppendUint64(list, uint64(n))
		case 't':
			is, err := strconv.ParseBool(string(value))
			if err != nil {
				return nil, faultf(invalidHeader, "%s must be true or false, not %s\n", a.name, quoted(value))
			}
			list = append(list, flag(is))
		default:
			list = binary.BigEndian.AppendUint32(list, uint32(len(value)))
			list = append(list, value...)
		}
	}
	return list, nil
}

func flag(is bool) byte {
	if is {
		return 1
	}
	return 0
}

// boolean reads a header as RabbitMQ does: what is neither true nor false is
// otherwise.
func (r *reader) boolean(name string, otherwise bool) bool {
	value, _ := r.dec.Get(name)
	switch string(value) {
	case "true", "True":
		return true
	case "false", "False":
		return false
	}
	return otherwise
}

// declareQueue makes the queue of a destination, durable or as the headers of the
// frame at hand ask for, when it is first used by the connection. Where there is
// one with other properties /queue/ is refused, as in RabbitMQ; a plain name is
// that queue, as in ActiveMQ and Artemis.
func (r *reader) declareQueue(kind stompwire.DestinationKind, name string) error {
	if _, ok := r.declared[name]; ok && (r.dec.Command != stompwire.Subscribe || r.isThere(name)) {
		return nil
	}
	args, err := r.arguments()
	if err != nil {
		return err
	}
	durable := true
	if r.dec.Command == stompwire.Subscribe { // on a SEND it is of the message
		durable = r.boolean(stompwire.HeaderPersistent, durable)
	}
	_, err = r.session.DeclareQueue(broker.QueueSpec{
		Name:       name,
		Durable:    r.boolean(headerDurable, durable),
		Exclusive:  r.boolean(headerExclusive, false),
		AutoDelete: r.boolean(headerAutoDelete, false),
		Args:       args,
	})
	if be := (*broker.Error)(nil); kind == stompwire.Plain && errors.As(err, &be) && be.Kind == broker.PreconditionFailed {
		if _, missing := r.session.CheckQueue(name); missing == nil {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	if r.declared == nil || len(r.declared) >= declaredMost {
		r.declared = make(map[string]struct{}, 1)
	}
	r.declared[name] = struct{}{}
	return nil
}

// isThere tells whether there is a queue of this name.
func (r *reader) isThere(name string) bool {
	_, err := r.session.CheckQueue(name)
	be := (*broker.Error)(nil)
	return !errors.As(err, &be) || be.Kind != broker.NotFound
}

// forgetGone makes that a queue is made again for the next SEND, if it has gone with
// its last consumer.
func (r *reader) forgetGone(name string) {
	if _, ok := r.declared[name]; ok && !r.isThere(name) {
		delete(r.declared, name)
		r.last = target{}
	}
}

// subscriptionQueue makes the queue of a subscription to an exchange. key is
// what it is bound with, and name the queue's own, "" for one that is made up.
func (r *reader) subscriptionQueue(s *subscription, name, key string) error {
	args, err := r.arguments()
	if err != nil {
		return err
	}
	durable := r.isDurable()
	spec := broker.QueueSpec{
		Name:       name,
		Durable:    r.boolean(stompwire.HeaderPersistent, false) || r.boolean(headerDurable, false),
		AutoDelete: r.boolean(headerAutoDelete, true),
		Args:       args,
	}
	switch given, ok := r.dec.Get(headerQueueName); {
	case name != "": // a durable subscription in Artemis's spelling
		spec.Durable, spec.AutoDelete = true, false
	case ok:
		if err := checkName(given, headerQueueName); err != nil {
			return err
		}
		spec.Name = string(given)
		spec.Exclusive = r.boolean(headerExclusive, false)
	case durable:
		id, _ := r.dec.Get(stompwire.HeaderID)
		spec.Name = durableQueue(key, string(id))
		spec.Exclusive = r.boolean(headerExclusive, false)
	default:
		spec.Name = "stomp-subscription-" + randomName()
		spec.Exclusive = r.boolean(headerExclusive, true)
		s.ownQueue = true
	}
	if _, err := r.session.DeclareQueue(spec); err != nil {
		return err
	}
	s.queue = spec.Name
	return nil
}

// isDurable tells whether the frame at hand is about a durable subscription in
// RabbitMQ's spelling.
func (r *reader) isDurable() bool {
	return r.boolean(headerDurable, false) || r.boolean(stompwire.HeaderPersistent, false)
}

func checkName(name []byte, header string) error {
	if len(name) == 0 || len(name) > message.MaxName || !utf8.Valid(name) {
		return faultf(invalidHeader, "%s must be a name of 1 to %d bytes of UTF-8, not %s\n", header, message.MaxName, quoted(name))
	}
	return nil
}

// durableQueue is the name of the queue of a durable subscription: the same that
// RabbitMQ gives it, which is a hash of the pair of key and id in Erlang's
// external term format.
func durableQueue(key, id string) string {
	term := []byte{131, 104, 2} // version, tuple of 2
	for _, s := range []string{key, id} {
		if s == "" {
			term = append(term, 106) // the empty list
			continue
		}
		term = binary.BigEndian.AppendUint16(append(term, 107), uint16(len(s)))
		term = append(term, s...)
	}
	sum := md5.Sum(term) //nolint:gosec // as above
	return "stomp-subscription-" + base64.RawURLEncoding.EncodeToString(sum[:])
}
