package amqplink

import (
	"io"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const (
	readBuffer = 128 << 10 // bytes of one read at most, but for larger frames
	readLeast  = 4 << 10   // room for which what is unread is moved
	readsMost  = 100       // that bring neither a byte nor an error, as in package bufio
)

// input is what was read and not parsed yet.
type input struct {
	buf  []byte
	r, w int
}

func (in *input) unread() []byte { return in.buf[in.r:in.w] }

func (in *input) take(n int) { in.r += n }

// fill reads once.
func (in *input) fill(from io.Reader) error {
	switch {
	case in.r == in.w:
		in.r, in.w = 0, 0
	case len(in.buf)-in.w < readLeast && in.r > 0:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	if in.w == len(in.buf) {
		// A frame is larger than all of it; that it may be was checked on its
		// length field.
		in.buf = append(in.buf, make([]byte, len(in.buf))...)
	}
	for range readsMost {
		n, err := from.Read(in.buf[in.w:])
		in.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// frameMax is the limit for frames of the peer. Some brokers take frame_max to be
// without the overhead; and their connection.start may be larger than what the
// specification grants before tune.
func (*input) frameMax(agreed uint32) uint32 {
	if agreed == 0 {
		agreed = amqpwire.DefaultFrameMax
	}
	return agreed + amqpwire.FrameOverhead
}
