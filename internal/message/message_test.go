package message

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// A kind is one of the kinds of header: its bytes, as the format says, and what
// they mean.
type kindSample struct {
	name  string
	kind  byte
	value string
	want  any
}

var kindSamples = []kindSample{
	{"void", 'V', "", nil},
	{"false", 't', "\x00", false},
	{"true", 't', "\x01", true},
	{"int8", 'b', "\xfe", int64(-2)},
	{"uint8", 'B', "\xfe", int64(254)},
	{"int16", 's', "\xff\x01", int64(-255)},
	{"uint16", 'u', "\xff\x01", int64(65281)},
	{"int32", 'I', "\xff\x00\x00\x01", int64(-16777215)},
	{"uint32", 'i', "\xff\x00\x00\x01", int64(4278190081)},
	{"int64", 'l', "\x80\x00\x00\x00\x00\x00\x00\x01", int64(math.MinInt64 + 1)},
	{"float32", 'f', "\x3f\xc0\x00\x00", 1.5},
	{"float64", 'd', "\xbf\xf8\x00\x00\x00\x00\x00\x00", -1.5},
	{"decimal", 'D', "\x02\xff\xff\xfe\xc6", Decimal{2, -314}},
	{"time", 'T', "\x00\x00\x00\x00\x65\x53\xf1\x00", time.Unix(1700000000, 0).UTC()},
	{"text", 'S', "\x00\x00\x00\x04caf\xe9", "caf\xe9"},
	{"no text", 'S', "\x00\x00\x00\x00", ""},
	{"bytes", 'x', "\x00\x00\x00\x03\x00\x01\xff", []byte{0, 1, 255}},
	{"array", 'A', "\x00\x00\x00\x0ab\x01S\x00\x00\x00\x01xt\x01", []any{int64(1), "x", true}},
	{"empty array", 'A', "\x00\x00\x00\x00", []any{}},
	{"table", 'F', "\x00\x00\x00\x0d\x05inner\x46\x00\x00\x00\x02\x00V", map[string]any{"inner": map[string]any{"": nil}}},
	{"empty table", 'F', "\x00\x00\x00\x00", map[string]any{}},
}

// goldenHeaders is a list of all kinds, and what it means.
func goldenHeaders() (list []byte, want map[string]any) {
	want = map[string]any{}
	for _, s := range kindSamples {
		list = appendHeader(list, s.name, s.kind, s.value)
		want[s.name] = s.want
	}
	return list, want
}

func appendHeader(list []byte, name string, kind byte, value string) []byte {
	list = append(append(list, byte(len(name))), name...)
	return append(append(list, kind), value...)
}

// goldenFields is every property with a value, in order.
func goldenFields() (ids []FieldID, values []string) {
	headers, _ := goldenHeaders()
	values = []string{
		"text/plain", "gzip", string(headers), "\x09", "correlation", "reply", "60000",
		"message", "\x00\x00\x00\x00\x65\x53\xf1\x00", "type", "guest", "app",
	}
	for id := ContentType; id <= AppID; id++ {
		ids = append(ids, id)
	}
	return ids, values
}

func goldenProperties() []byte {
	var list []byte
	ids, values := goldenFields()
	for i, id := range ids {
		if i%2 == 0 {
			list = AppendField(list, id, []byte(values[i]))
		} else {
			list = AppendFieldString(list, id, values[i])
		}
	}
	return list
}

// golden is the block of goldenProperties. Blocks are in journals: if this
// changes, what was written before is no longer read.
const golden = "" +
	"d602f5c3" + // checksum
	"01" + // persistent
	"09616d712e746f706963" + // exchange
	"05612e622e63" + // key
	"e702" + // length of the properties
	"010a746578742f706c61696e" + // content type
	"0204677a6970" + // content encoding
	"038f02" + // headers
	"04766f696456" +
	"0566616c73657400" +
	"04747275657401" +
	"04696e743862fe" +
	"0575696e743842fe" +
	"05696e74313673ff01" +
	"0675696e74313675ff01" +
	"05696e74333249ff000001" +
	"0675696e74333269ff000001" +
	"05696e7436346c8000000000000001" +
	"07666c6f61743332663fc00000" +
	"07666c6f6174363464bff8000000000000" +
	"07646563696d616c4402fffffec6" +
	"0474696d6554000000006553f100" +
	"04746578745300000004636166e9" +
	"076e6f20746578745300000000" +
	"05627974657378000000030001ff" +
	"056172726179410000000a" + "6201" + "530000000178" + "7401" +
	"0b656d7074792061727261794100000000" +
	"057461626c65460000000d" + "05696e6e65724600000002" + "0056" +
	"0b656d707479207461626c654600000000" +
	"040109" + // priority
	"050b636f7272656c6174696f6e" + // correlation id
	"06057265706c79" + // reply to
	"07053630303030" + // expiration
	"08076d657373616765" + // message id
	"0908000000006553f100" + // timestamp
	"0a0474797065" + // type
	"0b056775657374" + // user id
	"0c03617070" + // app id
	"626f6479" // body

func mustDecodeHex(tb testing.TB, text string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func sealed(persistent bool, exchange, key string, properties []byte, body string) []byte {
	block := AppendBlockHead(nil, persistent, []byte(exchange), []byte(key), properties)
	block = append(block, body...)
	Seal(block)
	return block
}

func TestBlockIsItsGoldenBytes(t *testing.T) {
	got := sealed(true, "amq.topic", "a.b.c", goldenProperties(), "body")
	if want := mustDecodeHex(t, golden); !bytes.Equal(got, want) {
		t.Errorf("got\n%x\nwant\n%x", got, want)
	}
}

func TestGoldenBytesAreTheirBlock(t *testing.T) {
	block := mustDecodeHex(t, golden)
	if err := Check(block); err != nil {
		t.Fatal(err)
	}
	v, err := Parse(block)
	if err != nil {
		t.Fatal(err)
	}
	if !v.Persistent || string(v.Exchange) != "amq.topic" || string(v.Key) != "a.b.c" || string(v.Body) != "body" {
		t.Errorf("got %t %q %q %q", v.Persistent, v.Exchange, v.Key, v.Body)
	}
	ids, values := goldenFields()
	rest := v.Properties
	for i, id := range ids {
		var got FieldID
		var value []byte
		var ok bool
		got, value, rest, ok = NextField(rest)
		if !ok || got != id || string(value) != values[i] {
			t.Errorf("field %d is %d, %q, %t; want %q", id, got, value, ok, values[i])
		}
		if alone := Field(v.Properties, id); string(alone) != values[i] {
			t.Errorf("field %d alone is %q, want %q", id, alone, values[i])
		}
	}
	if len(rest) != 0 {
		t.Errorf("%x is left", rest)
	}
	_, want := goldenHeaders()
	if got, ok := DecodeHeaders(Field(v.Properties, Headers)); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("headers are %v, %t; want %v", got, ok, want)
	}
}

func TestBlocksOfTheLeastAndTheMost(t *testing.T) {
	long := strings.Repeat("x", MaxName)
	for _, row := range []struct {
		name, exchange, key string
		persistent          bool
		properties          []byte
		body                string
	}{
		{name: "nothing"},
		{name: "persistent nothing", persistent: true},
		{name: "only a body", body: "b"},
		{name: "names of the most", exchange: long, key: long},
		{name: "properties of two bytes of length", properties: AppendField(nil, Type, make([]byte, 200))},
		{name: "properties of three", exchange: "e", properties: AppendField(nil, Headers, make([]byte, 20000)), body: "b"},
	} {
		block := sealed(row.persistent, row.exchange, row.key, row.properties, row.body)
		v, err := Parse(block)
		if err != nil || Check(block) != nil {
			t.Errorf("%s: %v, %v", row.name, err, Check(block))
			continue
		}
		if v.Persistent != row.persistent || string(v.Exchange) != row.exchange || string(v.Key) != row.key ||
			!bytes.Equal(v.Properties, row.properties) || string(v.Body) != row.body {
			t.Errorf("%s: got %+v", row.name, v)
		}
		if texts := len(row.exchange) + len(row.key) + len(row.properties) + len(row.body); len(block) > texts+Overhead {
			t.Errorf("%s: %d bytes for %d of content, and Overhead is %d", row.name, len(block), texts, Overhead)
		}
	}
}

func TestEveryChangedBitIsFound(t *testing.T) {
	block := mustDecodeHex(t, golden)
	for i := range block {
		for bit := range 8 {
			block[i] ^= 1 << bit
			if err := Check(block); !errors.Is(err, ErrDamaged) {
				t.Errorf("bit %d of byte %d: %v", bit, i, err)
			}
			block[i] ^= 1 << bit
		}
	}
}

func TestNoBeginningOfABlockIsChecked(t *testing.T) {
	block := mustDecodeHex(t, golden)
	for n := range block {
		if err := Check(block[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	// What stands before the body is taken apart only when it is all there.
	head := len(block) - len("body")
	for n := range head {
		if _, err := Parse(block[:n:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("the first %d bytes are taken apart: %v", n, err)
		}
	}
}

func TestParseRefusesLengthsBeyondTheBlock(t *testing.T) {
	for _, row := range []struct{ name, block string }{
		{"an exchange", "\x00\x00\x00\x00\x00\x03ab"},
		{"an exchange, and nothing for the key", "\x00\x00\x00\x00\x00\x02ab"},
		{"a key", "\x00\x00\x00\x00\x00\x00\x02ab"},
		{"properties", "\x00\x00\x00\x00\x00\x00\x00\x03ab"},
		{"properties of 2^64-1 bytes", "\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
		{"a length that overflows", "\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"},
		{"a length that does not end", "\x00\x00\x00\x00\x00\x00\x00\x80\x80"},
	} {
		if v, err := Parse([]byte(row.block)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %+v, %v", row.name, v, err)
		}
	}
}

func TestFieldLooksNoFurtherThanTheOrder(t *testing.T) {
	list := AppendFieldString(nil, ContentType, "")
	list = AppendFieldString(list, Priority, "\x05")
	list = AppendFieldString(list, AppID, "app")
	if v := Field(list, ContentType); v == nil || len(v) != 0 {
		t.Errorf("an empty property is %#v", v)
	}
	for _, id := range []FieldID{0, Headers, MessageID, AppID + 1} {
		if v := Field(list, id); v != nil {
			t.Errorf("field %d, which is not there, is %q", id, v)
		}
	}
	wrong := AppendFieldString(AppendFieldString(nil, AppID, "app"), Priority, "\x05")
	if v := Field(wrong, Priority); v != nil {
		t.Errorf("a property behind a greater one is %q", v)
	}
}

func TestNextFieldEndsWithDamage(t *testing.T) {
	for _, list := range []string{
		"", "\x01", "\x01\x01", "\x01\x80", "\x01\x05abcd", "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
	} {
		if id, v, rest, ok := NextField([]byte(list)); ok || v != nil || rest != nil {
			t.Errorf("%q holds %d, %q, %q", list, id, v, rest)
		}
		if v := Field([]byte(list), ContentType); v != nil {
			t.Errorf("%q has a content type %q", list, v)
		}
	}
}

func TestEveryKindOfHeader(t *testing.T) {
	for _, s := range kindSamples {
		list := appendHeader(nil, s.name, s.kind, s.value)
		name, kind, value, rest, ok := NextHeader(append(list, "rest"...))
		if !ok || string(name) != s.name || kind != s.kind || string(value) != s.value || string(rest) != "rest" {
			t.Errorf("%s: %q, %c, %q, %q, %t", s.name, name, kind, value, rest, ok)
		}
		kind, value, rest, ok = NextElement([]byte(string(s.kind) + s.value + "rest"))
		if !ok || kind != s.kind || string(value) != s.value || string(rest) != "rest" {
			t.Errorf("%s in an array: %c, %q, %q, %t", s.name, kind, value, rest, ok)
		}
		got, ok := Header(list, s.name)
		if !ok || !reflect.DeepEqual(got, s.want) {
			t.Errorf("%s: got %#v, %t; want %#v", s.name, got, ok, s.want)
		}
		for n := range list {
			if _, ok := Header(list[:n], s.name); ok {
				t.Errorf("%s: the first %d bytes of %x are enough", s.name, n, list)
			}
		}
	}
}

func TestUnknownKindsAreDamage(t *testing.T) {
	known := map[byte]bool{}
	for _, s := range kindSamples {
		known[s.kind] = true
	}
	for kind := range 256 {
		list := appendHeader(nil, "h", byte(kind), strings.Repeat("\x00", 8))
		_, _, _, _, ok := NextHeader(list)
		if ok != known[byte(kind)] {
			t.Errorf("kind %q: %t", rune(kind), ok)
		}
		if _, _, _, ok := NextElement(list[2:]); ok != known[byte(kind)] {
			t.Errorf("kind %q in an array: %t", rune(kind), ok)
		}
	}
	if v, ok := Decode('?', nil, 0); ok {
		t.Errorf("kind ? is %v", v)
	}
}

func TestHeaderIsTheFirstOfItsName(t *testing.T) {
	list := appendHeader(nil, "other", 'V', "")
	list = appendHeader(list, "twice", 'b', "\x01")
	list = appendHeader(list, "twice", 'b', "\x02")
	if v, ok := Header(list, "twice"); !ok || v != int64(1) {
		t.Errorf("got %v, %t", v, ok)
	}
	if v, ok := Header(list, "never"); ok {
		t.Errorf("a header that is not there is %v", v)
	}
	if v, ok := Header(list, "other"); !ok || v != nil {
		t.Errorf("a void header is %v, %t", v, ok)
	}
}

func TestDamageWithinAHeaderSpoilsTheWholeList(t *testing.T) {
	good := appendHeader(nil, "good", 'V', "")
	for _, row := range []struct {
		name  string
		kind  byte
		value string
	}{
		{"an array that is cut", 'A', "\x00\x00\x00\x02s\x00"},
		{"an array of an unknown kind", 'A', "\x00\x00\x00\x01?"},
		{"a table that is cut", 'F', "\x00\x00\x00\x03\x01at"},
		{"a table that ends in a name", 'F', "\x00\x00\x00\x02\x05a"},
	} {
		list := appendHeader(good, "bad", row.kind, row.value)
		if m, ok := DecodeHeaders(list); ok {
			t.Errorf("%s: %v", row.name, m)
		}
		if v, ok := Header(list, "bad"); ok {
			t.Errorf("%s: the header alone: %v", row.name, v)
		}
		if _, ok := Header(list, "good"); !ok {
			t.Errorf("%s: the header before it is not found", row.name)
		}
	}
	if m, ok := DecodeHeaders(nil); !ok || m == nil || len(m) != 0 {
		t.Errorf("an empty list is %#v, %t", m, ok)
	}
}

// nested is a list of one header, of the given kind and that deep.
func nested(kind byte, depth int) []byte {
	var value string
	for range depth {
		var inner string
		if value != "" {
			inner = string(kind) + value
			if kind == 'F' {
				inner = "\x01n" + inner
			}
		}
		value = string(binary.BigEndian.AppendUint32(nil, uint32(len(inner)))) + inner
	}
	return appendHeader(nil, "n", kind, value)
}

func TestNestingHasALimit(t *testing.T) {
	for _, kind := range []byte{'A', 'F'} {
		if _, ok := DecodeHeaders(nested(kind, MaxNesting)); !ok {
			t.Errorf("%c nested %d deep is refused", kind, MaxNesting)
		}
		if _, ok := DecodeHeaders(nested(kind, MaxNesting+1)); ok {
			t.Errorf("%c nested %d deep is taken", kind, MaxNesting+1)
		}
	}
}

func TestWalkingDoesNotAllocate(t *testing.T) {
	block := mustDecodeHex(t, golden)
	if n := testing.AllocsPerRun(100, func() {
		v, err := Parse(block)
		if err != nil || Check(block) != nil {
			t.Error(err)
		}
		for list := Field(v.Properties, Headers); ; {
			_, _, _, rest, ok := NextHeader(list)
			if !ok {
				break
			}
			list = rest
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
