package amqpserver

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const (
	frameHeaderSize = 7 // type 1, channel 2, size 4 (AMQP 0-9-1 §4.2.3)

	// sizeFudge is what RabbitMQ lets a payload be larger than it may, for clients
	// that forget the eight bytes around it.
	sizeFudge = amqpwire.FrameOverhead

	unknownFrame = "unknown_frame"
)

// readFrame waits for a whole frame and takes it. Its payload is valid until the
// next call.
func readFrame(in *netserve.Reader, limit uint32) (amqpwire.Frame, error) {
	for {
		b := in.Buffered()
		f, size, err := parseFrame(b, limit)
		if err != nil {
			return f, err
		}
		if size <= len(b) {
			in.Discard(size)
			return f, nil
		}
		if err := in.Need(size); err != nil {
			return f, err
		}
	}
}

// parseFrame looks at the first frame in b (AMQP 0-9-1 §4.2.3). size is what the
// frame takes, as far as that can be told yet: if it is more than len(b) the
// frame is not complete. limit is the negotiated frame_max.
//
// It is amqpwire.ParseFrame with RabbitMQ's reply texts, which quote what was
// wrong.
func parseFrame(b []byte, limit uint32) (f amqpwire.Frame, size int, err error) {
	if len(b) < frameHeaderSize {
		return f, frameHeaderSize, nil
	}
	f.Type, f.Channel = b[0], binary.BigEndian.Uint16(b[1:])
	n := binary.BigEndian.Uint32(b[3:])
	if most := limit - amqpwire.FrameOverhead; n > most+sizeFudge {
		fa := badFrame(f.Type, nil, fmt.Sprintf("{frame_too_large,%d,%d}", n, most))
		fa.lost = true
		return f, 0, fa
	}
	size = int(n) + amqpwire.FrameOverhead
	if len(b) < size {
		return f, size, nil
	}
	f.Payload = b[frameHeaderSize : size-1 : size-1]
	if end := b[size-1]; end != amqpwire.FrameEnd {
		return f, 0, badEnd(f.Type, f.Payload, end)
	}
	return f, size, nil
}

func badEnd(typ uint8, payload []byte, end byte) *fault {
	f := badFrame(typ, payload, fmt.Sprintf("{invalid_frame_end_marker,%d}", end))
	f.lost = true
	return f
}

// parseMethod is amqpwire.ParseMethod with RabbitMQ's reply texts.
func parseMethod(payload []byte) (amqpwire.Method, error) {
	m, err := amqpwire.ParseMethod(payload)
	if err == nil {
		return m, nil
	}
	class, method, ok := amqpwire.MethodID(payload)
	if !ok {
		return nil, badFrame(amqpwire.FrameMethod, payload, unknownFrame)
	}
	f, ok := asFault(err, class, method)
	if !ok {
		return nil, err
	}
	if f.code == amqpwire.FrameError {
		return nil, undecodable(payload)
	}
	return nil, f
}

// validText refuses names that are not UTF-8 (AMQP 0-9-1 §4.2.5.3), which no log
// and no management page could show.
func validText(texts ...string) error {
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return errMalformed
		}
	}
	return nil
}

var errMalformed = faultf(amqpwire.FrameError, "Malformed UTF-8 in shortstr")
