package adminserver

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"github.com/ferrymq/ferry/internal/broker"
)

// A writer of JSON for lists of a hundred thousand objects, without reflection. What
// it does not know itself is left to encoding/json, whose answers its own equal.

// An encoder is a value that writes itself, and is an object where its members are
// chosen among.
type encoder interface {
	encode(dst []byte) []byte
	object() object
}

// appendJSON appends a value. What JSON does not have becomes null.
func appendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case string:
		return appendText(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case uint16:
		return strconv.AppendUint(dst, uint64(v), 10)
	case uint32:
		return strconv.AppendUint(dst, uint64(v), 10)
	case uint64:
		return strconv.AppendUint(dst, v, 10)
	case number:
		return v.encode(dst)
	case rate:
		return v.encode(dst)
	case encoder:
		return v.encode(dst)
	case json.RawMessage:
		return append(dst, v...)
	case object:
		return appendObject(dst, v)
	case []object:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendObject(dst, e)
		}
		return append(dst, ']')
	}
	b, err := json.Marshal(v)
	if err != nil {
		return append(dst, "null"...)
	}
	return append(dst, b...)
}

func appendObject(dst []byte, m object) []byte {
	dst = append(dst, '{')
	var room [64]string // most objects have fewer members
	names := room[:0]
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, name), ':')
		dst = appendJSON(dst, m[name])
	}
	return append(dst, '}')
}

// appendText appends a text as encoding/json writes it: with nothing that a page
// would take for its own, and no byte that is not UTF-8.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			b, _ := json.Marshal(s) // a text always can be
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// number is written with a point, as RabbitMQ does with what need not be whole.
type number float64

func (n number) encode(dst []byte) []byte {
	f := float64(n)
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return append(dst, "0.0"...)
	case f == math.Trunc(f) && math.Abs(f) < 1e15:
		return append(strconv.AppendInt(dst, int64(f), 10), ".0"...)
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64)
}

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) { return n.encode(nil), nil }

// rate is the object that has one, a second.
type rate float64

func (r rate) encode(dst []byte) []byte {
	dst = append(dst, `{"rate":`...)
	return append(number(r).encode(dst), '}')
}

func (r rate) object() object { return object{"rate": number(r)} }

// MarshalJSON implements json.Marshaler.
func (r rate) MarshalJSON() ([]byte, error) { return r.encode(nil), nil }

// noRate is of what changes that nobody has looked at twice.
const noRate rate = 0

// stats are counts and rates of messages, all of them, also those that are zero.
type stats struct {
	t *broker.Traffic
	r *broker.Rates
}

// statNames are the counts that RabbitMQ's API has, as they are written.
var statNames = func() (names []struct {
	stat          broker.Stat
	name, details string
},
) {
	for _, s := range broker.Stats() {
		if name := s.String(); name != "" {
			names = append(names, struct {
				stat          broker.Stat
				name, details string
			}{s, name, name + "_details"})
		}
	}
	return names
}()

func (s stats) encode(dst []byte) []byte {
	dst = append(dst, `{"deliver_get":`...)
	dst = strconv.AppendUint(dst, s.t.DeliverGet(), 10)
	dst = append(dst, `,"deliver_get_details":`...)
	dst = rate(s.r.DeliverGet()).encode(dst)
	for _, n := range statNames {
		dst = append(append(append(dst, `,"`...), n.name...), `":`...)
		dst = strconv.AppendUint(dst, s.t[n.stat], 10)
		dst = append(append(append(dst, `,"`...), n.details...), `":`...)
		dst = rate(s.r[n.stat]).encode(dst)
	}
	return append(dst, '}')
}

func (s stats) object() object {
	out := object{"deliver_get": s.t.DeliverGet(), "deliver_get_details": rate(s.r.DeliverGet())}
	for _, n := range statNames {
		out[n.name], out[n.details] = s.t[n.stat], rate(s.r[n.stat])
	}
	return out
}

// MarshalJSON implements json.Marshaler.
func (s stats) MarshalJSON() ([]byte, error) { return s.encode(nil), nil }
