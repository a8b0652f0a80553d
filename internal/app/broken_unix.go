//go:build unix

package app

import (
	"net"
	"syscall"
)

// broken tells whether a connection was broken off by the other side, or was given up
// by the system, which who does not read or write does not see. It takes the error
// away: the connection is to be closed.
func broken(c net.Conn) bool {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	found := 0
	err = raw.Control(func(fd uintptr) {
		found, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR) // 0 with an error
	})
	return err == nil && found != 0
}
