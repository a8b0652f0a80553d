package vfs

import (
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// Mem is a file system in memory that knows what a power cut would leave of
// it: see CrashClone and Cut. Directories are durable as soon as they are made,
// files and names are not.
type Mem struct {
	mu      sync.Mutex
	disk    disk
	files   int // open
	locked  map[string]bool
	space   int64
	keep    bool
	history []Change
}

var _ FS = (*Mem)(nil)

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{disk: newDisk(), locked: make(map[string]bool), space: math.MaxInt64}
}

// SetSpace sets the size of the medium in bytes. What does not fit any more
// fails with ENOSPC, after as much as fits was written.
func (m *Mem) SetSpace(total int64) {
	m.mu.Lock()
	m.space = total
	m.mu.Unlock()
}

// Record makes the file system remember all changes from now on, for Cut.
func (m *Mem) Record() {
	m.mu.Lock()
	m.keep = true
	m.mu.Unlock()
}

// History returns the changes since Record. A change that is in it is done.
func (m *Mem) History() []Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.history[:len(m.history):len(m.history)]
}

// OpenFiles is the number of files that have not been closed.
func (m *Mem) OpenFiles() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.files
}

// changeLocked does a change and remembers it.
func (m *Mem) changeLocked(c Change) {
	m.disk.apply(c)
	if m.keep {
		m.history = append(m.history, c)
	}
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.disk.dirs[filepath.Dir(name)] {
		return nil, notExist("create", name)
	}
	m.changeLocked(Change{Op: OpCreate, Name: name})
	return m.openLocked(name, true), nil
}

func (m *Mem) openLocked(name string, write bool) File {
	m.files++
	return &memFile{m: m, name: name, node: m.disk.names[name], write: write}
}

// OpenRead implements FS.
func (m *Mem) OpenRead(name string) (File, error) { return m.open(name, false) }

// OpenWrite implements FS.
func (m *Mem) OpenWrite(name string) (File, error) { return m.open(name, true) }

func (m *Mem) open(name string, write bool) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disk.names[name] == nil {
		return nil, notExist("open", name)
	}
	return m.openLocked(name, write), nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disk.names[name] == nil {
		return notExist("remove", name)
	}
	m.changeLocked(Change{Op: OpRemove, Name: name})
	return nil
}

// Rename implements FS, within one directory.
func (m *Mem) Rename(oldName, newName string) error {
	oldName, newName = filepath.Clean(oldName), filepath.Clean(newName)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disk.names[oldName] == nil {
		return notExist("rename", oldName)
	}
	if filepath.Dir(oldName) != filepath.Dir(newName) {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: syscall.EXDEV}
	}
	m.changeLocked(Change{Op: OpRename, Name: oldName, NewName: newName})
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changeLocked(Change{Op: OpMkdir, Name: filepath.Clean(dir)})
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]Entry, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.disk.dirs[dir] {
		return nil, notExist("list", dir)
	}
	var entries []Entry
	for _, name := range slices.Sorted(maps.Keys(m.disk.names)) {
		if filepath.Dir(name) == dir {
			entries = append(entries, Entry{filepath.Base(name), int64(len(m.disk.names[name].data))})
		}
	}
	return entries, nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.disk.dirs[dir] {
		return notExist("sync", dir)
	}
	m.changeLocked(Change{Op: OpSyncDir, Name: dir})
	return nil
}

// Lock implements FS. It keeps no file.
func (m *Mem) Lock(dir string) (io.Closer, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[dir] {
		return nil, lockError(dir, syscall.EWOULDBLOCK)
	}
	m.locked[dir] = true
	return &memLock{m: m, dir: dir}, nil
}

type memLock struct {
	m   *Mem
	dir string
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if !l.m.locked[l.dir] {
		return fs.ErrClosed
	}
	delete(l.m.locked, l.dir)
	return nil
}

// Free implements FS.
func (m *Mem) Free(string) (available, total int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.freeLocked(), m.space, nil
}

func (m *Mem) freeLocked() int64 {
	used := int64(0)
	for _, n := range m.disk.names {
		used += int64(len(n.data))
	}
	return max(m.space-used, 0)
}

// A memFile is an open file of a Mem.
type memFile struct {
	m      *Mem
	name   string
	node   *node
	write  bool
	closed bool
}

func (f *memFile) checkLocked(op string, write bool) error {
	switch {
	case f.closed:
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	case write && !f.write:
		return &fs.PathError{Op: op, Path: f.name, Err: syscall.EBADF}
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.checkLocked("read", false); err != nil {
		return 0, err
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.checkLocked("write", true); err != nil {
		return 0, err
	}
	fits := len(p)
	if grows := off + int64(len(p)) - int64(len(f.node.data)); grows > 0 {
		if lacks := grows - f.m.freeLocked(); lacks > 0 {
			fits = int(max(int64(fits)-lacks, 0))
		}
	}
	if fits > 0 {
		f.m.changeLocked(Change{Op: OpWrite, Name: f.name, Node: f.node.number, Offset: off, Data: slices.Clone(p[:fits])})
	}
	if fits < len(p) {
		return fits, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	return fits, nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.checkLocked("truncate", true); err != nil {
		return err
	}
	f.m.changeLocked(Change{Op: OpTruncate, Name: f.name, Node: f.node.number, Offset: size})
	return nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.checkLocked("sync", false); err != nil {
		return err
	}
	f.m.changeLocked(Change{Op: OpSync, Name: f.name, Node: f.node.number})
	return nil
}

func (f *memFile) SyncData() error { return f.Sync() }

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.checkLocked("stat", false); err != nil {
		return 0, err
	}
	return int64(len(f.node.data)), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.checkLocked("close", false); err != nil {
		return err
	}
	f.closed = true
	f.m.files--
	return nil
}
