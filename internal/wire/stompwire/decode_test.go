package stompwire

import (
	"strings"
	"testing"
)

// What a frame means in each version.
func TestFramesAreReadAsTheirVersionHasThem(t *testing.T) {
	for _, c := range []struct {
		name          string
		in            string
		v10, v11, v12 string
	}{
		{
			"LF", "SEND\na:b\n\nbody\x00",
			`SEND "a"="b" "body"`, `SEND "a"="b" "body"`, `SEND "a"="b" "body"`,
		},
		{
			"CR LF", "SEND\r\na:b\r\n\r\nbody\r\n\x00",
			`SEND "a"="b" "body\r\n"`, `SEND "a"="b" "body\r\n"`, `SEND "a"="b" "body\r\n"`,
		},
		{
			"escapes", "SEND\na\\cb:\\\\n\\n\\c\n\n\x00",
			`SEND "a\\cb"="\\\\n\\n\\c" ""`, `SEND "a:b"="\\n\n:" ""`, `SEND "a:b"="\\n\n:" ""`,
		},
		{
			"CONNECT has no escapes", "CONNECT\naccept-version:1.2\npasscode:\\n\\x:\\\n\n\x00",
			`CONNECT "accept-version"="1.2" "passcode"="\\n\\x:\\" ""`,
			`CONNECT "accept-version"="1.2" "passcode"="\\n\\x:\\" ""`,
			`CONNECT "accept-version"="1.2" "passcode"="\\n\\x:\\" ""`,
		},
		{
			"nor has STOMP", "STOMP\naccept-version:1.2\npasscode:\\n\\x:\\\n\n\x00",
			`STOMP "accept-version"="1.2" "passcode"="\\n\\x:\\" ""`,
			`STOMP "accept-version"="1.2" "passcode"="\\n\\x:\\" ""`,
			`STOMP "accept-version"="1.2" "passcode"="\\n\\x:\\" ""`,
		},
		{
			"nor CONNECTED", "CONNECTED\nsession:\\n\\x:\\\n\n\x00",
			`CONNECTED "session"="\\n\\x:\\" ""`, `CONNECTED "session"="\\n\\x:\\" ""`, `CONNECTED "session"="\\n\\x:\\" ""`,
		},
		{
			"spaces around a value", "SEND\n a :  b \n\n \x00",
			`SEND " a "="b " " "`, `SEND " a "="  b " " "`, `SEND " a "="  b " " "`,
		},
		{
			"spaces from a server", "MESSAGE\na: b\n\n\x00",
			`MESSAGE "a"=" b" ""`, `MESSAGE "a"=" b" ""`, `MESSAGE "a"=" b" ""`,
		},
		{
			"colons in a value", "SEND\na:b:c:\n\n\x00",
			`SEND "a"="b:c:" ""`, `SEND "a"="b:c:" ""`, `SEND "a"="b:c:" ""`,
		},
		{
			"bytes that are not UTF-8", "SEND\na\xff:\xfe\n\n\xfd\x00",
			`SEND "a\xff"="\xfe" "\xfd"`, `SEND "a\xff"="\xfe" "\xfd"`, `SEND "a\xff"="\xfe" "\xfd"`,
		},
		{
			"EOLs and NULs in front", "\n\r\n\n\x00\nSEND\n\n\x00",
			`SEND ""`, `SEND ""`, `SEND ""`,
		},
		{
			"a content-length in spaces", "SEND\ncontent-length: 3 \n\na\x00b\x00",
			`SEND "content-length"="3 " "a\x00b"`, `SEND "content-length"=" 3 " "a\x00b"`, `SEND "content-length"=" 3 " "a\x00b"`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for v, want := range map[Version]string{V10: c.v10, V11: c.v11, V12: c.v12} {
				f, rest, err := decodeFrame(&Decoder{Version: v}, []byte(c.in))
				if err != nil || len(rest) != 0 || f.String() != want {
					t.Errorf("%s:\n got %s (%q, %v)\nwant %s", v, f, rest, err, want)
				}
			}
		})
	}
}

// CONNECT says itself of which version the client is.
func TestSpacesInFrontOfValuesOfAConnect(t *testing.T) {
	for accept, want := range map[string]string{
		"":                             "guest",
		"accept-version:1.0\n":         "guest",
		"accept-version: 1.0\n":        "guest",
		"accept-version:1.0,2.0\n":     "guest",
		"accept-version:1.0,1.1\n":     "  guest",
		"accept-version:1.2\n":         "  guest",
		"accept-version:3\n":           "  guest",
		"accept-version:1.2,1.1,1.0\n": "  guest",
	} {
		for _, command := range []string{"CONNECT", "STOMP"} {
			var d Decoder
			if _, err := d.Head([]byte(command + "\nlogin:  guest\n" + accept + "\n")); err != nil {
				t.Fatal(err)
			}
			if got, _ := d.Get(HeaderLogin); string(got) != want {
				t.Errorf("%s %q: %q", command, accept, got)
			}
		}
	}
}

func TestFirstOfRepeatedHeadersCounts(t *testing.T) {
	d := &Decoder{Version: V12}
	f, rest, err := decodeFrame(d, []byte("MESSAGE\nfoo:World\nb\\cr:1\nfoo:Hello\nb\\cr:2\n\n\x00"))
	if err != nil || len(rest) != 0 {
		t.Fatal(rest, err)
	}
	if want := `MESSAGE "foo"="World" "b:r"="1" "foo"="Hello" "b:r"="2" ""`; f.String() != want {
		t.Errorf("got %s, want %s", f, want)
	}
	for name, want := range map[string]string{"foo": "World", "b:r": "1"} {
		if v, ok := d.Get(name); !ok || string(v) != want {
			t.Errorf("%s: %q %t", name, v, ok)
		}
	}
	for _, name := range []string{"", "Foo", "FOO", "b\\cr", "foo "} {
		if v, ok := d.Get(name); ok || v != nil {
			t.Errorf("%q: %q %t", name, v, ok)
		}
	}
}

func TestContentLengthDecidesWhereTheBodyEnds(t *testing.T) {
	for _, c := range []struct {
		name, headers, rest string
		length              int64
		body                string
	}{
		{"none", "", "a\x00b\x00", -1, "a"},
		{"none, and no body", "", "\x00", -1, ""},
		{"of a body with NULs", "content-length:3\n", "a\x00b\x00", 3, "a\x00b"},
		{"of a body of NULs", "content-length:2\n", "\x00\x00\x00", 2, "\x00\x00"},
		{"zero", "content-length:0\n", "\x00", 0, ""},
		{"zeros in front", "content-length:" + strings.Repeat("0", 100) + "3\n", "abc\x00", 3, "abc"},
		{"twice the same", "content-length:3\ncontent-length:3\n", "abc\x00", 3, "abc"},
		{"twice the same, written otherwise", "content-length:3\ncontent-length:003\n", "abc\x00", 3, "abc"},
		{"another name", "Content-Length:3\n", "a\x00b\x00", -1, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, command := range []Command{Send, Message, Err} {
				d := &Decoder{Version: V12}
				src := []byte(command.String() + "\n" + c.headers + "\n")
				if n, err := d.Head(src); n != len(src) || err != nil || d.Length != c.length {
					t.Fatal(n, err, d.Length)
				}
				body, n, err := d.Body([]byte(c.rest))
				if string(body) != c.body || n != len(c.body)+1 || err != nil {
					t.Errorf("%q %d %v", body, n, err)
				}
			}
		})
	}
}

// Only SEND, MESSAGE and ERROR may have a body. Clients that give one to others
// are understood by RabbitMQ, which drops it.
func TestBodiesWhereThereMayBeNone(t *testing.T) {
	for c := Connect; c <= Err; c++ {
		d := &Decoder{Version: V12}
		for _, in := range []string{
			c.String() + "\n\nbody\x00",
			c.String() + "\ncontent-length:4\n\nbody\x00",
			c.String() + "\ncontent-length:0\n\n\x00",
		} {
			f, rest, err := decodeFrame(d, []byte(in+"RECEIPT\n\n\x00"))
			if err != nil || f.command != c || string(rest) != "RECEIPT\n\n\x00" {
				t.Errorf("%q: %s %q %v", in, f, rest, err)
			}
		}
		if want := c == Send || c == Message || c == Err; c.MayHaveBody() != want {
			t.Errorf("%s.MayHaveBody: %t", c, !want)
		}
	}
}

func TestEOLs(t *testing.T) {
	for in, want := range map[string]int{
		"": 0, "\n": 1, "\r": 0, "\r\n": 2, "\n\r\n\n": 4, "\n\r": 1, "\r\r\n": 0, "\n\nSEND\n": 2, "SEND\n": 0, "\n \n": 1, "\x00\n\x00": 3,
	} {
		if got := EOLs([]byte(in)); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

// A server reads a large body to its place by itself, and then goes on with the
// next head.
func TestOwnerMayTakeTheBodyItself(t *testing.T) {
	d := &Decoder{Version: V12}
	src := []byte("SEND\ncontent-length:4\n\nbody\x00\nSEND\nx:y\n\n")
	n, err := d.Head(src)
	if err != nil || d.Length != 4 {
		t.Fatal(n, err, d.Length)
	}
	if _, n, err := d.Body(src[n : n+2]); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	src = src[n+4+1:]
	if n, err := d.Head(src); n != len(src) || err != nil || d.Length != -1 {
		t.Error(n, err, d.Length)
	}
	if v, _ := d.Get("x"); string(v) != "y" {
		t.Errorf("%q", v)
	}
}

// Headers without escapes are where the peer's bytes are, and appending to one
// does not write over the next.
func TestHeadersPointIntoTheBytes(t *testing.T) {
	src := []byte("SEND\na:b\nc:d\\ne\nf:g\n\nbody\x00next")
	d := &Decoder{Version: V12}
	n, err := d.Head(src)
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := d.Body(src[n:])
	if err != nil {
		t.Fatal(err)
	}
	if &d.Headers[0].Value[0] != &src[7] || &d.Headers[2].Name[0] != &src[16] {
		t.Error("a header was copied")
	}
	_ = append(body, '!')
	for _, h := range d.Headers {
		_ = append(h.Name, '!')
		_ = append(h.Value, '!')
	}
	if string(src) != "SEND\na:b\nc:d\\ne\nf:g\n\nbody\x00next" || string(d.Headers[1].Value) != "d\ne" {
		t.Errorf("%q, %q", src, d.Headers[1].Value)
	}
}

func TestVersionsAreNegotiated(t *testing.T) {
	for in, want := range map[string]Version{
		"1.0": V10, "1.1": V11, "1.2": V12, "1.0,1.1,1.2": V12, "1.2,1.1,1.0": V12, "1.0,1.1,2.0": V11, "1.0, 1.1": V11, " 1.2 ": V12,
		"": 0, ",": 0, "2.0": 0, "1.3": 0, "1": 0, "1.20": 0, "1.2;": 0, "1.1\t": 0, "1.0 1.1": 0, ",,1.1,": V11,
	} {
		if v, ok := Negotiate([]byte(in)); v != want || ok != (want != 0) {
			t.Errorf("%q: %s %t", in, v, ok)
		}
	}
	for _, v := range versions {
		if got, ok := ParseVersion(v.String()); got != v || !ok {
			t.Errorf("%s is parsed as %s", v, got)
		}
	}
	if s := Version(0).String(); s != "unnegotiated" {
		t.Error(s)
	}
}
