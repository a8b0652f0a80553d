// Command load puts a load on an AMQP 0-9-1 broker and prints what it measured
// as one JSON object. See the README of this module for what the figures mean.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/ferrymq/ferry/bench/internal/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var c load.Config
	flag.StringVar(&c.Addr, "addr", "127.0.0.1:5672", "the broker's `address`")
	flag.StringVar(&c.User, "user", "guest", "user")
	flag.StringVar(&c.Password, "password", "guest", "password")
	flag.IntVar(&c.Producers, "producers", 1, "connections that publish")
	flag.IntVar(&c.Consumers, "consumers", 1, "connections that consume")
	flag.IntVar(&c.Queues, "queues", 1, "queues, over which producers and consumers are spread")
	flag.IntVar(&c.Size, "size", 100, "`bytes` of a body, at least 8")
	flag.IntVar(&c.Batch, "batch", 64, "publishes in one write")
	flag.BoolVar(&c.Persistent, "persistent", false, "persistent messages to durable queues")
	flag.IntVar(&c.Confirm, "confirm", 0, "publisher confirms, with this many publishes in flight (0: none)")
	flag.IntVar(&c.Prefetch, "prefetch", 1000, "each consumer's prefetch (0: automatic acknowledgement)")
	flag.IntVar(&c.AckEvery, "ack-every", 100, "deliveries that one acknowledgement settles, at most half the prefetch")
	flag.Float64Var(&c.Rate, "rate", 0, "publishes a second of each producer (0: as many as it can)")
	flag.Float64Var(&c.Seconds, "seconds", 8, "how long to measure")
	flag.Int64Var(&c.Count, "count", 0, "instead of a time: publish this many in all and wait until they are consumed")
	flag.BoolVar(&c.Fanout, "fanout", false, "publish to a fanout exchange bound to every queue")
	flag.BoolVar(&c.Interleave, "interleave", false, "each producer publishes to every queue in turn; consumers share them all")
	flag.BoolVar(&c.Keep, "keep", false, "leave queues and messages in place, before and after")
	flag.IntVar(&c.Pid, "pid", 0, "the broker's process, to measure its CPU and memory")
	flag.StringVar(&c.Prefix, "prefix", "load", "prefix of the queues' names")
	idle := flag.Int("idle", 0, "instead of a load: open this many idle connections and measure the memory of one")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}

	out := json.NewEncoder(os.Stdout)
	if *idle > 0 {
		report, err := load.Idle(ctx, c, *idle)
		if err != nil {
			return err
		}
		return out.Encode(report)
	}
	report, err := load.Run(ctx, c)
	if err != nil && report.Seconds == 0 {
		return err
	}
	if e := out.Encode(report); err == nil {
		err = e
	}
	return err
}
