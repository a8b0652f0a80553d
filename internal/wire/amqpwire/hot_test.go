package amqpwire

import (
	"bytes"
	"strings"
	"testing"
)

func payloadOf(t testing.TB, m Method) []byte {
	t.Helper()
	b, err := AppendMethod(nil, 1, m)
	if err != nil {
		t.Fatal(err)
	}
	return b[7 : len(b)-1]
}

// For every combination of bits the short way must read and write the bytes of
// the general one.
func TestHotPathAgreesWithTheMethods(t *testing.T) {
	const tag = 0x0102030405060708
	for i := range 4 {
		a, b := i&1 != 0, i&2 != 0

		p, err := ParsePublish(payloadOf(t, &BasicPublish{Exchange: "exchange", RoutingKey: "key", Mandatory: a, Immediate: b}))
		if err != nil || string(p.Exchange) != "exchange" || string(p.RoutingKey) != "key" || p.Mandatory != a || p.Immediate != b {
			t.Errorf("ParsePublish: %+v %v", p, err)
		}
		if got, err := ParseAck(payloadOf(t, &BasicAck{DeliveryTag: tag, Multiple: a})); err != nil || got != (Ack{tag, a}) {
			t.Errorf("ParseAck: %+v %v", got, err)
		}
		if got, err := ParseNack(payloadOf(t, &BasicNack{DeliveryTag: tag, Multiple: a, Requeue: b})); err != nil || got != (Nack{tag, a, b}) {
			t.Errorf("ParseNack: %+v %v", got, err)
		}
		if got, err := ParseReject(payloadOf(t, &BasicReject{DeliveryTag: tag, Requeue: a})); err != nil || got != (Reject{tag, a}) {
			t.Errorf("ParseReject: %+v %v", got, err)
		}

		for _, c := range []struct {
			m    Method
			hot  func(dst []byte) ([]byte, error)
			name string
		}{
			{&BasicPublish{Exchange: "exchange", RoutingKey: "key", Mandatory: a}, func(dst []byte) ([]byte, error) {
				return AppendPublish(dst, 0x0102, "exchange", "key", a)
			}, "AppendPublish"},
			{&BasicDeliver{ConsumerTag: "tag", DeliveryTag: tag, Redelivered: a, Exchange: "exchange", RoutingKey: "key"}, func(dst []byte) ([]byte, error) {
				return AppendDeliver(dst, 0x0102, "tag", tag, a, []byte("exchange"), []byte("key"))
			}, "AppendDeliver"},
			{&BasicAck{DeliveryTag: tag, Multiple: a}, func(dst []byte) ([]byte, error) {
				return AppendAck(dst, 0x0102, tag, a), nil
			}, "AppendAck"},
			{&BasicNack{DeliveryTag: tag, Multiple: a, Requeue: b}, func(dst []byte) ([]byte, error) {
				return AppendNack(dst, 0x0102, tag, a, b), nil
			}, "AppendNack"},
			{&BasicReject{DeliveryTag: tag, Requeue: a}, func(dst []byte) ([]byte, error) {
				return AppendReject(dst, 0x0102, tag, a), nil
			}, "AppendReject"},
		} {
			want, err := AppendMethod([]byte("before"), 0x0102, c.m)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := c.hot([]byte("before")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %x (%v), want %x", c.name, got, err, want)
			}
		}
	}
}

// Whatever is cut, put behind, or meant for another method, is refused as the
// general parser refuses it.
func TestHotPathRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		m     Method
		parse func(b []byte) error
	}{
		{"publish", &BasicPublish{Exchange: "exchange", RoutingKey: "key"}, func(b []byte) error { _, err := ParsePublish(b); return err }},
		{"ack", &BasicAck{}, func(b []byte) error { _, err := ParseAck(b); return err }},
		{"nack", &BasicNack{}, func(b []byte) error { _, err := ParseNack(b); return err }},
		{"reject", &BasicReject{}, func(b []byte) error { _, err := ParseReject(b); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			payload := payloadOf(t, c.m)
			for n := range payload {
				wantError(t, c.parse(payload[:n]), FrameError, "runs past the end")
			}
			wantError(t, c.parse(append(payload[:len(payload):len(payload)], 0)), FrameError, "1 bytes behind")
			wantError(t, c.parse(payloadOf(t, &TxSelect{})), CommandInvalid, "method 90.10 where 60.")
		})
	}
}

func TestHotPathRefusesLongNames(t *testing.T) {
	long, dst := strings.Repeat("x", 256), []byte("before")
	for name, f := range map[string]func() ([]byte, error){
		"publish exchange": func() ([]byte, error) { return AppendPublish(dst, 1, long, "", false) },
		"publish key":      func() ([]byte, error) { return AppendPublish(dst, 1, "", long, false) },
		"deliver tag":      func() ([]byte, error) { return AppendDeliver(dst, 1, long, 1, false, nil, nil) },
		"deliver exchange": func() ([]byte, error) { return AppendDeliver(dst, 1, "", 1, false, []byte(long), nil) },
		"deliver key":      func() ([]byte, error) { return AppendDeliver(dst, 1, "", 1, false, nil, []byte(long)) },
	} {
		t.Run(name, func(t *testing.T) {
			out, err := f()
			wantError(t, err, InternalError, "256 bytes")
			if string(out) != "before" {
				t.Errorf("dst is %q", out)
			}
		})
	}
}

// hotPath is what each message costs, with all it needs made beforehand.
func hotPath(t testing.TB) map[string]func() {
	fatal := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	p := sampleProperties()
	raw := mustRaw(t, p)
	list, _, err := PropertiesToMessage(nil, raw)
	fatal(err)
	few := mustRaw(t, Properties{ContentType: "text/plain", DeliveryMode: Persistent})
	fewList, _, err := PropertiesToMessage(nil, few)
	fatal(err)
	publish := payloadOf(t, &BasicPublish{Exchange: "exchange", RoutingKey: "key"})
	ack := payloadOf(t, &BasicAck{DeliveryTag: 7})
	nack := payloadOf(t, &BasicNack{DeliveryTag: 7})
	reject := payloadOf(t, &BasicReject{DeliveryTag: 7})
	header := AppendContentHeader(nil, 1, 100, raw)
	frame := AppendBody(nil, 1, make([]byte, 100), 0)
	exchange, key, body := []byte("exchange"), []byte("key"), make([]byte, 100)
	large := make([]byte, 1<<20)
	buf := make([]byte, 0, 2<<20)
	return map[string]func(){
		"ParseFrame":             func() { _, _, err := ParseFrame(frame, DefaultFrameMax); fatal(err) },
		"MethodID":               func() { MethodID(publish) },
		"ParsePublish":           func() { _, err := ParsePublish(publish); fatal(err) },
		"ParseAck":               func() { _, err := ParseAck(ack); fatal(err) },
		"ParseNack":              func() { _, err := ParseNack(nack); fatal(err) },
		"ParseReject":            func() { _, err := ParseReject(reject); fatal(err) },
		"ParseContentHeader":     func() { _, err := ParseContentHeader(header[7 : len(header)-1]); fatal(err) },
		"PropertiesToMessage":    func() { _, _, err := PropertiesToMessage(buf, raw); fatal(err) },
		"PropertiesToMessageFew": func() { _, _, err := PropertiesToMessage(buf, few); fatal(err) },
		"AppendMessageHeaderFew": func() { _, err := AppendMessageHeader(buf, 1, 100, fewList, true); fatal(err) },
		"PropertiesFromMessage": func() {
			_, err := PropertiesFromMessage(buf, list, true)
			fatal(err)
		},
		"AppendDeliver": func() {
			_, err := AppendDeliver(buf, 1, "tag", 7, false, exchange, key)
			fatal(err)
		},
		"AppendMessageHeader": func() { _, err := AppendMessageHeader(buf, 1, 100, list, true); fatal(err) },
		"AppendContentHeader": func() { AppendContentHeader(buf, 1, 100, raw) },
		"AppendBody":          func() { AppendBody(buf, 1, body, DefaultFrameMax) },
		"AppendBody1MiB":      func() { AppendBody(buf, 1, large, DefaultFrameMax) },
		"AppendPublish":       func() { _, err := AppendPublish(buf, 1, "exchange", "key", true); fatal(err) },
		"AppendAck":           func() { AppendAck(buf, 1, 7, true) },
		"AppendNack":          func() { AppendNack(buf, 1, 7, true, true) },
		"AppendReject":        func() { AppendReject(buf, 1, 7, true) },
		"AppendHeartbeat":     func() { AppendHeartbeat(buf) },
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
