package transport

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// ErrStalled says that a write did not move for as long as it may.
var ErrStalled = errors.New("write did not move")

const (
	// FarewellTime is how long the last words of a connection may take: the answer
	// to a peer that closes, or the reason for which this side ends it. It is also
	// how long what a broker said before a write failed is read.
	FarewellTime = time.Second

	// A write that stands still for two heartbeats, and at least stallLeast, ends
	// the connection; stallNoHeartbeat is for those that have none.
	stallLeast       = 10 * time.Second
	stallNoHeartbeat = 30 * time.Second
)

// StallTime is how long a write may stand still on a connection from which
// something is to come once in a heartbeat, 0 for none.
func StallTime(heartbeat time.Duration) time.Duration {
	if heartbeat <= 0 {
		return stallNoHeartbeat
	}
	return max(2*heartbeat, stallLeast)
}

// A Stream is the transport, below TLS if there is any: a TLS connection is of
// no use after a write that timed out, so that here is where a write goes on
// after its deadline if it has moved.
type Stream struct {
	net.Conn

	// Stall is how long a write may stand still, in nanoseconds; 0 is for ever.
	Stall atomic.Int64

	// Excused, if not nil, is asked by the writer while a write stands still, a few
	// times in Stall, whether it may do so for longer.
	Excused func() bool
}

// Write writes all of p, however long it takes, as long as it moves.
func (s *Stream) Write(p []byte) (int, error) {
	n := 0
	err := s.moving(func() (int, bool, error) {
		k, err := s.Conn.Write(p[n:])
		n += k
		return k, n < len(p), err
	})
	return n, err
}

// WriteAll is Write of several pieces, in one call of the system where it can.
func (s *Stream) WriteAll(pieces *net.Buffers) error {
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
func (s *Stream) moving(write func() (n int, more bool, err error)) error {
	for still := 0; ; {
		if d := time.Duration(s.Stall.Load()); d > 0 {
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
		case n > 0 || s.Excused != nil && s.Excused():
			still = 0
		default:
			if still++; still == stallParts {
				return ErrStalled
			}
		}
	}
}
