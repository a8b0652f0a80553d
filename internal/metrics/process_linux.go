package metrics

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

func readProcess() (p process) {
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := bytes.Fields(b); len(fields) > 1 {
			pages, _ := strconv.ParseInt(string(fields[1]), 10, 64) // 0 if it is none
			p.resident = pages * int64(os.Getpagesize())
		}
	}
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		p.cpu = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return p
}
