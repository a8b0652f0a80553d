package gmqlink

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// An encoder writes publishes. It is the writer's.
type encoder struct {
	request gmqwire.Request
}

// appendPublish appends a publish and the end of its line. After an error dst is as
// it was.
func (e *encoder) appendPublish(dst []byte, o *link.Outgoing) ([]byte, error) {
	m := o.Message
	r := &e.request
	*r = gmqwire.Request{Operation: gmqwire.Publish, Queue: m.Key, Transient: m.Transient, MessageID: identity(o)}
	switch {
	case m.Exchange != "":
		return dst, fmt.Errorf("exchange %q: %w", m.Exchange, errExchange)
	case m.Key == "":
		return dst, errNoQueue
	case m.ReplyTo == link.DirectReplyTo:
		return dst, errReplies
	case m.Expiration < 0:
		return dst, errNegative
	}
	if o.Attempt > 1 {
		r.Attempt = int64(o.Attempt)
	}
	r.Properties = gmqwire.Properties{
		ContentType: m.ContentType, ContentEncoding: m.ContentEncoding, Priority: m.Priority,
		CorrelationID: m.CorrelationID, ReplyTo: m.ReplyTo, MessageID: m.MessageID,
		Type: m.Type, UserID: m.UserID, AppID: m.AppID,
	}
	p := &r.Properties
	if m.Expiration > 0 {
		p.Expiration = strconv.FormatInt(int64((m.Expiration-1)/time.Millisecond+1), 10)
	}
	if !m.Timestamp.IsZero() {
		p.Timestamp = m.Timestamp.Unix()
	}
	var err error
	if p.Headers, err = headers(m.Headers); err != nil {
		return dst, err
	}
	for _, text := range []string{
		r.Queue, r.MessageID, p.ContentType, p.ContentEncoding, p.CorrelationID, p.ReplyTo, p.MessageID, p.Type, p.UserID, p.AppID,
	} {
		if !utf8.ValidString(text) {
			return dst, errNotUTF8
		}
	}
	r.Body = m.Body
	return append(gmqwire.AppendRequest(dst, r), '\n'), nil
}

// headers are those of a message as JSON has them.
func headers(of map[string]any) (map[string]any, error) {
	if len(of) == 0 {
		return nil, nil
	}
	all := make(map[string]any, len(of))
	for name, v := range of {
		if name == link.HeaderID || name == link.HeaderAttempt || name == link.HeaderIncomplete {
			continue
		}
		text, isText := v.(string)
		if !utf8.ValidString(name) || isText && !utf8.ValidString(text) {
			return nil, fmt.Errorf("header %.64q: %w", name, errNotUTF8)
		}
		switch v := v.(type) {
		case string, bool, int64:
			all[name] = v
		case int:
			all[name] = int64(v)
		case int8:
			all[name] = int64(v)
		case int16:
			all[name] = int64(v)
		case int32:
			all[name] = int64(v)
		case uint8:
			all[name] = int64(v)
		case uint16:
			all[name] = int64(v)
		case uint32:
			all[name] = int64(v)
		default:
			return nil, fmt.Errorf("header %q: %w", name, errHeader)
		}
	}
	return all, nil
}

// delivery is the message that a reply brings.
func delivery(r *gmqwire.Reply, queue string) (*link.Delivery, error) {
	body := make([]byte, base64.StdEncoding.DecodedLen(len(r.Payload)))
	n, err := base64.StdEncoding.Decode(body, r.Payload)
	if err != nil {
		return nil, fmt.Errorf("the payload of a message: %w", err)
	}
	p := &r.Properties
	d := &link.Delivery{Redelivered: r.Redelivered, Message: link.Message{
		Key: queue, Body: body[:n],
		ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, Priority: p.Priority,
		CorrelationID: p.CorrelationID, ReplyTo: p.ReplyTo, MessageID: p.MessageID,
		Type: p.Type, UserID: p.UserID, AppID: p.AppID, ID: r.MessageID,
	}}
	if len(p.Headers) > 0 {
		d.Message.Headers = make(map[string]any, len(p.Headers))
		for name, v := range p.Headers {
			if name != link.HeaderID && name != link.HeaderAttempt {
				d.Message.Headers[name] = v
			}
		}
	}
	if r.Incomplete {
		if d.Message.Headers == nil {
			d.Message.Headers = make(map[string]any, 1)
		}
		d.Message.Headers[link.HeaderIncomplete] = true
	}
	if ms, err := strconv.ParseInt(p.Expiration, 10, 64); err == nil && ms > 0 && ms < int64(1<<63-1)/int64(time.Millisecond) {
		d.Message.Expiration = time.Duration(ms) * time.Millisecond
	}
	if p.Timestamp != 0 {
		d.Message.Timestamp = time.Unix(p.Timestamp, 0).UTC()
	}
	return d, nil
}
