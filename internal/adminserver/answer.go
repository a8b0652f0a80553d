package adminserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"

	"github.com/ferrymq/ferry/internal/broker"
)

// object is a JSON object of an answer.
type object = map[string]any

// echoMost is how many bytes of what a peer sent are repeated to it in an error.
const echoMost = 256

// A fault is why a request is refused, as RabbitMQ's management API says it.
type fault struct {
	code   int
	kind   string // "error"
	reason any    // a text, or a list of them
}

func (f *fault) Error() string { return fmt.Sprint(f.code, " ", f.kind, ": ", f.reason) }

func badRequest(format string, args ...any) *fault {
	return &fault{http.StatusBadRequest, "bad_request", fmt.Sprintf(format, args...)}
}

// badValue is a value that is not what its name says: ["not_boolean","maybe"].
func badValue(what string, value any) *fault {
	if s, ok := value.(string); ok {
		value = cut(s)
	} else if b, err := json.Marshal(value); err != nil || len(b) > echoMost {
		value = "…"
	}
	return &fault{http.StatusBadRequest, "bad_request", []any{what, value}}
}

// cut is as much of a text as is repeated to who sent it.
func cut(s string) string {
	if len(s) <= echoMost {
		return s
	}
	return s[:echoMost] + "…"
}

func notFound() *fault { return &fault{http.StatusNotFound, "Object Not Found", "Not Found"} }

// notAuthorised is for somebody who has logged in. RabbitMQ writes it with an s here
// and with a z where nobody has.
func notAuthorised(reason string) *fault {
	return &fault{http.StatusUnauthorized, "not_authorised", reason}
}

// asFault is the answer to a call of the broker that failed.
func asFault(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	var e *broker.Error
	if !errors.As(err, &e) {
		return &fault{http.StatusBadRequest, "bad_request", cutTo(err.Error(), 4<<10)}
	}
	text := cutTo(e.Text, 4<<10)
	switch e.Kind {
	case broker.NotFound:
		return &fault{http.StatusNotFound, "not_found", text}
	case broker.AccessRefused:
		return notAuthorised("ACCESS_REFUSED - " + text)
	case broker.Internal, broker.Forced:
		return &fault{http.StatusServiceUnavailable, "unavailable", text}
	case broker.ResourceLocked:
		return badRequest("405 RESOURCE_LOCKED - %s", text)
	case broker.PreconditionFailed, broker.NotAllowed, broker.NotImplemented, broker.Invalid, broker.NoRoute, broker.TooLarge:
	}
	return &fault{http.StatusBadRequest, "bad_request", text}
}

func cutTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

// fail answers with a fault.
func fail(w http.ResponseWriter, f *fault) {
	answer(w, f.code, object{"error": f.kind, "reason": f.reason})
}

// answer writes a JSON value.
func answer(w http.ResponseWriter, code int, v any) {
	body := appendJSON(nil, v)
	header(w)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) // the peer has gone
}

func header(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
}

// chunk is how much of a list is gathered before it is written, bytes.
const chunk = 64 << 10

// stream writes a JSON array, some elements at a time.
func stream(w http.ResponseWriter, items iter.Seq[object]) {
	header(w)
	out := make([]byte, 0, chunk+chunk/4)
	out = append(out, '[')
	first := true
	for item := range items {
		if !first {
			out = append(out, ',')
		}
		first = false
		out = appendObject(out, item)
		if len(out) >= chunk {
			if _, err := w.Write(out); err != nil {
				return // the peer has gone
			}
			out = out[:0]
		}
	}
	_, _ = w.Write(append(out, ']'))
}
