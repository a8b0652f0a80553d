package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

func newQueue(sys System) *cobra.Command {
	return group(
		"queue", "List, declare, delete and empty queues of a running broker",
		`List, declare, delete and empty queues of a running broker, and look at their
messages, through its HTTP listener. The paths are those of RabbitMQ's management
API, so the commands work on a RabbitMQ with that plugin too.

They exit with 3 if the broker is not reached, with 4 if it refuses what is asked.`,
		`  ferry queue list
  ferry queue declare orders --arg x-dead-letter-exchange=dead --arg x-message-ttl=60000
  ferry queue get orders -n 3
  ferry queue purge orders`,
		newQueueList(sys), newQueueDeclare(sys), newQueueDelete(sys), newQueuePurge(sys), newQueueGet(sys), newQueueBind(sys), newQueueUnbind(sys), newQueueBindings(sys))
}

func newQueueList(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	filter, expression, all := "", "", false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print queues with their messages and consumers",
		Long: `Print queues with their messages and consumers. READY are messages that may be
delivered, UNACKED those that a consumer holds. With --json each is printed with all
that the broker tells of it.`,
		Example: `  ferry queue list
  ferry queue list --filter orders --vhost shop
  ferry queue list --all --json | jq -r 'select(.messages > 1000).name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.admin()
			if err != nil {
				return err
			}
			if filter != "" && expression != "" {
				return errors.New("--filter and --regexp exclude each other")
			}
			query := url.Values{}
			switch {
			case filter != "":
				query.Set("name", filter)
			case expression != "":
				query.Set("name", expression)
				query.Set("use_regex", "true")
			}
			path := apiPath("queues", c.vhost)
			if all {
				path = apiPath("queues")
			}
			t := c.table("VHOST", "NAME", "READY", "UNACKED", "MESSAGES", "CONSUMERS", "POLICY", "FEATURES")
			err = pages(cmd.Context(), a, path, query, func(raw json.RawMessage) error {
				var q queueItem
				if err := json.Unmarshal(raw, &q); err != nil {
					return failed(fmt.Errorf("the broker's answer: %w", err))
				}
				return t.row(raw, q.VHost, q.Name, q.Ready, q.Unacked, q.Messages, q.Consumers, q.Policy, q.features())
			})
			if err != nil {
				return absent(err, "there is no virtual host %q", c.vhost)
			}
			return t.end()
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&all, "all", false, "of all virtual hosts")
	cmd.Flags().StringVar(&filter, "filter", "", "only those whose names have this `TEXT` in them")
	cmd.Flags().StringVar(&expression, "regexp", "", "only those whose names match this `EXPRESSION`")
	return cmd
}

type queueItem struct {
	VHost      string         `json:"vhost"`
	Name       string         `json:"name"`
	Ready      int64          `json:"messages_ready"`
	Unacked    int64          `json:"messages_unacknowledged"`
	Messages   int64          `json:"messages"`
	Consumers  int64          `json:"consumers"`
	Policy     string         `json:"policy"`
	Durable    bool           `json:"durable"`
	AutoDelete bool           `json:"auto_delete"`
	Exclusive  bool           `json:"exclusive"`
	Arguments  map[string]any `json:"arguments"`
}

// features says in letters what kind of queue it is, as RabbitMQ's page does.
func (q *queueItem) features() string {
	var text string
	add := func(is bool, name string) {
		if is {
			if text != "" {
				text += " "
			}
			text += name
		}
	}
	add(q.Durable, "D")
	add(q.AutoDelete, "AD")
	add(q.Exclusive, "Excl")
	for _, f := range []struct{ argument, name string }{
		{"x-message-ttl", "TTL"},
		{"x-expires", "Exp"},
		{"x-max-length", "Lim"},
		{"x-max-length-bytes", "Lim B"},
		{"x-overflow", "Ovfl"},
		{"x-dead-letter-exchange", "DLX"},
		{"x-dead-letter-routing-key", "DLK"},
		{"x-max-priority", "Pri"},
		{"x-single-active-consumer", "SAC"},
	} {
		_, has := q.Arguments[f.argument]
		add(has, f.name)
	}
	return text
}

func newQueueDeclare(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	transient, autoDelete := false, false
	var args []string
	cmd := &cobra.Command{
		Use:   "declare NAME",
		Short: "Make a queue, or check that it is there as described",
		Example: `  ferry queue declare orders
  ferry queue declare jobs --arg x-max-priority=10 --arg x-queue-type=classic
  ferry queue declare replies --transient --auto-delete`,
		Args: exactly("the name of a queue"),
		RunE: func(cmd *cobra.Command, names []string) error {
			arguments, err := arguments(args)
			if err != nil {
				return fmt.Errorf("--arg: %w", err)
			}
			a, err := c.admin()
			if err != nil {
				return err
			}
			_, err = a.do(cmd.Context(), http.MethodPut, apiPath("queues", c.vhost, names[0]), map[string]any{
				"durable": !transient, "auto_delete": autoDelete, "arguments": arguments,
			})
			if err == nil {
				c.said("queue %q is there", names[0])
			}
			return absent(err, "there is no virtual host %q", c.vhost)
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&transient, "transient", false, "the queue does not outlive the broker's process")
	cmd.Flags().BoolVar(&autoDelete, "auto-delete", false, "it goes with its last consumer")
	cmd.Flags().StringArrayVar(&args, "arg", nil, "an argument, `NAME=VALUE`; may be repeated")
	return cmd
}

func newQueueDelete(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	ifEmpty, ifUnused := false, false
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a queue with all that is in it",
		Example: `  ferry queue delete orders --if-empty
  ferry queue delete replies`,
		Args: exactly("the name of a queue"),
		RunE: func(cmd *cobra.Command, names []string) error {
			query := url.Values{}
			if ifEmpty {
				query.Set("if-empty", "true")
			}
			if ifUnused {
				query.Set("if-unused", "true")
			}
			return c.remove(cmd, apiPath("queues", c.vhost, names[0])+question(query), "queue", names[0])
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&ifEmpty, "if-empty", false, "only if there is no message in it")
	cmd.Flags().BoolVar(&ifUnused, "if-unused", false, "only if nobody consumes from it")
	return cmd
}

func question(query url.Values) string {
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

// remove deletes something, which is told.
func (c *adminCommand) remove(cmd *cobra.Command, path, what, name string) error {
	a, err := c.admin()
	if err != nil {
		return err
	}
	if _, err := a.do(cmd.Context(), http.MethodDelete, path, nil); err != nil {
		return absent(err, "there is no %s %q", what, name)
	}
	c.said("%s %q is deleted", what, name)
	return nil
}

// exactly is for commands with one argument.
func exactly(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return fmt.Errorf("give %s, and nothing else", what)
		}
		return nil
	}
}

func newQueuePurge(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:     "purge NAME",
		Short:   "Remove the ready messages of a queue",
		Example: `  ferry queue purge orders`,
		Args:    exactly("the name of a queue"),
		RunE: func(cmd *cobra.Command, names []string) error {
			a, err := c.admin()
			if err != nil {
				return err
			}
			if _, err := a.do(cmd.Context(), http.MethodDelete, apiPath("queues", c.vhost, names[0])+"/contents", nil); err != nil {
				return absent(err, "there is no queue %q in virtual host %q", names[0], c.vhost)
			}
			c.said("queue %q has no ready message any more", names[0])
			return nil
		},
	}
	c.flags(cmd.Flags(), true)
	return cmd
}

func newQueueGet(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	count, take := 0, false
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Print messages of a queue, which stay in it",
		Long: `Print the bodies of messages of a queue, one a line. They go back to where they
were, and are marked as redelivered: this is for looking, ` + "`ferry receive`" + ` is for
receiving. With --take they are removed.

With --json each is printed with all that the broker tells of it; a payload that is
not UTF-8 is in base64 there ("payload_encoding": "base64").`,
		Example: `  ferry queue get orders
  ferry queue get orders -n 10 --json | jq .properties.headers`,
		Args: exactly("the name of a queue"),
		RunE: func(cmd *cobra.Command, names []string) error {
			if count < 1 {
				return fmt.Errorf("--count: %d is not at least 1", count)
			}
			a, err := c.admin()
			if err != nil {
				return err
			}
			mode := "ack_requeue_true"
			if take {
				mode = "ack_requeue_false"
			}
			answer, err := a.do(cmd.Context(), http.MethodPost, apiPath("queues", c.vhost, names[0])+"/get", map[string]any{
				"count": count, "ackmode": mode, "encoding": "auto",
			})
			if err != nil {
				return absent(err, "there is no queue %q in virtual host %q", names[0], c.vhost)
			}
			return failed(printMessages(sys.Stdout, answer, c.asJSON))
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().IntVarP(&count, "count", "n", 1, "how many messages, at most: `COUNT`")
	cmd.Flags().BoolVar(&take, "take", false, "remove them from the queue")
	return cmd
}

func printMessages(w io.Writer, answer []byte, asJSON bool) error {
	var messages []json.RawMessage
	if err := json.Unmarshal(answer, &messages); err != nil {
		return err
	}
	for _, raw := range messages {
		if asJSON {
			if err := (&table{out: w, asJSON: true}).row(raw); err != nil {
				return err
			}
			continue
		}
		var m struct {
			Payload  string `json:"payload"`
			Encoding string `json:"payload_encoding"`
		}
		if err := json.Unmarshal(raw, &m); err != nil {
			return err
		}
		text := m.Payload
		if m.Encoding == "base64" {
			if b, err := base64.StdEncoding.DecodeString(text); err == nil && utf8.Valid(b) {
				text = string(b)
			}
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

// binding is what binds a queue.
type binding struct {
	adminCommand
	exchange, key string
	args          []string
}

func (b *binding) bindFlags(cmd *cobra.Command) {
	b.flags(cmd.Flags(), true)
	cmd.Flags().StringVarP(&b.exchange, "exchange", "e", "", "the exchange: `NAME`")
	cmd.Flags().StringVarP(&b.key, "key", "k", "", "the routing key, or its pattern: `KEY`")
	_ = cmd.MarkFlagRequired("exchange") // it is there
}

func newQueueBind(sys System) *cobra.Command {
	b := binding{adminCommand: adminCommand{sys: sys}}
	cmd := &cobra.Command{
		Use:   "bind NAME",
		Short: "Send to a queue what an exchange gets for a key",
		Example: `  ferry queue bind orders -e shop -k 'order.#'
  ferry queue bind urgent -e amq.headers --arg x-match=any --arg priority=high`,
		Args: exactly("the name of a queue"),
		RunE: func(cmd *cobra.Command, names []string) error {
			arguments, err := arguments(b.args)
			if err != nil {
				return fmt.Errorf("--arg: %w", err)
			}
			a, err := b.admin()
			if err != nil {
				return err
			}
			path := fmt.Sprintf("%s/e/%s/q/%s", apiPath("bindings", b.vhost), url.PathEscape(b.exchange), url.PathEscape(names[0]))
			if _, err := a.do(cmd.Context(), http.MethodPost, path, map[string]any{"routing_key": b.key, "arguments": arguments}); err != nil {
				return absent(err, "there is no exchange %q, or no queue %q, in virtual host %q", b.exchange, names[0], b.vhost)
			}
			b.said("queue %q is bound to exchange %q", names[0], b.exchange)
			return nil
		},
	}
	b.bindFlags(cmd)
	cmd.Flags().StringArrayVar(&b.args, "arg", nil, "an argument, `NAME=VALUE`; may be repeated")
	return cmd
}

// bindingItem is a binding as the API tells it.
type bindingItem struct {
	Source      string         `json:"source"`
	Destination string         `json:"destination"`
	Kind        string         `json:"destination_type"`
	Key         string         `json:"routing_key"`
	Properties  string         `json:"properties_key"`
	Arguments   map[string]any `json:"arguments"`
}

func (b *bindingItem) arguments() string {
	if len(b.Arguments) == 0 {
		return ""
	}
	text, _ := json.Marshal(b.Arguments) // it came as JSON
	return string(text)
}

func newQueueUnbind(sys System) *cobra.Command {
	b := binding{adminCommand: adminCommand{sys: sys}}
	cmd := &cobra.Command{
		Use:     "unbind NAME",
		Short:   "Undo the bindings of a queue to an exchange with a key",
		Example: `  ferry queue unbind orders -e shop -k 'order.#'`,
		Args:    exactly("the name of a queue"),
		RunE: func(cmd *cobra.Command, names []string) error {
			a, err := b.admin()
			if err != nil {
				return err
			}
			path := fmt.Sprintf("%s/e/%s/q/%s", apiPath("bindings", b.vhost), url.PathEscape(b.exchange), url.PathEscape(names[0]))
			var bound []bindingItem
			if err := a.get(cmd.Context(), path, &bound); err != nil {
				return absent(err, "there is no exchange %q, or no queue %q, in virtual host %q", b.exchange, names[0], b.vhost)
			}
			undone := 0
			for _, x := range bound {
				if x.Key != b.key {
					continue
				}
				if _, err := a.do(cmd.Context(), http.MethodDelete, path+"/"+url.PathEscape(x.Properties), nil); err != nil {
					return err
				}
				undone++
			}
			if undone == 0 {
				return failed(fmt.Errorf("queue %q is not bound to exchange %q with key %q", names[0], b.exchange, b.key))
			}
			b.said("queue %q is not bound to exchange %q with key %q any more", names[0], b.exchange, b.key)
			return nil
		},
	}
	b.bindFlags(cmd)
	return cmd
}

func newQueueBindings(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:     "bindings NAME",
		Short:   "Print what a queue is bound to",
		Example: `  ferry queue bindings orders`,
		Args:    exactly("the name of a queue"),
		RunE: func(cmd *cobra.Command, names []string) error {
			err := list(cmd.Context(), &c, apiPath("queues", c.vhost, names[0])+"/bindings", []string{"EXCHANGE", "KEY", "ARGUMENTS"}, func(b bindingItem) []any {
				source := b.Source
				if source == "" {
					source = "(default)"
				}
				return []any{source, b.Key, b.arguments()}
			})
			return absent(err, "there is no queue %q in virtual host %q", names[0], c.vhost)
		},
	}
	c.flags(cmd.Flags(), true)
	return cmd
}

func newExchange(sys System) *cobra.Command {
	return group(
		"exchange", "List, declare and delete exchanges of a running broker",
		`List, declare and delete exchanges of a running broker, through its HTTP
listener, as `+"`ferry queue`"+` does with queues.`,
		`  ferry exchange list
  ferry exchange declare shop --type topic --arg alternate-exchange=lost
  ferry exchange delete shop --if-unused`,
		newExchangeList(sys), newExchangeDeclare(sys), newExchangeDelete(sys))
}

func newExchangeList(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Print exchanges",
		Example: `  ferry exchange list --vhost shop`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			type item struct {
				Name      string         `json:"name"`
				Type      string         `json:"type"`
				Durable   bool           `json:"durable"`
				Internal  bool           `json:"internal"`
				Policy    string         `json:"policy"`
				Arguments map[string]any `json:"arguments"`
			}
			err := list(cmd.Context(), &c, apiPath("exchanges", c.vhost), []string{"NAME", "TYPE", "DURABLE", "INTERNAL", "POLICY", "ARGUMENTS"}, func(x item) []any {
				name := x.Name
				if name == "" {
					name = "(default)"
				}
				return []any{name, x.Type, x.Durable, x.Internal, x.Policy, (&bindingItem{Arguments: x.Arguments}).arguments()}
			})
			return absent(err, "there is no virtual host %q", c.vhost)
		},
	}
	c.flags(cmd.Flags(), true)
	return cmd
}

func newExchangeDeclare(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	kind, transient, autoDelete, internal := "", false, false, false
	var args []string
	cmd := &cobra.Command{
		Use:   "declare NAME",
		Short: "Make an exchange, or check that it is there as described",
		Example: `  ferry exchange declare shop --type topic
  ferry exchange declare later --type x-delayed-message --arg x-delayed-type=direct`,
		Args: exactly("the name of an exchange"),
		RunE: func(cmd *cobra.Command, names []string) error {
			arguments, err := arguments(args)
			if err != nil {
				return fmt.Errorf("--arg: %w", err)
			}
			a, err := c.admin()
			if err != nil {
				return err
			}
			_, err = a.do(cmd.Context(), http.MethodPut, apiPath("exchanges", c.vhost, names[0]), map[string]any{
				"type": kind, "durable": !transient, "auto_delete": autoDelete, "internal": internal, "arguments": arguments,
			})
			if err == nil {
				c.said("exchange %q is there", names[0])
			}
			return absent(err, "there is no virtual host %q", c.vhost)
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().StringVar(&kind, "type", "direct", "how it routes: direct, fanout, topic, headers, x-consistent-hash…: `TYPE`")
	cmd.Flags().BoolVar(&transient, "transient", false, "the exchange does not outlive the broker's process")
	cmd.Flags().BoolVar(&autoDelete, "auto-delete", false, "it goes with the last that is bound to it")
	cmd.Flags().BoolVar(&internal, "internal", false, "it takes messages from other exchanges only")
	cmd.Flags().StringArrayVar(&args, "arg", nil, "an argument, `NAME=VALUE`; may be repeated")
	return cmd
}

func newExchangeDelete(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	ifUnused := false
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete an exchange with its bindings",
		Example: `  ferry exchange delete shop --if-unused`,
		Args:    exactly("the name of an exchange"),
		RunE: func(cmd *cobra.Command, names []string) error {
			query := url.Values{}
			if ifUnused {
				query.Set("if-unused", "true")
			}
			return c.remove(cmd, apiPath("exchanges", c.vhost, names[0])+question(query), "exchange", names[0])
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&ifUnused, "if-unused", false, "only if nothing is bound to it")
	return cmd
}
