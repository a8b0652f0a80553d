package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ferrymq/ferry/bench/internal/load"
	"github.com/ferrymq/ferry/bench/internal/proc"
)

const (
	// loadWithin bounds a load beyond the time that it measures.
	loadWithin = 3 * time.Minute
	// servingWithin bounds the wait for a restarted broker with all it had.
	servingWithin = time.Minute
	servingPoll   = 2 * time.Millisecond
	// atRest is how long a broker is left alone before its memory is read.
	atRest = 2 * time.Second
)

// bench is what the measurements share.
type bench struct {
	ferry   broker
	rabbit  broker
	plugin  broker // RabbitMQ with its STOMP plugin
	artemis broker
	command string // ferry's binary: its bench is the load over STOMP
	load    string // the load generator's binary
	client  string // the binary that measures clients
	gmq     string // the load generator's of GMQ
	seconds float64
	tmp     string
	n       int

	databases string // the script that starts their servers
}

// dir is a new directory's name.
func (b *bench) dir() string {
	b.n++
	return filepath.Join(b.tmp, strconv.Itoa(b.n))
}

// measure takes a shape's figures from a broker that it starts, and ends.
type measure func(ctx context.Context, b *bench, br broker) (figures, error)

// with runs a broker in a directory of its own for as long as use takes.
func (b *bench) with(ctx context.Context, br broker, use func(dir string, n *node) (figures, error), flags ...string) (f figures, err error) {
	dir := b.dir()
	defer os.RemoveAll(dir)
	n, err := br.start(ctx, dir, flags...)
	if err != nil {
		return nil, err
	}
	defer func() {
		// Killed, not stopped: what it holds is thrown away. RabbitMQ's script
		// takes its own way.
		err = errors.Join(err, n.kill())
	}()
	return use(dir, n)
}

// run puts a load on the node.
func (b *bench) run(ctx context.Context, n *node, flags ...string) (r load.Report, err error) {
	return r, b.generate(ctx, n, &r, flags...)
}

func (b *bench) generate(ctx context.Context, n *node, report any, flags ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loadWithin+time.Duration(b.seconds*1e9), errors.New("the load took too long"))
	defer cancel()
	args := append([]string{"-addr", n.addr, "-pid", strconv.Itoa(n.pid), "-seconds", fmt.Sprint(b.seconds)}, flags...)
	cmd := exec.CommandContext(ctx, b.load, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("load %s: %w: %s%s", strings.Join(flags, " "), err, out, strings.TrimSpace(said.String()))
	}
	return json.Unmarshal(out, report)
}

func plain(flags []string) measure {
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		return b.with(ctx, br, func(_ string, n *node) (figures, error) {
			r, err := b.run(ctx, n, flags...)
			if err != nil {
				return nil, err
			}
			return reported(r), nil
		})
	}
}

// reported are a load's figures.
func reported(r load.Report) figures {
	f := figures{
		delivered:   r.ReceivedPerS,
		publishRate: r.PublishedPerS,
		cpu:         r.BrokerCPU,
		peak:        r.BrokerPeak,
	}
	if r.PublishedPerS > 0 {
		f[deliveredPart] = 100 * r.ReceivedPerS / r.PublishedPerS
	}
	if r.Confirm != nil {
		f[confirmP50], f[confirmP99] = r.Confirm.P50, r.Confirm.P99
	}
	return f
}

// backlog publishes to a queue that nobody reads, kills the broker, and sees
// how soon it is back and how fast one consumer empties the queue. RabbitMQ
// publishes fewer, and only that.
func backlog(messages, rabbits int) measure {
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		if br == b.rabbit {
			return b.with(ctx, br, func(_ string, n *node) (figures, error) {
				r, err := b.run(ctx, n, fill(rabbits, "-confirm", "2000")...)
				if err != nil {
					return nil, err
				}
				return figures{publishRate: r.PublishedPerS, peak: r.BrokerPeak}, nil
			})
		}
		return b.killed(ctx, br, killing{
			fill:     fill(messages, "-confirm", "2000"),
			drain:    []string{"-producers", "0", "-consumers", "1", "-count", strconv.Itoa(messages), "-persistent", "-keep"},
			messages: messages, queues: 1,
		})
	}
}

// manyBacklogs is the same with many queues that are published to in turn.
func manyBacklogs(queues, each int) measure {
	total := queues * each
	spread := []string{"-queues", strconv.Itoa(queues), "-interleave"}
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		return b.killed(ctx, br, killing{
			fill:     append(fill(total, "-confirm", "2000"), spread...),
			drain:    append([]string{"-producers", "0", "-consumers", "1", "-count", strconv.Itoa(total), "-persistent", "-keep"}, spread...),
			messages: total, queues: queues,
		})
	}
}

func fill(messages int, flags ...string) []string {
	return append([]string{"-persistent", "-consumers", "0", "-keep", "-count", strconv.Itoa(messages)}, flags...)
}

type killing struct {
	fill, drain      []string
	messages, queues int
}

func (b *bench) killed(ctx context.Context, br broker, k killing) (figures, error) {
	return b.with(ctx, br, func(dir string, n *node) (figures, error) {
		r, err := b.run(ctx, n, k.fill...)
		if err != nil {
			return nil, err
		}
		f := figures{publishRate: r.PublishedPerS, peak: r.BrokerPeak}
		if err := n.kill(); err != nil {
			return f, err
		}
		again, err := br.start(ctx, dir)
		if err != nil {
			return f, err
		}
		defer func() { _ = again.kill() }()
		at, err := serving(ctx, again, 0, k.queues, k.messages)
		if err != nil {
			return f, err
		}
		f[readyAgain] = at.Seconds()
		recovered := float64(proc.Peak(again.pid)) / 1024
		r, err = b.run(ctx, again, k.drain...)
		if err != nil {
			return f, err
		}
		f[drained], f[drainPeak] = r.ReceivedPerS, max(recovered, r.BrokerPeak)
		return f, again.kill()
	})
}

// manyQueues declares queues and publishes a message to each, restarts the
// broker in both ways, and sees how soon it is back with all of them.
func manyQueues(queues int) measure {
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		return b.with(ctx, br, func(dir string, n *node) (figures, error) {
			r, err := b.run(ctx, n, fill(queues, "-queues", strconv.Itoa(queues), "-interleave", "-confirm", "2000")...)
			if err != nil {
				return nil, err
			}
			f := figures{publishRate: r.PublishedPerS, peak: r.BrokerPeak}
			for _, by := range []struct {
				figure string
				end    func(*node) error
			}{
				{readyStopped, (*node).stop},
				{readyAgain, (*node).kill},
			} {
				if err := by.end(n); err != nil {
					return f, err
				}
				if n, err = br.start(ctx, dir); err != nil {
					return f, err
				}
				defer func(n *node) { _ = n.kill() }(n)
				// Ready is when the last queue answers with its message; that all
				// the others are there too is looked up without the clock.
				at, err := serving(ctx, n, queues-1, 1, 1)
				if err != nil {
					return f, err
				}
				f[by.figure] = at.Seconds()
				if got, err := depth(n, 0, queues); err != nil || got != int64(queues) {
					return f, errors.Join(fmt.Errorf("%s: %d of %d messages are there", by.figure, got, queues), err)
				}
				f[peak] = max(f[peak], float64(proc.Peak(n.pid))/1024)
			}
			return f, n.kill()
		})
	}
}

// depth is how many messages the load's queues hold, those from the first on.
func depth(n *node, first, queues int) (int64, error) {
	return load.Depth(load.Config{Addr: n.addr, User: "guest", Password: "guest", Prefix: "load", Queues: queues}, first)
}

// serving waits until a client that connects finds the messages in the queues,
// those from the first on, and returns the time since the node was executed.
func serving(ctx context.Context, n *node, first, queues, messages int) (time.Duration, error) {
	deadline := n.began.Add(servingWithin)
	for {
		got, err := depth(n, first, queues)
		if err == nil && got == int64(messages) {
			return time.Since(n.began), nil
		}
		if time.Now().After(deadline) {
			return 0, errors.Join(fmt.Errorf("%v after its start %d of %d messages are there", servingWithin, got, messages), err)
		}
		select {
		case <-time.After(servingPoll):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// idle measures a broker that has nothing to do.
func idle(connections, starts int) measure {
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		var took []float64
		if br == b.ferry {
			for range starts {
				_, err := b.with(ctx, br, func(_ string, n *node) (figures, error) {
					took = append(took, n.ready.Seconds()*1e3)
					return nil, nil
				})
				if err != nil {
					return nil, err
				}
			}
		}
		return b.with(ctx, br, func(_ string, n *node) (figures, error) {
			select {
			case <-time.After(atRest):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			f := figures{idleBroker: float64(proc.Resident(n.pid)) / 1024}
			if len(took) > 0 {
				f[startToReady] = median(took)
			}
			var r load.IdleReport
			if err := b.generate(ctx, n, &r, "-idle", strconv.Itoa(connections)); err != nil {
				return f, err
			}
			f[idleConn] = r.KiBPerConnection
			return f, nil
		})
	}
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n == 0 {
		return 0
	}
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}
