package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ferrymq/ferry"
)

const (
	defaultPrefetch = 100        // messages that are held before they are printed
	maxPrefetch     = 1<<16 - 1  // AMQP 0-9-1 §1.7.2.1: a short
	maxConcurrency  = 1000       // commands at a time
	maxDedup        = 10_000_000 // ids, in memory
)

// A receiving is what `ferry receive` is told.
type receiving struct {
	clientFlags

	queue       string
	bind        []string
	noDeclare   bool
	count       int
	timeout     time.Duration
	noAck       bool
	exec        string
	concurrency int
	prefetch    int
	json        bool
	dedup       int
}

func newReceive(sys System) *cobra.Command {
	r := &receiving{}
	cmd := &cobra.Command{
		Use:   "receive",
		Short: "Receive messages from a queue",
		Long: `Receive messages from a queue and print the body of each on a line of the
standard output. A message is acknowledged after it was written; if that fails,
it is not, and is in the queue again.

With --exec a command of the shell gets the body of each message on its standard
input, and the message is acknowledged when it ends with 0. Otherwise the message
goes back to the queue, and there is a pause, which grows while it fails again.
The command's environment has FERRY_EXCHANGE, FERRY_KEY, FERRY_ID,
FERRY_REDELIVERED (true or false), FERRY_CONTENT_TYPE, FERRY_CORRELATION_ID,
FERRY_REPLY_TO, FERRY_MESSAGE_ID, FERRY_TYPE, FERRY_TIMESTAMP, and
FERRY_HEADER_NAME for a header NAME, with _ for all but letters and digits.

It ends after --count messages, when none came for --timeout, or with SIGINT or
SIGTERM: what is in hand is finished first.

A queue that is not there is declared, durable. When a connection is lost it goes
on with the next one; a message that was printed and could not be acknowledged
comes again.

` + connectionHelp + `

` + exitCodesHelp("fewer than --count came"),
		Example: `  # all there is, and all to come
  ferry receive -q orders

  # one message, and wait for it no longer than a second
  ferry receive -q orders -n 1 --timeout 1s

  # what is published, without taking it from anybody
  ferry receive --bind 'amq.topic:user.#' --json

  # four commands at a time
  ferry receive -q mails --exec ./send-mail --concurrency 4`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := r.check(cmd.Flags()); err != nil {
				return err
			}
			return r.run(cmd.Context(), sys)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	r.add(f)
	f.StringVarP(&r.queue, "queue", "q", "", "receive from this `QUEUE`")
	f.StringArrayVar(&r.bind, "bind", nil, "bind the queue to `EXCHANGE:KEY` first; without --queue it is one of this command's own")
	f.IntVarP(&r.count, "count", "n", 0, "end after so many messages; 0 is never")
	f.Var((*durationFlag)(&r.timeout), "timeout", "end when none came for so long: seconds, or as in 1m30s; 0 is never")
	f.BoolVar(&r.json, "json", false, "print each message as a JSON object, with all its properties")
	f.StringVar(&r.exec, "exec", "", "have this `COMMAND` of the shell handle each message")
	f.IntVar(&r.concurrency, "concurrency", 1, "so many commands of --exec at a time")
	f.BoolVar(&r.noAck, "no-ack", false, "messages are gone when they are sent here; those that are not printed, or whose command fails, are lost")
	f.IntVar(&r.prefetch, "prefetch", defaultPrefetch, "hold so many messages ahead; with --exec, as many as run at a time if it is not given")
	f.IntVar(&r.dedup, "dedup", 0, "drop what repeats one of the last so many messages")
	f.BoolVar(&r.noDeclare, "no-declare", false, "do not declare the queue")
	return cmd
}

func (r *receiving) check(flags *pflag.FlagSet) error {
	var wrong faults
	if r.queue == "" && len(r.bind) == 0 {
		wrong = append(wrong, errors.New("from where? Give a queue with -q, or an exchange with --bind"))
	}
	wrong = append(wrong, tooLongNames(flags, "queue")...)
	for _, b := range r.bind {
		if exchange, _, ok := strings.Cut(b, ":"); !ok || exchange == "" {
			wrong = append(wrong, fmt.Errorf("--bind: %q is not EXCHANGE:KEY", b))
		}
	}
	for _, n := range []struct {
		flag               string
		value, least, most int
	}{
		{"count", r.count, 0, math.MaxInt},
		{"concurrency", r.concurrency, 1, maxConcurrency},
		{"prefetch", r.prefetch, 1, maxPrefetch},
		{"dedup", r.dedup, 0, maxDedup},
	} {
		if n.value < n.least || n.value > n.most {
			wrong = append(wrong, fmt.Errorf("--%s: %d is not between %d and %d", n.flag, n.value, n.least, n.most))
		}
	}
	if r.timeout < 0 {
		wrong = append(wrong, fmt.Errorf("--timeout: %v is not a time to wait", r.timeout))
	}
	if r.exec == "" && r.concurrency > 1 {
		wrong = append(wrong, errors.New("--concurrency is about --exec, which is not given"))
	}
	if r.exec != "" && r.json {
		wrong = append(wrong, errors.New("--json is about printing; with --exec the command gets the body, and properties in its environment"))
	}
	if r.exec != "" && !flags.Changed("prefetch") {
		r.prefetch = r.concurrency
	}
	if len(wrong) > 0 {
		return &wrong
	}
	return nil
}

func (r *receiving) bindings() []ferry.Binding {
	var list []ferry.Binding
	for _, b := range r.bind {
		exchange, key, _ := strings.Cut(b, ":")
		list = append(list, ferry.Binding{Exchange: exchange, Key: key, Queue: r.queue})
	}
	return list
}

func (r *receiving) run(ctx context.Context, sys System) error {
	// A reader that went away is an error of the write then, not the end of the
	// process: what is in hand is given back in good order. It is not ignored,
	// because the commands of --exec would inherit that.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(pipes)

	r.hintAtDestination(sys, r.queue)
	connecting, cancel := ctx, context.CancelFunc(func() {})
	if r.timeout > 0 {
		connecting, cancel = context.WithTimeoutCause(ctx, r.timeout, errTimeout)
	}
	defer cancel()
	client, err := r.dial(connecting, sys, "ferry receive", ferry.WithInitialRetry())
	if err != nil {
		return neverConnected(connecting, err)
	}
	err = r.from(ctx, connecting, client, sys)
	if e := closeClient(client); err == nil {
		err = clientFailed(e)
	}
	return err
}

// from receives with a client. connecting bounds what is done before.
func (r *receiving) from(ctx, connecting context.Context, client *ferry.Client, sys System) error {
	if r.queue != "" {
		if err := r.prepare(connecting, client); err != nil {
			return leftBehind(connecting, clientFailed(fmt.Errorf("the queue %q: %w", r.queue, err)))
		}
	}
	o := ferry.ConsumerOptions{
		Queue: r.queue, Prefetch: r.prefetch, Dedup: r.dedup,
		// Without acknowledgements there is no end to what is sent here: if
		// only some of it is wanted each is acknowledged before it is handled.
		NoAck: r.noAck && r.count == 0,
	}
	if r.queue == "" {
		o.Bindings = r.bindings()
	}
	if r.count > 0 {
		o.Prefetch = min(o.Prefetch, r.count)
	}
	consumer, err := client.Consumer(connecting, o)
	if err != nil {
		return leftBehind(connecting, clientFailed(err))
	}
	t := &taker{
		consumer: consumer, left: r.count, counted: r.count > 0, timeout: r.timeout,
		ackFirst: r.noAck && r.count > 0, noAck: o.NoAck,
	}
	if r.exec != "" {
		out := &lockedWriter{w: sys.Stdout}
		t.handle = (&runner{command: r.exec, stdout: out, stderr: &lockedWriter{w: sys.Stderr}}).run
		fate := "goes back to the queue"
		if r.noAck {
			fate = "is lost"
		}
		t.failed = func(err error, pause time.Duration) {
			if !r.quiet {
				fmt.Fprintf(sys.Stderr, "the message %s, next in %v: %v\n", fate, pause, err)
			}
		}
	} else {
		t.handle = (&deliveryPrinter{w: sys.Stdout, json: r.json}).print
	}
	err = t.run(ctx, r.concurrency)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if e := consumer.Close(closing); err == nil {
		err = clientFailed(e)
	}
	if err == nil && t.left > 0 {
		err = &failure{err: fmt.Errorf("%d of %d messages came", r.count-t.left, r.count), code: exitLeft}
	}
	return err
}

// prepare declares and binds the queue.
func (r *receiving) prepare(ctx context.Context, client *ferry.Client) error {
	if !r.noDeclare {
		if err := ensureQueue(ctx, client, r.queue); err != nil {
			return err
		}
	}
	if len(r.bind) == 0 {
		return nil
	}
	return client.Declare(ctx, ferry.Topology{Bindings: r.bindings()})
}

// A deliveryPrinter writes messages to the standard output.
type deliveryPrinter struct {
	w    io.Writer
	json bool
	line []byte
}

// print returns when the message is written.
func (p *deliveryPrinter) print(_ context.Context, d *ferry.Delivery) error {
	var err error
	if p.json {
		p.line, err = appendJSON(p.line[:0], d)
	} else {
		p.line = append(append(p.line[:0], d.Body...), '\n')
	}
	if err == nil {
		_, err = p.w.Write(p.line)
	}
	if err != nil {
		return &fatal{fmt.Errorf("the message could not be written: %w", err)}
	}
	return nil
}

// A fatal error of handling a message is not of the message: the next would fail
// as well.
type fatal struct{ err error }

func (f *fatal) Error() string { return f.err.Error() }
func (f *fatal) Unwrap() error { return f.err }

// lockedWriter is for several commands at a time.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
