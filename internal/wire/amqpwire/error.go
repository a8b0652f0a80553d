package amqpwire

import (
	"fmt"
	"unicode/utf8"
)

// Reply codes (constants of amqp0-9-1.xml), named as RabbitMQ names them.
const (
	ReplySuccess       uint16 = 200
	ContentTooLarge    uint16 = 311
	NoRoute            uint16 = 312
	NoConsumers        uint16 = 313
	ConnectionForced   uint16 = 320
	InvalidPath        uint16 = 402
	AccessRefused      uint16 = 403
	NotFound           uint16 = 404
	ResourceLocked     uint16 = 405
	PreconditionFailed uint16 = 406
	FrameError         uint16 = 501
	SyntaxError        uint16 = 502
	CommandInvalid     uint16 = 503
	ChannelError       uint16 = 504
	UnexpectedFrame    uint16 = 505
	ResourceError      uint16 = 506
	NotAllowed         uint16 = 530
	NotImplemented     uint16 = 540
	InternalError      uint16 = 541
)

// ReplyName is the name of a reply code as it begins RabbitMQ's reply texts,
// "NOT_FOUND" for 404; "" for a code that does not exist.
func ReplyName(code uint16) string {
	switch code {
	case ReplySuccess:
		return "REPLY_SUCCESS"
	case ContentTooLarge:
		return "CONTENT_TOO_LARGE"
	case NoRoute:
		return "NO_ROUTE"
	case NoConsumers:
		return "NO_CONSUMERS"
	case ConnectionForced:
		return "CONNECTION_FORCED"
	case InvalidPath:
		return "INVALID_PATH"
	case AccessRefused:
		return "ACCESS_REFUSED"
	case NotFound:
		return "NOT_FOUND"
	case ResourceLocked:
		return "RESOURCE_LOCKED"
	case PreconditionFailed:
		return "PRECONDITION_FAILED"
	case FrameError:
		return "FRAME_ERROR"
	case SyntaxError:
		return "SYNTAX_ERROR"
	case CommandInvalid:
		return "COMMAND_INVALID"
	case ChannelError:
		return "CHANNEL_ERROR"
	case UnexpectedFrame:
		return "UNEXPECTED_FRAME"
	case ResourceError:
		return "RESOURCE_ERROR"
	case NotAllowed:
		return "NOT_ALLOWED"
	case NotImplemented:
		return "NOT_IMPLEMENTED"
	case InternalError:
		return "INTERNAL_ERROR"
	}
	return ""
}

// IsHard tells whether a reply code closes the connection; the others close only
// the channel (amqp0-9-1.xml, class "hard-error").
func IsHard(code uint16) bool {
	switch code {
	case ConnectionForced, InvalidPath, FrameError, SyntaxError, CommandInvalid,
		ChannelError, UnexpectedFrame, ResourceError, NotAllowed, NotImplemented, InternalError:
		return true
	}
	return false
}

// ReplyText is the reply text of a close or a return, "NOT_FOUND - text". Where
// that is longer than MaxShortString it ends in "..." at a whole character: the
// text is for people, and a close that cannot be encoded would help nobody.
func ReplyText(code uint16, text string) string {
	if name := ReplyName(code); name != "" && text != "" {
		text = name + " - " + text
	} else if name != "" {
		text = name
	}
	if len(text) <= MaxShortString {
		return text
	}
	const more = "..."
	end := MaxShortString - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}

// Error says what is wrong with bytes or values and which reply code that is.
// Class and Method name the method at fault, zero where there is none.
type Error struct {
	Code          uint16
	Text          string
	Class, Method uint16
}

// Error is the text as a peer would be told.
func (e *Error) Error() string { return ReplyText(e.Code, e.Text) }

func fault(code uint16, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

func (e *Error) in(class, method uint16) *Error {
	e.Class, e.Method = class, method
	return e
}

// faultShort says that a peer's field does not fit what holds it.
func faultShort(what string) *Error {
	return fault(FrameError, "%s runs past the end of what holds it", what)
}

// faultLong says that our own short string cannot be encoded.
func faultLong(n int) *Error {
	return fault(InternalError, "short string of %d bytes: at most %d can be encoded", n, MaxShortString)
}
