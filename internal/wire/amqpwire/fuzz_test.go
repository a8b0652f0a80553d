package amqpwire

import (
	"bytes"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

func FuzzParseFrame(f *testing.F) {
	f.Add([]byte{}, uint32(0))
	f.Add(ProtocolHeader[:], uint32(0))
	f.Add(AppendHeartbeat(nil), uint32(MinFrameSize))
	f.Add(AppendAck(nil, 1, 2, true), uint32(MinFrameSize))
	f.Add(AppendBody(nil, 1, []byte("body"), 0), uint32(12))
	f.Add(AppendFrameHeader(nil, FrameBody, 1, 1<<32-1), uint32(1<<32-1))
	f.Fuzz(func(t *testing.T, b []byte, frameMax uint32) {
		fr, n, err := ParseFrame(b, frameMax)
		if err != nil || n == 0 {
			if n != 0 || fr.Payload != nil {
				t.Fatalf("error and frame: %+v %d %v", fr, n, err)
			}
			return
		}
		most := int64(frameMax)
		if frameMax == 0 {
			most = PreAuthFrameMax
		}
		if n > len(b) || int64(n) > most || len(fr.Payload) != n-FrameOverhead {
			t.Fatalf("took %d of %d bytes, limit %d", n, len(b), frameMax)
		}
		again := AppendFrameHeader(nil, fr.Type, fr.Channel, uint32(len(fr.Payload)))
		again = append(append(again, fr.Payload...), FrameEnd)
		if !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x became %x", b[:n], again)
		}
		for i := range n { // no prefix is a frame
			if _, m, err := ParseFrame(b[:i], frameMax); m != 0 || err != nil {
				t.Fatalf("the first %d of %d bytes: %d %v", i, n, m, err)
			}
		}
	})
}

func FuzzParseMethod(f *testing.F) {
	for _, m := range samples() {
		f.Add(payloadOf(f, m))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := ParseMethod(payload)
		agree(t, payload, m, err)
		if err != nil {
			return
		}
		first, err := AppendMethod(nil, 1, m)
		if err != nil {
			t.Fatalf("%+v was parsed and cannot be encoded: %v", m, err)
		}
		m2, err := ParseMethod(first[7 : len(first)-1])
		if err != nil {
			t.Fatalf("%+v was encoded and cannot be parsed: %v", m, err)
		}
		second, err := AppendMethod(nil, 1, m2)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%x became %x (%v)", first, second, err)
		}
	})
}

// agree checks that the short ways through the codec take and refuse the same
// payloads as the general one.
func agree(t *testing.T, payload []byte, m Method, err error) {
	t.Helper()
	class, method, _ := MethodID(payload)
	if class != ClassBasic {
		return
	}
	var short Method
	var shortErr error
	switch method {
	case MethodBasicPublish:
		var p Publish
		p, shortErr = ParsePublish(payload)
		short = &BasicPublish{Exchange: string(p.Exchange), RoutingKey: string(p.RoutingKey), Mandatory: p.Mandatory, Immediate: p.Immediate}
	case MethodBasicAck:
		var a Ack
		a, shortErr = ParseAck(payload)
		short = &BasicAck{DeliveryTag: a.DeliveryTag, Multiple: a.Multiple}
	case MethodBasicNack:
		var n Nack
		n, shortErr = ParseNack(payload)
		short = &BasicNack{DeliveryTag: n.DeliveryTag, Multiple: n.Multiple, Requeue: n.Requeue}
	case MethodBasicReject:
		var r Reject
		r, shortErr = ParseReject(payload)
		short = &BasicReject{DeliveryTag: r.DeliveryTag, Requeue: r.Requeue}
	default:
		return
	}
	if (err == nil) != (shortErr == nil) {
		t.Fatalf("one says %v, the other %v", err, shortErr)
	}
	if err != nil {
		return
	}
	a, _ := AppendMethod(nil, 1, m)
	b, _ := AppendMethod(nil, 1, short)
	if !bytes.Equal(a, b) {
		t.Fatalf("%+v and %+v", m, short)
	}
}

func FuzzParseTable(f *testing.F) {
	table, err := AppendTable(nil, sampleTable())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(table)
	f.Add(withLength("\x01at\x00\x01at\x01"))
	f.Add(withLength(string(nestedBytes('A', MaxNesting))))
	f.Add(withLength(string(nestedBytes('F', MaxNesting+1))))
	f.Add(withLength("\x00V\x00L\x00\x00\x00\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, rest, err := ParseTable(b)
		if len(b) >= 4 && uint64(len(b)-4) == uint64(be32(b)) {
			c := headerCheck{left: MaxElements}
			if checked := c.table(b[4:], 0); (checked == nil) != (err == nil) {
				t.Fatalf("ParseTable says %v, headerCheck %v", err, checked)
			}
		}
		if err != nil {
			return
		}
		if !bytes.HasSuffix(b, rest) {
			t.Fatal("rest is not the rest")
		}
		first, err := AppendTable(nil, table)
		if err != nil {
			t.Fatalf("%v was parsed and cannot be encoded: %v", table, err)
		}
		again, rest, err := ParseTable(first)
		if err != nil || len(rest) != 0 {
			t.Fatalf("%v was encoded and cannot be parsed: %v", table, err)
		}
		second, err := AppendTable(nil, again)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%x became %x (%v)", first, second, err)
		}
		if _, ok := message.DecodeHeaders(first[4:]); !ok {
			t.Fatalf("message cannot read %x", first[4:])
		}
	})
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func addProperties(f *testing.F) {
	p := sampleProperties()
	f.Add(mustRaw(f, p))
	f.Add(mustRaw(f, Properties{DeliveryMode: Persistent}))
	f.Add(mustRaw(f, Properties{ContentType: "t", DeliveryMode: Transient, Priority: 1}))
	for _, c := range badProperties {
		if len(c.in) < 1000 {
			f.Add([]byte(c.in))
		}
	}
}

func FuzzParseProperties(f *testing.F) {
	addProperties(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ParseProperties(raw)
		if err != nil {
			return
		}
		first, err := AppendProperties(nil, &p)
		if err != nil {
			t.Fatalf("%+v was parsed and cannot be encoded: %v", p, err)
		}
		again, err := ParseProperties(first)
		if err != nil {
			t.Fatalf("%+v was encoded and cannot be parsed: %v", p, err)
		}
		second, err := AppendProperties(nil, &again)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%x became %x (%v)", first, second, err)
		}
	})
}

func FuzzPropertiesThroughMessage(f *testing.F) {
	addProperties(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, parseErr := ParseProperties(raw)
		list, persistent, err := PropertiesToMessage(nil, raw)
		if (err == nil) != (parseErr == nil) {
			t.Fatalf("ParseProperties says %v, PropertiesToMessage %v", parseErr, err)
		}
		if err != nil {
			return
		}
		if persistent != (p.DeliveryMode == Persistent) {
			t.Fatalf("delivery-mode %d, persistent %t", p.DeliveryMode, persistent)
		}
		if h := message.Field(list, message.Headers); h != nil {
			if _, ok := message.DecodeHeaders(h); !ok {
				t.Fatalf("message cannot read headers %x", h)
			}
		}
		back, err := PropertiesFromMessage(nil, list, persistent)
		if err != nil {
			t.Fatalf("%x was taken in and cannot be given back: %v", raw, err)
		}
		list2, persistent2, err := PropertiesToMessage(nil, back)
		if err != nil || persistent2 != persistent || !bytes.Equal(list, list2) {
			t.Fatalf("%x became %x (%v)", list, list2, err)
		}
		// What the message says is what the properties said.
		p.ClusterID = ""
		if p.DeliveryMode != Persistent {
			p.DeliveryMode = 0
		}
		q, err := ParseProperties(back)
		if err != nil {
			t.Fatal(err)
		}
		a, errA := AppendProperties(nil, &p)
		b, errB := AppendProperties(nil, &q)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Fatalf("%+v became %+v (%v, %v)", p, q, errA, errB)
		}
	})
}

func FuzzPropertiesFromMessage(f *testing.F) {
	p := sampleProperties()
	list, _, err := PropertiesToMessage(nil, mustRaw(f, p))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(list, true)
	f.Add([]byte{}, false)
	f.Add([]byte{1, 5, 'x'}, true)
	f.Add([]byte{4, 1, 9, 200, 1, 'x'}, true)
	f.Fuzz(func(t *testing.T, list []byte, persistent bool) {
		raw, err := PropertiesFromMessage([]byte("before"), list, persistent)
		if err != nil {
			if string(raw) != "before" {
				t.Fatalf("error, and dst is %q", raw)
			}
			return
		}
		// All but what headers hold is verified.
		if _, err := newPropertyReader(raw[len("before"):]); err != nil {
			t.Fatalf("%x became %x: %v", list, raw, err)
		}
	})
}
