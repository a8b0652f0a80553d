package cli

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ferrymq/ferry/internal/endpoint"
)

// Exit codes of commands that are clients of a broker.
const (
	exitNoBroker = 3 // no broker was reachable
	exitRefused  = 4 // the broker refused something, or had no queue for it
	exitLeft     = 5 // something is unconfirmed, lost or left over
)

// exitCodesHelp is the table for the help of a client command. left says what
// 5 means there.
func exitCodesHelp(left string) string {
	return `Exit codes:
  0  done
  1  failed
  2  the command was not called rightly
  3  no broker was reachable
  4  the broker refused
  5  ` + left
}

// connectionHelp is what the help of a client command says of --url.
const connectionHelp = `The brokers are those of --url, else of $FERRY_URL, $AMQP_URL or $RABBITMQ_URL,
else of $RABBIT_HOST, $RABBIT_PORT, $RABBIT_USERNAME and $RABBIT_PASSWORD, else
amqp://guest:guest@localhost:5672/. If there are several, they are tried in
turn, and the next one is used when a connection is lost.

Flags can be given as environment variables, too: --quiet is $FERRY_QUIET. Those
of a message (--exchange, --key, --type, and so on) cannot, because the commands
of 'ferry receive --exec' have what their message has in such variables.`

// clientFlags are the flags that all client commands have.
type clientFlags struct {
	urls  []string
	quiet bool
}

func (c *clientFlags) add(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&c.urls, "url", "u", nil, "`URL` of a broker; repeat it, or write a list with commas, or failover:(a,b), for several")
	flags.BoolVar(&c.quiet, "quiet", false, "say nothing of connections lost and made, nor of progress")
}

// url is what a client dials: one URL or a list of them.
func (c *clientFlags) url(getenv func(string) string) (string, error) {
	return brokerURL(c.urls, getenv)
}

// brokerURL makes one text, as a client dials it, of the values of a flag or of
// what the environment says instead.
func brokerURL(given []string, getenv func(string) string) (string, error) {
	var list []string
	for _, u := range given {
		if u = strings.TrimSpace(u); u != "" {
			list = append(list, u)
		}
	}
	if len(list) > 1 {
		for _, u := range list {
			if strings.HasPrefix(strings.ToLower(u), "failover:") {
				return "", errors.New("--url: failover:(…) is a list of its own; give it alone, or each broker with a --url")
			}
		}
	}
	all := strings.Join(list, ",")
	if all == "" {
		all, _ = endpoint.FromEnvironment(getenv)
	}
	_, err := endpoint.Parse(all)
	return all, err
}

// maxName is the most bytes of a name, and of a property that is a text: AMQP 0-9-1
// §4.2.5.3, a short string.
const maxName = 255

// tooLongNames finds the flags whose values no broker takes.
func tooLongNames(flags *pflag.FlagSet, names ...string) []error {
	var wrong []error
	for _, name := range names {
		if n := len(flags.Lookup(name).Value.String()); n > maxName {
			wrong = append(wrong, fmt.Errorf("--%s: it has %d bytes; at most %d are possible", name, n, maxName))
		}
	}
	return wrong
}

// noArguments is of commands that take none.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%q is too much: this command takes flags only", args[0])
}

// queueFlags are of commands that declare a queue.
type queueFlags struct {
	quorum    bool
	given     []string
	noDeclare bool
}

func (q *queueFlags) add(flags *pflag.FlagSet) {
	flags.BoolVar(&q.quorum, "quorum", false, "declare a quorum queue")
	flags.StringArrayVar(&q.given, "queue-arg", nil, "an argument `KEY=VALUE` of the queue's declaration; repeat it for several")
	flags.BoolVar(&q.noDeclare, "no-declare", false, "declare nothing: the queue is there")
}

// arguments are those of the declaration.
func (q *queueFlags) arguments() (map[string]any, error) {
	arguments, err := keyValues("queue-arg", q.given)
	if q.quorum && err == nil {
		arguments["x-queue-type"] = "quorum"
	}
	if len(arguments) == 0 {
		return nil, err
	}
	return arguments, err
}

// keyValues makes arguments of a queue of K=V texts. A value that is a whole
// number, true or false is one; all others are texts.
func keyValues(flag string, given []string) (map[string]any, error) {
	arguments := make(map[string]any, len(given))
	for _, kv := range given {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--%s: %q is not KEY=VALUE", flag, kv)
		}
		arguments[k] = argument(v)
	}
	return arguments, nil
}

func argument(v string) any {
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return n
	}
	if v == "true" || v == "false" {
		return v == "true"
	}
	return v
}

// A bytesFlag is a number of bytes, with or without a unit.
type bytesFlag int

// String implements pflag.Value.
func (b *bytesFlag) String() string { return strconv.Itoa(int(*b)) }

// Set implements pflag.Value.
func (b *bytesFlag) Set(v string) error {
	n, ok := parseBytes(v)
	if v == "0" {
		n, ok = 0, true
	}
	if !ok || n > math.MaxInt32 {
		return fmt.Errorf("%q is not a size, such as 100 or 16KiB", v)
	}
	*b = bytesFlag(n)
	return nil
}

// Type implements pflag.Value.
func (b *bytesFlag) Type() string { return "BYTES" }

// A durationFlag is a time: seconds, or a number with its unit.
type durationFlag time.Duration

// String implements pflag.Value.
func (d *durationFlag) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

// Set implements pflag.Value.
func (d *durationFlag) Set(v string) error {
	if seconds, err := strconv.ParseFloat(v, 64); err == nil && seconds >= 0 && seconds < 1e9 {
		*d = durationFlag(seconds * float64(time.Second))
		return nil
	}
	t, err := time.ParseDuration(v)
	if err != nil || t < 0 {
		return fmt.Errorf("%q is not a duration, such as 90 (seconds) or 1m30s", v)
	}
	*d = durationFlag(t)
	return nil
}

// Type implements pflag.Value.
func (d *durationFlag) Type() string { return "D" }
