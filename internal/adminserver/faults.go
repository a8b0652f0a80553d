package adminserver

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/broker"
)

// publishFault is the answer to a publish that failed: RabbitMQ says so of all of
// them as if AMQP had been refused.
func publishFault(err error) error {
	var e *broker.Error
	if !errors.As(err, &e) {
		return err
	}
	text := cutTo(e.Text, 4*echoMost)
	switch e.Kind {
	case broker.NotFound:
		return badRequest("404 NOT_FOUND - %s", text)
	case broker.AccessRefused:
		return badRequest("403 ACCESS_REFUSED - %s", text)
	case broker.PreconditionFailed, broker.TooLarge:
		return badRequest("406 PRECONDITION_FAILED - %s", text)
	default:
		return err
	}
}

// messageFault is that to what else is done with messages.
func messageFault(err error) error {
	var e *broker.Error
	if errors.As(err, &e) {
		switch e.Kind {
		case broker.NotFound:
			return &fault{http.StatusNotFound, "not_found", "NOT_FOUND - " + cutTo(e.Text, 4*echoMost)}
		case broker.PreconditionFailed:
			return badRequest("406 PRECONDITION_FAILED - %s", cutTo(e.Text, 4*echoMost))
		default:
		}
	}
	return err
}

// viewFault is that to a list that cannot be made.
func viewFault(err error) error {
	var r *broker.RangeError
	if errors.As(err, &r) {
		return &fault{http.StatusBadRequest, "page_out_of_range", fmt.Sprintf(
			"Page out of range, page: %d page size: %d, len: %d", r.Page, r.Size, r.Len)}
	}
	return err
}

// cutChannel takes the name of a connection out of that of a channel: "NAME (1)".
func cutChannel(name string) (connection string, ok bool) {
	name, ok = strings.CutSuffix(name, ")")
	i := strings.LastIndex(name, " (")
	if !ok || i < 0 {
		return "", false
	}
	if _, err := strconv.ParseUint(name[i+2:], 10, 16); err != nil {
		return "", false
	}
	return name[:i], true
}

// printable is a text of a peer's without what a terminal or a log would act on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
