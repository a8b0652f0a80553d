// Package gmqwire is the wire format of GMQ: a request is a JSON object, and so
// is its reply. It turns bytes into requests and replies and back, knows no
// sockets, and keeps nothing but what it was given.
//
// # The format
//
// The first six keys are GMQ's own, in this order. A reply has all of them; in a
// request each may be missing. Keys are found in any case and in any order, of
// several that are the same the last one counts, and unknown ones are passed
// over, as Go's encoding/json has it, which GMQ is written with.
//
//	operation     "P" publish, "S" take the first, "L" length, "SYNC";
//	              Ferry's: "A" acknowledge, "N" return
//	queue         its name
//	payload       base64 (RFC 4648 §4); of a reply to L a decimal number
//	confirmation  of a reply: "Y" or "N"
//	error         of a reply: null, or {} where there is an error
//	auth          {"user": token, "password": token}; of a reply, two empty texts
//
// GMQ's error has no text, because it is an interface that its JSON leaves
// nothing of; a request may repeat whatever a reply had. The rest is Ferry's, and
// a reply has of it only what there is something to say of:
//
//	error_text    why the confirmation is "N"
//	ack           of S: "manual" or "auto", which ask for an id
//	id            of what was taken with ack; what A and N are about
//	wait_msec     of S: how long to wait for a message, milliseconds
//	requeue       of N: false drops the message
//	redelivered   of a reply to S: it may have been delivered before
//	passive       of L: true for a queue that is not to be made
//	transient     of P: it need not be stored
//	message_id    of P, and of a reply to S: header x-ferry-id
//	attempt       of P: header x-ferry-attempt
//	properties    of P, and of a reply to S: see Properties
//	properties_incomplete  of a reply to S: the message has more of them, which
//	              JSON has no place for
//	server        of SYNC: "", of its reply: who answers; with node and epoch
//
// # Framing
//
// GMQ has none: a client writes one object and reads to the end of the
// connection. Objects are told apart by their braces here, see Scanner, so there
// may be several on a connection.
//
// # Tokens
//
// What GMQ sends as user and password is the text in hexadecimal and then the
// SHA-512 of nothing: see Token. It hides nothing.
package gmqwire

import "fmt"

// Error says what is wrong with bytes from a peer. Text is for the peer and for
// people.
type Error struct {
	Text     string
	TooLarge bool // a limit is the reason
	Mistyped bool // it is JSON, but a value is not what its key is for
}

// Error is the text.
func (e *Error) Error() string { return e.Text }

func fault(format string, args ...any) *Error {
	return &Error{Text: fmt.Sprintf(format, args...)}
}
