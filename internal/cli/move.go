package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ferrymq/ferry"
)

const (
	defaultIdle  = 5 * time.Second // in which no message came: the queue is taken for empty
	startTimeout = 5 * time.Second // for all that comes before the first message
)

var (
	errStart = errors.New("it took too long")
	errRound = errors.New("the messages would go round: --from and --to are the same broker, and the queue is the same")
)

// A moving is what `ferry move` is told.
type moving struct {
	from, to []string
	quiet    bool

	queue      string
	toQueue    string
	toExchange string
	toKey      string
	keepIDs    bool
	noDeclare  bool
	count      int
	timeout    time.Duration
	window     int
}

func newMove(sys System) *cobra.Command {
	m := &moving{}
	cmd := &cobra.Command{
		Use:   "move",
		Short: "Move messages from one broker to another, or from queue to queue",
		Long: `Move messages from a queue to a queue or an exchange, of the same broker or of
another, until the queue is empty. A message is acknowledged at the source after
the target has confirmed it: whatever dies meanwhile, also this command, nothing
is lost. Order, properties and headers are kept; the headers CC and BCC, which
would send copies once more, are not.

What was confirmed and not acknowledged when this command was killed is moved
again the next time. Messages with an id of Ferry's (x-ferry-id) have the same one
then, so that a receiver that drops repeats has them once. It is made of the id
that they had, of the queue and of where they go: a broker of Ferry's that has had
the first must not take a message that comes back for a repeat. --keep-ids leaves
ids as they are.

What the target refuses stays at the source, and is said on stderr.

Both connections are made anew when they are lost, for ever. The first are tried
for 5 seconds, or for --timeout if that is longer.

` + exitCodesHelp("something is left at the source, or not confirmed by the target"),
		Example: `  # a queue to another broker
  ferry move --from amqp://old:5672 --to amqp://new:5672 -q orders

  # what was dead-lettered back to where it came from
  ferry move --from amqp://localhost --to amqp://localhost -q orders.dead --to-queue orders

  # at most a hundred, through an exchange, each with its own key
  ferry move --from amqp://localhost --to amqp://localhost -q parked --to-exchange events -n 100`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := m.check(cmd.Flags()); err != nil {
				return err
			}
			return m.run(cmd.Context(), sys)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&m.from, "from", nil, "`URL` of the broker to move from; repeat it, or write a list, for several")
	f.StringArrayVar(&m.to, "to", nil, "`URL` of the broker to move to; repeat it, or write a list, for several")
	f.StringVarP(&m.queue, "queue", "q", "", "move what is in this `QUEUE`")
	f.StringVar(&m.toQueue, "to-queue", "", "to this `QUEUE`; without it, to one of the same name")
	f.StringVar(&m.toExchange, "to-exchange", "", "to this `EXCHANGE`")
	f.StringVar(&m.toKey, "to-key", "", "with this `KEY`; without it, each message with the key it has")
	f.IntVarP(&m.count, "count", "n", 0, "move at most so many messages; 0 is all")
	m.timeout = defaultIdle
	f.Var((*durationFlag)(&m.timeout), "timeout", "end when none came for so long: seconds, or as in 1m30s")
	f.IntVar(&m.window, "prefetch", 500, "so many messages are on their way at a time")
	f.BoolVar(&m.keepIDs, "keep-ids", false, "leave the ids of Ferry's as they are")
	f.BoolVar(&m.noDeclare, "no-declare", false, "do not declare the queue at the target")
	f.BoolVar(&m.quiet, "quiet", false, "say nothing of connections lost and made, nor of progress")
	return cmd
}

func (m *moving) check(flags *pflag.FlagSet) error {
	var wrong faults
	if len(m.from) == 0 || len(m.to) == 0 {
		wrong = append(wrong, errors.New("from where to where? Give --from URL and --to URL"))
	}
	if m.toExchange == "" && (m.toQueue == "" || m.toQueue == m.queue) && slices.Equal(m.from, m.to) && len(m.from) > 0 {
		wrong = append(wrong, errRound)
	}
	if m.queue == "" {
		wrong = append(wrong, errors.New("which messages? Give a queue with -q"))
	}
	if m.toQueue != "" && m.toExchange != "" {
		wrong = append(wrong, errors.New("messages go to a queue (--to-queue) or to an exchange (--to-exchange), not to both"))
	}
	if m.toKey != "" && m.toExchange == "" {
		wrong = append(wrong, errors.New("--to-key goes with --to-exchange"))
	}
	wrong = append(wrong, tooLongNames(flags, "queue", "to-queue", "to-exchange", "to-key")...)
	if m.count < 0 {
		wrong = append(wrong, fmt.Errorf("--count: %d is not a number of messages", m.count))
	}
	if m.window < 1 || m.window > maxPrefetch {
		wrong = append(wrong, fmt.Errorf("--prefetch: %d is not between 1 and %d", m.window, maxPrefetch))
	}
	if m.timeout <= 0 {
		wrong = append(wrong, fmt.Errorf("--timeout: %v is not a time to wait", m.timeout))
	}
	if len(wrong) > 0 {
		return &wrong
	}
	if m.toExchange == "" && m.toQueue == "" {
		m.toQueue = m.queue
	}
	if m.toExchange != "" && !flags.Changed("to-key") {
		m.toKey = ""
	}
	return nil
}

func (m *moving) run(ctx context.Context, sys System) error {
	starting, cancel := context.WithTimeoutCause(ctx, max(m.timeout, startTimeout), errStart)
	defer cancel()
	source, err := m.connect(starting, sys, "source", m.from)
	if err != nil {
		return err
	}
	defer closeClient(source) //nolint:errcheck // nothing is published there
	target, err := m.connect(starting, sys, "target", m.to)
	if err != nil {
		return err
	}
	defer closeClient(target) //nolint:errcheck // what is not confirmed is not acknowledged either, and was counted

	if _, err := source.Inspect(starting, m.queue); err != nil && !errors.Is(err, ferry.ErrLocked) && !errors.Is(err, ferry.ErrNotAllowed) {
		return leftBehind(starting, clientFailed(fmt.Errorf("the source's queue %q: %w", m.queue, err)))
	}
	if m.toQueue != "" && !m.noDeclare {
		if err := ensureQueue(starting, target, m.toQueue); err != nil {
			return leftBehind(starting, clientFailed(fmt.Errorf("the target's queue %q: %w", m.toQueue, err)))
		}
	}
	if m.toQueue == m.queue && sameBroker(starting, source, target) {
		return &failure{err: errRound, code: exitUsage}
	}
	window := m.window
	if m.count > 0 {
		window = min(window, m.count)
	}
	// What was moved and could not be acknowledged, because the connection was
	// lost, comes again: Dedup has it acknowledged then, if it has an id.
	consumer, err := source.Consumer(starting, ferry.ConsumerOptions{Queue: m.queue, Prefetch: window, Dedup: 2 * window})
	if err != nil {
		return leftBehind(starting, clientFailed(err))
	}
	publisher, err := target.Publisher(ferry.PublisherOptions{Window: window})
	if err != nil {
		return clientFailed(err)
	}
	r := &removal{
		moving: m, source: source, consumer: consumer, publisher: publisher,
		ids: idMaker{route: route(m.queue, m.toQueue, m.toExchange, m.toKey), keep: m.keepIDs},
	}
	if !m.quiet && isTerminal(sys.Stderr) {
		r.progress = sys.Stderr
	}
	err = r.run(ctx)
	moved := r.moved()
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer stop()
	if e := consumer.Close(closing); err == nil {
		err = clientFailed(e)
	}
	if r.progress != nil {
		fmt.Fprint(r.progress, "\r")
	}
	if !m.quiet {
		fmt.Fprintf(sys.Stderr, "%d moved\n", moved)
	}
	return err
}

// sameBroker says whether two clients use one broker, or one cluster, whatever its
// name is in their URLs: a queue that belongs to a connection of the one is known
// there to the other. If that cannot be found out they do not.
func sameBroker(ctx context.Context, a, b *ferry.Client) bool {
	name := fmt.Sprintf("ferry-move-%016x", rand.Uint64())
	if err := a.Declare(ctx, ferry.Topology{Queues: []ferry.Queue{{Name: name, Transient: true, Exclusive: true}}}); err != nil {
		return false
	}
	_, err := b.Inspect(ctx, name)
	_, _ = a.DeleteQueue(ctx, name) // else it goes with its connection
	return err == nil || errors.Is(err, ferry.ErrLocked)
}

// connect tries for as long as ctx lasts.
func (m *moving) connect(ctx context.Context, sys System, side string, urls []string) (*ferry.Client, error) {
	flags := clientFlags{urls: urls, quiet: true} // it has a printer of its own
	options := []ferry.Option{ferry.WithInitialRetry()}
	if !m.quiet {
		printer := &eventPrinter{w: sys.Stderr}
		options = append(options, ferry.WithEvents(func(e ferry.Event) {
			e.Connection = side + " " + e.Connection
			printer.print(e)
		}))
	}
	client, err := flags.dial(ctx, sys, "ferry move", options...)
	if err != nil {
		return nil, neverConnected(ctx, err)
	}
	return client, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
