package file

import (
	"io"
)

// Sizes of a window's reads, in bytes. Sequential reading grows to the largest;
// after a body worth skipping it begins with the smallest again.
const (
	windowMin  = 16 << 10
	windowMax  = 1 << 20
	worthASkip = 32 << 10
)

// A window reads a file mostly forward, many bytes at a time.
type window struct {
	r    io.ReaderAt
	size int64 // what lies behind is not read

	at   int64 // offset of buf[0]
	buf  []byte
	step int
}

func newWindow(r io.ReaderAt, size int64) *window {
	return &window{r: r, size: size, step: windowMin}
}

// bytes returns the n bytes at offset off, until the next call. Fewer than
// there should be are io.ErrUnexpectedEOF.
func (w *window) bytes(off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || off+int64(n) > w.size {
		return nil, io.ErrUnexpectedEOF
	}
	if off >= w.at && off+int64(n) <= w.at+int64(len(w.buf)) {
		return w.buf[off-w.at:][:n], nil
	}
	return w.fill(off, n)
}

// fill moves the window to off, keeping what it has of the new place.
func (w *window) fill(off int64, n int) ([]byte, error) {
	var kept []byte
	if off >= w.at && off < w.at+int64(len(w.buf)) {
		kept = w.buf[off-w.at:]
	}
	want := int(min(max(int64(n), int64(w.step)), w.size-off))
	buf := w.buf[:0]
	if cap(buf) < want {
		buf = make([]byte, 0, max(want, windowMin))
	}
	have := copy(buf[:want], kept)
	w.at, w.buf = off, buf[:have]
	m, err := w.r.ReadAt(buf[have:want], off+int64(have))
	w.buf = buf[:have+m]
	if have+m >= n {
		w.step = min(w.step*2, windowMax)
		return w.buf[:n], nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return nil, err
}

// skipping tells the window that the n bytes to come will not be asked for.
func (w *window) skipping(n int64) {
	if n >= worthASkip {
		w.step = windowMin
	}
}
