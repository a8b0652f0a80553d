package amqplink

import (
	"encoding/binary"
	"io"
	"log/slog"
	"math"
	"math/bits"
	"strconv"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// Flags of the properties of class basic (amqp0-9-1.xml), in the order of their
// values.
const (
	flagContentType uint16 = 1 << (15 - iota)
	flagContentEncoding
	flagHeaders
	flagDeliveryMode
	flagPriority
	flagCorrelationID
	flagReplyTo
	flagExpiration
	flagMessageID
	flagTimestamp
	flagType
	flagUserID
	flagAppID
	flagClusterID

	flagsOther uint16 = 3 // bit 1 is unused, bit 0 says that more flags follow
)

// properties reads raw properties, flags and list, into a delivery. Headers that
// cannot be read are left out.
func (a *arrivals) properties(raw []byte, d *link.Delivery, log *slog.Logger) error {
	flags := binary.BigEndian.Uint16(raw) // ParseContentHeader has seen that it is there
	if flags&flagsOther != 0 {
		_, err := amqpwire.ParseProperties(raw)
		if err == nil {
			err = errProperties
		}
		return err
	}
	m := &d.Message
	m.Transient = true
	b := raw[2:]
	for flags != 0 {
		flag := uint16(1) << (bits.Len16(flags) - 1)
		flags &^= flag
		var v []byte
		var ok bool
		if v, b, ok = cutProperty(flag, b); !ok {
			return io.ErrUnexpectedEOF
		}
		switch flag {
		case flagContentType:
			m.ContentType = a.contentType.Of(v)
		case flagContentEncoding:
			m.ContentEncoding = a.encoding.Of(v)
		case flagHeaders:
			readHeaders(v, d, log)
		case flagDeliveryMode:
			m.Transient = v[0] != amqpwire.Persistent
		case flagPriority:
			m.Priority = v[0]
		case flagCorrelationID:
			m.CorrelationID = string(v)
		case flagReplyTo:
			m.ReplyTo = a.replyTo.Of(v)
		case flagExpiration:
			m.Expiration = milliseconds(v)
		case flagMessageID:
			m.MessageID = string(v)
		case flagTimestamp:
			m.Timestamp = time.Unix(int64(binary.BigEndian.Uint64(v)), 0).UTC()
		case flagType:
			m.Type = a.kind.Of(v)
		case flagUserID:
			m.UserID = a.user.Of(v)
		case flagAppID:
			m.AppID = a.app.Of(v)
		}
	}
	if len(b) != 0 {
		return errProperties
	}
	return nil
}

var errProperties = &amqpwire.Error{Code: amqpwire.SyntaxError, Text: "properties that class basic does not have"}

// cutProperty takes the value of one property off b, texts and headers without
// their lengths.
func cutProperty(flag uint16, b []byte) (v, rest []byte, ok bool) {
	n := 0
	switch flag {
	case flagHeaders:
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return nil, nil, false
		}
		n = 4 + int(binary.BigEndian.Uint32(b))
		return b[4:n], b[n:], true
	case flagDeliveryMode, flagPriority:
		n = 1
	case flagTimestamp:
		n = 8
	default:
		return cutShort(b)
	}
	if len(b) < n {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// milliseconds is the duration that a text of decimal milliseconds says, 0 if it
// says none.
func milliseconds(text []byte) time.Duration {
	n, err := strconv.ParseUint(string(text), 10, 63)
	if err != nil {
		return 0
	}
	return time.Duration(min(n, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
}

// readHeaders reads the inside of a field table. Our own headers come first, and
// most messages have no others.
func readHeaders(list []byte, d *link.Delivery, log *slog.Logger) {
	rest := list
	if id, after, ok := cutHeader(rest, link.HeaderID, 'S'); ok && len(id) >= 4 && int(binary.BigEndian.Uint32(id)) == len(id)-4 {
		d.Message.ID = string(id[4:])
		rest = after
	}
	if n, after, ok := cutHeader(rest, link.HeaderAttempt, 'I'); ok {
		d.Attempt = attempt(int32(binary.BigEndian.Uint32(n)))
		rest = after
	}
	if len(rest) == 0 {
		return
	}
	t, err := amqpwire.TableFromHeaders(rest)
	if err != nil {
		log.Warn("a message has headers that cannot be read; they are left out", "error", err)
		return
	}
	if id, ok := t[link.HeaderID].(string); ok {
		d.Message.ID = id
	}
	if n, ok := t[link.HeaderAttempt].(int32); ok {
		d.Attempt = attempt(n)
	}
	delete(t, link.HeaderID)
	delete(t, link.HeaderAttempt)
	if len(t) > 0 {
		d.Message.Headers = plain(t)
	}
}

func attempt(n int32) int { return int(max(0, n)) }

// cutHeader takes the first field off the inside of a table, if it has that name
// and type. A value of type S comes with its length.
func cutHeader(list []byte, name string, kind byte) (v, rest []byte, ok bool) {
	n := 1 + len(name)
	if len(list) < n+5 || int(list[0]) != len(name) || string(list[1:n]) != name || list[n] != kind {
		return nil, nil, false
	}
	v = list[n+1:]
	end := 4
	if kind == 'S' {
		size := binary.BigEndian.Uint32(v)
		if uint64(size) > uint64(len(v)-4) {
			return nil, nil, false
		}
		end += int(size)
	}
	return v[:end], v[end:], true
}

// plain turns the tables within a table into maps, in place.
func plain(t amqpwire.Table) map[string]any {
	for name, v := range t {
		t[name] = plainValue(v)
	}
	return t
}

func plainValue(v any) any {
	switch v := v.(type) {
	case amqpwire.Table:
		return plain(v)
	case []any:
		for i := range v {
			v[i] = plainValue(v[i])
		}
	}
	return v
}
