package app

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// memoryTotal is how much memory the process may have: the machine's, or less
// if a control group limits it. 0: not known.
func memoryTotal() int64 { return memoryTotalIn(os.DirFS("/")) }

func memoryTotalIn(root fs.FS) int64 {
	total := machineMemory(root)
	for _, name := range cgroupLimits(root) {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		// "max" is version 2's word for no limit; version 1 has a huge number.
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n > 0 && (total == 0 || n < total) {
			total = n
		}
	}
	return total
}

func machineMemory(root fs.FS) int64 {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// cgroupLimits lists the files that limit this process: its control group's and
// those of the groups above it. In a container the group's path is often that
// outside, and only the root is there.
func cgroupLimits(root fs.FS) []string {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	var files []string
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		// number:controllers:path, cgroups(7)
		f := strings.SplitN(lines.Text(), ":", 3)
		if len(f) != 3 {
			continue
		}
		base, file := "", ""
		switch {
		case f[1] == "":
			base, file = "sys/fs/cgroup", "memory.max"
		case strings.Contains(","+f[1]+",", ",memory,"):
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for dir := path.Clean("/" + f[2]); ; dir = path.Dir(dir) {
			files = append(files, path.Join(base, dir, file))
			if dir == "/" {
				break
			}
		}
	}
	return files
}
