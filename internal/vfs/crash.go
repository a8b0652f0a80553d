package vfs

import (
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// crashBlock is the unit in which unsynced bytes survive or not: a sector.
const crashBlock = 512

// A Change is one thing that was done to a Mem.
type Change struct {
	Op      Op
	Name    string
	NewName string // of a rename
	Node    int    // of a write, truncate or sync: which file, whatever its name
	Offset  int64  // of a write; the size of a truncate
	Data    []byte // of a write
}

// A disk is what a Mem holds, and what of that is durable. The current state is
// what was durable with all changes since.
type disk struct {
	dirs    map[string]bool
	nodes   []*node
	names   map[string]*node
	durable map[string]*node    // names
	pending map[string][]rename // by directory
}

// A node is a file, whatever its names.
type node struct {
	number  int
	data    []byte
	durable []byte
	pending []Change // writes and truncates that are not durable
}

// A rename is a change of names that is not durable. Create and remove are
// renames from and to nothing.
type rename struct {
	from, to string
	node     *node
}

func newDisk() disk {
	return disk{
		dirs:    map[string]bool{"/": true, ".": true},
		names:   make(map[string]*node),
		durable: make(map[string]*node),
		pending: make(map[string][]rename),
	}
}

func (d *disk) newNode() *node {
	n := &node{number: len(d.nodes)}
	d.nodes = append(d.nodes, n)
	return n
}

func (d *disk) rename(r rename) {
	dir := filepath.Dir(r.to)
	if r.to == "" {
		dir = filepath.Dir(r.from)
	}
	d.pending[dir] = append(d.pending[dir], r)
	r.apply(d.names)
}

func (r rename) apply(names map[string]*node) {
	if r.from != "" {
		delete(names, r.from)
	}
	if r.to != "" {
		names[r.to] = r.node
	}
}

func (d *disk) apply(c Change) {
	switch c.Op {
	case OpMkdir:
		for dir := c.Name; !d.dirs[dir]; dir = filepath.Dir(dir) {
			d.dirs[dir] = true
		}
	case OpCreate:
		if n := d.names[c.Name]; n != nil {
			n.change(Change{Op: OpTruncate})
			return
		}
		d.rename(rename{to: c.Name, node: d.newNode()})
	case OpRemove:
		d.rename(rename{from: c.Name})
	case OpRename:
		d.rename(rename{from: c.Name, to: c.NewName, node: d.names[c.Name]})
	case OpSyncDir:
		for _, r := range d.pending[c.Name] {
			r.apply(d.durable)
		}
		delete(d.pending, c.Name)
	case OpWrite, OpTruncate:
		d.nodes[c.Node].change(c)
	case OpSync:
		n := d.nodes[c.Node]
		n.durable, n.pending = slices.Clone(n.data), nil
	}
}

func (n *node) change(c Change) {
	n.data = c.applyTo(n.data)
	n.pending = append(n.pending, c)
}

// applyTo returns a file's bytes after a write or truncate.
func (c *Change) applyTo(data []byte) []byte {
	end := c.Offset + int64(len(c.Data))
	if c.Op == OpTruncate && end < int64(len(data)) {
		return data[:end:end]
	}
	if end > int64(len(data)) {
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	copy(data[c.Offset:], c.Data)
	return data
}

// CrashClone returns the file system as it may be found after a power cut now.
// What was synced is there. Of what was not, each sector of a write, each
// truncation and each change of a name is there with the given probability, in
// percent: 0 is the least that a crash may leave, 100 the most, and what is
// between stands for a medium that wrote in another order. The same random
// numbers give the same result.
func (m *Mem) CrashClone(unsyncedPercent int, rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk.crash(unsyncedPercent, rng)
}

// Cut returns the file system as it may be found after a power cut during the
// n-th change of the history (0 is the first), which has to begin with an empty
// file system: those before it were done, and, if it is a write, its first
// bytes, so many as are given. What of that is durable is as with CrashClone.
func (m *Mem) Cut(n, bytes, unsyncedPercent int, rng *rand.Rand) *Mem {
	d := m.until(n, bytes)
	return d.crash(unsyncedPercent, rng)
}

// Killed returns the file system as a process finds it that starts after
// another was killed during the n-th change, as with Cut: all that was done is
// there, but what was not synced still is not durable.
func (m *Mem) Killed(n, bytes int) *Mem {
	killed := NewMem()
	killed.disk = m.until(n, bytes)
	return killed
}

// until repeats the history up to a change.
func (m *Mem) until(n, bytes int) disk {
	history := m.History()
	lastSync := make(map[int]int) // by node
	for i, c := range history[:n] {
		if c.Op == OpSync {
			lastSync[c.Node] = i
		}
	}
	d := newDisk()
	for i, c := range history[:n] {
		if c.Op == OpSync && lastSync[c.Node] > i {
			d.nodes[c.Node].pending = nil // what is durable is not looked at before that
			continue
		}
		d.apply(c)
	}
	if n < len(history) && history[n].Op == OpWrite && bytes > 0 {
		c := history[n]
		c.Data = c.Data[:bytes]
		d.apply(c)
	}
	return d
}

func (d *disk) crash(percent int, rng *rand.Rand) *Mem {
	survives := func() bool {
		switch percent {
		case 0:
			return false
		case 100:
			return true
		}
		return rng.IntN(100) < percent
	}
	names := maps.Clone(d.durable)
	for _, dir := range slices.Sorted(maps.Keys(d.pending)) {
		for _, r := range d.pending[dir] {
			if survives() {
				r.apply(names)
			}
		}
	}
	m := NewMem()
	maps.Copy(m.disk.dirs, d.dirs)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		n := m.disk.newNode()
		n.data = names[name].crash(survives)
		n.durable = slices.Clone(n.data)
		m.disk.names[name], m.disk.durable[name] = n, n
	}
	return m
}

func (n *node) crash(survives func() bool) []byte {
	data := slices.Clone(n.durable)
	for _, c := range n.pending {
		if c.Op == OpTruncate {
			if survives() {
				data = c.applyTo(data)
			}
			continue
		}
		for len(c.Data) > 0 {
			k := min(len(c.Data), crashBlock-int(c.Offset%crashBlock))
			part := Change{Op: OpWrite, Offset: c.Offset, Data: c.Data[:k]}
			if survives() {
				data = part.applyTo(data)
			}
			c.Offset += int64(k)
			c.Data = c.Data[k:]
		}
	}
	return data
}
