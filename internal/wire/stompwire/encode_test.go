package stompwire

import (
	"strings"
	"testing"
)

func TestHeadersAreEscapedAsTheirVersionHasThem(t *testing.T) {
	for _, c := range []struct {
		name, value         string
		v0, v10, v11, v12   string
		err0, err11, errV12 string
	}{
		{"a", "b", "a:b", "a:b", "a:b", "a:b", "", "", ""},
		{"a", "", "a:", "a:", "a:", "a:", "", "", ""},
		{" a ", " b ", " a : b ", " a : b ", " a : b ", " a : b ", "", "", ""},
		{"a", "b:c", "a:b:c", "a:b:c", `a:b\cc`, `a:b\cc`, "", "", ""},
		{"a", `\n\`, `a:\n\`, `a:\n\`, `a:\\n\\`, `a:\\n\\`, "", "", ""},
		{`a\`, "b", `a\:b`, `a\:b`, `a\\:b`, `a\\:b`, "", "", ""},
		{"a:b", "c", "", "", `a\cb:c`, `a\cb:c`, `':' in the name`, "", ""},
		{"a", "b\nc", "", "", `a:b\nc`, `a:b\nc`, `'\n' in the value`, "", ""},
		{"a\nb", "c", "", "", `a\nb:c`, `a\nb:c`, `'\n' in the name`, "", ""},
		{"a", "b\rc", "", "", "", `a:b\rc`, `'\r' in the value`, `'\r' in the value`, ""},
		{"a\rb", "c", "", "", "", `a\rb:c`, `'\r' in the name`, `'\r' in the name`, ""},
		{"a", "b\x00c", "", "", "", "", `'\x00' in the value`, `'\x00' in the value`, `'\x00' in the value`},
		{"a\x00b", "c", "", "", "", "", `'\x00' in the name`, `'\x00' in the name`, `'\x00' in the name`},
		{"", "c", "", "", "", "", "without a name", "without a name", "without a name"},
		{"\xff", "\xfe\t\x01\x7f", "\xff:\xfe\t\x01\x7f", "\xff:\xfe\t\x01\x7f", "\xff:\xfe\t\x01\x7f", "\xff:\xfe\t\x01\x7f", "", "", ""},
	} {
		for _, w := range []struct {
			v         Version
			want, err string
		}{{0, c.v0, c.err0}, {V10, c.v10, c.err0}, {V11, c.v11, c.err11}, {V12, c.v12, c.errV12}} {
			dst := make([]byte, 6, 100)
			copy(dst, "before")
			out, err := AppendHeader(dst, w.v, c.name, c.value)
			same, sameErr := AppendHeader([]byte("before"), w.v, []byte(c.name), []byte(c.value))
			if string(out) != string(same) || (err == nil) != (sameErr == nil) {
				t.Errorf("%s %q %q: as text %q %v, as bytes %q %v", w.v, c.name, c.value, out, err, same, sameErr)
			}
			if w.err != "" {
				wantFault(t, err, w.err, false)
				if string(out) != "before" {
					t.Errorf("%s %q %q: dst is %q", w.v, c.name, c.value, out)
				}
				continue
			}
			if err != nil || string(out) != "before"+w.want+"\n" {
				t.Errorf("%s %q %q: %q %v, want %q", w.v, c.name, c.value, out, err, w.want)
			}
		}
	}
}

// Netty wrote CONNECT as it was given, so that a login with a line in it was more
// headers (GHSA-3g8r-4pfx-jmfh).
func TestConnectCannotBeInjectedInto(t *testing.T) {
	for _, bad := range []string{"guest\nhost:other", "guest\r\nhost:other", "guest\n\n\x00SEND\n", "guest\x00", "guest\r"} {
		for _, c := range []Command{Connect, Stomp, Connected} {
			for _, v := range append(versions, 0) {
				dst := []byte("before")
				out, err := AppendFrame(dst, v, c, []Header{{Name: []byte("login"), Value: []byte(bad)}}, nil)
				wantFault(t, err, `in the value of header "login" cannot be sent in a CONNECT or CONNECTED frame`, false)
				if string(out) != "before" {
					t.Errorf("dst is %q", out)
				}
				out, err = AppendFrame(dst, v, c, []Header{{Name: []byte(bad), Value: []byte("x")}}, nil)
				wantFault(t, err, `cannot be sent in a CONNECT or CONNECTED frame`, false)
				if string(out) != "before" {
					t.Errorf("dst is %q", out)
				}
			}
		}
	}
}

// A passcode is in no error: errors are logged.
func TestErrorsDoNotRepeatValues(t *testing.T) {
	_, err := AppendHeader(nil, 0, HeaderPasscode, "sec\nret")
	wantFault(t, err, "passcode", false)
	for _, in := range []string{"passcode:sec\x00ret\n\n", "passcode:sec\rret\n\n", "passcode:secret" + strings.Repeat("x", 20_000)} {
		var d Decoder
		_, err2 := d.Head([]byte("CONNECT\n" + in))
		wantFault(t, err2, "passcode", len(in) > 1000)
		if strings.Contains(err.Error()+err2.Error(), "sec") {
			t.Error(err, err2)
		}
	}
}

func TestFramesThatCannotBe(t *testing.T) {
	for c := Connect; c <= Err; c++ {
		out, err := AppendFrame([]byte("before"), V12, c, nil, []byte("body"))
		if c.MayHaveBody() {
			if want := "before" + c.String() + "\ncontent-length:4\n\nbody\x00"; string(out) != want || err != nil {
				t.Errorf("%q %v", out, err)
			}
			continue
		}
		wantFault(t, err, "a "+c.String()+" frame cannot have a body", false)
		if string(out) != "before" {
			t.Errorf("dst is %q", out)
		}
	}
	out, err := AppendFrame([]byte("before"), V12, Send, headersOf("content-length", "3"), []byte("body"))
	wantFault(t, err, "the content-length of a SEND frame is added to it", false)
	if string(out) != "before" {
		t.Errorf("dst is %q", out)
	}
}

func TestNumbersAreWritten(t *testing.T) {
	for n, want := range map[int64]string{0: "x:0\n", -1: "x:-1\n", 1<<63 - 1: "x:9223372036854775807\n"} {
		if got := AppendHeaderInt(nil, "x", n); string(got) != want {
			t.Errorf("%q", got)
		}
	}
}
