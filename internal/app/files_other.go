//go:build !linux

package app

// openFiles are the files and sockets that the process has open, and how many it may
// have; 0: not known.
func openFiles() (used, limit int) { return 0, 0 }
