package link

import (
	"errors"
	"fmt"
)

// Kind is what sort of thing went wrong: enough to decide whether trying again
// can help.
type Kind uint8

// Kinds.
const (
	Network       Kind = iota + 1 // the transport failed, or the peer closed it without a word
	Dead                          // nothing came for two heartbeats, or a write did not move
	Protocol                      // the peer does not speak the protocol, or says that we do not
	Forced                        // the broker closes the connection: shutdown, or an operator
	Internal                      // the broker failed
	Unavailable                   // what was asked for exists but cannot be served now
	Locked                        // another connection has it exclusively
	NotFound                      // no such queue, exchange or virtual host
	AccessRefused                 // credentials or permissions
	Precondition                  // it exists, and is different; or a value that is refused
	NotAllowed                    // the broker does not do this
	TooLarge                      // of a message
	Unroutable                    // no queue took the message
	Unsendable                    // the message cannot be encoded for this peer
	Closed                        // ended by this side
)

// String is the kind in words.
func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return fmt.Sprintf("kind %d", k)
}

var kinds = [...]string{
	Network:       "connection lost",
	Dead:          "peer does not answer",
	Protocol:      "protocol error",
	Forced:        "connection closed by the broker",
	Internal:      "broker failed",
	Unavailable:   "not available at present",
	Locked:        "locked by another connection",
	NotFound:      "not found",
	AccessRefused: "access refused",
	Precondition:  "precondition failed",
	NotAllowed:    "not allowed",
	TooLarge:      "message too large",
	Unroutable:    "no queue took the message",
	Unsendable:    "message cannot be sent",
	Closed:        "closed",
}

// An Error is why a broker or a connection did not do what was asked.
type Error struct {
	Kind Kind
	Said bool   // by the broker, in an answer; else it was found out on this side
	Code int    // the protocol's own, 0 if it gave none
	Text string // the broker's words, or ours
	Tag  uint64 // of the message at fault, as its source counts; 0 if that is not known
	Err  error  // of the transport, or nil
}

// Error says what happened in the broker's words where it used any.
func (e *Error) Error() string {
	text := e.Text
	switch {
	case text == "" && e.Err != nil:
		text = e.Err.Error()
	case text == "":
		return e.Kind.String()
	case e.Err != nil:
		text += ": " + e.Err.Error()
	}
	if e.Code != 0 {
		return fmt.Sprintf("%s (%d %s)", e.Kind, e.Code, text)
	}
	return fmt.Sprintf("%s: %s", e.Kind, text)
}

// Unwrap gives the error of the transport.
func (e *Error) Unwrap() error { return e.Err }

// Errors of a receiver's handle, returned as they are.
var (
	ErrClosed  = errors.New("receiver is closed")
	ErrSettled = errors.New("delivery is settled already")
)
