package route

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ferrymq/ferry/internal/message"
)

// ErrBinding is what the errors of ParseHeadersArgs wrap: the arguments of a
// binding that no headers exchange accepts.
var ErrBinding = errors.New("binding arguments are not valid")

// HeadersMatcher is the arguments of a binding to a headers exchange, made
// ready for matching. It is not changed after it was parsed.
type HeadersMatcher struct {
	any    bool    // one field is enough
	fields []field // ascending by name
}

type field struct {
	name  string
	value value
}

// ParseHeadersArgs reads the arguments of a binding. `x-match` is `all` (also
// when it is missing), `any`, `all-with-x` or `any-with-x`; with the first two
// every argument whose name begins with `x-` is left out, with the others only
// x-match itself is. Values are those that message.Decode gives, or Go's other
// integers and floats.
//
// The error wraps ErrBinding; its text is RabbitMQ's, for the client to see.
func ParseHeadersArgs(args map[string]any) (HeadersMatcher, error) {
	var m HeadersMatcher
	withX := false
	if v, ok := args["x-match"]; ok {
		s, isText := v.(string)
		if !isText {
			return m, fmt.Errorf("%w: Invalid x-match field type %T (value %.64q); expected longstr",
				ErrBinding, v, fmt.Sprint(v))
		}
		switch s {
		case "all":
		case "any":
			m.any = true
		case "all-with-x":
			withX = true
		case "any-with-x":
			m.any, withX = true, true
		default:
			return m, fmt.Errorf("%w: Invalid x-match field value %.64q; expected all, any, all-with-x, or any-with-x",
				ErrBinding, s)
		}
	}
	for name, v := range args {
		if name == "x-match" || !withX && strings.HasPrefix(name, "x-") {
			continue
		}
		want, err := valueOf(v)
		if err != nil {
			return m, fmt.Errorf("%w: argument %.64q: %w", ErrBinding, name, err)
		}
		m.fields = append(m.fields, field{name, want})
	}
	slices.SortFunc(m.fields, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	return m, nil
}

// Match tells whether a message with these headers (a header list, see package
// message; nil for none) is wanted. An argument without a value asks only that
// the header is there. Of a header that is there twice the first counts. Without
// arguments `all` matches every message and `any` none. What follows a damage in
// the list is not seen.
//
// It does not allocate for texts, numbers, times and truth values, with up to
// 64 arguments.
func (m HeadersMatcher) Match(headers []byte) bool {
	missing := len(m.fields)
	if missing == 0 {
		return !m.any
	}
	var few [1]uint64
	seen := few[:]
	if missing > 64 {
		seen = make([]uint64, (missing+63)/64)
	}
	for list := headers; missing > 0; {
		name, kind, v, rest, ok := message.NextHeader(list)
		if !ok {
			return false
		}
		list = rest
		i, ok := m.find(name)
		if !ok || seen[i/64]&(1<<(i%64)) != 0 {
			continue
		}
		seen[i/64] |= 1 << (i % 64)
		missing--
		switch equal := m.fields[i].value.equal(kind, v); {
		case equal && m.any:
			return true
		case !equal && !m.any:
			return false
		}
	}
	return !m.any
}

// HeadersMatch is ParseHeadersArgs and Match in one, for arguments that are
// used once. Arguments that do not parse match nothing.
func HeadersMatch(args map[string]any, headers []byte) bool {
	m, err := ParseHeadersArgs(args)
	return err == nil && m.Match(headers)
}

func (m HeadersMatcher) find(name []byte) (int, bool) {
	if len(m.fields) <= 8 {
		for i := range m.fields {
			if m.fields[i].name == string(name) {
				return i, true
			}
		}
		return 0, false
	}
	return slices.BinarySearchFunc(m.fields, name, func(f field, name []byte) int {
		switch { // none of these conversions allocates
		case f.name < string(name):
			return -1
		case f.name > string(name):
			return 1
		}
		return 0
	})
}

// value is what an argument asks for. RabbitMQ compares the values that came
// over the wire with Erlang's ==, not looking at the kinds they came in: 1
// equals 1.0 and the time 1, a text equals the same bytes as binary, but true
// is not 1.
type value struct {
	kind  valueKind
	int   int64
	uint  uint64 // beyond int64
	float float64
	text  []byte
	other any // decimal, array or table, as Decode gives them
}

type valueKind uint8

const (
	isVoid valueKind = iota // anything will do
	isBool
	isInt
	isUint
	isFloat
	isText
	isOther
)
