package vfs

import (
	"errors"
	"os"
	"syscall"
)

// SyncData is fdatasync: it leaves out the inode's times, which would cost
// another journal commit of the file system at each call.
func (f osFile) SyncData() error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	err = conn.Control(func(fd uintptr) {
		for {
			syncErr = syscall.Fdatasync(int(fd))
			if !errors.Is(syncErr, syscall.EINTR) {
				return
			}
		}
	})
	if err == nil {
		err = syncErr
	}
	if err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

// Free implements FS.
func (OS) Free(dir string) (available, total int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	size := int64(s.Bsize) //nolint:unconvert // 32 bits on some machines
	return int64(s.Bavail) * size, int64(s.Blocks) * size, nil
}
