// Package message is what a message is, in no protocol's terms: where it was
// published to, its properties, its headers and its body. It owns the encoding
// that queues hold, journals keep and servers translate.
//
// # Block
//
// A block is one message as bytes. It is written once, when the message is
// published, and is never changed but for the checksum, which is computed when
// the block goes to disk:
//
//	checksum    4  CRC-32C of all that follows, big endian
//	flags       1  bit 0: persistent; bit 1: dead-lettered, so that the headers
//	               that tell of that are the broker's; bit 2: there may be a
//	               header BCC
//	exchange    1  length, then that many bytes
//	key         1  length, then that many bytes
//	properties  uvarint length, then that many bytes
//	body           the rest
//
// # Properties
//
// A list of fields, each at most once, in ascending order of id:
//
//	id          1
//	value       uvarint length, then that many bytes
//
// Texts are their bytes; priority is one byte; timestamp is eight bytes, seconds
// since 1970, big endian; headers are a header list.
//
// # Header list
//
// Repeated: length of the name (1), name, kind (1), value. The kinds, and the
// width and byte order of their values, are those of the field tables of AMQP
// 0-9-1 as RabbitMQ writes them, so that they cross without being rewritten; a
// list nests as kind 'F' (4 bytes length) and an array as 'A'.
package message

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Limits that the encoding itself sets.
const (
	MaxName = 255 // bytes of an exchange's name or a routing key
)

// FieldID names a property.
type FieldID uint8

// The properties a message may have.
const (
	ContentType FieldID = 1 + iota
	ContentEncoding
	Headers
	Priority
	CorrelationID
	ReplyTo
	Expiration
	MessageID
	Timestamp
	Type
	UserID
	AppID
)

const (
	flagPersistent = 1 << iota
	flagDead
	flagBlind
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged says that a block does not have the checksum it was written with,
// or is not a block.
var ErrDamaged = errors.New("message block is damaged")

// View is a block taken apart. Its fields point into the block.
type View struct {
	Persistent bool
	Dead       bool // a broker has dead-lettered it, and written the headers about that
	Blind      bool // it may have a header BCC
	Exchange   []byte
	Key        []byte
	Properties []byte // a property list
	Body       []byte
}

// Overhead is the most that a block is larger than its texts and body, bytes.
const Overhead = 4 + 1 + 1 + 1 + binary.MaxVarintLen32

// AppendBlockHead begins a block: all but the body, which the caller appends,
// and then calls Seal. exchange and key must not be longer than MaxName.
func AppendBlockHead(dst []byte, persistent bool, exchange, key, properties []byte) []byte {
	flags := byte(0)
	if persistent {
		flags = flagPersistent
	}
	dst = append(dst, 0, 0, 0, 0, flags, byte(len(exchange)))
	dst = append(dst, exchange...)
	dst = append(dst, byte(len(key)))
	dst = append(dst, key...)
	dst = binary.AppendUvarint(dst, uint64(len(properties)))
	return append(dst, properties...)
}

// MarkDead makes a block, that nobody else has yet, one of a message that a broker
// dead-lettered: the headers about that in its properties are the broker's own.
func MarkDead(block []byte) { block[4] |= flagDead }

// MarkBlind makes a block, that nobody else has yet, one of a message with a header
// BCC: no consumer is to see that; see ParseVisible.
func MarkBlind(block []byte) { block[4] |= flagBlind }

// MarkAs gives a block, that nobody else has yet, the marks of the message that it is
// made of.
func MarkAs(block []byte, v *View) {
	if v.Dead {
		MarkDead(block)
	}
	if v.Blind {
		MarkBlind(block)
	}
}

// Seal writes the checksum of a complete block. Others may Parse the block
// meanwhile: the checksum is not looked at by it.
func Seal(block []byte) {
	binary.BigEndian.PutUint32(block, crc32.Checksum(block[4:], castagnoli))
}

// Check tells whether a block is what was sealed.
func Check(block []byte) error {
	if len(block) < 8 || binary.BigEndian.Uint32(block) != crc32.Checksum(block[4:], castagnoli) {
		return ErrDamaged
	}
	return nil
}

// Parse takes a block apart. It does not verify the checksum.
func Parse(block []byte) (v View, err error) {
	if !v.parse(block) {
		err = ErrDamaged
	}
	return v, err
}

// parse fills an empty view, and tells whether block is one. A view is large: it is
// filled where it is to be.
func (v *View) parse(block []byte) bool {
	if len(block) < 8 {
		return false
	}
	v.Persistent = block[4]&flagPersistent != 0
	v.Dead = block[4]&flagDead != 0
	v.Blind = block[4]&flagBlind != 0
	p := 5
	n := int(block[p])
	p++
	if len(block) < p+n+1 {
		return false
	}
	v.Exchange = block[p : p+n]
	p += n
	n = int(block[p])
	p++
	if len(block) < p+n+1 {
		return false
	}
	v.Key = block[p : p+n]
	p += n
	u, w := binary.Uvarint(block[p:])
	if w <= 0 || u > uint64(len(block)-p-w) {
		return false
	}
	p += w
	v.Properties = block[p : p+int(u)]
	v.Body = block[p+int(u):]
	return true
}

// BCC is the header with routing keys that consumers do not see.
const BCC = "BCC"

// ParseVisible is Parse for whoever consumes the message, or has it returned: without
// the header BCC.
func ParseVisible(block []byte) (v View, err error) {
	if !v.parse(block) {
		return v, ErrDamaged
	}
	if v.Blind {
		v.Properties = withoutBCC(v.Properties)
	}
	return v, nil
}

func withoutBCC(props []byte) []byte {
	out := make([]byte, 0, len(props))
	for {
		id, value, rest, ok := NextField(props)
		if !ok {
			return out
		}
		if id == Headers {
			kept := make([]byte, 0, len(value))
			for list := value; ; {
				name, _, _, next, ok := NextHeader(list)
				if !ok {
					break
				}
				if string(name) != BCC {
					kept = append(kept, list[:len(list)-len(next)]...)
				}
				list = next
			}
			value = kept
		}
		out = AppendField(out, id, value)
		props = rest
	}
}

// AppendField appends one property. Callers append in ascending order of id.
func AppendField(dst []byte, id FieldID, value []byte) []byte {
	dst = append(dst, byte(id))
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

// AppendFieldString is AppendField for a text.
func AppendFieldString(dst []byte, id FieldID, value string) []byte {
	dst = append(dst, byte(id))
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

// NextField takes the first property off a list. ok is false at its end, and
// when the list is damaged.
func NextField(list []byte) (id FieldID, value, rest []byte, ok bool) {
	if len(list) < 2 {
		return 0, nil, nil, false
	}
	u, w := binary.Uvarint(list[1:])
	if w <= 0 || u > uint64(len(list)-1-w) {
		return 0, nil, nil, false
	}
	at := 1 + w
	return FieldID(list[0]), list[at : at+int(u)], list[at+int(u):], true
}

// Field returns one property of a list, nil if it is not there.
func Field(list []byte, id FieldID) []byte {
	for {
		f, v, rest, ok := NextField(list)
		switch {
		case !ok || f > id:
			return nil
		case f == id:
			return v
		}
		list = rest
	}
}
