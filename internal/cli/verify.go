package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/verify"
)

// A verification is what `ferry verify` is told.
type verification struct {
	clientFlags
	queueFlags
	o          verify.Options
	consumeURL []string
	size       bytesFlag
	duration   durationFlag
	settle     durationFlag
	timeout    durationFlag
	asJSON     bool
}

func newVerify(sys System) *cobra.Command {
	v := &verification{size: verify.DefaultSize, settle: durationFlag(verify.DefaultSettleTimeout)}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Send numbered messages while a broker is being broken, and count what becomes of them",
		Long: `Send numbered messages through a broker, or through several of which each may be
broken, receive them, and count what became of each:

  sent            given to the client
  confirmed       by the broker
  received        different ones
  lost            confirmed, and not received: a broken promise
  duplicated      received again without the mark that says so
  redelivered     received with that mark; it may be their first time
  reordered       that came to a consumer after a later one of their producer
  longest_gap_ms  the longest time without a confirm, or without a delivery
  failovers       how often publishing was connected anew

and, if there were any, those that were refused, unknown (neither confirmed nor
refused when it ended; they may arrive and need not), damaged (not what was
sent), foreign (not of this run), resent (of the duplicated, those that had to be
sent again because a connection was lost before their confirm), dropped (repeats
that --dedup held back).

It ends after --count or --duration, or with Ctrl-C, and then waits for what is
under way, until all that was confirmed is there or nothing new has come for
--settle-timeout. Everything that is in the queue is taken out of it, also what
is not of this run. A queue that was not there before is deleted at the end.

` + connectionHelp + `

` + exitCodesHelp("something that was confirmed was lost or damaged"),
		Example: `  # 1000 messages a second for five minutes, while you kill brokers
  ferry verify -u amqp://a,amqp://b --rate 1000 --duration 5m

  # as many as it can, 1 million of them, 4 producers and 4 consumers
  ferry verify -q check -n 1000000 --producers 4 --consumers 4

  # a RabbitMQ cluster's quorum queue, the result for a script
  ferry verify -u amqp://r1,amqp://r2,amqp://r3 --quorum --duration 60 --json | jq .lost`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := v.complete(sys); err != nil {
				return err
			}
			return v.run(cmd, sys.Stdout)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	v.clientFlags.add(flags)
	flags.StringArrayVar(&v.consumeURL, "consume-url", nil, "consume from the broker at this `URL`, or list of them, instead")
	flags.StringVarP(&v.o.Queue, "queue", "q", "", "the queue's `NAME`; without it a new one")
	v.queueFlags.add(flags)
	flags.BoolVar(&v.o.Keep, "keep", false, "do not delete the queue that was made")
	flags.IntVar(&v.o.Producers, "producers", 1, "how many send, each in an order of its own")
	flags.IntVar(&v.o.Consumers, "consumers", 1, "how many receive")
	flags.Float64Var(&v.o.Rate, "rate", 0, "messages a second, of all producers together; 0: as fast as they are confirmed")
	flags.Var(&v.duration, "duration", "send for so long: seconds, or as in 1m30s")
	flags.Uint64VarP(&v.o.Count, "count", "n", 0, "send so many, of all producers together")
	flags.Var(&v.size, "size", fmt.Sprintf("of a message, at least %d", verify.MinSize))
	flags.IntVar(&v.o.Window, "window", verify.DefaultWindow, "messages of a producer that may be unconfirmed")
	flags.IntVar(&v.o.Prefetch, "prefetch", verify.DefaultPrefetch, "messages of a consumer that may be unacknowledged")
	flags.IntVar(&v.o.Dedup, "dedup", 0, "have consumers drop repeats of the last so many messages")
	flags.BoolVar(&v.o.Transient, "transient", false, "send messages that need not survive a restart of the broker")
	flags.Var(&v.settle, "settle-timeout", "how long nothing new may come before what is missing counts as lost")
	flags.Var(&v.timeout, "timeout", "try for so long to connect at first; without it each broker is tried once")
	flags.BoolVar(&v.asJSON, "json", false, "print a JSON object")
	return cmd
}

// complete turns what was told into options.
func (v *verification) complete(sys System) error {
	var err error
	if v.o.URL, err = v.url(sys.Getenv); err != nil {
		return err
	}
	if len(v.consumeURL) > 0 {
		if v.o.ConsumeURL, err = brokerURL(v.consumeURL, sys.Getenv); err != nil {
			return fmt.Errorf("--consume-url: %w", err)
		}
	}
	if v.o.QueueArguments, err = v.arguments(); err != nil {
		return err
	}
	if v.o.Queue == "" {
		v.o.Queue = fmt.Sprintf("ferry-verify-%08x", rand.Uint32())
	}
	v.o.NoDeclare, v.o.Size = v.noDeclare, int(v.size)
	v.o.Duration, v.o.SettleTimeout, v.o.ConnectTimeout = time.Duration(v.duration), time.Duration(v.settle), time.Duration(v.timeout)
	stderr := &lockedWriter{w: sys.Stderr}
	v.o.Client = func() []ferry.Option { return v.options(stderr, "ferry verify") }
	if !v.quiet {
		v.o.Progress = progressLines(stderr)
		v.o.Phase = func(what string) { fmt.Fprintf(stderr, "%s %s\n", time.Now().Format(time.TimeOnly), what) }
	}
	return v.o.Check()
}

// progressLines writes a line each time it is called.
func progressLines(w io.Writer) func(verify.Progress) {
	var last verify.Progress
	return func(p verify.Progress) {
		seconds := (p.Elapsed - last.Elapsed).Seconds()
		rate := 0.0
		if seconds > 0 {
			// What could not be handed over after all is not counted any more.
			rate = float64(p.Sent-min(p.Sent, last.Sent)) / seconds
		}
		fmt.Fprintf(w, "%s sent %d (%.0f/s), confirmed %d, received %d, redelivered %d, duplicated %d\n",
			p.At.Format(time.TimeOnly), p.Sent, rate, p.Confirmed, p.Received, p.Redelivered, p.Duplicated)
		last = p
	}
}

func (v *verification) run(cmd *cobra.Command, stdout io.Writer) error {
	report, err := verify.Run(cmd.Context(), v.o)
	if err != nil {
		return clientFailed(err)
	}
	if v.asJSON {
		err = json.NewEncoder(stdout).Encode(report)
	} else {
		err = report.WriteText(stdout)
	}
	for _, line := range report.Remarks(v.o) {
		if !v.quiet {
			fmt.Fprintln(cmd.ErrOrStderr(), line)
		}
	}
	switch {
	case report.Broken():
		return &failure{code: exitLeft, err: fmt.Errorf("of the messages that were confirmed, %d were lost; %d deliveries were damaged", report.Lost, report.Damaged)}
	case report.Err != nil:
		return clientFailed(report.Err)
	case report.Refusal != nil:
		return refusedFailure(report.Refused, report.Refusal)
	}
	return failed(err)
}
