package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, f File, p []byte, off int64) {
	t.Helper()
	_, err := f.WriteAt(p, off)
	must(t, err)
}

func mustCreate(t *testing.T, fsys FS, name string) File {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	return f
}

// content returns a file's bytes, nil if it is not there.
func content(t *testing.T, fsys FS, name string) []byte {
	t.Helper()
	f, err := fsys.OpenRead(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	must(t, err)
	n, err := f.Size()
	must(t, err)
	p := make([]byte, n)
	if n > 0 {
		_, err = f.ReadAt(p, 0)
		must(t, err)
	}
	must(t, f.Close())
	return p
}

// TestBoth is what files do on any file system.
func TestBoth(t *testing.T) {
	for name, fsys := range map[string]FS{"os": OS{}, "mem": NewMem(), "faulty": NewFaulty(NewMem())} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			must(t, fsys.MkdirAll(dir))
			lock, err := fsys.Lock(dir)
			must(t, err)
			if _, err := fsys.Lock(dir); !errors.Is(err, ErrLocked) {
				t.Errorf("a second lock: got %v, want ErrLocked", err)
			}
			f := mustCreate(t, fsys, filepath.Join(dir, "x"))
			mustWrite(t, f, []byte("hello"), 3)
			must(t, f.SyncData())
			must(t, f.Truncate(6))
			must(t, f.Sync())
			must(t, f.Close())
			must(t, fsys.Rename(filepath.Join(dir, "x"), filepath.Join(dir, "y")))
			must(t, fsys.SyncDir(dir))
			if got := content(t, fsys, filepath.Join(dir, "y")); string(got) != "\x00\x00\x00hel" {
				t.Errorf("got %q", got)
			}
			entries, err := fsys.List(dir)
			must(t, err)
			found := false
			for _, e := range entries {
				found = found || e == Entry{"y", 6}
			}
			if !found {
				t.Errorf("got %v, want y of 6 bytes among them", entries)
			}
			must(t, fsys.Remove(filepath.Join(dir, "y")))
			for op, err := range map[string]error{
				"open":   errOf(fsys.OpenWrite(filepath.Join(dir, "y"))),
				"remove": fsys.Remove(filepath.Join(dir, "y")),
				"list":   errOf(fsys.List(filepath.Join(dir, "none"))),
			} {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: got %v, want ErrNotExist", op, err)
				}
			}
			if free, total, err := fsys.Free(dir); err != nil || free <= 0 || total < free {
				t.Errorf("got %d of %d free, %v", free, total, err)
			}
			must(t, lock.Close())
			lock, err = fsys.Lock(dir)
			must(t, err)
			must(t, lock.Close())
		})
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	f := mustCreate(t, m, "/d/x")
	mustWrite(t, f, []byte("synced"), 0)
	must(t, f.Sync())
	for percent, want := range map[int]string{0: "", 100: "synced"} {
		if got := content(t, m.CrashClone(percent, nil), "/d/x"); string(got) != want {
			t.Errorf("before the name is durable, %d %%: got %q, want %q", percent, got, want)
		}
	}
	must(t, m.SyncDir("/d"))
	mustWrite(t, f, []byte("SY"), 0)
	must(t, m.Rename("/d/x", "/d/y"))
	least, most := m.CrashClone(0, nil), m.CrashClone(100, nil)
	if x, y := content(t, least, "/d/x"), content(t, least, "/d/y"); string(x) != "synced" || y != nil {
		t.Errorf("at least: got %q and %q", x, y)
	}
	if x, y := content(t, most, "/d/x"), content(t, most, "/d/y"); x != nil || string(y) != "SYnced" {
		t.Errorf("at most: got %q and %q", x, y)
	}
	must(t, m.SyncDir("/d"))
	must(t, m.Remove("/d/y"))
	if got := content(t, m.CrashClone(0, nil), "/d/y"); string(got) != "synced" {
		t.Errorf("a removal that is not durable: got %q", got)
	}
}

// TestCrashReorders sees each combination of two sectors.
func TestCrashReorders(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	f := mustCreate(t, m, "/d/x")
	must(t, m.SyncDir("/d"))
	mustWrite(t, f, bytes.Repeat([]byte{1}, 2*crashBlock), 0)
	seen := make(map[[2]bool]bool)
	for seed := range uint64(64) {
		p := content(t, m.CrashClone(50, rand.New(rand.NewPCG(seed, 0))), "/d/x")
		p = append(p, make([]byte, 2*crashBlock-len(p))...)
		seen[[2]bool{p[0] == 1, p[crashBlock] == 1}] = true
	}
	if len(seen) != 4 {
		t.Errorf("only %v", seen)
	}
}

func TestCutAtEachByte(t *testing.T) {
	m := NewMem()
	m.Record()
	must(t, m.MkdirAll("/d"))
	f := mustCreate(t, m, "/d/x")
	must(t, m.SyncDir("/d"))
	mustWrite(t, f, []byte("abc"), 0)
	must(t, f.Sync())
	mustWrite(t, f, []byte("def"), 3)
	n := len(m.History()) - 1
	for keep := range 4 {
		if got, want := string(content(t, m.Cut(n, keep, 100, nil), "/d/x")), "abcdef"[:3+keep]; got != want {
			t.Errorf("after %d bytes: got %q, want %q", keep, got, want)
		}
		if got := string(content(t, m.Cut(n, keep, 0, nil), "/d/x")); got != "abc" {
			t.Errorf("after %d bytes, at least: got %q", keep, got)
		}
	}
	if got := string(content(t, m.Cut(n-1, 0, 0, nil), "/d/x")); got != "" {
		t.Errorf("during the sync: got %q", got)
	}
	killed := m.Killed(n, 2)
	if got := string(content(t, killed, "/d/x")); got != "abcde" {
		t.Errorf("killed: got %q", got)
	}
	if got := string(content(t, killed.CrashClone(0, nil), "/d/x")); got != "abc" {
		t.Errorf("killed, then cut: got %q", got)
	}
}

func TestSpace(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	m.SetSpace(10)
	f, g := mustCreate(t, m, "/d/x"), mustCreate(t, m, "/d/y")
	mustWrite(t, f, []byte("1234567"), 0)
	n, err := g.WriteAt([]byte("12345"), 0)
	if n != 3 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %d, %v, want 3 bytes and ENOSPC", n, err)
	}
	mustWrite(t, f, []byte("over"), 0)
	must(t, m.Remove("/d/x"))
	mustWrite(t, g, []byte("12345"), 0)
}

func TestFailNth(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	faulty := NewFaulty(m)
	f := mustCreate(t, faulty, "/d/x")
	isWrite := func(c Call) bool { return c.Op == OpWrite && c.Name == "/d/x" }
	for _, forever := range []bool{false, true} {
		faulty.SetHook(FailNth(2, forever, syscall.EIO, isWrite))
		for i, fails := range []bool{false, true, forever} {
			_, err := f.WriteAt([]byte{byte(i)}, 0)
			if errors.Is(err, syscall.EIO) != fails {
				t.Errorf("write %d, forever %v: got %v", i, forever, err)
			}
			must(t, f.Sync())
		}
	}
	faulty.SetHook(func(Call) error { return &ShortWrite{N: 2, Err: syscall.ENOSPC} })
	if n, err := f.WriteAt([]byte("abcd"), 0); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %d, %v, want 2 bytes and ENOSPC", n, err)
	}
	faulty.SetHook(nil)
	if got := string(content(t, faulty, "/d/x")); got != "ab" {
		t.Errorf("got %q after a short write", got)
	}
}
