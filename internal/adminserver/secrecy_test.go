package adminserver

import (
	"net/http"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/auth"
)

// Who gets a message by the API sees no more of it than who consumes it.
func TestBlindCopiesAreNotShown(t *testing.T) {
	o := newOwn(t)
	for _, q := range []string{"to", "hidden"} {
		o.get("PUT", "/api/queues/%2F/"+q, `{"durable":true}`, http.StatusCreated, nil)
	}
	o.get("POST", "/api/exchanges/%2F/amq.default/publish",
		`{"properties":{"headers":{"BCC":["hidden"],"a":"b"}},"routing_key":"to","payload":"","payload_encoding":"string"}`, http.StatusOK, nil)
	for _, q := range []string{"to", "hidden"} {
		got := o.call("guest", "guest", "POST", "/api/queues/%2F/"+q+"/get", `{"count":1,"ackmode":"ack_requeue_false","encoding":"auto"}`)
		if text := string(got.body); !strings.Contains(text, `"a":"b"`) || strings.Contains(text, "BCC") {
			t.Errorf("%s: %s", q, text)
		}
	}
}

// Limits of a virtual host are an administrator's, whatever the path they are set by.
func TestLimitsAreNoPolicymakers(t *testing.T) {
	o := newOwn(t)
	password := "p"
	if _, err := o.users.PutUser(t.Context(), "pm", auth.UserSpec{Password: &password, Tags: &auth.Tags{auth.TagPolicymaker}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.users.PutPermission(auth.Permissions{User: "pm", VHost: "/"}); err != nil {
		t.Fatal(err)
	}
	o.get("PUT", "/api/parameters/vhost-limits/%2F/limits", `{"value":{"max-queues":5}}`, http.StatusNoContent, nil)
	for _, r := range []request{
		{"PUT", "/api/parameters/vhost-limits/%2F/limits", `{"value":{"max-connections":0}}`},
		{"DELETE", "/api/parameters/vhost-limits/%2F/limits", ""},
		{"PUT", "/api/parameters/operator_policy/%2F/p", `{"value":{"pattern":"","definition":{"max-length":1}}}`},
		{"DELETE", "/api/parameters/operator_policy/%2F/p", ""},
		{"PUT", "/api/global-parameters/cluster_name", `{"value":"mine"}`},
	} {
		if got := o.call("pm", "p", r.method, r.path, r.body); got.status != http.StatusUnauthorized {
			t.Errorf("%s %s: %d %s", r.method, r.path, got.status, got.body)
		}
	}
}
