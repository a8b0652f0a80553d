package pipenet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferSize is how many bytes are on their way in one direction before a write
// waits, as in the buffers of two sockets.
const bufferSize = 64 << 10

// A half is one direction of a connection: one end writes, the other reads.
type half struct {
	mu      sync.Mutex
	changed sync.Cond // anything below

	buf    []byte // written and not read
	ended  bool   // the writer has closed; EOF is behind buf
	left   bool   // the reader has closed
	cut    bool
	paused bool

	reading, writing deadline
}

// A deadline is when a read or a write gives up.
type deadline struct {
	set     int // how often; a timer of an earlier setting does nothing
	passed  bool
	timer   *time.Timer
	disused bool // its end has closed
}

func newHalf() *half {
	h := new(half)
	h.changed.L = &h.mu
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.left:
			return 0, net.ErrClosed
		case h.cut:
			return 0, syscall.ECONNRESET
		case h.reading.passed:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case h.paused:
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil
			}
			h.changed.Broadcast()
			return n, nil
		case h.ended:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch room := bufferSize - len(h.buf); {
		case h.ended:
			return n, net.ErrClosed
		case h.cut:
			return n, syscall.ECONNRESET
		case h.writing.passed:
			return n, os.ErrDeadlineExceeded
		case h.left && !h.paused:
			return n, syscall.EPIPE
		case len(p) == 0:
			return n, nil
		case room > 0:
			k := min(room, len(p))
			h.buf = append(h.buf, p[:k]...)
			n, p = n+k, p[k:]
			h.changed.Broadcast()
			continue
		}
		h.changed.Wait()
	}
}

// setDeadline sets one of the half's deadlines; the zero time is none.
func (h *half) setDeadline(d *deadline, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.disused {
		return net.ErrClosed
	}
	d.stop()
	d.passed = false
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		h.changed.Broadcast()
		return nil
	}
	set := d.set
	d.timer = time.AfterFunc(wait, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d.set == set {
			d.passed = true
			h.changed.Broadcast()
		}
	})
	return nil
}

func (d *deadline) stop() {
	d.set++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// change does f and wakes whoever waits.
func (h *half) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.changed.Broadcast()
}

func (h *half) closeWriter() {
	h.change(func() {
		h.ended = true
		h.writing.stop()
		h.writing.disused = true
	})
}

func (h *half) closeReader() {
	h.change(func() {
		h.left = true
		h.buf = nil
		h.reading.stop()
		h.reading.disused = true
	})
}

func (h *half) cutOff() {
	h.change(func() {
		h.cut = true
		h.buf = nil
	})
}

func (h *half) pause(on bool) { h.change(func() { h.paused = on }) }
