package amqp

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// appendDelivery appends what a broker sends for a message.
func appendDelivery(dst []byte, tag uint64, body []byte, frameMax int) []byte {
	dst, at := beginMethod(dst, 1, BasicDeliver)
	dst = appendShort(dst, "a-consumer's-tag")
	dst = binary.BigEndian.AppendUint64(dst, tag)
	dst = appendShort(append(dst, 0), "exchange")
	dst = end(appendShort(dst, "key"), at)
	publish, _ := AppendPublish(nil, 1, Message{}, body, frameMax)
	_, n, _ := Parse(publish)
	return append(dst, publish[n:]...)
}

func stamped(size int, stamp uint64) []byte {
	return append(binary.BigEndian.AppendUint64(nil, stamp), make([]byte, size-8)...)
}

// stream is deliveries of several lengths among frames that are not deliveries,
// and the stamps that they carry.
func stream() (p []byte, stamps []uint64) {
	ok, at := beginMethod(nil, 1, BasicConsumeOK)
	p = end(appendShort(ok, "a-consumer's-tag"), at)
	for i, size := range []int{8, 9, 100, 24, 25, 48, 500} {
		stamp := 0xCECE_0000_0000_0001 + uint64(i)
		p = appendDelivery(p, uint64(i+1), stamped(size, stamp), 32)
		stamps = append(stamps, stamp)
		if i == 2 {
			p, at = begin(p, FrameHeartbeat, 0)
			p = end(p, at)
		}
	}
	return appendDelivery(p, 8, nil, 32), append(stamps, 0)
}

// follow feeds a stream in pieces, as a connection would.
func follow(t *testing.T, p []byte, piece, room int) (stamps []uint64, tag uint64) {
	t.Helper()
	var d Deliveries
	var kept []byte
	into := make([]uint64, room)
	for len(p) > 0 {
		n := min(piece, len(p))
		kept, p = append(kept, p[:n]...), p[n:]
		for {
			used, messages, err := d.Scan(kept, into)
			if err != nil {
				t.Fatal(err)
			}
			kept = kept[used:]
			stamps = append(stamps, into[:messages]...)
			if messages < room {
				break
			}
		}
	}
	if len(kept) > 0 {
		t.Errorf("%d bytes are left", len(kept))
	}
	return stamps, d.Tag
}

func TestDeliveriesAreFoundWhereverTheStreamIsCut(t *testing.T) {
	p, want := stream()
	for piece := 1; piece <= len(p); piece++ {
		for _, room := range []int{1, 3, 64} {
			got, tag := follow(t, p, piece, room)
			if !slices.Equal(got, want) || tag != 8 {
				t.Fatalf("pieces of %d, room for %d: tag %d, stamps %x, want %x", piece, room, tag, got, want)
			}
		}
	}
}

// A tag is the message's only when all of it has come: what is acknowledged
// must have been received.
func TestTagIsOfACompleteMessage(t *testing.T) {
	p := appendDelivery(nil, 1, stamped(8, 1), 4096)
	first := len(p)
	p = appendDelivery(p, 2, stamped(100, 2), 4096)
	var d Deliveries
	var stamps [4]uint64
	for n := first; n < len(p); n++ {
		d = Deliveries{}
		if _, messages, err := d.Scan(p[:n], stamps[:]); err != nil || messages != 1 || d.Tag != 1 {
			t.Fatalf("%d of %d bytes: %d messages, tag %d, %v", n, len(p), messages, d.Tag, err)
		}
	}
	if _, _, err := d.Scan(p[len(p)-1:], stamps[:]); err != nil || d.Tag != 2 {
		t.Errorf("tag %d, %v", d.Tag, err)
	}
}

func TestBrokenStreamIsAnError(t *testing.T) {
	whole := appendDelivery(nil, 1, stamped(100, 1), 4096)
	noEnd := slices.Clone(whole)
	noEnd[len(noEnd)-1] = 0
	tooLong := slices.Clone(whole)
	binary.BigEndian.PutUint32(tooLong[len(tooLong)-1-100-4:], 101)
	closed, at := beginMethod(nil, 1, ChannelClose)
	closed = end(append(append(closed, 1, 0x95, 6), "LOCKED\x00\x00\x00\x00"...), at)

	var stamps [4]uint64
	for name, c := range map[string]struct {
		p    []byte
		want func(error) bool
	}{
		"no end octet":        {noEnd, func(err error) bool { return errors.Is(err, ErrFrame) }},
		"body over its size":  {tooLong, func(err error) bool { return err != nil }},
		"unknown frame type":  {[]byte{9, 0, 0, 0, 0, 0, 0, 0xCE}, func(err error) bool { return err != nil }},
		"channel was closed":  {closed, func(err error) bool { var c *ClosedError; return errors.As(err, &c) && c.Code == 405 }},
		"header is too short": {[]byte{2, 0, 1, 0, 0, 0, 1, 0, 0xCE}, func(err error) bool { return err != nil }},
	} {
		var d Deliveries
		if _, _, err := d.Scan(c.p, stamps[:]); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestScanDoesNotAllocate(t *testing.T) {
	p, _ := stream()
	var d Deliveries
	var stamps [64]uint64
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := d.Scan(p, stamps[:]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

func FuzzDeliveries(f *testing.F) {
	p, _ := stream()
	f.Add(p)
	f.Add(p[:len(p)/2])
	f.Fuzz(func(t *testing.T, p []byte) {
		var d Deliveries
		var stamps [8]uint64
		for {
			used, messages, err := d.Scan(p, stamps[:])
			if used < 0 || used > len(p) {
				t.Fatalf("used %d of %d", used, len(p))
			}
			if err != nil || messages < len(stamps) {
				return
			}
			p = p[used:]
		}
	})
}

func BenchmarkDeliveries(b *testing.B) {
	var p []byte
	const each = 256
	for tag := range uint64(each) {
		p = appendDelivery(p, tag+1, stamped(100, tag), 4096)
	}
	var d Deliveries
	var stamps [each]uint64
	b.SetBytes(int64(len(p)) / each)
	for n := 0; n < b.N; n += each {
		if _, messages, err := d.Scan(p, stamps[:]); err != nil || messages != each {
			b.Fatal(messages, err)
		}
	}
}
