// Package proc reads what Linux tells about a process and its descendants: a
// broker may be several (RabbitMQ is).
package proc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc/PID/stat (USER_HZ, 100 on Linux).
const tick = 10 * time.Millisecond

// Tree is the process and its descendants, in no order but the process first.
func Tree(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		id, fields := stat(path)
		if len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], id)
		}
	}
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree
}

// stat returns a process's id and the fields that follow its name, which may
// itself hold spaces and parentheses.
func stat(path string) (pid int, fields []string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, nil // gone in the meantime
	}
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || shut < open {
		return 0, nil
	}
	pid, _ = strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	return pid, strings.Fields(string(b[shut+1:]))
}

// CPU is the time that the tree's living processes have run, in user and system.
func CPU(pid int) (total time.Duration) {
	for _, p := range Tree(pid) {
		_, fields := stat(fmt.Sprintf("/proc/%d/stat", p))
		if len(fields) < 13 {
			continue
		}
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		total += time.Duration(user+system) * tick
	}
	return total
}

// Resident is the memory of the tree that is resident now, in KiB.
func Resident(pid int) int { return sum(pid, "VmRSS:") }

// Peak is the sum of the most that each process of the tree has had resident
// since it started or since ResetPeak, in KiB.
func Peak(pid int) int { return sum(pid, "VmHWM:") }

// ResetPeak starts the measure of Peak anew. It needs the right to write the
// processes' clear_refs: without it Peak counts from their start.
func ResetPeak(pid int) {
	for _, p := range Tree(pid) {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p), []byte("5"), 0)
	}
}

func sum(pid int, key string) (kib int) {
	for _, p := range Tree(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, key); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
				kib += n
			}
		}
	}
	return kib
}
