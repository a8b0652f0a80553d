package amqplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// appendHead appends basic.publish and the content header of a message. After an
// error dst is as it was.
func appendHead(dst []byte, channel uint16, o *link.Outgoing, frameMax uint32) ([]byte, error) {
	m := o.Message
	out, err := amqpwire.AppendPublish(dst, channel, m.Exchange, m.Key, o.Mandatory)
	if err != nil {
		return dst, err
	}
	// class 2, weight 2, body size 8, flags 2 (AMQP 0-9-1 §4.2.6.1)
	start := len(out)
	out = amqpwire.AppendFrameHeader(out, amqpwire.FrameHeader, channel, 0)
	out = append(out, 0, byte(amqpwire.ClassBasic), 0, 0)
	out = binary.BigEndian.AppendUint64(out, uint64(len(m.Body)))
	at := len(out)
	out, flags, err := appendProperties(append(out, 0, 0), o)
	if err != nil {
		return dst, err
	}
	binary.BigEndian.PutUint16(out[at:], flags)
	binary.BigEndian.PutUint32(out[start+3:], uint32(len(out)-start-(amqpwire.FrameOverhead-1)))
	out = append(out, amqpwire.FrameEnd)
	if n := len(out) - start; !amqpwire.FrameFits(n, frameMax) {
		return dst, fmt.Errorf("its properties and headers take %d bytes: the broker takes at most %d", n, frameMax)
	}
	return out, nil
}

var (
	errLong     = errors.New("a property is longer than 255 bytes")
	errNegative = errors.New("its expiration is negative")
)

// appendProperties appends the values of the properties that are there and
// returns their flags.
func appendProperties(dst []byte, o *link.Outgoing) (out []byte, flags uint16, err error) {
	m := o.Message
	text := func(flag uint16, s string) {
		if s == "" {
			return
		}
		if len(s) > amqpwire.MaxShortString {
			err = errLong
			return
		}
		flags |= flag
		dst = append(append(dst, byte(len(s))), s...)
	}
	text(flagContentType, m.ContentType)
	text(flagContentEncoding, m.ContentEncoding)
	if m.ID != "" || o.Producer != "" || o.Attempt > 1 || len(m.Headers) > 0 {
		flags |= flagHeaders
		var e error
		if dst, e = appendHeaders(dst, o); e != nil {
			return nil, 0, e
		}
	}
	flags |= flagDeliveryMode
	if m.Transient {
		dst = append(dst, amqpwire.Transient)
	} else {
		dst = append(dst, amqpwire.Persistent)
	}
	if m.Priority != 0 {
		flags |= flagPriority
		dst = append(dst, m.Priority)
	}
	text(flagCorrelationID, m.CorrelationID)
	text(flagReplyTo, m.ReplyTo)
	switch {
	case m.Expiration < 0:
		return nil, 0, errNegative
	case m.Expiration > 0:
		ms := (m.Expiration-1)/time.Millisecond + 1
		flags |= flagExpiration
		at := len(dst)
		dst = strconv.AppendInt(append(dst, 0), int64(ms), 10)
		dst[at] = byte(len(dst) - at - 1)
	}
	text(flagMessageID, m.MessageID)
	if !m.Timestamp.IsZero() {
		flags |= flagTimestamp
		dst = binary.BigEndian.AppendUint64(dst, uint64(m.Timestamp.Unix()))
	}
	text(flagType, m.Type)
	text(flagUserID, m.UserID)
	text(flagAppID, m.AppID)
	return dst, flags, err
}

// appendHeaders appends the table: the id, the attempt, the others sorted.
func appendHeaders(dst []byte, o *link.Outgoing) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	if id := o.Message.ID; id != "" {
		dst = appendName(dst, link.HeaderID, 'S')
		dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(id))), id...)
	} else if o.Producer != "" {
		dst = appendName(dst, link.HeaderID, 'S')
		at := len(dst)
		dst = append(append(dst, 0, 0, 0, 0), o.Producer...)
		dst = strconv.AppendUint(append(dst, '-'), o.Seq, 10)
		binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	}
	if o.Attempt > 1 {
		dst = binary.BigEndian.AppendUint32(appendName(dst, link.HeaderAttempt, 'I'), uint32(o.Attempt))
	}
	if headers := o.Message.Headers; len(headers) > 0 {
		var err error
		if dst, err = amqpwire.AppendHeadersFromTable(dst, withoutOwn(headers)); err != nil {
			return nil, err
		}
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst, nil
}

func appendName(dst []byte, name string, kind byte) []byte {
	return append(append(append(dst, byte(len(name))), name...), kind)
}

// withoutOwn is headers without those that a link writes.
func withoutOwn(headers map[string]any) map[string]any {
	_, id := headers[link.HeaderID]
	_, attempt := headers[link.HeaderAttempt]
	if !id && !attempt {
		return headers
	}
	headers = maps.Clone(headers)
	delete(headers, link.HeaderID)
	delete(headers, link.HeaderAttempt)
	return headers
}
