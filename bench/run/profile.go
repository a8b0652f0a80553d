package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	// warmUp is how long a load runs before the profile starts, and coolDown how
	// long before its end the profile is over.
	warmUp   = 500 * time.Millisecond
	coolDown = 500 * time.Millisecond
	// profileAtLeast is the shortest load that is worth a profile.
	profileAtLeast = 5.0
	topEntries     = "-nodecount=25"
)

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

// profile runs the shape's load on Ferry once more, outside the figures, and
// saves where its CPU time and its allocations go.
func (b *bench) profile(ctx context.Context, s shape, into, binary string, w io.Writer) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	dir := filepath.Join(into, strings.Trim(unfit.ReplaceAllString(strings.ToLower(s.name+" "+s.mode), "-"), "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	seconds := max(b.seconds, profileAtLeast)
	taken := time.Duration(seconds*1e9) - warmUp - coolDown
	_, err = b.with(ctx, b.ferry, func(_ string, n *node) (figures, error) {
		var fetching sync.WaitGroup
		var cpuErr, allocErr error
		fetching.Go(func() {
			time.Sleep(warmUp)
			base := "http://" + addr + "/debug/pprof/"
			cpuErr = fetch(ctx, fmt.Sprintf("%sprofile?seconds=%d", base, int(taken.Seconds())), filepath.Join(dir, "cpu.pprof"))
			allocErr = fetch(ctx, base+"allocs", filepath.Join(dir, "allocs.pprof"))
		})
		_, err := b.run(ctx, n, append([]string{"-seconds", fmt.Sprint(seconds)}, s.load...)...)
		fetching.Wait()
		for _, e := range []error{err, cpuErr, allocErr} {
			if e != nil {
				return nil, e
			}
		}
		return nil, nil
	}, "--pprof", addr)
	if err != nil {
		return err
	}
	for _, p := range []struct{ title, file, sample string }{
		{"CPU", "cpu.pprof", ""},
		{"bytes allocated", "allocs.pprof", "-sample_index=alloc_space"},
	} {
		args := []string{"tool", "pprof", "-top", topEntries}
		if p.sample != "" {
			args = append(args, p.sample)
		}
		file := filepath.Join(dir, p.file)
		out, err := exec.CommandContext(ctx, "go", append(args, binary, file)...).Output()
		if err != nil {
			return fmt.Errorf("go tool pprof %s: %w", file, err)
		}
		fmt.Fprintf(w, "\n%s (%s): %s\n%s", s.name, s.mode, p.title, out)
		if err := os.WriteFile(strings.TrimSuffix(file, ".pprof")+".txt", out, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func fetch(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, resp.Body); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
