package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A client is one of the two, with the broker that it is measured against.
type client struct {
	broker
	name string
}

// clientReport is what bench/client prints.
type clientReport struct {
	PerS         float64 `json:"per_s"`
	CPU          float64 `json:"cpu_us"`
	FirstConfirm float64 `json:"first_confirm_ms"`
	Peak         float64 `json:"peak_mb"`
	DrainedPerS  float64 `json:"drained_per_s"`
}

// runClient runs the client that br says.
func (b *bench) runClient(ctx context.Context, br broker, flags ...string) (r clientReport, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loadWithin, errors.New("the client took too long"))
	defer cancel()
	name := "ferry"
	if c, ok := br.(client); ok && c.name == clients.theirs {
		name = "amqp091"
	}
	cmd := exec.CommandContext(ctx, b.client, append([]string{"-client", name}, flags...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("client %s: %w: %s", strings.Join(flags, " "), err, said.String())
	}
	return r, json.Unmarshal(out, &r)
}

func nodeURL(n *node) string { return "amqp://guest:guest@" + n.addr + "/" }

// clientRate measures messages a second, in one of the client's modes.
func clientRate(flags ...string) measure {
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		return b.with(ctx, br, func(_ string, n *node) (figures, error) {
			r, err := b.runClient(ctx, br, append([]string{"-url", nodeURL(n), "-for", fmt.Sprintf("%gs", b.seconds)}, flags...)...)
			if err != nil {
				return nil, err
			}
			return figures{moved: r.PerS, clientCPU: r.CPU}, nil
		})
	}
}

// clientFailover kills the first of two brokers.
func clientFailover(ctx context.Context, b *bench, br broker) (figures, error) {
	return b.with(ctx, br, func(_ string, live *node) (figures, error) {
		return b.with(ctx, br, func(_ string, backup *node) (figures, error) {
			r, err := b.runClient(ctx, br, "-mode", "failover", "-url", nodeURL(live)+","+nodeURL(backup),
				"-kill", strconv.Itoa(live.pid), "-for", fmt.Sprintf("%gs", b.seconds))
			if err != nil {
				return nil, err
			}
			return figures{firstConfirm: r.FirstConfirm}, nil
		})
	})
}

// clientOutbox fills an outbox without a broker, and drains it with one.
func clientOutbox(messages int) measure {
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		return b.with(ctx, br, func(dir string, n *node) (figures, error) {
			box := filepath.Join(dir, "outbox")
			defer os.RemoveAll(box)
			r, err := b.runClient(ctx, br, "-mode", "outbox", "-url", nodeURL(n), "-dir", box, "-count", strconv.Itoa(messages))
			if err != nil {
				return nil, err
			}
			return figures{accepted: r.PerS, drained: r.DrainedPerS, clientPeak: r.Peak}, nil
		})
	}
}

// clientShapes are the rows of the second table.
func clientShapes(s sizes) []shape {
	return []shape{
		{
			name: "publish 100 B, one connection", mode: transient, rabbitRuns: always, versus: clients,
			measure: clientRate("-mode", "publish"),
			targets: []target{{moved, timesAtLeast, 3}, {clientCPU, shown, 0}},
		},
		{
			name: "publish 100 B, confirm 1000", mode: transient, rabbitRuns: always, versus: clients,
			measure: clientRate("-mode", "confirm"),
			targets: []target{{moved, timesAtLeast, 3}, {clientCPU, shown, 0}},
		},
		{
			name: "consume 100 B, each acknowledged", mode: transient, rabbitRuns: always, versus: clients,
			measure: clientRate("-mode", "consume", "-count", strconv.Itoa(s.backlog)),
			targets: []target{{moved, timesAtLeast, 2}, {clientCPU, shown, 0}},
		},
		{
			name: "SIGKILL of the live broker, a backup up", mode: persistent, versus: clients,
			measure: clientFailover,
			targets: []target{{firstConfirm, atMost, 250}},
		},
		{
			name: count(s.backlog) + " messages in the outbox", mode: "fsync before accepted", versus: clients,
			measure: clientOutbox(s.backlog),
			targets: []target{{clientPeak, atMost, 100}, {accepted, shown, 0}, {drained, shown, 0}},
		},
	}
}
