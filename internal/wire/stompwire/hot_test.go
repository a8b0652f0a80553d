package stompwire

import (
	"strings"
	"testing"
)

// hotPath is what each message costs, with all it needs made beforehand.
func hotPath(t testing.TB) map[string]func() {
	fatal := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	send := []byte("\nSEND\ndestination:/queue/orders\nreceipt:12345\npersistent:true\ncontent-type:text/plain\n" +
		"x-ferry-id:9b2f0c1e-77\ncontent-length:100\n\n" + strings.Repeat("x", 100) + "\x00")
	escaped := []byte(strings.Replace(string(send), "9b2f0c1e", `9b\c2f\\0c\n1e`, 1))
	scanned := []byte(strings.Replace(string(send), "content-length:100\n", "", 1))
	decode := func(d *Decoder, src []byte) func() {
		return func() {
			n, err := d.Head(src)
			fatal(err)
			body, m, err := d.Body(src[n:])
			fatal(err)
			if v, ok := d.Get(HeaderDestination); !ok || len(v) != 13 || len(body) != 100 || n+m != len(src) {
				t.Fatalf("%q %q, %d and %d of %d", v, body, n, m, len(src))
			}
		}
	}
	ack := []byte("ACK\nid:12345\n\n\x00")
	d := &Decoder{Version: V12}
	var (
		buf         = make([]byte, 0, 4096)
		destination = []byte("/queue/orders")
		body        = make([]byte, 100)
		id          = "x-ferry-id"
		idValue     = []byte("9b2f:0c1e-77")
	)
	return map[string]func(){
		"DecodeSend":        decode(&Decoder{Version: V12}, send),
		"DecodeSendEscaped": decode(&Decoder{Version: V12}, escaped),
		"DecodeSendNoCount": decode(&Decoder{Version: V12}, scanned),
		"DecodeSend10":      decode(&Decoder{Version: V10}, send),
		"DecodeAck": func() {
			n, err := d.Head(ack)
			fatal(err)
			_, _, err = d.Body(ack[n:])
			fatal(err)
		},
		"EncodeMessage": func() {
			out := AppendCommand(buf, Message)
			out, err := AppendHeader(out, V12, HeaderSubscription, "0")
			fatal(err)
			out, err = AppendHeader(out, V12, HeaderDestination, destination)
			fatal(err)
			out, err = AppendHeader(out, V12, id, idValue)
			fatal(err)
			out = AppendHeaderInt(out, HeaderMessageID, 1234567)
			out = AppendHeaderInt(out, HeaderContentLength, int64(len(body)))
			out = append(AppendHeadEnd(out), body...)
			_ = append(out, 0)
		},
		"EncodeReceipt": func() {
			out := AppendCommand(buf, Receipt)
			out, err := AppendHeader(out, V12, HeaderReceiptID, idValue)
			fatal(err)
			_ = append(AppendHeadEnd(out), 0)
		},
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	for name, f := range hotPath(t) {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %.0f times", name, n)
		}
	}
}

func BenchmarkHotPath(b *testing.B) {
	for name, f := range hotPath(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
