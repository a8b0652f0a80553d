package ferry

import (
	"fmt"
	"maps"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/message"
)

// Message is what is published and what is received. The zero value of a field
// means that the property is absent.
type Message struct {
	// Exchange and Key are where it is published to. The empty exchange takes
	// it to the queue that Key names. At most 255 bytes each.
	Exchange string
	Key      string

	// Body is not copied: it must not be changed before the outcome is known.
	// When that is ErrUnknown it must not be changed at all, for it may be on its
	// way still.
	Body []byte

	// Headers may hold nil, bool, string, []byte, the integers but uint and
	// uint64, floats, Decimal, time.Time (seconds), []any and map[string]any of
	// these. Names have at most 255 bytes. The same rule as for Body holds.
	Headers map[string]any

	ContentType     string
	ContentEncoding string
	Priority        uint8

	// Transient says that the message need not survive a restart of the broker.
	// Without it messages are persistent.
	Transient bool

	CorrelationID string
	ReplyTo       string

	// Expiration is how long the message is of use, in whole milliseconds; 0
	// is for ever.
	Expiration time.Duration

	MessageID string    // the application's own; Ferry does not look at it
	Timestamp time.Time // in whole seconds
	Type      string
	UserID    string // the broker refuses one that is not the connection's
	AppID     string

	// ID names the submission of this message. It is stamped when the message is
	// submitted, stays when it is sent again, and arrives with it as
	// Delivery.ID. It is empty but for a message that may have been submitted
	// before, by another program or an earlier run of this one, as when moving
	// messages from broker to broker: then it is that ID.
	ID string

	// Attempt is empty, too, but for a message with an ID that perhaps was sent
	// before, by whoever: 2 and more mark it as a repeat, which a broker of
	// Ferry's drops if it has taken that ID.
	Attempt int
}

// Decimal is an exact decimal number in a header: Value / 10^Scale.
type Decimal = message.Decimal

// wire is the message as links take it.
func (m *Message) wire() *link.Message { return (*link.Message)(m) }

// AMQP 0-9-1 §4.2.5.3: a short string.
const maxShort = 255

// check refuses what no link could send: the fault is the caller's, and is told
// before anything is queued.
func (m *Message) check() error {
	if len(m.Exchange) > maxShort || len(m.Key) > maxShort {
		return m.tooLong()
	}
	if len(m.ContentType)|len(m.ContentEncoding)|len(m.CorrelationID)|len(m.ReplyTo)|
		len(m.MessageID)|len(m.Type)|len(m.UserID)|len(m.AppID)|len(m.ID) > maxShort {
		return m.tooLong()
	}
	if m.Expiration < 0 {
		return fmt.Errorf("ferry: Expiration is %v; it cannot be negative", m.Expiration)
	}
	if m.Headers == nil {
		return nil
	}
	return checkHeaders(m.Headers, 0)
}

func (m *Message) tooLong() error {
	for _, f := range []struct{ name, value string }{
		{"Exchange", m.Exchange},
		{"Key", m.Key},
		{"ContentType", m.ContentType},
		{"ContentEncoding", m.ContentEncoding},
		{"CorrelationID", m.CorrelationID},
		{"ReplyTo", m.ReplyTo},
		{"MessageID", m.MessageID},
		{"Type", m.Type},
		{"UserID", m.UserID},
		{"AppID", m.AppID},
		{"ID", m.ID},
	} {
		if len(f.value) > maxShort {
			return fmt.Errorf("ferry: %s has %d bytes; at most %d are possible", f.name, len(f.value), maxShort)
		}
	}
	return nil
}

// maxNesting is how deep headers may hold maps and slices; brokers refuse more.
const maxNesting = 32

func checkHeaders(h map[string]any, depth int) error {
	for name, v := range h {
		if len(name) > maxShort {
			return fmt.Errorf("ferry: a header's name has %d bytes; at most %d are possible", len(name), maxShort)
		}
		if err := checkValue(name, v, depth); err != nil {
			return err
		}
	}
	return nil
}

func checkValue(name string, v any, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("ferry: header %q is nested more than %d deep", name, maxNesting)
	}
	switch v := v.(type) {
	case nil, bool, string, []byte, time.Time,
		int, int8, int16, int32, int64, uint8, uint16, uint32, float32, float64, Decimal:
		return nil
	case []any:
		for _, e := range v {
			if err := checkValue(name, e, depth+1); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		return checkHeaders(v, depth+1)
	default:
		return fmt.Errorf("ferry: header %q is a %T; it may be nil, bool, string, []byte, an integer other than uint and uint64, a float, Decimal, time.Time, []any or map[string]any", name, v)
	}
}

// setHeader sets a header of a message whose map may be the caller's.
func (m *Message) setHeader(name string, value any) {
	h := maps.Clone(m.Headers)
	if h == nil {
		h = make(map[string]any, 2)
	}
	h[name] = value
	m.Headers = h
}
