package stomplink

import (
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/reply"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// report is what an ERROR says.
type report struct {
	message, body string
	receipt       receipt
}

// read reads the headers of the ERROR at hand.
func (r *report) read(d *stompwire.Decoder) {
	message, _ := d.Get(stompwire.HeaderMessage)
	id, _ := d.Get(stompwire.HeaderReceiptID)
	*r = report{message: string(message)}
	if d.Version == 0 { // Artemis escapes before a version is agreed on, too
		r.message = unescaped.Replace(r.message)
	}
	r.receipt.read(id)
}

var unescaped = strings.NewReplacer(`\c`, ":", `\n`, " ", `\r`, " ", `\\`, `\`)

// error is an ERROR as an error of the kind that tells whether trying again can
// help.
func (r *report) error() *link.Error {
	text := strings.TrimSpace(r.body)
	switch message := strings.TrimSpace(r.message); {
	case text == "":
		text = message
	case !strings.Contains(text, message) && reply.Code(message) == 0:
		text = message + ": " + text
	}
	const textMost = 1000 // ActiveMQ sends stack traces
	if len(text) > textMost {
		text = strings.ToValidUTF8(text[:textMost], "") + "..."
	}
	code, kind := r.kind()
	return &link.Error{Kind: kind, Said: true, Code: code, Text: text}
}

// kind classifies an ERROR, and gives the code that it names, if it does.
func (r *report) kind() (code int, kind link.Kind) {
	// RabbitMQ's plugin, and Ferry, name a reply code of AMQP 0-9-1 in the header
	// message when what was asked for failed behind STOMP.
	if code := reply.Code(r.message); code != 0 {
		return int(code), reply.Kind(code, r.body)
	}
	// RabbitMQ, of a channel or a connection that ended behind its plugin: "Reason:
	// {shutdown,{connection_closing,{server_initiated_close,320,<<"bye">>}}}".
	if _, rest, ok := strings.Cut(r.body, "server_initiated_close,"); ok {
		digits, words, _ := strings.Cut(rest, ",")
		if code, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return int(code), reply.Kind(uint16(code), words)
		}
	}
	said := strings.ToLower(r.message + "\n" + r.body)
	for _, s := range sayings {
		if strings.Contains(said, s.phrase) {
			return 0, s.kind
		}
	}
	return 0, link.Internal
}

// sayings are what brokers say in an ERROR, in lower case, and what it means. The
// first that is found counts.
var sayings = []struct {
	phrase string
	kind   link.Kind
}{
	// RabbitMQ's plugin, and Ferry.
	{"access refused", link.AccessRefused},           // "Bad CONNECT", of user or password
	{"access denied", link.AccessRefused},            // of a virtual host that is missing, too
	{"non-loopback", link.AccessRefused},             // "non-loopback access denied"
	{"authentication fail", link.AccessRefused},      //
	{"connection_forced", link.Forced},               //
	{"shutdown", link.Forced},                        //
	{"shutting down", link.Forced},                   //
	{"connection ttl", link.Forced},                  // AMQ229014: it heard nothing of us
	{"version mismatch", link.Protocol},              //
	{"server cancelled", link.Unavailable},           // the subscription: its queue is gone, or moves
	{"server canceled", link.Unavailable},            //
	{"subscription not found", link.Unavailable},     //
	{"unknown delivery tag", link.Unavailable},       //
	{"processing error", link.Internal},              //
	{"invalid destination", link.Precondition},       //
	{"unknown destination", link.Precondition},       //
	{"invalid header", link.Precondition},            //
	{"missing header", link.Precondition},            //
	{"not found", link.NotFound},                     //
	{"frame too large", link.TooLarge},               //
	{"exceeded maximum", link.TooLarge},              //
	{"is larger than", link.TooLarge},                //
	{"bad command", link.Protocol},                   //
	{"amq229031", link.AccessRefused},                // Artemis: unable to validate user
	{"amq229032", link.AccessRefused},                // user does not have permission
	{"amq229213", link.AccessRefused},                // so, of an address
	{"security error", link.AccessRefused},           // "Security Error occurred: User name [x] or password is invalid"
	{"does not have permission", link.AccessRefused}, //
	{"is not authorized", link.AccessRefused},        // ActiveMQ
	{"or password is invalid", link.AccessRefused},   //
	{"amq229102", link.Unavailable},                  // address is full
	{"is full", link.Unavailable},                    //
	{"does not exist", link.NotFound},                // AMQ229017, AMQ339001 and others: queue, address
	{"no such destination", link.NotFound},           //
	{"amq339023", link.Protocol},                     // invalid STOMP frame
	{"too large", link.TooLarge},                     //
	{"larger than", link.TooLarge},                   // ActiveMQ: maximum frame size
	{"broker is stopp", link.Forced},                 //
	{"server is stopp", link.Forced},                 //
	{"not started", link.Unavailable},                //
}

// violation says that the peer does not keep to the protocol.
func violation(text string) *link.Error {
	return &link.Error{Kind: link.Protocol, Text: text}
}

// malformed says that bytes of the peer mean nothing.
func malformed(doing string, err error) *link.Error {
	return &link.Error{Kind: link.Protocol, Text: doing, Err: err}
}
