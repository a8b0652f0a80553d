package stomplink

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// headerDuplicateID names a message to Artemis, which drops it when it comes again
// (Artemis, Duplicate Message Detection).
const headerDuplicateID = "_AMQ_DUPL_ID"

// An encoder writes SEND frames. It is the writer's.
type encoder struct {
	exchange, key string // of the last message
	to            []byte // the headers that say so; empty before the first
	names         []string
	now           func() time.Time // nil is time.Now
}

var errNegative = errors.New("its expiration is negative")

// appendHead appends SEND and its headers, up to the body. After an error dst is as
// it was.
func (e *encoder) appendHead(dst []byte, s *sender, o *link.Outgoing, tag uint64) ([]byte, error) {
	v, d, m := s.session.version, s.session.conn.dialect, o.Message
	if err := e.address(v, d, m); err != nil {
		return dst, err
	}
	out := stompwire.AppendCommand(dst, stompwire.Send)
	out = append(out, e.to...)
	if s.confirm {
		out = append(out, stompwire.HeaderReceipt+":"...)
		out = append(strconv.AppendUint(out, tag, 10), '\n')
	}
	if !m.Transient {
		out = append(out, stompwire.HeaderPersistent+":true\n"...)
	}
	var err error
	if out, err = e.appendIDs(out, v, d, o); err != nil {
		return dst, err
	}
	if out, err = e.appendProperties(out, v, d, s, m); err != nil {
		return dst, err
	}
	if len(m.Headers) > 0 {
		if out, err = e.appendUser(out, v, m.Headers); err != nil {
			return dst, err
		}
	}
	out = stompwire.AppendHeaderInt(out, stompwire.HeaderContentLength, int64(len(m.Body)))
	return stompwire.AppendHeadEnd(out), nil
}

// address makes the headers that say where a message goes; mostly it is where the
// last did.
func (e *encoder) address(v stompwire.Version, d dialect, m *link.Message) error {
	if len(e.to) > 0 && e.key == m.Key && e.exchange == m.Exchange {
		return nil
	}
	to, err := d.place(m.Exchange, m.Key)
	if err != nil {
		return err
	}
	out, err := stompwire.AppendHeader(nil, v, stompwire.HeaderDestination, to.destination)
	if err != nil {
		return err
	}
	if to.kind != "" {
		if out, err = stompwire.AppendHeader(out, v, stompwire.HeaderDestinationType, to.kind); err != nil {
			return err
		}
	}
	e.to, e.exchange, e.key = out, m.Exchange, m.Key
	return nil
}

// appendIDs appends what names a message, and how often it was sent.
func (e *encoder) appendIDs(dst []byte, v stompwire.Version, d dialect, o *link.Outgoing) ([]byte, error) {
	id := func(dst []byte, name string) ([]byte, error) {
		if o.Message.ID != "" {
			return stompwire.AppendHeader(dst, v, name, o.Message.ID)
		}
		dst, err := stompwire.AppendHeader(dst, v, name, o.Producer)
		if err != nil {
			return nil, err
		}
		dst = strconv.AppendUint(append(dst[:len(dst)-1], '-'), o.Seq, 10)
		return append(dst, '\n'), nil
	}
	if o.Message.ID != "" || o.Producer != "" {
		var err error
		if dst, err = id(dst, link.HeaderID); err != nil {
			return nil, err
		}
		if _, own := o.Message.Headers[headerDuplicateID]; d.hasDuplicateIDs() && !own {
			if dst, err = id(dst, headerDuplicateID); err != nil {
				return nil, err
			}
		}
	}
	if o.Attempt > 1 {
		dst = stompwire.AppendHeaderInt(dst, link.HeaderAttempt, int64(o.Attempt))
	}
	return dst, nil
}

func (e *encoder) appendProperties(dst []byte, v stompwire.Version, d dialect, s *sender, m *link.Message) (out []byte, err error) {
	text := func(name, value string) {
		if value == "" || err != nil {
			return
		}
		dst, err = stompwire.AppendHeader(dst, v, name, value)
	}
	text(stompwire.HeaderContentType, m.ContentType)
	text(stompwire.HeaderContentEncoding, m.ContentEncoding)
	if m.Priority != 0 {
		dst = stompwire.AppendHeaderInt(dst, stompwire.HeaderPriority, int64(m.Priority))
	}
	text(stompwire.HeaderCorrelationID, m.CorrelationID)
	if m.ReplyTo == link.DirectReplyTo && s.replyTo != "" {
		text(stompwire.HeaderReplyTo, s.replyTo)
	} else {
		text(stompwire.HeaderReplyTo, m.ReplyTo)
	}
	if m.Expiration < 0 {
		return nil, errNegative
	}
	if m.Expiration > 0 {
		ms := int64((m.Expiration-1)/time.Millisecond + 1)
		if d.hasDuplicateIDs() {
			dst = stompwire.AppendHeaderInt(dst, stompwire.HeaderExpires, e.after(ms))
		} else {
			dst = stompwire.AppendHeaderInt(dst, stompwire.HeaderExpiration, ms)
		}
	}
	text(stompwire.HeaderAMQPMessageID, m.MessageID)
	if !m.Timestamp.IsZero() {
		dst = stompwire.AppendHeaderInt(dst, stompwire.HeaderTimestamp, m.Timestamp.Unix())
	}
	text(stompwire.HeaderType, m.Type)
	text(stompwire.HeaderUserID, m.UserID)
	text(stompwire.HeaderAppID, m.AppID)
	return dst, err
}

// after is the time in so many milliseconds, in milliseconds since 1970.
func (e *encoder) after(ms int64) int64 {
	now := time.Now
	if e.now != nil {
		now = e.now
	}
	return min(now().UnixMilli(), math.MaxInt64-ms) + ms
}

// appendUser appends the headers of the message's own, sorted.
func (e *encoder) appendUser(dst []byte, v stompwire.Version, headers map[string]any) ([]byte, error) {
	e.names = e.names[:0]
	for name := range headers {
		e.names = append(e.names, name)
	}
	slices.Sort(e.names)
	for _, name := range e.names {
		switch {
		case name == link.HeaderID, name == link.HeaderAttempt:
			continue
		case reserved[name]:
			return nil, fmt.Errorf("header %q means something else in STOMP", name)
		}
		var err error
		if text, ok := headers[name].(string); ok {
			dst, err = stompwire.AppendHeader(dst, v, name, text)
		} else {
			var text string
			if text, err = headerText(headers[name]); err != nil {
				return nil, fmt.Errorf("header %q %w", name, err)
			}
			dst, err = stompwire.AppendHeader(dst, v, name, text)
		}
		if err != nil {
			return nil, err
		}
	}
	clear(e.names)
	return dst, nil
}

// reserved are the headers of SEND and MESSAGE that a message's own cannot be named
// like.
var reserved = func() map[string]bool {
	all := make(map[string]bool)
	for _, name := range []string{
		"", stompwire.HeaderDestination, stompwire.HeaderDestinationType, stompwire.HeaderReceipt, stompwire.HeaderTransaction,
		stompwire.HeaderContentLength, stompwire.HeaderMessageID, stompwire.HeaderSubscription, stompwire.HeaderAck,
		stompwire.HeaderRedelivered, stompwire.HeaderPersistent, stompwire.HeaderContentType, stompwire.HeaderContentEncoding,
		stompwire.HeaderPriority, stompwire.HeaderCorrelationID, stompwire.HeaderReplyTo, stompwire.HeaderExpiration,
		stompwire.HeaderExpires, stompwire.HeaderAMQPMessageID, stompwire.HeaderTimestamp, stompwire.HeaderType,
		stompwire.HeaderUserID, stompwire.HeaderAppID,
	} {
		all[name] = true
	}
	return all
}()

// headerText is a value as text: maps and slices as JSON, as Ferry's server writes
// them.
func headerText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case bool:
		return strconv.FormatBool(v), nil
	case time.Time:
		return strconv.FormatInt(v.Unix(), 10), nil
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case message.Decimal:
		return decimalText(v), nil
	case int, int8, int16, int32, int64, uint8, uint16, uint32:
		return fmt.Sprint(v), nil
	}
	b, err := json.Marshal(plain(v))
	if err != nil {
		return "", fmt.Errorf("cannot be text: %w", err)
	}
	return string(b), nil
}

// plain is a value whose JSON has the texts that headerText makes.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		all := make(map[string]any, len(v))
		for name, e := range v {
			all[name] = plain(e)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, e := range v {
			all[i] = plain(e)
		}
		return all
	case []byte:
		return string(v)
	case time.Time:
		return v.Unix()
	case message.Decimal:
		return json.Number(decimalText(v))
	}
	return v
}

func decimalText(d message.Decimal) string {
	return strconv.FormatInt(int64(d.Value), 10) + "e-" + strconv.Itoa(int(d.Scale))
}
