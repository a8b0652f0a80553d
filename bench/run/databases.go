package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/ferrymq/ferry/bench/internal/proc"
)

// The databases, as scripts/database names them, with what they promise as they come
// from Debian and are started here.
const (
	postgres = "postgres"
	mariadb  = "mariadb"

	onPostgres = "Postgres, commit with fsync before confirm"
	onMariaDB  = "MariaDB, commit with fsync before confirm"
)

// server is a database server that runs.
type server struct {
	url  string // of an empty database
	pid  int
	stop func() error
}

// database starts a server with an empty database and the settings that it has by
// default.
func (b *bench) database(ctx context.Context, kind string) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*readyWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.databases, "start", kind, "--while", strconv.Itoa(os.Getpid()))
	// The script makes a directory there that the database's own user can reach.
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Dir(b.tmp))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it cleans up
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == scriptMissing {
			return nil, errMissing
		}
		return nil, fmt.Errorf("database start %s: %w\n%s", kind, err, said.String())
	}
	s := &server{}
	dir := ""
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, "'"); key {
		case "url":
			s.url = value
		case "dir":
			dir = value
		case "pid":
			s.pid, _ = strconv.Atoi(value)
		}
	}
	s.stop = func() error {
		// Not the measurement's context: an interrupted one must end it too.
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		if out, err := exec.CommandContext(ctx, b.databases, "stop", "--dir", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("database stop: %w\n%s", err, out)
		}
		return nil
	}
	return s, nil
}

// onDatabase is a measure of a broker that keeps its messages in a database that is
// started for it.
func onDatabase(kind string, use func(*server) measure) measure {
	return func(ctx context.Context, b *bench, _ broker) (f figures, err error) {
		s, err := b.database(ctx, kind)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		return use(s)(ctx, b, ferry{binary: b.command, store: s.url})
	}
}

// publishing publishes to a queue that nobody reads, for the measured time, so that
// every message is stored.
func publishing(s *server) measure {
	return func(ctx context.Context, b *bench, br broker) (figures, error) {
		return b.with(ctx, br, func(_ string, n *node) (figures, error) {
			before := proc.CPU(s.pid)
			r, err := b.run(ctx, n, "-persistent", "-confirm", "1000", "-consumers", "0", "-keep")
			if err != nil {
				return nil, err
			}
			f := reported(r)
			f[databaseCPU] = float64((proc.CPU(s.pid) - before).Microseconds()) / float64(max(r.Published, 1))
			return f, nil
		})
	}
}

// recovering fills a queue, stops the broker, which hands its log over, and sees how
// soon another serves with all of it, and how fast one consumer empties the queue.
func recovering(messages int) func(*server) measure {
	recovery := func(ctx context.Context, b *bench, br broker) (figures, error) {
		return b.with(ctx, br, func(dir string, n *node) (figures, error) {
			r, err := b.run(ctx, n, fill(messages, "-confirm", "2000")...)
			if err != nil {
				return nil, err
			}
			f := figures{publishRate: r.PublishedPerS}
			if err := n.stop(); err != nil {
				return f, err
			}
			again, err := br.start(ctx, dir)
			if err != nil {
				return f, err
			}
			defer func() { _ = again.kill() }()
			at, err := serving(ctx, again, 0, 1, messages)
			if err != nil {
				return f, err
			}
			f[readyStopped] = at.Seconds()
			recovered := float64(proc.Peak(again.pid)) / 1024
			r, err = b.run(ctx, again, "-producers", "0", "-consumers", "1", "-count", strconv.Itoa(messages), "-persistent", "-keep")
			if err != nil {
				return f, err
			}
			f[drained], f[drainPeak] = r.ReceivedPerS, max(recovered, r.BrokerPeak)
			return f, again.kill()
		})
	}
	return func(*server) measure { return recovery }
}

// databaseShapes are the rows of the table of brokers whose messages are in a
// database on the same machine.
func databaseShapes(s sizes) []shape {
	var list []shape
	for _, d := range []struct{ kind, mode string }{{postgres, onPostgres}, {mariadb, onMariaDB}} {
		list = append(list,
			shape{
				name: "100 B published, no consumer, confirm 1000", mode: d.mode, versus: databases,
				measure: onDatabase(d.kind, publishing),
				targets: []target{{publishRate, atLeast, 50_000}, {confirmP50, shown, 0}, {confirmP99, shown, 0}, {cpu, shown, 0}, {databaseCPU, shown, 0}},
			},
			shape{
				name: "100 B, 1×1, confirm 1000", mode: d.mode, versus: databases,
				measure: onDatabase(d.kind, func(*server) measure { return plain([]string{"-persistent", "-confirm", "1000"}) }),
				targets: []target{{delivered, shown, 0}, {confirmP50, shown, 0}, {confirmP99, shown, 0}},
			},
			shape{
				name: count(s.backlog) + " messages, stopped and started", mode: d.mode, versus: databases, ferryOnce: true,
				measure: onDatabase(d.kind, recovering(s.backlog)),
				targets: []target{{readyStopped, atMost, 10}, {drained, shown, 0}, {drainPeak, shown, 0}, {publishRate, shown, 0}},
			})
	}
	return list
}
