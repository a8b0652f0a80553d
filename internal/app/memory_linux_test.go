package app

import (
	"testing"
	"testing/fstest"
)

func TestMemoryTotal(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	machine := file("MemTotal:       1000 kB\nMemFree:         900 kB\n")
	for _, row := range []struct {
		name string
		root fstest.MapFS
		want int64
	}{
		{"nothing is known", fstest.MapFS{}, 0},
		{"no control group", fstest.MapFS{"proc/meminfo": machine}, 1000 << 10},
		{"version 2, no limit", fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("max\n"),
		}, 1000 << 10},
		{"version 2, the group's", fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("4096\n"),
		}, 4096},
		{"version 2, that of the group above", fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("0::/a/b\n"),
			"sys/fs/cgroup/a/memory.max": file("8192\n"), "sys/fs/cgroup/a/b/memory.max": file("9000\n"),
		}, 8192},
		{"version 2, in a container", fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("0::/../docker/x\n"), "sys/fs/cgroup/memory.max": file("4096\n"),
		}, 4096},
		{"version 1", fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("5:cpu:/x\n4:pids,memory:/y\n"),
			"sys/fs/cgroup/memory/y/memory.limit_in_bytes": file("4096\n"),
		}, 4096},
		{"version 1, no limit", fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("4:memory:/\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 1000 << 10},
		{"more than there is", fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("2000000\n"),
		}, 1000 << 10},
	} {
		if got := memoryTotalIn(row.root); got != row.want {
			t.Errorf("%s: %d bytes, want %d", row.name, got, row.want)
		}
	}
	if n := memoryTotal(); n < 64<<20 {
		t.Errorf("this machine has %d bytes", n)
	}
}
