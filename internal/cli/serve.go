package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ferrymq/ferry/internal/app"
)

// readyText is what is printed when clients are served. Scripts wait for it.
const readyText = "Server startup complete"

// standbyText is what is printed when another broker is live.
const standbyText = "Standby"

func newServe(sys System) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the broker",
		Long: `Run the broker until SIGTERM or SIGINT, which ends it in good order: nothing
that was confirmed is lost, and clients are told why their connections close.
A second signal ends it at once.

It prints "` + readyText + `" with its listeners when it is ready. Each of them
understands everything that is not off: AMQP, STOMP, GMQ and HTTP, with TLS too
where there is a certificate.

Brokers whose messages are in the same database share them: one is live, the
others are standbys, which print "` + standbyText + `", answer /readyz with 503, and take
over when the live one was silent for the lease, or at once when it is stopped.
Give clients the addresses of all of them. ` + "`ferry status`" + ` shows who is what.

Every setting can be given as a flag, as an environment variable (--tls-cert is
$FERRY_TLS_CERT) or in a TOML file that --config names (tls-cert = "cert.pem");
a flag goes before the environment, that before the file.`,
		Example: `  # keep messages in ./ferry-data, listen on 5672, 61613, 4567 and 15672
  ferry serve

  # for a test: nothing is written, free ports are chosen and printed
  ferry serve --store memory: --amqp 127.0.0.1:0 --stomp off --gmq off --http off

  # two machines that keep their messages in one Postgres: a live broker and a
  # standby (other users of the machine do not see the password in $FERRY_STORE)
  ferry serve --store postgres://ferry:secret@db.example:5432/ferry

  # the same on one machine, where the standby passes its clients through
  ferry serve --store postgres://ferry:secret@localhost/ferry --node a
  ferry serve --store postgres://ferry:secret@localhost/ferry --node b --standby proxy --amqp :5673 --stomp :61614 --gmq :4568 --http :15673

  # with a user of your own, and TLS on the same ports
  FERRY_PASSWORD=secret ferry serve --user app --tls-cert cert.pem --tls-key key.pem

  # from a file
  ferry serve --config /etc/ferry.toml`,
		Args: cobra.NoArgs,
	}
	options := serveOptions()
	flags := cmd.Flags()
	flags.SortFlags = false
	for _, o := range options {
		f := flags.VarPF(&text{o.value, o.meta}, o.name, "", o.usage)
		f.Annotations = map[string][]string{ownEnvironment: {"true"}}
		f.Hidden = o.hidden
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := map[string]string{}
		flags.Visit(func(f *pflag.Flag) { given[f.Name] = f.Value.String() })
		c, err := configure(sources{flags: given, getenv: sys.Getenv})
		if err != nil {
			return err
		}
		return failed(serve(cmd.Context(), c, sys.Stderr))
	}
	return cmd
}

// text is a flag's value, which is looked at together with all others.
type text struct{ value, meta string }

func (t *text) String() string     { return t.value }
func (t *text) Set(v string) error { t.value = v; return nil }
func (t *text) Type() string       { return t.meta }

func serve(ctx context.Context, c *serveConfig, stderr io.Writer) error {
	log := slog.New(logHandler(stderr, c.logLevel, c.logJSON))
	for _, n := range c.notes {
		log.Log(ctx, n.level, n.text)
	}
	c.app.Logger = log
	c.app.Version = readVersion().Version
	return app.RunTelling(ctx, c.app, app.Told{
		Ready:   func(addresses []app.Address) { announce(stderr, c.logJSON, readyText, addresses) },
		Standby: func(addresses []app.Address) { announce(stderr, c.logJSON, standbyText, addresses) },
		FirstUser: func(name, password string) {
			fmt.Fprintf(stderr, "The first user is %s with the password %s (made up, and not shown again)\n", name, password)
		},
	})
}

func logHandler(w io.Writer, level slog.Level, asJSON bool) slog.Handler {
	o := &slog.HandlerOptions{Level: level}
	if asJSON {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// announce says what the broker has become, whatever the level of the log.
func announce(w io.Writer, asJSON bool, what string, addresses []app.Address) {
	if asJSON {
		args := make([]any, 0, len(addresses))
		for _, a := range addresses {
			args = append(args, slog.String(a.Name, a.Addr))
		}
		slog.New(logHandler(w, slog.LevelInfo, true)).Info(what, slog.Group("listeners", args...))
		return
	}
	var parts []string
	for _, a := range addresses {
		parts = append(parts, a.Name+" "+a.Addr)
	}
	fmt.Fprintf(w, "%s: %s\n", what, strings.Join(parts, ", "))
}
