package stompwire

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// Headers of SEND and MESSAGE that are properties of a message.
const (
	HeaderAMQPMessageID   = "amqp-message-id"
	HeaderAppID           = "app-id"
	HeaderContentEncoding = "content-encoding"
	HeaderCorrelationID   = "correlation-id"
	HeaderExpiration      = "expiration" // RabbitMQ: milliseconds from now
	HeaderExpires         = "expires"    // ActiveMQ and Artemis: milliseconds since 1970, 0 for never
	HeaderPriority        = "priority"
	HeaderReplyTo         = "reply-to"
	HeaderTimestamp       = "timestamp"
	HeaderType            = "type"
	HeaderUserID          = "user-id"
)

// headerAttempt marks what a client of ours sends again. The broker takes an
// integer only.
const headerAttempt = "x-ferry-attempt"

const maxPriority = 255

// role is what a header of SEND or MESSAGE is to the message: a property, by its
// message.FieldID, or one of those behind them.
type role = message.FieldID

const (
	roleUser  role = 0 // a header of the message itself
	roleFrame role = message.AppID + 1 + iota
	rolePersistent
	roleExpires
)

// roleOf tells what a header is. Those of the frame are of this one sending or
// this one delivery and no part of the message.
func roleOf[T ~string | ~[]byte](name T) role {
	switch string(name) {
	case HeaderDestination, HeaderContentLength, HeaderReceipt, HeaderTransaction,
		HeaderMessageID, HeaderSubscription, HeaderAck, HeaderRedelivered:
		return roleFrame
	case HeaderPersistent:
		return rolePersistent
	case HeaderExpires:
		return roleExpires
	case HeaderContentType:
		return message.ContentType
	case HeaderContentEncoding:
		return message.ContentEncoding
	case HeaderPriority:
		return message.Priority
	case HeaderCorrelationID:
		return message.CorrelationID
	case HeaderReplyTo:
		return message.ReplyTo
	case HeaderExpiration:
		return message.Expiration
	case HeaderAMQPMessageID:
		return message.MessageID
	case HeaderTimestamp:
		return message.Timestamp
	case HeaderType:
		return message.Type
	case HeaderUserID:
		return message.UserID
	case HeaderAppID:
		return message.AppID
	}
	return roleUser
}

var propertyNames = [...]string{
	message.ContentType:     HeaderContentType,
	message.ContentEncoding: HeaderContentEncoding,
	message.Priority:        HeaderPriority,
	message.CorrelationID:   HeaderCorrelationID,
	message.ReplyTo:         HeaderReplyTo,
	message.Expiration:      HeaderExpiration,
	message.MessageID:       HeaderAMQPMessageID,
	message.Timestamp:       HeaderTimestamp,
	message.Type:            HeaderType,
	message.UserID:          HeaderUserID,
	message.AppID:           HeaderAppID,
}

// AppendProperties appends the headers of the frame at hand, a SEND or a MESSAGE,
// as a property list of package message, and says whether the message is
// persistent. It is the translation of RabbitMQ's plugin, with what ActiveMQ and
// Artemis have more:
//
//   - content-type, content-encoding, correlation-id, type, user-id and app-id are
//     the properties of those names, and amqp-message-id is message-id. reply-to
//     is too; a /reply-queue/NAME, as a MESSAGE has it, becomes the NAME again
//     that it was made from.
//   - persistent is true or True. Any other value is a message that is not.
//   - priority is a number up to 255, timestamp seconds since 1970. Blanks around
//     a number are ignored.
//   - expiration is kept as it is: the broker says what is wrong with one. Where
//     it is absent, expires becomes one, of 1 at least. A timestamp beside an
//     expires is in milliseconds, as Artemis sends both, unless it is so small that
//     it was in the spring of 1973 then.
//   - destination, content-length, receipt, transaction, message-id, subscription,
//     ack and redelivered are left out. RabbitMQ makes headers of the message of
//     those that it does not know, and a receiver gets the receipt of another's
//     SEND.
//   - All others are headers of the message, texts ('S'). x-ferry-attempt is an
//     integer if it has the form of one.
//
// Of headers with one name the first counts, in all versions: 1.2 asks for that,
// and RabbitMQ does so in the others.
//
// What a message cannot hold is an *Error: a property of more than 255 bytes, a
// name of a header too, or a number that is none. dst is returned as it was then.
// now is called when there is an expires. Nothing is allocated where dst has room.
func (d *Decoder) AppendProperties(dst []byte, now func() time.Time) (list []byte, persistent bool, err error) {
	p := properties{headers: d.Headers}
	p.collect()
	list, e := p.append(dst, now)
	if e != nil {
		return dst, false, e
	}
	return list, p.persistent, nil
}

// properties are the headers of one frame, sorted out.
type properties struct {
	headers    []Header
	values     [roleExpires + 1][]byte
	seen       uint32 // bit of a role: values has it
	user       bool   // there are headers of the message itself
	persistent bool
}

func (p *properties) has(r role) bool { return p.seen&(1<<r) != 0 }

func (p *properties) collect() {
	for _, h := range p.headers {
		r := roleOf(h.Name)
		switch {
		case r == roleUser:
			p.user = true
		case !p.has(r):
			p.seen |= 1 << r
			p.values[r] = h.Value
		}
	}
	switch string(p.values[rolePersistent]) {
	case "true", "True":
		p.persistent = true
	}
}

func (p *properties) append(dst []byte, now func() time.Time) (_ []byte, err *Error) {
	for id := message.ContentType; id <= message.AppID; id++ {
		switch {
		case id == message.Headers:
			if p.user {
				dst, err = p.appendHeaders(dst)
			}
		case id == message.Expiration && !p.has(id):
			if p.has(roleExpires) {
				dst, err = appendExpires(dst, p.values[roleExpires], now)
			}
		case !p.has(id):
		case id == message.Priority:
			dst, err = appendPriority(dst, p.values[id])
		case id == message.Timestamp:
			dst, err = appendTimestamp(dst, p.values[id], p.has(roleExpires))
		case len(p.values[id]) > message.MaxName:
			err = fault("header %s has %d bytes: at most %d are allowed", propertyNames[id], len(p.values[id]), message.MaxName)
		case id == message.ReplyTo:
			dst = message.AppendField(dst, id, cutReplyTo(p.values[id]))
		default:
			dst = message.AppendField(dst, id, p.values[id])
		}
		if err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// appendHeaders appends the property message.Headers. Its length is known when
// it is written: what was written moves where that takes more than one byte.
func (p *properties) appendHeaders(dst []byte) ([]byte, *Error) {
	dst = append(dst, byte(message.Headers), 0)
	start := len(dst)
	for i, h := range p.headers {
		if roleOf(h.Name) != roleUser || p.isRepeat(i) {
			continue
		}
		if len(h.Name) > message.MaxName {
			return nil, fault("header %s has a name of %d bytes: at most %d are allowed", quote(h.Name), len(h.Name), message.MaxName)
		}
		dst = append(dst, byte(len(h.Name)))
		dst = append(dst, h.Name...)
		if string(h.Name) == headerAttempt {
			if n, ok := parseInt(h.Value); ok && n == int64(int32(n)) {
				dst = binary.BigEndian.AppendUint32(append(dst, 'I'), uint32(n))
				continue
			}
		}
		dst = binary.BigEndian.AppendUint32(append(dst, 'S'), uint32(len(h.Value)))
		dst = append(dst, h.Value...)
	}
	var length [binary.MaxVarintLen64]byte
	size := len(dst) - start
	w := binary.PutUvarint(length[:], uint64(size))
	dst = append(dst, length[1:w]...) // room, its content is overwritten
	copy(dst[start+w-1:], dst[start:start+size])
	copy(dst[start-1:], length[:w])
	return dst, nil
}

// isRepeat tells whether a header before the i-th has its name.
func (p *properties) isRepeat(i int) bool {
	for _, h := range p.headers[:i] {
		if bytes.Equal(h.Name, p.headers[i].Name) {
			return true
		}
	}
	return false
}

// parseInt reads a decimal number with blanks around it, as RabbitMQ does.
func parseInt(v []byte) (n int64, ok bool) {
	n, err := strconv.ParseInt(string(bytes.Trim(v, " ")), 10, 64)
	return n, err == nil
}

func appendPriority(dst, v []byte) ([]byte, *Error) {
	n, ok := parseInt(v)
	if !ok || n < 0 || n > maxPriority {
		return nil, fault("header %s is %s: a number from 0 to %d is expected", HeaderPriority, quote(v), maxPriority)
	}
	return append(dst, byte(message.Priority), 1, byte(n)), nil
}

// leastMilliseconds is the least time that is taken for one in milliseconds: as
// seconds it is in the year 5138.
const leastMilliseconds = 1e11

func appendTimestamp(dst, v []byte, inMilliseconds bool) ([]byte, *Error) {
	n, ok := parseInt(v)
	if !ok {
		return nil, fault("header %s is %s: a number of seconds since 1970 is expected", HeaderTimestamp, quote(v))
	}
	if inMilliseconds && n >= leastMilliseconds {
		n = time.UnixMilli(n).Unix()
	}
	return binary.BigEndian.AppendUint64(append(dst, byte(message.Timestamp), 8), uint64(n)), nil
}

// appendExpires turns the time of an end into what is left until then.
func appendExpires(dst, v []byte, now func() time.Time) ([]byte, *Error) {
	n, ok := parseInt(v)
	if !ok || n < 0 {
		return nil, fault("header %s is %s: a number of milliseconds since 1970 is expected, 0 for never", HeaderExpires, quote(v))
	}
	if n == 0 {
		return dst, nil
	}
	var digits [20]byte
	left := strconv.AppendInt(digits[:0], max(n-now().UnixMilli(), 1), 10)
	return message.AppendField(dst, message.Expiration, left), nil
}

// hasRabbitPrefix tells which reply-to RabbitMQ leaves alone in a MESSAGE: it is
// a destination. All others are names of queues.
func hasRabbitPrefix[T ~string | ~[]byte](v T) bool {
	if len(v) == 0 || v[0] != '/' {
		return false
	}
	s := string(v[:min(len(v), len(replyPrefix))])
	return strings.HasPrefix(s, "/exchange") || strings.HasPrefix(s, "/topic") || strings.HasPrefix(s, "/queue") ||
		strings.HasPrefix(s, "/amq/queue") || strings.HasPrefix(s, replyPrefix)
}

// cutReplyTo undoes what AppendMessageHeaders does to a reply-to, so that who
// gets the message by AMQP has the queue's name.
func cutReplyTo(v []byte) []byte {
	if name, ok := bytes.CutPrefix(v, []byte(replyPrefix)); ok && len(name) > 0 && !hasRabbitPrefix(name) {
		return name
	}
	return v
}

// AppendMessageHeaders appends those headers of a MESSAGE that come from the
// message: a property list of package message. Those of its delivery, which are
// destination, message-id, subscription, ack, redelivered and content-length, are
// the caller's own.
//
// Properties have the names that AppendProperties knows; a reply-to that is no
// destination of RabbitMQ's gets /reply-queue/ before it, as there. expiration
// is what the publisher gave, timestamp is in seconds, and persistent is written
// where it is true.
//
// Headers of the message keep their names, and their values become text: texts as
// they are, byte arrays too where they are UTF-8 without controls and in base64
// otherwise, integers, decimals and floats in decimal notation, true and false,
// timestamps in seconds since 1970, no value as an empty one, tables and arrays
// as JSON, which see appendJSON. RabbitMQ writes texts and integers of two widths
// and leaves out the rest, x-death too.
//
// Left out is what the receiver would take for something else: headers of the
// message that are named like one of the frame or like a property. Exceptions are
// content-type, content-encoding, correlation-id, type and app-id where the
// message does not have that property. Left out as well is a name or a value
// that the version cannot express, see AppendHeader.
//
// A damaged list is an *Error, and dst is returned as it was. Nothing is
// allocated where dst has room, tables and arrays apart.
func AppendMessageHeaders(dst []byte, v Version, list []byte, persistent bool) ([]byte, error) {
	out := dst
	if persistent {
		out = append(out, HeaderPersistent+":true\n"...)
	}
	for rest := list; len(rest) > 0; {
		id, value, next, ok := message.NextField(rest)
		if !ok {
			return dst, fault("damaged property list")
		}
		rest = next
		switch {
		case id == message.Headers:
			if out, ok = appendUserHeaders(out, v, list, value); !ok {
				return dst, fault("damaged header list")
			}
		case id == 0 || id > message.AppID: // STOMP has no header for it
		case id == message.Priority && len(value) == 1:
			out = AppendHeaderInt(out, HeaderPriority, int64(value[0]))
		case id == message.Timestamp && len(value) == 8:
			out = AppendHeaderInt(out, HeaderTimestamp, int64(binary.BigEndian.Uint64(value)))
		case id == message.Priority || id == message.Timestamp:
			return dst, fault("property %s of a list has %d bytes", propertyNames[id], len(value))
		case id == message.ReplyTo && len(value) > 0 && !hasRabbitPrefix(value):
			out = appendReplyTo(out, v, value)
		default:
			out, _ = AppendHeader(out, v, propertyNames[id], value) // left out if it cannot be expressed
		}
	}
	return out, nil
}

func appendReplyTo(dst []byte, v Version, queue []byte) []byte {
	start := len(dst)
	out, err := AppendHeader(dst, v, HeaderReplyTo, replyPrefix)
	if err != nil {
		return dst
	}
	out, bad := appendEscaped(out[:len(out)-1], v, queue, false)
	if bad >= 0 {
		return dst[:start]
	}
	return append(out, '\n')
}

// appendUserHeaders appends the headers of a message. ok is false when they are
// damaged. properties is the list that they are in.
func appendUserHeaders(dst []byte, v Version, properties, list []byte) (_ []byte, ok bool) {
	for len(list) > 0 {
		name, kind, value, rest, ok := message.NextHeader(list)
		if !ok {
			return dst, false
		}
		list = rest
		if !mayPass(roleOf(name), properties) {
			continue
		}
		if dst, ok = appendUserHeader(dst, v, name, kind, value); !ok {
			return dst, false
		}
	}
	return dst, true
}

// mayPass tells whether a header of a message may be written under its name: it
// has no other meaning, or one that nobody is misled by.
func mayPass(r role, properties []byte) bool {
	switch r {
	case roleUser:
		return true
	case message.ContentType, message.ContentEncoding, message.CorrelationID, message.Type, message.AppID:
		return message.Field(properties, r) == nil
	}
	return false
}

// appendUserHeader appends one header of a message, or nothing where the version
// cannot express it. ok is false when its value is damaged.
func appendUserHeader(dst []byte, v Version, name []byte, kind byte, value []byte) (_ []byte, ok bool) {
	var out []byte
	var err error
	switch kind {
	case 'S':
		out, err = AppendHeader(dst, v, name, value[4:])
	case 'x':
		if b := value[4:]; isText(b) {
			out, err = AppendHeader(dst, v, name, b)
		} else {
			out, err = AppendHeader(dst, v, name, base64.StdEncoding.EncodeToString(b))
		}
	case 'A', 'F':
		text, ok := appendJSON(nil, kind, value, 0)
		if !ok {
			return dst, false
		}
		out, err = AppendHeader(dst, v, name, text)
	default:
		// None of these texts needs escaping.
		if out, err = AppendHeader(dst, v, name, ""); err == nil {
			out = append(appendScalar(out[:len(out)-1], kind, value), '\n')
		}
	}
	if err != nil {
		return dst, true
	}
	return out, true
}

// appendScalar appends a value of a fixed size as text.
func appendScalar(dst []byte, kind byte, value []byte) []byte {
	// Decode would put each in an interface, on the heap.
	be := binary.BigEndian
	switch kind {
	case 't':
		return strconv.AppendBool(dst, value[0] != 0)
	case 'b':
		return strconv.AppendInt(dst, int64(int8(value[0])), 10)
	case 'B':
		return strconv.AppendInt(dst, int64(value[0]), 10)
	case 's':
		return strconv.AppendInt(dst, int64(int16(be.Uint16(value))), 10)
	case 'u':
		return strconv.AppendInt(dst, int64(be.Uint16(value)), 10)
	case 'I':
		return strconv.AppendInt(dst, int64(int32(be.Uint32(value))), 10)
	case 'i':
		return strconv.AppendInt(dst, int64(be.Uint32(value)), 10)
	case 'l', 'T':
		return strconv.AppendInt(dst, int64(be.Uint64(value)), 10)
	case 'f':
		return strconv.AppendFloat(dst, float64(math.Float32frombits(be.Uint32(value))), 'g', -1, 32)
	case 'd':
		return strconv.AppendFloat(dst, math.Float64frombits(be.Uint64(value)), 'g', -1, 64)
	case 'D':
		return appendDecimal(dst, value[0], int32(be.Uint32(value[1:])))
	}
	return dst // 'V'
}

// maxPlainScale is up to which scale a decimal is written out. More is more zeros
// than a number of 32 bits is worth, and 43 bytes of text for each byte of the
// encoding.
const maxPlainScale = 20

// appendDecimal appends value / 10^scale, exactly: with scale digits behind the
// point, or with an exponent.
func appendDecimal(dst []byte, scale uint8, value int32) []byte {
	if scale > maxPlainScale {
		dst = append(strconv.AppendInt(dst, int64(value), 10), "e-"...)
		return strconv.AppendUint(dst, uint64(scale), 10)
	}
	n := int64(value)
	if n < 0 {
		dst, n = append(dst, '-'), -n
	}
	var digits [10]byte
	text := strconv.AppendInt(digits[:0], n, 10)
	whole := len(text) - int(scale)
	if whole <= 0 {
		dst = append(dst, '0')
	} else {
		dst, text = append(dst, text[:whole]...), text[whole:]
	}
	if scale == 0 {
		return dst
	}
	dst = append(dst, '.')
	for ; whole < 0; whole++ {
		dst = append(dst, '0')
	}
	return append(dst, text...)
}
