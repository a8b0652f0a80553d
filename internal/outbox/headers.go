package outbox

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// appendHeaders appends a header list of package message, names sorted. Of the
// types that a header may have each comes back as it was, but that int comes
// back as int64, and a time in whole seconds, UTC: that is what a broker
// would have got.
func appendHeaders(dst []byte, headers map[string]any) ([]byte, error) {
	return appendHeaderList(dst, headers, 0)
}

func appendHeaderList(dst []byte, headers map[string]any, depth int) ([]byte, error) {
	if depth > message.MaxNesting {
		return nil, fmt.Errorf("headers nest deeper than %d", message.MaxNesting)
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if len(name) > message.MaxName {
			return nil, fmt.Errorf("the name of a header has %d bytes, at most %d", len(name), message.MaxName)
		}
		dst = append(dst, byte(len(name)))
		dst = append(dst, name...)
		var err error
		if dst, err = appendValue(dst, headers[name], depth); err != nil {
			return nil, fmt.Errorf("header %q: %w", name, err)
		}
	}
	return dst, nil
}

func appendValue(dst []byte, v any, depth int) ([]byte, error) {
	be := binary.BigEndian
	switch v := v.(type) {
	case nil:
		return append(dst, 'V'), nil
	case bool:
		if v {
			return append(dst, 't', 1), nil
		}
		return append(dst, 't', 0), nil
	case int8:
		return append(dst, 'b', byte(v)), nil
	case uint8:
		return append(dst, 'B', v), nil
	case int16:
		return be.AppendUint16(append(dst, 's'), uint16(v)), nil
	case uint16:
		return be.AppendUint16(append(dst, 'u'), v), nil
	case int32:
		return be.AppendUint32(append(dst, 'I'), uint32(v)), nil
	case uint32:
		return be.AppendUint32(append(dst, 'i'), v), nil
	case int64:
		return be.AppendUint64(append(dst, 'l'), uint64(v)), nil
	case int:
		return be.AppendUint64(append(dst, 'l'), uint64(v)), nil
	case float32:
		return be.AppendUint32(append(dst, 'f'), math.Float32bits(v)), nil
	case float64:
		return be.AppendUint64(append(dst, 'd'), math.Float64bits(v)), nil
	case message.Decimal:
		return be.AppendUint32(append(dst, 'D', v.Scale), uint32(v.Value)), nil
	case time.Time:
		return be.AppendUint64(append(dst, 'T'), uint64(v.Unix())), nil
	case string:
		return appendLong(dst, 'S', func(dst []byte) ([]byte, error) { return append(dst, v...), nil })
	case []byte:
		return appendLong(dst, 'x', func(dst []byte) ([]byte, error) { return append(dst, v...), nil })
	case []any:
		return appendLong(dst, 'A', func(dst []byte) (_ []byte, err error) {
			if depth >= message.MaxNesting {
				return nil, fmt.Errorf("arrays nest deeper than %d", message.MaxNesting)
			}
			for _, e := range v {
				if dst, err = appendValue(dst, e, depth+1); err != nil {
					return nil, err
				}
			}
			return dst, nil
		})
	case map[string]any:
		return appendLong(dst, 'F', func(dst []byte) ([]byte, error) { return appendHeaderList(dst, v, depth+1) })
	}
	return nil, fmt.Errorf("a header cannot hold a value of type %T", v)
}

// appendLong appends a kind, and four bytes of length before what inside
// appends.
func appendLong(dst []byte, kind byte, inside func([]byte) ([]byte, error)) ([]byte, error) {
	dst = append(dst, kind, 0, 0, 0, 0)
	start := len(dst)
	dst, err := inside(dst)
	if err != nil {
		return nil, err
	}
	n := len(dst) - start
	if n > MaxFields {
		return nil, fmt.Errorf("%w: a header of %d bytes, at most %d", ErrTooLarge, n, MaxFields)
	}
	binary.BigEndian.PutUint32(dst[start-4:], uint32(n))
	return dst, nil
}

// parseHeaders is the inverse of appendHeaders. Unlike message.DecodeHeaders it
// keeps the widths of integers.
func parseHeaders(list []byte) (map[string]any, bool) { return parseHeaderList(list, 0) }

func parseHeaderList(list []byte, depth int) (map[string]any, bool) {
	if depth > message.MaxNesting {
		return nil, false
	}
	m := map[string]any{}
	for len(list) > 0 {
		name, kind, value, rest, ok := message.NextHeader(list)
		if !ok {
			return nil, false
		}
		v, ok := parseValue(kind, value, depth)
		if !ok {
			return nil, false
		}
		m[string(name)], list = v, rest
	}
	return m, true
}

func parseValue(kind byte, v []byte, depth int) (any, bool) {
	be := binary.BigEndian
	switch kind {
	case 'b':
		return int8(v[0]), true
	case 'B':
		return v[0], true
	case 's':
		return int16(be.Uint16(v)), true
	case 'u':
		return be.Uint16(v), true
	case 'I':
		return int32(be.Uint32(v)), true
	case 'i':
		return be.Uint32(v), true
	case 'f':
		return math.Float32frombits(be.Uint32(v)), true
	case 'x':
		return append([]byte{}, v[4:]...), true
	case 'A':
		return parseArray(v[4:], depth+1)
	case 'F':
		return parseHeaderList(v[4:], depth+1)
	}
	return message.Decode(kind, v, depth)
}

func parseArray(list []byte, depth int) (any, bool) {
	if depth > message.MaxNesting {
		return nil, false
	}
	a := []any{}
	for len(list) > 0 {
		kind, value, rest, ok := message.NextElement(list)
		if !ok {
			return nil, false
		}
		v, ok := parseValue(kind, value, depth)
		if !ok {
			return nil, false
		}
		a, list = append(a, v), rest
	}
	return a, true
}
