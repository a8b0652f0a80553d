package amqp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// Each frame with every field set, as the specification (and RabbitMQ) has it.
func TestFramesAreWhatTheSpecificationSays(t *testing.T) {
	publish, bodyAt := AppendPublish(nil, 1, Message{Exchange: "x", Key: "key", Persistent: true}, []byte("12345678"), 4096)
	if string(publish[bodyAt:bodyAt+8]) != "12345678" {
		t.Errorf("the body is not at %d", bodyAt)
	}
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"queue.declare durable", AppendQueueDeclare(nil, 1, "q", false, true), "01 0001 0000000d 0032000a 0000 0171 02 00000000 ce"},
		{"queue.declare passive", AppendQueueDeclare(nil, 1, "q", true, false), "01 0001 0000000d 0032000a 0000 0171 01 00000000 ce"},
		{"queue.bind", AppendQueueBind(nil, 1, "q", "x"), "01 0001 00000010 00320014 0000 0171 0178 00 00 00000000 ce"},
		{"queue.delete", AppendQueueDelete(nil, 1, "q"), "01 0001 00000009 00320028 0000 0171 00 ce"},
		{"exchange.declare", AppendExchangeDeclare(nil, 1, "x", "fanout", true), "01 0001 00000014 0028000a 0000 0178 0666616e6f7574 02 00000000 ce"},
		{"exchange.delete", AppendExchangeDelete(nil, 1, "x"), "01 0001 00000009 00280014 0000 0178 00 ce"},
		{"basic.qos", AppendQos(nil, 1, 1000), "01 0001 0000000b 003c000a 00000000 03e8 00 ce"},
		{"basic.consume", AppendConsume(nil, 1, "q", true), "01 0001 0000000e 003c0014 0000 0171 00 02 00000000 ce"},
		{"confirm.select", AppendConfirmSelect(nil, 1), "01 0001 00000005 0055000a 00 ce"},
		{"basic.ack", AppendAck(nil, 1, 258), "01 0001 0000000d 003c0050 0000000000000102 01 ce"},
		{"connection.close", AppendConnectionClose(nil), "01 0000 0000000f 000a0032 00c8 04646f6e65 0000 0000 ce"},
		{"publish", publish, "01 0001 0000000d 003c0028 0000 0178 036b6579 00 ce" +
			"02 0001 0000000f 003c 0000 0000000000000008 1000 02 ce" +
			"03 0001 00000008 3132333435363738 ce"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(c.name, err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, c.got, want)
		}
	}
}

func TestBodyIsCutToTheFrameMaximum(t *testing.T) {
	const frameMax = 32 // 24 bytes of payload
	body := bytes.Repeat([]byte("0123456789"), 10)
	p, _ := AppendPublish(nil, 1, Message{Key: "q"}, body, frameMax)
	var got []byte
	var sizes []int
	for len(p) > 0 {
		f, n, err := Parse(p)
		if err != nil || n == 0 {
			t.Fatalf("n %d, %v", n, err)
		}
		if f.Type == FrameBody {
			got = append(got, f.Payload...)
			sizes = append(sizes, n)
		}
		p = p[n:]
	}
	if !bytes.Equal(got, body) {
		t.Errorf("got %q", got)
	}
	if len(sizes) != 5 || sizes[0] != frameMax {
		t.Errorf("frames of %d bytes", sizes)
	}
}

func TestParseWaitsForAWholeFrame(t *testing.T) {
	frame := AppendAck(nil, 7, 9)
	for n := range len(frame) {
		if _, used, err := Parse(frame[:n]); used != 0 || err != nil {
			t.Fatalf("%d bytes: used %d, %v", n, used, err)
		}
	}
	f, n, err := Parse(append(frame, 1, 2, 3))
	if err != nil || n != len(frame) || f.Method() != BasicAck || f.Channel != 7 {
		t.Errorf("%+v, %d, %v", f, n, err)
	}
	frame[len(frame)-1] = 0
	if _, _, err := Parse(frame); !errors.Is(err, ErrFrame) {
		t.Errorf("without the end octet: %v", err)
	}
}

func TestClosedGivesTheReason(t *testing.T) {
	payload := append([]byte{0, 20, 0, 40, 1, 0x94, 9}, "NOT_FOUND\x00\x00\x00\x00"...)
	var closed *ClosedError
	if err := Closed(payload); !errors.As(err, &closed) || closed.Code != 404 || closed.Text != "NOT_FOUND" {
		t.Errorf("%v", err)
	}
	if err := Closed([]byte{0, 60, 0, 80, 0, 0, 0, 0}); err != nil {
		t.Errorf("an acknowledgement: %v", err)
	}
	if err := Closed([]byte{0, 60, 0, 30, 1, 'c', 0}); err == nil {
		t.Error("a cancelled consumer is no error")
	}
}
