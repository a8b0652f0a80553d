package stompserver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// names says what the broker's kinds of error are called in the message header of
// an ERROR: RabbitMQ's plugin takes the names of AMQP's reply codes.
var names = map[broker.Kind]string{
	broker.NotFound:           "not_found",
	broker.PreconditionFailed: "precondition_failed",
	broker.AccessRefused:      "access_refused",
	broker.ResourceLocked:     "resource_locked",
	broker.NotAllowed:         "not_allowed",
	broker.NotImplemented:     "not_implemented",
	broker.Invalid:            "command_invalid",
	broker.NoRoute:            "no_route",
	broker.TooLarge:           "precondition_failed", // RabbitMQ's choice for a message over its limit
	broker.Internal:           "internal_error",
	broker.Forced:             "connection_forced",
}

// The message headers of ERROR frames that are not of the broker. They are
// RabbitMQ's, but for malformed, which it closes the connection without a word
// for, and connected.
const (
	badConnect         = "Bad CONNECT"
	versionMismatch    = "Version mismatch"
	illegalCommand     = "Illegal command"
	badCommand         = "Bad command"
	missingHeader      = "Missing header"
	missingID          = "Missing Header"
	invalidHeader      = "Invalid header"
	missingDestination = "Missing destination"
	invalidDestination = "Invalid destination"
	invalidID          = "Invalid id"
	duplicateID        = "Duplicated subscription identifier"
	noSubscription     = "No subscription found"
	missingTarget      = "Missing destination or id"
	unknownMessage     = "Subscription not found"
	missingTransaction = "Missing transaction"
	badTransaction     = "Bad transaction"
	cancelled          = "Server cancelled subscription"
	malformed          = "Malformed frame"
	alreadyConnected   = "Already connected"
)

// supportedVersions is what is spoken here, as a version header has it.
const supportedVersions = "1.0,1.1,1.2"

// A fault ends the connection with an ERROR frame.
type fault struct {
	message      string // header of that name: what went wrong in a few words
	detail       string // the body
	receipt      []byte // of the frame at fault; nil if it had none
	subscription string // that is concerned; "" if none is
	ours         bool   // of the server: no frame is at fault, and nothing is known of any
}

func (f *fault) Error() string { return f.message + ": " + strings.TrimSpace(f.detail) }

func faultf(message, format string, args ...any) *fault {
	return &fault{message: message, detail: fmt.Sprintf(format, args...)}
}

// kindFault is the fault of an error of the broker, in RabbitMQ's form: the name
// of AMQP's reply code as the message, and AMQP's reply text as the detail.
func kindFault(k broker.Kind, text string) *fault {
	name, known := names[k]
	if !known {
		name = names[broker.Internal]
	}
	return &fault{message: name, detail: strings.ToUpper(name) + " - " + text, ours: k == broker.Forced || k == broker.Internal}
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
	var we *stompwire.Error
	if errors.As(err, &we) {
		return faultf(malformed, "%s\n", we.Text), true
	}
	if errors.Is(err, netserve.ErrFull) {
		return faultf(malformed, "the frame is larger than may be\n"), true
	}
	return nil, false
}

// maxLogged is how much of a peer's text goes to the log, bytes.
const maxLogged = 128

// capped is a peer's text for the log, whose handler quotes it.
func capped(s string) string { return s[:min(len(s), maxLogged)] }

// quoted is a peer's text within an ERROR's, where RabbitMQ has Erlang's ~p.
func quoted[T ~string | ~[]byte](s T) string { return strconv.Quote(capped(string(s))) }
