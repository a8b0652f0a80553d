// Command client measures one Go client against a broker: Ferry's or
// amqp091-go, the official one. It prints one JSON object. Modes failover and
// outbox are of Ferry's alone.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"syscall"
	"time"
)

// report is what one run measured.
type report struct {
	Client   string  `json:"client"`
	Mode     string  `json:"mode"`
	Messages uint64  `json:"messages"`
	Seconds  float64 `json:"seconds"`
	PerS     float64 `json:"per_s"`
	CPU      float64 `json:"cpu_us"` // of this process, microseconds a message

	FirstConfirm float64 `json:"first_confirm_ms,omitempty"` // by the backup, after the kill
	Peak         float64 `json:"peak_mb,omitempty"`          // resident memory of this process
	DrainedPerS  float64 `json:"drained_per_s,omitempty"`    // of the outbox
}

type options struct {
	url      string
	client   string
	mode     string
	size     int
	window   int
	prefetch int
	count    int
	length   time.Duration
	kill     int
	dir      string
}

func main() {
	var o options
	flag.StringVar(&o.url, "url", "amqp://guest:guest@127.0.0.1:5672/", "the broker")
	flag.StringVar(&o.client, "client", "ferry", "ferry or amqp091")
	flag.StringVar(&o.mode, "mode", "publish", "publish (no confirms), confirm (persistent=false, -window in flight) or consume (-count messages that it puts there first, each acknowledged), failover (-url is a list), outbox (-count messages)")
	flag.IntVar(&o.size, "size", 100, "bytes of a body")
	flag.IntVar(&o.window, "window", 1000, "unconfirmed messages at most")
	flag.IntVar(&o.prefetch, "prefetch", 1000, "unsettled deliveries at most")
	flag.IntVar(&o.count, "count", 1_000_000, "messages to consume")
	flag.DurationVar(&o.length, "for", 3*time.Second, "how long to publish")
	flag.IntVar(&o.kill, "kill", 0, "failover: the process `id` of the broker that is first in -url, which is ended with SIGKILL")
	flag.StringVar(&o.dir, "dir", "", "outbox: its `directory`")
	profile := flag.String("cpuprofile", "", "also save a CPU profile in the `file`")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "client:", err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.length+2*time.Minute)
	defer cancel()
	r, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

// A load is one client's way to do what is measured. Each returns how many
// messages it moved.
type load interface {
	publish(ctx context.Context, o options, until time.Time) (uint64, error)
	confirm(ctx context.Context, o options, until time.Time) (uint64, error)
	consume(ctx context.Context, o options) (uint64, error)
	close()
}

func run(ctx context.Context, o options) (report, error) {
	open := map[string]func(context.Context, string) (load, error){"ferry": openFerry, "amqp091": openAMQP091}[o.client]
	if open == nil {
		return report{}, fmt.Errorf("there is no client %q: ferry, amqp091", o.client)
	}
	switch o.mode {
	case "failover":
		return failover(ctx, o)
	case "outbox":
		return outbox(ctx, o)
	case "consume":
		// Filled by the fast client, so that filling is no matter.
		f, err := openFerry(ctx, o.url)
		if err != nil {
			return report{}, err
		}
		err = f.(*ferryLoad).fill(ctx, o)
		f.close()
		if err != nil {
			return report{}, err
		}
	}
	l, err := open(ctx, o.url)
	if err != nil {
		return report{}, err
	}
	defer l.close()
	cpu, start := used(), time.Now()
	var n uint64
	switch o.mode {
	case "publish":
		n, err = l.publish(ctx, o, start.Add(o.length))
	case "confirm":
		n, err = l.confirm(ctx, o, start.Add(o.length))
	case "consume":
		n, err = l.consume(ctx, o)
	default:
		err = fmt.Errorf("there is no mode %q: publish, confirm, consume", o.mode)
	}
	took := time.Since(start)
	if err != nil || n == 0 {
		return report{}, fmt.Errorf("%s with %s: %d messages: %w", o.mode, o.client, n, err)
	}
	return report{
		Client: o.client, Mode: o.mode, Messages: n, Seconds: took.Seconds(), PerS: float64(n) / took.Seconds(),
		CPU: (used() - cpu).Seconds() * 1e6 / float64(n),
	}, nil
}

// used is the CPU time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// queue is where everything goes.
const queue = "bench.client"
