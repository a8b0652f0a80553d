package amqpwire

import (
	"encoding/binary"
	"math"
	"slices"
)

// Frame is one frame. Payload points into the bytes that were parsed.
type Frame struct {
	Type    uint8
	Channel uint16
	Payload []byte
}

// ParseFrame takes the first frame off b (AMQP 0-9-1 §4.2.3). n is the number of
// bytes it took; n == 0 without an error means that more bytes are needed.
//
// frameMax is the limit that was negotiated, in bytes with FrameOverhead. It is
// checked on the length field, before the payload is there. Zero means that
// nothing was negotiated yet, which is PreAuthFrameMax and never "unlimited".
// (RabbitMQ lets a payload be as large as frame_max itself, for clients that
// forget the overhead; a server that wants the same passes FrameOverhead more.)
//
// A frame of an unknown type, of a size over the limit, or without its end octet
// is a FRAME_ERROR, and so is a heartbeat with a payload. Nothing behind it can
// be trusted. On which channel a frame may come is for the caller to check.
func ParseFrame(b []byte, frameMax uint32) (f Frame, n int, err error) {
	if len(b) == 0 {
		return Frame{}, 0, nil
	}
	switch b[0] {
	case FrameMethod, FrameHeader, FrameBody, FrameHeartbeat:
	default:
		return Frame{}, 0, fault(FrameError, "unknown frame type %d", b[0])
	}
	if len(b) < frameHeaderSize {
		return Frame{}, 0, nil
	}
	size := binary.BigEndian.Uint32(b[3:])
	if most := payloadMax(frameMax); size > most {
		return Frame{}, 0, fault(FrameError, "frame of type %d has a payload of %d bytes, at most %d are allowed", b[0], size, most)
	}
	if b[0] == FrameHeartbeat && size != 0 {
		return Frame{}, 0, fault(FrameError, "heartbeat has a payload of %d bytes", size)
	}
	if uint64(len(b)) < uint64(size)+FrameOverhead {
		return Frame{}, 0, nil
	}
	end := frameHeaderSize + int(size)
	if b[end] != FrameEnd {
		return Frame{}, 0, fault(FrameError, "frame of type %d and %d bytes ends in 0x%02X, not in 0x%02X", b[0], size, b[end], FrameEnd)
	}
	f = Frame{
		Type:    b[0],
		Channel: binary.BigEndian.Uint16(b[1:]),
		Payload: b[frameHeaderSize:end:end],
	}
	return f, end + 1, nil
}

func payloadMax(frameMax uint32) uint32 {
	switch {
	case frameMax == 0:
		return PreAuthFrameMax - FrameOverhead
	case frameMax < FrameOverhead:
		return 0
	}
	return frameMax - FrameOverhead
}

// FrameFits tells whether a frame of size bytes, overhead included, may be sent
// to a peer that negotiated frameMax; zero is no limit. Only bodies can be
// split: a method or a content header that does not fit cannot be sent.
func FrameFits(size int, frameMax uint32) bool {
	if frameMax == 0 {
		return uint64(size) <= math.MaxUint32+FrameOverhead
	}
	return uint64(size) <= uint64(frameMax)
}

// AppendFrameHeader appends what comes before a payload of size bytes. The
// caller appends the payload and FrameEnd.
func AppendFrameHeader(dst []byte, typ uint8, channel uint16, size uint32) []byte {
	return append(dst, typ, byte(channel>>8), byte(channel),
		byte(size>>24), byte(size>>16), byte(size>>8), byte(size))
}

// beginFrame appends a frame header whose size endFrame fills in.
func beginFrame(dst []byte, typ uint8, channel uint16) []byte {
	return AppendFrameHeader(dst, typ, channel, 0)
}

// endFrame completes the frame that begins at start.
func endFrame(dst []byte, start int) ([]byte, error) {
	size := len(dst) - start - frameHeaderSize
	if uint64(size) > math.MaxUint32 {
		return dst[:start], fault(InternalError, "payload of %d bytes: at most %d can be encoded", size, uint32(math.MaxUint32))
	}
	binary.BigEndian.PutUint32(dst[start+3:], uint32(size))
	return append(dst, FrameEnd), nil
}

// AppendHeartbeat appends a heartbeat frame (AMQP 0-9-1 §4.2.7).
func AppendHeartbeat(dst []byte) []byte {
	return append(dst, FrameHeartbeat, 0, 0, 0, 0, 0, 0, FrameEnd)
}

// AppendBody appends a body as frames of at most frameMax bytes, overhead
// included (AMQP 0-9-1 §4.2.6.2). Zero is no limit but that of the length field;
// less than MinFrameSize is taken as MinFrameSize, which every peer accepts. An
// empty body is no frame at all.
func AppendBody(dst []byte, channel uint16, body []byte, frameMax uint32) []byte {
	most := bodyMax(frameMax)
	if uint64(len(body)) <= most {
		if len(body) == 0 {
			return dst
		}
		dst = AppendFrameHeader(dst, FrameBody, channel, uint32(len(body)))
		dst = append(dst, body...)
		return append(dst, FrameEnd)
	}
	dst = slices.Grow(dst, BodyWireSize(len(body), frameMax))
	for len(body) > 0 {
		part := body[:min(uint64(len(body)), most)]
		body = body[len(part):]
		dst = AppendFrameHeader(dst, FrameBody, channel, uint32(len(part)))
		dst = append(dst, part...)
		dst = append(dst, FrameEnd)
	}
	return dst
}

// BodyWireSize is how many bytes AppendBody appends for a body of size bytes.
func BodyWireSize(size int, frameMax uint32) int {
	most := bodyMax(frameMax)
	frames := (uint64(size) + most - 1) / most
	return size + int(frames)*FrameOverhead
}

func bodyMax(frameMax uint32) uint64 {
	if frameMax == 0 {
		return math.MaxUint32
	}
	return uint64(max(frameMax, MinFrameSize)) - FrameOverhead
}
