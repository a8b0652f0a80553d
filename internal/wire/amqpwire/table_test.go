package amqpwire

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// withLength is the inside of a table or an array behind its length.
func withLength(inside string) []byte {
	n := len(inside)
	return append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, inside...)
}

// The letters are those of RabbitMQ's errata; the values are what its own codec
// makes of the same bytes.
func TestParseTableKnowsEveryType(t *testing.T) {
	for _, c := range []struct {
		in   string
		want any
	}{
		{"V", nil},
		{"t\x00", false},
		{"t\x02", true},
		{"b\xFF", int8(-1)},
		{"B\xFF", uint8(255)},
		{"s\xFF\xFE", int16(-2)},
		{"u\xFF\xFE", uint16(65534)},
		{"I\xFF\xFF\xFF\xFE", int32(-2)},
		{"i\xFF\xFF\xFF\xFE", uint32(4294967294)},
		{"l\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE", int64(-2)},
		{"L\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE", int64(-2)},
		{"f\x3F\xC0\x00\x00", float32(1.5)},
		{"d\x3F\xF8\x00\x00\x00\x00\x00\x00", 1.5},
		{"D\x02\xFF\xFF\xFF\xFE", Decimal{Scale: 2, Value: -2}},
		{"T\x00\x00\x00\x00\x65\x53\xF1\x00", time.Unix(1700000000, 0).UTC()},
		{"T\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", time.Unix(-1, 0).UTC()},
		{"S\x00\x00\x00\x02\xC3\x28", "\xC3\x28"},
		{"x\x00\x00\x00\x01\x07", []byte{7}},
		{"x\x00\x00\x00\x00", []byte{}},
		{"A\x00\x00\x00\x00", []any{}},
		{"A\x00\x00\x00\x03Vt\x01", []any{nil, true}},
		{"F\x00\x00\x00\x00", Table{}},
		{"F\x00\x00\x00\x04\x01bt\x01", Table{"b": true}},
	} {
		got, rest, err := ParseTable(append(withLength("\x01k"+c.in), "rest"...))
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if v, ok := got["k"]; !ok || !reflect.DeepEqual(v, c.want) || string(rest) != "rest" {
			t.Errorf("%q: got %#v, want %#v, rest %q", c.in, got, c.want, rest)
		}
	}
}

func TestParseTableRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		code uint16
		text string
	}{
		{"nothing", nil, FrameError, "length of table"},
		{"half a length", []byte{0, 0, 0}, FrameError, "length of table"},
		{"length over the end", []byte{0, 0, 0, 2, 0}, FrameError, "table"},
		{"largest length", []byte{0xFF, 0xFF, 0xFF, 0xFF, 0}, FrameError, "table"},
		{"name over the end", withLength("\x05ab"), FrameError, "name"},
		{"no type", withLength("\x01a"), FrameError, "type"},
		{"no value", withLength("\x01aI\x00"), FrameError, "value"},
		{"text over the end", withLength("\x01aS\x00\x00\x00\x02x"), FrameError, "value"},
		{"text over the end of the inner table only", append(withLength("\x01aF\x00\x00\x00\x08\x01bS\x00\x00\x00\x01"), "x"...), FrameError, "value"},
		{"type of the specification's grammar", withLength("\x01aU\x00\x00"), SyntaxError, "unknown type 0x55"},
		{"type 0", withLength("\x01a\x00"), SyntaxError, "unknown type 0x00"},
		{"bad element", withLength("\x01aA\x00\x00\x00\x01Z"), SyntaxError, "unknown type 0x5A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, rest, err := ParseTable(c.in)
			wantError(t, err, c.code, c.text)
			if got != nil || rest != nil {
				t.Errorf("gave %v and %q as well", got, rest)
			}
			if len(c.in) < 4 || len(withLength(string(c.in[4:]))) != len(c.in) || c.in[3] != byte(len(c.in)-4) {
				return // not a whole table: it has no header list
			}
			_, err = TableFromHeaders(c.in[4:])
			wantError(t, err, c.code, c.text)
			check := headerCheck{left: MaxElements}
			if err := check.table(c.in[4:], 0); err == nil {
				t.Error("headerCheck takes it")
			} else {
				wantError(t, err, c.code, c.text)
			}
		})
	}
}

func TestTableRoundTrip(t *testing.T) {
	want := sampleTable()
	b, err := AppendTable([]byte("before"), want)
	if err != nil {
		t.Fatal(err)
	}
	got, rest, err := ParseTable(b[len("before"):])
	if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v %q %v", got, rest, err)
	}
	again, err := AppendTable([]byte("before"), got)
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("not the same bytes (%v)", err)
	}
}

func TestNilTableIsEmpty(t *testing.T) {
	b, err := AppendTable(nil, nil)
	if err != nil || !bytes.Equal(b, []byte{0, 0, 0, 0}) {
		t.Fatalf("%x %v", b, err)
	}
}

func TestAppendTableTakesIntAndPlainMap(t *testing.T) {
	b, err := AppendTable(nil, Table{"a": 7, "b": map[string]any{"c": "d"}})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := ParseTable(b)
	if want := (Table{"a": int64(7), "b": Table{"c": "d"}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v %v", got, err)
	}
}

func TestTheLastOfEqualNamesCounts(t *testing.T) {
	got, _, err := ParseTable(withLength("\x01at\x00\x01at\x01"))
	if err != nil || !reflect.DeepEqual(got, Table{"a": true}) {
		t.Fatalf("got %v %v", got, err)
	}
}

func nestedTable(depth int) Table {
	t := Table{}
	for range depth {
		t = Table{"n": t}
	}
	return t
}

func nestedArray(depth int) Table {
	a := []any{}
	for range depth - 1 {
		a = []any{a}
	}
	return Table{"n": a}
}

// nestedBytes is the inside of a table in which kind ('A' or 'F') nests depth
// times.
func nestedBytes(kind byte, depth int) []byte {
	b, level := []byte{1, 'n'}, 5 // type and length
	if kind == 'F' {
		level += 2 // and a name
	}
	for i := range depth {
		if i > 0 && kind == 'F' {
			b = append(b, 1, 'n')
		}
		b = append(b, kind)
		b = binary.BigEndian.AppendUint32(b, uint32(level*(depth-1-i)))
	}
	return b
}

func TestNestingLimit(t *testing.T) {
	for _, kind := range []byte{'A', 'F'} {
		build := nestedTable
		if kind == 'A' {
			build = nestedArray
		}
		for _, depth := range []int{1, MaxNesting, MaxNesting + 1, 4000} {
			ok := depth <= MaxNesting
			list := nestedBytes(kind, depth)
			if _, err := TableFromHeaders(list); (err == nil) != ok {
				t.Errorf("%c %d deep: decode %v", kind, depth, err)
			} else if !ok {
				wantError(t, err, SyntaxError, "nested deeper than 32")
			}
			c := headerCheck{left: MaxElements}
			if err := c.table(list, 0); (err == nil) != ok {
				t.Errorf("%c %d deep: check %v", kind, depth, err)
			}
			out, err := AppendHeadersFromTable(nil, build(depth))
			if (err == nil) != ok {
				t.Errorf("%c %d deep: encode %v", kind, depth, err)
			}
			if ok && !bytes.Equal(out, list) {
				t.Errorf("%c %d deep: encoded as %x, not %x", kind, depth, out, list)
			}
			// What this package takes, package message must be able to read.
			if _, decoded := message.DecodeHeaders(list); ok && !decoded {
				t.Errorf("%c %d deep: message cannot decode it", kind, depth)
			}
		}
	}
}

func TestAppendTableRefuses(t *testing.T) {
	loop := Table{}
	loop["self"] = loop
	many := make([]any, MaxElements)
	for _, c := range []struct {
		name string
		t    Table
		text string
	}{
		{"name of 256 bytes", Table{strings.Repeat("x", 256): nil}, "256 bytes"},
		{"uint64", Table{"a": uint64(1)}, "uint64"},
		{"uint", Table{"a": uint(1)}, "uint"},
		{"channel in an array", Table{"a": []any{make(chan int)}}, "chan int"},
		{"slice of strings", Table{"a": []string{"b"}}, "[]string"},
		{"table that holds itself", loop, "nested deeper"},
		{"one element too many", Table{"a": many}, "65536 elements"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := AppendTable([]byte("before"), c.t)
			wantError(t, err, InternalError, c.text)
			if string(out) != "before" {
				t.Errorf("dst is %q", out)
			}
			out, err = AppendHeadersFromTable([]byte("before"), c.t)
			wantError(t, err, InternalError, c.text)
			if string(out) != "before" {
				t.Errorf("dst is %q", out)
			}
		})
	}
}

func TestLengthsOver4GiBAreRefused(t *testing.T) {
	if math.MaxInt == math.MaxInt32 {
		return // there are no such lengths
	}
	most := uint64(math.MaxUint32)
	if err := checkLong(int(most)); err != nil {
		t.Error(err)
	}
	wantError(t, checkLong(int(most+1)), InternalError, "at most 4294967295")
}
