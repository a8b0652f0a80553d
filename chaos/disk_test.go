package chaos

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// mountTmpfs mounts a small file system, until the test has ended.
func mountTmpfs(t *testing.T, size string) (dir string) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		missing(t, "a tmpfs of %s for a disk that fills up: it takes root on Linux to mount one", size)
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		missing(t, "a tmpfs of %s for a disk that fills up: mount: %v: %s", size, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func freeOn(t *testing.T, dir string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// A disk that fills up blocks publishers and nobody else; when consumers have
// made room, or somebody else has, publishing goes on.
func TestFullDisk(t *testing.T) {
	takeTurn(t)
	for _, row := range []struct {
		name    string
		limit   string // what is to stay free
		kill    bool   // while it is full
		foreign bool   // it is other files that fill it
	}{
		{name: "full", limit: "12MiB"},
		{name: "full, killed", limit: "12MiB", kill: true},
		{name: "no space because of others", limit: "4KiB", foreign: true},
		{name: "no space because of others, killed", limit: "4KiB", foreign: true, kill: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			disk := mountTmpfs(t, "48m")
			s := setup{dir: filepath.Join(disk, "data"), flags: []string{"--disk-free-limit", row.limit}}
			p := start(t, s)
			l := newLoad(t, p.addr)
			queues := []string{"polite", "heedless"}
			for _, q := range queues {
				l.queue(q, true)
			}
			mustDeclare(t, mustConnect(t, p.addr), queues...)
			ballast := filepath.Join(disk, "others")
			if row.foreign {
				fill(t, ballast, freeOn(t, disk)-2<<20)
			}
			l.publish(publisher{key: "polite", queues: queues[:1], window: 50, size: 8192})
			l.publish(publisher{key: "heedless", queues: queues[1:], window: 5000, size: 8192, heedless: true})
			// A publisher is told when it publishes: the polite one may wait for
			// its confirms instead.
			blocked := func() bool { return l.blocked.Load() > 0 }
			if !until(10*time.Second, blocked) {
				t.Fatalf("%s are free, and no publisher was told that it is blocked", mib(freeOn(t, disk)))
			}
			// Being blocked, they confirm nothing more after a while.
			before := l.totals().confirmed
			steady := time.Now()
			if !until(20*time.Second, func() bool {
				if n := l.totals().confirmed; n != before {
					before, steady = n, time.Now()
				}
				return time.Since(steady) > time.Second
			}) {
				t.Error("messages are still confirmed, 20 s after publishers were blocked")
			}
			full := freeOn(t, disk)
			if row.kill {
				p.kill()
				p = startAt(t, l.addr, s)
				if !until(10*time.Second, blocked) {
					t.Error("after the restart no publisher was told that it is blocked")
				}
			}
			stalls := l.stalls.Load()
			for _, q := range queues {
				l.consume(consumer{queue: q, prefetch: 100, settle: ackMultiple})
			}
			began := time.Now()
			if row.foreign {
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
			}
			goal := l.totals().confirmed + 2000
			if !until(20*time.Second, func() bool { return l.blocked.Load() == 0 && l.totals().confirmed >= goal }) {
				t.Errorf("20 s after there was room again, %d of 2 publishers are blocked, %d of 2000 messages were confirmed, %s are free",
					l.blocked.Load(), l.totals().confirmed+2000-goal, mib(freeOn(t, disk)))
			}
			resumed := time.Since(began)
			n := l.finish()
			l.empty()
			p.terminate()
			t.Logf("\n%s", table("confirmed", n.confirmed, "received", n.received, "lost", n.lost,
				"duplicated", n.duplicated, "reordered", n.reordered, "free when full", mib(full),
				"2,000 more confirmed after", resumed.Round(time.Millisecond), "blocked again meanwhile", l.stalls.Load()-stalls))
		})
	}
}

// fill makes a file of so many bytes, or as many as there is room for.
func fill(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for size > 0 {
		n := min(size, int64(len(block)))
		_, err := f.Write(block[:n])
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		size -= n
	}
}
