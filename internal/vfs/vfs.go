// Package vfs is the seam between Ferry and a file system. OS is the real one.
// Mem keeps files in memory and can be cut like a machine that loses power.
// Faulty makes chosen operations fail, or wait.
//
// Nothing is durable before it was synced: bytes and sizes of a file by its
// Sync or SyncData, names (create, rename, remove) by SyncDir of the directory
// they are in.
package vfs

import (
	"errors"
	"io"
)

// An FS is a file system. Its methods may be called concurrently. Errors are
// those of package os, so that errors.Is(err, fs.ErrNotExist) works.
type FS interface {
	// Create opens a file for reading and writing, empty: what was there under
	// that name is gone.
	Create(name string) (File, error)
	// OpenRead opens an existing file for reading.
	OpenRead(name string) (File, error)
	// OpenWrite opens an existing file for reading and writing.
	OpenWrite(name string) (File, error)

	Remove(name string) error
	// Rename replaces what is at newName, if anything is.
	Rename(oldName, newName string) error
	// MkdirAll makes a directory and those above it.
	MkdirAll(dir string) error
	// List returns the files of a directory, sorted by name, without those in
	// directories below it.
	List(dir string) ([]Entry, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error

	// Lock takes a directory for this process until the returned Closer is
	// closed or the process ends. The error of one who comes late is ErrLocked.
	Lock(dir string) (io.Closer, error)
	// Free tells the bytes that may still be written below dir, and the size
	// of the medium.
	Free(dir string) (available, total int64, err error)
}

// A File is an open file. Its methods may be called concurrently, but writes
// that overlap, and a Close beside anything else, are the caller's fault.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	// Sync makes the file durable. After an error the file must not be trusted
	// again: a second Sync may return nil although data are lost.
	Sync() error
	// SyncData is Sync without what is not needed to read the data back, such
	// as times. A size that shrank may need Sync.
	SyncData() error
}

// An Entry is a file in a directory.
type Entry struct {
	Name string // without the directory
	Size int64  // bytes
}

// ErrLocked is returned by Lock while somebody else holds the directory.
var ErrLocked = errors.New("directory is locked by another process")

// lockName is the file that Lock uses.
const lockName = "LOCK"
