package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ferrymq/ferry/internal/app"
)

func newStatus(sys System) *cobra.Command {
	at, asJSON := "", false
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
			u, err := adminURL(at)
			if err != nil {
				return fmt.Errorf("--admin: %w", err)
			}
			nodes, err := askNodes(cmd.Context(), u)
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
	adminFlag(cmd.Flags(), &at)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

// askNodes asks a broker which nodes there are.
func askNodes(ctx context.Context, at *url.URL) (nodes app.Nodes, err error) {
	return nodes, (&admin{at: at}).get(ctx, "/api/ferry/nodes", &nodes)
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
