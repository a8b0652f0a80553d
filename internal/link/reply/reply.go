// Package reply classifies what brokers answer in the terms of AMQP 0-9-1: RabbitMQ
// says the same over its other protocols.
package reply

import (
	"strings"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// codes are the names of reply codes, as AMQP 0-9-1 writes them but for the case and
// what stands between the words.
var codes = map[string]uint16{
	"content_too_large": amqpwire.ContentTooLarge, "no_route": amqpwire.NoRoute, "no_consumers": amqpwire.NoConsumers,
	"connection_forced": amqpwire.ConnectionForced, "invalid_path": amqpwire.InvalidPath, "access_refused": amqpwire.AccessRefused,
	"not_found": amqpwire.NotFound, "resource_locked": amqpwire.ResourceLocked, "precondition_failed": amqpwire.PreconditionFailed,
	"frame_error": amqpwire.FrameError, "syntax_error": amqpwire.SyntaxError, "command_invalid": amqpwire.CommandInvalid,
	"channel_error": amqpwire.ChannelError, "unexpected_frame": amqpwire.UnexpectedFrame, "resource_error": amqpwire.ResourceError,
	"not_allowed": amqpwire.NotAllowed, "not_implemented": amqpwire.NotImplemented, "internal_error": amqpwire.InternalError,
}

// Code is the reply code of a name, as NOT_FOUND or not_found; 0 if it is none's.
func Code(name string) uint16 { return codes[strings.ToLower(name)] }

// Kind classifies a reply code of AMQP 0-9-1. Where one code stands for more
// than one thing, RabbitMQ's words decide.
func Kind(code uint16, text string) link.Kind {
	said := unquoted(text)
	switch code {
	case amqpwire.ConnectionForced:
		return link.Forced
	case amqpwire.InternalError, amqpwire.ResourceError:
		if notServed(said) {
			return link.Unavailable
		}
		return link.Internal
	case amqpwire.NotFound:
		if notServed(said) {
			return link.Unavailable
		}
		return link.NotFound
	case amqpwire.InvalidPath:
		return link.NotFound
	case amqpwire.AccessRefused:
		if strings.Contains(said, "in exclusive use") {
			return link.Locked // by another consumer: "queue 'q' in vhost '/' in exclusive use"
		}
		return link.AccessRefused
	case amqpwire.ResourceLocked:
		return link.Locked
	case amqpwire.PreconditionFailed:
		switch {
		case notServed(said):
			return link.Unavailable
		case strings.Contains(said, "message size"):
			return link.TooLarge // "message size 1 is larger than configured max size 0"
		}
		return link.Precondition
	case amqpwire.ContentTooLarge:
		return link.TooLarge
	case amqpwire.NoRoute, amqpwire.NoConsumers:
		return link.Unroutable
	case amqpwire.NotAllowed:
		switch {
		case notServed(said):
			return link.Unavailable
		case strings.Contains(said, "not found"):
			return link.NotFound // "vhost 'x' not found"
		}
		return link.AccessRefused // limits, and access to a virtual host
	case amqpwire.NotImplemented:
		return link.NotAllowed
	case amqpwire.CommandInvalid:
		if strings.Contains(said, "unknown exchange type") {
			return link.NotAllowed // of a plugin that is not there: no fault of the protocol
		}
	}
	return link.Protocol
}

// notServed tells whether RabbitMQ says of something that it exists and cannot
// be served now: its node or its virtual host is down, its process was stopped
// or crashed, its replicas have no majority.
func notServed(text string) bool {
	for _, phrase := range []string{
		"is down", "down or inaccessible", "timeout", "timed out", "stopped by supervisor",
		"crashed and failed to restart", "currently unavailable", "temporarily unavailable",
		"not currently available", "no longer available", "currently not available", "not available",
		"no majority", "minority", "no leader", "no quorum",
		"failed to perform operation", "stopping or being demoted", // of a mirrored queue, while it gets another master
	} {
		if strings.Contains(text, phrase) {
			return true
		}
	}
	return false
}

// unquoted is a reply text in lower case without what stands in single quotes:
// names, which may be any words.
func unquoted(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(text, "'") {
		if i%2 == 0 {
			b.WriteString(strings.ToLower(part))
		}
	}
	return b.String()
}
