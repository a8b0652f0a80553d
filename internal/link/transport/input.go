package transport

import "io"

const (
	readBuffer = 128 << 10 // bytes of one read at most, but for larger frames
	readLeast  = 4 << 10   // room for which what is unread is moved
	readsMost  = 100       // that bring neither a byte nor an error, as in package bufio
)

// Input is what was read and not parsed yet.
type Input struct {
	buf  []byte
	r, w int
}

// NewInput makes an empty one.
func NewInput() Input { return Input{buf: make([]byte, readBuffer)} }

// Unread is what was not taken yet. It is valid until the next Fill.
func (in *Input) Unread() []byte { return in.buf[in.r:in.w] }

// Take takes n bytes of what is unread.
func (in *Input) Take(n int) { in.r += n }

// Fill reads once. The room for what is unread grows: that it may be so large is
// for the caller to check, on the length that the peer announced.
func (in *Input) Fill(from io.Reader) error {
	switch {
	case in.r == in.w:
		in.r, in.w = 0, 0
	case len(in.buf)-in.w < readLeast && in.r > 0:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	if in.w == len(in.buf) {
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
