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
	return &failure{err: clientError{err}, code: exitCode(err)}
}

// clientError is an error of the client without the package's name, which is this
// program's too, and without words that one who was never connected wonders at.
type clientError struct{ error }

func (p clientError) Error() string { return inPlainWords(p.error) }

// inPlainWords is the text of an error of the client.
func inPlainWords(err error) string {
	text := strings.NewReplacer(
		": "+ferry.ErrConnectionLost.Error()+": connecting", ": connecting",
		": "+ferry.ErrConnectionLost.Error()+": waiting", ": waiting",
		": ferry: ", ": ",
		"(ferry: ", "(",
		"\n", "; ",
	).Replace(strings.TrimPrefix(err.Error(), "ferry: "))
	if errors.Is(err, ferry.ErrNoBroker) && notLetIn(err) {
		text = strings.Replace(text, "no broker is reachable", "no broker lets this client in", 1)
	}
	return text
}

func (p clientError) Unwrap() error { return p.error }

func exitCode(err error) int {
	var left *ferry.UnconfirmedError
	switch {
	case errors.As(err, &left), errors.Is(err, ferry.ErrUnknown), errors.Is(err, ferry.ErrNotSent):
		return exitLeft
	case errors.Is(err, ferry.ErrNoBroker):
		if notLetIn(err) {
			return exitRefused
		}
		return exitNoBroker
	case errors.Is(err, ferry.ErrRefused), errors.Is(err, ferry.ErrAccessRefused), errors.Is(err, ferry.ErrNotFound),
		errors.Is(err, ferry.ErrPrecondition), errors.Is(err, ferry.ErrLocked):
		return exitRefused
	}
	return exitFailed
}

// refusedFailure is of a command some of whose messages were refused; why is why
// the first was.
func refusedFailure(n uint64, why error) error {
	text := ""
	if why != nil {
		text = ": " + inPlainWords(why)
	}
	return &failure{code: exitRefused, err: fmt.Errorf("%d messages were refused%s", n, text)}
}

// notLetIn says that a broker was reached, which refused the login or does not
// know the virtual host.
func notLetIn(err error) bool {
	return errors.Is(err, ferry.ErrAccessRefused) || errors.Is(err, ferry.ErrNotFound)
}

// An eventPrinter tells a person what becomes of a client's connections. Its
// print is for ferry.WithEvents, which calls it from one goroutine.
type eventPrinter struct {
	w    io.Writer
	lost map[string]*outage // by connection, while it is lost
}

// An outage is a connection's that was lost.
type outage struct {
	since time.Time
	told  time.Time // when it was last said that nothing can be reached
}

// tellEvery is how often it is said that still nothing can be reached.
const tellEvery = 10 * time.Second

func (p *eventPrinter) print(e ferry.Event) {
	if line := p.line(e); line != "" {
		fmt.Fprintf(p.w, "%s %s\n", e.Time.Local().Format(time.TimeOnly), line)
	}
}

// line says an event in words, empty if it is not worth any.
func (p *eventPrinter) line(e ferry.Event) string {
	if p.lost == nil {
		p.lost = map[string]*outage{}
	}
	lost := p.lost[e.Connection]
	switch e.Kind {
	case ferry.Connected:
		delete(p.lost, e.Connection)
		if lost == nil {
			return fmt.Sprintf("%s: connected to %s", e.Connection, e.Endpoint)
		}
		return fmt.Sprintf("%s: connected to %s after %.2f s", e.Connection, e.Endpoint, e.Time.Sub(lost.since).Seconds())
	case ferry.Disconnected:
		p.lost[e.Connection] = &outage{since: e.Time}
		return fmt.Sprintf("%s: connection to %s lost%s", e.Connection, e.Endpoint, because(e.Err))
	case ferry.Retrying:
		if lost == nil {
			lost = &outage{since: e.Time}
			p.lost[e.Connection] = lost
		}
		if !lost.told.IsZero() && e.Time.Sub(lost.told) < tellEvery {
			return ""
		}
		lost.told = e.Time
		if notLetIn(e.Err) {
			return fmt.Sprintf("%s: no broker lets this client in, trying again%s", e.Connection, because(e.Err))
		}
		return fmt.Sprintf("%s: no broker is reachable, trying again%s", e.Connection, because(e.Err))
	case ferry.Blocked:
		return fmt.Sprintf("%s: %s takes no messages for now%s", e.Connection, e.Endpoint, because(e.Err))
	case ferry.Unblocked:
		return fmt.Sprintf("%s: %s takes messages again", e.Connection, e.Endpoint)
	case ferry.FailedBack:
		return fmt.Sprintf("%s: back on %s, the first of the list", e.Connection, e.Endpoint)
	case ferry.ConsumerCancelled:
		if errors.Is(e.Err, ferry.ErrConnectionLost) {
			return "" // which is said by itself
		}
		return fmt.Sprintf("%s: the broker cancelled a consumer%s", e.Connection, because(e.Err))
	case ferry.Resubscribed:
		return fmt.Sprintf("%s: consuming again", e.Connection)
	case ferry.TopologyRefused:
		return fmt.Sprintf("%s: %s refused a declaration%s", e.Connection, e.Endpoint, because(e.Err))
	}
	return ""
}

// because is why, in one line, without what was just said.
func because(err error) string {
	if err == nil {
		return ""
	}
	why := err.Error()
	for _, said := range []error{ferry.ErrNoBroker, ferry.ErrConnectionLost} {
		why = strings.ReplaceAll(why, said.Error()+": ", "")
	}
	return ": " + strings.ReplaceAll(strings.TrimPrefix(why, "ferry: "), "\n", "; ")
}
