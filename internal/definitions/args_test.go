package definitions

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

func object(t testing.TB, text string) map[string]any {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestArgumentsAreThoseThatRabbitMQMakesOfJSON(t *testing.T) {
	list, err := AppendArgs(nil, object(t, `{"z":1,"a":"x","b":true,"c":[1.5,{"d":"e"}],"f":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := "\x01aS\x00\x00\x00\x01x" + "\x01bt\x01" +
		"\x01cA\x00\x00\x00\x16d\x3f\xf8\x00\x00\x00\x00\x00\x00F\x00\x00\x00\x08\x01dS\x00\x00\x00\x01e" +
		"\x01fF\x00\x00\x00\x00" + "\x01zl\x00\x00\x00\x00\x00\x00\x00\x01"
	if string(list) != want {
		t.Errorf("got  %q\nwant %q", list, want)
	}
	back, err := json.Marshal(Args(list))
	if err != nil || string(back) != `{"a":"x","b":true,"c":[1.5,{"d":"e"}],"f":{},"z":1}` {
		t.Errorf("back: %s %v", back, err)
	}
}

func TestArgumentsThatCannotBeAreRefused(t *testing.T) {
	deep := strings.Repeat(`{"a":`, message.MaxNesting+1) + "1" + strings.Repeat("}", message.MaxNesting+1)
	for _, text := range []string{`{"a":null}`, `{"a":[null]}`, `{"a":1e999}`, `{"` + strings.Repeat("n", 256) + `":1}`, deep} {
		if list, err := AppendArgs(nil, object(t, text)); err == nil {
			t.Errorf("%.40s: %q", text, list)
		}
	}
}

func FuzzArgs(f *testing.F) {
	f.Add(`{"a":1,"b":[true,"x",{"c":-1.5}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		var m map[string]any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if d.Decode(&m) != nil {
			return
		}
		list, err := AppendArgs(nil, m)
		if err != nil {
			return
		}
		if _, ok := message.DecodeHeaders(list); !ok {
			t.Fatalf("%q became a list that is damaged: %q", text, list)
		}
		// What JSON makes of the list is the list again.
		once, err := json.Marshal(Args(list))
		if err != nil {
			t.Fatal(err)
		}
		again, err := AppendArgs(nil, object(t, string(once)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(list, again) && !reflect.DeepEqual(Args(list), Args(again)) {
			// A double that is whole comes back as a long.
			if !bytes.ContainsRune(list, 'd') {
				t.Fatalf("%q became %q, then %q", text, list, again)
			}
		}
	})
}
