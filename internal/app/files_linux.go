package app

import (
	"math"
	"os"
	"syscall"
)

// openFiles are the files and sockets that the process has open, and how many it may
// have; 0: not known.
func openFiles() (used, limit int) {
	if dir, err := os.Open("/proc/self/fd"); err == nil {
		names, err := dir.Readdirnames(-1)
		_ = dir.Close()
		if err == nil {
			used = len(names) - 1 // the directory's own
		}
	}
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		limit = int(min(l.Cur, math.MaxInt32))
	}
	return used, limit
}
