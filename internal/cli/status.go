package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/ferrymq/ferry/internal/app"
)

const (
	// adminDefault is where a broker on this machine is administrated.
	adminDefault = "http://guest:guest@localhost:15672"
	// adminTimeout is for a broker to answer.
	adminTimeout = 10 * time.Second
	// adminAnswer is how much of an answer is read, bytes.
	adminAnswer = 4 << 20
)

func newStatus(sys System) *cobra.Command {
	admin, asJSON := "", false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print which brokers share a store, and which of them is live",
		Long: `Print which brokers share a store, and which of them is live, as one of them
tells. POSITION is up to which a broker has taken in the log of the store, LAG how
many batches of it are missing, SILENT for how long the broker has told nothing of
itself, which it does three times in a lease: one that does not is lost. A day later
it is not shown any more.

It exits with 3 if the broker is not reached, and with 4 if it refuses the user.`,
		Example: `  ferry status
  ferry status --admin http://app:secret@broker.example:15672
  ferry status --json | jq -r 'select(.role == "live").node'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := adminURL(admin)
			if err != nil {
				return fmt.Errorf("--admin: %w", err)
			}
			nodes, err := askNodes(cmd.Context(), at)
			if err != nil {
				return err
			}
			if nodes.Error != "" {
				fmt.Fprintf(sys.Stderr, "%s: %s\n", cmd.CommandPath(), printable(nodes.Error))
			}
			if asJSON {
				return failed(printNodesJSON(sys.Stdout, nodes.Nodes))
			}
			return failed(printNodes(sys.Stdout, nodes.Nodes))
		},
	}
	cmd.Flags().StringVar(&admin, "admin", adminDefault, "the HTTP listener of a broker, with user and password: `URL`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

// adminURL takes the URL of a broker's HTTP listener apart. A user that it does not
// name is guest.
func adminURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		// The error of package url shows all of it.
		return nil, errors.New("this is not a URL; write http://USER:PASSWORD@HOST:15672")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%q is not the URL of an HTTP listener; write http://USER:PASSWORD@HOST:15672", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q has something behind its path", u.Redacted())
	}
	if u.User == nil {
		u.User = url.UserPassword(app.DefaultUser, app.DefaultUser)
	}
	return u, nil
}

// askNodes asks a broker which nodes there are.
func askNodes(ctx context.Context, at *url.URL) (app.Nodes, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, adminTimeout, fmt.Errorf("no answer within %v", adminTimeout))
	defer cancel()
	shown := at.Scheme + "://" + at.Host
	target := at.JoinPath("/api/ferry/nodes")
	target.User = nil // not in errors
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return app.Nodes{}, failed(err)
	}
	password, _ := at.User.Password()
	request.SetBasicAuth(at.User.Username(), password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		} else if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return app.Nodes{}, &failure{code: exitNoBroker, err: fmt.Errorf("no broker answers at %s: %w", shown, err)}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, adminAnswer))
	if err != nil {
		return app.Nodes{}, &failure{code: exitNoBroker, err: fmt.Errorf("the broker at %s does not finish its answer: %w", shown, err)}
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return app.Nodes{}, &failure{code: exitRefused, err: fmt.Errorf("the broker at %s refuses the user %q%s", shown, at.User.Username(), reasonIn(body))}
	default:
		return app.Nodes{}, failed(fmt.Errorf("the broker at %s answers %s%s", shown, printable(response.Status), reasonIn(body)))
	}
	var nodes app.Nodes
	if err := json.Unmarshal(body, &nodes); err != nil {
		return app.Nodes{}, failed(fmt.Errorf("what is at %s does not answer like a broker of Ferry's: %w", shown, err))
	}
	return nodes, nil
}

// reasonIn is why a broker refuses something, from its answer, as the end of a
// sentence.
func reasonIn(body []byte) string {
	var said struct{ Reason string }
	if json.Unmarshal(body, &said) != nil || said.Reason == "" {
		return ""
	}
	return ": " + printable(said.Reason)
}

func printNodes(w io.Writer, nodes []app.Node) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tROLE\tEPOCH\tPOSITION\tLAG\tSILENT\tADDRESSES")
	for _, n := range nodes {
		var at []string
		for _, protocol := range slices.Sorted(maps.Keys(n.Addresses)) {
			at = append(at, printable(protocol)+"="+printable(n.Addresses[protocol]))
		}
		silent := (time.Duration(n.SilentMS) * time.Millisecond).Round(100 * time.Millisecond)
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%v\t%s\n", printable(n.Name), printable(n.Role), n.Epoch, n.Position, n.Lag, silent, strings.Join(at, " "))
	}
	return t.Flush()
}

func printNodesJSON(w io.Writer, nodes []app.Node) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	for _, n := range nodes {
		if err := enc.Encode(n); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, escaped(text.String()))
	return err
}

// escaped escapes what JSON lets through and a terminal would obey, such as the
// controls above 127.
func escaped(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// printable leaves out of another program's text what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}
