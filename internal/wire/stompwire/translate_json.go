package stompwire

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/message"
)

// appendJSON appends an encoded header value as JSON: tables as objects in their
// order, arrays, numbers (a timestamp is its seconds since 1970), true, false and
// null. Byte arrays are strings as AppendMessageHeaders has them, and so are
// floats that are no number. What is not UTF-8 in a text becomes U+FFFD.
//
// ok is false for what is damaged, or nests deeper than message.MaxNesting. depth
// is how many tables and arrays the value is in.
func appendJSON(dst []byte, kind byte, value []byte, depth int) (_ []byte, ok bool) {
	switch kind {
	case 'S':
		return appendJSONText(dst, value[4:]), true
	case 'x':
		if b := value[4:]; !isText(b) {
			dst = append(dst, '"')
			return append(base64.StdEncoding.AppendEncode(dst, b), '"'), true
		}
		return appendJSONText(dst, value[4:]), true
	case 'V':
		return append(dst, "null"...), true
	case 'A', 'F':
		if depth == message.MaxNesting {
			return dst, false
		}
		if kind == 'A' {
			return appendJSONArray(dst, value[4:], depth+1)
		}
		return appendJSONObject(dst, value[4:], depth+1)
	case 'f', 'd':
		if !isNumber(kind, value) {
			return append(appendScalar(append(dst, '"'), kind, value), '"'), true
		}
	}
	return appendScalar(dst, kind, value), true
}

func appendJSONArray(dst, list []byte, depth int) (_ []byte, ok bool) {
	dst = append(dst, '[')
	for first := true; len(list) > 0; first = false {
		kind, value, rest, ok := message.NextElement(list)
		if !ok {
			return dst, false
		}
		list = rest
		if !first {
			dst = append(dst, ',')
		}
		if dst, ok = appendJSON(dst, kind, value, depth); !ok {
			return dst, false
		}
	}
	return append(dst, ']'), true
}

func appendJSONObject(dst, list []byte, depth int) (_ []byte, ok bool) {
	dst = append(dst, '{')
	for first := true; len(list) > 0; first = false {
		name, kind, value, rest, ok := message.NextHeader(list)
		if !ok {
			return dst, false
		}
		list = rest
		if !first {
			dst = append(dst, ',')
		}
		dst = append(appendJSONText(dst, name), ':')
		if dst, ok = appendJSON(dst, kind, value, depth); !ok {
			return dst, false
		}
	}
	return append(dst, '}'), true
}

func isNumber(kind byte, value []byte) bool {
	var f float64
	if kind == 'f' {
		f = float64(math.Float32frombits(binary.BigEndian.Uint32(value)))
	} else {
		f = math.Float64frombits(binary.BigEndian.Uint64(value))
	}
	return !math.IsNaN(f) && !math.IsInf(f, 0)
}

// isText tells whether bytes are UTF-8 without controls.
func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == 127 {
			return false
		}
	}
	return utf8.Valid(b)
}

// appendJSONText appends a JSON string.
func appendJSONText(dst, text []byte) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			dst = utf8.AppendRune(dst, utf8.RuneError)
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ':
			dst = append(dst, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			dst = append(dst, text[:n]...)
		}
		text = text[n:]
	}
	return append(dst, '"')
}
