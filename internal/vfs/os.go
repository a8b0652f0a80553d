package vfs

import (
	"fmt"
	"io/fs"
	"os"
)

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

// Files and directories hold other people's messages, so that only their
// owner may read them.
const (
	fileMode = 0o600
	dirMode  = 0o700
)

// Create implements FS.
func (OS) Create(name string) (File, error) {
	return open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// OpenRead implements FS.
func (OS) OpenRead(name string) (File, error) { return open(name, os.O_RDONLY) }

// OpenWrite implements FS.
func (OS) OpenWrite(name string) (File, error) { return open(name, os.O_RDWR) }

func open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, fileMode)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// Rename implements FS.
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// MkdirAll implements FS.
func (OS) MkdirAll(dir string) error { return os.MkdirAll(dir, dirMode) }

// List implements FS.
func (OS) List(dir string) ([]Entry, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(found))
	for _, d := range found {
		if !d.Type().IsRegular() {
			continue
		}
		info, err := d.Info()
		if err != nil {
			if os.IsNotExist(err) {
				continue // removed meanwhile
			}
			return nil, err
		}
		entries = append(entries, Entry{Name: d.Name(), Size: info.Size()})
	}
	return entries, nil
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func lockError(dir string, err error) error {
	return &fs.PathError{Op: "lock", Path: dir, Err: fmt.Errorf("%w (%w)", ErrLocked, err)}
}
