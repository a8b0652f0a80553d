package amqp

import (
	"encoding/binary"
	"fmt"
)

// Deliveries follows the stream that a consumer receives, in pieces of any
// length, and looks at no more of it than the delivery tags and the first eight
// bytes of each body. Its zero value is ready.
//
//	method   01 ch ch  size  00 3C 00 3C  tag-length tag…  delivery-tag(8) …  CE
//	header   02 ch ch  size  00 3C 00 00  body-size(8) …                      CE
//	body     03 ch ch  size  stamp(8) …                                       CE
type Deliveries struct {
	// Tag is the delivery tag of the latest complete message.
	Tag uint64

	next  uint64 // the tag of the message that is coming
	left  uint64 // bytes of the current body that have not come
	skip  int    // bytes of the current body frame, and its end, that have not come
	stamp uint64
	fresh bool // the current body's stamp has not been read
}

// Scan reads what it can of p and returns how many bytes it is done with and
// how many messages were completed; the rest of p must lead the next piece.
// stamps receives the first eight bytes of each completed body (zero for a
// shorter one) and must have room for them: it returns early when it is full.
func (d *Deliveries) Scan(p []byte, stamps []uint64) (used, messages int, err error) {
	i := 0
	for messages < len(stamps) {
		rest := p[i:]
		if d.skip > 0 {
			n := min(d.skip, len(rest))
			i += n
			if d.skip -= n; d.skip > 0 {
				return i, messages, nil
			}
			if p[i-1] != frameEnd {
				return i, messages, ErrFrame
			}
			if d.left == 0 {
				d.Tag, stamps[messages] = d.next, d.stamp
				messages++
			}
			continue
		}
		if len(rest) < FrameHead {
			return i, messages, nil
		}
		size := int(binary.BigEndian.Uint32(rest[3:]))
		if rest[0] == FrameBody {
			if uint64(size) > d.left {
				return i, messages, fmt.Errorf("amqp: %d bytes more of a body than announced", uint64(size)-d.left)
			}
			if d.fresh {
				if size >= 8 {
					if len(rest) < FrameHead+8 {
						return i, messages, nil
					}
					d.stamp = binary.BigEndian.Uint64(rest[FrameHead:])
				}
				d.fresh = false
			}
			d.left -= uint64(size)
			d.skip = size + FrameTail
			i += FrameHead
			continue
		}
		n := FrameHead + size + FrameTail
		if len(rest) < n {
			return i, messages, nil
		}
		if rest[n-1] != frameEnd {
			return i, messages, ErrFrame
		}
		payload := rest[FrameHead : n-1]
		switch rest[0] {
		case FrameMethod:
			if len(payload) >= 13 && Method(binary.BigEndian.Uint32(payload)) == BasicDeliver {
				at := 5 + int(payload[4])
				if len(payload) < at+8 {
					return i, messages, fmt.Errorf("amqp: a basic.deliver of %d bytes", len(payload))
				}
				d.next = binary.BigEndian.Uint64(payload[at:])
			} else if err := Closed(payload); err != nil {
				return i, messages, err
			}
		case FrameHeader:
			if len(payload) < 12 {
				return i, messages, fmt.Errorf("amqp: a header of %d bytes", len(payload))
			}
			d.left, d.stamp, d.fresh = binary.BigEndian.Uint64(payload[4:]), 0, true
			if d.left == 0 {
				d.Tag, stamps[messages] = d.next, 0
				messages++
			}
		case FrameHeartbeat:
		default:
			return i, messages, fmt.Errorf("amqp: a frame of type %d", rest[0])
		}
		i += n
	}
	return i, messages, nil
}
