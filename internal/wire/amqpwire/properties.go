package amqpwire

import (
	"encoding/binary"
	"math/bits"
	"time"
)

// Flags of the properties of class basic (amqp0-9-1.xml), in the order of
// their values. Bit 0 says that another word of flags follows, bit 1 is unused.
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

	flagsUnknown uint16 = 2
	flagsMore    uint16 = 1
)

// Values of Properties.DeliveryMode.
const (
	Transient  uint8 = 1
	Persistent uint8 = 2
)

// Properties are those of class basic (amqp0-9-1.xml). A zero value is a
// property that is absent; Headers are absent where they are nil. Expiration is a
// text of milliseconds, Timestamp has whole seconds.
type Properties struct {
	ContentType, ContentEncoding                  string
	Headers                                       Table
	DeliveryMode, Priority                        uint8
	CorrelationID, ReplyTo, Expiration, MessageID string
	Timestamp                                     time.Time
	Type, UserID, AppID, ClusterID                string
}

// ParseProperties decodes raw properties, flags and list. Flags that class basic
// does not have are a SYNTAX_ERROR. The result shares nothing with raw.
func ParseProperties(raw []byte) (Properties, error) {
	p, err := parseProperties(raw)
	if err != nil {
		return Properties{}, err
	}
	return p, nil
}

func parseProperties(raw []byte) (p Properties, err *Error) {
	r, err := newPropertyReader(raw)
	if err != nil {
		return p, err
	}
	for {
		flag, v, err := r.next()
		if err != nil {
			return p, err
		}
		switch flag {
		case 0:
			return p, nil
		case flagHeaders:
			t := tableParser{left: MaxElements}
			if p.Headers, err = t.table(v, 0); err != nil {
				return p, err
			}
		case flagDeliveryMode:
			p.DeliveryMode = v[0]
		case flagPriority:
			p.Priority = v[0]
		case flagTimestamp:
			p.Timestamp = time.Unix(int64(binary.BigEndian.Uint64(v)), 0).UTC()
		default:
			*p.text(flag) = string(v)
		}
	}
}

// text is the property of that flag, which is a short string.
func (p *Properties) text(flag uint16) *string {
	switch flag {
	case flagContentType:
		return &p.ContentType
	case flagContentEncoding:
		return &p.ContentEncoding
	case flagCorrelationID:
		return &p.CorrelationID
	case flagReplyTo:
		return &p.ReplyTo
	case flagExpiration:
		return &p.Expiration
	case flagMessageID:
		return &p.MessageID
	case flagType:
		return &p.Type
	case flagUserID:
		return &p.UserID
	case flagAppID:
		return &p.AppID
	}
	return &p.ClusterID
}

// propertyReader walks raw properties.
type propertyReader struct {
	flags uint16 // of what was not read yet
	b     []byte
}

func newPropertyReader(raw []byte) (r propertyReader, err *Error) {
	if len(raw) < 2 {
		return r, faultShort("property flags")
	}
	flags := binary.BigEndian.Uint16(raw)
	raw = raw[2:]
	unknown := flags & flagsUnknown
	for more := flags & flagsMore; more != 0; {
		if len(raw) < 2 {
			return r, faultShort("property flags")
		}
		word := binary.BigEndian.Uint16(raw)
		raw = raw[2:]
		more = word & flagsMore
		unknown |= word &^ flagsMore
	}
	if unknown != 0 {
		return r, fault(SyntaxError, "property flags name properties that class basic does not have")
	}
	return propertyReader{flags: flags &^ flagsMore, b: raw}, nil
}

// next takes the next property off. Texts and headers are without their lengths.
// The flag is 0 at the end; bytes behind the last property are an error.
func (r *propertyReader) next() (flag uint16, value []byte, err *Error) {
	if r.flags == 0 {
		if len(r.b) > 0 {
			return 0, nil, faultTrailing(len(r.b))
		}
		return 0, nil, nil
	}
	flag = 1 << (bits.Len16(r.flags) - 1)
	r.flags &^= flag
	at, n := 0, 0
	switch flag {
	case flagHeaders:
		value, r.b, err = cutLong(r.b, "headers")
		return flag, value, err
	case flagDeliveryMode, flagPriority:
		n = 1
	case flagTimestamp:
		n = 8
	default:
		if len(r.b) == 0 {
			return 0, nil, faultShort("property")
		}
		at, n = 1, int(r.b[0])
	}
	if len(r.b) < at+n {
		return 0, nil, faultShort("property")
	}
	value = r.b[at : at+n]
	r.b = r.b[at+n:]
	return flag, value, nil
}

// AppendProperties appends properties as flags and list. A text over
// MaxShortString is an error, and so is a table that AppendTable does not take.
func AppendProperties(dst []byte, p *Properties) ([]byte, error) {
	start := len(dst)
	w := writer{dst: append(dst, 0, 0)}
	var flags uint16
	text := func(flag uint16) {
		if s := *p.text(flag); s != "" {
			flags |= flag
			w.short(s)
		}
	}
	text(flagContentType)
	text(flagContentEncoding)
	if p.Headers != nil {
		flags |= flagHeaders
		w.table(p.Headers)
	}
	if p.DeliveryMode != 0 {
		flags |= flagDeliveryMode
		w.uint8(p.DeliveryMode)
	}
	if p.Priority != 0 {
		flags |= flagPriority
		w.uint8(p.Priority)
	}
	text(flagCorrelationID)
	text(flagReplyTo)
	text(flagExpiration)
	text(flagMessageID)
	if !p.Timestamp.IsZero() {
		flags |= flagTimestamp
		w.uint64(uint64(p.Timestamp.Unix()))
	}
	text(flagType)
	text(flagUserID)
	text(flagAppID)
	text(flagClusterID)
	if w.err != nil {
		return dst, w.err
	}
	binary.BigEndian.PutUint16(w.dst[start:], flags)
	return w.dst, nil
}
