package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ferrymq/ferry"
)

// leaveTimeout is how long a command waits, after it was told to end or has all
// it came for, for what is under way.
const leaveTimeout = 10 * time.Second

// farewellTimeout is how long a broker may take to answer that a connection is
// closed on which nothing is under way.
const farewellTimeout = time.Second

// A sending is what `ferry send` is told.
type sending struct {
	clientFlags
	message messageFlags
	input   inputFlags

	queue     string
	noDeclare bool
	count     int
	rate      float64
	timeout   time.Duration
	outbox    string
}

func newSend(sys System) *cobra.Command {
	s := &sending{}
	cmd := &cobra.Command{
		Use:   "send [MESSAGE...]",
		Short: "Send messages to a queue or an exchange",
		Long: `Send messages and end when the broker has confirmed all of them. Each argument
is a message; without arguments each line of the standard input is one, of at
most 16 MiB; a last line needs no end. Empty lines are empty messages.

A queue that is not there is declared, durable. One that is there is taken as it
is, of whatever kind.

When a connection is lost, what was not confirmed is sent again on the next, in
its order, with the id that it had: nothing is lost, and what arrives twice is
stored once by a broker of Ferry's. Without --timeout it keeps trying.

` + connectionHelp + `

` + exitCodesHelp("something is unconfirmed; which is said on stderr"),
		Example: `  # two messages
  ferry send -q orders one two

  # each line of a file, through the first of two brokers that is up
  ferry send -u amqp://a,amqp://b -q orders < orders.txt

  # a whole file as one message, to an exchange, with properties
  ferry send -e events -k user.created -H source:import --content-type application/json --file user.json

  # messages as they were received, from one queue to another
  ferry receive -q orders --json --timeout 1s | ferry send -q archive --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s.message.given = func(flag string) bool { return cmd.Flags().Changed(flag) }
			if err := s.check(cmd.Flags(), args); err != nil {
				return err
			}
			return s.run(cmd.Context(), sys, args)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	s.add(f)
	f.StringVarP(&s.queue, "queue", "q", "", "send to this `QUEUE`")
	s.message.add(f)
	s.input.add(f)
	f.IntVarP(&s.count, "count", "n", 1, "send each message so many times")
	f.Float64Var(&s.rate, "rate", 0, "messages a second, 0 for as fast as it goes")
	f.BoolVar(&s.noDeclare, "no-declare", false, "do not declare the queue")
	f.Var((*durationFlag)(&s.timeout), "timeout", "give up after so long: seconds, or as in 1m30s; 0 is never")
	f.StringVar(&s.outbox, "outbox", "", "keep messages in this `DIR` while no broker is up, and send them at the next start if it does not come back")
	return cmd
}

func (s *sending) check(flags *pflag.FlagSet, args []string) error {
	var wrong faults
	toExchange := s.message.given("exchange")
	switch {
	case s.queue != "" && (toExchange || s.message.key != ""):
		wrong = append(wrong, errors.New("a message goes to a queue (-q) or to an exchange (-e, -k), not to both"))
	case s.queue == "" && !toExchange && s.message.key == "" && !s.input.json:
		wrong = append(wrong, errors.New("where to? Give a queue with -q, or an exchange with -e and -k"))
	}
	if s.count < 1 {
		wrong = append(wrong, fmt.Errorf("--count: %d is not a number of times", s.count))
	}
	if !isRate(s.rate) {
		wrong = append(wrong, fmt.Errorf("--rate: %v is not a rate", s.rate))
	}
	if s.timeout < 0 {
		wrong = append(wrong, fmt.Errorf("--timeout: %v is not a time to wait", s.timeout))
	}
	wrong = append(wrong, tooLongNames(flags, "queue", "exchange", "key", "content-type", "content-encoding",
		"correlation-id", "reply-to", "message-id", "type", "app-id")...)
	wrong = append(wrong, s.message.check()...)
	wrong = append(wrong, s.input.check(args)...)
	if len(wrong) > 0 {
		return &wrong
	}
	return nil
}

var errTimeout = errors.New("the time given with --timeout is over")

func (s *sending) run(ctx context.Context, sys System, args []string) error {
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.timeout, errTimeout)
		defer cancel()
	}
	s.hintAtDestination(sys, s.queue)
	declare := s.queue != "" && !s.noDeclare
	options := []ferry.Option{ferry.WithInitialRetry()}
	var box *sendOutbox
	if s.outbox != "" {
		box = &sendOutbox{dir: s.outbox}
		options = append(options, ferry.WithOutbox(s.outbox, ferry.DefaultOutboxBytes), ferry.WithEvents(box.events(s.quiet, sys.Stderr)))
		if declare {
			// Nobody waits for a broker to be asked whether there is one already.
			// If it is different the broker's refusal is told, and it is used.
			options = append(options, ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: s.queue}}}))
		}
	}
	client, err := s.dial(ctx, sys, "ferry send", options...)
	if err != nil {
		return neverConnected(ctx, err)
	}
	defer closeSoon(client)
	if box != nil {
		box.found = client.Status().Outbox
	}
	p, err := client.Publisher(ferry.PublisherOptions{})
	if err != nil {
		return clientFailed(err)
	}
	out := newOutcomes()
	run := &sender{publisher: p, out: out, redeclare: declare, again: func(ctx context.Context) error {
		return ensureQueue(ctx, client, s.queue)
	}}
	if declare && box == nil {
		if err := run.again(ctx); err != nil {
			return leftBehind(ctx, clientFailed(fmt.Errorf("the queue %q: %w", s.queue, err)))
		}
	}
	cause := s.submitAll(ctx, run, s.input.messages(ctx, sys.Stdin, args))
	switch {
	case ctx.Err() == nil:
		// What was submitted gets its outcome, whether there was more or not.
		cause = cmp.Or(cause, run.finish(ctx))
	case !errors.Is(cause, errTimeout):
		// It was told to end: what is under way has a little time.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		_ = run.finish(grace) // the outcomes say what is missing
		cancel()
	}
	confirmed := out.confirmedCount()
	if box != nil {
		cause = box.empty(ctx, client, p, cause)
		confirmed = box.confirmed(client, confirmed)
	}
	failure, status := out.failure(cause), client.Status()
	closeSoon(client) // all events are there then
	if !s.quiet {
		fmt.Fprintf(sys.Stderr, "%d confirmed\n", confirmed)
	}
	if box != nil {
		return box.failure(status, failure)
	}
	return failure
}

// closeSoon closes a client from which no more is expected: what is not confirmed
// is counted already.
func closeSoon(c *ferry.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), farewellTimeout)
	defer cancel()
	_ = c.Close(ctx)
}

// submitAll reads messages and submits them until there are no more. Its error is
// why it ended before that.
func (s *sending) submitAll(ctx context.Context, to *sender, source *input) error {
	pace := newPace(s.rate)
	for {
		text, err := source.next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m, err := s.make(text)
		if err != nil {
			return failed(fmt.Errorf("%s: %w", source.where(), err))
		}
		for range s.count {
			if err := pace.wait(ctx); err != nil {
				return err
			}
			if err := to.submit(ctx, m); err != nil {
				return err
			}
		}
	}
}

// make makes a message of its text.
func (s *sending) make(text []byte) (ferry.Message, error) {
	m := ferry.Message{Body: text, Transient: !s.message.persistent}
	if s.input.json {
		var err error
		if m, err = parseJSON(text, s.message.persistent); err != nil {
			return m, err
		}
	}
	s.message.apply(&m)
	if s.queue != "" {
		m.Exchange, m.Key = "", s.queue
	}
	return m, nil
}

// ensureQueue declares a queue, durable, unless there is one of that name: that
// is taken as it is, of whatever kind. So it is done on each broker that the client
// connects to later.
func ensureQueue(ctx context.Context, c *ferry.Client, name string) error {
	return c.Declare(ctx, ferry.Topology{Queues: []ferry.Queue{{Name: name, IfAbsent: true}}})
}

// neverConnected gives the failure of a command that gave up connecting its exit
// code.
func neverConnected(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		code := exitNoBroker
		if notLetIn(err) {
			code = exitRefused
		}
		return &failure{err: err, code: code}
	}
	return err
}

// leftBehind gives the failure of a command that gave up after it had connected,
// and before all was done, its exit code.
func leftBehind(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &failure{err: err, code: exitLeft}
	}
	return err
}

// closeClient closes in good order, in bounded time.
func closeClient(c *ferry.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	return c.Close(ctx)
}

// A pace lets so many through a second.
type pace struct {
	every time.Duration // 0: no bound
	next  time.Time
}

// isRate says whether there can be so many messages a second, 0 for no bound.
func isRate(rate float64) bool { return rate == 0 || rate >= minRate && !math.IsInf(rate, 1) }

// minRate is a message in a little less than 12 days.
const minRate = 1e-6

// maxBehind is how much is made up for when it went slower for a while.
const maxBehind = time.Second

func newPace(rate float64) *pace {
	p := &pace{next: time.Now()}
	if rate > 0 {
		p.every = time.Duration(float64(time.Second) / rate)
	}
	return p
}

// wait returns when the next may go, or with the cause of ctx.
func (p *pace) wait(ctx context.Context) error {
	if p.every == 0 {
		return nil
	}
	now := time.Now()
	if behind := now.Add(-maxBehind); p.next.Before(behind) {
		p.next = behind
	}
	d := p.next.Sub(now)
	p.next = p.next.Add(p.every)
	return sleep(ctx, d)
}

// sleep waits for d, or returns the cause of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
