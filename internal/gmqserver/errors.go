package gmqserver

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// names says what the broker's kinds of error are called at the beginning of
// error_text: by the names of AMQP's reply codes, which RabbitMQ's users know.
var names = map[broker.Kind]string{
	broker.NotFound:           "NOT_FOUND",
	broker.PreconditionFailed: "PRECONDITION_FAILED",
	broker.AccessRefused:      "ACCESS_REFUSED",
	broker.ResourceLocked:     "RESOURCE_LOCKED",
	broker.NotAllowed:         "NOT_ALLOWED",
	broker.NotImplemented:     "NOT_IMPLEMENTED",
	broker.Invalid:            "COMMAND_INVALID",
	broker.NoRoute:            "NO_ROUTE",
	broker.TooLarge:           "CONTENT_TOO_LARGE",
	broker.Internal:           "INTERNAL_ERROR",
	broker.Forced:             "CONNECTION_FORCED",
}

// What error_text begins with where the broker is not concerned.
const (
	syntaxError     = "SYNTAX_ERROR"      // it is not a request
	contentTooLarge = "CONTENT_TOO_LARGE" // it is over a limit
	accessRefused   = "ACCESS_REFUSED"
	resourceError   = "RESOURCE_ERROR" // there is no room now
	notImplemented  = "NOT_IMPLEMENTED"
	commandInvalid  = "COMMAND_INVALID"
	nacked          = "NACKED" // a queue refused the message
)

// A fault is why a request was not carried out. What is final ends the
// connection, too.
type fault struct {
	name   string
	text   string
	final  bool
	ours   bool // nobody's mistake but the server's, or its end
	silent bool // there is no request to answer
}

func (f *fault) Error() string { return f.name + " - " + f.text }

func faultf(name, format string, args ...any) *fault {
	return &fault{name: name, text: fmt.Sprintf(format, args...)}
}

// finally makes a fault one that ends the connection.
func (f *fault) finally() *fault {
	g := *f
	g.final = true
	return &g
}

// kindFault is the fault of an error of the broker.
func kindFault(k broker.Kind, text string) *fault {
	name, known := names[k]
	if !known {
		name = names[broker.Internal]
	}
	ours := k == broker.Forced || k == broker.Internal
	return &fault{name: name, text: text, ours: ours, final: ours}
}

// asFault turns an error of the broker or the codec into a fault. ok is false for
// other errors: those of the network.
func asFault(err error) (f *fault, ok bool) {
	if errors.As(err, &f) {
		return f, true
	}
	var be *broker.Error
	if errors.As(err, &be) {
		return kindFault(be.Kind, be.Text), true
	}
	var we *gmqwire.Error
	if errors.As(err, &we) {
		name := syntaxError
		if we.TooLarge {
			name = contentTooLarge
		}
		// Where the next request begins is known only of what is JSON.
		return &fault{name: name, text: we.Text, final: !we.Mistyped}, true
	}
	if errors.Is(err, netserve.ErrDraining) {
		return kindFault(broker.Forced, "the broker is shutting down"), true
	}
	return nil, false
}

// maxLogged is how much of a peer's text goes to the log, and back to it, bytes.
const maxLogged = 128

// capped is a peer's text for the log, whose handler quotes it.
func capped(s string) string { return s[:min(len(s), maxLogged)] }

// quoted is a peer's text within an error_text.
func quoted(s string) string { return strconv.Quote(capped(s)) }
