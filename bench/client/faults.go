package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ferrymq/ferry"
)

// failover publishes with confirms, one message after the other, kills the broker
// in between, and measures how soon the next one confirms.
func failover(ctx context.Context, o options) (report, error) {
	l, err := openFerry(ctx, o.url)
	if err != nil {
		return report{}, err
	}
	defer l.close()
	c := l.(*ferryLoad).client
	m := ferry.Message{Key: queue, Body: make([]byte, o.size)}
	start := time.Now()
	n := uint64(0)
	for ; time.Since(start) < o.length; n++ {
		if err := c.Publish(ctx, m); err != nil {
			return report{}, err
		}
	}
	first := c.Status().Publish.Endpoint
	killed := time.Now()
	if err := syscall.Kill(o.kill, syscall.SIGKILL); err != nil {
		return report{}, fmt.Errorf("kill %d: %w", o.kill, err)
	}
	for c.Status().Publish.Endpoint == first { // what was confirmed by the first does not count
		if err := c.Publish(ctx, m); err != nil {
			return report{}, err
		}
	}
	if err := c.Publish(ctx, m); err != nil {
		return report{}, err
	}
	return report{Client: o.client, Mode: o.mode, Messages: n, FirstConfirm: time.Since(killed).Seconds() * 1e3}, nil
}

// outbox fills an outbox while no broker is up, ends, begins again with one, and
// sends everything.
func outbox(ctx context.Context, o options) (report, error) {
	c, err := ferry.Dial(ctx, "amqp://127.0.0.1:1/", ferry.WithOutbox(o.dir, 0))
	if err != nil {
		return report{}, err
	}
	p, err := c.Publisher(ferry.PublisherOptions{Key: queue})
	if err != nil {
		return report{}, err
	}
	m := ferry.Message{Body: make([]byte, o.size)}
	cpu, start := used(), time.Now()
	var failed atomic.Pointer[error]
	left := make(chan struct{}, 1)
	var done atomic.Int64
	for range o.count {
		err := p.Submit(ctx, m, func(r ferry.Result) {
			if r.Err != nil {
				failed.Store(&r.Err)
			}
			if done.Add(1) == int64(o.count) {
				left <- struct{}{}
			}
		})
		if err != nil {
			return report{}, err
		}
	}
	select {
	case <-left:
	case <-ctx.Done():
		return report{}, ctx.Err()
	}
	if err := failed.Load(); err != nil {
		return report{}, *err
	}
	took := time.Since(start)
	r := report{
		Client: o.client, Mode: o.mode, Messages: uint64(o.count), Seconds: took.Seconds(), PerS: float64(o.count) / took.Seconds(),
		CPU: (used() - cpu).Seconds() * 1e6 / float64(o.count),
	}
	if err := c.Close(ctx); err != nil {
		return report{}, err
	}

	start = time.Now()
	c, err = ferry.Dial(ctx, o.url, ferry.WithOutbox(o.dir, 0), ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: queue}}}))
	if err != nil {
		return report{}, err
	}
	if p, err = c.Publisher(ferry.PublisherOptions{}); err != nil {
		return report{}, err
	}
	if err := errors.Join(p.Flush(ctx), c.Close(ctx)); err != nil {
		return report{}, err
	}
	r.DrainedPerS = float64(o.count) / time.Since(start).Seconds()
	r.Peak, err = peak()
	return r, err
}

// peak is the most that was resident of this process, in MB.
func peak() (float64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kb); n == 1 {
			return kb * 1024 / 1e6, nil
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}
