// Package endpoint reads the URLs of brokers: one, a list, or ActiveMQ's
// failover: form around a list, with the query parameters that RabbitMQ's
// clients understand.
//
// It opens no connection; only [Endpoint.TLSConfig] reads files.
//
// # Secrets
//
// No error of this package quotes a password, and none of its values shows one
// when it is printed, logged or marshalled. A URL is often wrong just because
// its password was not escaped, so that a piece of the password stands where a
// host, a path or a parameter was expected. Two rules take care of that: text
// after the user and password must write @ as %40, which tells such a URL from
// a sound one; and an error quotes only what stands after the last @.
package endpoint

import (
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// List is an ordered list of brokers with the options that a failover: URL
// gives. Options that were not given have the value that each field names.
type List struct {
	Endpoints []Endpoint

	Randomize          bool          // try them in random order; ActiveMQ's default is true, here it is false
	Failback           bool          // go back to the first broker once it is up again
	InitialDelay       time.Duration // before the second sweep of the list; 0: not given
	MaxDelay           time.Duration // the longest delay between sweeps; 0: not given
	MaxAttempts        int           // sweeps after a connection was lost; 0: none, -1: not given or no limit
	StartupMaxAttempts int           // the same before the first connection; -1: not given or no limit
	Timeout            time.Duration // of a send while no broker is connected; 0: not given or none
}

// String is the URLs of the list without their secrets, with commas between.
func (l List) String() string {
	var b strings.Builder
	for i, e := range l.Endpoints {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(e.String())
	}
	return b.String()
}

// LogValue is String.
func (l List) LogValue() slog.Value { return slog.StringValue(l.String()) }

// What Endpoint.Verify holds, by the names of RabbitMQ's clients.
const (
	VerifyPeer = "verify_peer" // the broker's certificate must be good
	VerifyNone = "verify_none" // it is not looked at
)

// Endpoint is one broker. It is not changed by any method, and a copy shares
// AuthMechanisms and Params with the original.
type Endpoint struct {
	Scheme   string // amqp, amqps, stomp, stomps, gmq or gmqs
	Host     string // a name or an address, without brackets; never empty
	Port     int    // the scheme's where absent
	VHost    string // "/" where absent or empty
	User     string // "guest" where absent
	Password string // "guest" where absent

	Heartbeat      time.Duration // whole seconds; 0: none; -1: not given
	ConnectTimeout time.Duration // of one attempt; 0: not given
	ChannelMax     uint16        // 0: not given
	FrameMax       uint32        // bytes; 0: not given
	AuthMechanisms []string      // SASL, upper case, the first is preferred; nil: not given

	CACertFile  string // PEM, the authorities to trust; empty: the system's
	CertFile    string // PEM, the client's certificate and those above it
	KeyFile     string // PEM, its key
	KeyPassword string // of an encrypted key
	Verify      string // VerifyPeer, which empty stands for, or VerifyNone
	ServerName  string // that the certificate must have; empty: Host

	// Params are the parameters that only the link of the scheme understands,
	// by their names, such as heart-beat of STOMP. There are none for AMQP and GMQ.
	Params map[string]string
}

const (
	defaultHost     = "localhost"
	defaultVHost    = "/"
	defaultUser     = "guest"
	defaultPassword = "guest"
)

// A scheme is how a URL begins.
type scheme struct {
	name string
	port int  // where a URL has none
	tls  bool // the link is encrypted from its first byte
}

var schemes = []scheme{
	{name: "amqp", port: 5672},
	{name: "amqps", port: 5671, tls: true},
	{name: "stomp", port: 61613},
	{name: "stomps", port: 61614, tls: true},
	{name: "gmq", port: 4567},
	{name: "gmqs", port: 4568, tls: true},
}

// schemeAliases are other ways to write a scheme.
var schemeAliases = map[string]string{"stomp+ssl": "stomps"}

func schemeOf(name string) (scheme, bool) {
	name = strings.ToLower(name)
	if alias, ok := schemeAliases[name]; ok {
		name = alias
	}
	for _, s := range schemes {
		if s.name == name {
			return s, true
		}
	}
	return scheme{}, false
}

// Address is host:port, with an IPv6 address in brackets, as dialers take it.
func (e Endpoint) Address() string {
	host := e.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(e.Port)
}

// String is the URL of the endpoint without the password and other secrets.
// Parse makes the same endpoint of it, but for these.
func (e Endpoint) String() string {
	var b strings.Builder
	b.WriteString(e.Scheme)
	b.WriteString("://")
	b.WriteString(escape(e.User))
	b.WriteByte('@')
	b.WriteString(strings.ReplaceAll(e.Address(), "%", "%25")) // the zone of an IPv6 address
	b.WriteByte('/')
	if e.VHost != defaultVHost {
		b.WriteString(escape(e.VHost))
	}
	separator := byte('?')
	for name, value := range e.parameters() {
		b.WriteByte(separator)
		separator = '&'
		b.WriteString(escape(name))
		b.WriteByte('=')
		b.WriteString(escape(value))
	}
	return b.String()
}

// GoString is String, so that %#v shows no secret either.
func (e Endpoint) GoString() string { return e.String() }

// LogValue is String.
func (e Endpoint) LogValue() slog.Value { return slog.StringValue(e.String()) }

// MarshalText is String, so that JSON shows no secret either.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// escape percent-encodes all that may mean something in any part of a URL.
func escape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}
