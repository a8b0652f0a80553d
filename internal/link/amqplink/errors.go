package amqplink

import (
	"errors"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/reply"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// refusal is what a broker said with a reply code, as an error of the kind that
// tells whether trying again can help.
func refusal(code uint16, text string) *link.Error {
	return &link.Error{Kind: reply.Kind(code, text), Said: true, Code: int(code), Text: text}
}

// violation says that the peer does not keep to the protocol.
func violation(text string) *link.Error {
	return &link.Error{Kind: link.Protocol, Text: text}
}

// malformed says that bytes of the peer mean nothing.
func malformed(doing string, err error) *link.Error {
	return &link.Error{Kind: link.Protocol, Text: doing, Err: err}
}

// wireCode is the reply code that the peer deserves for an error.
func wireCode(err *link.Error) uint16 {
	var wire *amqpwire.Error
	if errors.As(err.Err, &wire) {
		return wire.Code
	}
	return amqpwire.UnexpectedFrame
}
