package gmqwire

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/message"
)

// Properties are what a message has beside its body: AMQP's, by their names
// there (content_type, correlation_id, ...). The zero value of each is none.
// Expiration is in milliseconds, in decimal digits; Timestamp in seconds since
// 1970. In JSON both are numbers.
type Properties struct {
	ContentType, ContentEncoding   string
	CorrelationID, ReplyTo         string
	MessageID, Type, UserID, AppID string
	Expiration                     string
	Priority                       uint8
	Timestamp                      int64

	// Headers have texts, whole numbers and truth values: string, int64, bool.
	// Others of a message are left out, see Reply.Incomplete.
	Headers map[string]any
}

// Limits of the properties of a publish. AMQP's publishers cannot have more, because
// theirs are in one frame (AMQP 0-9-1 §4.2.6.1), and its consumers may not take more.
const (
	maxProperties = 130_000           // bytes of the property list
	maxHeaders    = maxProperties / 4 // the shortest header has as many
)

// IsZero tells whether there are none.
func (p *Properties) IsZero() bool {
	for _, f := range p.texts() {
		if *f.value != "" {
			return false
		}
	}
	return p.Expiration == "" && p.Priority == 0 && p.Timestamp == 0 && len(p.Headers) == 0
}

// textField is a property that is a text.
type textField struct {
	id    message.FieldID
	name  string
	value *string
}

// texts are in the order of their ids.
func (p *Properties) texts() [8]textField {
	return [8]textField{
		{message.ContentType, "content_type", &p.ContentType},
		{message.ContentEncoding, "content_encoding", &p.ContentEncoding},
		{message.CorrelationID, "correlation_id", &p.CorrelationID},
		{message.ReplyTo, "reply_to", &p.ReplyTo},
		{message.MessageID, "message_id", &p.MessageID},
		{message.Type, "type", &p.Type},
		{message.UserID, "user_id", &p.UserID},
		{message.AppID, "app_id", &p.AppID},
	}
}

func (c *cursor) properties(p *Properties) error {
	texts := p.texts()
	return c.object("properties", func(key []byte) error {
		switch string(key) {
		case "priority":
			return number(c, "priority", &p.Priority, 0, math.MaxUint8)
		case "timestamp":
			return number(c, "timestamp", &p.Timestamp, math.MinInt64, math.MaxInt64)
		case "expiration":
			if c.next() == '"' {
				return c.mistyped("expiration", "a number of milliseconds")
			}
			return c.label("expiration", &p.Expiration)
		case "headers":
			return c.headers(p)
		}
		for i := range texts {
			if f := &texts[i]; string(key) == f.name {
				return c.texts(f.name, f.value)
			}
		}
		return c.skip()
	})
}

func (c *cursor) headers(p *Properties) error {
	return c.object("headers", func(key []byte) error {
		var value any
		switch first := c.next(); {
		case first == '"':
			text, err := c.string()
			if err != nil {
				return err
			}
			value = string(text)
		case first == 't' || first == 'f':
			if err := c.skip(); err != nil {
				return err
			}
			value = first == 't'
		case first == '-' || isDigit(first):
			n, ok, err := c.integer("headers")
			if err != nil || !ok {
				return err
			}
			value = n
		default:
			return c.mistyped("headers", "texts, whole numbers, true or false")
		}
		if p.Headers == nil {
			p.Headers = map[string]any{}
		}
		if len(p.Headers) == maxHeaders {
			c.complain("there are more than %d headers", maxHeaders)
			return nil
		}
		p.Headers[string(key)] = value
		return nil
	})
}

// appendJSON appends the object.
func (p *Properties) appendJSON(dst []byte) []byte {
	o := objectWriter{append(dst, '{'), true}
	for _, f := range p.texts() {
		if *f.value != "" {
			o.key(f.name)
			o.dst = appendString(o.dst, *f.value)
		}
	}
	if p.Priority != 0 {
		o.integer("priority", int64(p.Priority))
	}
	if n, err := strconv.ParseInt(p.Expiration, 10, 64); err == nil {
		o.integer("expiration", n)
	}
	if p.Timestamp != 0 {
		o.integer("timestamp", p.Timestamp)
	}
	if len(p.Headers) > 0 {
		o.key("headers")
		h := objectWriter{append(o.dst, '{'), true}
		for _, name := range slices.Sorted(maps.Keys(p.Headers)) {
			switch v := p.Headers[name].(type) {
			case string:
				h.key(name)
				h.dst = appendString(h.dst, v)
			case int64:
				h.integer(name, v)
			case bool:
				h.key(name)
				h.dst = strconv.AppendBool(h.dst, v)
			}
		}
		o.dst = append(h.dst, '}')
	}
	return append(o.dst, '}')
}

// objectWriter appends the members of an object.
type objectWriter struct {
	dst   []byte
	first bool
}

func (o *objectWriter) key(name string) {
	if !o.first {
		o.dst = append(o.dst, ',')
	}
	o.first = false
	o.dst = append(appendString(o.dst, name), ':')
}

func (o *objectWriter) integer(name string, n int64) {
	o.key(name)
	o.dst = strconv.AppendInt(o.dst, n, 10)
}

// The headers by which messages are known for good, and sent again.
const (
	headerID      = "x-ferry-id"
	headerAttempt = "x-ferry-attempt"
)

// AppendProperties appends the property list (package message) that a request to
// publish says, whose message_id and attempt are headers there. The errors are of
// what AMQP has no room for.
func (r *Request) AppendProperties(dst []byte) ([]byte, error) {
	from := len(dst)
	p := &r.Properties
	if p.IsZero() && r.MessageID == "" && r.Attempt == 0 {
		return dst, nil
	}
	texts := p.texts()
	for _, f := range texts {
		if len(*f.value) > message.MaxName {
			return dst, fault("%s has %d bytes: at most %d are allowed", f.name, len(*f.value), message.MaxName)
		}
	}
	next := 0
	upTo := func(id message.FieldID) {
		for ; next < len(texts) && texts[next].id < id; next++ {
			if f := &texts[next]; *f.value != "" {
				dst = message.AppendFieldString(dst, f.id, *f.value)
			}
		}
	}
	upTo(message.Headers)
	headers, err := r.appendHeaders(nil)
	if err != nil {
		return dst, err
	}
	if len(headers) > 0 {
		dst = message.AppendField(dst, message.Headers, headers)
	}
	if p.Priority != 0 {
		dst = message.AppendField(dst, message.Priority, []byte{p.Priority})
	}
	upTo(message.Expiration)
	if p.Expiration != "" {
		if _, err := strconv.ParseUint(p.Expiration, 10, 63); err != nil {
			return dst, fault("expiration must be a number of milliseconds, not %.32s", p.Expiration)
		}
		dst = message.AppendFieldString(dst, message.Expiration, p.Expiration)
	}
	upTo(message.Timestamp)
	if p.Timestamp != 0 {
		dst = message.AppendField(dst, message.Timestamp, binary.BigEndian.AppendUint64(nil, uint64(p.Timestamp)))
	}
	upTo(message.AppID + 1)
	if n := len(dst) - from; n > maxProperties {
		e := fault("the properties have %d bytes: at most %d are allowed", n, maxProperties)
		e.TooLarge = true
		return dst, e
	}
	return dst, nil
}

// appendHeaders appends the header list, its names in order.
func (r *Request) appendHeaders(dst []byte) ([]byte, error) {
	if r.MessageID != "" {
		dst = appendHeader(dst, headerID, r.MessageID)
	}
	if r.Attempt != 0 {
		dst = appendHeader(dst, headerAttempt, r.Attempt)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Properties.Headers)) {
		switch {
		case name == headerID && r.MessageID != "", name == headerAttempt && r.Attempt != 0:
		case name == "" || len(name) > message.MaxName:
			return dst, fault("the name of a header must have 1 to %d bytes, not %d", message.MaxName, len(name))
		default:
			dst = appendHeader(dst, name, r.Properties.Headers[name])
		}
	}
	return dst, nil
}

func appendHeader(dst []byte, name string, value any) []byte {
	dst = append(append(dst, byte(len(name))), name...)
	switch v := value.(type) {
	case string:
		dst = binary.BigEndian.AppendUint32(append(dst, 'S'), uint32(len(v)))
		return append(dst, v...)
	case int64:
		if int64(int32(v)) == v {
			return binary.BigEndian.AppendUint32(append(dst, 'I'), uint32(v))
		}
		return binary.BigEndian.AppendUint64(append(dst, 'l'), uint64(v))
	case bool:
		if v {
			return append(dst, 't', 1)
		}
		return append(dst, 't', 0)
	}
	return append(dst, 'V')
}

// SetProperties takes a property list over. Its header x-ferry-id becomes
// MessageID. Where something has no place in JSON the reply is Incomplete.
func (r *Reply) SetProperties(list []byte) {
	p := &r.Properties
	texts := p.texts()
	for {
		id, v, rest, ok := message.NextField(list)
		if !ok {
			return
		}
		list = rest
		switch {
		case id == message.Headers:
			r.setHeaders(v)
		case id == message.Priority && len(v) == 1:
			p.Priority = v[0]
		case id == message.Expiration:
			p.Expiration = string(v)
		case id == message.Timestamp && len(v) == 8:
			p.Timestamp = int64(binary.BigEndian.Uint64(v))
		default:
			for i := range texts {
				if texts[i].id == id {
					*texts[i].value = string(v)
					r.Incomplete = r.Incomplete || !utf8.Valid(v)
				}
			}
		}
	}
}

func (r *Reply) setHeaders(list []byte) {
	for {
		name, kind, v, rest, ok := message.NextHeader(list)
		if !ok {
			return
		}
		list = rest
		value, _ := message.Decode(kind, v, 0)
		switch text, isText := value.(string); {
		case !utf8.Valid(name), isText && !utf8.ValidString(text):
			r.Incomplete = true // U+FFFD stands for what is no UTF-8
		case isText && string(name) == headerID:
			r.MessageID = text
			continue
		}
		switch value.(type) {
		case string, int64, bool:
			if r.Properties.Headers == nil {
				r.Properties.Headers = map[string]any{}
			}
			r.Properties.Headers[string(name)] = value
		default:
			r.Incomplete = true
		}
	}
}
