package vfs

import (
	"errors"
	"io"
	"sync"
)

// An Op names an operation on a file system.
type Op string

// The operations that Faulty knows. OpSync is Sync and SyncData.
const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRemove   Op = "remove"
	OpRename   Op = "rename"
	OpMkdir    Op = "mkdir"
	OpList     Op = "list"
	OpSyncDir  Op = "sync dir"
	OpLock     Op = "lock"
	OpFree     Op = "free"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpSync     Op = "sync"
	OpSize     Op = "size"
	OpClose    Op = "close"
)

// A Call is an operation that is about to be done.
type Call struct {
	Op     Op
	Name   string // the file or directory; of a rename the old name
	Offset int64  // of a read or write; the size of a truncate
	Length int    // of a read or write
}

// A Hook is asked before each operation, by the goroutine that does it: what it
// returns is the operation's error, and the operation is not done. It may wait.
type Hook func(Call) error

// A ShortWrite is a hook's answer to a write of which the first N bytes are to
// be written before it fails with Err.
type ShortWrite struct {
	N   int
	Err error
}

func (e *ShortWrite) Error() string { return e.Err.Error() }

func (e *ShortWrite) Unwrap() error { return e.Err }

// FailNth returns a hook that makes the n-th operation (1 is the first) that
// matches fail, and, with forever, those behind it.
func FailNth(n int, forever bool, err error, match func(Call) bool) Hook {
	var mu sync.Mutex
	seen := 0
	return func(c Call) error {
		if !match(c) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		seen++
		if seen == n || forever && seen > n {
			return err
		}
		return nil
	}
}

// Faulty is a file system whose operations can be made to fail or to wait.
type Faulty struct {
	fs FS

	mu   sync.Mutex
	hook Hook
}

// NewFaulty returns a file system that does what fs does.
func NewFaulty(fs FS) *Faulty { return &Faulty{fs: fs} }

var _ FS = (*Faulty)(nil)

// SetHook replaces the hook, nil is none. Operations under way are not
// concerned.
func (f *Faulty) SetHook(h Hook) {
	f.mu.Lock()
	f.hook = h
	f.mu.Unlock()
}

func (f *Faulty) ask(c Call) error {
	f.mu.Lock()
	h := f.hook
	f.mu.Unlock()
	if h == nil {
		return nil
	}
	return h(c)
}

func (f *Faulty) file(c Call, open func(string) (File, error)) (File, error) {
	if err := f.ask(c); err != nil {
		return nil, err
	}
	file, err := open(c.Name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{f, file, c.Name}, nil
}

// Create implements FS.
func (f *Faulty) Create(name string) (File, error) {
	return f.file(Call{Op: OpCreate, Name: name}, f.fs.Create)
}

// OpenRead implements FS.
func (f *Faulty) OpenRead(name string) (File, error) {
	return f.file(Call{Op: OpOpen, Name: name}, f.fs.OpenRead)
}

// OpenWrite implements FS.
func (f *Faulty) OpenWrite(name string) (File, error) {
	return f.file(Call{Op: OpOpen, Name: name}, f.fs.OpenWrite)
}

// Remove implements FS.
func (f *Faulty) Remove(name string) error {
	if err := f.ask(Call{Op: OpRemove, Name: name}); err != nil {
		return err
	}
	return f.fs.Remove(name)
}

// Rename implements FS.
func (f *Faulty) Rename(oldName, newName string) error {
	if err := f.ask(Call{Op: OpRename, Name: oldName}); err != nil {
		return err
	}
	return f.fs.Rename(oldName, newName)
}

// MkdirAll implements FS.
func (f *Faulty) MkdirAll(dir string) error {
	if err := f.ask(Call{Op: OpMkdir, Name: dir}); err != nil {
		return err
	}
	return f.fs.MkdirAll(dir)
}

// List implements FS.
func (f *Faulty) List(dir string) ([]Entry, error) {
	if err := f.ask(Call{Op: OpList, Name: dir}); err != nil {
		return nil, err
	}
	return f.fs.List(dir)
}

// SyncDir implements FS.
func (f *Faulty) SyncDir(dir string) error {
	if err := f.ask(Call{Op: OpSyncDir, Name: dir}); err != nil {
		return err
	}
	return f.fs.SyncDir(dir)
}

// Lock implements FS.
func (f *Faulty) Lock(dir string) (io.Closer, error) {
	if err := f.ask(Call{Op: OpLock, Name: dir}); err != nil {
		return nil, err
	}
	return f.fs.Lock(dir)
}

// Free implements FS.
func (f *Faulty) Free(dir string) (available, total int64, err error) {
	if err := f.ask(Call{Op: OpFree, Name: dir}); err != nil {
		return 0, 0, err
	}
	return f.fs.Free(dir)
}

type faultyFile struct {
	fs   *Faulty
	file File
	name string
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask(Call{Op: OpRead, Name: f.name, Offset: off, Length: len(p)}); err != nil {
		return 0, err
	}
	return f.file.ReadAt(p, off)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.fs.ask(Call{Op: OpWrite, Name: f.name, Offset: off, Length: len(p)})
	if err == nil {
		return f.file.WriteAt(p, off)
	}
	if short, ok := errors.AsType[*ShortWrite](err); ok {
		n, writeErr := f.file.WriteAt(p[:min(short.N, len(p))], off)
		if writeErr == nil {
			writeErr = short.Err
		}
		return n, writeErr
	}
	return 0, err
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.fs.ask(Call{Op: OpTruncate, Name: f.name, Offset: size}); err != nil {
		return err
	}
	return f.file.Truncate(size)
}

func (f *faultyFile) Sync() error {
	if err := f.fs.ask(Call{Op: OpSync, Name: f.name}); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *faultyFile) SyncData() error {
	if err := f.fs.ask(Call{Op: OpSync, Name: f.name}); err != nil {
		return err
	}
	return f.file.SyncData()
}

func (f *faultyFile) Size() (int64, error) {
	if err := f.fs.ask(Call{Op: OpSize, Name: f.name}); err != nil {
		return 0, err
	}
	return f.file.Size()
}

// Close closes the file also when it fails.
func (f *faultyFile) Close() error {
	err := f.fs.ask(Call{Op: OpClose, Name: f.name})
	if closeErr := f.file.Close(); err == nil {
		err = closeErr
	}
	return err
}
