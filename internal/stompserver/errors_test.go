package stompserver

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

func TestEveryKindOfErrorHasAName(t *testing.T) {
	for _, k := range broker.Kinds() {
		if names[k] == "" {
			t.Errorf("kind %d has none", k)
		}
		f, ok := asFault(fmt.Errorf("wrapped: %w", &broker.Error{Kind: k, Text: "text"}))
		if !ok || f.message != names[k] || f.detail != strings.ToUpper(names[k])+" - text" {
			t.Errorf("kind %d is %v", k, f)
		}
	}
}

func TestErrorsOfTheNetworkAreNoFaults(t *testing.T) {
	for _, err := range []error{io.EOF, netserve.ErrIdle, netserve.ErrLogin, errors.New("reset"), nil} {
		if f, ok := asFault(err); ok {
			t.Errorf("%v is %v", err, f)
		}
	}
}

// What an ERROR repeats of a peer's text cannot become a header.
func TestErrorFrameIsWellFormed(t *testing.T) {
	for _, v := range []stompwire.Version{0, stompwire.V10, stompwire.V11, stompwire.V12} {
		f := &fault{message: "a", detail: "b\x00c\n", receipt: []byte("r\nforged:1"), subscription: "s\rforged:1"}
		b := appendError(nil, v, f)
		d := stompwire.Decoder{Version: v}
		n, err := d.Head(b)
		if err != nil {
			t.Fatal(err)
		}
		if body, m, err := d.Body(b[n:]); err != nil || n+m != len(b) || string(body) != f.detail {
			t.Errorf("%v: got %q", v, b)
		}
		if _, ok := d.Get("forged"); ok {
			t.Errorf("%v: got %q", v, b)
		}
	}
}

func TestProtocolIsRecognisedByItsFirstFrame(t *testing.T) {
	match := New(Config{}).Protocol().Match
	for in, want := range map[string]string{
		"C": "more", "CONNECT": "more", "CONNECT\n": "yes", "CONNECT\r\n": "yes", "STOMP\nx": "yes", "STOMP\r": "yes",
		"\n": "more", "\r": "more", "\r\n\n": "more", "\n\nCONN": "more", "\n\r\nCONNECT\n": "yes",
		"CONNECT example.org:80 HTTP/1.1\r\n": "no", "SEND\n": "no", "AMQP": "no", "GET /": "no", "{": "no", "\rC": "no", "CONNECTED\n": "no",
	} {
		got := "no"
		if is, more := match([]byte(in)); is {
			got = "yes"
		} else if more {
			got = "more"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
