package amqpwire

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// Table is a field table (AMQP 0-9-1 §4.2.5.5). Its values are of these types,
// with the letters of RabbitMQ's errata:
//
//	nil V, bool t, int8 b, uint8 B, int16 s, uint16 u, int32 I, uint32 i,
//	int64 l, float32 f, float64 d, Decimal D, string S, []byte x,
//	time.Time T (seconds), []any A, Table F
//
// An encoder also takes int as int64 and map[string]any as Table. Where a name
// occurs twice the last one counts. Texts need not be valid UTF-8.
type Table map[string]any

// Decimal is an exact decimal number, Value / 10^Scale.
type Decimal = message.Decimal

// MaxNesting is how deep tables and arrays may nest in a table.
const MaxNesting = message.MaxNesting

// ParseTable decodes a field table, its four bytes of length included, and
// returns what is behind it. Nesting deeper than MaxNesting and more than
// MaxElements are a SYNTAX_ERROR, and so is an unknown type.
func ParseTable(b []byte) (t Table, rest []byte, err error) {
	t, rest, e := parseTable(b)
	if e != nil {
		return nil, nil, e
	}
	return t, rest, nil
}

// TableFromHeaders decodes a header list of package message, which is the inside
// of a field table. The limits are those of ParseTable.
func TableFromHeaders(list []byte) (Table, error) {
	p := tableParser{left: MaxElements}
	t, err := p.table(list, 0)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func parseTable(b []byte) (t Table, rest []byte, err *Error) {
	inside, rest, err := cutLong(b, "table")
	if err != nil {
		return nil, nil, err
	}
	p := tableParser{left: MaxElements}
	t, err = p.table(inside, 0)
	if err != nil {
		return nil, nil, err
	}
	return t, rest, nil
}

// cutLong takes off four bytes of length and that many bytes.
func cutLong(b []byte, what string) (inside, rest []byte, err *Error) {
	if len(b) < 4 {
		return nil, nil, faultShort("length of " + what)
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return nil, nil, faultShort(what)
	}
	return b[:n:n], b[n:], nil
}

// cutName takes the name of a field off the inside of a table.
func cutName(b []byte) (name, rest []byte, err *Error) {
	n := int(b[0])
	if len(b) < 1+n {
		return nil, nil, faultShort("name of a table's field")
	}
	return b[1 : 1+n], b[1+n:], nil
}

// cutValue takes a type and a value off b. Of types with a length the value is
// without that.
func cutValue(b []byte) (kind byte, value, rest []byte, err *Error) {
	if len(b) == 0 {
		return 0, nil, nil, faultShort("type of a table's value")
	}
	kind, b = b[0], b[1:]
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
	case 'l', 'L', 'd', 'T':
		n = 8
	case 'S', 'x', 'A', 'F':
		value, rest, err = cutLong(b, "a table's value")
		return kind, value, rest, err
	default:
		return 0, nil, nil, fault(SyntaxError, "unknown type 0x%02X of a table's value", kind)
	}
	if len(b) < n {
		return 0, nil, nil, faultShort("a table's value")
	}
	return kind, b[:n], b[n:], nil
}

// tableParser decodes one outermost table; left is how many more elements it
// may hold.
type tableParser struct{ left int }

func (p *tableParser) count() *Error {
	if p.left == 0 {
		return faultElements(SyntaxError)
	}
	p.left--
	return nil
}

func faultElements(code uint16) *Error {
	return fault(code, "table of more than %d elements", MaxElements)
}

func faultNesting(code uint16) *Error {
	return fault(code, "table nested deeper than %d", MaxNesting)
}

func (p *tableParser) table(list []byte, depth int) (Table, *Error) {
	if depth > MaxNesting {
		return nil, faultNesting(SyntaxError)
	}
	t := Table{}
	for len(list) > 0 {
		name, rest, err := cutName(list)
		if err != nil {
			return nil, err
		}
		v, rest, err := p.value(rest, depth)
		if err != nil {
			return nil, err
		}
		t[string(name)], list = v, rest
	}
	return t, nil
}

func (p *tableParser) array(list []byte, depth int) ([]any, *Error) {
	if depth > MaxNesting {
		return nil, faultNesting(SyntaxError)
	}
	a := []any{}
	for len(list) > 0 {
		v, rest, err := p.value(list, depth)
		if err != nil {
			return nil, err
		}
		a, list = append(a, v), rest
	}
	return a, nil
}

func (p *tableParser) value(b []byte, depth int) (v any, rest []byte, err *Error) {
	if err := p.count(); err != nil {
		return nil, nil, err
	}
	kind, value, rest, err := cutValue(b)
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case 'A':
		v, err = p.array(value, depth+1)
	case 'F':
		v, err = p.table(value, depth+1)
	default:
		v = scalar(kind, value)
	}
	if err != nil {
		return nil, nil, err
	}
	return v, rest, nil
}

// scalar decodes a value that cutValue gave.
func scalar(kind byte, v []byte) any {
	be := binary.BigEndian
	switch kind {
	case 't':
		return v[0] != 0
	case 'b':
		return int8(v[0])
	case 'B':
		return v[0]
	case 's':
		return int16(be.Uint16(v))
	case 'u':
		return be.Uint16(v)
	case 'I':
		return int32(be.Uint32(v))
	case 'i':
		return be.Uint32(v)
	case 'l', 'L':
		return int64(be.Uint64(v))
	case 'f':
		return math.Float32frombits(be.Uint32(v))
	case 'd':
		return math.Float64frombits(be.Uint64(v))
	case 'D':
		return Decimal{Scale: v[0], Value: int32(be.Uint32(v[1:]))}
	case 'T':
		return time.Unix(int64(be.Uint64(v)), 0).UTC()
	case 'S':
		return string(v)
	case 'x':
		return append([]byte{}, v...)
	}
	return nil // 'V'
}
