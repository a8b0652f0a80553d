package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// gmqReport is what bench/gmq prints.
type gmqReport struct {
	PerS float64 `json:"per_s"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
}

// gmqRequests measures GMQ requests, of messages that are stored: published, or taken
// from a queue that has so many.
func gmqRequests(fill int, flags ...string) measure {
	return func(ctx context.Context, b *bench, _ broker) (figures, error) {
		return b.with(ctx, ferry{binary: b.command, gmq: true}, func(_ string, n *node) (figures, error) {
			if fill > 0 {
				if _, err := b.run(ctx, n, filling(fill)...); err != nil {
					return nil, err
				}
			}
			r, err := b.runGMQ(ctx, n, flags...)
			if err != nil {
				return nil, err
			}
			return figures{requests: r.PerS, requestP50: r.P50, requestP99: r.P99}, nil
		})
	}
}

func filling(messages int) []string { return fill(messages, "-confirm", "2000") }

func (b *bench) runGMQ(ctx context.Context, n *node, flags ...string) (r gmqReport, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loadWithin, errors.New("the load took too long"))
	defer cancel()
	cmd := exec.CommandContext(ctx, b.gmq, append([]string{"-addr", n.gmq, "-for", fmt.Sprintf("%gs", b.seconds)}, flags...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("gmq %s: %w: %s", strings.Join(flags, " "), err, strings.TrimSpace(said.String()))
	}
	return r, json.Unmarshal(out, &r)
}

// gmqShapes are the rows of the table about GMQ. A publish is answered when its
// message is on the disk, and a take when it is certain that the message was taken.
func gmqShapes(s sizes) []shape {
	row := func(name string, fill int, flags ...string) shape {
		return shape{
			name: name, mode: "persistent, fsync before the answer", versus: requestsOf, measure: gmqRequests(fill, flags...),
			targets: []target{{requests, shown, 0}, {requestP50, shown, 0}, {requestP99, shown, 0}},
		}
	}
	return []shape{
		row("publish 100 B, one connection, one by one", 0),
		row("publish 100 B, one connection, 1000 under way", 0, "-window", "1000"),
		row("publish 100 B, a new connection each", 0, "-each"),
		row("take 100 B, one connection, one by one", s.backlog, "-take"),
		row("take 100 B, a new connection each", s.backlog, "-take", "-each"),
	}
}
