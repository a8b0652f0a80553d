package broker

import "fmt"

// Kind classifies what a client asked for in vain. Each server has one table
// from kind to its protocol's reply.
type Kind uint8

// The kinds of error a broker call returns.
const (
	NotFound           Kind = iota + 1 // the entity does not exist
	PreconditionFailed                 // it exists with other properties, or is in use, or is not empty
	AccessRefused                      // it may not be done by this client, or to this entity
	ResourceLocked                     // another connection has it for itself
	NotAllowed                         // the connection may not do this at all
	NotImplemented                     // a feature that this broker does not have
	Invalid                            // the request contradicts itself
	NoRoute                            // mandatory, and no queue took it
	TooLarge                           // the message is over the limit
	Internal                           // the broker failed: nothing is known of what is pending
	Forced                             // the broker or its operator closes the connection
	kinds
)

// Error is why a call was refused. Text is for people; it follows RabbitMQ's
// wording without its code, so that habits and scripts carry over.
type Error struct {
	Kind Kind
	Text string
}

func (e *Error) Error() string { return e.Text }

func errorf(k Kind, format string, args ...any) *Error {
	return &Error{k, fmt.Sprintf(format, args...)}
}

// Kinds lists every kind, for the tests of the tables made from them.
func Kinds() []Kind {
	var all []Kind
	for k := Kind(1); k < kinds; k++ {
		all = append(all, k)
	}
	return all
}
