package stomplink

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// settings are what the parameters of a URL say.
type settings struct {
	dialect       dialect
	host          string
	versions      string // accept-version
	clientID      string
	send, receive time.Duration // heart-beat: what is offered, and what is wanted
}

// parameters are those of stomp:// and stomps:// alone, by their names.
var parameters = map[string]func(*settings, string) error{
	// Milliseconds, as ActiveMQ's and other clients' URLs have it.
	"heart-beat": func(s *settings, value string) (err error) {
		s.send, s.receive, err = stompwire.ParseHeartBeat([]byte(value))
		return err
	},
	"dialect": func(s *settings, value string) error {
		d, ok := dialects[value]
		if !ok {
			return fmt.Errorf("is one of %s", list(dialects))
		}
		s.dialect = d
		return nil
	},
	"host": func(s *settings, value string) error {
		s.host = value
		return nil
	},
	"version": func(s *settings, value string) error {
		if _, ok := stompwire.ParseVersion(value); !ok {
			return errors.New("is 1.0, 1.1 or 1.2")
		}
		s.versions = value
		return nil
	},
	"client-id": func(s *settings, value string) error {
		s.clientID = value
		return nil
	},
}

func list[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// settingsOf reads the parameters of an endpoint: package endpoint has checked those
// of a URL. The error does not quote their values.
func settingsOf(e endpoint.Endpoint, heartbeat time.Duration) (settings, error) {
	s := settings{host: e.VHost, versions: "1.0,1.1,1.2", send: heartbeat, receive: heartbeat}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(e.Params)) {
		set, ok := parameters[name]
		if !ok {
			errs = append(errs, fmt.Errorf("unknown parameter %q; %s:// knows %s", name, e.Scheme, list(parameters)))
			continue
		}
		if err := set(&s, e.Params[name]); err != nil {
			errs = append(errs, fmt.Errorf("parameter %s: %w", name, err))
		}
	}
	return s, errors.Join(errs...)
}

// precondition is that of a connection which is not even tried.
func precondition(text string, err error) *link.Error {
	return &link.Error{Kind: link.Precondition, Text: text, Err: err}
}
