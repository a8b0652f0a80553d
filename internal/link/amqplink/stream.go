package amqplink

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// errStalled says that a write did not move for as long as it may.
var errStalled = errors.New("write did not move")

// A stream is the transport, below TLS if there is any: a TLS connection is of
// no use after a write that timed out, so that here is where a write goes on
// after its deadline if it has moved.
type stream struct {
	net.Conn

	// stall is how long a write may stand still, in nanoseconds; 0 is for ever.
	stall atomic.Int64

	// excused tells whether a write may stand still for longer.
	excused func() bool
}

// Write writes all of p, however long it takes, as long as it moves.
func (s *stream) Write(p []byte) (int, error) {
	n := 0
	err := s.moving(func() (int, bool, error) {
		k, err := s.Conn.Write(p[n:])
		n += k
		return k, n < len(p), err
	})
	return n, err
}

// writeAll is Write of several pieces, in one call of the system where it can.
func (s *stream) writeAll(pieces *net.Buffers) error {
	return s.moving(func() (int, bool, error) {
		k, err := pieces.WriteTo(s.Conn)
		return int(min(k, 1<<30)), len(*pieces) > 0, err
	})
}

// stallParts is in how many looks a write that stands still is found out: what it
// moved at the beginning of a look hides that it stood still for the rest.
const stallParts = 4

// moving calls write until nothing is left, with a deadline for each call. So
// many in which nothing moved are a stall.
func (s *stream) moving(write func() (n int, more bool, err error)) error {
	for still := 0; ; {
		if d := time.Duration(s.stall.Load()); d > 0 {
			if err := s.SetWriteDeadline(time.Now().Add(d / stallParts)); err != nil {
				return err
			}
		}
		n, more, err := write()
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case !more:
			return nil
		case n > 0 || s.excused():
			still = 0
		default:
			if still++; still == stallParts {
				return errStalled
			}
		}
	}
}
