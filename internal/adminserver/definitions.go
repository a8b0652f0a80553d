package adminserver

import (
	"net/http"

	"github.com/ferrymq/ferry/internal/definitions"
)

func (c *call) store() definitions.Store { return definitions.Store{Broker: c.b, Users: c.users} }

// exportDefinitions is GET /api/definitions, with or without a virtual host.
func (c *call) exportDefinitions() error {
	header(c.w)
	if name := c.query.Get("download"); name != "" { // as the links of RabbitMQ's pages ask for it
		c.w.Header().Set("Content-Disposition", "attachment; filename=definitions.json")
	}
	// What fails now is that the peer does not read: the answer has begun.
	return definitions.Export(c.w, c.store(), c.arg("vhost"), definitions.About{
		Compatible: Compatible, Product: Product, Version: c.s.cfg.Version, Cluster: c.clusterName(),
	})
}

// reportMost is how many items of a report an answer names.
const reportMost = 1000

// importDefinitions is POST /api/definitions, with or without a virtual host. What
// can be made is made; if anything cannot, the answer is 400 and names it, as it
// names what has no effect.
func (c *call) importDefinitions() error {
	body, err := c.body()
	if err != nil {
		return err
	}
	report, err := definitions.Import(c.r.Context(), c.store(), body, definitions.ImportOptions{VHost: c.arg("vhost"), User: c.who.Name})
	if err != nil {
		if report == nil {
			return badRequest("not_json")
		}
		return err
	}
	c.note("definitions were imported", "made", report.Made, "failed", len(report.Failed), "warnings", len(report.Warnings))
	warnings := some(report.Warnings)
	switch {
	case len(report.Failed) > 0:
		answer(c.w, http.StatusBadRequest, object{"error": "bad_request", "reason": some(report.Failed), "warnings": warnings, "made": report.Made})
	case len(warnings) > 0:
		answer(c.w, http.StatusOK, object{"warnings": warnings, "made": report.Made})
	default:
		return c.done()
	}
	return nil
}

func some(list []string) []string {
	if list == nil {
		return []string{}
	}
	if len(list) > reportMost {
		return append(list[:reportMost:reportMost], "…")
	}
	return list
}
