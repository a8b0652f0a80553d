package stompwire_test

import (
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// A stream is EOLs and frames; a frame is a head and a body.
func Example() {
	d := stompwire.Decoder{Version: stompwire.V12}
	buf := []byte("\n\r\nSEND\ndestination:/queue/a\ncontent-length:3\nnote:a\\cb\n\na\x00b\x00\nBEGIN\ntransaction:t\n\n\x00\n")
	for {
		buf = buf[stompwire.EOLs(buf):]
		n, err := d.Head(buf)
		if err != nil {
			fmt.Println(err)
			return
		}
		if n == 0 {
			return // read more
		}
		fmt.Println(d.Command, d.Length)
		for _, h := range d.Headers {
			fmt.Printf("  %s = %s\n", h.Name, h.Value)
		}
		buf = buf[n:]
		body, n, err := d.Body(buf)
		if err != nil {
			fmt.Println(err)
			return
		}
		if n == 0 {
			return // read more, and call Body again
		}
		fmt.Printf("  %q\n", body)
		buf = buf[n:]
	}
	// Output:
	// SEND 3
	//   destination = /queue/a
	//   content-length = 3
	//   note = a:b
	//   "a\x00b"
	// BEGIN -1
	//   transaction = t
	//   ""
}

// A frame without an allocation: the caller has the room.
func ExampleAppendHeader() {
	buf := make([]byte, 0, 4096)
	body := []byte("hello")
	out := stompwire.AppendCommand(buf, stompwire.Message)
	out, err := stompwire.AppendHeader(out, stompwire.V12, stompwire.HeaderDestination, "/queue/a")
	if err != nil {
		fmt.Println(err)
		return
	}
	out = stompwire.AppendHeaderInt(out, stompwire.HeaderContentLength, int64(len(body)))
	out = append(stompwire.AppendHeadEnd(out), body...)
	out = append(out, 0)
	fmt.Printf("%q\n", out)

	_, err = stompwire.AppendHeader(buf, 0, stompwire.HeaderLogin, "guest\nhost:other")
	fmt.Println(err)
	// Output:
	// "MESSAGE\ndestination:/queue/a\ncontent-length:5\n\nhello\x00"
	// '\n' in the value of header "login" cannot be sent in a CONNECT or CONNECTED frame
}

func ExampleAppendFrame() {
	frame, err := stompwire.AppendFrame(nil, stompwire.V11, stompwire.Send, []stompwire.Header{
		{Name: []byte("destination"), Value: []byte("/queue/a")},
		{Name: []byte("note"), Value: []byte("two\nlines")},
	}, []byte("hello"))
	fmt.Printf("%q %v\n", frame, err)
	// Output:
	// "SEND\ndestination:/queue/a\nnote:two\\nlines\ncontent-length:5\n\nhello\x00" <nil>
}

// An error carries what the peer is to be told.
func ExampleError() {
	var d stompwire.Decoder
	_, err := d.Head([]byte("SEND\ncontent-length:99999999999999999999\n"))
	fmt.Println(err)
	_, err = d.Head([]byte("SEND\ncontent-length:99999999999999999999\n\n"))
	if e, ok := errors.AsType[*stompwire.Error](err); ok {
		fmt.Println(e.TooLarge, e)
	}
	// Output:
	// <nil>
	// true the body of a SEND frame is more than 16777216 bytes
}

func ExampleNegotiate() {
	fmt.Println(stompwire.Negotiate([]byte("1.0,1.1")))
	fmt.Println(stompwire.Negotiate([]byte("2.0")))
	// Output:
	// 1.1 true
	// unnegotiated false
}

func ExampleParseHeartBeat() {
	send, receive, err := stompwire.ParseHeartBeat([]byte("10000,0"))
	fmt.Println(send, receive, err)
	// Output:
	// 10s 0s <nil>
}
