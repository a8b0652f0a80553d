package adminserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

type paged struct {
	FilteredCount int `json:"filtered_count"`
	ItemCount     int `json:"item_count"`
	Page          int
	PageCount     int `json:"page_count"`
	PageSize      int `json:"page_size"`
	TotalCount    int `json:"total_count"`
	Items         []map[string]any
}

func names(items []map[string]any) string {
	var list []string
	for _, item := range items {
		list = append(list, fmt.Sprint(item["name"]))
	}
	return strings.Join(list, " ")
}

func TestListsAreSortedPagedAndCut(t *testing.T) {
	o := newOwn(t)
	for _, name := range []string{"b", "a", "B2", "c.x", "cax"} {
		o.do("PUT", "/api/queues/%2F/"+name, `{}`)
		o.do("PUT", "/api/exchanges/%2F/"+name, `{}`)
	}
	o.do("POST", "/api/exchanges/%2F/amq.default/publish", `{"properties":{},"routing_key":"b","payload":"x","payload_encoding":"string"}`)
	for _, c := range []struct{ query, want string }{
		{"", "B2 a b c.x cax"},
		{"?sort=name&sort_reverse=true", "cax c.x b a B2"},
		{"?sort=messages&sort_reverse=true&columns=name", "b cax c.x a B2"},
		{"?columns=name,message_stats.publish", "B2 a b c.x cax"},
	} {
		var got []map[string]any
		o.get("GET", "/api/queues/%2F"+c.query, "", 200, &got)
		if names(got) != c.want {
			t.Errorf("%s: %s, want %s", c.query, names(got), c.want)
		}
		if strings.HasSuffix(c.query, "publish") {
			stats, _ := got[2]["message_stats"].(map[string]any)
			if len(got[2]) != 2 || len(stats) != 1 || stats["publish"] != 1.0 {
				t.Errorf("columns: %v", got[2])
			}
		}
	}
	for _, c := range []struct {
		path, want string
		paged
	}{
		{"/api/queues?page=1", "B2 a b c.x cax", paged{5, 5, 1, 1, 100, 5, nil}},
		{"/api/queues/%2F?page=2&page_size=2", "b c.x", paged{5, 2, 2, 3, 2, 5, nil}},
		{"/api/queues/%2F?page=1&name=B", "B2 b", paged{2, 2, 1, 1, 100, 5, nil}},
		{"/api/queues/%2F?page=1&name=c.x&use_regex=true&pagination=false&page_size=100", "c.x cax", paged{2, 2, 1, 1, 100, 5, nil}},
		{"/api/queues/%2F?page=1&name=nothing", "", paged{0, 0, 1, 0, 100, 5, nil}},
		{"/api/exchanges/%2F?page=1&name=^c&use_regex=true&columns=name", "c.x cax", paged{2, 2, 1, 1, 100, 11, nil}},
		{"/api/vhosts?page=1", "/", paged{1, 1, 1, 1, 100, 1, nil}},
	} {
		var got paged
		o.get("GET", c.path, "", 200, &got)
		if names(got.Items) != c.want {
			t.Errorf("%s: %s, want %s", c.path, names(got.Items), c.want)
		}
		got.Items = nil
		if fmt.Sprint(got) != fmt.Sprint(c.paged) {
			t.Errorf("%s: %+v, want %+v", c.path, got, c.paged)
		}
	}
	o.refused("GET", "/api/queues?page=1&name=(&use_regex=true", "", 400, "bad_request", "")
	o.refused("GET", "/api/queues?page=1&name="+strings.Repeat("x", patternMost+1), "", 400, "bad_request", "")
	o.refused("GET", "/api/queues?columns="+strings.Repeat("x,", columnsMost+1), "", 400, "bad_request", "there may be 100 columns")
}

// TestOverviewHasWhatToolsAskFor has the members without which some tools say that
// they are not authorised, in their types.
func TestOverviewHasWhatToolsAskFor(t *testing.T) {
	o := newOwn(t)
	var got struct {
		Cluster, Node string
		Product       string `json:"product_name"`
		Listeners     []struct {
			Node, Protocol string
			Port           int
			IP             string `json:"ip_address"`
		}
		QueueTotals  *struct{ Messages *int }          `json:"queue_totals"`
		ObjectTotals *struct{ Queues, Exchanges *int } `json:"object_totals"`
		Stats        *struct{ Publish *int }           `json:"message_stats"`
		Churn        *struct {
			Created *uint32 `json:"connection_created"`
		} `json:"churn_rates"`
		Events *uint64 `json:"statistics_db_event_queue"`
	}
	o.get("GET", "/api/overview", "", 200, &got)
	if got.Product != "Ferry" || len(got.Listeners) != 2 || got.QueueTotals == nil || got.QueueTotals.Messages == nil || got.ObjectTotals == nil ||
		got.ObjectTotals.Queues == nil || got.Stats == nil || got.Stats.Publish == nil || got.Churn == nil || got.Churn.Created == nil || got.Events == nil {
		t.Errorf("%+v", got)
	}
	var node struct {
		Uptime  *uint32
		PID     string   `json:"os_pid"`
		FDs     *uint64  `json:"fd_total"`
		Memory  *int64   `json:"mem_limit"`
		Alarm   *bool    `json:"mem_alarm"`
		Plugins []string `json:"enabled_plugins"`
	}
	o.get("GET", "/api/nodes/"+o.node, "", 200, &node)
	if node.Uptime == nil || node.PID == "" || node.FDs == nil || node.Memory == nil || node.Alarm == nil || node.Plugins == nil {
		t.Errorf("%+v", node)
	}
	o.get("GET", "/api/nodes/another", "", 404, nil)
}

// Policies that were made for a cluster of RabbitMQ's say what of them does nothing.
func TestKeysOfPoliciesWithoutEffectAreNamed(t *testing.T) {
	o := newOwn(t)
	o.get("PUT", "/api/policies/%2F/p", `{"pattern":"x","definition":{"ha-mode":"all","max-length":1}}`, 201, nil)
	o.get("PUT", "/api/policies/%2F/q", `{"pattern":"x","definition":{"max-length":1}}`, 201, nil)
	var got []struct {
		Name          string
		WithoutEffect []string `json:"without_effect"`
	}
	o.get("GET", "/api/policies", "", 200, &got)
	if len(got) != 2 || !slices.Equal(got[0].WithoutEffect, []string{"ha-mode"}) || got[1].WithoutEffect != nil {
		t.Errorf("%+v", got)
	}
}
