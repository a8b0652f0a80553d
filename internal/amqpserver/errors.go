package amqpserver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// replyCodes says which reply code (AMQP 0-9-1 §1.2) the broker's kinds of error
// are. Whether a code closes the channel or the connection is the code's affair:
// amqpwire.IsHard.
var replyCodes = map[broker.Kind]uint16{
	broker.NotFound:           amqpwire.NotFound,
	broker.PreconditionFailed: amqpwire.PreconditionFailed,
	broker.AccessRefused:      amqpwire.AccessRefused,
	broker.ResourceLocked:     amqpwire.ResourceLocked,
	broker.NotAllowed:         amqpwire.NotAllowed,
	broker.NotImplemented:     amqpwire.NotImplemented,
	broker.Invalid:            amqpwire.CommandInvalid,
	broker.NoRoute:            amqpwire.NoRoute,
	broker.TooLarge:           amqpwire.PreconditionFailed, // RabbitMQ's choice; the specification has 311
	broker.Internal:           amqpwire.InternalError,
	broker.Forced:             amqpwire.ConnectionForced,
}

// A fault closes a channel or the connection, by its code. Class and method are
// those of the method at fault, zero where there is none.
type fault struct {
	code          uint16
	text          string
	class, method uint16
	lost          bool // where the next frame begins is not known
}

func (f *fault) Error() string { return amqpwire.ReplyText(f.code, f.text) }

func (f *fault) hard() bool { return amqpwire.IsHard(f.code) }

func faultf(code uint16, format string, args ...any) *fault {
	return &fault{code: code, text: fmt.Sprintf(format, args...)}
}

func (f *fault) in(class, method uint16) *fault {
	f.class, f.method = class, method
	return f
}

// asFault turns an error of the broker or the codec, met in a method, into a
// fault. ok is false for other errors: those of the network.
func asFault(err error, class, method uint16) (f *fault, ok bool) {
	if errors.As(err, &f) {
		return f, true
	}
	var be *broker.Error
	if errors.As(err, &be) {
		code, known := replyCodes[be.Kind]
		if !known {
			code = amqpwire.InternalError
		}
		return &fault{code: code, text: be.Text, class: class, method: method}, true
	}
	var we *amqpwire.Error
	if errors.As(err, &we) {
		return &fault{code: we.Code, text: we.Text, class: class, method: method}, true
	}
	return nil, false
}

// The texts below quote bytes as Erlang prints them, because RabbitMQ's reply
// texts do.

// term prints bytes as Erlang's ~p does: <<"text">> where all of it is printable
// Latin-1, else <<1,2,3>>.
func term(b []byte) string {
	if len(b) == 0 {
		return "<<>>"
	}
	for _, c := range b {
		if !printable(c) {
			return octets(b)
		}
	}
	var s strings.Builder
	s.WriteString(`<<"`)
	for _, c := range b {
		if i := strings.IndexByte("\n\r\t\v\b\f\x1b\"\\", c); i >= 0 {
			s.WriteByte('\\')
			c = `nrtvbfe"\`[i]
		}
		s.WriteRune(rune(c))
	}
	s.WriteString(`">>`)
	return s.String()
}

func printable(c byte) bool {
	return c >= 0x20 && c <= 0x7E || c >= 0xA0 || c >= '\b' && c <= '\r' || c == 0x1B
}

// octets prints bytes as Erlang's ~w does, <<1,2,3>>. More than a reply text can
// hold are left out.
func octets(b []byte) string {
	var s strings.Builder
	s.WriteString("<<")
	for i, c := range b {
		if s.Len() > amqpwire.MaxShortString {
			break
		}
		if i > 0 {
			s.WriteByte(',')
		}
		fmt.Fprint(&s, c)
	}
	s.WriteString(">>")
	return s.String()
}

// snippet is how RabbitMQ shows a frame's payload.
func snippet(payload []byte) string {
	if len(payload) <= 16 {
		return "all octets = " + term(payload)
	}
	return "first 16 octets = " + term(payload[:16])
}

func unexpectedFrame(typ uint8, payload []byte) *fault {
	return faultf(amqpwire.UnexpectedFrame, "type %d, %s", typ, snippet(payload))
}

func badFrame(typ uint8, payload []byte, why string) *fault {
	return faultf(amqpwire.FrameError, "type %d, %s: %s", typ, snippet(payload), why)
}

func unimplemented(class, method uint16) *fault {
	return faultf(amqpwire.CommandInvalid, "unimplemented method").in(class, method)
}

// maxLogged is how much of a peer's text goes to the log, bytes.
const maxLogged = 128

// capped is a peer's text for the log, whose handler quotes it.
func capped(s string) string { return s[:min(len(s), maxLogged)] }

// quoted is a peer's text within a message.
func quoted(s string) string { return strconv.Quote(capped(s)) }
