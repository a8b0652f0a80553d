package gmqwire

import (
	"errors"
	"strings"
	"testing"
)

var objects = []string{
	`{}`, `{ }`, `{"a":1}`, `{"a":-0.5e+10,"b":[1,2,{"c":null}],"d":true,"e":false}`, `{"a":"}\"\\\u007d"}`, `{"a":[]}`, `{"a":[[],{}]}`,
	"{\n\t\"a\" :\r 0 }", `{"a":0,"a":1.0}`, goldenRequest, goldenReply, `{"é":"` + "\xff" + `"}`,
}

// Wherever the network cuts it, the end of an object is found with its last byte.
func TestScanFindsTheEndHoweverItComes(t *testing.T) {
	for _, object := range objects {
		for step := 1; step <= len(object); step++ {
			var s Scanner
			text := []byte(object + "}{\"")
			for n := min(step, len(text)); ; n = min(n+step, len(text)) {
				got, err := s.Scan(text[:n])
				if err != nil {
					t.Fatalf("%s at %d: %v", object, n, err)
				}
				if n < len(object) && got != 0 {
					t.Fatalf("%s: ended at %d, of %d bytes", object, got, n)
				}
				if n >= len(object) {
					if got != len(object) {
						t.Fatalf("%s: got %d, want %d", object, got, len(object))
					}
					break
				}
			}
		}
	}
}

// What cannot become an object is refused at the byte that shows it.
func TestScanRefusesAtTheFirstWrongByte(t *testing.T) {
	for _, c := range []struct {
		good, bad string
		want      string
	}{
		{``, `[`, "found \"[\" at byte 1, where a JSON object begins with {"},
		{``, `G`, "where a JSON object begins with {"},
		{`{`, `,`, "found \",\" at byte 2, where a key is expected"},
		{`{"a"`, `,`, "where a : is expected"},
		{`{"a":`, `}`, "where a value is expected"},
		{`{"a":`, `o`, "where a value is expected"},
		{`{"a":n`, `o`, `where "ull" goes on`},
		{`{"a":1`, `]`, "where a , or } is expected"},
		{`{"a":[1`, `}`, "where a , or ] is expected"},
		{`{"a":[1,`, `]`, "where a value is expected"},
		{`{"a":1,`, `}`, "where a key is expected"},
		{`{"a":0`, `1`, "behind a leading 0"},
		{`{"a":-`, `}`, "where a digit is expected"},
		{`{"a":1.`, `}`, "where a digit is expected"},
		{`{"a":1e`, `}`, "where a digit is expected"},
		{`{"a":1e+`, `}`, "where a digit is expected"},
		{`{"a":1e5`, `.`, "where a , or } is expected"},
		{`{"a":"`, "\n", `in a text, where it must be written \u000a`},
		{`{"a":"`, "\x00", `in a text, where it must be written \u0000`},
		{`{"a":"\`, `x`, `behind a \`},
		{`{"a":"\u00`, `g`, `where four hexadecimal digits follow \u`},
		{`{"a":` + strings.Repeat("[", MaxNesting-1), `[`, "nest more than 32 deep"},
	} {
		var s Scanner
		if n, err := s.Scan([]byte(c.good)); n != 0 || err != nil {
			t.Errorf("%q: got %d, %v", c.good, n, err)
		}
		_, err := s.Scan([]byte(c.good + c.bad))
		var we *Error
		if !errors.As(err, &we) || !strings.Contains(we.Text, c.want) {
			t.Errorf("%q and %q: got %v, want %q", c.good, c.bad, err, c.want)
		}
	}
}

func TestScanKeepsToItsLimit(t *testing.T) {
	const object = `{"a":"bc"}`
	for _, c := range []struct {
		max  int
		text string
		ok   bool
	}{
		{len(object), object, true},
		{len(object), object + "more", true},
		{len(object) - 1, object, false},
		{len(object) - 1, object[:len(object)-1], false},
		{len(object) - 1, object[:len(object)-2], true},
	} {
		s := Scanner{Max: c.max}
		_, err := s.Scan([]byte(c.text))
		var we *Error
		if tooLarge := errors.As(err, &we) && we.TooLarge; tooLarge == c.ok {
			t.Errorf("%d, %s: got %v", c.max, c.text, err)
		}
	}
}
