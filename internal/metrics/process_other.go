//go:build !linux

package metrics

import "runtime"

func readProcess() (p process) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p.resident = int64(m.Sys - m.HeapReleased)
	return p
}
