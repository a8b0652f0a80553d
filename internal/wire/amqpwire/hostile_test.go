package amqpwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

// Each test here is a class of fault that was found in another broker or client.

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// amqp091-go made room for the body from the size in the header
// (CVE-2026-77410); a header is only a claim.
func TestBodySizeInHeaderAllocatesNothing(t *testing.T) {
	for _, size := range []uint64{1 << 62, 1 << 63, 1<<64 - 1} {
		payload := AppendContentHeader(nil, 1, size, nil)
		payload = payload[7 : len(payload)-1]
		var h ContentHeader
		var err error
		if n := testing.AllocsPerRun(10, func() { h, err = ParseContentHeader(payload) }); n != 0 {
			t.Errorf("body size %d: %.0f allocations", size, n)
		}
		if err != nil || h.BodySize != size {
			t.Errorf("body size %d: read as %d (%v)", size, h.BodySize, err)
		}
	}
}

// A frame's length is refused before its payload is there, and nothing is
// allocated for it.
func TestFrameLengthIsCheckedBeforeThePayload(t *testing.T) {
	for _, size := range []uint32{DefaultFrameMax - FrameOverhead + 1, 1 << 31, 1<<32 - 8, 1<<32 - 1} {
		header := AppendFrameHeader(nil, FrameBody, 1, size)
		_, _, err := ParseFrame(header, DefaultFrameMax)
		wantError(t, err, FrameError, "at most 131064")
	}
}

// amqp091-go took a limit of 0, before tune, for "unlimited"
// (CVE-2026-107386).
func TestFrameLimitZeroIsNotUnlimited(t *testing.T) {
	_, _, err := ParseFrame(AppendFrameHeader(nil, FrameMethod, 0, PreAuthFrameMax-FrameOverhead+1), 0)
	wantError(t, err, FrameError, "at most 8184")
	if _, n, err := ParseFrame(AppendFrameHeader(nil, FrameMethod, 0, PreAuthFrameMax-FrameOverhead), 0); n != 0 || err != nil {
		t.Errorf("the largest frame before tune: %d %v", n, err)
	}
}

// The Java client took frames larger than it had negotiated (CVE-2026-61634),
// and what is sent must not be larger either.
func TestFramesLargerThanNegotiatedAreRefusedAndNotSent(t *testing.T) {
	body := make([]byte, 3*MinFrameSize)
	wire := AppendBody(nil, 1, body, DefaultFrameMax)
	_, _, err := ParseFrame(wire, MinFrameSize)
	wantError(t, err, FrameError, "at most 4088")
	for wire = AppendBody(nil, 1, body, MinFrameSize); len(wire) > 0; {
		_, n, err := ParseFrame(wire, MinFrameSize)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		wire = wire[n:]
	}
}

// amqp091-go's readLongstr computed with a length near 2^32 and went on behind
// the frame, so that a payload could smuggle in a frame (CVE-2026-77411). Where a
// length is wrong nothing is decoded, and where one frame ends is decided by its
// own length alone.
func TestLongStringLengthCannotInjectAFrame(t *testing.T) {
	smuggled := AppendAck(nil, 1, 1, true)
	for _, length := range []uint32{1<<32 - 1, 1<<32 - 4, 1<<32 - 8, 1 << 31, 1<<31 - 1, uint32(len(smuggled)) + 1} {
		payload := []byte{0, byte(ClassConnection), 0, byte(MethodConnectionSecureOk)}
		payload = binary.BigEndian.AppendUint32(payload, length)
		payload = append(payload, smuggled...)
		wire := AppendFrameHeader(nil, FrameMethod, 0, uint32(len(payload)))
		wire = append(append(wire, payload...), FrameEnd)

		f, n, err := ParseFrame(wire, DefaultFrameMax)
		if err != nil || n != len(wire) {
			t.Fatalf("length %d: took %d of %d bytes (%v)", length, n, len(wire), err)
		}
		m, err := ParseMethod(f.Payload)
		wantError(t, err, FrameError, "long string")
		if m != nil {
			t.Errorf("length %d: decoded %+v", length, m)
		}
	}
}

// The same in a table, in headers, and in a text within.
func TestTableLengthCannotLeaveItsFrame(t *testing.T) {
	for _, length := range []uint32{1<<32 - 1, 1<<32 - 4, 1 << 31, 9} {
		cut := binary.BigEndian.AppendUint32(nil, length)
		cut = append(cut, "\x01at\x01"...)
		_, _, err := ParseTable(cut)
		wantError(t, err, FrameError, "table")
		_, _, err = PropertiesToMessage(nil, append([]byte{0x20, 0}, cut...))
		wantError(t, err, FrameError, "headers")
		for _, kind := range "SxAF" {
			inside := append([]byte{1, 'k', byte(kind)}, cut...)
			_, _, err = ParseTable(withLength(string(inside)))
			wantError(t, err, FrameError, "a table's value")
		}
	}
}

// amqp091-go wrote the length of a short string modulo 256
// (CVE-2026-77408): what followed was read as other fields.
func TestShortStringOver255IsNeverCut(t *testing.T) {
	for _, n := range []int{256, 257, 511, 512, 1 << 20} {
		long := strings.Repeat("x", n)
		for _, m := range []Method{
			&ConnectionStartOk{Mechanism: long}, &ConnectionOpen{VirtualHost: long}, &ConnectionBlocked{Reason: long},
			&QueueBind{Queue: long}, &ExchangeDeclare{Type: long}, &BasicCancel{ConsumerTag: long}, &BasicReturn{Exchange: long},
		} {
			out, err := AppendMethod(nil, 1, m)
			wantError(t, err, InternalError, "short string")
			if len(out) != 0 {
				t.Errorf("%s: %d bytes were written", methodName(m), len(out))
			}
		}
	}
}

// The Java client made room for a long string before it had it
// (CVE-2026-69219).
func TestLongStringAllocatesWhatIsThere(t *testing.T) {
	payload := []byte{0, byte(ClassConnection), 0, byte(MethodConnectionSecure), 0x7F, 0xFF, 0xFF, 0xFF, 'x'}
	n := allocated(func() {
		if _, err := ParseMethod(payload); err == nil {
			t.Error("no error")
		}
	})
	if n > 16<<10 {
		t.Errorf("%d bytes for a payload of %d", n, len(payload))
	}
	table := []byte{0x7F, 0xFF, 0xFF, 0xFF, 'x'}
	if n := allocated(func() { _, _, _ = ParseTable(table) }); n > 16<<10 {
		t.Errorf("%d bytes for a table of %d", n, len(table))
	}
}

// The Java client recursed as deep as tables nest (CVE-2026-69220).
func TestDeepTablesDoNotRecurse(t *testing.T) {
	const depth = 20000
	for _, kind := range []byte{'A', 'F'} {
		list := nestedBytes(kind, depth)
		_, _, err := ParseTable(withLength(string(list)))
		wantError(t, err, SyntaxError, "nested deeper than 32")
		_, _, err = PropertiesToMessage(nil, append([]byte{0x20, 0}, withLength(string(list))...))
		wantError(t, err, SyntaxError, "nested deeper than 32")
	}
	_, err := AppendTable(nil, nestedTable(depth))
	wantError(t, err, InternalError, "nested deeper than 32")
}

// A consumer of the Java client died of a text that was not UTF-8
// (CVE-2026-106122).
func TestMalformedUTF8IsDelivered(t *testing.T) {
	const bad = "\xFF\xC0\xAF\xED\xA0\x80\x00"
	b, err := AppendDeliver(nil, 1, bad, 1, false, []byte(bad), []byte(bad))
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseMethod(b[7 : len(b)-1])
	if d, ok := m.(*BasicDeliver); err != nil || !ok || d.ConsumerTag != bad || d.Exchange != bad || d.RoutingKey != bad {
		t.Errorf("%+v %v", m, err)
	}
	raw := mustRaw(t, Properties{MessageID: bad, Headers: Table{bad: bad}})
	list, _, err := PropertiesToMessage(nil, raw)
	if err != nil || string(message.Field(list, message.MessageID)) != bad {
		t.Errorf("%q %v", list, err)
	}
	p, err := ParseProperties(raw)
	if err != nil || p.MessageID != bad || p.Headers[bad] != bad {
		t.Errorf("%+v %v", p, err)
	}
}

// RabbitMQ's AMQP 1.0 took arrays of values without width, so that a few bytes
// became gigabytes (CVE-2026-66079, CVE-2026-67414). Here a value costs a byte at
// least, and the number of elements is limited over all levels.
func TestZeroWidthValuesDoNotAmplify(t *testing.T) {
	voids := func(n int) string { return strings.Repeat("V", n) }
	array := func(s string) string { return "A" + string(withLength(s)) }
	for _, c := range []struct {
		name string
		list string
		ok   bool
	}{
		{"as many as may be", "\x01a" + array(voids(MaxElements-1)), true},
		{"one too many", "\x01a" + array(voids(MaxElements)), false},
		{"a million in one array", "\x01a" + array(voids(1<<20)), false},
		{"spread over arrays", strings.Repeat("\x01a"+array(voids(1000)), 66), false},
		{"spread over nested arrays", "\x01a" + array(strings.Repeat(array(voids(255)), 257)), false},
		{"names without bytes", strings.Repeat("\x00V", MaxElements+1), false},
		{"empty tables", "\x01a" + array(strings.Repeat("F\x00\x00\x00\x00", MaxElements)), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := append([]byte{0x20, 0}, withLength(c.list)...)
			var err error
			n := allocated(func() { _, _, err = ParseTable(raw[2:]) })
			if c.ok != (err == nil) {
				t.Fatal(err)
			}
			if n > 16<<20 {
				t.Errorf("%d bytes for a table of %d", n, len(c.list))
			}
			if !c.ok {
				wantError(t, err, SyntaxError, "65536 elements")
			}
			if _, _, err := PropertiesToMessage(nil, raw); c.ok != (err == nil) {
				t.Errorf("PropertiesToMessage: %v", err)
			}
		})
	}
}

// Lengths come from a peer, errors go to people: neither may be long.
func TestErrorsCanBeSentAsReplyText(t *testing.T) {
	_, _, err := ParseFrame(bytes.Repeat([]byte{0xFF}, 100), 0)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if _, err := AppendMethod(nil, 0, &ConnectionClose{ReplyCode: e.Code, ReplyText: e.Error(), ClassID: e.Class, MethodID: e.Method}); err != nil {
		t.Error(err)
	}
}
