package endpoint

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A parameter is one that stands in the query of a URL and is known here.
type parameter struct {
	name   string
	fits   func(scheme) bool
	misfit string // why it may not stand where it does not fit
	many   bool   // it may be given several times
	set    func(e *Endpoint, value string) error
	get    func(e Endpoint) []string // what String shows; nil for a secret
}

func anywhere(scheme) bool    { return true }
func encrypted(s scheme) bool { return s.tls }
func amqpOnly(s scheme) bool  { return strings.HasPrefix(s.name, "amqp") }
func stompOnly(s scheme) bool { return strings.HasPrefix(s.name, "stomp") }
func nowhere(scheme) bool     { return false }
func text(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

const (
	needsTLS  = "is for amqps://, stomps:// and gmqs://: the link would not be encrypted"
	needsAMQP = "is for amqp:// and amqps://"

	needsSTOMP     = "is for stomp:// and stomps://"
	notAsParameter = "is not given as a parameter: write user:password@host"
)

// parameters are those of RabbitMQ's clients
// (https://www.rabbitmq.com/docs/uri-query-parameters), frame_max, and those of STOMP,
// by the names of the headers of CONNECT where they are such. Those of STOMP are for
// its link to understand: Endpoint.Params.
var parameters = []parameter{
	{
		name: "heartbeat", fits: anywhere,
		set: func(e *Endpoint, value string) error {
			// AMQP 0-9-1, connection.tune: a short of seconds, zero for none.
			n, err := number(value, 0, 1<<16-1, "seconds")
			e.Heartbeat = time.Duration(n) * time.Second
			return err
		},
		get: func(e Endpoint) []string {
			if e.Heartbeat < 0 {
				return nil
			}
			return []string{strconv.FormatInt(int64(e.Heartbeat/time.Second), 10)}
		},
	},
	{
		name: "connection_timeout", fits: anywhere,
		set: func(e *Endpoint, value string) (err error) {
			e.ConnectTimeout, err = milliseconds(value, 1)
			return err
		},
		get: func(e Endpoint) []string {
			if e.ConnectTimeout == 0 {
				return nil
			}
			return []string{strconv.FormatInt(e.ConnectTimeout.Milliseconds(), 10)}
		},
	},
	{
		name: "channel_max", fits: amqpOnly, misfit: needsAMQP,
		set: func(e *Endpoint, value string) error {
			n, err := number(value, 0, 1<<16-1, "channels")
			e.ChannelMax = uint16(n)
			return err
		},
		get: func(e Endpoint) []string { return positive(uint64(e.ChannelMax)) },
	},
	{
		name: "frame_max", fits: amqpOnly, misfit: needsAMQP,
		set: func(e *Endpoint, value string) error {
			n, err := number(value, 0, 1<<32-1, "bytes")
			if err == nil && n > 0 && n < minFrameMax {
				err = fmt.Errorf("must be at least %d bytes, or 0 for what the broker offers", minFrameMax)
			}
			e.FrameMax = uint32(n)
			return err
		},
		get: func(e Endpoint) []string { return positive(uint64(e.FrameMax)) },
	},
	{
		name: "auth_mechanism", fits: amqpOnly, misfit: needsAMQP, many: true,
		set: func(e *Endpoint, value string) error {
			value = strings.ToUpper(value)
			if !isMechanism(value) {
				return errors.New("is not the name of a SASL mechanism, such as plain or external")
			}
			e.AuthMechanisms = append(e.AuthMechanisms, value)
			return nil
		},
		get: func(e Endpoint) []string { return e.AuthMechanisms },
	},
	{
		name: "cacertfile", fits: encrypted, misfit: needsTLS,
		set: func(e *Endpoint, value string) error { return file(&e.CACertFile, value) },
		get: func(e Endpoint) []string { return text(e.CACertFile) },
	},
	{
		name: "certfile", fits: encrypted, misfit: needsTLS,
		set: func(e *Endpoint, value string) error { return file(&e.CertFile, value) },
		get: func(e Endpoint) []string { return text(e.CertFile) },
	},
	{
		name: "keyfile", fits: encrypted, misfit: needsTLS,
		set: func(e *Endpoint, value string) error { return file(&e.KeyFile, value) },
		get: func(e Endpoint) []string { return text(e.KeyFile) },
	},
	{
		name: "password", fits: encrypted, misfit: "is that of an encrypted key file; the broker's stands before the @, as user:password@host",
		set: func(e *Endpoint, value string) error {
			e.KeyPassword = value
			return nil
		},
	},
	{
		name: "verify", fits: encrypted, misfit: needsTLS,
		set: func(e *Endpoint, value string) error {
			if value != VerifyPeer && value != VerifyNone {
				return errors.New("must be " + VerifyPeer + " or " + VerifyNone)
			}
			e.Verify = value
			return nil
		},
		get: func(e Endpoint) []string {
			if e.Verify != VerifyNone {
				return nil
			}
			return []string{VerifyNone}
		},
	},
	{
		name: "server_name_indication", fits: encrypted, misfit: needsTLS,
		set: func(e *Endpoint, value string) error {
			if strings.EqualFold(value, "disable") {
				return errors.New("cannot be disabled here: leave it out for the host's name, or give the name that the certificate has")
			}
			if !isHost(value) {
				return errors.New("is not the name of a host")
			}
			e.ServerName = value
			return nil
		},
		get: func(e Endpoint) []string { return text(e.ServerName) },
	},
	{
		name: "heart-beat", fits: stompOnly, misfit: needsSTOMP + "; elsewhere it is heartbeat, in seconds",
		set: param("heart-beat", func(value string) error {
			sends, wants, ok := strings.Cut(value, ",")
			_, err1 := milliseconds(sends, 0)
			_, err2 := milliseconds(wants, 0)
			if !ok || err1 != nil || err2 != nil {
				return errors.New("must be two numbers of milliseconds, as 10000,10000: how often something is sent, and how often something is to come")
			}
			return nil
		}),
	},
	{
		name: "dialect", fits: stompOnly, misfit: needsSTOMP,
		set: param("dialect", func(value string) error {
			known := []string{"rabbitmq", "ferry", "artemis", "activemq"}
			if !slices.Contains(known, value) {
				return errors.New("must be rabbitmq, ferry, artemis or activemq" + nearest(value, known))
			}
			return nil
		}),
	},
	{name: "host", fits: stompOnly, misfit: needsSTOMP, set: param("host", anything)},
	{
		name: "version", fits: stompOnly, misfit: needsSTOMP,
		set: param("version", func(value string) error {
			if !slices.Contains([]string{"1.0", "1.1", "1.2"}, value) {
				return errors.New("must be 1.0, 1.1 or 1.2")
			}
			return nil
		}),
	},
	{name: "client-id", fits: stompOnly, misfit: needsSTOMP, set: param("client-id", anything)},
	{name: "login", fits: nowhere, misfit: notAsParameter},
	{name: "passcode", fits: nowhere, misfit: notAsParameter},
}

// param sets a parameter for the link, if it is as it must be. The error of check
// does not quote the value.
func param(name string, check func(value string) error) func(*Endpoint, string) error {
	return func(e *Endpoint, value string) error {
		if err := check(value); err != nil {
			return err
		}
		if e.Params == nil {
			e.Params = make(map[string]string)
		}
		e.Params[name] = value
		return nil
	}
}

func anything(string) error { return nil }

// AMQP 0-9-1, constant frame-min-size.
const minFrameMax = 4096

func parameterOf(name string) (parameter, bool) {
	i := slices.IndexFunc(parameters, func(p parameter) bool { return p.name == name })
	if i < 0 {
		return parameter{}, false
	}
	return parameters[i], true
}

// parameterNames are those that may stand in a URL of the scheme.
func parameterNames(s scheme) []string {
	var names []string
	for _, p := range parameters {
		if p.fits(s) {
			names = append(names, p.name)
		}
	}
	return names
}

// parameters yields the names and values that String shows, always in the
// same order.
func (e Endpoint) parameters() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, p := range parameters {
			if p.get == nil {
				continue
			}
			for _, value := range p.get(e) {
				if !yield(p.name, value) {
					return
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(e.Params)) {
			if !yield(name, e.Params[name]) {
				return
			}
		}
	}
}

// number reads a decimal number. The error does not quote it.
func number(value string, least, most int64, unit string) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("must be a whole number of %s from %d to %d", unit, least, most)
	}
	return n, nil
}

// maxMilliseconds is what a signed 32-bit number holds, as ActiveMQ and
// RabbitMQ read these: nearly 25 days.
const maxMilliseconds = 1<<31 - 1

func milliseconds(value string, least int64) (time.Duration, error) {
	n, err := number(value, least, maxMilliseconds, "milliseconds")
	return time.Duration(n) * time.Millisecond, err
}

func positive(n uint64) []string {
	if n == 0 {
		return nil
	}
	return []string{strconv.FormatUint(n, 10)}
}

func file(field *string, value string) error {
	if value == "" {
		return errors.New("must be the name of a file")
	}
	*field = value
	return nil
}

// isMechanism holds a name against RFC 4422, section 3.1.
func isMechanism(name string) bool {
	return len(name) >= 1 && len(name) <= 20 && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}
