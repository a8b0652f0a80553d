package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A sender is a Ferry whose queue is received from by AMQP, and sent to by STOMP
// or by AMQP as well.
type sender struct {
	broker
	overSTOMP bool
}

// stompReport is what of the result of ferry bench is used.
type stompReport struct {
	Sent      uint64  `json:"sent"`
	Confirmed uint64  `json:"confirmed"`
	Received  float64 `json:"received_per_s"`
	Stopped   string  `json:"stopped"`
	Confirm   *struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
	} `json:"confirm_us"`
}

// ferryBench puts load on a broker with ferry bench, the same for every broker,
// after as much of it as warm that does not count.
func ferryBench(warm time.Duration, flags ...string) measure {
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		return b.with(ctx, br, func(_ string, n *node) (figures, error) {
			if n.stomp == "" {
				return nil, errors.New("it does not say where it listens for STOMP")
			}
			urls := []string{"-u", n.stomp}
			if s, ok := br.(sender); ok {
				urls = []string{"-u", nodeURL(n), "--consume-url", nodeURL(n)}
				if s.overSTOMP {
					urls[1] = n.stomp
				}
			}
			if warm > 0 {
				if _, err := b.ferryBench(ctx, warm, append(urls, flags...)...); err != nil {
					return nil, fmt.Errorf("warming up: %w", err)
				}
			}
			r, err := b.ferryBench(ctx, time.Duration(b.seconds*1e9), append(urls, flags...)...)
			if err != nil {
				return nil, err
			}
			f := figures{delivered: r.Received}
			if r.Received > 0 {
				f[perMessage] = 1e6 / r.Received
			}
			if r.Confirm != nil {
				f[confirmP50], f[confirmP99] = r.Confirm.P50/1e3, r.Confirm.P99/1e3
			}
			return f, nil
		})
	}
}

func (b *bench) ferryBench(ctx context.Context, lasting time.Duration, flags ...string) (r stompReport, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loadWithin+lasting, errors.New("the load took too long"))
	defer cancel()
	args := append([]string{"bench", "--quiet", "--json", "-", "--duration", lasting.String()}, flags...)
	cmd := exec.CommandContext(ctx, b.command, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("ferry %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("ferry bench: %w", err)
	}
	if r.Stopped != "" || r.Confirmed < r.Sent {
		return r, fmt.Errorf("ferry bench: %d of %d messages are confirmed; it ended with %q", r.Confirmed, r.Sent, r.Stopped)
	}
	return r, nil
}

// stompShapes are the rows of the tables about STOMP. The load is ferry bench on
// each of them: receipts for persistent messages, 1000 outstanding, and each
// delivery acknowledged.
func stompShapes(s sizes) []shape {
	flags := []string{"-s", "100", "-c", "1000", "-q", "1000"}
	load := ferryBench(0, flags...)
	return []shape{
		{
			name: "100 B, 1×1, 1000 receipts outstanding", mode: "persistent (plugin: write; Ferry: fsync before receipt)", rabbitRuns: always,
			versus: stompPlugin, measure: load,
			targets: []target{{delivered, timesAtLeast, 5}, {confirmP50, shown, 0}, {confirmP99, shown, 0}},
		},
		{
			name: "100 B, 1×1, 1000 receipts outstanding", mode: persistentReceipt, rabbitRuns: always,
			versus: stompArtemis, measure: ferryBench(s.warmUp, flags...),
			targets: []target{{delivered, timesAtLeast, 2}, {confirmP50, shown, 0}, {confirmP99, shown, 0}},
		},
		{
			name: "100 B, 1×1, confirm 1000", mode: persistent, rabbitRuns: always,
			versus: crossing, measure: load,
			targets: []target{{perMessage, timesAtMost, 1.3}, {delivered, shown, 0}, {confirmP99, shown, 0}},
		},
	}
}
