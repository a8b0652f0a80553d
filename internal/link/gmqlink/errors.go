package gmqlink

import (
	"errors"
	"strings"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/reply"
)

// nacked is how Ferry's server begins to say that its broker has refused a message
// and gives no reason, as AMQP's basic.nack.
const nacked = "NACKED"

// What its RESOURCE_ERROR can be of: publishers are blocked by an alarm, or the queue
// of the message has as many as the server's configuration lets it.
const (
	resourceError  = "RESOURCE_ERROR"
	saysBlocked    = "publishing is blocked"
	saysFull       = "is full"
	reasonUnspoken = "the broker refuses it without a word"
)

// isNack tells whether a refusal is of one message, for which there is no room.
func isNack(text string) bool {
	return strings.HasPrefix(text, nacked) || strings.HasPrefix(text, resourceError) && !isBlocked(text) && strings.Contains(text, saysFull)
}

// isBlocked tells whether the server takes no messages at present.
func isBlocked(text string) bool {
	return strings.HasPrefix(text, resourceError) && strings.Contains(text, saysBlocked)
}

const textMost = 1000 // of what a server says, bytes

// refusal is what a server says in error_text as an error of the kind that tells
// whether trying again can help. It begins with the name of a reply code of AMQP
// 0-9-1.
func refusal(text string) *link.Error {
	if len(text) > textMost {
		text = strings.ToValidUTF8(text[:textMost], "") + "..."
	}
	if text == "" {
		return &link.Error{Kind: link.Internal, Said: true, Text: reasonUnspoken}
	}
	name, words, _ := strings.Cut(text, " ")
	code := reply.Code(strings.TrimSuffix(name, ":"))
	if code == 0 {
		return &link.Error{Kind: link.Internal, Said: true, Text: text}
	}
	e := &link.Error{Kind: reply.Kind(code, words), Said: true, Code: int(code), Text: text}
	if isBlocked(text) {
		e.Kind = link.Unavailable // which ends
	}
	return e
}

// isOfOne tells whether an error is an answer to one message, and another answer
// cannot be had by sending it again.
func isOfOne(e *link.Error) bool {
	switch e.Kind {
	case link.NotFound, link.AccessRefused, link.Precondition, link.NotAllowed, link.TooLarge, link.Unroutable:
		return true
	default:
		return false
	}
}

// violation says that the peer does not keep to the protocol.
func violation(text string) *link.Error {
	return &link.Error{Kind: link.Protocol, Text: text}
}

// malformed says that bytes of the peer mean nothing.
func malformed(doing string, err error) *link.Error {
	return &link.Error{Kind: link.Protocol, Text: doing, Err: err}
}

// notAllowed says that GMQ has no way to ask for something.
func notAllowed(text string) *link.Error {
	return &link.Error{Kind: link.NotAllowed, Text: text + ": it needs an amqp:// URL"}
}

var (
	errExchange = errors.New("GMQ has queues and no exchanges: the message needs an amqp:// or stomp:// URL")
	errHeader   = errors.New("over GMQ a header is a text, an integer, true or false: the message needs an amqp:// URL")
	errReplies  = errors.New("GMQ has no replies to requests: that needs an amqp:// or stomp:// URL")
	errNoQueue  = errors.New("the message has no queue: its key is empty")
	errNotUTF8  = errors.New("a text of the message is not UTF-8, and JSON has no other")
	errNegative = errors.New("its expiration is negative")
)
