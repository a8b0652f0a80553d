package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func newVHost(sys System) *cobra.Command {
	return group(
		"vhost", "List, add and delete virtual hosts of a running broker",
		`List, add and delete virtual hosts of a running broker, through its HTTP listener.
Each has queues, exchanges, policies and permissions of its own.`,
		`  ferry vhost add shop
  ferry user permit app --vhost shop --configure '.*' --write '.*' --read '.*'
  ferry vhost limit shop --max-queues 1000
  ferry vhost list`,
		newVHostList(sys), newVHostAdd(sys), newVHostDelete(sys), newVHostLimit(sys))
}

func newVHostList(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Print virtual hosts",
		Example: `  ferry vhost list`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			type item struct {
				Name        string `json:"name"`
				Description string `json:"description"`
				QueueType   string `json:"default_queue_type"`
				Messages    int64  `json:"messages"`
			}
			return list(cmd.Context(), &c, apiPath("vhosts"), []string{"NAME", "MESSAGES", "QUEUE TYPE", "DESCRIPTION"}, func(v item) []any {
				if v.QueueType == "undefined" {
					v.QueueType = ""
				}
				return []any{v.Name, v.Messages, v.QueueType, v.Description}
			})
		},
	}
	c.flags(cmd.Flags(), false)
	return cmd
}

func newVHostAdd(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	description, queueType := "", ""
	var tags []string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a virtual host",
		Long: `Add a virtual host. Only administrators see it; nobody may use it before
` + "`ferry user permit`" + ` says so.`,
		Example: `  ferry vhost add shop --description 'orders and invoices'`,
		Args:    exactly("the name of a virtual host"),
		RunE: func(cmd *cobra.Command, names []string) error {
			a, err := c.admin()
			if err != nil {
				return err
			}
			body := map[string]string{"description": description, "tags": strings.Join(tags, ",")}
			if queueType != "" {
				body["default_queue_type"] = queueType
			}
			if _, err := a.do(cmd.Context(), http.MethodPut, apiPath("vhosts", names[0]), body); err != nil {
				return err
			}
			c.said("virtual host %q is there", names[0])
			return nil
		},
	}
	c.flags(cmd.Flags(), false)
	cmd.Flags().StringVar(&description, "description", "", "what it is for: `TEXT`")
	cmd.Flags().StringSliceVar(&tags, "tags", nil, "words of your own: `TAG,…`")
	cmd.Flags().StringVar(&queueType, "queue-type", "", "that of queues that do not name theirs: `TYPE`")
	return cmd
}

func newVHostDelete(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a virtual host with all that is in it",
		Example: `  ferry vhost delete shop`,
		Args:    exactly("the name of a virtual host"),
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.remove(cmd, apiPath("vhosts", names[0]), "virtual host", names[0])
		},
	}
	c.flags(cmd.Flags(), false)
	return cmd
}

func newVHostLimit(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	connections, queues := 0, 0
	cmd := &cobra.Command{
		Use:   "limit NAME",
		Short: "Limit the connections and queues of a virtual host",
		Example: `  ferry vhost limit shop --max-queues 1000 --max-connections 500
  ferry vhost limit shop --max-queues -1`,
		Args: exactly("the name of a virtual host"),
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.setLimits(cmd, "vhost-limits", names[0], map[string]*int{"max-connections": &connections, "max-queues": &queues})
		},
	}
	c.flags(cmd.Flags(), false)
	cmd.Flags().IntVar(&connections, "max-connections", 0, "how many, -1 for as many as may be: `COUNT`")
	cmd.Flags().IntVar(&queues, "max-queues", 0, "how many, -1 for as many as may be: `COUNT`")
	return cmd
}

func newPolicy(sys System) *cobra.Command {
	return group(
		"policy", "Set rules for the queues and exchanges of a running broker by their names",
		`Set rules for the queues and exchanges of a running broker by their names, without
declaring them again. Of the policies whose patterns match a name, that with the
highest priority counts. What an operator policy limits goes beyond what others ask
for: the smaller of both counts.`,
		`  ferry policy set expire '^tmp\.' message-ttl=60000
  ferry policy set dead '.*' dead-letter-exchange=dead --apply-to queues --priority 1
  ferry policy set bound '.*' max-length=100000 --operator
  ferry policy list`,
		newPolicyList(sys), newPolicySet(sys), newPolicyDelete(sys))
}

func policyKind(operator bool) string {
	if operator {
		return "operator-policies"
	}
	return "policies"
}

func newPolicyList(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	operator, all := false, false
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Print policies",
		Example: `  ferry policy list --operator`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			type item struct {
				VHost      string          `json:"vhost"`
				Name       string          `json:"name"`
				Pattern    string          `json:"pattern"`
				ApplyTo    string          `json:"apply-to"`
				Priority   int             `json:"priority"`
				Definition json.RawMessage `json:"definition"`
			}
			path := apiPath(policyKind(operator), c.vhost)
			if all {
				path = apiPath(policyKind(operator))
			}
			err := list(cmd.Context(), &c, path, []string{"VHOST", "NAME", "PRIORITY", "APPLIES TO", "PATTERN", "DEFINITION"}, func(p item) []any {
				return []any{p.VHost, p.Name, p.Priority, p.ApplyTo, p.Pattern, string(p.Definition)}
			})
			return absent(err, "there is no virtual host %q", c.vhost)
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&operator, "operator", false, "operator policies")
	cmd.Flags().BoolVar(&all, "all", false, "of all virtual hosts")
	return cmd
}

func newPolicySet(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	operator, applyTo, priority := false, "", 0
	cmd := &cobra.Command{
		Use:   "set NAME PATTERN KEY=VALUE…",
		Short: "Make or replace a policy",
		Long: `Make or replace a policy. PATTERN is a regular expression for names; a JSON object
may stand in the place of the KEY=VALUE. It takes effect at once, also on what is
there already. Keys that only clusters of RabbitMQ know, such as ha-mode, are kept,
and named as without effect.`,
		Example: `  ferry policy set expire '^tmp\.' message-ttl=60000 expires=3600000
  ferry policy set lost '.*' '{"alternate-exchange": "lost"}' --apply-to exchanges`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 3 || args[0] == "" {
				return errors.New("give a name, a pattern, and what is to be, such as message-ttl=60000")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			definition := map[string]any{}
			if strings.HasPrefix(args[2], "{") {
				if len(args) > 3 {
					return errors.New("give one JSON object, or KEY=VALUE as often as you like")
				}
				if err := json.Unmarshal([]byte(args[2]), &definition); err != nil {
					return fmt.Errorf("%q is no JSON object: %w", args[2], err)
				}
			} else {
				var err error
				if definition, err = arguments(args[2:]); err != nil {
					return err
				}
			}
			a, err := c.admin()
			if err != nil {
				return err
			}
			if operator && applyTo == "all" {
				applyTo = "queues" // they are for nothing else
			}
			path := apiPath(policyKind(operator), c.vhost, args[0])
			_, err = a.do(cmd.Context(), http.MethodPut, path, map[string]any{
				"pattern": args[1], "definition": definition, "priority": priority, "apply-to": applyTo,
			})
			if err != nil {
				return absent(err, "there is no virtual host %q", c.vhost)
			}
			c.said("policy %q is set", args[0])
			var set struct {
				WithoutEffect []string `json:"without_effect"` // a RabbitMQ has no such keys
			}
			if a.get(cmd.Context(), path, &set) == nil && len(set.WithoutEffect) > 0 {
				c.said("without effect on this broker: %s", printable(strings.Join(set.WithoutEffect, ", ")))
			}
			return nil
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&operator, "operator", false, "an operator policy")
	cmd.Flags().StringVar(&applyTo, "apply-to", "all", "queues, exchanges or all: `KIND`")
	cmd.Flags().IntVar(&priority, "priority", 0, "of those that match, that with the highest counts: `NUMBER`")
	return cmd
}

func newPolicyDelete(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	operator := false
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a policy, whose effect ends",
		Example: `  ferry policy delete expire`,
		Args:    exactly("the name of a policy"),
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.remove(cmd, apiPath(policyKind(operator), c.vhost, names[0]), "policy", names[0])
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&operator, "operator", false, "an operator policy")
	return cmd
}

func newDefinitions(sys System) *cobra.Command {
	return group(
		"definitions", "Export and import users, virtual hosts, policies, queues, exchanges and bindings",
		`Export and import users, virtual hosts, permissions, policies, queues, exchanges and
bindings of a running broker, as RabbitMQ's definitions.json: what a RabbitMQ has
exported is imported here, users with their passwords.`,
		`  ferry definitions export definitions.json
  ferry definitions import definitions.json
  ferry definitions export --admin http://admin:secret@rabbit.example:15672 | ferry definitions import -`,
		newDefinitionsExport(sys), newDefinitionsImport(sys))
}

func newDefinitionsExport(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:   "export [FILE]",
		Short: "Write definitions to a file, or to the standard output",
		Long: `Write definitions to a file, or to the standard output. With --vhost they are those
of that virtual host. They have password hashes: the file is for your eyes only.`,
		Example: `  ferry definitions export definitions.json
  ferry definitions export --vhost shop | jq .queues`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			a, err := c.admin()
			if err != nil {
				return err
			}
			a.timeout = adminImport
			path := apiPath("definitions")
			if cmd.Flags().Changed("vhost") {
				path = apiPath("definitions", c.vhost)
			}
			text, err := a.do(cmd.Context(), http.MethodGet, path, nil)
			if err != nil {
				return absent(err, "there is no virtual host %q", c.vhost)
			}
			if len(files) == 0 || files[0] == "-" {
				_, err := fmt.Fprintln(sys.Stdout, escaped(string(text)))
				return failed(err)
			}
			if err := os.WriteFile(files[0], append(text, '\n'), 0o600); err != nil {
				return failed(err)
			}
			c.said("%d bytes are written to %s", len(text)+1, files[0])
			return nil
		},
	}
	adminFlag(cmd.Flags(), &c.at)
	cmd.Flags().StringVar(&c.vhost, "vhost", "", "of this virtual host alone: `NAME`")
	return cmd
}

// definitionsMost is the largest file of definitions that is read, bytes.
const definitionsMost = 256 << 20

func newDefinitionsImport(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Make what a file of definitions says",
		Long: `Make what a file of definitions says; - is the standard input. What is there already
as described stays, so a file may be imported as often as you like; nothing is
deleted. What cannot be honoured is named, item by item, and the rest is done: then
it exits with 4. What is kept and has no effect here is named, too.`,
		Example: `  ferry definitions import definitions.json
  ferry definitions import --vhost shop queues.json`,
		Args: exactly("a file"),
		RunE: func(cmd *cobra.Command, files []string) error {
			a, err := c.admin()
			if err != nil {
				return err
			}
			a.timeout = adminImport
			name := files[0]
			text, err := readInput(sys, name, definitionsMost)
			if err != nil {
				return failed(err)
			}
			if name == "-" {
				name = "the standard input"
			}
			if !json.Valid(text) {
				return failed(fmt.Errorf("%s is no JSON", name))
			}
			path := apiPath("definitions")
			if cmd.Flags().Changed("vhost") {
				path = apiPath("definitions", c.vhost)
			}
			answer, err := a.do(cmd.Context(), http.MethodPost, path, text)
			if err != nil {
				return absent(err, "there is no virtual host %q", c.vhost)
			}
			var told struct{ Warnings []string }
			_ = json.Unmarshal(answer, &told) // a RabbitMQ tells nothing
			for _, w := range told.Warnings {
				c.said("%s", printable(w))
			}
			c.said("%s is imported", name)
			return nil
		},
	}
	adminFlag(cmd.Flags(), &c.at)
	cmd.Flags().StringVar(&c.vhost, "vhost", "", "into this virtual host: `NAME`")
	return cmd
}
