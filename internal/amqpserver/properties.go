package amqpserver

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// cacheMax is the most that a connection keeps of the last properties it
// translated, bytes.
const cacheMax = 1 << 10

// propertiesIn translates the properties of publishes. Those of one publisher
// are mostly the same again and again: the last translation is kept.
type propertiesIn struct {
	raw        []byte // as they came
	list       []byte // property list of package message
	persistent bool
}

// translate makes list and persistent those of raw. Errors: what a codec says of
// bytes that are no properties; PreconditionFailed where user-id or expiration
// are not what RabbitMQ takes.
func (p *propertiesIn) translate(raw []byte, user string) (err error) {
	if bytes.Equal(p.raw, raw) {
		return nil
	}
	p.raw = p.raw[:0] // nothing, should this fail
	p.list, p.persistent, err = amqpwire.PropertiesToMessage(p.list[:0], raw)
	if err != nil {
		return err
	}
	if id := message.Field(p.list, message.UserID); id != nil && string(id) != user {
		return preconditionFailed("user_id property set to '%s' but authenticated user was '%s'", id, user)
	}
	if e := message.Field(p.list, message.Expiration); e != nil {
		if why := expirationFault(string(e)); why != "" {
			return preconditionFailed("invalid expiration '%s': %s", e, why)
		}
	}
	p.raw = append(p.raw, raw...)
	return nil
}

// idle gives up what is too large to keep.
func (p *propertiesIn) idle() {
	if cap(p.raw)+cap(p.list) > cacheMax {
		*p = propertiesIn{}
	}
}

func preconditionFailed(format string, args ...any) error {
	return &broker.Error{Kind: broker.PreconditionFailed, Text: fmt.Sprintf(format, args...)}
}

// maxExpiration is the longest a message may be told to live, milliseconds: the
// longest timer that RabbitMQ can set.
const maxExpiration = math.MaxUint32

// expirationFault says, in RabbitMQ's words, what is wrong with an expiration: a
// text of milliseconds.
func expirationFault(s string) string {
	digits := strings.TrimLeft(s, "+-")
	end := 0
	for end < len(digits) && digits[end] >= '0' && digits[end] <= '9' {
		end++
	}
	if end == 0 || len(s)-len(digits) > 1 {
		return "no_integer"
	}
	if left := digits[end:]; left != "" {
		return fmt.Sprintf("{leftover_string,%q}", left)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Sprintf("{value_too_large,%s}", s)
	case n < 0:
		return fmt.Sprintf("{value_negative,%d}", n)
	case n > maxExpiration:
		return fmt.Sprintf("{value_too_large,%d}", n)
	}
	return ""
}

// propertiesOut is propertiesIn for deliveries.
type propertiesOut struct {
	list       []byte
	persistent bool
	raw        []byte
}

// translate returns list as raw properties, which are valid until the next call.
func (p *propertiesOut) translate(list []byte, persistent bool) ([]byte, error) {
	if len(p.raw) > 0 && persistent == p.persistent && bytes.Equal(p.list, list) {
		return p.raw, nil
	}
	raw, err := amqpwire.PropertiesFromMessage(p.raw[:0], list, persistent)
	if err != nil {
		p.raw = p.raw[:0]
		return nil, err
	}
	p.raw, p.persistent = raw, persistent
	p.list = append(p.list[:0], list...)
	return raw, nil
}

func (p *propertiesOut) idle() {
	if cap(p.raw)+cap(p.list) > cacheMax {
		*p = propertiesOut{}
	}
}
