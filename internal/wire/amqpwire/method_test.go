package amqpwire

import (
	"errors"
	"strings"
	"testing"
)

func TestParseMethodRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		code uint16
		text string
	}{
		{"nothing", "", FrameError, "method id"},
		{"half an id", "\x00\x0A\x00", FrameError, "method id"},
		{"unknown class", "\x00\x0B\x00\x0A", NotImplemented, "unknown method 11.10"},
		{"unknown method", "\x00\x3C\x00\x0C", NotImplemented, "unknown method 60.12"},
		{"exchange.unbind-ok of another number", "\x00\x28\x00\x29", NotImplemented, "unknown method 40.41"},
		{"no fields", "\x00\x3C\x00\x28", FrameError, "short integer"},
		{"short string without length", "\x00\x32\x00\x0A\x00\x00", FrameError, "octet"},
		{"short string over the end", "\x00\x32\x00\x0A\x00\x00\x05ab", FrameError, "short string"},
		{"no bits", "\x00\x32\x00\x1E\x00\x00\x01q", FrameError, "octet"},
		{"bytes behind", "\x00\x32\x00\x1E\x00\x00\x01q\x00\x00", FrameError, "1 bytes behind"},
		{"bytes behind a method without fields", "\x00\x0A\x00\x33rest", FrameError, "4 bytes behind"},
		{"long string over the end", "\x00\x0A\x00\x14\x00\x00\x00\x05four", FrameError, "long string"},
		{"table without length", "\x00\x32\x00\x0A\x00\x00\x01q\x00\x00\x00", FrameError, "length of table"},
		{"table over the end", "\x00\x32\x00\x0A\x00\x00\x01q\x00\x00\x00\x00\x01", FrameError, "table"},
		{"table of an unknown type", "\x00\x32\x00\x0A\x00\x00\x01q\x00\x00\x00\x00\x03\x01aZ", SyntaxError, "unknown type 0x5A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := ParseMethod([]byte(c.in))
			wantError(t, err, c.code, c.text)
			if m != nil {
				t.Errorf("gave %T as well", m)
			}
			var e *Error
			errors.As(err, &e)
			if class, method, ok := MethodID([]byte(c.in)); ok && (e.Class != class || e.Method != method) {
				t.Errorf("names method %d.%d", e.Class, e.Method)
			}
		})
	}
}

// Cut at any point a method is an error, never a panic or another method.
func TestParseMethodRefusesEveryCut(t *testing.T) {
	for _, m := range samples() {
		b, err := AppendMethod(nil, 0, m)
		if err != nil {
			t.Fatal(err)
		}
		payload := b[7 : len(b)-1]
		for n := range payload {
			if _, err := ParseMethod(payload[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were enough", methodName(m), n, len(payload))
			}
		}
	}
}

// A string may be anything; names, passwords and tags are never interpreted.
func TestStringsNeedNotBeUTF8(t *testing.T) {
	want := &QueueDeclare{Queue: "\xFF\xFE\x00", Arguments: Table{"\xC3": "\xC3\x28"}}
	b, err := AppendMethod(nil, 1, want)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseMethod(b[7 : len(b)-1])
	if err != nil {
		t.Fatal(err)
	}
	if got := m.(*QueueDeclare); got.Queue != want.Queue || got.Arguments["\xC3"] != "\xC3\x28" {
		t.Errorf("got %+v", got)
	}
}

func TestAppendMethodRefuses(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, c := range []struct {
		name string
		m    Method
		text string
	}{
		{"queue name", &QueueDeclare{Queue: long}, "short string of 256 bytes"},
		{"routing key", &BasicPublish{RoutingKey: long}, "short string of 256 bytes"},
		{"reply text", &ChannelClose{ReplyText: long}, "short string of 256 bytes"},
		{"consumer tag", &BasicConsume{ConsumerTag: long}, "short string of 256 bytes"},
		{"name in a table", &QueueBind{Arguments: Table{long: true}}, "short string of 256 bytes"},
		{"type in a table", &QueueBind{Arguments: Table{"a": struct{}{}}}, "struct {}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := []byte("before")
			out, err := AppendMethod(dst, 1, c.m)
			wantError(t, err, InternalError, c.text)
			if string(out) != "before" {
				t.Errorf("dst is %q", out)
			}
			var e *Error
			errors.As(err, &e)
			if class, method := c.m.ID(); e.Class != class || e.Method != method {
				t.Errorf("names method %d.%d", e.Class, e.Method)
			}
		})
	}
}

func TestShortStringOf255IsEncoded(t *testing.T) {
	name := strings.Repeat("x", 255)
	b, err := AppendMethod(nil, 1, &BasicCancelOk{ConsumerTag: name})
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseMethod(b[7 : len(b)-1])
	if err != nil || m.(*BasicCancelOk).ConsumerTag != name {
		t.Fatal(m, err)
	}
}
