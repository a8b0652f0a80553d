package link

import (
	"crypto/rand"
	"strings"
	"time"
)

// Headers that a link writes and reads on the client's behalf. They are not
// among Message.Headers.
const (
	HeaderID      = "x-ferry-id"      // text: Message.ID, or PRODUCER-SEQ
	HeaderAttempt = "x-ferry-attempt" // int32, 2 and more, on what may be there already
)

// HeaderIncomplete is true on a message of which the protocol could not carry all
// headers, or not all as they are. Links that know put it there, and leave it out of
// what they send.
const HeaderIncomplete = "x-ferry-incomplete"

// Message is a message in no protocol's terms. It has the fields of the client's
// public Message, in the same order, so that one converts to the other.
type Message struct {
	Exchange        string
	Key             string
	Body            []byte
	Headers         map[string]any
	ContentType     string
	ContentEncoding string
	Priority        uint8
	Transient       bool
	CorrelationID   string
	ReplyTo         string
	Expiration      time.Duration
	MessageID       string
	Timestamp       time.Time
	Type            string
	UserID          string
	AppID           string
	ID              string
	Attempt         int
}

// NewProducer makes the first half of message ids, Outgoing.Producer: 80 random bits
// as 16 characters, so that no two publishers ever have the same.
func NewProducer() string { return strings.ToLower(rand.Text()[:16]) }
