package message

import (
	"encoding/binary"
	"math"
	"time"
)

// MaxNesting is how deep header lists and arrays may nest.
const MaxNesting = 32

// Decimal is an exact decimal number: Value / 10^Scale.
type Decimal struct {
	Scale uint8
	Value int32
}

// NextHeader takes the first header off a list. value is the encoded value
// without its kind. ok is false at the end, and when the list is damaged.
func NextHeader(list []byte) (name []byte, kind byte, value, rest []byte, ok bool) {
	if len(list) < 2 {
		return nil, 0, nil, nil, false
	}
	n := int(list[0])
	if len(list) < 2+n {
		return nil, 0, nil, nil, false
	}
	name, kind = list[1:1+n], list[1+n]
	size, ok := valueSize(kind, list[2+n:])
	if !ok {
		return nil, 0, nil, nil, false
	}
	at := 2 + n
	return name, kind, list[at : at+size], list[at+size:], true
}

// NextElement takes the first value off the inside of an array.
func NextElement(list []byte) (kind byte, value, rest []byte, ok bool) {
	if len(list) < 1 {
		return 0, nil, nil, false
	}
	size, ok := valueSize(list[0], list[1:])
	if !ok {
		return 0, nil, nil, false
	}
	return list[0], list[1 : 1+size], list[1+size:], true
}

// valueSize is the number of bytes that a value of the given kind takes at the
// start of b; for kinds with a length that length is included.
func valueSize(kind byte, b []byte) (int, bool) {
	n := 0
	switch kind {
	case 'V':
	case 't', 'b', 'B':
		n = 1
	case 's', 'u':
		n = 2
	case 'I', 'i', 'f':
		n = 4
	case 'D':
		n = 5
	case 'l', 'd', 'T':
		n = 8
	case 'S', 'x', 'A', 'F':
		if len(b) < 4 {
			return 0, false
		}
		u := binary.BigEndian.Uint32(b)
		if uint64(u) > uint64(len(b)-4) {
			return 0, false
		}
		n = 4 + int(u)
	default:
		return 0, false
	}
	return n, n <= len(b)
}

// Header returns the decoded value of the first header of that name.
func Header(list []byte, name string) (any, bool) {
	for {
		n, kind, v, rest, ok := NextHeader(list)
		if !ok {
			return nil, false
		}
		if string(n) == name {
			return Decode(kind, v, 0)
		}
		list = rest
	}
}

// Decode turns an encoded value into a Go value: nil, bool, int64, uint64 (only
// where int64 cannot hold it), float64, Decimal, string, []byte, time.Time,
// []any or map[string]any. Integers of all widths become int64, so that equal
// numbers compare equal. v is what NextHeader or NextElement gave, and depth how
// many lists and arrays it is in, the whole list apart. ok is false when
// something in it is damaged or nests deeper than MaxNesting.
func Decode(kind byte, v []byte, depth int) (any, bool) {
	if depth >= MaxNesting && (kind == 'A' || kind == 'F') {
		return nil, false
	}
	be := binary.BigEndian
	switch kind {
	case 'V':
		return nil, true
	case 't':
		return v[0] != 0, true
	case 'b':
		return int64(int8(v[0])), true
	case 'B':
		return int64(v[0]), true
	case 's':
		return int64(int16(be.Uint16(v))), true
	case 'u':
		return int64(be.Uint16(v)), true
	case 'I':
		return int64(int32(be.Uint32(v))), true
	case 'i':
		return int64(be.Uint32(v)), true
	case 'l':
		return int64(be.Uint64(v)), true
	case 'f':
		return float64(math.Float32frombits(be.Uint32(v))), true
	case 'd':
		return math.Float64frombits(be.Uint64(v)), true
	case 'D':
		return Decimal{v[0], int32(be.Uint32(v[1:]))}, true
	case 'T':
		return time.Unix(int64(be.Uint64(v)), 0).UTC(), true
	case 'S':
		return string(v[4:]), true
	case 'x':
		return append([]byte(nil), v[4:]...), true
	case 'A':
		out := []any{}
		for list := v[4:]; len(list) > 0; {
			k, e, rest, ok := NextElement(list)
			if !ok {
				return nil, false
			}
			x, ok := Decode(k, e, depth+1)
			if !ok {
				return nil, false
			}
			out, list = append(out, x), rest
		}
		return out, true
	case 'F':
		return decodeList(v[4:], depth+1)
	}
	return nil, false
}

// DecodeHeaders turns a whole header list into a map, of the values that
// Decode gives. ok is false when the list is damaged or nests too deep.
func DecodeHeaders(list []byte) (map[string]any, bool) {
	m, ok := decodeList(list, 0)
	if !ok {
		return nil, false
	}
	return m.(map[string]any), true
}

func decodeList(list []byte, depth int) (any, bool) {
	out := map[string]any{}
	for len(list) > 0 {
		n, k, e, rest, ok := NextHeader(list)
		if !ok {
			return nil, false
		}
		x, ok := Decode(k, e, depth)
		if !ok {
			return nil, false
		}
		out[string(n)], list = x, rest
	}
	return out, true
}
