package stompwire

import (
	"strings"

	"github.com/ferrymq/ferry/internal/message"
)

// DestinationKind is what a destination means.
type DestinationKind uint8

// The kinds of destinations. All but Plain are those of RabbitMQ's plugin, with
// its spelling.
const (
	// Plain is any name of no other kind, "/test/message" too: a queue of that
	// name, the way ActiveMQ and Artemis take it.
	Plain DestinationKind = iota
	// QueueDestination is /queue/NAME, a durable queue that is made when it is
	// first named.
	QueueDestination
	// AMQQueue is /amq/queue/NAME, a queue that is there already.
	AMQQueue
	// Topic is /topic/KEY, a key of the topic exchange.
	Topic
	// ExchangeDestination is /exchange/NAME or /exchange/NAME/KEY.
	ExchangeDestination
	// TempQueue is /temp-queue/NAME, which has a meaning in reply-to only.
	TempQueue
	// ReplyQueue is /reply-queue/NAME, as MESSAGE has it in reply-to. The name may
	// have slashes.
	ReplyQueue
)

const (
	topicExchange = "amq.topic"
	replyPrefix   = "/reply-queue/"
	qualifier     = "::" // Artemis: between an address and its queue
)

// destinationKinds has the words of RabbitMQ's errors. A prefix alone, with or
// without a slash behind it, is of its kind and lacks a name.
var destinationKinds = [...]struct {
	prefix string
	name   string
}{
	QueueDestination:    {"/queue", "queue"},
	AMQQueue:            {"/amq/queue", "amqqueue"},
	Topic:               {"/topic", "topic"},
	ExchangeDestination: {"/exchange", "exchange"},
	TempQueue:           {"/temp-queue", "temp_queue"},
	ReplyQueue:          {"/reply-queue", "reply_queue"},
}

// Destination is where a SEND goes or what a SUBSCRIBE asks for. Its names are
// unescaped.
type Destination struct {
	Kind DestinationKind
	Name string // of a queue or an exchange; the key of a Topic; a Plain name as it was written
	Key  string // of an ExchangeDestination
	// HasKey tells /exchange/NAME/ from /exchange/NAME, which RabbitMQ takes for
	// the same.
	HasKey bool
}

// ParseDestination takes a destination apart. Names of no bytes, and names and
// keys of more than 255, are a *Error, and so is what has a prefix of
// RabbitMQ's and more slashes than that allows; the text is the one that RabbitMQ
// 3.10 sends with "Invalid destination", without the line feed at its end.
//
// In names of RabbitMQ's kinds %XX, two hexadecimal digits with upper case
// letters, stands for an octet that AppendDestination escapes: a slash, a
// percent sign, a control, an octet over 127. Any other percent sign stands for
// itself, so that 50%off and a%20b are the names they are for RabbitMQ. It
// unescapes %2F only, though it writes all of these, and so does not recognise
// the destination of its own MESSAGE when that has them.
func ParseDestination[T ~string | ~[]byte](text T) (Destination, error) {
	s := string(text)
	kind, rest := cutKind(s)
	if kind == Plain {
		if s == "" {
			return Destination{}, fault("Destination cannot be blank")
		}
		return checked(Destination{Name: s})
	}
	if rest == "" {
		return Destination{}, faultDestination(kind, rest)
	}
	d := Destination{Kind: kind, Name: rest[1:]}
	if kind == ExchangeDestination {
		d.Name, d.Key, d.HasKey = strings.Cut(d.Name, "/")
	}
	// An exchange without a name is refused too: what /exchange//key would mean
	// differs between SEND and SUBSCRIBE.
	if d.Name == "" || strings.Contains(d.Key, "/") || kind != ReplyQueue && strings.Contains(d.Name, "/") {
		return Destination{}, faultDestination(kind, rest)
	}
	d.Name, d.Key = unescapeName(d.Name), unescapeName(d.Key)
	return checked(d)
}

func faultDestination(kind DestinationKind, rest string) error {
	return fault("'%s' is not a valid %s destination", rest, destinationKinds[kind].name)
}

// cutKind tells the kind of a destination, and what is behind its prefix, with
// the slash.
func cutKind(s string) (kind DestinationKind, rest string) {
	for k := QueueDestination; k <= ReplyQueue; k++ {
		rest, ok := strings.CutPrefix(s, destinationKinds[k].prefix)
		if ok && (rest == "" || rest[0] == '/') {
			return k, rest
		}
	}
	return Plain, s
}

// checked is d if its names have a length that a message and a queue can hold.
func checked(d Destination) (Destination, error) {
	for _, s := range []string{d.Name, d.Key} {
		if len(s) > message.MaxName {
			return Destination{}, fault("a name of %d bytes: at most %d are allowed: %s", len(s), message.MaxName, quote(s))
		}
	}
	return d, nil
}

// Route is where a message for d is published to. ok is false for a TempQueue,
// whose queue only the session knows that made it.
//
// A Plain name ADDRESS::QUEUE, which is how Artemis names a queue of an address,
// is the queue QUEUE: all queues of a virtual host share one space of names
// here, and Artemis's clients mean that queue and no other. Who has a queue whose
// own name holds "::" writes /queue/NAME or /amq/queue/NAME.
func (d Destination) Route() (exchange, key string, ok bool) {
	switch d.Kind {
	case Topic:
		return topicExchange, d.Name, true
	case ExchangeDestination:
		return d.Name, d.Key, true
	case TempQueue:
		return "", "", false
	case Plain:
		if _, queue, ok := d.Qualified(); ok {
			return "", queue, true
		}
	}
	return "", d.Name, true
}

// Qualified takes a Plain name of Artemis's form ADDRESS::QUEUE apart. ok is
// false where it is none: another kind, or a part without a name.
func (d Destination) Qualified() (address, queue string, ok bool) {
	if d.Kind != Plain {
		return "", "", false
	}
	address, queue, ok = strings.Cut(d.Name, qualifier)
	if !ok || address == "" || queue == "" {
		return "", "", false
	}
	return address, queue, true
}

// String is the destination as a header has it. For what ParseDestination
// returned it is a text that parses to the same.
func (d Destination) String() string { return string(AppendDestination(nil, d)) }

// AppendDestination appends d as a header has it, escaped as RabbitMQ escapes it.
// A Plain name is appended as it is.
func AppendDestination(dst []byte, d Destination) []byte {
	if d.Kind == Plain {
		return append(dst, d.Name...)
	}
	dst = append(dst, destinationKinds[d.Kind].prefix...)
	dst = append(dst, '/')
	dst = appendName(dst, d.Name)
	if d.HasKey {
		dst = append(dst, '/')
		dst = appendName(dst, d.Key)
	}
	return dst
}

// AppendRoute appends the destination that MESSAGE has for what was published
// to an exchange with a key, as RabbitMQ does: /queue/KEY of the default
// exchange, /topic/KEY of amq.topic, /exchange/NAME/KEY of others, without the
// key where that is empty. It does not allocate where dst has room.
func AppendRoute[T ~string | ~[]byte](dst []byte, exchange, key T) []byte {
	switch string(exchange) {
	case "":
		dst = append(dst, "/queue/"...)
	case topicExchange:
		dst = append(dst, "/topic/"...)
	default:
		dst = append(dst, "/exchange/"...)
		dst = appendName(dst, exchange)
		if len(key) == 0 {
			return dst
		}
		dst = append(dst, '/')
	}
	return appendName(dst, key)
}

// isEscaped tells which octets RabbitMQ writes as %XX. 127 is none of them.
func isEscaped(c byte) bool { return c == '/' || c == '%' || c < ' ' || c > 127 }

func appendName[T ~string | ~[]byte](dst []byte, name T) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(name) {
		c := name[i]
		if isEscaped(c) {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

func unescapeName(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for len(s) > 0 {
		if c, ok := unescapeOctet(s); ok {
			out, s = append(out, c), s[3:]
		} else {
			out, s = append(out, s[0]), s[1:]
		}
	}
	return string(out)
}

// unescapeOctet reads the %XX that s begins with.
func unescapeOctet(s string) (c byte, ok bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	hi, ok1 := hexDigit(s[1])
	lo, ok2 := hexDigit(s[2])
	c = hi<<4 | lo
	return c, ok1 && ok2 && isEscaped(c)
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
