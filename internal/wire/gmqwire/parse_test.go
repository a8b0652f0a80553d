package gmqwire

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

func TestParseRequestTakesWhatTheOriginalTakes(t *testing.T) {
	for _, c := range []struct {
		text string
		want Request
	}{
		{`{}`, Request{}},
		{`{"operation":null,"queue":null,"payload":null,"auth":null,"id":null,"ack":null,"wait_msec":null,"requeue":null}`, Request{}},
		{`{"OPERATION":"P","Queue":"q","PayLoad":"eA==","AUTH":{"USER":"u","Password":"p"}}`, Request{Operation: "P", Queue: "q", Payload: []byte("eA=="), User: "u", Password: "p"}},
		{`{"queue":"a","queue":"b","queue":null}`, Request{Queue: "b"}},
		{`{"auth":{"user":"a"},"auth":{"password":"b"}}`, Request{User: "a", Password: "b"}},
		{`{"confirmation":"Y","error":{},"unknown":[{"queue":"x"}],"queue":"q"}`, Request{Queue: "q"}},
		{`{"confirmation":5,"error":"text","queue":"q"}`, Request{Queue: "q"}},
		{`{"queue":"\u0041\"\\\/\b\f\n\r\t\ud83d\ude00\ud83d"}`, Request{Queue: "A\"\\/\b\f\n\r\t😀\ufffd"}},
		{"{\"queue\":\"a\xffb\"}", Request{Queue: "a\ufffdb"}},
		{`{"payload":"YS8vYg\u003d\u003d"}`, Request{Payload: []byte("YS8vYg==")}},
		{`{"payload":"a\/b="}`, Request{Payload: []byte("a/b=")}},
		{`{"id":7}`, Request{ID: "7"}},
		{`{"id":"x-7"}`, Request{ID: "x-7"}},
		{`{"requeue":true}`, Request{}},
		{`{"server":null}`, Request{AskServer: true}},
		{"{\"queueſ\":\"x\",\"\u0071ueue\":\"q\",\"ac\u212a\":\"auto\"}", Request{Queue: "q", Ack: "auto"}},
	} {
		var got Request
		if err := ParseRequest([]byte(c.text), &got); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", c.text, got, err, c.want)
		}
	}
}

func TestParseRequestSaysWhatIsOfAnotherType(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"queue":5}`, `"queue" must be a text, not a number`},
		{`{"operation":["P"]}`, `"operation" must be a text, not an array`},
		{`{"payload":{}}`, `"payload" must be a text, not an object`},
		{`{"auth":"u:p"}`, `"auth" must be an object, not a text`},
		{`{"auth":{"user":true}}`, `"auth.user" must be a text, not true`},
		{`{"id":1.5}`, `"id" must be a whole number, not 1.5`},
		{`{"id":[]}`, `"id" must be a text, not an array`},
		{`{"wait_msec":"5"}`, `"wait_msec" must be a whole number, not a text`},
		{`{"attempt":-1}`, `"attempt" must be from 0 to 2147483647, not -1`},
		{`{"requeue":"no"}`, `"requeue" must be true or false, not a text`},
		{`{"properties":{"priority":256}}`, `"priority" must be from 0 to 255, not 256`},
		{`{"properties":{"headers":{"a":1.5}}}`, `"headers" must be a whole number, not 1.5`},
		{`{"properties":{"headers":{"a":[1]}}}`, `"headers" must be texts, whole numbers, true or false, not an array`},
	} {
		r := Request{Operation: "of before", Queue: "of before"}
		err := ParseRequest([]byte(c.text[:len(c.text)-1]+`,"ack":"auto"}`), &r)
		var we *Error
		if !errors.As(err, &we) || !we.Mistyped || we.Text != c.want {
			t.Errorf("%s: got %v", c.text, err)
		}
		if r.Ack != AckAuto || r.Operation != "" || r.Queue != "" {
			t.Errorf("%s: the rest is %+v", c.text, r)
		}
	}
}

// What no scanner has seen must not do harm.
func TestParseRequestOfWhatIsNoJSON(t *testing.T) {
	for _, text := range []string{``, `{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":"\`, `{"queue":"\u12`, `{"a":1`, `{"a":1,`, `{a:1}`, `{"a" 1}`, `{"a":}`, `{"a":1}}`, `{"a":[}`, `{"queue":"\x"}`, "{\"a\":\"\n\"}"} {
		var r Request
		if err := ParseRequest([]byte(text), &r); err == nil {
			t.Errorf("%q was parsed: %+v", text, r)
		}
	}
}

func TestRequestTextsAreKept(t *testing.T) {
	text := []byte(original1)
	var r Request
	if err := ParseRequest(text, &r); err != nil {
		t.Fatal(err)
	}
	n := testing.AllocsPerRun(100, func() {
		if err := ParseRequest(text, &r); err != nil {
			t.Error(err)
		}
	})
	if n > 3 {
		t.Errorf("%v allocations for a request like the one before", n)
	}
}

const original1 = `{"operation":"P","queue":"myqueue","payload":"aGVsbG8=","confirmation":"","error":null,"auth":{"user":"aa","password":"bb"}}`

// A message's properties reach the broker and come back as they were.
func TestPropertiesCrossTheBroker(t *testing.T) {
	r := fullRequest()
	list, err := r.AppendProperties(nil)
	if err != nil {
		t.Fatal(err)
	}
	last := message.FieldID(0)
	for rest := list; len(rest) > 0; {
		id, _, more, ok := message.NextField(rest)
		if !ok || id <= last {
			t.Fatalf("field %d behind %d: %v", id, last, ok)
		}
		last, rest = id, more
	}
	var back Reply
	back.SetProperties(list)
	if back.Incomplete {
		t.Error("something was left out")
	}
	want := everything()
	want.Headers["x-ferry-attempt"] = int64(2) // which the broker takes off
	if back.MessageID != "producer-1" || !reflect.DeepEqual(back.Properties, want) {
		t.Errorf("got  %q %+v\nwant %+v", back.MessageID, back.Properties, want)
	}
}

// What JSON has no place for is left out, and the reply says so.
func TestPropertiesThatJSONHasNoPlaceFor(t *testing.T) {
	header := func(name, value string) []byte {
		return message.AppendField(nil, message.Headers, append(append([]byte{byte(len(name))}, name...), value...))
	}
	for name, c := range map[string]struct {
		list []byte
		want bool
	}{
		"an integer":     {header("n", "I\x00\x00\x00\x05"), false},
		"a text":         {header("n", "S\x00\x00\x00\x01x"), false},
		"none":           {header("n", "V"), true},
		"an array":       {header("CC", "A\x00\x00\x00\x00"), true},
		"bytes":          {header("n", "x\x00\x00\x00\x01x"), true},
		"a fraction":     {header("n", "d\x00\x00\x00\x00\x00\x00\x00\x01"), true},
		"a text no UTF8": {header("n", "S\x00\x00\x00\x01\xff"), true},
		"a name no UTF8": {header("\xff", "t\x01"), true},
		"a type":         {message.AppendFieldString(nil, message.Type, "order"), false},
		"a type no UTF8": {message.AppendFieldString(nil, message.Type, "\xff"), true},
	} {
		var r Reply
		if r.SetProperties(c.list); r.Incomplete != c.want {
			t.Errorf("%s: incomplete %t, want %t: %+v", name, r.Incomplete, c.want, r.Properties)
		}
	}
}

func TestPropertiesThatAMQPHasNoRoomFor(t *testing.T) {
	for _, r := range []Request{
		{Properties: Properties{Type: strings.Repeat("x", 256)}},
		{Properties: Properties{Expiration: "-1"}},
		{Properties: Properties{Headers: map[string]any{"": "x"}}},
		{Properties: Properties{Headers: map[string]any{strings.Repeat("x", 256): "x"}}},
	} {
		if list, err := r.AppendProperties(nil); err == nil {
			t.Errorf("%+v: got %q", r.Properties, list)
		}
	}
}
