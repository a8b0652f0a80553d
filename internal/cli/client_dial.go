package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ferrymq/ferry"
)

// dial connects a client command, which says on stderr what becomes of its
// connections unless it is quiet. name is the connection's for the broker's
// lists. Its error is a failure with the exit code of its kind.
func (c *clientFlags) dial(ctx context.Context, sys System, name string, o ...ferry.Option) (*ferry.Client, error) {
	u, err := c.url(sys.Getenv)
	if err != nil {
		return nil, err
	}
	client, err := ferry.Dial(ctx, u, append(c.options(sys.Stderr, name), o...)...)
	return client, clientFailed(err)
}

// options are those of one client, for dial.
func (c *clientFlags) options(stderr io.Writer, name string) []ferry.Option {
	options := []ferry.Option{ferry.WithName(name)}
	if !c.quiet {
		options = append(options, ferry.WithEvents((&eventPrinter{w: stderr}).print))
	}
	return options
}

// clientFailed is a failure with the exit code of what a client said: nil of
// nil.
func clientFailed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err: err, code: exitCode(err)}
}

func exitCode(err error) int {
	var left *ferry.UnconfirmedError
	switch {
	case errors.As(err, &left), errors.Is(err, ferry.ErrUnknown), errors.Is(err, ferry.ErrNotSent):
		return exitLeft
	case errors.Is(err, ferry.ErrNoBroker):
		return exitNoBroker
	case errors.Is(err, ferry.ErrRefused), errors.Is(err, ferry.ErrAccessRefused), errors.Is(err, ferry.ErrNotFound),
		errors.Is(err, ferry.ErrPrecondition), errors.Is(err, ferry.ErrLocked):
		return exitRefused
	}
	return exitFailed
}

// An eventPrinter tells a person what becomes of a client's connections. Its
// print is for ferry.WithEvents, which calls it from one goroutine.
type eventPrinter struct {
	w    io.Writer
	lost map[string]time.Time // by connection, while it is lost
}

func (p *eventPrinter) print(e ferry.Event) {
	if line := p.line(e); line != "" {
		fmt.Fprintf(p.w, "%s %s\n", e.Time.Local().Format(time.TimeOnly), line)
	}
}

// line says an event in words, empty if it is not worth any.
func (p *eventPrinter) line(e ferry.Event) string {
	switch e.Kind {
	case ferry.Connected:
		lost, ok := p.lost[e.Connection]
		delete(p.lost, e.Connection)
		if !ok {
			return fmt.Sprintf("%s: connected to %s", e.Connection, e.Endpoint)
		}
		return fmt.Sprintf("%s: connected to %s after %.2f s", e.Connection, e.Endpoint, e.Time.Sub(lost).Seconds())
	case ferry.Disconnected:
		if p.lost == nil {
			p.lost = map[string]time.Time{}
		}
		p.lost[e.Connection] = e.Time
		return fmt.Sprintf("%s: connection to %s lost%s", e.Connection, e.Endpoint, because(e.Err))
	case ferry.Retrying:
		return fmt.Sprintf("%s: no broker reachable, trying again in %.2f s%s", e.Connection, e.Delay.Seconds(), because(e.Err))
	case ferry.Blocked:
		return fmt.Sprintf("%s: %s takes no messages for now%s", e.Connection, e.Endpoint, because(e.Err))
	case ferry.Unblocked:
		return fmt.Sprintf("%s: %s takes messages again", e.Connection, e.Endpoint)
	case ferry.FailedBack:
		return fmt.Sprintf("%s: back on %s, the first of the list", e.Connection, e.Endpoint)
	case ferry.ConsumerCancelled:
		return fmt.Sprintf("%s: the broker cancelled a consumer%s", e.Connection, because(e.Err))
	case ferry.Resubscribed:
		return fmt.Sprintf("%s: consuming again", e.Connection)
	case ferry.TopologyRefused:
		return fmt.Sprintf("%s: %s refused a declaration%s", e.Connection, e.Endpoint, because(e.Err))
	}
	return ""
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + strings.ReplaceAll(err.Error(), "\n", "; ")
}
