//go:build !unix

package netserve

import (
	"net"
	"syscall"
)

// waiter finds no way to wait without a buffer here.
func waiter(net.Conn, *Reader) (syscall.RawConn, func(fd uintptr) bool) { return nil, nil }
