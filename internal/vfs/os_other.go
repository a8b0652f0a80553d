//go:build !linux

package vfs

import (
	"math"
)

// SyncData is Sync where there is no fdatasync.
func (f osFile) SyncData() error { return f.Sync() }

// Free implements FS. It does not know on this system, and says that there is
// room.
func (OS) Free(string) (available, total int64, err error) {
	return math.MaxInt64, math.MaxInt64, nil
}
