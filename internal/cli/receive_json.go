package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ferrymq/ferry"
)

// messageJSON is a message as `ferry receive --json` prints it and `ferry send
// --json` reads it.
type messageJSON struct {
	Exchange        string         `json:"exchange"`
	Key             string         `json:"key"`
	Body            *string        `json:"body,omitempty"`        // if it is UTF-8
	BodyBase64      []byte         `json:"body_base64,omitempty"` // if it is not
	ContentType     string         `json:"content_type,omitempty"`
	ContentEncoding string         `json:"content_encoding,omitempty"`
	Headers         map[string]any `json:"headers,omitempty"`
	Priority        uint8          `json:"priority,omitempty"`
	Persistent      *bool          `json:"persistent,omitempty"`
	CorrelationID   string         `json:"correlation_id,omitempty"`
	ReplyTo         string         `json:"reply_to,omitempty"`
	ExpirationMS    int64          `json:"expiration_ms,omitempty"`
	MessageID       string         `json:"message_id,omitempty"`
	Timestamp       *time.Time     `json:"timestamp,omitempty"`
	Type            string         `json:"type,omitempty"`
	UserID          string         `json:"user_id,omitempty"`
	AppID           string         `json:"app_id,omitempty"`
	Redelivered     bool           `json:"redelivered"`
	ID              string         `json:"id,omitempty"`
}

// Values of headers that JSON has no words for are objects of one of these keys.
const (
	bytesKey = "$bytes" // base64
	timeKey  = "$time"  // RFC 3339
	floatKey = "$float" // NaN, +Inf, -Inf
)

// appendJSON appends a delivery as one line.
func appendJSON(dst []byte, d *ferry.Delivery) ([]byte, error) {
	m := &d.Message
	persistent := !m.Transient
	j := messageJSON{
		Exchange: m.Exchange, Key: m.Key,
		ContentType: m.ContentType, ContentEncoding: m.ContentEncoding,
		Priority: m.Priority, Persistent: &persistent,
		CorrelationID: m.CorrelationID, ReplyTo: m.ReplyTo,
		ExpirationMS: m.Expiration.Milliseconds(),
		MessageID:    m.MessageID, Type: m.Type, UserID: m.UserID, AppID: m.AppID,
		Redelivered: d.Redelivered, ID: d.ID,
	}
	if utf8.Valid(m.Body) {
		text := string(m.Body)
		j.Body = &text
	} else {
		j.BodyBase64 = m.Body
	}
	// Years of more than four digits are no times in JSON.
	if utc := m.Timestamp.UTC(); !utc.IsZero() && utc.Year() >= 0 && utc.Year() <= 9999 {
		j.Timestamp = &utc
	}
	if len(m.Headers) > 0 {
		j.Headers = make(map[string]any, len(m.Headers))
		for name, v := range m.Headers {
			j.Headers[name] = jsonValue(v)
		}
	}
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(j); err != nil {
		return dst, err
	}
	return append(dst, line.Bytes()...), nil
}

// jsonValue is the value of a header as encoding/json takes it.
func jsonValue(v any) any {
	switch v := v.(type) {
	case string:
		if !utf8.ValidString(v) {
			return map[string]any{bytesKey: []byte(v)}
		}
	case []byte:
		return map[string]any{bytesKey: v}
	case time.Time:
		return map[string]any{timeKey: v.UTC().Format(time.RFC3339)}
	case float32:
		return jsonFloat(float64(v), 32)
	case float64:
		return jsonFloat(v, 64)
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = jsonValue(e)
		}
		return list
	case map[string]any:
		table := make(map[string]any, len(v))
		for name, e := range v {
			table[name] = jsonValue(e)
		}
		return table
	}
	return v
}

// jsonFloat writes a float so that it is not taken for an integer again.
func jsonFloat(f float64, bits int) any {
	text := strconv.FormatFloat(f, 'g', -1, bits)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return map[string]any{floatKey: text}
	}
	if !strings.ContainsAny(text, ".e") {
		text += ".0"
	}
	return json.RawMessage(text)
}

// parseJSON reads one message. persistent is what it is if it does not say.
func parseJSON(line []byte, persistent bool) (ferry.Message, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	d.UseNumber()
	var j *messageJSON
	if err := d.Decode(&j); err != nil {
		return ferry.Message{}, fmt.Errorf("this is not a message as JSON: %w", jsonFault(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ferry.Message{}, errors.New("there is more than one JSON object on the line")
	}
	if j == nil {
		return ferry.Message{}, errors.New("this is not a message as JSON: an object is expected")
	}
	return j.message(persistent)
}

// jsonFault says in the words of JSON what encoding/json says in those of Go.
func jsonFault(err error) error {
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Errorf("%s is there, an object is expected", wrong.Value)
	case errors.As(err, &wrong):
		return fmt.Errorf("%s: %s does not fit there", wrong.Field, wrong.Value)
	case errors.Is(err, io.EOF):
		return errors.New("the line is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it ends in the middle")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

func (j *messageJSON) message(persistent bool) (ferry.Message, error) {
	m := ferry.Message{
		Exchange: j.Exchange, Key: j.Key, Body: j.BodyBase64,
		ContentType: j.ContentType, ContentEncoding: j.ContentEncoding,
		Priority: j.Priority, Transient: !persistent,
		CorrelationID: j.CorrelationID, ReplyTo: j.ReplyTo,
		MessageID: j.MessageID, Type: j.Type, UserID: j.UserID, AppID: j.AppID,
	}
	switch {
	case j.Body != nil && j.BodyBase64 != nil:
		return m, errors.New("there is a body and a body_base64")
	case j.Body != nil:
		m.Body = []byte(*j.Body)
	}
	if j.Persistent != nil {
		m.Transient = !*j.Persistent
	}
	if j.ExpirationMS < 0 || j.ExpirationMS > math.MaxInt64/int64(time.Millisecond) {
		return m, fmt.Errorf("expiration_ms: %d is out of range", j.ExpirationMS)
	}
	m.Expiration = time.Duration(j.ExpirationMS) * time.Millisecond
	if j.Timestamp != nil {
		m.Timestamp = *j.Timestamp
	}
	if len(j.Headers) > 0 {
		m.Headers = make(map[string]any, len(j.Headers))
		for name, v := range j.Headers {
			value, err := headerValue(v)
			if err != nil {
				return m, fmt.Errorf("header %q: %w", name, err)
			}
			m.Headers[name] = value
		}
	}
	return m, nil
}

// headerValue is the value of a header as a message takes it, of what
// encoding/json made of it. How deep it is nested is for the message's check.
func headerValue(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		return headerNumber(v)
	case []any:
		for i, e := range v {
			value, err := headerValue(e)
			if err != nil {
				return nil, err
			}
			v[i] = value
		}
		return v, nil
	case map[string]any:
		if special, ok, err := headerSpecial(v); ok {
			return special, err
		}
		for name, e := range v {
			value, err := headerValue(e)
			if err != nil {
				return nil, err
			}
			v[name] = value
		}
		return v, nil
	}
	return v, nil
}

func headerNumber(n json.Number) (any, error) {
	if strings.ContainsAny(n.String(), ".eE") {
		return n.Float64()
	}
	i, err := n.Int64()
	if err != nil {
		return nil, fmt.Errorf("%s is not an integer of 64 bits", n)
	}
	return i, nil
}

// headerSpecial reads an object that stands for what JSON has no words for.
func headerSpecial(table map[string]any) (value any, ok bool, err error) {
	if len(table) != 1 {
		return nil, false, nil
	}
	for key, v := range table {
		text, isText := v.(string)
		if !isText {
			return nil, false, nil
		}
		switch key {
		case bytesKey:
			value, err = base64.StdEncoding.DecodeString(text)
		case timeKey:
			value, err = time.Parse(time.RFC3339, text)
		case floatKey:
			value, err = strconv.ParseFloat(text, 64)
		default:
			return nil, false, nil
		}
		if err != nil {
			return nil, true, fmt.Errorf("%s: %w", key, err)
		}
	}
	return value, true, nil
}
