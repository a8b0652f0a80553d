package adminserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// shaped are the paths whose answers are held against RabbitMQ's: each member that
// it has must be there, of the same type.
var shaped = []string{
	"overview", "whoami", "cluster-name", "nodes", "nodes/{node}", "nodes/{node}/memory", "extensions", "auth/attempts/{node}",
	"definitions", "definitions/own", "vhosts", "vhosts/own",
	"connections", "connections/{conn}", "connections/{conn}/channels", "channels", "channels/{chan}", "consumers", "consumers/own",
	"exchanges/own", "exchanges/own/x", "exchanges/own/x/bindings/source",
	"queues", "queues/own", "queues/own/q", "queues/own/q/bindings", "queues?page=1",
	"bindings/own", "bindings/own/e/x/q/q", "bindings/own/e/x/q/q/k",
	"users", "users/other", "users/other/permissions", "permissions", "permissions/own/other", "topic-permissions", "topic-permissions/own/other",
	"user-limits", "user-limits/other", "parameters", "parameters/vhost-limits/own/limits", "global-parameters", "global-parameters/g",
	"policies", "policies/own/p", "operator-policies", "operator-policies/own/op", "vhost-limits", "vhost-limits/own",
	"aliveness-test/own", "health/checks/alarms", "health/checks/port-listener/1", "health/checks/protocol-listener/mqtt",
}

const shapesFile = "testdata/shapes.json"

// work makes that the counters of the furnished world have something to count.
func (w *world) work() {
	w.do("PUT", "/api/queues/own/full", `{"durable":true,"arguments":{"x-max-length":1000}}`)
	for range 3 {
		for _, key := range []string{"q", "full", "nowhere"} {
			w.do("POST", "/api/exchanges/own/amq.default/publish", `{"properties":{"delivery_mode":2},"routing_key":"`+key+`","payload":"x","payload_encoding":"string"}`)
		}
		w.do("POST", "/api/exchanges/own/x/publish", `{"properties":{},"routing_key":"k","payload":"x","payload_encoding":"string"}`)
	}
	w.do("POST", "/api/queues/own/full/get", `{"count":1,"ackmode":"ack_requeue_true","encoding":"auto"}`)
	w.do("POST", "/api/queues/own/full/get", `{"count":1,"ackmode":"ack_requeue_false","encoding":"auto"}`)
}

// shapes are those of all answers.
func (w *world) shapes() map[string]any {
	w.t.Helper()
	out := map[string]any{}
	for _, path := range shaped {
		full := strings.ReplaceAll(path, "{node}", w.node)
		if strings.Contains(path, "{conn}") {
			full = strings.ReplaceAll(full, "{conn}", url.PathEscape(w.named("/api/connections", "other", "own")))
		}
		if strings.Contains(path, "{chan}") {
			full = strings.ReplaceAll(full, "{chan}", url.PathEscape(w.named("/api/channels", "other", "own")))
		}
		got := w.call(w.user, w.password, "GET", "/api/"+full, "")
		d := json.NewDecoder(bytes.NewReader(got.body))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			w.t.Fatalf("%s: %v: %s", path, err, got.body)
		}
		out[path] = shape(v)
	}
	return out
}

// byName are members whose own members are named after something else than the API:
// what they may be is not looked at.
var byName = []string{"arguments", "client_properties", "capabilities", "socket_opts", "cluster_state", "applications", "definition", "effective_policy_definition", "parameters", "global-parameters"}

// shape is what is left of a JSON value without its contents: types, and the names
// of members. Elements of a list are one.
func shape(v any) any {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "bool"
	case string:
		return "text"
	case json.Number:
		if strings.ContainsAny(v.String(), ".e") {
			return "float"
		}
		return "int"
	case []any:
		var all any
		for _, e := range v {
			all = merge(all, shape(e))
		}
		if all == nil {
			return []any{}
		}
		return []any{all}
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if slices.Contains(byName, k) {
				if _, ok := e.(map[string]any); ok {
					e = map[string]any{}
				} else if _, ok := e.([]any); ok {
					e = []any{}
				}
			}
			out[k] = shape(e)
		}
		return out
	}
	return fmt.Sprintf("%T", v)
}

func merge(a, b any) any {
	switch a := a.(type) {
	case nil:
		return b
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			out := maps.Clone(a)
			for k, v := range b {
				out[k] = merge(out[k], v)
			}
			return out
		}
	case []any:
		if b, ok := b.([]any); ok {
			switch {
			case len(a) == 0:
				return b
			case len(b) == 0:
				return a
			}
			return []any{merge(a[0], b[0])}
		}
	case string:
		if b, ok := b.(string); ok {
			types := append(strings.Split(a, "|"), strings.Split(b, "|")...)
			slices.Sort(types)
			return strings.Join(slices.Compact(types), "|")
		}
	}
	return fmt.Sprintf("%v|%v", a, b)
}

// inner are members that tell of Erlang or of how RabbitMQ is made. They are not
// there.
var inner = []string{
	"garbage_collection", "reductions", "reductions_details", "backing_queue_status", "slave_nodes", "synchronised_slave_nodes", "recoverable_slaves",
	"messages_ram", "messages_ready_ram", "messages_unacknowledged_ram", "messages_persistent", "messages_paged_out",
	"message_bytes_ram", "message_bytes_persistent", "message_bytes_paged_out", "head_message_timestamp",
	"recv_cnt", "send_cnt", "send_pend", "peer_cert_issuer", "peer_cert_subject", "peer_cert_validity", "ssl_cipher", "ssl_hash", "ssl_key_exchange", "ssl_protocol",
	"io_", "mnesia_", "queue_index_", "msg_store_", "gc_", "context_switches", "ra_open_file_metrics", "schema_version", "db_dir", "config_files", "log_files",
	"socket_opts", "publishes", "deliveries", "incoming", "outgoing", "contexts", "sasl_log_file", "partitions",
	"quorum_queue_dlx_procs", "stream_queue_", "disk_reads", "disk_reads_details", "disk_writes", "disk_writes_details", "description", "javascript", "send_oct_details", "recv_oct_details",
	"idle_since", "connection_", "user_provided_name", "sample_retention_policies", "metrics_gc_queue_length", "garbage",
}

// missing lists what a shape lacks of another, or has of another type.
func missing(path string, want, got any) []string {
	switch want := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %v, not an object", path, got)}
		}
		var all []string
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if strings.HasPrefix(path, "vhosts") && strings.HasSuffix(k, "_oct") {
				continue // bytes are counted of connections that there are
			}
			if slices.ContainsFunc(inner, func(p string) bool { return k == p || strings.HasSuffix(p, "_") && strings.HasPrefix(k, p) }) {
				continue
			}
			v, ok := g[k]
			if !ok {
				all = append(all, path+"."+k+" is missing")
				continue
			}
			all = append(all, missing(path+"."+k, want[k], v)...)
		}
		return all
	case []any:
		g, ok := got.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %v, not a list", path, got)}
		}
		if len(want) == 0 || len(g) == 0 {
			return nil
		}
		return missing(path+"[]", want[0], g[0])
	case string:
		for _, typ := range strings.Split(fmt.Sprint(got), "|") {
			if !slices.Contains(strings.Split(want, "|"), typ) && typ != "null" && !strings.Contains(want, "null") &&
				(typ != "int" || !strings.Contains(want, "float")) && (typ != "float" || !strings.Contains(want, "int")) {
				return []string{fmt.Sprintf("%s is %v, not %s", path, got, want)}
			}
		}
	}
	return nil
}

// TestAnswersHaveWhatRabbitMQsHave holds the members of the answers and their types
// against those of RabbitMQ.
func TestAnswersHaveWhatRabbitMQsHave(t *testing.T) {
	text, err := os.ReadFile(shapesFile)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	o := newOwn(t)
	o.furnish()
	o.work()
	got := o.shapes()
	for _, path := range shaped {
		for _, complaint := range missing(path, want[path], got[path]) {
			t.Error(complaint)
		}
	}
}
