package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func newUser(sys System) *cobra.Command {
	return group(
		"user", "List, add and delete users of a running broker, and say what they may do",
		`List, add and delete users of a running broker, and say what they may do, through
its HTTP listener. A user may do nothing in a virtual host until `+"`ferry user permit`"+`
says so; tags say what it may do with these commands and the management API:
administrator, monitoring, policymaker, management; impersonator lets it publish in
others' names.

Passwords are asked for on a terminal, and read from the standard input where that
is none; they never stand on a command line.`,
		`  ferry user add app
  ferry user permit app --configure '^app\.' --write '.*' --read '^app\.'
  pass show broker/app | ferry user password app
  ferry user list`,
		newUserList(sys), newUserAdd(sys), newUserPassword(sys), newUserTags(sys), newUserDelete(sys),
		newUserPermit(sys), newUserForbid(sys), newUserPermissions(sys), newUserLimit(sys))
}

func newUserList(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Print users and their tags",
		Example: `  ferry user list`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.admin()
			if err != nil {
				return err
			}
			var users []map[string]any
			if err := a.get(cmd.Context(), apiPath("users"), &users); err != nil {
				return err
			}
			t := c.table("NAME", "TAGS")
			for _, u := range users {
				delete(u, "password_hash") // it is nobody's to see
				raw, err := json.Marshal(u)
				if err != nil {
					return failed(err)
				}
				if err := t.row(raw, u["name"], tagsText(u["tags"])); err != nil {
					return err
				}
			}
			return t.end()
		},
	}
	c.flags(cmd.Flags(), false)
	return cmd
}

// tagsText is a user's tags, which are a text in older versions of the API.
func tagsText(tags any) string {
	list, ok := tags.([]any)
	if !ok {
		return fmt.Sprint(tags)
	}
	texts := make([]string, len(list))
	for i, t := range list {
		texts[i] = fmt.Sprint(t)
	}
	return strings.Join(texts, ",")
}

// passwordMost is the longest line that is read as a password, bytes.
const passwordMost = 4096

// password asks for a new password twice on a terminal, or takes the first line of
// the standard input.
func password(sys System, user string) (string, error) {
	if f, ok := sys.Stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		var typed [2][]byte
		for i, again := range []string{"", " again"} {
			fmt.Fprintf(sys.Stderr, "Password of %s%s: ", printable(user), again)
			var err error
			typed[i], err = term.ReadPassword(int(f.Fd()))
			fmt.Fprintln(sys.Stderr)
			if err != nil {
				return "", failed(fmt.Errorf("read the password: %w", err))
			}
		}
		if string(typed[0]) != string(typed[1]) {
			return "", failed(errors.New("the two passwords differ"))
		}
		if len(typed[0]) == 0 {
			return "", failed(errors.New("the password is empty"))
		}
		return string(typed[0]), nil
	}
	line, err := bufio.NewReader(io.LimitReader(sys.Stdin, passwordMost+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", failed(fmt.Errorf("read the password from the standard input: %w", err))
	}
	line = strings.TrimRight(line, "\r\n")
	switch {
	case line == "":
		return "", failed(errors.New("the standard input has no password; write it there, or use --generate"))
	case len(line) > passwordMost:
		return "", failed(fmt.Errorf("the password is longer than %d bytes", passwordMost))
	}
	return line, nil
}

// userItem is what the API is told of a user. Without a password, and with a hash
// that is empty, it cannot log in by one.
type userItem struct {
	Password *string `json:"password,omitempty"`
	Hash     *string `json:"password_hash,omitempty"`
	Tags     string  `json:"tags"`
}

func newUserAdd(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	var tags []string
	generate, none := false, false
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user",
		Long: `Add a user, who may do nothing yet: ` + "`ferry user permit`" + ` is next. The password is
asked for, or is the first line of the standard input. With --generate one is made
up and printed, with --no-password the user logs in with a client certificate only.`,
		Example: `  ferry user add app
  ferry user add watcher --tags monitoring --generate
  echo "$APP_PASSWORD" | ferry user add app`,
		Args: exactly("the name of a user"),
		RunE: func(cmd *cobra.Command, names []string) error {
			if generate && none {
				return errors.New("--generate and --no-password exclude each other")
			}
			a, err := c.admin()
			if err != nil {
				return err
			}
			switch err := a.get(cmd.Context(), apiPath("users", names[0]), new(json.RawMessage)); {
			case err == nil:
				return failed(fmt.Errorf("there is a user %q already; `ferry user password` changes the password", names[0]))
			case absent(err, "none").Error() != "none":
				return err
			}
			u := userItem{Tags: strings.Join(tags, ",")}
			switch {
			case none:
				u.Hash = new(string)
			case generate:
				text := rand.Text()
				u.Password = &text
			default:
				text, err := password(sys, names[0])
				if err != nil {
					return err
				}
				u.Password = &text
			}
			if _, err := a.do(cmd.Context(), http.MethodPut, apiPath("users", names[0]), u); err != nil {
				return err
			}
			c.said("user %q is added", names[0])
			if generate {
				_, err := fmt.Fprintln(sys.Stdout, *u.Password)
				return failed(err)
			}
			return nil
		},
	}
	c.flags(cmd.Flags(), false)
	cmd.Flags().StringSliceVar(&tags, "tags", nil, "what the user may administrate: administrator, monitoring, policymaker, management: `TAG,…`")
	cmd.Flags().BoolVar(&generate, "generate", false, "make up a password, and print it")
	cmd.Flags().BoolVar(&none, "no-password", false, "the user has no password")
	return cmd
}

// change changes a user that is there.
func (c *adminCommand) change(ctx context.Context, name string, with func(*userItem) error) error {
	a, err := c.admin()
	if err != nil {
		return err
	}
	var is struct {
		Hash      string `json:"password_hash"`
		Algorithm string `json:"hashing_algorithm"`
		Tags      any    `json:"tags"`
	}
	if err := a.get(ctx, apiPath("users", name), &is); err != nil {
		return absent(err, "there is no user %q", name)
	}
	u := userItem{Tags: tagsText(is.Tags), Hash: &is.Hash}
	if err := with(&u); err != nil {
		return err
	}
	if u.Password != nil {
		u.Hash = nil
	}
	_, err = a.do(ctx, http.MethodPut, apiPath("users", name), struct {
		userItem
		Algorithm string `json:"hashing_algorithm,omitempty"`
	}{u, is.Algorithm})
	return err
}

func newUserPassword(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:   "password NAME",
		Short: "Change a user's password",
		Example: `  ferry user password app
  pass show broker/app | ferry user password app`,
		Args: exactly("the name of a user"),
		RunE: func(cmd *cobra.Command, names []string) error {
			err := c.change(cmd.Context(), names[0], func(u *userItem) error {
				text, err := password(sys, names[0])
				u.Password = &text
				return err
			})
			if err == nil {
				c.said("user %q has a new password", names[0])
			}
			return err
		},
	}
	c.flags(cmd.Flags(), false)
	return cmd
}

func newUserTags(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:   "tags NAME [TAG…]",
		Short: "Give a user other tags, or none",
		Example: `  ferry user tags watcher monitoring
  ferry user tags app`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			err := c.change(cmd.Context(), names[0], func(u *userItem) error {
				u.Tags = strings.Join(names[1:], ",")
				return nil
			})
			if err == nil {
				c.said("user %q has the tags %q", names[0], strings.Join(names[1:], ","))
			}
			return err
		},
	}
	c.flags(cmd.Flags(), false)
	return cmd
}

func newUserDelete(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a user, whose connections are closed",
		Example: `  ferry user delete app`,
		Args:    exactly("the name of a user"),
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.remove(cmd, apiPath("users", names[0]), "user", names[0])
		},
	}
	c.flags(cmd.Flags(), false)
	return cmd
}

func newUserPermit(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	configure, write, read, topic := "", "", "", ""
	cmd := &cobra.Command{
		Use:   "permit NAME",
		Short: "Say what a user may do in a virtual host",
		Long: `Say what a user may do in a virtual host, with the queues and exchanges whose names
match a regular expression: configure (declare and delete), write (publish and bind
to) and read (consume, get, purge and bind from). An expression that is not given
matches nothing. What the user was permitted there before is replaced.

With --topic NAME it says instead which routing keys the user may write to, and bind
for reading from, that topic exchange.`,
		Example: `  ferry user permit app --configure '^app\.' --write '.*' --read '^app\.'
  ferry user permit admin --configure '.*' --write '.*' --read '.*' --vhost shop
  ferry user permit app --topic events --write '^app\.' --read '.*'`,
		Args: exactly("the name of a user"),
		RunE: func(cmd *cobra.Command, names []string) error {
			a, err := c.admin()
			if err != nil {
				return err
			}
			body, kind := map[string]string{"write": write, "read": read}, "permissions"
			switch {
			case topic == "":
				body["configure"] = configure
			case cmd.Flags().Changed("configure"):
				return errors.New("--configure means nothing with --topic")
			default:
				body["exchange"], kind = topic, "topic-permissions"
			}
			if _, err := a.do(cmd.Context(), http.MethodPut, apiPath(kind, c.vhost, names[0]), body); err != nil {
				return absent(err, "there is no virtual host %q, or no user %q", c.vhost, names[0])
			}
			c.said("user %q has new permissions in virtual host %q", names[0], c.vhost)
			return nil
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().StringVar(&configure, "configure", "", "what the user may declare and delete: `EXPRESSION`")
	cmd.Flags().StringVar(&write, "write", "", "what the user may publish and bind to: `EXPRESSION`")
	cmd.Flags().StringVar(&read, "read", "", "what the user may consume and bind from: `EXPRESSION`")
	cmd.Flags().StringVar(&topic, "topic", "", "of the routing keys of this topic exchange: `NAME`")
	return cmd
}

func newUserForbid(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	topics := false
	cmd := &cobra.Command{
		Use:   "forbid NAME",
		Short: "Take a user's permissions in a virtual host away",
		Example: `  ferry user forbid app --vhost shop
  ferry user forbid app --topics`,
		Args: exactly("the name of a user"),
		RunE: func(cmd *cobra.Command, names []string) error {
			kind := "permissions"
			if topics {
				kind = "topic-permissions"
			}
			a, err := c.admin()
			if err != nil {
				return err
			}
			if _, err := a.do(cmd.Context(), http.MethodDelete, apiPath(kind, c.vhost, names[0]), nil); err != nil {
				return absent(err, "user %q has no %s in virtual host %q", names[0], kind, c.vhost)
			}
			c.said("user %q has no %s in virtual host %q any more", names[0], kind, c.vhost)
			return nil
		},
	}
	c.flags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&topics, "topics", false, "those of routing keys only: all keys are free again")
	return cmd
}

func newUserPermissions(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	topics := false
	cmd := &cobra.Command{
		Use:   "permissions [NAME]",
		Short: "Print what users, or one user, may do",
		Example: `  ferry user permissions
  ferry user permissions app --topics`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			type item struct {
				User      string `json:"user"`
				VHost     string `json:"vhost"`
				Exchange  string `json:"exchange"`
				Configure string `json:"configure"`
				Write     string `json:"write"`
				Read      string `json:"read"`
			}
			kind, headings := "permissions", []string{"VHOST", "USER", "CONFIGURE", "WRITE", "READ"}
			cells := func(p item) []any { return []any{p.VHost, p.User, p.Configure, p.Write, p.Read} }
			if topics {
				kind, headings = "topic-permissions", []string{"VHOST", "USER", "EXCHANGE", "WRITE", "READ"}
				cells = func(p item) []any { return []any{p.VHost, p.User, p.Exchange, p.Write, p.Read} }
			}
			path := apiPath(kind)
			if len(names) == 1 {
				path = apiPath("users", names[0]) + "/" + kind
			}
			err := list(cmd.Context(), &c, path, headings, cells)
			return absent(err, "there is no user %q", strings.Join(names, ""))
		},
	}
	c.flags(cmd.Flags(), false)
	cmd.Flags().BoolVar(&topics, "topics", false, "those of routing keys")
	return cmd
}

// limitFlags are limits of a user or a virtual host: -1 is none.
func (c *adminCommand) setLimits(cmd *cobra.Command, kind, of string, limits map[string]*int) error {
	a, err := c.admin()
	if err != nil {
		return err
	}
	changed := false
	for name, value := range limits {
		if !cmd.Flags().Changed(name) {
			continue
		}
		changed = true
		path, method, body := apiPath(kind, of, name), http.MethodPut, any(map[string]int{"value": *value})
		if *value < 0 {
			method, body = http.MethodDelete, nil
		}
		if _, err := a.do(cmd.Context(), method, path, body); err != nil {
			return absent(err, "there is no %q", of)
		}
	}
	if !changed {
		return errors.New("give at least one limit")
	}
	c.said("the limits of %q are changed", of)
	return nil
}

func newUserLimit(sys System) *cobra.Command {
	c := adminCommand{sys: sys}
	connections, channels := 0, 0
	cmd := &cobra.Command{
		Use:   "limit NAME",
		Short: "Limit the connections and channels of a user",
		Example: `  ferry user limit app --max-connections 100
  ferry user limit app --max-connections -1`,
		Args: exactly("the name of a user"),
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.setLimits(cmd, "user-limits", names[0], map[string]*int{"max-connections": &connections, "max-channels": &channels})
		},
	}
	c.flags(cmd.Flags(), false)
	cmd.Flags().IntVar(&connections, "max-connections", 0, "how many, -1 for as many as may be: `COUNT`")
	cmd.Flags().IntVar(&channels, "max-channels", 0, "how many in all, -1 for as many as may be: `COUNT`")
	return cmd
}
