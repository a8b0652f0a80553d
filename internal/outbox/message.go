package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// A block is a message as bytes:
//
//	fields   uvarint length, then that many bytes: repeated id (1), uvarint
//	         length, value; ids ascend, and what is empty is left out
//	body     the rest
//
// Texts are their bytes. Priority is one byte, transient has no value. Expiration
// is a varint of nanoseconds, timestamp is a varint of seconds since 1970 and a
// uvarint of nanoseconds, attempt is a uvarint. Headers are a header list of
// package message, and are there, empty, for a map that is not nil.
const (
	fieldExchange = 1 + iota
	fieldKey
	fieldHeaders
	fieldContentType
	fieldContentEncoding
	fieldPriority
	fieldTransient
	fieldCorrelationID
	fieldReplyTo
	fieldExpiration
	fieldMessageID
	fieldTimestamp
	fieldType
	fieldUserID
	fieldAppID
	fieldID
	fieldAttempt
	fieldEnd // not one
)

// Limits of a message, in bytes.
const (
	// MaxBody is the largest body: the largest that Ferry's broker takes.
	MaxBody = 16 << 20
	// MaxFields is the most that headers and properties together take. A broker
	// takes less: they have to fit one frame.
	MaxFields = 1 << 20
)

// textField returns the field that is a text, nil for another.
func textField(m *link.Message, id int) *string {
	switch id {
	case fieldExchange:
		return &m.Exchange
	case fieldKey:
		return &m.Key
	case fieldContentType:
		return &m.ContentType
	case fieldContentEncoding:
		return &m.ContentEncoding
	case fieldCorrelationID:
		return &m.CorrelationID
	case fieldReplyTo:
		return &m.ReplyTo
	case fieldMessageID:
		return &m.MessageID
	case fieldType:
		return &m.Type
	case fieldUserID:
		return &m.UserID
	case fieldAppID:
		return &m.AppID
	case fieldID:
		return &m.ID
	}
	return nil
}

func appendField[T string | []byte](dst []byte, id int, value T) []byte {
	dst = append(dst, byte(id))
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

// appendFields appends the fields of a message, without their length.
func appendFields(dst []byte, m *link.Message) ([]byte, error) {
	for id := fieldExchange; id < fieldEnd; id++ {
		if s := textField(m, id); s != nil {
			if *s != "" {
				dst = appendField(dst, id, *s)
			}
			continue
		}
		var scratch [2 * binary.MaxVarintLen64]byte
		value := scratch[:0]
		switch id {
		case fieldHeaders:
			if m.Headers == nil {
				continue
			}
			list, err := appendHeaders(nil, m.Headers)
			if err != nil {
				return nil, err
			}
			value = list
		case fieldPriority:
			if m.Priority == 0 {
				continue
			}
			value = append(value, m.Priority)
		case fieldTransient:
			if !m.Transient {
				continue
			}
		case fieldExpiration:
			if m.Expiration == 0 {
				continue
			}
			value = binary.AppendVarint(value, int64(m.Expiration))
		case fieldTimestamp:
			if m.Timestamp.IsZero() {
				continue
			}
			value = binary.AppendVarint(value, m.Timestamp.Unix())
			value = binary.AppendUvarint(value, uint64(m.Timestamp.Nanosecond()))
		case fieldAttempt:
			if m.Attempt <= 0 {
				continue
			}
			value = binary.AppendUvarint(value, uint64(m.Attempt))
		}
		dst = appendField(dst, id, value)
	}
	return dst, nil
}

// encode returns a message as a body holds it: its length and its block.
func encode(m *link.Message) ([]byte, error) {
	if len(m.Body) > MaxBody {
		return nil, fmt.Errorf("%w: a body of %d bytes, at most %d", ErrTooLarge, len(m.Body), MaxBody)
	}
	var scratch [256]byte
	fields, err := appendFields(scratch[:0], m)
	if err != nil {
		return nil, err
	}
	if len(fields) > MaxFields {
		return nil, fmt.Errorf("%w: %d bytes of headers and properties, at most %d", ErrTooLarge, len(fields), MaxFields)
	}
	n := uvarintLen(uint64(len(fields))) + len(fields) + len(m.Body)
	b := make([]byte, 0, uvarintLen(uint64(n))+n)
	b = binary.AppendUvarint(b, uint64(n))
	b = binary.AppendUvarint(b, uint64(len(fields)))
	b = append(b, fields...)
	return append(b, m.Body...), nil
}

func uvarintLen(n uint64) int {
	w := 1
	for ; n >= 0x80; n >>= 7 {
		w++
	}
	return w
}

var errBlock = errors.New("a stored message is damaged")

// decode takes a block apart into m, which is empty. The texts of like, which
// may be nil, are used again where they are the same; nothing of block is.
func decode(block []byte, m, like *link.Message) error {
	n, w := binary.Uvarint(block)
	if w <= 0 || n > uint64(len(block)-w) {
		return errBlock
	}
	fields, body := block[w:w+int(n)], block[w+int(n):]
	p := parser{b: fields}
	for last := 0; len(p.b) > 0; {
		id := int(p.b[0])
		p.b = p.b[1:]
		value := p.bytes()
		if p.err != nil || id <= last || !decodeField(m, like, id, value) {
			return errBlock
		}
		last = id
	}
	m.Body = append(make([]byte, 0, len(body)), body...)
	return nil
}

func decodeField(m, like *link.Message, id int, value []byte) (ok bool) {
	if s := textField(m, id); s != nil {
		if like != nil && *textField(like, id) == string(value) {
			*s = *textField(like, id)
		} else {
			*s = string(value)
		}
		return len(value) > 0
	}
	switch id {
	case fieldHeaders:
		m.Headers, ok = parseHeaders(value)
		return ok
	case fieldPriority:
		if len(value) != 1 {
			return false
		}
		m.Priority = value[0]
		return m.Priority != 0
	case fieldTransient:
		m.Transient = true
		return len(value) == 0
	case fieldExpiration:
		n, w := binary.Varint(value)
		m.Expiration = time.Duration(n)
		return w == len(value) && n != 0
	case fieldTimestamp:
		seconds, w := binary.Varint(value)
		if w <= 0 {
			return false
		}
		nanoseconds, v := binary.Uvarint(value[w:])
		if v <= 0 || w+v != len(value) || nanoseconds >= uint64(time.Second) {
			return false
		}
		m.Timestamp = time.Unix(seconds, int64(nanoseconds)).UTC()
		return true
	case fieldAttempt:
		n, w := binary.Uvarint(value)
		m.Attempt = int(n)
		return w == len(value) && n > 0 && n <= math.MaxInt32
	}
	return false
}

// cutBlock takes the first message off what a body holds.
func cutBlock(b []byte) (block, rest []byte, err error) {
	p := parser{b: b}
	block = p.bytes()
	if p.err != nil {
		return nil, nil, errBlock
	}
	return block, p.b, nil
}
