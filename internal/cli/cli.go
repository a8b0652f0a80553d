// Package cli is the command line of ferry: commands, flags, the environment and
// the configuration file, and what is said to people.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// System is what a command line needs of the process it runs in.
type System struct {
	Args   []string // without the program's name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
}

// Main runs one command and returns the process's exit code. The first SIGINT
// or SIGTERM ends the command in good order, the second ends the process.
func Main() int {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	return Run(ctx, System{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv})
}

// errSignal is why a context of untilSignal has ended.
type errSignal struct{ os.Signal }

func (e errSignal) Error() string { return "signal: " + e.String() }

func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			cancel(errSignal{s})
		case <-done:
			return
		}
		select {
		case <-signals:
			os.Exit(exitFailed)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// Run runs one command until it is done or ctx ends, and returns its exit code.
func Run(ctx context.Context, sys System) int {
	root := newRoot(sys)
	root.SetArgs(sys.Args)
	root.SetOut(sys.Stdout)
	root.SetErr(sys.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(sys.Stderr, "%s: %v\n", cmd.CommandPath(), err)
	if failed := (*failure)(nil); errors.As(err, &failed) {
		return failed.code
	}
	fmt.Fprintf(sys.Stderr, "`%s --help` says more.\n", cmd.CommandPath())
	return exitUsage
}

// A failure is an error of a command that was rightly called. All others are of
// its usage.
type failure struct {
	err  error
	code int // the process's exit code
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err: err, code: exitFailed}
}

func newRoot(sys System) *cobra.Command {
	root := &cobra.Command{
		Use:   "ferry",
		Short: "A message broker that speaks AMQP 0-9-1, STOMP and GMQ",
		Long: `Ferry is a message broker in one binary. It speaks AMQP 0-9-1, RabbitMQ's
protocol, with RabbitMQ's extensions, STOMP and GMQ, on the same queues. What it
has confirmed survives kill -9 and a power cut; two brokers that keep it in the
same database take over from each other.

And it is a client of such brokers, RabbitMQ's as its own, that goes on when one
of them dies.`,
		Example: `  # a broker that keeps its messages in ./ferry-data
  ferry serve

  # a broker for a test: nothing is written, nothing else is listened on
  ferry serve --store memory: --amqp 127.0.0.1:5672 --stomp off --gmq off --http off

  # messages in, messages out
  ferry send -q orders one two
  ferry receive -q orders -n 2`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags(), sys.Getenv)
		},
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var invalid *pflag.InvalidValueError
		if errors.As(err, &invalid) {
			f := invalid.GetFlag()
			return fmt.Errorf("--%s: %w", f.Name, valueFault(f, invalid.GetValue(), errors.Unwrap(invalid)))
		}
		var unknown *pflag.NotExistError
		if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
			return err
		}
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		return fmt.Errorf("%w%s", err, suggestion(unknown.GetSpecifiedName(), names, "--%s"))
	})
	root.AddCommand(newServe(sys), newSend(sys), newReceive(sys), newGateway(sys), newMove(sys), newVerify(sys), newBench(sys), newStatus(sys), newQueue(sys), newExchange(sys), newUser(sys), newVHost(sys), newPolicy(sys), newDefinitions(sys), newDump(sys), newVersion(sys), newCompletion(sys))
	return root
}

// valueFault says what is wrong with a flag's value; err is what the flag says.
func valueFault(f *pflag.Flag, value string, err error) error {
	var wanted string
	switch f.Value.Type() {
	case "int":
		wanted = "a whole number"
	case "uint", "uint64":
		wanted = "a whole number of at least 0"
	case "uint8":
		wanted = "a whole number from 0 to 255"
	case "float64":
		wanted = "a number"
	case "bool":
		return fmt.Errorf("%q is neither true nor false", value)
	case "duration":
		wanted = "a duration, such as 500ms or 1m30s"
	default:
		return err
	}
	return fmt.Errorf("%q is not %s", value, wanted)
}

// fromEnvironment gives flags that were not given the values of their
// environment variables.
func fromEnvironment(flags *pflag.FlagSet, getenv func(string) string) error {
	var wrong faults
	flags.VisitAll(func(f *pflag.Flag) {
		v := getenv(environmentName(f.Name))
		if ofMessages[environmentName(f.Name)] {
			return
		}
		if f.Changed || v == "" || f.Name == "help" || f.Annotations[ownEnvironment] != nil {
			return
		}
		if err := f.Value.Set(v); err != nil {
			wrong = append(wrong, fmt.Errorf("$%s: %w", environmentName(f.Name), valueFault(f, v, err)))
		}
	})
	if len(wrong) > 0 {
		return &wrong
	}
	return nil
}

// ofMessages are variables that tell a command of --exec about its message. They
// are no flags: that command may well be a ferry, and --key is not the key that a
// message had which it handles.
var ofMessages = map[string]bool{
	"FERRY_EXCHANGE": true, "FERRY_KEY": true, "FERRY_ID": true, "FERRY_REDELIVERED": true, "FERRY_CONTENT_TYPE": true,
	"FERRY_CORRELATION_ID": true, "FERRY_REPLY_TO": true, "FERRY_MESSAGE_ID": true, "FERRY_TYPE": true, "FERRY_TIMESTAMP": true,
}

// ownEnvironment marks a flag whose command looks at the environment itself.
const ownEnvironment = "ferry_own_environment"

func newCompletion(sys System) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells, "|"),
		Short: "Print what makes a shell complete ferry's commands and flags",
		Example: `  # bash, for this session
  source <(ferry completion bash)

  # zsh, for good
  ferry completion zsh > "${fpath[1]}/_ferry"

  # fish, for good
  ferry completion fish > ~/.config/fish/completions/ferry.fish`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return failed(root.GenBashCompletionV2(sys.Stdout, true))
			case "zsh":
				return failed(root.GenZshCompletion(sys.Stdout))
			}
			return failed(root.GenFishCompletion(sys.Stdout, true))
		},
	}
}
