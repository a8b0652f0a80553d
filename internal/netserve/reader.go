package netserve

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// The errors of a Reader besides those of the network and io.EOF.
var (
	// ErrIdle says that nothing came for as long as SetIdleTimeout allows.
	ErrIdle = errors.New("the peer was silent for too long")
	// ErrLogin says that the time to log in is over.
	ErrLogin = errors.New("the peer took too long to log in")
	// ErrFull says that more was asked for than the buffer may hold.
	ErrFull = errors.New("more than the input buffer may hold")
)

// waitSize is what a connection keeps to wait in where it cannot wait without:
// with TLS, whose records have to be decrypted into something.
const waitSize = 512 // bytes

// Reader is the receiving half of a connection: a buffer that is there only
// while something is in it. One goroutine uses it; Received, LastRead,
// WaitingSince and Conn.Interrupt may be called by others.
//
//	for {
//		n := parse(r.Buffered()) // whole frames
//		r.Discard(n)
//		if err := r.Fill(); err != nil { ... }
//	}
type Reader struct {
	nc  net.Conn
	raw syscall.RawConn // waits without a buffer; nil where that is not possible
	try func(fd uintptr) bool

	buf  []byte
	r, w int // what has arrived and was not taken is buf[r:w]
	size int // of the buffer to begin with
	max  int // what it may grow to

	lim      limits
	received atomic.Uint64
	last     atomic.Int64 // nanoseconds after lim.start

	tried    int // what try has found
	triedErr error
	small    *[waitSize]byte
}

// limits are when a read ends although nothing came.
type limits struct {
	start time.Time
	idle  time.Duration // 0: none
	until time.Time     // zero: none
	from  atomic.Int64  // when the read that waits began, nanoseconds after start; 0: none waits
	stale bool          // the socket's deadline may be too late, or is over
	cause atomic.Pointer[error]
}

func (r *Reader) open(nc net.Conn, now time.Time) {
	r.nc = nc
	r.size, r.max = smallBuffer, preAuthBuffer
	r.lim.start = now
	r.raw, r.try = waiter(nc, r)
}

// secure goes on reading from what decrypts nc. What is buffered was taken.
func (r *Reader) secure(nc net.Conn) {
	r.nc, r.raw, r.try = nc, nil, nil
}

// Buffered returns what has arrived and was not discarded yet. It is valid until
// the next call of another method.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Discard takes n bytes, no more than are buffered.
func (r *Reader) Discard(n int) {
	if n < 0 || n > r.w-r.r {
		panic("netserve: discarded more than is buffered")
	}
	r.r += n
}

// Fill waits for at least one more byte and buffers what is there. While nothing
// is buffered the wait holds no buffer (with TLS: 512 bytes). It returns ErrFull
// when the buffer holds as much as it may, ErrIdle and ErrLogin when the wait was
// too long, the cause given to Conn.Interrupt, io.EOF, or the network's error.
// After an error that is about time or an interruption it may be called again.
func (r *Reader) Fill() error {
	if r.r == r.w {
		return r.fillEmpty()
	}
	if err := r.room(r.w - r.r + 1); err != nil {
		return err
	}
	n, err := r.read(r.buf[r.w:])
	r.w += n
	return err
}

// Need waits until at least n bytes are buffered. Its errors are those of Fill;
// an end within the n bytes is io.ErrUnexpectedEOF, and before them io.EOF.
func (r *Reader) Need(n int) error {
	if n > r.max {
		return ErrFull
	}
	for r.w-r.r < n {
		if r.r < r.w {
			if err := r.room(n); err != nil {
				return err
			}
		}
		if err := r.Fill(); err != nil {
			if r.r < r.w && errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// NeedOnly is Need, but takes no more than n bytes from the connection, so that
// what follows can be read to its place with ReadFull.
func (r *Reader) NeedOnly(n int) error {
	for r.w-r.r < n {
		if err := r.room(n); err != nil {
			return err
		}
		m, err := r.read(r.buf[r.w : r.r+n])
		r.w += m
		if err != nil {
			if r.r < r.w && errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// ReadFull fills dst, first with what is buffered and then straight from the
// connection, so that a large body is not copied. Its errors are those of Fill,
// and io.ErrUnexpectedEOF; n is how much of dst was filled, also then, so that
// the rest can be read after an interruption.
func (r *Reader) ReadFull(dst []byte) (n int, err error) {
	n = copy(dst, r.Buffered())
	r.r += n
	for n < len(dst) {
		m, err := r.read(dst[n:])
		n += m
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, nil
}

// Release gives the buffer back if nothing is in it. Fill does that by itself;
// this is for who does not read for a while.
func (r *Reader) Release() {
	if r.r == r.w {
		giveBuffer(r.buf)
		r.buf, r.r, r.w = nil, 0, 0
	}
}

// SetMax sets the largest contiguous piece that Fill and Need may buffer, bytes:
// the largest frame. Until Conn.Authenticated it is at most 64 KiB.
func (r *Reader) SetMax(n int) { r.max = n }

// SetIdleTimeout makes Fill return ErrIdle when nothing came for d; 0 is for
// ever. Only waiting counts: a peer that we did not read for a while is not taken
// for dead. It costs one call of the system in each d, however many reads there
// are in it.
func (r *Reader) SetIdleTimeout(d time.Duration) {
	r.lim.idle, r.lim.stale = d, true
}

// SetDeadline makes Fill return ErrLogin at t, whatever comes; zero is never. A
// connection begins with the time by which its peer must have logged in.
func (r *Reader) SetDeadline(t time.Time) {
	r.lim.until, r.lim.stale = t, true
}

// Resume makes reading possible again after an interruption.
func (r *Reader) Resume() {
	r.lim.cause.Store(nil)
	r.lim.stale = true
}

// Received is how many bytes have come in all; with TLS, of what was encrypted.
func (r *Reader) Received() uint64 { return r.received.Load() }

// LastRead is when something came last, or when the connection began.
func (r *Reader) LastRead() time.Time {
	return r.lim.start.Add(time.Duration(r.last.Load()))
}

// interrupt makes the read that waits, and all later ones up to Resume, return
// cause. It may be called by any goroutine. The flag is set before the deadline,
// and arm looks at the flag after it set a deadline of its own: so either arm
// sees the flag, or our deadline is the later one. One that comes after Resume
// wakes the read for nothing, and it sets its own deadline again.
func (r *Reader) interrupt(nc net.Conn, cause error) {
	if r.lim.cause.CompareAndSwap(nil, &cause) {
		_ = nc.SetReadDeadline(time.Unix(1, 0)) // fails when it is closed
	}
}

// WaitingSince is when the read that waits for the peer began; zero if none
// does. A peer is silent only while it is waited for.
func (r *Reader) WaitingSince() time.Time {
	n := r.lim.from.Load()
	if n == 0 {
		return time.Time{}
	}
	return r.lim.start.Add(time.Duration(n))
}

func (r *Reader) fillEmpty() error {
	if len(r.buf) != r.size {
		r.Release()
	}
	r.r, r.w = 0, 0
	n, err := r.read(nil)
	r.w = n
	return err
}

// room makes the buffer large enough for n bytes, and for a good read.
func (r *Reader) room(n int) error {
	if n > r.max {
		return ErrFull
	}
	have := len(r.buf)
	if n > have {
		to := takeBuffer(min(max(n, 2*have, r.size), max(r.max, r.size)))
		r.w = copy(to, r.buf[r.r:r.w])
		giveBuffer(r.buf)
		r.buf, r.r = to, 0
		return nil
	}
	if r.r > 0 && (have-r.w < have/2 || r.r+n > have) {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	return nil
}

// read reads once, into p, or into the empty buffer if p is nil. It returns
// either something or an error.
func (r *Reader) read(p []byte) (int, error) {
	r.lim.from.Store(max(1, int64(time.Since(r.lim.start))))
	defer r.lim.from.Store(0)
	for {
		if err := r.arm(); err != nil {
			return 0, err
		}
		n, err := r.readOnce(p)
		if n > 0 {
			r.received.Add(uint64(n))
			r.last.Store(int64(time.Since(r.lim.start)))
			return n, nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		r.lim.stale = r.lim.stale || err != nil
	}
}

// arm sets the socket's deadline where that is necessary. One that is too early
// does no harm: the read is woken, comes here again, and goes on waiting. So it
// is moved only when it is over, not at each read.
func (r *Reader) arm() error {
	l := &r.lim
	if cause := l.cause.Load(); cause != nil {
		return *cause
	}
	if !l.stale {
		return nil
	}
	now := time.Now()
	var at time.Time
	if l.idle > 0 {
		if at = l.start.Add(time.Duration(l.from.Load()) + l.idle); !now.Before(at) {
			return ErrIdle
		}
	}
	if !l.until.IsZero() {
		if !now.Before(l.until) {
			return ErrLogin
		}
		if at.IsZero() || l.until.Before(at) {
			at = l.until
		}
	}
	if err := r.nc.SetReadDeadline(at); err != nil {
		return err
	}
	l.stale = false
	if cause := l.cause.Load(); cause != nil {
		l.stale = true
		return *cause
	}
	return nil
}

func (r *Reader) readOnce(p []byte) (int, error) {
	switch {
	case p != nil:
		return r.nc.Read(p)
	case r.raw != nil:
		if err := r.raw.Read(r.try); err != nil {
			return 0, err
		}
		return r.tried, r.triedErr
	}
	if r.small == nil {
		r.Release()
		r.small = new([waitSize]byte)
	}
	n, err := r.nc.Read(r.small[:])
	if n == 0 {
		r.Release()
		return 0, err
	}
	if r.buf == nil {
		r.buf = takeBuffer(r.size)
	}
	return copy(r.buf, r.small[:n]), nil
}

// close gives the buffer up for good.
func (r *Reader) close() {
	r.r = r.w
	r.Release()
}
