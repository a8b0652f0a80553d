package vfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// SyncDir implements FS. NTFS journals names itself, and has no such call.
func (OS) SyncDir(string) error { return nil }

// errSharing is ERROR_SHARING_VIOLATION.
const errSharing = syscall.Errno(32)

// Lock implements FS with a file that is opened for nobody else.
func (OS) Lock(dir string) (io.Closer, error) {
	name, err := syscall.UTF16PtrFromString(filepath.Join(dir, lockName))
	if err != nil {
		return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errSharing) {
		return nil, lockError(dir, err)
	}
	if err != nil {
		return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(h), filepath.Join(dir, lockName)), nil
}
