package adminserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of what a request may carry, bytes.
const (
	bodyMost = 1 << 20
	// bulkBodyMost is for definitions. A message's may have as much as payloadShare
	// times the largest that the broker takes, for base64 and JSON's escapes, and
	// bodyMost beside.
	bulkBodyMost = 128 << 20
	payloadShare = 2
	// heavyMost is how many requests with such bodies are at work at once; the others
	// wait.
	heavyMost = 4
	// nestMost is how deep JSON may nest, and valuesMost how many values it may have:
	// decoded, each takes some fifty times the two bytes that it takes in a request.
	nestMost   = 64
	valuesMost = 1 << 16
)

// fields are the members of the JSON object that a request carries. An empty body
// stands for an empty object.
type fields map[string]any

// readBody takes in what a request carries, up to a limit.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &fault{http.StatusRequestEntityTooLarge, "payload_too_large", "a request to this may have " + strconv.FormatInt(most, 10) + " bytes"}
	case err != nil:
		return nil, badRequest("the request is incomplete")
	}
	return body, nil
}

func parseFields(body []byte) (fields, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return fields{}, nil
	}
	v, err := parseJSON(body)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, badRequest("not_json")
	}
	return m, nil
}

// parseJSON parses a body that is one JSON value, of valid UTF-8, not nested deeply.
// Numbers are json.Number.
func parseJSON(body []byte) (any, error) {
	depth, values := nesting(body)
	switch {
	case !utf8.Valid(body) || depth > nestMost:
		return nil, badRequest("not_json")
	case values > valuesMost:
		return nil, badRequest("the request has more than %d values", valuesMost)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil, badRequest("not_json")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, badRequest("not_json")
	}
	return v, nil
}

// nesting is how deep the lists and objects of a JSON text nest, and how many values
// it has, about.
func nesting(text []byte) (most, values int) {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ',':
			values++
		case c == '{', c == '[':
			values++
			depth++
			most = max(most, depth)
		case c == '}', c == ']':
			depth--
		}
	}
	return most, values
}

// need is the fault of a body that lacks some of its members, nil if it has them.
func (f fields) need(names ...string) error {
	var missing []string
	for _, name := range names {
		if v, ok := f[name]; !ok || v == nil {
			missing = append(missing, "{key_missing,"+name+"}")
		}
	}
	if missing == nil {
		return nil
	}
	return badRequest("[%s]", strings.Join(missing, ",\n "))
}

// text is a member that is a text, "" if it is not there.
func (f fields) text(name string) (string, error) {
	switch v := f[name].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	default:
		return "", badValue("not_string", name)
	}
}

// truth is a member that is a boolean, also one in quotes; false if it is not there.
func (f fields) truth(name string) (bool, error) {
	switch v := f[name].(type) {
	case nil:
		return false, nil
	case bool:
		return v, nil
	case string:
		switch v {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, badValue("not_boolean", f[name])
}

// number is a member that is an integer, also one in quotes.
func (f fields) number(name string) (n int64, err error) {
	switch v := f[name].(type) {
	case json.Number:
		n, err = v.Int64()
	case string:
		n, err = strconv.ParseInt(v, 10, 64)
	default:
		err = strconv.ErrSyntax
	}
	if err != nil {
		return 0, badValue("not_integer", f[name])
	}
	return n, nil
}

// object is a member that is an object, empty if it is not there.
func (f fields) object(name string) (map[string]any, error) {
	switch v := f[name].(type) {
	case nil:
		return map[string]any{}, nil
	case map[string]any:
		return v, nil
	case []any:
		if len(v) == 0 { // as some clients write an empty object
			return map[string]any{}, nil
		}
	}
	return nil, badValue("not_object", name)
}
