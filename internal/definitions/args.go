package definitions

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// AppendArgs appends a JSON object, as Decode gives it, as a header list. The kinds
// of its values are those that RabbitMQ gives them: an integer is a long, any other
// number a double, a text a longstr. The headers come in the order of their names,
// so that equal objects are equal lists. Errors: null, which no argument may be, a
// name over 255 bytes, a number beyond 64 bits, and more than message.MaxNesting
// lists in each other.
func AppendArgs(dst []byte, args map[string]any) ([]byte, error) {
	return appendList(dst, args, 0)
}

func appendList(dst []byte, args map[string]any, depth int) ([]byte, error) {
	var err error
	for _, name := range slices.Sorted(maps.Keys(args)) {
		if len(name) > message.MaxName {
			return nil, fmt.Errorf("the name of an argument has %d bytes; it may have %d", len(name), message.MaxName)
		}
		dst = append(dst, byte(len(name)))
		dst = append(dst, name...)
		if dst, err = appendValue(dst, args[name], depth); err != nil {
			return nil, fmt.Errorf("argument %.64q: %w", name, err)
		}
	}
	return dst, nil
}

func appendValue(dst []byte, v any, depth int) ([]byte, error) {
	if depth >= message.MaxNesting {
		return nil, fmt.Errorf("it nests deeper than %d", message.MaxNesting)
	}
	switch v := v.(type) {
	case bool:
		if v {
			return append(dst, 't', 1), nil
		}
		return append(dst, 't', 0), nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return binary.BigEndian.AppendUint64(append(dst, 'l'), uint64(n)), nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, fmt.Errorf("the number %.64q is too large", v.String())
		}
		return binary.BigEndian.AppendUint64(append(dst, 'd'), math.Float64bits(f)), nil
	case string:
		dst = binary.BigEndian.AppendUint32(append(dst, 'S'), uint32(len(v)))
		return append(dst, v...), nil
	case []any:
		at := len(dst) + 1
		dst = append(dst, 'A', 0, 0, 0, 0)
		var err error
		for _, e := range v {
			if dst, err = appendValue(dst, e, depth+1); err != nil {
				return nil, err
			}
		}
		binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
		return dst, nil
	case map[string]any:
		at := len(dst) + 1
		dst = append(dst, 'F', 0, 0, 0, 0)
		dst, err := appendList(dst, v, depth+1)
		if err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
		return dst, nil
	case nil:
		return nil, fmt.Errorf("null is no value")
	}
	return nil, fmt.Errorf("a value of type %T cannot be one", v)
}

// Args is a header list as a JSON object, never nil. What is damaged in it is left
// out.
func Args(list []byte) map[string]any {
	m, ok := message.DecodeHeaders(list)
	if !ok {
		m = map[string]any{}
	}
	for name, v := range m {
		m[name] = plain(v)
	}
	return m
}

// plain is a decoded value as JSON has it.
func plain(v any) any {
	switch v := v.(type) {
	case message.Decimal:
		return float64(v.Value) / math.Pow10(int(v.Scale))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v) // JSON has no such number
		}
		return v
	case time.Time:
		return v.Unix()
	case []byte:
		return string(v)
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = plain(v[name])
		}
	}
	return v
}
