package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/loadtest"
)

// A benchmark is what `ferry bench` is told.
type benchmark struct {
	clientFlags
	queueFlags
	o          loadtest.Options
	size       bytesFlag
	duration   durationFlag
	timeout    durationFlag
	persistent bool
	consumeURL []string
	json, svg  string // files
}

func newBench(sys System) *cobra.Command {
	b := &benchmark{size: loadtest.DefaultSize}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Put load on a broker, and measure rates and latencies",
		Long: `Put load on a broker and measure what it takes, confirms and delivers a second,
and how long that takes. Each producer and each consumer has a connection of its
own; the letters are those of RabbitMQ's PerfTest.

It lasts for --duration, or until all have sent or received their counts, or until
Ctrl-C, and prints each second what happened in it, and at the end rates,
percentiles, and a line to compare with others.

Confirm latency is from the publish to its confirm, end-to-end latency to the
receipt. At a given --rate they begin when a message was due, also if it could
not be sent by then, so that a broker that stops for a second is seen to have
kept a second's messages waiting. Messages below 16 bytes are not timed.

Queues that were not there are deleted at the end, unless --keep is given. STOMP
knows no way to delete a queue: what is made over it stays.

` + connectionHelp + `

` + exitCodesHelp("something that was sent was not confirmed"),
		Example: `  # one producer, one consumer, 10 seconds, as fast as it goes
  ferry bench -z 10

  # 4 and 4 over 4 queues, 1 KiB, at 2000 messages a second of each
  ferry bench -x 4 -y 4 --queues 4 -s 1KiB -r 2000 -z 60

  # without confirms, transient, and a picture of it
  ferry bench -c 0 --persistent=false -z 30 --svg bench.svg

  # send by STOMP, receive by AMQP
  ferry bench -u stomp://localhost --consume-url amqp://localhost -z 10

  # fill a queue with a million messages, then drain it
  ferry bench --queue backlog --keep -y 0 -C 1000000
  ferry bench --queue backlog -x 0 -D 1000000`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := b.complete(sys); err != nil {
				return err
			}
			return b.run(cmd.Context(), sys)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	b.clientFlags.add(flags)
	flags.StringArrayVar(&b.consumeURL, "consume-url", nil, "consume from the broker at this `URL`, or list of them, instead: by another protocol, for example")
	flags.IntVarP(&b.o.Producers, "producers", "x", 1, "how many send")
	flags.IntVarP(&b.o.Consumers, "consumers", "y", 1, "how many receive")
	flags.VarP(&b.size, "size", "s", "of a message")
	flags.Float64VarP(&b.o.Rate, "rate", "r", 0, "messages a second of each producer; 0: as fast as it goes")
	flags.IntVarP(&b.o.Confirm, "confirm", "c", loadtest.DefaultConfirm, "messages of a producer that may be unconfirmed; 0: no confirms")
	flags.IntVarP(&b.o.Prefetch, "prefetch", "q", loadtest.DefaultPrefetch, "messages of a consumer that may be unacknowledged")
	flags.BoolVarP(&b.o.AutoAck, "auto-ack", "a", false, "consume without acknowledging")
	flags.VarP(&b.duration, "duration", "z", "for how long: seconds, or as in 1m30s")
	flags.Uint64VarP(&b.o.PublishCount, "pmessages", "C", 0, "how many each producer sends")
	flags.Uint64VarP(&b.o.ConsumeCount, "cmessages", "D", 0, "how many each consumer receives")
	flags.BoolVar(&b.persistent, "persistent", true, "messages survive a restart of the broker")
	flags.StringVar(&b.o.Queue, "queue", "", "the queue's `NAME`, with %d for its number if there are several; without it new ones")
	flags.IntVar(&b.o.Queues, "queues", 1, "how many queues the producers and consumers are spread over")
	b.queueFlags.add(flags)
	flags.StringVarP(&b.o.Exchange, "exchange", "e", "", "publish to the exchange of this `NAME`, which all queues are bound to")
	flags.StringVarP(&b.o.Kind, "type", "t", "", "declare that exchange, which stays: direct, fanout, topic or headers")
	flags.StringVarP(&b.o.Key, "key", "k", "", "the routing and binding `KEY`, with --exchange (default "+loadtest.DefaultKey+")")
	flags.BoolVar(&b.o.Keep, "keep", false, "do not delete the queues that were made")
	flags.Var(&b.timeout, "timeout", "try for so long to connect at first; without it each broker is tried once")
	flags.StringVar(&b.o.ID, "id", "", "a `NAME` for the result, such as the broker's")
	flags.StringVar(&b.json, "json", "", "write the result as a JSON object to this `FILE`, or to - instead of the text")
	// $FERRY_JSON is of commands whose --json is not a file.
	flags.Lookup("json").Annotations = map[string][]string{ownEnvironment: {"true"}}
	flags.StringVar(&b.svg, "svg", "", "draw latencies and rates in this `FILE`")
	return cmd
}

// complete turns what was told into options.
func (b *benchmark) complete(sys System) error {
	var err error
	if b.o.URL, err = b.url(sys.Getenv); err != nil {
		return err
	}
	if len(b.consumeURL) > 0 {
		if b.o.ConsumeURL, err = brokerURL(b.consumeURL, sys.Getenv); err != nil {
			return fmt.Errorf("--consume-url: %w", err)
		}
	}
	if b.o.QueueArguments, err = b.arguments(); err != nil {
		return err
	}
	if b.o.Queue == "" {
		b.o.Queue = fmt.Sprintf("ferry-bench-%08x", rand.Uint32())
	}
	b.o.Size, b.o.NoDeclare, b.o.Transient = int(b.size), b.noDeclare, !b.persistent
	b.o.Duration, b.o.ConnectTimeout = time.Duration(b.duration), time.Duration(b.timeout)
	stderr := &lockedWriter{w: sys.Stderr}
	b.o.Client = func(consumer bool, number int) []ferry.Option { return b.connection(stderr, consumer, number) }
	if !b.quiet {
		lines := 0
		b.o.Progress = func(s loadtest.Sample) {
			if lines%linesPerHead == 0 {
				fmt.Fprintln(stderr, loadtest.SampleHead())
			}
			lines++
			fmt.Fprintln(stderr, s)
		}
	}
	return b.o.Check()
}

// connection is the options of one producer's or consumer's client. It tells of
// the connection that these use, and not that it was made at the beginning.
func (b *benchmark) connection(stderr io.Writer, consumer bool, number int) []ferry.Option {
	name, role := fmt.Sprintf("producer %d", number), "publish"
	if consumer {
		name, role = fmt.Sprintf("consumer %d", number), "consume"
	}
	options := []ferry.Option{ferry.WithName("ferry bench " + name)}
	if b.quiet {
		return options
	}
	printer, connected := &eventPrinter{w: stderr}, false
	return append(options, ferry.WithEvents(func(e ferry.Event) {
		switch {
		case e.Connection != role:
		case e.Kind == ferry.Connected && !connected:
			connected = true
		default:
			e.Connection = name
			printer.print(e)
		}
	}))
}

// linesPerHead is after how many lines of progress their head comes again.
const linesPerHead = 20

func (b *benchmark) run(ctx context.Context, sys System) (err error) {
	// What cannot be written is better known before than after.
	outputs := []output{
		{b.json, (*loadtest.Result).WriteJSON},
		{b.svg, (*loadtest.Result).WriteSVG},
	}
	files := make([]io.WriteCloser, len(outputs))
	for i, o := range outputs {
		switch o.name {
		case "":
		case "-":
			files[i] = noCloser{sys.Stdout}
		default:
			f, err := os.Create(o.name)
			if err != nil {
				return failed(fmt.Errorf("cannot write the result: %w", err))
			}
			defer func() { _ = f.Close() }() // for when there is nothing to write
			files[i] = f
		}
	}
	result, err := loadtest.Run(ctx, b.o)
	if err != nil {
		return clientFailed(err)
	}
	for i, o := range outputs {
		if files[i] != nil {
			err = errors.Join(err, o.write(result, files[i]), files[i].Close())
		}
	}
	text := sys.Stdout
	if b.json == "-" || b.svg == "-" {
		text = sys.Stderr
	}
	err = errors.Join(err, result.WriteText(text))
	switch {
	case result.Err != nil:
		return clientFailed(result.Err)
	case err != nil:
		return failed(fmt.Errorf("writing the result: %w", err))
	case result.Unknown > 0:
		return &failure{code: exitLeft, err: fmt.Errorf("%d messages were not confirmed", result.Unknown)}
	case result.Refused > 0:
		return refusedFailure(result.Refused, result.Refusal)
	}
	return nil
}

// An output is a file that the result is written to.
type output struct {
	name  string
	write func(*loadtest.Result, io.Writer) error
}

// noCloser leaves what is not its own open.
type noCloser struct{ io.Writer }

// Close does nothing.
func (noCloser) Close() error { return nil }
