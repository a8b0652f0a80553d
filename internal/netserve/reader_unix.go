//go:build unix

package netserve

import (
	"io"
	"net"
	"os"
	"syscall"
)

// waiter returns what a reader waits with for a TCP connection: the function is
// called when there may be something to read, takes a buffer, reads, and gives
// the buffer back at once when there is nothing.
func waiter(nc net.Conn, r *Reader) (syscall.RawConn, func(fd uintptr) bool) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, nil
	}
	return raw, r.tryRead
}

func (r *Reader) tryRead(fd uintptr) (done bool) {
	if r.buf == nil {
		r.buf = takeBuffer(r.size)
	}
	for {
		n, err := syscall.Read(int(fd), r.buf)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			giveBuffer(r.buf)
			r.buf = nil
			return false
		case err != nil:
			r.tried, r.triedErr = 0, os.NewSyscallError("read", err)
		case n == 0:
			r.tried, r.triedErr = 0, io.EOF
		default:
			r.tried, r.triedErr = n, nil
		}
		return true
	}
}
