package stompserver

import (
	"bytes"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// ack handles ACK and NACK. Which message is meant says the header id in STOMP
// 1.2, the header message-id before; from 1.1 on that also has the subscription,
// which is in the id anyway.
func (r *reader) ack(command string) error {
	name := stompwire.HeaderMessageID
	if r.version >= stompwire.V12 {
		name = stompwire.HeaderID
	}
	value, ok := r.dec.Get(name)
	if !ok {
		return faultf(missingHeader, "%q must include the %q header\n", command, name)
	}
	prefix, tag, ok := cutTag(value)
	if !ok {
		return faultf(invalidHeader, "%q must include a valid %q header\n", command, name)
	}
	s := r.acked
	if s == nil || s.prefix != string(prefix) {
		if s = r.byAck[string(prefix)]; s == nil {
			return faultf(unknownMessage, "Message with id %s has no subscription", quoted(value))
		}
		r.acked = s
	}
	if id, ok := r.dec.Get(stompwire.HeaderSubscription); ok && r.version < stompwire.V12 && !s.is(id) {
		return faultf(unknownMessage, "Message with id %s is not of subscription %s", quoted(value), quoted(id))
	}
	if err := r.settle(s, tag); err != nil {
		return err
	}
	return r.receipt()
}

// is tells whether id names the subscription.
func (s *subscription) is(id []byte) bool {
	return string(id) == s.id || s.id == "" && string(id) == s.destination
}

// settle carries out the ACK or NACK at hand.
func (r *reader) settle(s *subscription, tag uint64) error {
	nack := r.dec.Command == stompwire.Nack
	back := nack && r.boolean(stompwire.HeaderRequeue, true)
	multiple := s.mode == ackClient
	if name, ok := r.dec.Get(stompwire.HeaderTransaction); ok {
		tx, err := r.transaction(name)
		if err != nil {
			return err
		}
		if err := tx.take(0); err != nil {
			return err
		}
		if nack {
			return tx.channel.TxNack(s.channel, tag, multiple, back)
		}
		return tx.channel.TxAck(s.channel, tag, multiple)
	}
	if nack {
		return s.channel.Nack(tag, multiple, back)
	}
	return s.channel.Ack(tag, multiple)
}

// cutTag takes the id of a message apart: what its subscription begins all of
// them with, and the broker's tag. It does not allocate.
func cutTag(id []byte) (prefix []byte, tag uint64, ok bool) {
	i := bytes.LastIndexByte(id, '-') + 1
	digits := id[i:]
	const most = 19 // digits that always fit
	if i == 0 || len(digits) == 0 || len(digits) > most {
		return nil, 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return nil, 0, false
		}
		tag = tag*10 + uint64(c-'0')
	}
	// Tag 0 would be all of them to the broker.
	return id[:i], tag, tag > 0
}
