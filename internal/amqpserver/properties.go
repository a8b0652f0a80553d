package amqpserver

import (
	"bytes"

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

// translate makes list and persistent those of raw. The error is what the codec
// says of bytes that are no properties.
func (p *propertiesIn) translate(raw []byte) (err error) {
	if bytes.Equal(p.raw, raw) {
		return nil
	}
	p.raw = p.raw[:0] // nothing, should this fail
	p.list, p.persistent, err = amqpwire.PropertiesToMessage(p.list[:0], raw)
	if err != nil {
		return err
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
