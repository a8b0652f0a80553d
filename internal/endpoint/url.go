package endpoint

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A broker is one URL while it is read.
type broker struct {
	scheme   scheme
	bare     bool // it was given without a scheme
	endpoint Endpoint
	query    []pair
	faults   []error
}

func broken(format string, args ...any) *broker {
	return &broker{faults: []error{fmt.Errorf(format, args...)}}
}

func (u *broker) fault(text string) { u.faults = append(u.faults, errors.New(text)) }

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

// schemeEnd is where the :// of a URL is, or -1. RFC 3986, section 3.1.
func schemeEnd(text string) int {
	end := len(text) - len(strings.TrimLeft(text, letters+digits+"+-."))
	if end == 0 || !strings.HasPrefix(text[end:], "://") {
		return -1
	}
	return end
}

const (
	schemeList = "amqp://, amqps://, stomp://, stomps://, gmq:// and gmqs://"
	mustEscape = "in a user or password , / ? # @ and % are written %2C %2F %3F %23 %40 and %25"
)

// readURL reads a URL up to its parameters, which it only takes apart.
func readURL(p piece) *broker {
	u := &broker{endpoint: Endpoint{
		Host: defaultHost, VHost: defaultVHost, User: defaultUser, Password: defaultPassword,
		Heartbeat: -1, Verify: VerifyPeer,
	}}
	end := schemeEnd(p.text)
	switch {
	case p.text == "":
		return broken("is empty")
	case hasFailover(p.text):
		return broken("is a failover: inside a list: failover: stands before the whole list")
	case strings.Contains(p.text, "#"):
		return broken("holds a #, which is written %%23; %s", mustEscape)
	case end < 0 && strings.ContainsAny(p.text, "/?@()"), end < 0 && strings.HasSuffix(p.text, ":"):
		return broken("begins with no scheme: known are %s", schemeList)
	case end < 0:
		u.bare = true
		u.scheme, _ = schemeOf("amqp")
		u.endpoint.Scheme = u.scheme.name
		u.readAuthority(p.text)
		return u
	}
	var known bool
	if u.scheme, known = schemeOf(p.text[:end]); !known {
		return broken("unknown scheme%s%s; known are %s", p.part(0, end).quote(), nearestScheme(p.text[:end]), schemeList)
	}
	u.endpoint.Scheme = u.scheme.name

	rest := p.part(end+len("://"), len(p.text))
	path := strings.IndexAny(rest.text, "/?")
	if path < 0 {
		path = len(rest.text)
	}
	if strings.Contains(rest.text[path:], "@") {
		u.fault("holds a @ behind the host: " + mustEscape + ", and so is a @ anywhere else")
		return u
	}
	if u.readAuthority(rest.text[:path]); len(u.faults) > 0 {
		return u // what follows may be part of a password
	}
	query := strings.IndexByte(rest.text, '?')
	if query < 0 {
		query = len(rest.text)
	}
	u.readVHost(rest.text[path:query])
	if query < len(rest.text) {
		var faults []error
		u.query, faults = splitQuery(rest.part(query+1, len(rest.text)))
		u.faults = append(u.faults, faults...)
	}
	return u
}

func nearestScheme(name string) string {
	switch strings.ToLower(name) {
	case "tcp", "nio":
		return "; did you mean stomp (ActiveMQ, Artemis) or amqp (RabbitMQ)?"
	case "ssl", "nio+ssl":
		return "; did you mean stomps (ActiveMQ, Artemis) or amqps (RabbitMQ)?"
	case "ws":
		return "; WebSockets are for browsers: the broker's port of STOMP is meant by stomp"
	case "wss":
		return "; WebSockets are for browsers: the broker's port of STOMP is meant by stomps"
	case "rabbitmq", "http":
		return "; did you mean amqp?"
	case "tls", "amqp+ssl", "amqp+tls", "https":
		return "; did you mean amqps?"
	}
	names := make([]string, len(schemes))
	for i, s := range schemes {
		names[i] = s.name
	}
	return nearest(name, names)
}

// readAuthority reads user:password@host:port, of which all may be absent.
func (u *broker) readAuthority(text string) {
	e := &u.endpoint
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		user, password, hasPassword := strings.Cut(text[:at], ":")
		text = text[at+1:]
		var err error
		if e.User, err = decode(user); err != nil {
			u.fault("the user " + err.Error())
		}
		if hasPassword {
			if e.Password, err = decode(password); err != nil {
				u.fault("the password " + err.Error())
			}
		}
		// RFC 4616, section 2: SASL PLAIN has them end with one.
		if strings.Contains(e.User, "\x00") || strings.Contains(e.Password, "\x00") {
			u.fault("the user or password holds a zero byte")
		}
	}

	host, port := text, ""
	if strings.HasPrefix(text, "[") {
		end := strings.IndexByte(text, ']')
		if end < 0 || text[end+1:] != "" && text[end+1] != ':' {
			u.fault("an IPv6 address is written [address] or [address]:port")
			return
		}
		host, port = text[:end+1], strings.TrimPrefix(text[end+1:], ":")
	} else if colon := strings.IndexByte(text, ':'); colon >= 0 {
		host, port = text[:colon], text[colon+1:]
	}
	u.readHost(host)
	e.Port = u.scheme.port
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			u.fault("the port is no number from 1 to 65535 (an IPv6 address stands in brackets; " + mustEscape + ")")
		}
		e.Port = int(n)
	}
}

// readHost reads a name or an address; one that is absent or empty is
// localhost.
func (u *broker) readHost(text string) {
	if text == "" {
		return
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		host, err := decode(strings.TrimSuffix(inner, "]"))
		if err != nil {
			u.fault("the address " + err.Error() + ": the zone of an IPv6 address begins with %25")
			return
		}
		address, err := netip.ParseAddr(host)
		if err != nil || !address.Is6() || address.Zone() != "" && !isHost(address.Zone()) {
			u.fault("what stands in brackets is no IPv6 address")
			return
		}
		u.endpoint.Host = host
		return
	}
	host, err := decode(text)
	if err != nil || !isHost(host) {
		u.fault("the host may have letters, digits, -, . and _ only (" + mustEscape + ")")
		return
	}
	u.endpoint.Host = host
}

// maxHost is the longest name in the text form of the DNS: RFC 1035, section
// 2.3.4, without its first and last byte, but with a dot at its end.
const maxHost = 254

func isHost(name string) bool {
	return name != "" && len(name) <= maxHost && strings.Trim(name, letters+digits+"-._") == ""
}

// maxVHost is what a short string of AMQP 0-9-1 holds, in bytes.
const maxVHost = 255

// readVHost reads the path. An empty name is taken for the default one, as
// RabbitMQ's clients for Go and Java do, although the AMQP URI specification
// tells them apart.
func (u *broker) readVHost(path string) {
	name := strings.TrimPrefix(path, "/")
	switch vhost, err := decode(name); {
	case name == "":
	case strings.Contains(name, "/"):
		u.fault("the virtual host is one segment: a / in it is written %2F")
	case err != nil:
		u.fault("the virtual host " + err.Error())
	case len(vhost) > maxVHost:
		u.fault(fmt.Sprintf("the virtual host is longer than %d bytes", maxVHost))
	default:
		u.endpoint.VHost = vhost
	}
}

// interpret reads the parameters, and checks what hangs together.
func (u *broker) interpret() {
	before := make(map[string]bool)
	for _, p := range u.query {
		known, isKnown := parameterOf(p.name)
		switch {
		case !isKnown:
			u.fault("unknown parameter" + p.source.quote() + parameterHint(u.scheme, p.name))
		case before[p.name] && !known.many:
			u.fault("parameter " + p.name + ": is given twice")
		case !known.fits(u.scheme):
			u.fault("parameter " + p.name + ": " + known.misfit)
		default:
			if err := known.set(&u.endpoint, p.value); err != nil {
				u.faults = append(u.faults, fmt.Errorf("parameter %s: %w", p.name, err))
			}
		}
		before[p.name] = true
	}
	if strings.HasPrefix(u.scheme.name, "gmq") && u.endpoint.VHost != defaultVHost {
		u.fault("the virtual host: GMQ has none, and serves the default one: leave it out")
	}
	switch e := u.endpoint; {
	case e.CertFile != "" && e.KeyFile == "":
		u.fault("parameter certfile: needs keyfile, which may be the same file")
	case e.KeyFile != "" && e.CertFile == "":
		u.fault("parameter keyfile: needs certfile, which may be the same file")
	}
}

// parameterHint is a half sentence on what was meant by a parameter that is not
// known. It holds nothing of its name, unless that is one of ActiveMQ's options.
func parameterHint(s scheme, name string) string {
	if isOption(name) {
		return "; it is an option of the whole list: failover:(…)?" + name + "=…"
	}
	names := parameterNames(s)
	if hint := nearest(name, names); hint != "" {
		return hint
	}
	return "; known are " + strings.Join(names, ", ")
}

// A pair is one name=value of a query, decoded.
type pair struct {
	name, value string
	source      piece // the name as it stands there
}

// splitQuery takes a query apart. A + stands for itself.
func splitQuery(query piece) (pairs []pair, faults []error) {
	begin := 0
	for i := range len(query.text) + 1 {
		if i < len(query.text) && query.text[i] != '&' {
			continue
		}
		p := query.part(begin, i)
		begin = i + 1
		if p.text == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(p.text, "=")
		source := p.part(0, len(rawName))
		name, errName := decode(rawName)
		value, errValue := decode(rawValue)
		switch err := errors.Join(errName, errValue); {
		case err != nil:
			faults = append(faults, fmt.Errorf("a parameter%s holds %% without two hexadecimal digits: it is written %%25", source.quote()))
		case name == "":
			faults = append(faults, errors.New("a parameter has no name"))
		default:
			pairs = append(pairs, pair{name, value, source})
		}
	}
	return pairs, faults
}

// decode undoes percent-encoding. The error does not quote the text, as that
// of the url package does.
func decode(text string) (string, error) {
	decoded, err := url.PathUnescape(text)
	if err != nil {
		return "", errors.New("holds a % without two hexadecimal digits: it is written %25")
	}
	return decoded, nil
}
