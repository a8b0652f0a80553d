// Package load drives an AMQP broker as hard as it can with as little of the
// machine as it can. Publishes are encoded once and written many at a time; of
// what comes back only tags and time stamps are looked at; nothing is allocated
// for a message. On a small machine that it shares with the broker, that is
// what makes a figure the broker's and not the generator's.
package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ferrymq/ferry/bench/internal/amqp"
	"github.com/ferrymq/ferry/bench/internal/proc"
)

// Config is one load. The zero values of the fields that a comment gives a
// meaning for are valid; the others must be positive.
type Config struct {
	Addr           string
	User, Password string
	Producers      int // connections; 0 for none
	Consumers      int // connections; 0 for none
	Queues         int // producers and consumers are spread over them
	Size           int // bytes of a body, at least 8
	Batch          int // publishes a write
	Persistent     bool
	Confirm        int     // publishes in flight for each producer; 0 for no confirms
	Prefetch       int     // for each consumer; 0 for automatic acknowledgement
	AckEvery       int     // deliveries that an acknowledgement settles
	Rate           float64 // publishes a second for each producer; 0 for no limit
	Seconds        float64 // how long to measure, when Count is 0
	Count          int64   // publish this many in all and consume them all; 0 for a time
	Fanout         bool    // publish to a fanout exchange that every queue is bound to
	Interleave     bool    // each producer publishes to every queue in turn, consumers share them all
	Keep           bool    // leave the queues and what they hold in place, before and after
	Pid            int     // the broker's process; 0 leaves its CPU and memory out
	Prefix         string  // of the queues' names
}

// maxPrefix leaves room for a number in a short string.
const maxPrefix = 200

func (c *Config) check() error {
	var errs []error
	bad := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Size < 8, "size %d: a body holds a time stamp of 8 bytes at least", c.Size)
	bad(c.Producers < 0 || c.Consumers < 0 || c.Producers+c.Consumers == 0, "neither producers nor consumers")
	bad(c.Queues < 1, "queues %d: at least one", c.Queues)
	bad(c.Batch < 1, "batch %d: at least one", c.Batch)
	bad(c.AckEvery < 1, "ack-every %d: at least one", c.AckEvery)
	bad(c.Confirm < 0, "confirm %d: not negative", c.Confirm)
	bad(c.Prefetch < 0 || c.Prefetch > math.MaxUint16, "prefetch %d: 0 to %d", c.Prefetch, math.MaxUint16)
	bad(c.Count < 0 || c.Rate < 0, "count and rate: not negative")
	bad(c.Count == 0 && c.Seconds <= 0, "seconds %g: more than 0", c.Seconds)
	bad(len(c.Prefix) > maxPrefix, "prefix of %d bytes: at most %d", len(c.Prefix), maxPrefix)
	bad(c.Fanout && c.Interleave, "fanout and interleave: one or the other")
	return errors.Join(errs...)
}

func (c *Config) name(i int) string { return fmt.Sprintf("%s-%d", c.Prefix, i) }

// queue is the i-th worker's, when they are spread over the queues.
func (c *Config) queue(i int) string { return c.name(i % c.Queues) }

func (c *Config) exchange() string { return c.Prefix + "-fan" }

// Report is what a load measured. Rates are a second; latencies milliseconds.
type Report struct {
	Published      int64    `json:"published"`
	PublishedPerS  float64  `json:"published_per_s"`
	Received       int64    `json:"received"`
	ReceivedPerS   float64  `json:"received_per_s"`
	Seconds        float64  `json:"seconds"`
	PublishSeconds float64  `json:"publish_seconds"`
	EndToEnd       *Latency `json:"e2e_ms,omitempty"`
	Confirm        *Latency `json:"confirm_ms,omitempty"`
	Confirmed      int64    `json:"confirmed,omitempty"`
	Nacked         int64    `json:"nacked,omitempty"`
	// The broker's, for each message received (published, without consumers).
	BrokerCPU  float64 `json:"broker_cpu_us_per_msg,omitempty"`
	BrokerPeak float64 `json:"broker_peak_rss_mb,omitempty"`
	// The generator's own, for the same messages.
	OwnCPU float64 `json:"cpu_us_per_msg"`
}

// counter is on a cache line of its own: each is written by one goroutine.
type counter struct {
	atomic.Int64
	_ [56]byte
}

var epoch = time.Now()

// now is a clock that only goes forward and that this process alone knows.
func now() int64 { return int64(time.Since(epoch)) }

const (
	// subscribed is how long consumers are given to be known to the broker.
	subscribed = 50 * time.Millisecond
	// drainPoll is how often the end of a drain is looked for; it is exact all
	// the same, since each consumer notes when it received last.
	drainPoll = time.Millisecond
	// drainQuiet is how long nothing may arrive before a drain has failed.
	drainQuiet = 20 * time.Second
	// stopWithin bounds what follows the measured time.
	stopWithin = 30 * time.Second
)

// Run puts the load on the broker and reports. With an error the report holds
// what was measured until then, if anything was.
func Run(ctx context.Context, c Config) (Report, error) {
	if err := c.check(); err != nil {
		return Report{}, err
	}
	admin, err := amqp.Dial(c.Addr, c.User, c.Password)
	if err != nil {
		return Report{}, err
	}
	defer admin.Close()
	if err := declare(admin, &c); err != nil {
		return Report{}, err
	}
	r := run{Config: &c, errs: make(chan error, c.Producers+c.Consumers)}
	report, err := r.measure(ctx)
	if !c.Keep {
		err = errors.Join(err, remove(admin, &c))
	}
	return report, err
}

// declare makes the queues, and empty ones unless they are to be kept.
func declare(admin *amqp.Conn, c *Config) error {
	if !c.Keep {
		if err := remove(admin, c); err != nil {
			return err
		}
	}
	err := admin.CallEach(c.Queues, func(dst []byte, i int) []byte {
		return amqp.AppendQueueDeclare(dst, amqp.Channel, c.queue(i), false, c.Persistent)
	}, amqp.QueueDeclareOK, nil)
	if err != nil || !c.Fanout {
		return err
	}
	request := amqp.AppendExchangeDeclare(nil, amqp.Channel, c.exchange(), "fanout", c.Persistent)
	if _, err := admin.Call(request, amqp.ExchangeDeclareOK); err != nil {
		return err
	}
	return admin.CallEach(c.Queues, func(dst []byte, i int) []byte {
		return amqp.AppendQueueBind(dst, amqp.Channel, c.queue(i), c.exchange())
	}, amqp.QueueBindOK, nil)
}

func remove(admin *amqp.Conn, c *Config) error {
	err := admin.CallEach(c.Queues, func(dst []byte, i int) []byte {
		return amqp.AppendQueueDelete(dst, amqp.Channel, c.queue(i))
	}, amqp.QueueDeleteOK, nil)
	if err == nil && c.Fanout {
		_, err = admin.Call(amqp.AppendExchangeDelete(nil, amqp.Channel, c.exchange()), amqp.ExchangeDeleteOK)
	}
	return err
}

type run struct {
	*Config
	producers []*producer
	consumers []*consumer
	errs      chan error
}

func (r *run) measure(ctx context.Context) (report Report, err error) {
	var (
		stop, closing      atomic.Bool
		publishing, taking sync.WaitGroup
	)
	defer func() { // whatever happened, nothing is left running
		stop.Store(true)
		closing.Store(true)
		for _, p := range r.producers {
			if err != nil || ctx.Err() != nil {
				p.conn.Close()
			}
			p.nudge()
			_ = p.conn.SetWriteDeadline(time.Now().Add(stopWithin))
		}
		publishing.Wait()
		for _, k := range r.consumers {
			_ = k.conn.SetDeadline(past)
		}
		taking.Wait()
		for _, p := range r.producers {
			p.conn.Close()
		}
		for _, k := range r.consumers {
			k.conn.Close()
		}
	}()

	if r.Pid > 0 {
		proc.ResetPeak(r.Pid)
	}
	brokerCPU, ownCPU := time.Duration(0), usage()
	if r.Pid > 0 {
		brokerCPU = proc.CPU(r.Pid)
	}
	start := now()
	for i := range r.Consumers {
		conn, err := amqp.Dial(r.Addr, r.User, r.Password)
		if err != nil {
			return report, err
		}
		k, err := newConsumer(r.Config, conn, r.share(i))
		if err != nil {
			conn.Close()
			return report, err
		}
		r.consumers = append(r.consumers, k)
		taking.Go(func() { r.fail(k.run(&closing)) })
	}
	for i := range r.Producers {
		conn, err := amqp.Dial(r.Addr, r.User, r.Password)
		if err != nil {
			return report, err
		}
		p, err := newProducer(r.Config, conn, r.messages(i), r.quota(i))
		if err != nil {
			conn.Close()
			return report, err
		}
		r.producers = append(r.producers, p)
	}
	if r.Producers > 0 {
		time.Sleep(subscribed)
		start = now()
	}
	for _, p := range r.producers {
		publishing.Go(func() { r.fail(p.run(&stop)) })
	}
	published := make(chan struct{})
	go func() { publishing.Wait(); close(published) }()

	var elapsed int64
	if r.Count == 0 {
		if err := r.wait(ctx, nil, time.After(time.Duration(r.Seconds*1e9))); err != nil {
			return report, err
		}
		elapsed = now() - start
		report.Published, report.Received = r.published(), r.received()
		report.PublishedPerS = math.Round(float64(report.Published) / time.Duration(elapsed).Seconds())
		report.ReceivedPerS = math.Round(float64(report.Received) / time.Duration(elapsed).Seconds())
		stop.Store(true)
		for _, p := range r.producers {
			p.nudge()
			_ = p.conn.SetWriteDeadline(time.Now().Add(stopWithin))
		}
	}
	if r.Producers > 0 {
		if err := r.wait(ctx, published, nil); err != nil {
			return report, err
		}
	}
	publishElapsed := now() - start
	var short error
	if r.Count > 0 {
		elapsed = publishElapsed
		if r.Consumers > 0 {
			if err := r.drain(ctx); err != nil {
				return report, err
			}
			elapsed = 0
			for _, k := range r.consumers {
				elapsed = max(elapsed, k.last.Load()-start)
			}
			if got := r.received(); got < r.expected() {
				short = fmt.Errorf("%d of %d messages arrived", got, r.expected())
			}
		}
		s := max(time.Duration(elapsed).Seconds(), 1e-9)
		report.PublishedPerS = math.Round(float64(r.published()) / s)
		report.ReceivedPerS = math.Round(float64(r.received()) / s)
	}
	report.Published, report.Received = r.published(), r.received()
	report.Seconds = round(time.Duration(elapsed).Seconds(), 3)
	report.PublishSeconds = round(time.Duration(publishElapsed).Seconds(), 3)
	per := float64(max(report.Published, 1))
	if r.Consumers > 0 {
		per = float64(max(report.Received, 1))
	}
	report.OwnCPU = round((usage()-ownCPU).Seconds()*1e6/per, 3)
	if r.Pid > 0 {
		report.BrokerCPU = round((proc.CPU(r.Pid)-brokerCPU).Seconds()*1e6/per, 3)
		report.BrokerPeak = math.Round(float64(proc.Peak(r.Pid)) / 1024)
	}

	// The histograms belong to the goroutines: they end first.
	closing.Store(true)
	for _, k := range r.consumers {
		_ = k.conn.SetReadDeadline(past)
	}
	taking.Wait()
	var e2e, confirm Histogram
	for _, k := range r.consumers {
		e2e.Merge(k.hist)
		if r.Count > 0 && short == nil { // the broker has read every acknowledgement
			if err := k.conn.Hangup(); err != nil {
				return report, fmt.Errorf("close a consumer's connection: %w", err)
			}
		}
	}
	for _, p := range r.producers {
		if p.confirms != nil {
			confirm.Merge(p.confirms.hist)
			report.Confirmed += p.confirms.done - p.confirms.nacked
			report.Nacked += p.confirms.nacked
		}
	}
	if r.Producers > 0 && r.Consumers > 0 { // else another process's clock made the stamps
		report.EndToEnd = e2e.latency()
	}
	if r.Confirm > 0 && r.Producers > 0 {
		report.Confirm = confirm.latency()
	}
	if report.Nacked > 0 {
		short = errors.Join(short, fmt.Errorf("%d publishes were refused", report.Nacked))
	}
	return report, short
}

// fail hands on a worker's error. The channel has room for one of each.
func (r *run) fail(err error) {
	if err != nil {
		r.errs <- err
	}
}

// wait returns when either channel does, or with what went wrong before.
func (r *run) wait(ctx context.Context, done <-chan struct{}, over <-chan time.Time) error {
	select {
	case <-done:
	case <-over:
	case err := <-r.errs:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-r.errs:
		return err
	default:
		return nil
	}
}

// drain waits for every message to have arrived, or for nothing to arrive any
// more, which is no error here.
func (r *run) drain(ctx context.Context) error {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	seen, since := r.received(), now()
	for seen < r.expected() && now()-since < int64(drainQuiet) {
		if err := r.wait(ctx, nil, tick.C); err != nil {
			return err
		}
		if n := r.received(); n != seen {
			seen, since = n, now()
		}
	}
	return nil
}

// expected is how many messages consumers are to receive.
func (r *run) expected() int64 {
	if r.Fanout {
		return r.Count * int64(r.Queues)
	}
	return r.Count
}

func (r *run) published() (n int64) {
	for _, p := range r.producers {
		n += p.published.Load()
	}
	return n
}

func (r *run) received() (n int64) {
	for _, k := range r.consumers {
		n += k.received.Load()
	}
	return n
}

// quota is how many of Count the i-th producer publishes.
func (r *run) quota(i int) int64 {
	n := r.Count / int64(r.Producers)
	if i == 0 {
		n += r.Count % int64(r.Producers)
	}
	return n
}

// messages are what the i-th producer publishes, in turn.
func (r *run) messages(i int) []amqp.Message {
	switch {
	case r.Fanout:
		return []amqp.Message{{Exchange: r.exchange(), Persistent: r.Persistent}}
	case r.Interleave:
		all := make([]amqp.Message, r.Queues)
		for q := range all {
			all[q] = amqp.Message{Key: r.queue(i + q), Persistent: r.Persistent}
		}
		return all
	default:
		return []amqp.Message{{Key: r.queue(i), Persistent: r.Persistent}}
	}
}

// share is what the i-th consumer consumes from.
func (r *run) share(i int) []string {
	if !r.Interleave {
		return []string{r.queue(i)}
	}
	var names []string
	for q := i; q < r.Queues; q += r.Consumers {
		names = append(names, r.queue(q))
	}
	return names
}

// usage is the CPU time that this process has used.
func usage() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func round(f float64, digits int) float64 {
	unit := math.Pow10(digits)
	return math.Round(f*unit) / unit
}
