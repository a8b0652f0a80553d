package netserve

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// socket is the network connection itself. Its writes go on after a timeout
// where they were, as long as there is progress or the peer is alive. TLS, for
// which a write that times out is the end, is put on top of it and sees no
// timeout at all.
type socket struct {
	net.Conn
	first []byte // was read before TLS was recognised, and is to be read again

	alive atomic.Pointer[func() bool] // asked by the goroutine that writes
	armed time.Time                   // the write deadline that is set
	one   net.Buffers                 // for Write
	final atomic.Pointer[time.Time]   // when writes end whatever there is; nil: never
}

// Read reads what was read already, then from the network.
func (s *socket) Read(p []byte) (int, error) {
	if len(s.first) == 0 {
		return s.Conn.Read(p)
	}
	n := copy(p, s.first)
	if s.first = s.first[n:]; len(s.first) == 0 {
		s.first = nil
	}
	return n, nil
}

// Write writes all of p or fails for good.
func (s *socket) Write(p []byte) (int, error) {
	s.one = net.Buffers{p}
	n, err := s.writeAll(&s.one)
	return int(n), err
}

// writeAll writes all of v, of which it leaves nothing, or fails for good.
func (s *socket) writeAll(v *net.Buffers) (total int64, err error) {
	moved := time.Now()
	if err := s.arm(moved); err != nil {
		return 0, err
	}
	for {
		n, err := s.writeOnce(v)
		total += n
		if err == nil {
			return total, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || s.over() {
			return total, err
		}
		now := time.Now()
		switch {
		case n > 0:
			moved = now
		case now.Sub(moved) >= stallTimeout:
			if alive := s.alive.Load(); alive == nil || !(*alive)() {
				return total, ErrStalled
			}
			moved = now
		}
		s.armed = time.Time{}
		next := now.Add(stallLook)
		if end := moved.Add(stallTimeout); end.Before(next) {
			next = end
		}
		if err := s.armAt(next); err != nil {
			return total, err
		}
	}
}

func (s *socket) writeOnce(v *net.Buffers) (int64, error) {
	if len(*v) > 1 {
		return v.WriteTo(s.Conn) // takes what was written off v
	}
	n, err := s.Conn.Write((*v)[0])
	(*v)[0] = (*v)[0][n:]
	return int64(n), err
}

// arm sets a write deadline if the one that is set comes soon or is over. One
// that comes early does no harm, so a busy connection sets one every second or
// so only.
func (s *socket) arm(now time.Time) error {
	if s.armed.Sub(now) > stallLook/2 {
		return nil
	}
	return s.armAt(now.Add(stallLook))
}

// armAt sets the write deadline. When SetWriteDeadline is called at the same
// time its deadline is the one that stays: it was announced before it was set,
// and is looked for here after ours was set.
func (s *socket) armAt(t time.Time) error {
	s.armed = t
	if err := s.Conn.SetWriteDeadline(t); err != nil {
		return err
	}
	if final := s.final.Load(); final != nil && final.Before(t) {
		s.armed = *final
		return s.Conn.SetWriteDeadline(*final)
	}
	return nil
}

// over tells whether the time for writing has ended.
func (s *socket) over() bool {
	final := s.final.Load()
	return final != nil && !time.Now().Before(*final)
}

// SetWriteDeadline ends all writes at t, whether there is progress or not; zero
// takes that back. Any goroutine may call it.
func (s *socket) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		s.final.Store(nil)
		return nil // the writing goroutine has its own deadline set, or sets it
	}
	s.final.Store(&t)
	return s.Conn.SetWriteDeadline(t)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.Conn.SetReadDeadline(t), s.SetWriteDeadline(t))
}
