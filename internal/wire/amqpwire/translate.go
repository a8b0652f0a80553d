package amqpwire

import (
	"encoding/binary"
	"math/bits"

	"github.com/ferrymq/ferry/internal/message"
)

// PropertiesToMessage appends raw properties as a property list of package
// message, and says whether the message is persistent (delivery-mode 2).
//
// Headers are verified (types, lengths, MaxNesting, MaxElements) and then copied
// byte for byte, except that type 'L' becomes 'l', which is the same value.
// cluster-id, which AMQP 0-9-1 does not use, is left out. It does not allocate
// where dst has room for len(raw) and a few bytes more.
func PropertiesToMessage(dst, raw []byte) (list []byte, persistent bool, err error) {
	list, persistent, e := toMessage(dst, raw)
	if e != nil {
		return dst, false, e
	}
	return list, persistent, nil
}

func toMessage(dst, raw []byte) (list []byte, persistent bool, err *Error) {
	r, err := newPropertyReader(raw)
	if err != nil {
		return nil, false, err
	}
	for {
		flag, v, err := r.next()
		if err != nil {
			return nil, false, err
		}
		switch flag {
		case 0:
			return dst, persistent, nil
		case flagHeaders:
			c := headerCheck{left: MaxElements}
			if err := c.table(v, 0); err != nil {
				return nil, false, err
			}
			dst = message.AppendField(dst, message.Headers, v)
			if c.renamed {
				renameTable(dst[len(dst)-len(v):])
			}
		case flagDeliveryMode:
			persistent = v[0] == Persistent
		case flagClusterID:
		default:
			dst = message.AppendField(dst, fieldOf(flag), v)
		}
	}
}

// PropertiesFromMessage appends a property list of package message as raw
// properties, flags and list. Fields that AMQP has no property for are left out.
// A list that is damaged, or holds what AMQP cannot encode, is an error. Headers
// are copied as they are: whoever wrote the list has verified them. It does not
// allocate where dst has room.
//
// delivery-mode is written for a persistent message only. RabbitMQ keeps the
// difference between 1 and absent, which a list does not have; clients read
// absent as transient, and most publishers of transient messages leave it out.
func PropertiesFromMessage(dst, list []byte, persistent bool) ([]byte, error) {
	start := len(dst)
	out := append(dst, 0, 0)
	var flags uint16
	for last := message.FieldID(0); len(list) > 0; {
		id, v, rest, ok := message.NextField(list)
		if !ok || id <= last {
			return dst, fault(InternalError, "damaged property list")
		}
		list, last = rest, id
		if persistent && id > message.Headers && flags&flagDeliveryMode == 0 {
			flags |= flagDeliveryMode
			out = append(out, Persistent)
		}
		if id > message.AppID {
			continue
		}
		flag := fieldFlags[id]
		flags |= flag
		switch flag {
		case flagHeaders:
			if err := checkLong(len(v)); err != nil {
				return dst, err
			}
			out = binary.BigEndian.AppendUint32(out, uint32(len(v)))
		case flagPriority:
			if len(v) != 1 {
				return dst, faultField(id, len(v))
			}
		case flagTimestamp:
			if len(v) != 8 {
				return dst, faultField(id, len(v))
			}
		default:
			if len(v) > MaxShortString {
				return dst, faultLong(len(v))
			}
			out = append(out, byte(len(v)))
		}
		out = append(out, v...)
	}
	if persistent && flags&flagDeliveryMode == 0 {
		flags |= flagDeliveryMode
		out = append(out, Persistent)
	}
	binary.BigEndian.PutUint16(out[start:], flags)
	return out, nil
}

func faultField(id message.FieldID, n int) error {
	return fault(InternalError, "property %d of a list has %d bytes", id, n)
}

// Both orders are the same, but for delivery-mode and cluster-id, which a list
// does not have.
var fieldFlags = [...]uint16{
	message.ContentType:     flagContentType,
	message.ContentEncoding: flagContentEncoding,
	message.Headers:         flagHeaders,
	message.Priority:        flagPriority,
	message.CorrelationID:   flagCorrelationID,
	message.ReplyTo:         flagReplyTo,
	message.Expiration:      flagExpiration,
	message.MessageID:       flagMessageID,
	message.Timestamp:       flagTimestamp,
	message.Type:            flagType,
	message.UserID:          flagUserID,
	message.AppID:           flagAppID,
}

// fieldOf is the other way. flag is one that fieldFlags has.
func fieldOf(flag uint16) message.FieldID {
	id := message.FieldID(bits.LeadingZeros16(flag))
	if flag > flagDeliveryMode {
		return id + 1
	}
	return id
}

// headerCheck verifies a table without decoding it.
type headerCheck struct {
	left    int  // elements it may still hold
	renamed bool // it has values of type 'L'
}

func (c *headerCheck) table(list []byte, depth int) *Error {
	for len(list) > 0 {
		_, rest, err := cutName(list)
		if err != nil {
			return err
		}
		if list, err = c.value(rest, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *headerCheck) array(list []byte, depth int) (err *Error) {
	for len(list) > 0 {
		if list, err = c.value(list, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *headerCheck) value(b []byte, depth int) (rest []byte, err *Error) {
	if c.left == 0 {
		return nil, faultElements(SyntaxError)
	}
	c.left--
	kind, v, rest, err := cutValue(b)
	if err != nil {
		return nil, err
	}
	switch kind {
	case 'L':
		c.renamed = true
	case 'A', 'F':
		if depth == MaxNesting {
			return nil, faultNesting(SyntaxError)
		}
		if kind == 'A' {
			err = c.array(v, depth+1)
		} else {
			err = c.table(v, depth+1)
		}
	}
	return rest, err
}

// renameTable turns 'L' into 'l' in a table that was verified.
func renameTable(list []byte) {
	for len(list) > 0 {
		list = renameValue(list[1+int(list[0]):])
	}
}

func renameValue(b []byte) (rest []byte) {
	kind, v, rest, _ := cutValue(b)
	switch kind {
	case 'L':
		b[0] = 'l'
	case 'A':
		for len(v) > 0 {
			v = renameValue(v)
		}
	case 'F':
		renameTable(v)
	}
	return rest
}
