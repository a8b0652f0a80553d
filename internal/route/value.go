package route

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

func valueOf(v any) (value, error) {
	switch v := v.(type) {
	case nil:
		return value{kind: isVoid}, nil
	case bool:
		n := int64(0)
		if v {
			n = 1
		}
		return value{kind: isBool, int: n}, nil
	case int:
		return ofInt(int64(v)), nil
	case int8:
		return ofInt(int64(v)), nil
	case int16:
		return ofInt(int64(v)), nil
	case int32:
		return ofInt(int64(v)), nil
	case int64:
		return ofInt(v), nil
	case uint8:
		return ofInt(int64(v)), nil
	case uint16:
		return ofInt(int64(v)), nil
	case uint32:
		return ofInt(int64(v)), nil
	case uint:
		return ofUint(uint64(v)), nil
	case uint64:
		return ofUint(v), nil
	case float32:
		return value{kind: isFloat, float: float64(v)}, nil
	case float64:
		return value{kind: isFloat, float: v}, nil
	case time.Time:
		return ofInt(v.Unix()), nil
	case string:
		return value{kind: isText, text: []byte(v)}, nil
	case []byte:
		return value{kind: isText, text: bytes.Clone(v)}, nil
	case message.Decimal, []any, map[string]any:
		return value{kind: isOther, other: v}, nil
	}
	return value{}, fmt.Errorf("a %T cannot be compared", v)
}

func ofInt(n int64) value { return value{kind: isInt, int: n} }

func ofUint(n uint64) value {
	if n <= math.MaxInt64 {
		return ofInt(int64(n))
	}
	return value{kind: isUint, uint: n}
}

// ofEncoded reads a header's value. The text points into v.
func ofEncoded(kind byte, v []byte) (value, bool) {
	be := binary.BigEndian
	switch kind {
	case 'V':
		return value{kind: isVoid}, true
	case 't':
		n := int64(0)
		if v[0] != 0 {
			n = 1
		}
		return value{kind: isBool, int: n}, true
	case 'b':
		return ofInt(int64(int8(v[0]))), true
	case 'B':
		return ofInt(int64(v[0])), true
	case 's':
		return ofInt(int64(int16(be.Uint16(v)))), true
	case 'u':
		return ofInt(int64(be.Uint16(v))), true
	case 'I':
		return ofInt(int64(int32(be.Uint32(v)))), true
	case 'i':
		return ofInt(int64(be.Uint32(v))), true
	case 'l', 'T':
		return ofInt(int64(be.Uint64(v))), true
	case 'f':
		return value{kind: isFloat, float: float64(math.Float32frombits(be.Uint32(v)))}, true
	case 'd':
		return value{kind: isFloat, float: math.Float64frombits(be.Uint64(v))}, true
	case 'S', 'x':
		return value{kind: isText, text: v[4:]}, true
	}
	x, ok := message.Decode(kind, v, 0)
	return value{kind: isOther, other: x}, ok
}

// equal tells whether a header's encoded value is what w asks for.
func (w value) equal(kind byte, v []byte) bool {
	if w.kind == isVoid {
		return true
	}
	got, ok := ofEncoded(kind, v)
	return ok && same(w, got)
}

// same compares two values as Erlang's == does.
func same(a, b value) bool {
	if a.kind == isFloat && b.kind != isFloat {
		a, b = b, a
	}
	if b.kind == isFloat {
		switch a.kind {
		case isFloat:
			return a.float == b.float
		case isInt:
			return b.float >= -1<<63 && b.float < 1<<63 && b.float == math.Trunc(b.float) && int64(b.float) == a.int
		case isUint:
			return b.float >= 0 && b.float < 1<<64 && b.float == math.Trunc(b.float) && uint64(b.float) == a.uint
		}
		return false
	}
	if a.kind != b.kind {
		return false
	}
	switch a.kind {
	case isVoid:
		return true
	case isBool, isInt:
		return a.int == b.int
	case isUint:
		return a.uint == b.uint
	case isText:
		return bytes.Equal(a.text, b.text)
	}
	return sameDeep(a.other, b.other)
}

// sameDeep compares decimals, arrays and tables. Tables are equal when they
// have the same names with the same values, in whatever order.
func sameDeep(a, b any) bool {
	switch a := a.(type) {
	case message.Decimal:
		b, ok := b.(message.Decimal)
		return ok && a == b
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !sameAny(a[i], b[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name := range a {
			if x, ok := b[name]; !ok || !sameAny(a[name], x) {
				return false
			}
		}
		return true
	}
	return false
}

func sameAny(a, b any) bool {
	x, err := valueOf(a)
	if err != nil {
		return false
	}
	y, err := valueOf(b)
	return err == nil && same(x, y)
}
