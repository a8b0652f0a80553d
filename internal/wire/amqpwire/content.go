package amqpwire

import "encoding/binary"

// ContentHeader is the payload of a content header frame. Properties are raw:
// the flags and the list, as ParseProperties and PropertiesToMessage take them;
// they point into the payload and are not verified yet. BodySize is what the
// peer says, in bytes: no more than a claim until the body is there.
type ContentHeader struct {
	Class      uint16
	BodySize   uint64
	Properties []byte
}

const contentHeaderSize = 12 // class 2, weight 2, body size 8

// ParseContentHeader decodes the payload of a content header frame (AMQP 0-9-1
// §4.2.6.1). It does not look at the class: one that is not the class of the
// method before it is an UNEXPECTED_FRAME.
func ParseContentHeader(payload []byte) (ContentHeader, error) {
	if len(payload) < contentHeaderSize+2 {
		return ContentHeader{}, faultShort("content header")
	}
	if w := binary.BigEndian.Uint16(payload[2:]); w != 0 {
		return ContentHeader{}, fault(SyntaxError, "content header has weight %d, not 0", w)
	}
	return ContentHeader{
		Class:      binary.BigEndian.Uint16(payload),
		BodySize:   binary.BigEndian.Uint64(payload[4:]),
		Properties: payload[contentHeaderSize:],
	}, nil
}

// AppendContentHeader appends a content header frame of class basic. properties
// are raw: the flags and the list, or nothing.
func AppendContentHeader(dst []byte, channel uint16, bodySize uint64, properties []byte) []byte {
	if len(properties) < 2 {
		properties = noProperties
	}
	dst = AppendFrameHeader(dst, FrameHeader, channel, uint32(contentHeaderSize+len(properties)))
	dst = appendContentHead(dst, bodySize)
	dst = append(dst, properties...)
	return append(dst, FrameEnd)
}

// AppendMessageHeader is AppendContentHeader for a property list of package
// message, translated as PropertiesFromMessage does. The frame may be larger
// than the peer takes: see FrameFits.
func AppendMessageHeader(dst []byte, channel uint16, bodySize uint64, list []byte, persistent bool) ([]byte, error) {
	start := len(dst)
	out := beginFrame(dst, FrameHeader, channel)
	out = appendContentHead(out, bodySize)
	out, err := PropertiesFromMessage(out, list, persistent)
	if err != nil {
		return dst, err
	}
	return endFrame(out, start)
}

var noProperties = []byte{0, 0}

func appendContentHead(dst []byte, bodySize uint64) []byte {
	dst = append(dst, 0, byte(ClassBasic), 0, 0)
	return binary.BigEndian.AppendUint64(dst, bodySize)
}
