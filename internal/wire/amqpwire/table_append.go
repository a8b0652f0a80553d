package amqpwire

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"time"
)

// AppendTable appends a field table with its four bytes of length, names sorted.
// A name over MaxShortString, a type that Table does not list, nesting deeper
// than MaxNesting and more than MaxElements are errors.
func AppendTable(dst []byte, t Table) ([]byte, error) {
	out, err := appendTable(dst, t)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// AppendHeadersFromTable appends the table as a header list of package message:
// the inside of the field table, without the length.
func AppendHeadersFromTable(dst []byte, t Table) ([]byte, error) {
	w := tableWriter{dst: dst, left: MaxElements}
	w.fields(t, 0)
	if w.err != nil {
		return dst, w.err
	}
	return w.dst, nil
}

func appendTable(dst []byte, t Table) ([]byte, *Error) {
	w := tableWriter{dst: dst, left: MaxElements}
	w.table(t, 0)
	if w.err != nil {
		return dst, w.err
	}
	return w.dst, nil
}

// tableWriter appends one outermost table. Its first error stays.
type tableWriter struct {
	dst  []byte
	left int // elements that may still be written
	err  *Error
}

func (w *tableWriter) fail(err *Error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *tableWriter) table(t Table, depth int) {
	start := w.begin()
	w.fields(t, depth)
	w.end(start)
}

// begin leaves room for a length that end fills in.
func (w *tableWriter) begin() (start int) {
	w.dst = append(w.dst, 0, 0, 0, 0)
	return len(w.dst)
}

func (w *tableWriter) end(start int) {
	n := len(w.dst) - start
	if err := checkLong(n); err != nil {
		w.fail(err)
		return
	}
	binary.BigEndian.PutUint32(w.dst[start-4:], uint32(n))
}

func (w *tableWriter) fields(t Table, depth int) {
	if depth > MaxNesting {
		w.fail(faultNesting(InternalError))
		return
	}
	if len(t) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if len(name) > MaxShortString {
			w.fail(faultLong(len(name)))
			return
		}
		w.dst = append(w.dst, byte(len(name)))
		w.dst = append(w.dst, name...)
		w.value(t[name], depth)
		if w.err != nil {
			return
		}
	}
}

func (w *tableWriter) array(a []any, depth int) {
	if depth > MaxNesting {
		w.fail(faultNesting(InternalError))
		return
	}
	start := w.begin()
	for _, v := range a {
		w.value(v, depth)
		if w.err != nil {
			return
		}
	}
	w.end(start)
}

func (w *tableWriter) value(v any, depth int) {
	if w.left == 0 {
		w.fail(faultElements(InternalError))
		return
	}
	w.left--
	be := binary.BigEndian
	switch v := v.(type) {
	case nil:
		w.dst = append(w.dst, 'V')
	case bool:
		if v {
			w.dst = append(w.dst, 't', 1)
		} else {
			w.dst = append(w.dst, 't', 0)
		}
	case int8:
		w.dst = append(w.dst, 'b', byte(v))
	case uint8:
		w.dst = append(w.dst, 'B', v)
	case int16:
		w.dst = be.AppendUint16(append(w.dst, 's'), uint16(v))
	case uint16:
		w.dst = be.AppendUint16(append(w.dst, 'u'), v)
	case int32:
		w.dst = be.AppendUint32(append(w.dst, 'I'), uint32(v))
	case uint32:
		w.dst = be.AppendUint32(append(w.dst, 'i'), v)
	case int64:
		w.dst = be.AppendUint64(append(w.dst, 'l'), uint64(v))
	case int:
		w.dst = be.AppendUint64(append(w.dst, 'l'), uint64(v))
	case float32:
		w.dst = be.AppendUint32(append(w.dst, 'f'), math.Float32bits(v))
	case float64:
		w.dst = be.AppendUint64(append(w.dst, 'd'), math.Float64bits(v))
	case Decimal:
		w.dst = be.AppendUint32(append(w.dst, 'D', v.Scale), uint32(v.Value))
	case time.Time:
		w.dst = be.AppendUint64(append(w.dst, 'T'), uint64(v.Unix()))
	case string:
		w.text('S', v)
	case []byte:
		w.dst = append(w.dst, 'x')
		start := w.begin()
		w.dst = append(w.dst, v...)
		w.end(start)
	case []any:
		w.dst = append(w.dst, 'A')
		w.array(v, depth+1)
	case Table:
		w.dst = append(w.dst, 'F')
		w.table(v, depth+1)
	case map[string]any:
		w.dst = append(w.dst, 'F')
		w.table(v, depth+1)
	default:
		w.fail(fault(InternalError, "a table cannot hold a value of type %T", v))
	}
}

func (w *tableWriter) text(kind byte, s string) {
	w.dst = append(w.dst, kind)
	start := w.begin()
	w.dst = append(w.dst, s...)
	w.end(start)
}
