package amqpwire

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestPropertiesRoundTrip(t *testing.T) {
	all := sampleProperties()
	rows := []Properties{{}, all, {Headers: Table{}}}
	v := reflect.ValueOf(all)
	for i := range v.NumField() { // each alone
		var one Properties
		reflect.ValueOf(&one).Elem().Field(i).Set(v.Field(i))
		rows = append(rows, one)
	}
	for _, want := range rows {
		raw, err := AppendProperties([]byte("before"), &want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseProperties(raw[len("before"):])
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v (%v), want %+v", got, err, want)
		}
	}
}

// Bit 0 of the flags says that another word follows (AMQP 0-9-1 §4.2.6.1).
func TestParsePropertiesReadsContinuedFlags(t *testing.T) {
	for _, raw := range []string{
		"\x08\x01\x00\x00\x05",
		"\x08\x01\x00\x01\x00\x01\x00\x00\x05",
	} {
		p, err := ParseProperties([]byte(raw))
		if err != nil || p.Priority != 5 {
			t.Errorf("%x: %+v %v", raw, p, err)
		}
	}
}

var badProperties = []struct {
	name string
	in   string
	code uint16
	text string
}{
	{"nothing", "", FrameError, "flags"},
	{"half the flags", "\x80", FrameError, "flags"},
	{"no continuation", "\x00\x01", FrameError, "flags"},
	{"endless continuation", strings.Repeat("\x00\x01", 60000), FrameError, "flags"},
	{"unused bit", "\x00\x02", SyntaxError, "does not have"},
	{"unknown property in a further word", "\x00\x01\x80\x00", SyntaxError, "does not have"},
	{"text without length", "\x80\x00", FrameError, "property"},
	{"text over the end", "\x80\x00\x03ab", FrameError, "property"},
	{"delivery-mode missing", "\x10\x00", FrameError, "property"},
	{"half a timestamp", "\x00\x40\x00\x00\x00\x00", FrameError, "property"},
	{"headers without length", "\x20\x00\x00\x00", FrameError, "headers"},
	{"headers over the end", "\x20\x00\x00\x00\x00\x05\x01a", FrameError, "headers"},
	{"headers of an unknown type", "\x20\x00\x00\x00\x00\x03\x01aZ", SyntaxError, "unknown type"},
	{"headers of a cut value", "\x20\x00\x00\x00\x00\x04\x01aI\x00", FrameError, "value"},
	{"headers too deep", "\x20\x00" + string(withLength(string(nestedBytes('F', MaxNesting+1)))), SyntaxError, "nested"},
	{"cluster-id over the end", "\x00\x04\x09x", FrameError, "property"},
	{"bytes behind", "\x00\x00\x00", FrameError, "1 bytes behind"},
}

func TestParsePropertiesRefuses(t *testing.T) {
	for _, c := range badProperties {
		t.Run(c.name, func(t *testing.T) {
			p, err := ParseProperties([]byte(c.in))
			wantError(t, err, c.code, c.text)
			if !reflect.DeepEqual(p, Properties{}) {
				t.Errorf("gave %+v as well", p)
			}
		})
	}
}

func TestAppendPropertiesRefuses(t *testing.T) {
	v := reflect.ValueOf(sampleProperties())
	for i := range v.NumField() {
		if v.Field(i).Kind() != reflect.String {
			continue
		}
		var p Properties
		reflect.ValueOf(&p).Elem().Field(i).SetString(strings.Repeat("x", 256))
		out, err := AppendProperties([]byte("before"), &p)
		wantError(t, err, InternalError, "256 bytes")
		if string(out) != "before" {
			t.Errorf("dst is %q", out)
		}
	}
	_, err := AppendProperties(nil, &Properties{Headers: Table{"a": make(chan int)}})
	wantError(t, err, InternalError, "chan int")
}

func TestTimestampHasWholeSeconds(t *testing.T) {
	raw, err := AppendProperties(nil, &Properties{Timestamp: time.Unix(5, 999)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParseProperties(raw)
	if err != nil || !p.Timestamp.Equal(time.Unix(5, 0)) {
		t.Fatal(p.Timestamp, err)
	}
}

func TestContentHeaderRoundTrip(t *testing.T) {
	p := sampleProperties()
	raw, err := AppendProperties(nil, &p)
	if err != nil {
		t.Fatal(err)
	}
	for _, properties := range [][]byte{nil, {0, 0}, raw} {
		f, n, err := ParseFrame(AppendContentHeader(nil, 3, 1<<40, properties), 0)
		if err != nil || n == 0 || f.Type != FrameHeader || f.Channel != 3 {
			t.Fatal(f, n, err)
		}
		h, err := ParseContentHeader(f.Payload)
		if properties == nil {
			properties = []byte{0, 0}
		}
		if err != nil || h.Class != ClassBasic || h.BodySize != 1<<40 || !bytes.Equal(h.Properties, properties) {
			t.Errorf("%+v %v", h, err)
		}
	}
}

func TestParseContentHeaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		code uint16
		text string
	}{
		{"nothing", "", FrameError, "content header"},
		{"no flags", "\x00\x3C\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", FrameError, "content header"},
		{"half the flags", "\x00\x3C\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", FrameError, "content header"},
		{"a weight", "\x00\x3C\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", SyntaxError, "weight 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseContentHeader([]byte(c.in))
			wantError(t, err, c.code, c.text)
		})
	}
}
