package amqpwire

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

func mustRaw(t testing.TB, p Properties) []byte {
	t.Helper()
	raw, err := AppendProperties(nil, &p)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestPropertiesCrossToTheMessageAndBack(t *testing.T) {
	p := sampleProperties()
	list, persistent, err := PropertiesToMessage([]byte("before"), mustRaw(t, p))
	if err != nil || !persistent || !strings.HasPrefix(string(list), "before") {
		t.Fatalf("%q %t %v", list, persistent, err)
	}
	list = list[len("before"):]

	table, err := AppendHeadersFromTable(nil, p.Headers)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id   message.FieldID
		want string
	}{
		{message.ContentType, p.ContentType},
		{message.ContentEncoding, p.ContentEncoding},
		{message.Headers, string(table)},
		{message.Priority, "\x09"},
		{message.CorrelationID, p.CorrelationID},
		{message.ReplyTo, p.ReplyTo},
		{message.Expiration, p.Expiration},
		{message.MessageID, p.MessageID},
		{message.Timestamp, "\x00\x00\x00\x00\x65\x53\xF1\x00"},
		{message.Type, p.Type},
		{message.UserID, p.UserID},
		{message.AppID, p.AppID},
	} {
		if got := message.Field(list, c.id); string(got) != c.want {
			t.Errorf("field %d is %q, want %q", c.id, got, c.want)
		}
	}

	raw, err := PropertiesFromMessage([]byte("before"), list, persistent)
	if err != nil || !strings.HasPrefix(string(raw), "before") {
		t.Fatal(err)
	}
	p.ClusterID = "" // dropped
	if !bytes.Equal(raw[len("before"):], mustRaw(t, p)) {
		t.Errorf("came back as %x", raw[len("before"):])
	}
}

// Each property alone, with and without delivery-mode around it: the flags and
// the place of delivery-mode must be right for all of them.
func TestEachPropertyCrossesAlone(t *testing.T) {
	v := reflect.ValueOf(sampleProperties())
	for i := range v.NumField() {
		for mode := range uint8(3) {
			var p Properties
			reflect.ValueOf(&p).Elem().Field(i).Set(v.Field(i))
			p.DeliveryMode = mode
			list, persistent, err := PropertiesToMessage(nil, mustRaw(t, p))
			if err != nil || persistent != (mode == Persistent) {
				t.Fatalf("%s: persistent %t %v", v.Type().Field(i).Name, persistent, err)
			}
			raw, err := PropertiesFromMessage(nil, list, persistent)
			if err != nil {
				t.Fatal(err)
			}
			p.ClusterID = ""
			if mode == Transient {
				p.DeliveryMode = 0 // the neutral form has only the persistent bit
			}
			if want := mustRaw(t, p); !bytes.Equal(raw, want) {
				t.Errorf("%s, delivery-mode %d: %x, want %x", v.Type().Field(i).Name, mode, raw, want)
			}
		}
	}
}

// An empty text is there, and stays there.
func TestEmptyPropertiesStayPresent(t *testing.T) {
	raw := []byte("\x86\x00\x00\x00\x00") // content-type, correlation-id, reply-to
	list, _, err := PropertiesToMessage(nil, raw)
	if err != nil || message.Field(list, message.ReplyTo) == nil {
		t.Fatalf("%x %v", list, err)
	}
	back, err := PropertiesFromMessage(nil, list, false)
	if err != nil || !bytes.Equal(back, raw) {
		t.Fatalf("%x %v", back, err)
	}
}

func TestPropertiesToMessageRefuses(t *testing.T) {
	for _, c := range badProperties {
		t.Run(c.name, func(t *testing.T) {
			list, persistent, err := PropertiesToMessage([]byte("before"), []byte(c.in))
			wantError(t, err, c.code, c.text)
			if string(list) != "before" || persistent {
				t.Errorf("gave %q and %t", list, persistent)
			}
		})
	}
}

// Type L is not one that a message has; it means l.
func TestUnsignedLongLetterIsRewritten(t *testing.T) {
	const eight = "\x00\x00\x00\x00\x00\x00\x00\x07"
	inside := "\x01aL" + eight + // and nested, and a text that looks like one
		"\x01bA" + string(withLength("L"+eight+"F"+string(withLength("\x01cL"+eight)))) +
		"\x01LS" + string(withLength("\x01aL"))
	list, _, err := PropertiesToMessage(nil, append([]byte{0x20, 0}, withLength(inside)...))
	if err != nil {
		t.Fatal(err)
	}
	got, ok := message.DecodeHeaders(message.Field(list, message.Headers))
	want := map[string]any{
		"a": int64(7),
		"b": []any{int64(7), map[string]any{"c": int64(7)}},
		"L": "\x01aL",
	}
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v %t", got, ok)
	}
}

func TestPropertiesFromMessageRefuses(t *testing.T) {
	field := message.AppendFieldString
	for _, c := range []struct {
		name string
		list []byte
		text string
	}{
		{"not a list", []byte{1}, "damaged"},
		{"field over the end", []byte{1, 5, 'x'}, "damaged"},
		{"field 0", field(nil, 0, "x"), "damaged"},
		{"not in order", field(field(nil, message.ReplyTo, "a"), message.ContentType, "b"), "damaged"},
		{"twice", field(field(nil, message.ReplyTo, "a"), message.ReplyTo, "b"), "damaged"},
		{"text of 256 bytes", field(nil, message.ReplyTo, strings.Repeat("x", 256)), "256 bytes"},
		{"priority of two bytes", field(nil, message.Priority, "ab"), "2 bytes"},
		{"empty priority", field(nil, message.Priority, ""), "0 bytes"},
		{"timestamp of four bytes", field(nil, message.Timestamp, "abcd"), "4 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := PropertiesFromMessage([]byte("before"), c.list, true)
			wantError(t, err, InternalError, c.text)
			if string(out) != "before" {
				t.Errorf("dst is %q", out)
			}
			out, err = AppendMessageHeader([]byte("before"), 1, 1, c.list, true)
			wantError(t, err, InternalError, c.text)
			if string(out) != "before" {
				t.Errorf("dst is %q", out)
			}
		})
	}
}

// A list written by a later version may hold more.
func TestFieldsThatAMQPLacksAreLeftOut(t *testing.T) {
	list := message.AppendFieldString(nil, message.ContentType, "t")
	list = message.AppendFieldString(list, message.AppID+1, "later")
	got, err := PropertiesFromMessage(nil, list, true)
	if want := mustRaw(t, Properties{ContentType: "t", DeliveryMode: Persistent}); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%x %v", got, err)
	}
}

func TestAppendMessageHeaderIsAppendContentHeader(t *testing.T) {
	raw := mustRaw(t, Properties{ContentType: "t", Headers: sampleTable(), DeliveryMode: Persistent, Timestamp: time.Unix(7, 0)})
	list, persistent, err := PropertiesToMessage(nil, raw)
	if err != nil {
		t.Fatal(err)
	}
	got, err := AppendMessageHeader([]byte("before"), 9, 1234, list, persistent)
	if want := AppendContentHeader([]byte("before"), 9, 1234, raw); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x (%v)\nwant %x", got, err, want)
	}
}

// Headers that were taken in must be readable by everything that reads a
// message's headers.
func TestHeadersAreReadableAsAMessage(t *testing.T) {
	list, _, err := PropertiesToMessage(nil, mustRaw(t, Properties{Headers: sampleTable()}))
	if err != nil {
		t.Fatal(err)
	}
	headers := message.Field(list, message.Headers)
	m, ok := message.DecodeHeaders(headers)
	if !ok || len(m) != len(sampleTable()) || m["int8"] != int64(-8) || m["string"] != "text" {
		t.Errorf("%v %t", m, ok)
	}
	table, err := TableFromHeaders(headers)
	if err != nil || !reflect.DeepEqual(table, sampleTable()) {
		t.Errorf("%v %v", table, err)
	}
}

func TestFieldOfIsTheInverseOfFieldFlags(t *testing.T) {
	for id, flag := range fieldFlags {
		if id > 0 && fieldOf(flag) != message.FieldID(id) {
			t.Errorf("flag 0x%04X of field %d becomes field %d", flag, id, fieldOf(flag))
		}
	}
}
