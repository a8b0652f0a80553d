package amqpserver

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func TestEveryKindOfErrorHasAReplyCode(t *testing.T) {
	for _, k := range broker.Kinds() {
		code, ok := replyCodes[k]
		if !ok || amqpwire.ReplyName(code) == "" {
			t.Errorf("kind %d has the code %d", k, code)
		}
		f, ok := asFault(fmt.Errorf("wrapped: %w", &broker.Error{Kind: k, Text: "text"}), 50, 10)
		if want := (fault{code: code, text: "text", class: 50, method: 10}); !ok || *f != want {
			t.Errorf("got %+v, want %+v", f, want)
		}
	}
	if len(replyCodes) != len(broker.Kinds()) {
		t.Errorf("%d codes for %d kinds", len(replyCodes), len(broker.Kinds()))
	}
	if f, ok := asFault(errors.New("of the network"), 0, 0); ok {
		t.Errorf("got %+v", f)
	}
}

func TestReplyTextFitsAShortString(t *testing.T) {
	f := faultf(amqpwire.PreconditionFailed, "%s", strings.Repeat("é", 300))
	if s := f.Error(); len(s) > 255 || !strings.HasPrefix(s, "PRECONDITION_FAILED - é") || !strings.HasSuffix(s, "é...") {
		t.Errorf("got %q", s)
	}
}

// The texts are what erl 25 prints.
func TestTermsPrintAsErlangPrintsThem(t *testing.T) {
	for in, want := range map[string]string{
		"":                 `<<>>`,
		"abc":              `<<"abc">>`,
		"a\"b\\\n\x1b\x00": `<<97,34,98,92,10,27,0>>`,
		"a\"b\\\n\x1b":     `<<"a\"b\\\n\e">>`,
		"\x00\x0a\x00\x32": `<<0,10,0,50>>`,
		"\x7f":             `<<127>>`,
		"caf\xe9":          `<<"café">>`,
	} {
		if got := term([]byte(in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
	if got := octets([]byte("abc")); got != `<<97,98,99>>` {
		t.Errorf("got %s", got)
	}
	if got := octets(make([]byte, 1<<20)); len(got) > 300 {
		t.Errorf("%d bytes", len(got))
	}
	if got, want := snippet([]byte("0123456789abcdefg")), `first 16 octets = <<"0123456789abcdef">>`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCredentials(t *testing.T) {
	table := func(t amqpwire.Table) string {
		b, err := amqpwire.AppendHeadersFromTable(nil, t)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	for _, row := range []struct {
		mechanism, response string
		name, password      string
		ok                  bool
	}{
		{"PLAIN", "\x00me\x00secret", "me", "secret", true},
		{"PLAIN", "\x00\x00", "", "", true},
		{"PLAIN", "\x00me\x00", "me", "", true},
		{"PLAIN", "", "", "", false},
		{"PLAIN", "me\x00secret", "", "", false},
		{"PLAIN", "me\x00me\x00secret", "", "", false},
		{"PLAIN", "\x00me\x00sec\x00ret", "", "", false},
		{"AMQPLAIN", table(amqpwire.Table{"LOGIN": "me", "PASSWORD": "secret", "more": int32(1)}), "me", "secret", true},
		{"AMQPLAIN", table(amqpwire.Table{"LOGIN": "me"}), "", "", false},
		{"AMQPLAIN", table(amqpwire.Table{"LOGIN": "me", "PASSWORD": int32(1)}), "", "", false},
		{"AMQPLAIN", "\x05LOGIN", "", "", false},
		{"AMQPLAIN", "", "", "", false},
		{"plain", "\x00me\x00secret", "", "", false},
		{"ANONYMOUS", "", "", "", false},
	} {
		name, password, err := credentials(row.mechanism, []byte(row.response))
		if name != row.name || password != row.password || (err == nil) != row.ok {
			t.Errorf("%s %q: got %q %q %v", row.mechanism, row.response, name, password, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}
