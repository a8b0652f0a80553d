package amqpwire

import (
	"encoding/binary"
	"math"
)

// reader takes the fields of a method off its payload (AMQP 0-9-1 §4.2.5). Its
// first error stays; from then on it gives zero values.
type reader struct {
	b   []byte
	err *Error
}

func (r *reader) take(n uint64, what string) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.b)) {
		r.err = faultShort(what)
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) uint8() uint8 {
	if v := r.take(1, "octet"); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if v := r.take(2, "short integer"); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if v := r.take(4, "long integer"); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if v := r.take(8, "long long integer"); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// bits reads the octet that up to eight consecutive bits share, lowest first
// (§4.2.5.2).
func (r *reader) bits(to ...*bool) {
	v := r.uint8()
	for i, p := range to {
		*p = v>>i&1 != 0
	}
}

func (r *reader) short() string {
	return string(r.take(uint64(r.uint8()), "short string"))
}

// long reads a long string: the length is compared with what is there before a
// byte is allocated.
func (r *reader) long() []byte {
	v := r.take(uint64(r.uint32()), "long string")
	if len(v) == 0 {
		return nil
	}
	return append([]byte(nil), v...)
}

func (r *reader) longString() string {
	return string(r.take(uint64(r.uint32()), "long string"))
}

func (r *reader) table() Table {
	if r.err != nil {
		return nil
	}
	t, rest, err := parseTable(r.b)
	r.b, r.err = rest, err
	return t
}

// writer appends the fields of a method. Its first error stays.
type writer struct {
	dst []byte
	err *Error
}

func (w *writer) uint8(v uint8)   { w.dst = append(w.dst, v) }
func (w *writer) uint16(v uint16) { w.dst = binary.BigEndian.AppendUint16(w.dst, v) }
func (w *writer) uint32(v uint32) { w.dst = binary.BigEndian.AppendUint32(w.dst, v) }
func (w *writer) uint64(v uint64) { w.dst = binary.BigEndian.AppendUint64(w.dst, v) }

func (w *writer) bits(from ...bool) {
	var v uint8
	for i, set := range from {
		if set {
			v |= 1 << i
		}
	}
	w.uint8(v)
}

func (w *writer) short(s string) {
	if len(s) > MaxShortString {
		w.fail(faultLong(len(s)))
		return
	}
	w.dst = append(w.dst, byte(len(s)))
	w.dst = append(w.dst, s...)
}

func (w *writer) long(b []byte) {
	if err := checkLong(len(b)); err != nil {
		w.fail(err)
		return
	}
	w.uint32(uint32(len(b)))
	w.dst = append(w.dst, b...)
}

func (w *writer) longString(s string) {
	if err := checkLong(len(s)); err != nil {
		w.fail(err)
		return
	}
	w.uint32(uint32(len(s)))
	w.dst = append(w.dst, s...)
}

func (w *writer) table(t Table) {
	dst, err := appendTable(w.dst, t)
	if err != nil {
		w.fail(err)
		return
	}
	w.dst = dst
}

func (w *writer) fail(err *Error) {
	if w.err == nil {
		w.err = err
	}
}

// checkLong returns an error where a length does not fit its four bytes.
func checkLong(n int) *Error {
	if uint64(n) > math.MaxUint32 {
		return fault(InternalError, "%d bytes: at most %d can be encoded", n, uint32(math.MaxUint32))
	}
	return nil
}
