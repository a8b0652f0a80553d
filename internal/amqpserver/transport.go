package amqpserver

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// source is the network side of a connection.
type source struct {
	net.Conn
	waiting atomic.Int64 // since when a read waits, nanoseconds of clock; 0: none does
	wrote   atomic.Int64 // when something was written last
	peer    netip.AddrPort
}

var (
	clockStart = time.Now()
	buffers    = sync.Pool{New: func() any { return new([inputSize]byte) }}
)

func clock() int64 { return int64(time.Since(clockStart)) + 1 }

func (s *source) read(p []byte) (int, error) {
	s.waiting.Store(clock())
	n, err := s.Conn.Read(p)
	s.waiting.Store(0)
	return n, err
}

func (s *source) readIdle(buf []byte) ([]byte, int, error) {
	if buf == nil {
		buf = buffers.Get().(*[inputSize]byte)[:]
	}
	n, err := s.read(buf)
	if n > 0 {
		err = nil
	}
	return buf, n, err
}

func (s *source) give(buf []byte) {
	if cap(buf) == inputSize {
		buffers.Put((*[inputSize]byte)(buf[:inputSize]))
	}
}

func (s *source) write(p []byte) error {
	_, err := s.Conn.Write(p)
	s.wrote.Store(clock())
	return err
}

func (s *source) writeAll(v net.Buffers) error {
	_, err := v.WriteTo(s.Conn)
	s.wrote.Store(clock())
	return err
}

func (s *Server) newConn(nc net.Conn) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil
	}
	s.serving.Add(1)
	c := &conn{srv: s, nc: &source{Conn: nc}, log: s.cfg.Logger.With("peer", nc.RemoteAddr().String())}
	c.in.src = c.nc
	if a, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil {
		c.nc.peer = a
	}
	_ = nc.SetDeadline(time.Now().Add(LoginTimeout))
	s.conns[c] = struct{}{}
	return c
}

func (s *source) Peer() netip.Addr         { return s.peer.Addr() }
func (s *source) PeerPort() netip.AddrPort { return s.peer }
func (s *source) Name() string {
	return s.RemoteAddr().String() + " -> " + s.LocalAddr().String()
}
