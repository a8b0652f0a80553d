package amqpserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const (
	// inputSize is the size of a connection's input buffer: many frames fit, and
	// one read of the socket costs little beside them.
	inputSize = 64 << 10

	frameHeaderSize = 7 // type 1, channel 2, size 4 (AMQP 0-9-1 §4.2.3)

	// sizeFudge is what RabbitMQ lets a payload be larger than it may, for clients
	// that forget the eight bytes around it.
	sizeFudge = amqpwire.FrameOverhead

	unknownFrame = "unknown_frame"
)

// input is what has arrived and was not taken yet. Without anything it holds no
// buffer while it waits.
type input struct {
	src  *source
	buf  []byte
	r, w int  // what is there is buf[r:w]
	lost bool // the input ended within a frame that was being read elsewhere
}

func (in *input) bytes() []byte { return in.buf[in.r:in.w] }

func (in *input) skip(n int) { in.r += n }

// fill waits until at least one more byte is there. need is the size of what
// the caller waits for, from the first byte that is there: the buffer is made
// large enough to hold it, so callers have checked need against a limit.
func (in *input) fill(need int) error {
	if in.r == in.w {
		in.r, in.w = 0, 0
		if need <= inputSize {
			return in.refill()
		}
	}
	to := in.buf
	if need > len(to) {
		to = make([]byte, max(need, inputSize))
	}
	in.w = copy(to, in.bytes())
	in.r = 0
	in.replace(to)
	n, err := in.src.read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		return nil
	}
	return err
}

// replace makes to the buffer; what it held is the caller's to have copied.
func (in *input) replace(to []byte) {
	if len(in.buf) == inputSize && &in.buf[0] != &to[0] {
		in.src.give(in.buf)
	}
	in.buf = to
}

// refill is fill with nothing in the buffer.
func (in *input) refill() (err error) {
	if len(in.buf) != inputSize {
		in.buf = nil
	}
	in.buf, in.w, err = in.src.readIdle(in.buf)
	return err
}

// release gives the buffer up for good.
func (in *input) release() {
	if len(in.buf) == inputSize {
		in.src.give(in.buf)
	}
	in.buf, in.r, in.w = nil, 0, 0
}

// readFull reads into p, first what is in the buffer, then straight from the
// connection.
func (in *input) readFull(p []byte) error {
	n := copy(p, in.bytes())
	in.skip(n)
	for p = p[n:]; len(p) > 0; {
		n, err := in.src.read(p)
		if p = p[n:]; err != nil && len(p) > 0 {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// frame waits for a whole frame and takes it. Its payload is valid until the
// next call.
func (in *input) frame(limit uint32) (amqpwire.Frame, error) {
	for {
		f, size, err := parseFrame(in.bytes(), limit)
		if err != nil {
			return f, err
		}
		if size <= in.w-in.r {
			in.skip(size)
			return f, nil
		}
		if err := in.fill(size); err != nil {
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
		return f, frameHeaderSize + 1, nil
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
