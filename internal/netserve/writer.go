package netserve

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// stallTimeout is how long a write may make no progress before the peer's being
// alive is asked for. NATS cuts a slow consumer after the same 10 s.
const stallTimeout = 10 * time.Second

// stallLook is how often a write that takes long is looked at: how late progress
// is noticed, which counts from then.
const stallLook = stallTimeout / 4

// From how many bytes on a piece is written from where it is and not copied into
// the output buffer. With TLS each piece begins a record of at most 16 KiB.
const (
	byReference    = 4 << 10
	byReferenceTLS = 16 << 10
)

// FlushSize is how much may be waiting before it is time to call Flush, bytes.
const FlushSize = 96 << 10

// ErrStalled says that a write made no progress for 10 s, and that the peer does
// not seem to be alive.
var ErrStalled = errors.New("the peer does not take what is written to it, and seems dead")

// Writer is the sending half of a connection. One goroutine uses it; Sent and
// LastWrite may be called by others. What is to be written is appended to Buf, and large pieces
// by reference; Flush writes all of it with one call of the system.
//
//	w.SetBuf(appendFrame(w.Buf(), ...))
//	w.AppendRef(body)
//	err := w.Flush()
//
// The first error stays: everything is refused from then on.
type Writer struct {
	nc      net.Conn // the socket, or TLS on top of it
	sock    *socket
	refFrom int
	buf     []byte // pooled, unless it had to grow
	pooled  []byte // what buf was at first
	queued  int    // buf[:queued] is in pieces
	pieces  [][]byte
	waiting int // bytes in pieces
	writing net.Buffers
	err     error
	sent    atomic.Uint64
	last    atomic.Int64 // nanoseconds after start
	start   time.Time
}

func (w *Writer) open(s *socket, now time.Time) {
	w.nc, w.sock, w.refFrom, w.start = s, s, byReference, now
}

func (w *Writer) secure(nc net.Conn) {
	w.nc, w.refFrom = nc, byReferenceTLS
}

// Buf returns what waits in the output buffer, to be appended to and handed back
// with SetBuf. It has room for some 100 KiB and grows beyond that.
func (w *Writer) Buf() []byte {
	if w.buf == nil {
		w.pooled = takeBuffer(BufferSize)
		w.buf = w.pooled[:0]
	}
	return w.buf
}

// SetBuf sets the output buffer to what Buf returned and more.
func (w *Writer) SetBuf(b []byte) { w.buf = b }

// AppendRef appends p. If it is large it is not copied, and must not be changed
// before Flush has returned.
func (w *Writer) AppendRef(p []byte) {
	if len(p) < w.refFrom {
		w.SetBuf(append(w.Buf(), p...))
		return
	}
	w.cut()
	w.pieces = append(w.pieces, p)
	w.waiting += len(p)
}

// cut makes what was appended since the last piece a piece. When the buffer
// grows later the piece stays where it was.
func (w *Writer) cut() {
	if n := len(w.buf); n > w.queued {
		w.pieces = append(w.pieces, w.buf[w.queued:n:n])
		w.waiting += n - w.queued
		w.queued = n
	}
}

// Waiting is how many bytes Flush would write.
func (w *Writer) Waiting() int { return w.waiting + len(w.buf) - w.queued }

// Sent is how many bytes were written in all; with TLS, of what was encrypted.
func (w *Writer) Sent() uint64 { return w.sent.Load() }

// LastWrite is when a Flush ended that had something to write; at first it is
// when the connection began.
func (w *Writer) LastWrite() time.Time {
	return w.start.Add(time.Duration(w.last.Load()))
}

// SetAlive sets how to tell that the peer is alive although it takes nothing,
// which Flush asks for every 10 s without progress. It is called by Flush.
// Without it such a peer is dead.
func (w *Writer) SetAlive(alive func() bool) { w.sock.alive.Store(&alive) }

// Err is the error that stays, nil if there is none.
func (w *Writer) Err() error { return w.err }

// Flush writes what waits, and gives the buffer back. It may take as long as the
// peer is alive; Conn.SetWriteDeadline and Conn.Close bound it. It returns ErrStalled, or the network's
// error.
func (w *Writer) Flush() error {
	w.cut()
	if w.err == nil && len(w.pieces) > 0 {
		n := int64(0)
		w.writing = w.pieces
		if w.nc == net.Conn(w.sock) {
			n, w.err = w.sock.writeAll(&w.writing)
		} else {
			n, w.err = w.writing.WriteTo(w.nc)
		}
		w.writing = nil
		w.sent.Add(uint64(n))
		w.last.Store(int64(time.Since(w.start)))
	}
	w.release()
	return w.err
}

// release drops what waits. Room for a few pieces is kept.
func (w *Writer) release() {
	giveBuffer(w.pooled)
	clear(w.pieces)
	w.buf, w.pooled, w.queued, w.waiting = nil, nil, 0, 0
	if w.pieces = w.pieces[:0]; cap(w.pieces) > 16 {
		w.pieces = nil
	}
}
