package stompwire

import "strconv"

// Names of headers: those of the specification, and those that RabbitMQ's plugin,
// ActiveMQ and Artemis gave a meaning.
const (
	HeaderAcceptVersion = "accept-version"
	HeaderAck           = "ack"
	HeaderContentLength = "content-length"
	HeaderContentType   = "content-type"
	HeaderDestination   = "destination"
	HeaderHeartBeat     = "heart-beat"
	HeaderHost          = "host"
	HeaderID            = "id"
	HeaderLogin         = "login"
	HeaderMessage       = "message"
	HeaderMessageID     = "message-id"
	HeaderPasscode      = "passcode"
	HeaderReceipt       = "receipt"
	HeaderReceiptID     = "receipt-id"
	HeaderServer        = "server"
	HeaderSession       = "session"
	HeaderSubscription  = "subscription"
	HeaderTransaction   = "transaction"
	HeaderVersion       = "version"

	HeaderClientID         = "client-id"
	HeaderDestinationType  = "destination-type"
	HeaderPersistent       = "persistent"
	HeaderPrefetchCount    = "prefetch-count"
	HeaderRedelivered      = "redelivered"
	HeaderRequeue          = "requeue"
	HeaderSubscriptionType = "subscription-type"
)

// A frame is made of AppendCommand, headers, AppendHeadEnd, the body and a NUL.
// These functions do not allocate where dst has room.

// AppendCommand appends the line of a command.
func AppendCommand(dst []byte, c Command) []byte {
	return append(append(dst, c.String()...), '\n')
}

// AppendHeader appends the line of a header, escaped as the version has it. v is
// zero for CONNECT, STOMP and CONNECTED, which are not escaped.
//
// What cannot be expressed is an *Error, and dst is as it was: nothing is cut, and
// nothing that was meant as a value becomes a header. That is NUL in all
// versions, CR before 1.2, LF before 1.1, ':' in a name before 1.1, and a name
// without bytes. A ':' in a value is written as it is before 1.1: readers take the
// first in the line (RabbitMQ and Artemis do), and passcodes have them.
func AppendHeader[N, V ~string | ~[]byte](dst []byte, v Version, name N, value V) ([]byte, error) {
	if len(name) == 0 {
		return dst, fault("a header without a name cannot be sent")
	}
	out, c := appendEscaped(dst, v, name, true)
	if c >= 0 {
		return dst, faultByte("the name of header "+quote(name), byte(c), v)
	}
	out = append(out, ':')
	out, c = appendEscaped(out, v, value, false)
	if c >= 0 {
		return dst, faultByte("the value of header "+quote(name), byte(c), v)
	}
	return append(out, '\n'), nil
}

// appendEscaped appends text, or returns in bad the byte that cannot be.
func appendEscaped[T ~string | ~[]byte](dst []byte, v Version, text T, isName bool) (out []byte, bad int) {
	from := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c > '\r' && c != ':' && c != '\\' {
			continue
		}
		var escape byte
		switch {
		case c == 0:
			return dst, int(c)
		case c == '\r' && v >= V12:
			escape = 'r'
		case c == '\r':
			return dst, int(c)
		case c == '\n' && v >= V11:
			escape = 'n'
		case c == '\n':
			return dst, int(c)
		case c == ':' && v >= V11:
			escape = 'c'
		case c == ':' && isName:
			return dst, int(c)
		case c == '\\' && v >= V11:
			escape = '\\'
		default:
			continue
		}
		dst = append(append(dst, text[from:i]...), '\\', escape)
		from = i + 1
	}
	return append(dst, text[from:]...), -1
}

// faultByte does not repeat the text: it may be a passcode.
func faultByte(what string, c byte, v Version) *Error {
	if v == 0 {
		return fault("%q in %s cannot be sent in a CONNECT or CONNECTED frame", c, what)
	}
	return fault("%q in %s cannot be sent in STOMP %s", c, what, v)
}

// AppendHeaderInt appends the line of a header whose value is a number. The name
// is one of the constants here, or another that needs no escaping.
func AppendHeaderInt(dst []byte, name string, n int64) []byte {
	dst = append(append(dst, name...), ':')
	return append(strconv.AppendInt(dst, n, 10), '\n')
}

// AppendHeadEnd appends the blank line that ends the headers.
func AppendHeadEnd(dst []byte) []byte { return append(dst, '\n') }

// AppendFrame appends a whole frame, for those who are not in a hurry. It adds
// the content-length where body is not empty, so it is an error if it is among
// the headers, and so is a body for a command that may not have one. On an error
// dst is as it was.
func AppendFrame(dst []byte, v Version, c Command, headers []Header, body []byte) ([]byte, error) {
	if len(body) > 0 && !c.MayHaveBody() {
		return dst, fault("a %s frame cannot have a body", c)
	}
	if !c.isEscaped() {
		v = 0
	}
	out := AppendCommand(dst, c)
	for _, h := range headers {
		if string(h.Name) == HeaderContentLength {
			return dst, fault("the content-length of a %s frame is added to it, and cannot be given", c)
		}
		var err error
		if out, err = AppendHeader(out, v, h.Name, h.Value); err != nil {
			return dst, err
		}
	}
	if len(body) > 0 {
		out = AppendHeaderInt(out, HeaderContentLength, int64(len(body)))
	}
	return append(append(AppendHeadEnd(out), body...), 0), nil
}
